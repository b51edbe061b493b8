"""Entry of ``python -m footprints.data.synthetic``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from footprints.data.synthetic.scene import PixelType, generate_scene
from footprints.errors import FootprintsError


def main(arguments: list[str] | None = None) -> None:
    """Write a scene; ``arguments`` replace those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m footprints.data.synthetic",
        description="Generate a scene and its true buildings.",
    )
    parser.add_argument("path", type=Path, help="GeoTIFF to write")
    parser.add_argument("--width", type=int, default=1400, help="columns")
    parser.add_argument("--height", type=int, default=1100, help="rows")
    parser.add_argument("--gsd", type=float, default=0.3, dest="gsd_m", help="metres per pixel")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another town")
    parser.add_argument("--density", type=float, default=0.7, help="0 fields to 1 old town")
    parser.add_argument("--dtype", choices=get_args(PixelType), default="uint8")
    parser.add_argument("--bands", type=int, choices=(1, 3, 4), default=3)
    parser.add_argument("--crs", default="EPSG:32645")
    parser.add_argument("--rotation", type=float, default=0.0, dest="rotation_deg")
    parser.add_argument("--no-collar", action="store_false", dest="nodata_collar")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    options = vars(parser.parse_args(arguments))
    try:
        generate_scene(options.pop("path"), progress=True, **options)
    except FootprintsError as err:
        parser.error(str(err))


if __name__ == "__main__":
    main()
