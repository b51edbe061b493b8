"""The ``footprints`` command: parse, call one public function, print one line."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from footprints.addresses import redact
from footprints.errors import (
    BandError,
    FootprintsError,
    FootprintsWarning,
    LabelWarning,
    LayerError,
    OutputError,
)
from footprints.options import (
    Bands,
    Confidence,
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
    Settings,
    Simplify,
    Tolerance,
    Verbose,
)

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from footprints.failures import SceneOutcome

_INTERRUPTED, _TERMINATED = 130, 143
"""Exit status of a command stopped by the user, or by SIGTERM, as shells have it."""
_FAILED_IN_PART = 3
"""Exit status of a command that wrote what it was asked for, as far as scenes could be read."""


class _Lines(logging.Handler):
    """Log messages as lines on standard error, each with the seconds since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        _show_line(f"{record.relativeCreated / 1000:7.1f} s  {record.getMessage()}")


class _OneLineErrors(TyperGroup):
    """A command that fails for a reason we know, or that is stopped, ends with one line."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except FootprintsError as err:
            print(f"footprints: {redact(' '.join(str(err).splitlines()))}", file=sys.stderr)
            raise typer.Exit(1) from err
        except KeyboardInterrupt as err:
            print("footprints: stopped", file=sys.stderr)
            raise typer.Exit(_INTERRUPTED) from err


@contextmanager
def _resumable() -> Iterator[None]:
    """What is done here can be gone on with; who stops it is told so."""
    try:
        yield
    except KeyboardInterrupt as err:
        print("footprints: stopped; go on with --resume", file=sys.stderr)
        terminated = isinstance(err, _Terminated)
        raise typer.Exit(_TERMINATED if terminated else _INTERRUPTED) from err


class _Terminated(KeyboardInterrupt):
    """Another process asked this one to end, as schedulers do before they kill it."""


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """SIGTERM ends what is done here as Ctrl-C does; training has Lightning's own way."""

    def terminate(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


app = typer.Typer(
    cls=_OneLineErrors,
    help="Building footprints from satellite and aerial imagery: GeoTIFF in, clean polygons out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as err:
        raise BandError(f"--bands takes band numbers such as 1,2,3, got {text!r}") from err


def _bounds(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        x_min, y_min, x_max, y_max = map(float, text.split(","))
    except ValueError as err:
        raise LayerError(f"--bounds takes x_min,y_min,x_max,y_max, got {text!r}") from err
    return x_min, y_min, x_max, y_max


def _print_version(wanted: bool) -> None:
    if wanted:
        from footprints import __version__

        print(f"footprints {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def predict(
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="Rasters: files, addresses, folders, patterns, a .txt file that lists them, STAC "
            "items, a tile index."
        ),
    ],
    output: Output,
    weights: Annotated[Path | None, typer.Option(help="Weights; default: those that ship.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16; default: the quicker one on this device."),
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

    Example: footprints predict data_samples/town.tif -o town.gpkg --keep town-run
    """
    _configure(quiet=quiet, verbose=verbose)
    from footprints.batch import is_pattern, predict_each
    from footprints.failures import outcome_table
    from footprints.model.detector import load_detector
    from footprints.pictures import check_picture, save_overlay
    from footprints.pipeline import predict as run
    from footprints.raster.listing import list_rasters
    from footprints.stages import measure_stages

    read_bands = _numbers(bands)
    if overlay is not None:
        check_picture(overlay, overwrite=overwrite)
    start = time.perf_counter()
    detector = load_detector(weights, device=device, precision=precision)
    outcomes: list[SceneOutcome] = []
    each = is_pattern(output := _one_per_scene(output))
    if each and overlay is not None:
        raise OutputError("--overlay draws one picture; leave it out where every scene has a layer")
    with (
        _resumable(),
        _heeding_sigterm(),
        measure_stages() if profile else nullcontext() as stages,
    ):
        layer = (predict_each if each else run)(
            scenes,
            output=output,
            keypoints=keypoints,
            keep=keep,
            detector=detector,
            tta=tta,
            confidence=confidence,
            min_area_m2=min_area,
            regularize=regularize,
            tolerance_m=tolerance,
            simplify_m=simplify,
            chip_size=chip_size,
            overlap=overlap,
            batch_size=batch_size,
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
        if stages is not None:
            print(stages.table(), file=sys.stderr)
    if overlay is not None:
        save_overlay(
            layer,
            list_rasters(scenes, asset=asset, allow_outside=allow_outside)[0],
            overlay,
            bands=read_bands,
            nodata=nodata,
            crs=crs,
            pixels=pixels,
            names=len(detector.classes) > 1,
        )
    if not quiet:
        things = "buildings" if detector.input_spec.short_side is None else "objects"
        if each or len(outcomes) > 1:
            print(outcome_table(outcomes, things))
        if not each:
            _print_sum(layer, output, start, things)
    _raise_for_failures(outcomes, keep or output)


def _one_per_scene(output: str) -> str:
    """A folder stands for one layer of each scene in it."""
    from footprints.batch import PLACEHOLDER

    is_folder = output.endswith("/") or Path(output).is_dir()
    return str(Path(output, f"{PLACEHOLDER}.gpkg")) if is_folder else output


def _raise_for_failures(outcomes: Sequence[SceneOutcome], output: Path | str) -> None:
    """Say, with the exit status too, that something is missing in what was written."""
    from footprints.failures import ENDING, FAILED, IN_PART
    from footprints.vector.postgis import is_database

    missing = sum(outcome.state in (FAILED, IN_PART) for outcome in outcomes)
    if not missing:
        return
    what = f"{missing} of {len(outcomes)} scenes failed in whole or in part"
    if not is_database(output):
        what += f", listed in {output}{ENDING}; go on with --retry-failed"
    print(f"footprints: {what}", file=sys.stderr)
    raise typer.Exit(_FAILED_IN_PART)


@app.command()
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

    Example: footprints finish town-run -o sure.gpkg --confidence 0.7 --min-area 10
    """
    _configure(quiet=quiet, verbose=verbose)
    from footprints.pipeline import finish as remake

    start = time.perf_counter()
    with _heeding_sigterm():
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
        _print_sum(layer, output, start, "buildings" if layer.crs is not None else "objects")


@app.command()
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

    Example: footprints regularize town.gpkg -o straight.gpkg --method right-angles --tolerance 1
    """
    _configure(quiet=quiet, verbose=verbose)
    from footprints.vector.postgis import shown
    from footprints.vector.read import read_layer
    from footprints.vector.result import summary
    from footprints.vector.straighten import LEFT_AS_TRACED, check_options, straighten
    from footprints.vector.write import check_output, write_layer

    start = time.perf_counter()
    check_options(method, tolerance, simplify)
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


@app.command()
def merge(
    layers: Annotated[list[Path], typer.Argument(help="Layers that footprints wrote.")],
    output: Output,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make one layer of those of neighbouring or overlapping scenes, every building once.

    Example: footprints merge north.gpkg south.gpkg -o both.gpkg
    """
    _configure(quiet=quiet, verbose=verbose)
    from footprints.merging import merge_layers
    from footprints.vector.postgis import shown

    layer = merge_layers(layers, output=output, overwrite=overwrite)
    if not quiet:
        scenes = layer.attrs["footprints"]
        print(f"{len(layer):,} buildings of {len(scenes):,} scenes, {shown(output)}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch.")] = False,
    settings: Settings = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train weights on scenes and digitised buildings.

    Example: footprints train configs/sample-town.yaml -o first-run --set train.epochs=1
    """
    from footprints.config import load_config
    from footprints.training import is_first_process
    from footprints.training import train as run

    quiet = quiet or not is_first_process()
    # After the imports: Lightning sets its own logger's level when it is imported.
    _configure(quiet=quiet, verbose=verbose)
    with _resumable():
        weights = run(
            load_config(config, settings or ()), output, resume=resume, progress=not quiet
        )
    if not quiet:
        print(f"weights are in {weights}")


@app.command("lr-find")
def lr_find(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/.")],
    plot: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also plot loss against rate: a PNG.")
    ] = None,
    lowest: Annotated[float, typer.Option(help="Rate of the first step.")] = 1e-7,
    highest: Annotated[float, typer.Option(help="Rate of the last step.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps from the one to the other.")] = 100,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Try growing learning rates for a few dozen steps and suggest one.

    Example: footprints lr-find configs/sample-town.yaml -o rates.png
    """
    from footprints.config import load_config
    from footprints.rate_test import lr_find as run

    _configure(quiet=quiet, verbose=verbose)
    found = run(
        load_config(config, settings or ()),
        plot=plot,
        lowest=lowest,
        highest=highest,
        steps=steps,
        overwrite=overwrite,
        progress=not quiet,
    )
    tried = f"{len(found.rates)} steps, {found.rates[0]:.2g} to {found.rates[-1]:.2g}"
    if found.suggestion is None:
        print(f"the loss never fell ({tried}); look at the data, or start with --lowest below it")
    else:
        print(f"optimizer.learning_rate: {found.suggestion:.2g} ({tried})")


@app.command()
def show(
    source: Annotated[Path, typer.Argument(help="Folder of a run, or a YAML file.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A PNG of all chips, or a folder for one of each."),
    ],
    count: Annotated[int, typer.Option(help="Training and validation chips, of each.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw augmented training chips with their targets, and truth beside predictions.

    Example: footprints show first-run -o first.png
    """
    from footprints.show_chips import show as run

    _configure(quiet=quiet, verbose=verbose)
    pictures = run(source, output, count=count, device=device, overwrite=overwrite)
    if not quiet:
        print(f"{len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'}, {output}")


@app.command()
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
    _configure(quiet=quiet, verbose=verbose)
    from footprints.viewing import check_page
    from footprints.viewing import view as run

    output = layer.with_suffix(".html") if output is None else output
    check_page(output, overwrite=overwrite)
    shown = run(
        layer,
        scene,
        bounds=_bounds(bounds),
        bands=_numbers(bands),
        nodata=nodata,
        crs=crs,
        pixels=pixels,
        largest_side=largest_side,
    )
    shown.save(output, overwrite=overwrite)
    if not quiet:
        print(f"{shown.shown:,} footprints, {output.stat().st_size / 1e6:.1f} MB, {output}")


@app.command()
def chip(
    scene: Annotated[str, typer.Argument(help="A raster, a folder of rasters, or a pattern.")],
    labels: Annotated[Path, typer.Argument(help="Buildings: a polygon layer.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of chips that is made.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what is wrong with the labels; write nothing.")
    ] = False,
    with_weights: Annotated[
        bool,
        typer.Option(
            "--with-weights",
            help="With --check: also have the weights that ship look for buildings without labels.",
        ),
    ] = False,
    gsd: Annotated[
        float | None, typer.Option(help="Metres per chip pixel; default: the scene's own.")
    ] = None,
    chip_size: Annotated[int, typer.Option(help="Chip side in pixels.")] = 512,
    overlap: Annotated[int, typer.Option(help="Pixels shared by neighbouring chips.")] = 0,
    bands: Bands = None,
    nodata: Nodata = None,
    aoi: Annotated[
        Path | None, typer.Option(help="Polygons inside which the labels are complete.")
    ] = None,
    class_field: Annotated[
        str | None, typer.Option(help="Column of LABELS with the class.")
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(help="YAML file of that column's values and their classes, house: villa."),
    ] = None,
    validation_share: Annotated[
        float, typer.Option(help="Share of the buildings on ground that validates.")
    ] = 0.1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Cut a scene and its labels into training chips: GeoTIFFs, COCO annotations and an index.

    Or, with --check, say what is wrong with the labels: off the image, invalid, doubled, shifted.

    Example: footprints chip data_samples/town.tif data_samples/town_buildings.gpkg -o chips
    """
    _configure(quiet=quiet, verbose=verbose)
    from footprints.data.chips import TRAIN, write_chips

    if (output is None) != check or (with_weights and not check):
        raise OutputError(
            "chip takes either a folder to write, -o DIR, or --check, which writes nothing and "
            "which --with-weights belongs to"
        )
    if output is None:
        _check(scene, labels, _numbers(bands), nodata, aoi, with_weights, quiet)
        return
    index = write_chips(
        scene,
        labels,
        output,
        gsd_m=gsd,
        chip_size=chip_size,
        overlap=overlap,
        bands=_numbers(bands),
        nodata=nodata,
        aoi=aoi,
        class_column=class_field,
        class_map=class_map,
        validation_share=validation_share,
        overwrite=overwrite,
        progress=not quiet,
    )
    if not quiet:
        trains = int((index["split"] == TRAIN).sum())
        print(
            f"{trains:,} chips to train and {len(index) - trains:,} to validate on, "
            f"{index['labels'].sum():,} labels, {output}"
        )


@app.command()
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
    class_map: Annotated[
        Path | None,
        typer.Option(help="YAML file of that column's values and their classes, house: villa."),
    ] = None,
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

    Example: footprints evaluate town.gpkg data_samples/town_buildings.gpkg --json report.json
    """
    _configure(quiet=quiet, verbose=verbose)
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


@app.command()
def calibrate(
    scene: Annotated[str, typer.Argument(help="A raster, a folder of rasters, or a pattern.")],
    labels: Annotated[
        Path, typer.Argument(help="Buildings: a polygon layer that the weights never saw.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Weights: .safetensors")],
    weights: Annotated[Path | None, typer.Option(help="Weights; default: those that ship.")] = None,
    bands: Bands = None,
    nodata: Nodata = None,
    aoi: Annotated[
        Path | None, typer.Option(help="Polygons inside which the labels are complete.")
    ] = None,
    class_field: Annotated[
        str | None, typer.Option(help="Column of LABELS with the class.")
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(help="YAML file of that column's values and their classes, house: villa."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit the confidence of weights to a place, so that 0.8 means four right of five there.

    Example: footprints calibrate town.tif town_buildings.gpkg -o town.safetensors
    """
    _configure(quiet=quiet, verbose=verbose)
    from footprints.recalibration import calibrate as run

    done = run(
        scene,
        labels,
        output,
        weights=weights,
        bands=_numbers(bands),
        nodata=nodata,
        aoi=aoi,
        class_column=class_field,
        class_map=class_map,
        device=device,
        overwrite=overwrite,
        progress=not quiet,
    )
    if not quiet:
        after = "" if done.calibrated_error is None else f", {done.calibrated_error:.3f} after"
        print(
            f"{done.matches:,} of {done.detections:,} detections match; calibration error "
            f"{done.score_error:.3f} before{after}, {output}"
        )


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="State dict of a torchvision detection model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Weights: .safetensors")],
    norm_eps: Annotated[
        float | None,
        typer.Option(
            help="Epsilon of the trunk's norms; default: as torchvision has it with its weights."
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn weights of torchvision's Faster or Mask R-CNN (ResNet-50, FPN) into ours.

    Example: footprints convert maskrcnn_resnet50_fpn_coco.pth -o coco.safetensors
    """
    _configure(quiet=quiet, verbose=verbose)
    from footprints.model.convert import convert_weights

    done = convert_weights(source, output, norm_eps=norm_eps, overwrite=overwrite)
    if not quiet:
        print(f"{done.name} with {len(done.model.classes)} classes is in {output}")


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="A raster, or weights.")],
    card: Annotated[
        bool,
        typer.Option(
            "--card",
            help="Also write model card and STAC item beside the weights; what a card says besides "
            "the facts stays.",
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Say what a scene or a weights file is.

    Example: footprints info data_samples/town.tif
    """
    _configure(quiet=False, verbose=verbose)
    from footprints.card import write_card
    from footprints.describe import describe

    print(describe(path))
    if card:
        print(", ".join(str(file) for file in write_card(path)))


def _check(
    scene: str,
    labels: Path,
    bands: list[int] | None,
    nodata: float | None,
    aoi: Path | None,
    with_weights: bool,
    quiet: bool,
) -> None:
    """Print what is wrong with labels, with what the weights that ship find if asked for."""
    from footprints.data.faults import check_labels

    found = None
    if with_weights:
        from footprints.pipeline import predict as run

        found = run(scene, bands=bands, nodata=nodata, progress=not quiet)
    print(check_labels(scene, labels, bands=bands, nodata=nodata, aoi=aoi, found=found))


def _print_sum(layer: GeoDataFrame, output: str, start: float, things: str) -> None:
    from footprints.vector.postgis import shown

    unit = "px2" if layer.crs is None else "m2"
    seconds = time.perf_counter() - start
    print(
        f"{len(layer):,} {things}, {layer['area_m2'].sum():,.0f} {unit}, {seconds:.1f} s, "
        f"{shown(output)}"
    )
    if "regularized" in layer:
        from footprints.vector.result import summary

        print(f"regularised: {summary(layer)}")


def _configure(*, quiet: bool, verbose: bool) -> None:
    """Our warnings and logs as single lines on standard error; warnings of libraries not at all."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("ignore" if quiet else "always", FootprintsWarning)
    warnings.showwarning = lambda message, *_: _show_line(f"warning: {message}")
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=logging.ERROR, handlers=[_Lines()])
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_secrets)
    logging.getLogger("footprints").setLevel(level)
    if not quiet:
        logging.getLogger("footprints.cluster").setLevel(logging.INFO)
    if not verbose:
        # By name, because dask sets its levels when it is imported.
        for handler in logging.getLogger().handlers:
            handler.addFilter(lambda record: not record.name.startswith("distributed"))


def _without_secrets(record: logging.LogRecord) -> bool:
    """GDAL's own messages name addresses as they are."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def _show_line(line: str) -> None:
    from footprints.progress import tqdm

    # A progress bar that is being drawn moves down instead of running into the line.
    tqdm.write(redact(line), file=sys.stderr)


def main() -> None:
    """Entry point: errors of ours are one line and exit status 1."""
    app()


if __name__ == "__main__":
    main()
