"""From a town to files: a GeoTIFF in any reference system, and the true outlines beside it.

A scene is painted and written block by block, so that only the disk bounds its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import geopandas as gpd
import numpy as np
import pyproj
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely import Polygon

from footprints.data.synthetic.paint import Plane, paint, scatter
from footprints.data.synthetic.town import Town
from footprints.errors import ConfigError, OutputError
from footprints.files import check_place
from footprints.progress import is_hidden, tqdm
from footprints.vector.affine import apply_affine

PixelType = Literal["uint8", "uint16", "float32"]

BLOCK = 512
"""Side in pixels of what is painted at once; a multiple of the file's tiles."""
COLLAR_TILT = math.radians(4.0)
"""How far the data is turned inside the file, as a strip of a mosaic is."""
NOISE = 0.016
"""Standard deviation of the sensor's noise, of full scale."""
SMALLEST_M2 = 2.0
"""What the scene's edge leaves of a building counts from this area on."""
TILED = {
    "driver": "GTiff",
    "tiled": True,
    "blockxsize": 256,
    "blockysize": 256,
    "compress": "deflate",
    "bigtiff": "if_safer",
    "alpha": "no",
}
"""How scenes are stored; with four bands the fourth is light, not transparency."""
PAN_WEIGHTS = np.array([0.3, 0.3, 0.2, 0.2], np.float32)
"""A panchromatic band sees red, green, blue and near infrared at once."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The files of a generated scene."""

    raster: Path
    """Tiled GeoTIFF."""
    buildings: Path
    """GeoPackage of the true outlines: columns ``class``, ``height_m`` and ``cut``, which is True
    where the edge of the data cuts the building."""
    count: int
    """Number of buildings."""


def generate_scene(
    path: str | Path,
    *,
    width: int = 1400,
    height: int = 1100,
    gsd_m: float = 0.3,
    seed: int = 0,
    density: float = 0.7,
    dtype: PixelType = "uint8",
    bands: int = 3,
    crs: str = "EPSG:32645",
    lonlat: tuple[float, float] = (85.52, 27.63),
    rotation_deg: float = 0.0,
    nodata_collar: bool = True,
    overwrite: bool = False,
    progress: bool = False,
) -> Scene:
    """Write a GeoTIFF of a made-up town and, beside it, a GeoPackage of its buildings.

    Args:
        path: The GeoTIFF; ``NAME.tif`` gets ``NAME_buildings.gpkg``.
        width: Columns.
        height: Rows.
        gsd_m: Metres on the ground per pixel.
        seed: Another seed is another town; the same town is seen at every resolution.
        density: 0, fields with a few houses, to 1, houses wall to wall.
        dtype: uint8; uint16 with the 11 bits of a satellite sensor; float32 reflectance.
        bands: 1 panchromatic, 3 red green blue, 4 with near infrared.
        crs: Any reference system, projected or geographic.
        lonlat: Where the upper-left corner is, in degrees.
        rotation_deg: Turn of the image's columns, clockwise on the map.
        nodata_collar: Whether the data lies askew in the file, with declared nodata around it.
        overwrite: Replace existing files.
        progress: Whether to show a bar.

    Raises:
        ConfigError: A size, resolution, band count, pixel type or CRS that cannot be.
        OutputError: The folder does not exist, or one of the files does.
    """
    raster = Path(path)
    buildings = raster.with_name(f"{raster.stem}_buildings.gpkg")
    check_place(raster, "scene", overwrite=overwrite)
    check_place(buildings, "buildings", overwrite=overwrite, plural=True)
    _check(raster, width, height, gsd_m, bands, dtype)
    if seed < 0 or not 0 <= density <= 1:
        raise ConfigError(
            f"seed must not be negative and density in [0, 1], got {seed} and {density}"
        )
    town = Town(seed, density)
    transform = _place(crs, lonlat, gsd_m, rotation_deg)
    data = _data_area(width, height, askew=nodata_collar)
    nodata = math.nan if dtype == "float32" else 0
    profile = {
        **TILED,
        "width": width,
        "height": height,
        "count": bands,
        "dtype": dtype,
        "crs": crs,
        "transform": transform,
        "nodata": nodata if nodata_collar else None,
        "predictor": 3 if dtype == "float32" else 2,
        "photometric": "rgb" if bands > 1 else "minisblack",
    }
    windows = list(_blocks(width, height))
    with rasterio.open(raster, "w", **profile) as file:
        for window in tqdm(
            windows, desc="painting", unit="block", disable=is_hidden(progress=progress)
        ):
            view = paint(town, window.row_off, window.col_off, window.height, window.width, gsd_m)
            pixels = _digitize(_noisy(view, window, seed), bands, dtype)
            pixels[:, ~_inside(data, window)] = nodata
            file.write(pixels, window=window)
    layer = _true_buildings(town, data, gsd_m, transform, crs)
    buildings.unlink(missing_ok=True)
    layer.to_file(buildings, driver="GPKG", layer="buildings")
    return Scene(raster, buildings, len(layer))


def _check(path: Path, width: int, height: int, gsd_m: float, bands: int, dtype: str) -> None:
    if min(width, height) < 1 or not 0 < gsd_m < math.inf:
        raise ConfigError(
            f"a scene needs at least one pixel of a positive size, got {width} x {height} pixels "
            f"of {gsd_m} m"
        )
    if bands not in (1, 3, 4):
        raise ConfigError(f"bands must be 1 (panchromatic), 3 (RGB) or 4 (RGB, NIR), got {bands}")
    if dtype not in get_args(PixelType):
        raise ConfigError(f"dtype must be one of {', '.join(get_args(PixelType))}, got {dtype!r}")
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"a scene must end in .tif, got {path.name!r}")


def _place(crs: str, lonlat: tuple[float, float], gsd_m: float, rotation_deg: float) -> Affine:
    """Pixels to CRS units, with pixels of the true size on the ground at the corner."""
    try:
        system = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as err:
        raise ConfigError(f"unknown CRS {crs!r}; give one like EPSG:32645") from err
    to_crs = pyproj.Transformer.from_crs("EPSG:4326", system, always_xy=True)
    lon, lat = lonlat
    x, y = to_crs.transform(lon, lat)
    # Step 100 m east and north on the ellipsoid to learn how long a metre is in CRS units here.
    geod = system.get_geod() or pyproj.Geod(ellps="WGS84")
    scale = []
    for azimuth in (90.0, 180.0):
        there = to_crs.transform(*geod.fwd(lon, lat, azimuth, 100.0)[:2])
        unit = math.hypot(there[0] - x, there[1] - y) / 100.0
        # UTM is true to 0.04 %: round pixel sizes are worth more than that.
        scale.append(gsd_m * (1.0 if abs(unit - 1.0) < 2e-3 else unit))
    step = 1.0 if max(scale) > 1e-3 else 1e-6
    corner = Affine.translation(round(x / step) * step, round(y / step) * step)
    return corner @ Affine.scale(scale[0], -scale[1]) @ Affine.rotation(rotation_deg)


def _data_area(width: int, height: int, *, askew: bool) -> Polygon:
    """The part of the image that has data, in pixels."""
    image = shapely.box(0, 0, width, height)
    if not askew:
        return image
    cos, sin = math.cos(COLLAR_TILT), math.sin(COLLAR_TILT)
    turn = np.array([[cos, sin], [-sin, cos]])
    centre = np.array([width / 2, height / 2])
    strip = shapely.transform(image, lambda xy: (xy - centre) @ turn + centre)
    area: Polygon = shapely.intersection(strip, image)
    return area


def _blocks(width: int, height: int) -> Iterator[Window]:
    for row in range(0, height, BLOCK):
        for column in range(0, width, BLOCK):
            yield Window(column, row, min(BLOCK, width - column), min(BLOCK, height - row))


def _inside(data: Polygon, window: Window) -> NDArray[np.bool_]:
    """(height, width), True at pixels whose centre has data."""
    x = np.arange(window.col_off, window.col_off + window.width) + 0.5
    y = np.arange(window.row_off, window.row_off + window.height) + 0.5
    if data.contains(shapely.box(x[0], y[0], x[-1], y[-1])):
        return np.ones((len(y), len(x)), bool)
    inside: NDArray[np.bool_] = shapely.contains_xy(data, x[None, :], y[:, None])
    return inside


def _noisy(view: Plane, window: Window, seed: int) -> Plane:
    """Add the sensor's noise; the sum of three uniform numbers is nearly normal."""
    rows = np.arange(window.row_off, window.row_off + window.height)[:, None]
    columns = np.arange(window.col_off, window.col_off + window.width)[None, :]
    for band, plane in enumerate(view):
        total = sum(scatter(rows, columns, seed + 17 + 3 * band + k) for k in range(3))
        plane += NOISE * 2 * (total - np.float32(1.5))
    noisy: Plane = np.clip(view, 0, 1)
    return noisy


def _digitize(view: Plane, bands: int, dtype: PixelType) -> NDArray[np.generic]:
    """(bands, height, width) pixel values, never 0, of (4, height, width) display values."""
    if bands == 1:
        view = np.tensordot(PAN_WEIGHTS, view, axes=1)[None]
    view = view[:bands]
    if dtype == "uint8":
        grey: NDArray[np.uint8] = np.clip(np.rint(view * 255), 1, 255).astype(np.uint8)
        return grey
    linear = view**1.8  # a display's curve undone, roughly
    if dtype == "uint16":
        counts: NDArray[np.uint16] = np.clip(np.rint(90 + 1500 * linear), 1, 2047).astype(np.uint16)
        return counts
    reflectance: NDArray[np.float32] = 0.01 + 0.7 * linear
    return reflectance


def _true_buildings(
    town: Town, data: Polygon, gsd_m: float, transform: Affine, crs: str
) -> gpd.GeoDataFrame:
    """The outlines of all buildings in view, clipped to the data, in the CRS."""
    bounds = tuple(gsd_m * value for value in data.bounds)
    found = [building for cell in town.cells(bounds) for building in cell.buildings]
    whole = shapely.transform(
        np.array([b.outline for b in found], dtype=object), lambda xy: xy / gsd_m
    )
    # The edge of the data may leave two pieces of one building.
    seen, number = shapely.get_parts(shapely.intersection(whole, data), return_index=True)
    large = shapely.area(seen) * gsd_m**2 > SMALLEST_M2
    seen, number = seen[large], number[large]
    placed = apply_affine(seen, transform)
    return gpd.GeoDataFrame(
        {
            "class": [found[k].roof for k in number],
            "height_m": [round(found[k].height_m, 2) for k in number],
            "cut": shapely.area(seen) < 0.999 * shapely.area(whole[number]),
        },
        geometry=placed,
        crs=crs,
    )
