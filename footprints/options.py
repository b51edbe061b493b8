"""Command-line options that several commands take, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say what is done, and when.")]
Pixels = Annotated[
    bool,
    typer.Option(
        "--pixels", help="Work in pixel coordinates, as for photographs; ignore any georeference."
    ),
]

Weights = Annotated[Path | None, typer.Option(help="Weights; default: those that ship.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Bands = Annotated[str | None, typer.Option(help="Bands to read, from 1, e.g. 3,2,1 or 1,1,1.")]
Nodata = Annotated[float | None, typer.Option(help="Value of pixels without data.")]
Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        help="Layer: .gpkg .shp .parquet .fgb .geojson, or a table: "
        "postgresql://user@host/db?table=name, with &mode=append added to what is there.",
    ),
]
Confidence = Annotated[
    float | None, typer.Option(help="Least confidence, 0 to 1; default: the weights' own.")
]
MinArea = Annotated[
    float, typer.Option(help="Least area in square metres; with --pixels in square pixels.")
]
Overlaps = Annotated[
    bool | None,
    typer.Option(
        "--overlaps/--no-overlaps",
        help="Keep polygons that overlap as they are found, or leave no ground to two of them; "
        "default: kept by weights of photographs.",
    ),
]
OutCrs = Annotated[str | None, typer.Option(help="CRS of the layer; default: the first scene's.")]
Keypoints = Annotated[
    str | None,
    typer.Option(help="Also write the keypoints, for weights that find some: a point layer."),
]
Regularize = Annotated[
    str | None,
    typer.Option(
        help="Straight walls: auto, right-angles, diagonals, any-angle or circle; default: "
        "none, outlines as they are traced."
    ),
]
Tolerance = Annotated[
    float | None, typer.Option(help="Metres that regularised outlines may move; default: 1.")
]
Simplify = Annotated[
    float | None,
    typer.Option(
        "--simplify", help="Drop vertices; no outline moves farther than this many metres."
    ),
]
LabelledArea = Annotated[
    Path | None, typer.Option("--aoi", help="Polygons inside which the labels are complete.")
]
ClassField = Annotated[str | None, typer.Option(help="Column of LABELS with the class.")]
ClassMap = Annotated[
    Path | None,
    typer.Option(help="YAML file of that column's values and their classes, house: villa."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting: train.epochs=5. Repeatable."),
]
