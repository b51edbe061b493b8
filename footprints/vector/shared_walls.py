"""Walls of touching buildings that are one wall become one line.

That is a wall between two rooms, which both outlines follow, and a front that goes on from one
house to the next. Frame: metres, relative to each ring's origin, which lie in a common plane.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from footprints.vector.metric import components
from footprints.vector.outlines import Indices
from footprints.vector.walls import Floats, Rings, Walls

PARALLEL = np.sin(np.radians(20.0))
"""What two outlines follow together is a wall of both where their walls differ by less."""
BESIDE_SHARE = 0.6
"""Such walls lie within this share of the tolerance of each other."""
COMMON_SHARE = 0.3
"""Outlines have this share of the shorter wall in common, at least."""
IN_LINE = np.sin(np.radians(4.0))
IN_LINE_SHARE = 0.1
"""Walls that go on from house to house differ by less than this angle and share of the tolerance:
fronts that do step back by a brick or two stay as they are."""
SAME_POINT_M = 1e-4
"""Metres; vertices nearer to each other are the same."""


def share_walls(
    rings: Rings,
    walls: Walls,
    offset: Floats,
    owner: Indices,
    touching: Indices,
    tolerance_m: float,
) -> tuple[Walls, Floats]:
    """Put walls that belong together onto common lines.

    Args:
        rings: R rings.
        walls: W walls of some of them.
        offset: (W,) as `wall_offsets` gives them.
        owner: (R,) building of each ring.
        touching: (p, 2) buildings that touch.
        tolerance_m: Metres; walls farther apart stay apart.

    Returns:
        The walls with new directions, and their offsets. The longest wall of a line gives its
        direction, all of them its place.
    """
    building = owner[walls.ring]
    one, other = _pairs_of_walls(building, touching)
    cos, sin = np.cos(walls.angle), np.sin(walls.angle)
    along = np.column_stack([cos, sin])
    normal = np.column_stack([-sin, cos])
    ends = [
        _on_line(rings, walls.ring, rings.breakpoints[at], along, normal, offset)
        for at in (walls.start, walls.end)
    ]
    middle = (ends[0] + ends[1]) / 2
    length = np.hypot(*(ends[1] - ends[0]).T)

    swap = length[one] < length[other]
    one, other = np.where(swap, other, one), np.where(swap, one, other)
    turn = np.abs(cos[one] * sin[other] - sin[one] * cos[other])
    beside = np.abs(((middle[other] - middle[one]) * normal[one]).sum(axis=1))
    reach = [((end[other] - middle[one]) * along[one]).sum(axis=1) for end in ends]
    gap = np.maximum(np.minimum(*reach), -length[one] / 2) - np.minimum(
        np.maximum(*reach), length[one] / 2
    )
    in_line = (turn < IN_LINE) & (beside < IN_LINE_SHARE * tolerance_m) & (gap < tolerance_m)
    near = (turn < PARALLEL) & (beside < BESIDE_SHARE * tolerance_m) & (gap < 0) & ~in_line
    common = _common_lengths(rings, walls, one[near], other[near], along)
    joined = in_line
    joined[near] = common >= COMMON_SHARE * length[other[near]]
    if not joined.any():
        return walls, offset
    return _onto_lines(
        rings, walls, offset, np.column_stack([one, other])[joined], middle, length, tolerance_m
    )


def _onto_lines(
    rings: Rings,
    walls: Walls,
    offset: Floats,
    pairs: Indices,
    middle: Floats,
    length: Floats,
    tolerance_m: float,
) -> tuple[Walls, Floats]:
    line = components(len(length), pairs)
    lines = int(line.max()) + 1
    order = np.lexsort((length, line))
    leader = order[np.append(np.flatnonzero(np.diff(line[order])), len(order) - 1)]
    angle = walls.angle[leader]
    normal = np.column_stack([-np.sin(angle), np.cos(angle)])
    place = ((middle - middle[leader[line]]) * normal[line]).sum(axis=1)
    mean = np.bincount(line, length * place, lines) / np.maximum(
        np.bincount(line, length, lines), 1e-12
    )
    several = np.bincount(line, minlength=lines)[line] > 1
    # A chain of small steps, as along a bent street, is no line.
    moved = several & (np.abs(place - mean[line]) < BESIDE_SHARE * tolerance_m)
    new_angle = angle[line]
    backwards = np.cos(new_angle - walls.angle) < 0
    new_angle = np.where(backwards, new_angle + np.pi, new_angle)
    distance = (middle[leader] * normal).sum(axis=1) + mean
    at_origin = (rings.origin[walls.ring] * normal[line]).sum(axis=1)
    new_offset = np.where(backwards, -1, 1) * (distance[line] - at_origin)
    return (
        replace(walls, angle=np.where(moved, new_angle, walls.angle)),
        np.where(moved, new_offset, offset),
    )


def _common_lengths(
    rings: Rings, walls: Walls, one: Indices, other: Indices, along: Floats
) -> Floats:
    """(p,) metres that the runs of pairs of walls have in common, edge for edge.

    Outlines that only meet in corners, as those of pixels do across a lane, have none.
    """
    first, last = rings.breakpoints[walls.start], rings.breakpoints[walls.end]
    count = last - first
    wall = np.repeat(np.arange(len(count)), count)
    edge = np.arange(len(wall)) - np.repeat(np.cumsum(count) - count - first, count)
    number = _number_points(rings)
    ends = np.sort(np.column_stack([number[edge], number[edge + 1]]), axis=1)
    key = ends[:, 0] * (len(number) + 1) + ends[:, 1]
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(np.diff(key[order]) == 0)
    a, b = order[same], order[same + 1]
    step = rings.points[edge[a] + 1] - rings.points[edge[a]]
    low, high = np.minimum(wall[a], wall[b]), np.maximum(wall[a], wall[b])
    reach = np.abs((step * along[high]).sum(axis=1))
    pairs, found = np.unique(low * len(count) + high, return_inverse=True)
    total = np.bincount(found, reach, len(pairs))
    wanted = np.minimum(one, other) * len(count) + np.maximum(one, other)
    at = np.minimum(np.searchsorted(pairs, wanted), max(len(pairs) - 1, 0))
    if not len(pairs):
        return np.zeros(len(one))
    return np.asarray(np.where(pairs[at] == wanted, total[at], 0.0))


def _number_points(rings: Rings) -> Indices:
    """(N,) equal numbers for vertices at the same place."""
    ring = np.repeat(np.arange(len(rings)), np.diff(rings.first))
    cells = np.round((rings.points + rings.origin[ring]) / SAME_POINT_M)
    order = np.lexsort((cells[:, 1], cells[:, 0]))
    new = np.append(True, (np.diff(cells[order], axis=0) != 0).any(axis=1))
    number = np.empty(len(order), dtype=np.intp)
    number[order] = np.cumsum(new)
    return number


def _pairs_of_walls(building: Indices, touching: Indices) -> tuple[Indices, Indices]:
    """Every wall of the one building with every wall of the other, for each touching pair."""
    count = int(max(building.max(initial=-1), touching.max(initial=-1))) + 1
    order = np.argsort(building, kind="stable")
    first = np.searchsorted(building[order], np.arange(count + 1))
    walls = np.diff(first)
    a, b = touching.T
    size = walls[a] * walls[b]
    pair = np.repeat(np.arange(len(touching)), size)
    place = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    across = np.maximum(walls[b][pair], 1)
    return order[first[a][pair] + place // across], order[first[b][pair] + place % across]


def _on_line(
    rings: Rings, ring: Indices, vertex: Indices, along: Floats, normal: Floats, offset: Floats
) -> Floats:
    """(W, 2) the places in the plane where lines pass vertices."""
    point = rings.points[vertex]
    reach = (point * along).sum(axis=1, keepdims=True)
    return np.asarray(rings.origin[ring] + reach * along + offset[:, None] * normal)
