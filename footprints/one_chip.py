"""One chip of a scene, to see what a detector makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyproj import CRS

from footprints.chip import Chip, Detector, Window
from footprints.detection import cover_scene
from footprints.errors import RasterError
from footprints.raster.reader import read_chip
from footprints.raster.scaling import fit_scaling
from footprints.raster.source import open_scene


def chip_at(
    scene: str | Path,
    place: tuple[float, float] | None = None,
    *,
    detector: Detector,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
) -> Chip:
    """Read the chip around a place, as `predict` would show it to a detector.

        chip = fp.chip_at("town.tif", detector=detector)
        (instances,) = detector([chip])
        fp.plot_instances(chip, instances, classes=detector.classes)

    Args:
        scene: Any raster that GDAL opens.
        place: x and y of its middle, in the scene's CRS (raster pixels with ``pixels``); None takes
            the middle of the scene. A chip at the edge is moved inwards.
        detector: What it is for: its size, bands, ground resolution and scaling.
        bands: As for `predict`; so are all the others.
        nodata: Likewise.
        crs: Likewise.
        pixels: Likewise.

    Raises:
        RasterError: The scene cannot be read, or the place is beside it.
        BandError: It has fewer bands than the detector takes.
    """
    spec = detector.input_spec
    with open_scene(
        scene,
        bands=bands,
        want_bands=spec.bands,
        nodata=nodata,
        crs=crs,
        pixels=pixels,
        collars=spec.short_side is None,
    ) as raster:
        cover = cover_scene(raster, spec)
        grid, chips = cover.grid, cover.chips
        x, y = (grid.width / 2, grid.height / 2) if place is None else ~grid.transform @ place
        if not (0 <= x <= grid.width and 0 <= y <= grid.height):
            raise RasterError(
                f"{place} is beside {raster.name}; footprints info says where it lies"
            )
        left, top = (
            round(min(max(middle - side / 2, 0), max(whole - side, 0)))
            for middle, side, whole in (
                (x, chips.chip_width, grid.width),
                (y, chips.chip_height, grid.height),
            )
        )
        window = Window(left, top, chips.chip_width, chips.chip_height)
        return read_chip(grid, window, fit_scaling(raster, spec))
