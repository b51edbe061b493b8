"""The parts of outlines that fall apart: which of them are buildings."""

from __future__ import annotations

import numpy as np
import shapely

from footprints.vector.outlines import Mask, Polygons

SLIVER_PX = 4.0
"""A part that is nowhere thicker than this is a sliver, unless it is all there ever was."""


def is_sliver(polygons: Polygons, thickness: float = SLIVER_PX) -> Mask:
    """(n,) whether polygons are nowhere thicker than some pixels."""
    return np.asarray(shapely.is_empty(shapely.buffer(polygons, -thickness / 2, quad_segs=1)))


def largest_parts(polygons: Polygons) -> Polygons:
    """The largest part of each of (n,) polygons, None for those that are empty or None."""
    return _rebuild(polygons, only_largest=True)


def without_slivers(polygons: Polygons) -> Polygons:
    """The largest part of each of (n,) polygons, with all others that are no slivers."""
    return _rebuild(polygons, only_largest=False)


def _rebuild(polygons: Polygons, *, only_largest: bool) -> Polygons:
    result = polygons.copy()
    several = np.flatnonzero(shapely.get_num_geometries(polygons) != 1)
    parts, owner = shapely.get_parts(polygons[several], return_index=True)
    order = np.lexsort((-shapely.area(parts), owner))
    largest = order[np.diff(owner[order], prepend=-1) > 0]
    result[several] = None
    result[several[owner[largest]]] = parts[largest]
    if only_largest or not len(parts):
        return result
    keep = ~is_sliver(parts)
    keep[largest] = True
    result[several] = shapely.multipolygons(parts[keep], indices=owner[keep])
    return result
