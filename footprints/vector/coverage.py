"""Area coverage: how much of each cell of a grid over a box lies inside a polygon, exactly.

Every edge is cut at the grid lines it crosses, so that each piece lies in one cell. A piece that
rises by ``dy`` adds ``dy`` to every cell on its right and, to its own cell, ``dy`` times the share
of the cell on its right. Pieces of a closed ring cancel outside it. The sums are kept as
differences along the row, so that a piece touches two numbers only and one cumulative sum finishes
the grid.

Grid units: the box is [0, side] x [0, side], cell (row i, column j) is [j, j + 1] x [i, i + 1].
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray


def rasterize_coverage(
    polygons: NDArray[np.object_], boxes: NDArray[np.floating], side: int
) -> NDArray[np.float32]:
    """Exact area share of each cell of a grid over each polygon's box that the polygon covers.

    Args:
        polygons: (n,) shapely Polygon or MultiPolygon. None and empty ones cover nothing.
        boxes: (n, 4) x_min, y_min, x_max, y_max in the frame of the polygons. A box may cut its
            polygon anywhere; one without area gets zeros.
        side: Cells along each side of the grid.

    Returns:
        (n, side, side) coverage from 0 to 1, row 0 at y_min and column 0 at x_min.
    """
    starts, ends, owner = _edges_in_grid_units(polygons, boxes, side)
    for axis in (1, 0):
        starts, ends, parent = _cut_at_grid_lines(starts, ends, axis, side)
        owner = owner[parent]
    differences = _accumulate(starts, ends, owner, (len(polygons), side, side + 1))
    coverage = np.cumsum(differences, axis=2)[:, :, :side]
    return np.clip(coverage, 0.0, 1.0).astype(np.float32)


def _edges_in_grid_units(
    polygons: NDArray[np.object_], boxes: NDArray[np.floating], side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Starts (m, 2), ends (m, 2) and polygon (m,) of all edges that are not horizontal."""
    # One sense of rotation for shells and the other for holes makes holes subtract.
    oriented = shapely.orient_polygons(polygons, exterior_cw=True)
    parts, part_owner = shapely.get_parts(oriented, return_index=True)
    rings, ring_part = shapely.get_rings(parts, return_index=True)
    points, point_ring = shapely.get_coordinates(rings, return_index=True)
    owner = part_owner[ring_part[point_ring]]

    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    size = corners[:, 2:] - corners[:, :2]
    has_area = np.all(size > 0, axis=1)
    scale = side / np.where(has_area[:, None], size, 1.0)
    points = (points - corners[owner, :2]) * scale[owner]

    is_edge = (point_ring[1:] == point_ring[:-1]) & (points[1:, 1] != points[:-1, 1])
    first = np.flatnonzero(is_edge & has_area[owner[:-1]])
    return points[first], points[first + 1], owner[first]


def _cut_at_grid_lines(
    starts: NDArray[np.float64], ends: NDArray[np.float64], axis: int, side: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Cut edges at the grid lines 0..side across one axis.

    Args:
        starts: (m, 2) x, y in grid units.
        ends: (m, 2) x, y in grid units.
        axis: 0 cuts at lines of constant x, 1 at lines of constant y.
        side: Cells along each side of the grid; lines outside the box cut nothing.

    Returns:
        Starts and ends (k, 2) of the pieces, in order along their edges, and the edge (k,) of each.
    """
    from_, to = starts[:, axis], ends[:, axis]
    first_line = np.clip(np.floor(np.minimum(from_, to)) + 1, 0, side + 1)
    last_line = np.clip(np.ceil(np.maximum(from_, to)) - 1, -1, side)
    pieces = np.maximum(last_line - first_line + 1, 0).astype(np.int64) + 1
    last_piece = np.cumsum(pieces) - 1
    edge = np.repeat(np.arange(len(starts)), pieces)
    number = np.arange(len(edge)) - (last_piece - pieces + 1)[edge]

    line = np.where(to > from_, first_line - 1, last_line + 1)[edge]
    line += np.where(to > from_, 1, -1)[edge] * number
    is_cut = number > 0
    cut_edge, cut_line = edge[is_cut], line[is_cut]
    along = (cut_line - from_[cut_edge]) / (to - from_)[cut_edge]
    cuts = starts[cut_edge] + along[:, None] * (ends - starts)[cut_edge]
    cuts[:, axis] = cut_line

    piece_starts = starts[edge]
    piece_starts[is_cut] = cuts
    piece_ends = np.roll(piece_starts, -1, axis=0)
    piece_ends[last_piece] = ends
    return piece_starts, piece_ends, edge


def _accumulate(
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    owner: NDArray[np.int64],
    shape: tuple[int, int, int],
) -> NDArray[np.float64]:
    """Sum the pieces into differences along the row, of the given (n, side, side + 1) shape."""
    _, side, width = shape
    # What lies left of the box still covers every cell of its row, hence clip instead of drop;
    # what lies right of it covers none.
    x = np.clip((starts[:, 0] + ends[:, 0]) / 2, 0, side)
    row = np.floor((starts[:, 1] + ends[:, 1]) / 2).astype(np.int64)
    inside = (row >= 0) & (row < side) & (x < side)
    x, row = x[inside], row[inside]
    rise = (ends[:, 1] - starts[:, 1])[inside]
    column = x.astype(np.int64)
    cell = (owner[inside] * side + row) * width + column
    share_left = x - column
    size = int(np.prod(shape))
    differences = np.zeros(size)
    differences += np.bincount(cell, rise * (1 - share_left), minlength=size)
    differences += np.bincount(cell + 1, rise * share_left, minlength=size)
    return differences.reshape(shape)
