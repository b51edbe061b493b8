"""Labels to weights, and all that is looked at on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from footprints.commands.console import (
    configure,
    parse_numbers,
    resumable,
)
from footprints.errors import OutputError
from footprints.options import (
    Bands,
    ClassField,
    ClassMap,
    Device,
    LabelledArea,
    Nodata,
    Overwrite,
    Quiet,
    Settings,
    Verbose,
    Weights,
)


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
    aoi: LabelledArea = None,
    class_field: ClassField = None,
    class_map: ClassMap = None,
    validation_share: Annotated[
        float, typer.Option(help="Share of the buildings on ground that validates.")
    ] = 0.1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Cut a scene and its labels into training chips: GeoTIFFs, COCO annotations and an index.

    Or, with --check, say what is wrong with the labels: off the image, invalid, doubled, shifted.

    Example: footprints chip town.tif town_buildings.gpkg -o chips
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.data.chips import TRAIN, write_chips

    if (output is None) != check or (with_weights and not check):
        raise OutputError(
            "chip takes either a folder to write, -o DIR, or --check, which writes nothing and "
            "which --with-weights belongs to"
        )
    if output is None:
        _check(scene, labels, parse_numbers(bands), nodata, aoi, with_weights, quiet)
        return
    index = write_chips(
        scene,
        labels,
        output,
        gsd_m=gsd,
        chip_size=chip_size,
        overlap=overlap,
        bands=parse_numbers(bands),
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


def show(
    source: Annotated[Path, typer.Argument(help="Folder of a run, or a YAML file.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A PNG of all chips, or a folder for one of each."),
    ],
    count: Annotated[int, typer.Option(help="Training and validation chips, of each.")] = 8,
    device: Device = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw augmented training chips with their targets, and truth beside predictions.

    Example: footprints show first-run -o first.png
    """
    from footprints.show_chips import show as run

    configure(quiet=quiet, verbose=verbose)
    pictures = run(source, output, count=count, device=device, overwrite=overwrite)
    if not quiet:
        print(f"{len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'}, {output}")


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

    configure(quiet=quiet, verbose=verbose)
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


def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last epoch.")] = False,
    settings: Settings = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train weights on scenes and digitised buildings.

    Example: footprints train configs/sample-town.yaml -o first-run
    """
    from footprints.config import load_config
    from footprints.training import is_first_process
    from footprints.training import train as run

    quiet = quiet or not is_first_process()
    # After the imports: Lightning sets its own logger's level when it is imported.
    configure(quiet=quiet, verbose=verbose)
    with resumable():
        weights = run(
            load_config(config, settings or ()), output, resume=resume, progress=not quiet
        )
    if not quiet:
        print(f"weights are in {weights}")


def calibrate(
    scene: Annotated[str, typer.Argument(help="A raster, a folder of rasters, or a pattern.")],
    labels: Annotated[
        Path, typer.Argument(help="Buildings: a polygon layer that the weights never saw.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Weights: .safetensors")],
    weights: Weights = None,
    bands: Bands = None,
    nodata: Nodata = None,
    aoi: LabelledArea = None,
    class_field: ClassField = None,
    class_map: ClassMap = None,
    device: Device = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit the confidence of weights to a place, so that 0.8 means four right of five there.

    Example: footprints calibrate town.tif labels.gpkg -o here.safetensors
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.recalibration import calibrate as run

    done = run(
        scene,
        labels,
        output,
        weights=weights,
        bands=parse_numbers(bands),
        nodata=nodata,
        aoi=aoi,
        class_column=class_field,
        class_map=class_map,
        device=device,
        overwrite=overwrite,
        progress=not quiet,
    )
    if not quiet:
        after = done.calibrated_error
        how = "too few to say it of after" if after is None else f"{after:.3f} after"
        print(
            f"{done.detections:,} detections of any confidence in {done.chips:,} chips, "
            f"{done.matches:,} of them right; what two chips show counts in both, and labels "
            "beside the imagery do not"
        )
        files = ", ".join(map(str, done.files))
        print(f"calibration error {done.score_error:.3f} before, {how}; {files}")


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
