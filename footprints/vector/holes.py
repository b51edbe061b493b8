"""Small holes in roofs: chimneys, light wells and noise that no outline of walls should follow."""

from __future__ import annotations

import numpy as np
import shapely

from footprints.vector.agreement import common_area
from footprints.vector.outlines import Indices, Polygons
from footprints.vector.parts import is_sliver
from footprints.vector.touching import NO_AREA_M2


def close_small_holes(polygons: Polygons, width_m: float) -> tuple[Polygons, Polygons]:
    """Fill holes that are nowhere wider than some metres, unless another building stands in them.

    Args:
        polygons: (n,) valid polygons in metres.
        width_m: Metres.

    Returns:
        (n,) polygons; and (n,) what was filled of each, a MultiPolygon, or None for nothing.
    """
    filled = np.full(len(polygons), None, dtype=object)
    owners = np.flatnonzero(shapely.get_num_interior_rings(polygons) > 0)
    rings, row = shapely.get_rings(polygons[owners], return_index=True)
    is_hole = np.diff(row, prepend=-1) == 0
    holes, owner = shapely.polygons(rings[is_hole]), owners[row[is_hole]]
    # A circle of radius area / length fits into any polygon: most holes need no closer look.
    narrow = np.flatnonzero(shapely.area(holes) < shapely.length(holes) * width_m / 2)
    narrow = narrow[is_sliver(holes[narrow], width_m)]
    holes, owner = holes[narrow], owner[narrow]
    empty = ~_inhabited(holes, owner, polygons)
    holes, owner = holes[empty], owner[empty]
    if not len(holes):
        return polygons, filled
    which = np.unique(owner)
    filled[which] = shapely.multipolygons(holes, indices=np.searchsorted(which, owner))
    return _without(polygons, which, holes, owner), filled


def _inhabited(holes: Polygons, owner: Indices, polygons: Polygons) -> Indices:
    """(h,) whether other polygons share ground with holes."""
    hole, other = shapely.STRtree(polygons).query(holes, predicate="intersects")
    foreign = owner[hole] != other
    hole, other = hole[foreign], other[foreign]
    result = np.zeros(len(holes), dtype=bool)
    result[hole[common_area(holes[hole], polygons[other]) > NO_AREA_M2]] = True
    return result


def _without(polygons: Polygons, which: Indices, holes: Polygons, owner: Indices) -> Polygons:
    result = polygons.copy()
    starts = shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(holes), 0))
    gone = {(int(o), *start) for o, start in zip(owner, starts.tolist(), strict=True)}
    for index in which.tolist():
        polygon = polygons[index]
        kept = [ring for ring in polygon.interiors if (index, *ring.coords[0]) not in gone]
        result[index] = shapely.Polygon(polygon.exterior, kept)
    return result
