"""How much two shapes agree: common area and IoU, many pairs at once.

A polygon is the sum of the strips below its edges, down to a base line, those of edges to the right
less those of edges to the left. So the common area of two polygons is the sum over all pairs of
edges of the area below both, which has a closed form: no crossing has to be found, and nothing can
fail. With outlines of few walls that is twenty times as fast as a polygon overlay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.outlines import Indices, Polygons

Floats = NDArray[np.float64]

MOST_EDGES = 20_000
"""Edges worked on at once: their pairs stay in the processor's cache."""


def intersection_over_union(one: Polygons, other: Polygons) -> Floats:
    """(n,) IoU of pairs of polygons, 0 where one is None."""
    there = ~(shapely.is_missing(one) | shapely.is_missing(other))
    iou = np.zeros(len(one))
    common = common_area(one[there], other[there])
    union = shapely.area(one[there]) + shapely.area(other[there]) - common
    iou[there] = np.clip(common / np.maximum(union, 1e-12), 0.0, 1.0)
    return iou


def common_area(one: Polygons, other: Polygons) -> Floats:
    """Areas of the intersections of pairs of valid polygons.

    Args:
        one: (n,) polygons.
        other: (n,) polygons in the same plane.

    Returns:
        (n,) areas in square units, right to the rounding of coordinates within the pair's box.
    """
    if not len(one):
        return np.zeros(0)
    box, other_box = shapely.bounds(one), shapely.bounds(other)
    base = box[:, :2]
    # Beyond the box of the other there is nothing in common.
    reach = np.maximum(box[:, 0], other_box[:, 0]), np.minimum(box[:, 2], other_box[:, 2])
    low, high = reach[0] - base[:, 0], reach[1] - base[:, 0]
    # Only one list of edges is searched; the shorter one is sooner in order.
    if shapely.get_num_coordinates(one).sum() < shapely.get_num_coordinates(other).sum():
        one, other = other, one
    a, b = _edges(one, base, low, high), _edges(other, base, low, high)
    b = b.in_order()
    areas = np.zeros(len(one))
    done = a.first + b.first
    start = 0
    while start < len(one):
        end = max(start + 1, int(np.searchsorted(done, done[start] + MOST_EDGES, "right")) - 1)
        areas[start:end] = _common(a.of(start, end), b.of(start, end))
        start = end
    return areas


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Edges that are not vertical of n polygons, one polygon behind the other."""

    columns: Floats
    """(5, m) left x, right x, y at the left, slope, and 1 or -1 for the direction."""
    first: Indices
    """(n + 1,) first edge of each polygon."""

    @property
    def owner(self) -> Indices:
        """(m,) polygon of each edge."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def of(self, start: int, end: int) -> _Edges:
        """The edges of polygons from ``start`` until before ``end``."""
        low, high = self.first[start], self.first[end]
        return _Edges(self.columns[:, low:high], self.first[start : end + 1] - low)

    def in_order(self) -> _Edges:
        """The edges of each polygon in order of their left ends."""
        order = np.lexsort((self.columns[0], self.owner))
        return _Edges(self.columns[:, order], self.first)


def _edges(polygons: Polygons, base: Floats, low: Floats, high: Floats) -> _Edges:
    """Edges relative to (n, 2) bases, those between (n,) x ``low`` and ``high``."""
    _, points, (rings, parts) = shapely.to_ragged_array(polygons)
    rings, parts = np.asarray(rings, dtype=np.intp), np.asarray(parts, dtype=np.intp)
    ring = np.repeat(np.arange(len(rings) - 1), np.diff(rings) - 1)
    ring_owner = np.repeat(np.arange(len(polygons)), np.diff(parts))
    owner = ring_owner[ring]
    start = np.arange(len(ring)) + ring
    x, y = points.T
    x0, x1 = x[start] - base[owner, 0], x[start + 1] - base[owner, 0]
    y0, y1 = y[start] - base[owner, 1], y[start + 1] - base[owner, 1]
    # Shells clockwise, holes the other way round, however they are stored.
    clockwise = np.bincount(ring, (x1 - x0) * (y0 + y1), len(rings) - 1) > 0
    is_shell = np.zeros(len(rings) - 1, dtype=bool)
    is_shell[parts[:-1]] = True
    sign = np.where(clockwise == is_shell, 1.0, -1.0)
    kept = np.flatnonzero(
        (x0 != x1) & (np.maximum(x0, x1) > low[owner]) & (np.minimum(x0, x1) < high[owner])
    )
    x0, x1, y0, y1, owner = x0[kept], x1[kept], y0[kept], y1[kept], owner[kept]
    forward = x0 < x1
    columns = np.stack(
        [
            np.minimum(x0, x1),
            np.maximum(x0, x1),
            np.where(forward, y0, y1),
            (y1 - y0) / (x1 - x0),
            np.where(forward, sign[ring[kept]], -sign[ring[kept]]),
        ]
    )
    return _Edges(columns, np.searchsorted(owner, np.arange(len(polygons) + 1)))


def _common(a: _Edges, b: _Edges) -> Floats:
    """(n,) common areas of polygons; the edges of ``b`` are in order."""
    owner = a.owner
    low, others = _edges_in_reach(a, b)
    row = np.repeat(np.arange(len(owner)), others)
    j = np.arange(len(row)) - np.repeat(np.cumsum(others) - others - low, others)
    left = np.maximum(a.columns[0, row], b.columns[0, j])
    width = np.minimum(a.columns[1, row], b.columns[1, j]) - left
    meet = np.flatnonzero(width > 0)
    row, j, left, width = row[meet], j[meet], left[meet], width[meet]
    start_a, _, y_a, slope_a, sign_a = a.columns[:, row]
    start_b, _, y_b, slope_b, sign_b = b.columns[:, j]
    one_left = y_a + slope_a * (left - start_a)
    other_left = y_b + slope_b * (left - start_b)
    above_left = one_left - other_left
    above_right = above_left + (slope_a - slope_b) * width
    # The lower one of two lines is the mean of both less half their distance, which changes its
    # sign where they cross.
    middle = (one_left + other_left) / 2 + (slope_a + slope_b) * width / 4
    ends = np.abs(above_left) + np.abs(above_right)
    crosses = above_left * above_right < 0
    apart = np.where(
        crosses,
        (above_left**2 + above_right**2) / np.where(crosses, ends, 1.0),
        ends,
    )
    area = sign_a * sign_b * width * (middle - apart / 4)
    return np.asarray(np.bincount(owner[row], area, len(a.first) - 1), dtype=np.float64)


def _edges_in_reach(a: _Edges, b: _Edges) -> tuple[Indices, Indices]:
    """For each edge of one polygon, the first and the number of the other's that may be over it.

    Those begin left of its right end, and no farther left of its left end than the longest reaches.
    """
    longest = np.zeros(len(b.first) - 1)
    np.maximum.at(longest, b.owner, b.columns[1] - b.columns[0])
    start = min(a.columns[0].min(initial=0.0), b.columns[0].min(initial=0.0))
    # Polygons one behind the other on a single axis, so that one search serves all of them.
    width = max(a.columns[1].max(initial=0.0), b.columns[1].max(initial=0.0)) - start
    width += longest.max(initial=0.0) + 1.0
    owner = a.owner
    key = b.owner * width + (b.columns[0] - start)
    low = np.searchsorted(key, owner * width + (a.columns[0] - longest[owner] - start), "left")
    high = np.searchsorted(key, owner * width + (a.columns[1] - start), "left")
    return low, np.maximum(high - low, 0)
