"""What a file is, and weights of others made ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from footprints.commands.console import (
    configure,
)
from footprints.options import (
    Overwrite,
    Quiet,
    Verbose,
)


def info(
    path: Annotated[str, typer.Argument(help="A raster, a layer, or weights.")],
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
    """Say what a scene, a layer or a weights file is.

    Example: footprints info data_samples/town.tif
    """
    configure(quiet=False, verbose=verbose)
    from footprints.card import write_card
    from footprints.describe import describe

    cards = write_card(path) if card else ()
    print(describe(path))
    if cards:
        print(", ".join(str(file) for file in cards))


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

    Example: footprints convert maskrcnn_resnet50_fpn.pth -o coco.safetensors
    """
    configure(quiet=quiet, verbose=verbose)
    from footprints.model.convert import convert_weights

    done = convert_weights(source, output, norm_eps=norm_eps, overwrite=overwrite)
    if not quiet:
        print(f"{done.name} with {len(done.model.classes)} classes is in {output}")
