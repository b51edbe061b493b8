"""Scenes to layers: ``predict`` and ``finish``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from footprints.commands.console import (
    FAILED_IN_PART,
    configure,
    heeding_sigterm,
    parse_numbers,
    print_sum,
    resumable,
)
from footprints.errors import OutputError
from footprints.options import (
    Bands,
    Confidence,
    Device,
    Keypoints,
    MinArea,
    Nodata,
    OutCrs,
    Output,
    Overlaps,
    Overwrite,
    Pixels,
    Quiet,
    Regularize,
    Simplify,
    Tolerance,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from footprints.failures import SceneOutcome


def predict(
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="Rasters: files, addresses, folders, patterns, a .txt file that lists them, STAC "
            "items, a tile index."
        ),
    ],
    output: Output,
    weights: Weights = None,
    device: Device = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16; default: the quicker one on this device."),
    ] = None,
    compiles: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the network first, if a compiler is found; default: for runs long enough "
            "to pay for it.",
        ),
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option(
            help="Show every chip several times and merge what is found: flips, 3 times the work; "
            "all, with quarter turns and sizes, 10 times."
        ),
    ] = None,
    confidence: Confidence = None,
    min_area: MinArea = 4.0,
    regularize: Regularize = None,
    tolerance: Tolerance = None,
    simplify: Simplify = None,
    chip_size: Annotated[
        int | None,
        typer.Option(
            help="Chip side in pixels; default: the weights' own, the whole picture for weights "
            "of photographs."
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Pixels shared by neighbouring chips; default: a quarter of the chip."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Chips that go through together; default: what fits a GPU, 2 on a CPU. Halved "
            "where memory runs out."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Budget of the process, e.g. 4GB: bounds the batch size, unless given, and GDAL's "
            "cache; the layer comes on top."
        ),
    ] = None,
    bands: Bands = None,
    nodata: Nodata = None,
    crs: Annotated[str | None, typer.Option(help="CRS of the scenes, e.g. EPSG:32645.")] = None,
    pixels: Pixels = False,
    overlaps: Overlaps = None,
    out_crs: OutCrs = None,
    keypoints: Keypoints = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Also keep all that is found, down to a confidence of 0.05, in this folder: "
            "footprints finish makes layers from it in seconds."
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            help="Also draw what is found over the first scene, with names where the weights know "
            "several classes: a PNG."
        ),
    ] = None,
    aoi: Annotated[
        Path | None,
        typer.Option(
            help="Area of interest, a polygon layer in any CRS: only buildings whose centroid lies "
            "in it, and no pixels that these do not need."
        ),
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where the same command was cut short, if it was."),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Also say where the time went, stage by stage, on stderr."),
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="Leave out scenes and chips that cannot be read, list them in "
            "OUTPUT.failures.csv, and end with exit status 3.",
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Do what OUTPUT.failures.csv lists, with the same command otherwise, and bring it "
            "into the layer.",
        ),
    ] = False,
    asset: Annotated[
        str | None,
        typer.Option(
            help="Asset of STAC items that holds the image; default: the one whose role is data or "
            "visual."
        ),
    ] = None,
    allow_outside: Annotated[
        bool,
        typer.Option(
            "--allow-outside",
            help="Let virtual rasters, tile indexes and STAC items name what lies outside their "
            "folder, and rasters be services.",
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Workers of dask.distributed that look at the chips: local, the address of a "
            "scheduler such as tcp://host:8786, or its file."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes of --cluster local; default: one for each GPU, or one."),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the buildings of one or more scenes and write them as one layer.

    With a folder as output, or {scene} in its name, every scene has a layer of its own.

    Example: footprints predict data_samples/town.tif -o town.gpkg --keep kept
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.batch import is_pattern, predict_each
    from footprints.failures import outcome_table
    from footprints.pictures import check_picture, save_overlay
    from footprints.pipeline import predict as run
    from footprints.raster.listing import list_rasters
    from footprints.stages import measure_stages, stage

    read_bands = parse_numbers(bands)
    if overlay is not None:
        # Drawn after a run that goes on, as after any other.
        check_picture(overlay, overwrite=overwrite or resume)
    outcomes: list[SceneOutcome] = []
    each = is_pattern(output := _one_per_scene(output))
    if each and overlay is not None:
        raise OutputError("--overlay draws one picture; leave it out where every scene has a layer")
    start = time.perf_counter()
    with (
        resumable(),
        heeding_sigterm(),
        measure_stages() if profile else nullcontext() as stages,
    ):
        layer = (predict_each if each else run)(
            scenes,
            output=output,
            keypoints=keypoints,
            keep=keep,
            weights=weights,
            device=device,
            precision=precision,
            compiles=compiles,
            tta=tta,
            confidence=confidence,
            min_area_m2=min_area,
            regularize=regularize,
            tolerance_m=tolerance,
            simplify_m=simplify,
            chip_size=chip_size,
            overlap=overlap,
            batch_size=batch_size,
            memory=memory,
            bands=read_bands,
            nodata=nodata,
            crs=crs,
            pixels=pixels,
            overlaps=overlaps,
            out_crs=out_crs,
            aoi=aoi,
            overwrite=overwrite,
            resume=resume,
            keep_going=keep_going,
            retry_failed=retry_failed,
            asset=asset,
            allow_outside=allow_outside,
            told=outcomes.append,
            cluster=cluster,
            workers=workers,
            progress=not quiet,
        )
        # Torch takes seconds to load; a run that was asked for wrongly ends before.
        from footprints.model.checkpoint import read_info
        from footprints.model.detector import DEFAULT_WEIGHTS

        info = read_info(DEFAULT_WEIGHTS if weights is None else weights)
        if overlay is not None:
            with stage("overlay"):
                save_overlay(
                    layer,
                    list_rasters(scenes, asset=asset, allow_outside=allow_outside)[0],
                    overlay,
                    bands=read_bands,
                    nodata=nodata,
                    crs=crs,
                    pixels=pixels,
                    names=len(info.model.classes) > 1,
                )
        if stages is not None:
            print(stages.table(), file=sys.stderr)
    if not quiet:
        things = "buildings" if info.input_spec.short_side is None else "objects"
        unit = "px2" if pixels else "m2"
        if len(outcomes) > (not each):
            print(outcome_table(outcomes, things, unit))
        if each:
            print(_sum_of_layers(outcomes, output, start, things, unit))
        else:
            print_sum(layer, output, start, things)
    _raise_for_failures(outcomes, keep or output)


def _one_per_scene(output: str) -> str:
    """A folder stands for one layer of each scene in it."""
    from footprints.batch import PLACEHOLDER

    is_folder = output.endswith("/") or Path(output).is_dir()
    return str(Path(output, f"{PLACEHOLDER}.gpkg")) if is_folder else output


def _sum_of_layers(
    outcomes: Sequence[SceneOutcome], output: str, start: float, things: str, unit: str
) -> str:
    """One line on all layers that were made, in how long, and where they are."""
    from footprints.failures import DONE, IN_PART

    made = [outcome for outcome in outcomes if outcome.state in (DONE, IN_PART)]
    found = sum(outcome.buildings for outcome in made)
    area = sum(outcome.area_m2 for outcome in made)
    layers = f"{len(made):,} new {'layer' if len(made) == 1 else 'layers'}"
    seconds = time.perf_counter() - start
    return f"{found:,} {things}, {area:,.0f} {unit}, in {layers}, {seconds:.1f} s, {output}"


def _raise_for_failures(outcomes: Sequence[SceneOutcome], output: Path | str) -> None:
    """Say, with the exit status too, that something is missing in what was written."""
    from footprints.failures import ENDING, FAILED, IN_PART
    from footprints.vector.postgis import is_database

    missing = sum(outcome.state in (FAILED, IN_PART) for outcome in outcomes)
    if not missing:
        return
    scenes = f"{missing} of {len(outcomes)} scenes" if len(outcomes) > 1 else "the scene"
    what = f"{scenes} failed in whole or in part"
    if not is_database(output):
        what += f", listed in {output}{ENDING}; go on with --retry-failed"
    print(f"footprints: {what}", file=sys.stderr)
    raise typer.Exit(FAILED_IN_PART)


def finish(
    run: Annotated[Path, typer.Argument(help="Folder that predict --keep made.")],
    output: Output,
    confidence: Confidence = None,
    min_area: MinArea = 4.0,
    regularize: Regularize = None,
    tolerance: Tolerance = None,
    simplify: Simplify = None,
    overlaps: Overlaps = None,
    out_crs: OutCrs = None,
    keypoints: Keypoints = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a layer from a kept run, with other thresholds or in another format, in seconds.

    Example: footprints finish kept -o sure.gpkg --confidence 0.7 --min-area 10
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.finishing import finish as remake

    start = time.perf_counter()
    with heeding_sigterm():
        layer = remake(
            run,
            output=output,
            keypoints=keypoints,
            confidence=confidence,
            min_area_m2=min_area,
            regularize=regularize,
            tolerance_m=tolerance,
            simplify_m=simplify,
            overlaps=overlaps,
            out_crs=out_crs,
            overwrite=overwrite,
            progress=not quiet,
        )
    if not quiet:
        print_sum(layer, output, start, "buildings" if layer.crs is not None else "objects")
