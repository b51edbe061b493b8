"""Vertices on a fine lattice, and neighbours that keep their common wall.

Rounding alone opens hairline gaps and overlaps: a corner of one house that lies on its neighbour's
straight wall moves off that wall. So, as in snap rounding, a wall bends by less than the lattice
to every corner it passes so closely.
"""

from __future__ import annotations

import math

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS
from shapely import GeometryType

from footprints.stages import staged
from footprints.vector.layer import areas_m2
from footprints.vector.parts import largest_parts
from footprints.vector.read import make_valid_polygons
from footprints.vector.scenes import scenes_of

FINE_M = 0.02
"""The lattice is never coarser than this."""
PIXEL_SHARE = 1 / 20
"""And never coarser than this share of a pixel; outlines are good to a tenth of one at best."""
REACH = math.sqrt(0.5)
"""A wall bends to corners within this share of the lattice's step: half a cell's diagonal."""
EARTH_RADIUS_M = 6_378_137.0
_MAX_PAIRS = 1 << 20
"""Pairs of corners and polygons looked at together, to bound memory."""


@staged("rounding")
def snap_vertices(layer: GeoDataFrame) -> GeoDataFrame:
    """Round the vertices of a layer to a sensible precision, and measure its areas anew.

    Polygons stay valid; neighbours that met still meet, corner to corner, so that the layer is
    edge-matched; what did not overlap still does not.

    Args:
        layer: A footprint layer with a record of its scenes.

    Returns:
        The layer with its vertices on multiples of `lattice_step` of the finest scene.
    """
    if layer.empty:
        return layer
    sizes = [scene.pixel_m for scene in scenes_of(layer) if scene.pixel_m is not None]
    pixel_m = min(sizes, default=None)
    snapped = layer.copy()
    polygons = snap(layer.geometry.to_numpy(), lattice_step(layer.crs, pixel_m))
    snapped.geometry = polygons
    snapped["area_m2"] = np.round(areas_m2(polygons, layer.crs), 2)
    return snapped


def lattice_step(crs: CRS | None, pixel_m: float | None) -> float:
    """The largest power of ten, in CRS units, that is fine enough for outlines.

    Args:
        crs: None takes pixels for units.
        pixel_m: Metres on the ground per pixel; None in pixel coordinates.
    """
    if crs is None or pixel_m is None:
        return _power_of_ten(PIXEL_SHARE)
    return _power_of_ten(min(FINE_M, pixel_m * PIXEL_SHARE) / nominal_unit_m(crs))


def nominal_unit_m(crs: CRS) -> float:
    """Metres that a unit of a CRS is on the ground, at the equator if it is an angle."""
    unit = crs.axis_info[0].unit_conversion_factor or 1.0
    return unit * EARTH_RADIUS_M if crs.is_geographic else unit


def snap(polygons: NDArray[np.object_], step: float) -> NDArray[np.object_]:
    """Round (n,) valid polygons to multiples of ``step``, keeping common walls common.

    A polygon thinner than the lattice is left as it is.
    """
    snapped = _snap_once(polygons, step)
    # Two walls in one place may pass a corner by a hair's breadth on either side of the reach, so
    # that one bends and the other does not; another look at the few pairs settles them.
    tree = shapely.STRtree(snapped)
    first, second = tree.query(snapped, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    overlap = ~shapely.touches(snapped[first], snapped[second])
    if overlap.any():
        pair = np.union1d(first[overlap], second[overlap])
        group = np.unique(tree.query(snapped[pair], predicate="dwithin", distance=step)[1])
        snapped[group] = _snap_once(snapped[group], step)
    return snapped


def _snap_once(polygons: NDArray[np.object_], step: float) -> NDArray[np.object_]:
    _, points, (rings, shells) = shapely.to_ragged_array(polygons)
    rounded = _round(points, step)
    owner = np.repeat(np.arange(len(polygons)), np.diff(rings[shells]))
    where, corners = _corners_on_walls(polygons, points, rounded, owner, rings, step)
    rounded = np.insert(rounded, where, corners, axis=0)
    rings = rings + np.searchsorted(where, rings, side="left")
    rounded, rings = _without_repeats(rounded, rings)
    return _build(polygons, rounded, rings, shells)


def _power_of_ten(limit: float) -> float:
    # A hair more than the limit is the limit: 0.02 / 2 is 0.01.
    return 10.0 ** math.floor(math.log10(limit) + 1e-9)


def _round(points: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    # By decimals and not by division, so that written numbers are short: 0.3 and not 0.30000004.
    return np.round(points, -round(math.log10(step)))


def _corners_on_walls(
    polygons: NDArray[np.object_],
    points: NDArray[np.float64],
    rounded: NDArray[np.float64],
    owner: NDArray[np.intp],
    rings: NDArray[np.int64],
    step: float,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Corners that lie on a wall, of a neighbour or of the same polygon, and do not end it.

    Args:
        polygons: (n,) before rounding.
        points: (p, 2) their vertices.
        rounded: (p, 2) the same, rounded.
        owner: (p,) polygon of each vertex.
        rings: Where rings begin among the vertices, and the end.
        step: Of the lattice.

    Returns:
        (k,) the vertices before which to insert, in order along walls, and (k, 2) what.
    """
    reach = REACH * step
    first = np.searchsorted(owner, np.arange(len(polygons) + 1))
    bounds = shapely.bounds(polygons) + np.array([-1, -1, 1, 1]) * (reach + step)
    boxes = shapely.box(*bounds.T)
    wall_of, neighbour = shapely.STRtree(boxes).query(boxes)
    # A polygon's own corners matter where it is as narrow as the lattice is fine.
    narrow = ~shapely.is_valid(shapely.transform(polygons, lambda xy: _round(xy, step)))
    matters = (wall_of != neighbour) | narrow[wall_of]
    wall_of, neighbour = wall_of[matters], neighbour[matters]
    shapely.prepare(polygons)
    close = shapely.dwithin(polygons[wall_of], polygons[neighbour], 2 * reach)
    wall_of, neighbour = wall_of[close], neighbour[close]
    starts_wall = np.ones(len(points), dtype=np.bool_)
    starts_wall[rings[1:] - 1] = False
    boundaries = shapely.boundary(polygons)
    shapely.prepare(boundaries)
    found = [np.empty((0, 4))]
    size = np.cumsum(np.diff(first)[neighbour])
    cuts = np.searchsorted(size, np.arange(_MAX_PAIRS, size[-1] if len(size) else 0, _MAX_PAIRS))
    for walls, near in zip(np.split(wall_of, cuts), np.split(neighbour, cuts), strict=True):
        polygon, corner = _expand(walls, near, first)
        inside = _inside(rounded.take(corner, axis=0), bounds.take(polygon, axis=0))
        polygon, corner = polygon[inside], corner[inside]
        close = shapely.dwithin(boundaries[polygon], shapely.points(rounded[corner]), reach)
        polygon, corner = polygon[close], corner[close]
        pair, wall = _expand(np.arange(len(polygon)), polygon, first)
        is_wall = np.flatnonzero(starts_wall.take(wall))
        wall, corner = wall.take(is_wall), corner.take(pair.take(is_wall))
        # As they were before rounding, walls pass through the corners that lie on them.
        start, end, place = points[:-1], points[1:], rounded.take(corner, axis=0)
        bends, along = _passes(start.take(wall, axis=0), end.take(wall, axis=0), place, reach)
        wall, along, place = wall[bends], along[bends], place[bends]
        ends = (place == rounded[wall]).all(axis=1) | (place == rounded[wall + 1]).all(axis=1)
        found.append(np.column_stack([wall, along, place])[~ends])
    wall, along, x, y = np.unique(np.concatenate(found), axis=0).T
    return wall.astype(np.intp) + 1, np.column_stack([x, y])


def _inside(places: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether (n, 2) places lie in (n, 4) boxes."""
    x, y = places.T
    x_min, y_min, x_max, y_max = bounds.T
    return np.asarray((x >= x_min) & (y >= y_min) & (x <= x_max) & (y <= y_max))


def _expand(
    left: NDArray[np.intp], right: NDArray[np.intp], first: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Every left with every vertex of the right polygon of the same pair."""
    counts = np.diff(first)[right]
    pair = np.repeat(np.arange(len(left)), counts)
    turn = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    return left.take(pair), first.take(right).take(pair) + turn


def _passes(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    place: NDArray[np.float64],
    reach: float,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(n,) whether lines pass places, all (n, 2), within reach, and how far along, 0 to 1."""
    run = end - start
    length = np.maximum(np.einsum("ij,ij->i", run, run), np.finfo(float).tiny)
    along = np.clip(np.einsum("ij,ij->i", place - start, run) / length, 0, 1)
    run *= along[:, None]
    run += start
    run -= place
    x, y = np.square(run, out=run).T
    return np.sqrt(x + y) <= reach, along


def _without_repeats(
    points: NDArray[np.float64], rings: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices less those that equal the one before them in their ring."""
    keep = np.ones(len(points), dtype=np.bool_)
    x, y = points.T
    keep[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1])
    keep[rings[:-1]] = True
    return points[keep], np.concatenate([[0], np.cumsum(keep)])[rings]


def _build(
    polygons: NDArray[np.object_],
    points: NDArray[np.float64],
    rings: NDArray[np.int64],
    shells: NDArray[np.int64],
) -> NDArray[np.object_]:
    """Polygons of rounded rings; those with nothing left of their shell stay as they are."""
    sizes = np.diff(rings)
    sound = sizes >= 4
    lost = ~sound[shells[:-1]]
    sound &= ~np.repeat(lost, np.diff(shells))
    points = points[np.repeat(sound, sizes)]
    rings = np.concatenate([[0], np.cumsum(sizes[sound])])
    shells = np.concatenate([[0], np.cumsum(sound)])[shells]
    built = shapely.from_ragged_array(GeometryType.POLYGON, points, (rings, shells))
    broken = ~shapely.is_valid(built)
    built[broken] = largest_parts(make_valid_polygons(built[broken]))
    # All of them: GEOS takes some rings with a spike for the other way round, and rounding ends it.
    built = shapely.orient_polygons(built, exterior_cw=False)
    thin = ~(shapely.area(built) > shapely.area(polygons) / 2)
    return np.where(thin, polygons, built)
