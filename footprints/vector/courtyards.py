"""Courtyards of roofs wider than a chip: what the fine pass saw open stays open.

A coarse pass sees a courtyard in few pixels and often fills it. In the fine pass the pieces of the
roof join around it. They join around ground without a piece as well, where chips showed nothing
but roof: there they end at the edges of chips, and at a courtyard at its walls.

Frame: grid pixels of the fine pass.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import ChipGrid
from footprints.vector.outlines import Footprints, Indices, Polygons
from footprints.vector.parts import is_sliver, largest_parts
from footprints.vector.seams import EDGE_PX

BLIND_SHARE = 0.75
"""A hole with this share of its rim at edges of chips is no courtyard. A wall may lie at an edge by
chance, and two; all of them hardly ever do."""


def open_courtyards(
    roofs: Polygons, fine: Footprints, roof: Indices, piece: Indices, grid: ChipGrid, width: float
) -> Polygons:
    """Open in coarse roofs the courtyards that fragments of them show.

    Args:
        roofs: (n,) coarse outlines.
        fine: Footprints of the fine pass.
        roof: (p,) roof of each pair.
        piece: (p,) a fragment of it.
        grid: The chips of the fine pass.
        width: Pixels; what is nowhere wider is no courtyard.

    Returns:
        (n,) roofs.
    """
    rings, owner = shapely.get_rings(fine.polygons[piece], return_index=True)
    is_hole = np.diff(owner, prepend=-1) == 0
    holes, of_roof = shapely.polygons(rings[is_hole]), roof[owner[is_hole]]
    seen = ~is_sliver(holes, width) & (_share_at_edges(holes, grid) < BLIND_SHARE)
    opened = roofs.copy()
    for number in np.unique(of_roof[seen]):
        yards = shapely.union_all(holes[seen & (of_roof == number)])
        opened[number] = shapely.difference(opened[number], yards)
    return largest_parts(opened)


def _share_at_edges(holes: Polygons, grid: ChipGrid) -> NDArray[np.float64]:
    """(n,) share of each hole's rim at which the roof ends with a chip."""
    rims = shapely.get_exterior_ring(shapely.orient_polygons(holes))
    corners, rim = shapely.get_coordinates(rims, return_index=True)
    inner = rim[1:] == rim[:-1]
    start, end, owner = corners[:-1][inner], corners[1:][inner], rim[1:][inner]
    step = end - start
    at_edge = np.zeros(len(start), dtype=bool)
    # The hole lies to the left of its rim, so the way it runs tells whether chips with the roof
    # begin or end there.
    for axis, begins, starts, side in (
        (0, step[:, 1] > 0, grid.column_starts, grid.chip_width),
        (1, step[:, 0] < 0, grid.row_starts, grid.chip_height),
    ):
        edges = np.array(starts, dtype=np.float64)
        for which, lines in ((begins, edges), (~begins, edges + side)):
            near = _distance(start[:, axis], lines) <= EDGE_PX
            near &= _distance(end[:, axis], lines) <= EDGE_PX
            at_edge |= near & which
    length = np.hypot(*step.T)
    along = np.bincount(owner, length * at_edge, len(holes))
    return np.asarray(along / shapely.length(rims))


def _distance(places: NDArray[np.float64], lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) distance of places to the nearest of sorted lines."""
    after = np.searchsorted(lines, places)
    below = lines[np.maximum(after - 1, 0)]
    above = lines[np.minimum(after, len(lines) - 1)]
    return np.minimum(np.abs(places - below), np.abs(above - places))
