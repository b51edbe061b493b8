"""Polygons as flat arrays: all vertices, where rings begin among them, and polygons among those."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import GeometryType

from footprints.vector.outlines import Indices, Polygons

Floats = NDArray[np.float64]


def flatten(polygons: Polygons) -> tuple[Floats, Indices, Indices]:
    """The vertices of (n,) polygons; multipolygons and None are not allowed.

    What `shapely.to_ragged_array` gives, but it makes an object of every ring for that, which takes
    several times as long where hardly a polygon has holes.

    Returns:
        (N, 2) vertices, the first of a ring repeated at its end; (R + 1,) first vertex of each
        ring; and (n + 1,) first ring of each polygon, its shell.
    """
    points = shapely.get_coordinates(polygons)
    size = shapely.get_num_coordinates(polygons)
    rings = 1 + shapely.get_num_interior_rings(polygons)
    first_ring = np.concatenate([[0], np.cumsum(rings)])
    sizes = np.repeat(size, rings)
    several = rings > 1
    if several.any():
        sizes[np.repeat(several, rings)] = shapely.get_num_points(
            shapely.get_rings(polygons[several])
        )
    return points, np.concatenate([[0], np.cumsum(sizes)]), first_ring


def build(points: Floats, first: Indices, first_ring: Indices) -> Polygons:
    """The polygons of what `flatten` gives."""
    polygons: Polygons = shapely.from_ragged_array(
        GeometryType.POLYGON, points, (first, first_ring)
    )
    return polygons
