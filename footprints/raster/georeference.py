"""Where a raster lies: its CRS, its geotransform and the size of its pixels on the ground."""

from __future__ import annotations

import math

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from rasterio import DatasetReader

from footprints.errors import GeoreferenceError, RasterError

# Pixels to each side over which the ground resolution is measured: enough for map projections
# whose inverse is only good to fractions of a millimetre.
_REACH_PX = 10


def locate(
    dataset: DatasetReader, crs: str | CRS | None, *, pixels: bool
) -> tuple[CRS | None, Affine]:
    """The CRS and the transform (raster pixels to CRS units) to use for a dataset.

    Args:
        dataset: An open raster.
        crs: The user's word; it goes before what the file says.
        pixels: Ask for plain pixel coordinates: no CRS, identity.

    Raises:
        GeoreferenceError: There is no CRS or no geotransform, or only ground control points or
            RPCs.
        RasterError: The user's CRS is none.
    """
    if pixels:
        return None, Affine.identity()
    transform = dataset.transform
    if transform.is_identity:
        raise GeoreferenceError(_how_to_georeference(dataset))
    if transform.is_degenerate or not all(map(math.isfinite, transform)):
        raise GeoreferenceError(
            f"{dataset.name} has a geotransform that flattens the image: {tuple(transform)[:6]}; "
            "--pixels asks for pixel coordinates"
        )
    if crs is not None:
        return parse_crs(crs), transform
    if dataset.crs is None:
        raise GeoreferenceError(
            f"{dataset.name} has no CRS; --crs EPSG:xxxx gives one, --pixels asks for pixel "
            "coordinates"
        )
    return parse_crs(dataset.crs.to_wkt()), transform


def parse_crs(crs: str | CRS) -> CRS:
    """A CRS from what a user or a file says.

    Raises:
        RasterError: PROJ does not know it.
    """
    try:
        return CRS.from_user_input(crs)
    except CRSError as err:
        raise RasterError(
            f"{crs!r} is not a coordinate reference system; write it as EPSG:32645"
        ) from err


def _how_to_georeference(dataset: DatasetReader) -> str:
    """What to do about a raster without geotransform."""
    name = dataset.name
    points, points_crs = dataset.gcps
    if points:
        source = f" -s_srs {points_crs.to_string()}" if points_crs else " -s_srs EPSG:xxxx"
        return (
            f"{name} has ground control points but no geotransform; warp it first: "
            f"gdalwarp -tps -r cubic{source} {name} warped.tif"
        )
    if dataset.rpcs:
        return (
            f"{name} has RPCs but no geotransform; orthorectify it first: gdalwarp -rpc "
            f"-to RPC_DEM=dem.tif -t_srs EPSG:xxxx -r cubic {name} ortho.tif"
        )
    return (
        f"{name} has no georeference (no geotransform); give it a world file and --crs EPSG:xxxx, "
        "or ask for pixel coordinates with --pixels"
    )


def ground_resolution(
    crs: CRS, transform: Affine, centre: tuple[float, float]
) -> tuple[float, float]:
    """Metres on the ground per pixel, along x and along y.

    Geodesic, so right in degrees, in feet, in rotated rasters, and in EPSG:3857, whose metres
    shrink with latitude. In a CRS without datum (a local grid) the CRS unit is taken at its word.

    Args:
        crs: Any CRS.
        transform: Pixels to CRS units.
        centre: (x, y) in pixels, where to measure.

    Raises:
        RasterError: The place lies outside the area where the CRS is defined.
    """
    x, y = centre
    left, right = transform @ (x - _REACH_PX, y), transform @ (x + _REACH_PX, y)
    upper, lower = transform @ (x, y - _REACH_PX), transform @ (x, y + _REACH_PX)
    geod = crs.get_geod()
    if geod is None or crs.geodetic_crs is None:
        metres = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        lengths = [metres * math.dist(left, right), metres * math.dist(upper, lower)]
    else:
        to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
        ends = np.array([left, right, upper, lower])
        longitude, latitude = to_degrees.transform(ends[:, 0], ends[:, 1])
        _, _, lengths = geod.inv(longitude[::2], latitude[::2], longitude[1::2], latitude[1::2])
    if not all(math.isfinite(length) and length > 0 for length in lengths):
        raise RasterError(
            f"the image's centre {transform @ centre} lies outside the area of {crs.name!r}; "
            "check its georeference or give the right one with --crs"
        )
    return float(lengths[0]) / (2 * _REACH_PX), float(lengths[1]) / (2 * _REACH_PX)
