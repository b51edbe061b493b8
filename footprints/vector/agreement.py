"""How much two shapes agree: common area and IoU, many pairs at once.

A polygon is the sum of the strips below its edges, down to a base line, those of edges to the right
less those of edges to the left. So the common area of two polygons is the sum over all pairs of
edges of the area below both, which has a closed form: no crossing has to be found, and nothing can
fail. With outlines of few walls that is twenty times as fast as a polygon overlay.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.outlines import Polygons

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
    base = shapely.bounds(one)[:, :2]
    a, first_a = _edges(one, base)
    b, first_b = _edges(other, base)
    areas = np.zeros(len(one))
    done = first_a + first_b
    low = 0
    while low < len(one):
        high = max(low + 1, int(np.searchsorted(done, done[low] + MOST_EDGES, "right")) - 1)
        areas[low:high] = _common(a, first_a[low : high + 1], b, first_b[low : high + 1])
        low = high
    return areas


def _edges(polygons: Polygons, base: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Edges (m, 5) that are not vertical, relative to (n, 2) bases, and where each polygon's start.

    Columns: left x, right x, y at the left, slope, and 1 or -1 for the direction. The edges of a
    polygon are in order of their left ends.
    """
    oriented = shapely.orient_polygons(polygons, exterior_cw=True)
    _, points, (rings, parts) = shapely.to_ragged_array(oriented)
    rings, parts = np.asarray(rings), np.asarray(parts)
    owner = np.repeat(np.arange(len(polygons)), np.diff(rings[parts]))
    points = points - base[owner]
    inside = np.ones(len(points), dtype=bool)
    inside[rings[1:] - 1] = False
    start = np.flatnonzero(inside)
    start = start[points[start, 0] != points[start + 1, 0]]
    p, q = points[start], points[start + 1]
    forward = p[:, 0] < q[:, 0]
    left, right = np.where(forward[:, None], p, q), np.where(forward[:, None], q, p)
    slope = (right[:, 1] - left[:, 1]) / (right[:, 0] - left[:, 0])
    sign = np.where(forward, 1.0, -1.0)
    first = np.searchsorted(owner[start], np.arange(len(polygons) + 1))
    edges = np.column_stack([left[:, 0], right[:, 0], left[:, 1], slope, sign])
    return edges[np.lexsort((left[:, 0], owner[start]))], first


def _common(a: Floats, first_a: NDArray[np.intp], b: Floats, first_b: NDArray[np.intp]) -> Floats:
    """(n,) common areas of polygons whose edges start where ``first_a`` and ``first_b`` say."""
    polygons = len(first_a) - 1
    edge = np.arange(first_a[0], first_a[-1])
    owner = np.repeat(np.arange(polygons), np.diff(first_a))
    low, others = _edges_in_reach(a[edge], owner, b[first_b[0] : first_b[-1]], np.diff(first_b))
    low += first_b[0]
    row = np.repeat(np.arange(len(edge)), others)
    j = np.arange(len(row)) - np.repeat(np.cumsum(others) - others - low, others)
    left = np.maximum(a[edge, 0][row], b[:, 0].copy()[j])
    right = np.minimum(a[edge, 1][row], b[:, 1].copy()[j])
    meet = np.flatnonzero(right > left)
    i, j, left = edge[row[meet]], j[meet], left[meet]
    width = right[meet] - left
    start_a, _, y_a, slope_a, sign_a = a[i].T
    start_b, _, y_b, slope_b, sign_b = b[j].T
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
    return np.asarray(np.bincount(owner[row[meet]], area, polygons), dtype=np.float64)


def _edges_in_reach(
    a: Floats, owner: NDArray[np.intp], b: Floats, count_b: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each edge of one polygon, the first and the number of the other's that may be over it.

    Those begin left of its right end, and no farther left of its left end than the longest reaches.
    """
    owner_b = np.repeat(np.arange(len(count_b)), count_b)
    longest = np.zeros(len(count_b))
    np.maximum.at(longest, owner_b, b[:, 1] - b[:, 0])
    start = min(a[:, 0].min(initial=0.0), b[:, 0].min(initial=0.0))
    # Polygons one behind the other on a single axis, so that one search serves all of them.
    width = max(a[:, 1].max(initial=0.0), b[:, 1].max(initial=0.0)) - start
    width += longest.max(initial=0.0) + 1.0
    key = owner_b * width + (b[:, 0] - start)
    left = owner * width + (a[:, 0] - longest[owner] - start)
    low = np.searchsorted(key, left, "left")
    high = np.searchsorted(key, owner * width + (a[:, 1] - start), "left")
    return low, np.maximum(high - low, 0)
