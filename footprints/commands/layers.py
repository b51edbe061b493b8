"""What is done with layers: straightened, merged, looked at, judged."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer

from footprints.commands.console import (
    configure,
    parse_bounds,
    parse_numbers,
)
from footprints.errors import LabelWarning, OutputError
from footprints.options import (
    Bands,
    ClassMap,
    Nodata,
    Output,
    Overwrite,
    Pixels,
    Quiet,
    Simplify,
    Verbose,
)


def regularize(
    source: Annotated[Path, typer.Argument(help="Polygon layer.")],
    output: Output,
    method: Annotated[
        str,
        typer.Option(
            help="right-angles; diagonals: those and 45 degrees; any-angle; circle; auto: what "
            "describes each building best; none: leaves it to --simplify."
        ),
    ] = "auto",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Metres that an outline may move, in any CRS; smaller details go. Default: 1."
        ),
    ] = None,
    simplify: Simplify = None,
    pixels: Pixels = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Give the buildings of a layer straight walls, shared where they touch.

    Example: footprints regularize town.gpkg -o straight.gpkg --tolerance 1
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.vector.postgis import shown
    from footprints.vector.read import read_layer
    from footprints.vector.result import summary
    from footprints.vector.straighten import LEFT_AS_TRACED, check_options, straighten
    from footprints.vector.write import check_output, write_layer

    start = time.perf_counter()
    check_options(method, tolerance, simplify, option="--method")
    check_output(output, overwrite=overwrite)
    before = read_layer(source, needs_crs=not pixels)
    if pixels:
        before = before.set_crs(None, allow_override=True)
    after = straighten(before, method=method, tolerance_m=tolerance, simplify_m=simplify)
    if "id" in after and (repeated := after["id"].duplicated().sum()):
        warnings.warn(
            f"{repeated} rows repeat the id of another one: each part of a multipolygon is a row "
            "of its own",
            LabelWarning,
            stacklevel=2,
        )
    write_layer(after, output, overwrite=overwrite)
    if not quiet:
        counts = [f"{len(after):,} buildings", f"{len(before) - len(after):,} lost"]
        if method not in LEFT_AS_TRACED:
            counts.append(summary(after))
        print(f"{', '.join(counts)}, {time.perf_counter() - start:.1f} s, {shown(output)}")


def merge(
    layers: Annotated[
        list[Path], typer.Argument(help="Layers that footprints wrote, or folders of them.")
    ],
    output: Output,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make one layer of those of neighbouring or overlapping scenes, every building once.

    Example: footprints merge north.gpkg south.gpkg -o both.gpkg
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.merging import merge_layers
    from footprints.vector.postgis import shown

    layer = merge_layers(layers, output=output, overwrite=overwrite)
    if not quiet:
        count = len(layer.attrs["footprints"])
        scenes = "scene" if count == 1 else "scenes"
        print(f"{len(layer):,} buildings of {count:,} {scenes}, {shown(output)}")


def view(
    layer: Annotated[Path, typer.Argument(help="Footprint layer, or any polygons.")],
    scene: Annotated[
        str | None, typer.Option(help="Raster to show below the outlines, also an address.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="HTML file; default: LAYER's name, in its folder."),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(
            help="Part of SCENE to show, x_min,y_min,x_max,y_max in its CRS: in more detail."
        ),
    ] = None,
    largest_side: Annotated[
        int,
        typer.Option(
            help="Longer side of the picture in pixels; 4096 take about 7 MB of the file."
        ),
    ] = 4096,
    bands: Bands = None,
    nodata: Nodata = None,
    crs: Annotated[str | None, typer.Option(help="CRS of SCENE, e.g. EPSG:32645.")] = None,
    pixels: Pixels = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a map of a layer to look around in: one HTML file for any browser, without a network.

    Example: footprints view town.gpkg --scene data_samples/town.tif
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.viewing import check_page
    from footprints.viewing import view as run

    output = layer.with_suffix(".html") if output is None else output
    check_page(output, overwrite=overwrite)
    shown = run(
        layer,
        scene,
        bounds=parse_bounds(bounds),
        bands=parse_numbers(bands),
        nodata=nodata,
        crs=crs,
        pixels=pixels,
        largest_side=largest_side,
    )
    shown.save(output, overwrite=overwrite)
    if not quiet:
        print(f"{shown.shown:,} footprints, {output.stat().st_size / 1e6:.1f} MB, {output}")


def evaluate(
    predicted: Annotated[Path, typer.Argument(help="Footprint layer.")],
    truth: Annotated[Path, typer.Argument(help="True buildings.")],
    aoi: Annotated[Path | None, typer.Option(help="Polygons outside which nothing counts.")] = None,
    iou: Annotated[float, typer.Option(help="Least IoU of a match.")] = 0.5,
    confidence: Annotated[
        float | None, typer.Option(help="Leave out predictions below it.")
    ] = None,
    class_field: Annotated[
        str | None,
        typer.Option(help="Column of TRUTH with the class; matches have the right class then."),
    ] = None,
    class_map: ClassMap = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Also average precision, outlines, sizes, faults and confidences."
        ),
    ] = False,
    precision: Annotated[
        float | None,
        typer.Option(help="Suggest a confidence that reaches this precision; implies --full."),
    ] = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(help="Metres per pixel, for boundary IoU; default: as PREDICTED says."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures to this file.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a report with charts, one HTML file; implies --full."),
    ] = None,
    scene: Annotated[
        str | None, typer.Option(help="Raster of which the report shows the worst places.")
    ] = None,
    judged: Annotated[
        Path | None, typer.Option(help="Also write hits, false alarms and misses as a layer.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare a layer with the truth, building by building.

    Example: footprints evaluate town.gpkg data_samples/town_buildings.gpkg --full
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.evaluation import evaluate as run
    from footprints.files import write_whole

    # Figures are written anew after every change; a scene by mistake in their place is not.
    if json_file is not None and json_file.suffix.lower() != ".json":
        raise OutputError(f"figures must end in .json, got {json_file.name!r}")

    report = run(
        predicted,
        truth,
        aoi=aoi,
        iou=iou,
        confidence=confidence,
        class_field=class_field,
        class_map=class_map,
        full=full,
        precision=precision,
        pixel_m=pixel_size,
        html=html,
        scene=scene,
        judged=judged,
        overwrite=overwrite,
    )
    if json_file is not None:
        figures = json.dumps(report.to_dict(), indent=2) + "\n"
        write_whole(json_file, figures.encode(), "figures")
    if not quiet:
        print(report)
