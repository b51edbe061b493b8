"""Walls of touching buildings that are one wall become one line.

That is a wall between two rooms, which both outlines follow, and a front that goes on from one
house to the next. Frame: metres, relative to each ring's origin, which lie in a common plane.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from footprints.vector.metric import components
from footprints.vector.outlines import Indices
from footprints.vector.touching import TOUCH_M
from footprints.vector.walls import Floats, Rings, Walls

PARALLEL = np.sin(np.radians(20.0))
"""What two outlines follow together is a wall of both where their walls differ by less."""
BESIDE_SHARE = 0.6
"""Such walls lie within this share of the tolerance of each other."""
COMMON_SHARE = 0.3
"""Outlines have this share of the shorter wall in common, at least."""
COMMON_IF_OVERLAP = 0.05
"""The same where the walls would overlap."""
IN_LINE = np.sin(np.radians(4.0))
IN_LINE_SHARE = 0.1
"""Walls that go on from house to house differ by less than this angle and share of the tolerance:
fronts that do step back by a brick or two stay as they are."""


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
    inwards = _dot(middle[other] - middle[one], normal[one])
    beside = np.abs(inwards)
    reach = [_dot(end[other] - middle[one], along[one]) for end in ends]
    gap = np.maximum(np.minimum(*reach), -length[one] / 2) - np.minimum(
        np.maximum(*reach), length[one] / 2
    )
    in_line = (turn < IN_LINE) & (beside < IN_LINE_SHARE * tolerance_m) & (gap < tolerance_m)
    near = (turn < PARALLEL) & (beside < BESIDE_SHARE * tolerance_m) & (gap < 0) & ~in_line
    common = _common_lengths(rings, walls, one[near], other[near], along)
    joined = in_line
    # Walls that would lie in one another's building are one, however little outlines tell.
    overlap = inwards[near] * _inner_side(rings, owner)[walls.ring[one[near]]] > 0
    least = np.where(overlap, COMMON_IF_OVERLAP, COMMON_SHARE)
    joined[near] = common >= least * length[other[near]]
    if not joined.any():
        return walls, offset
    return _onto_lines(
        rings, walls, offset, np.column_stack([one, other])[joined], middle, length, tolerance_m
    )


def _inner_side(rings: Rings, owner: Indices) -> Floats:
    """(R,) 1 for rings with their building on the left, and -1 for the others."""
    area = rings.moments[rings.first_break[1:] - 1, 6]
    is_shell = np.diff(owner, prepend=-1) > 0
    return np.where((area > 0) == is_shell, 1.0, -1.0)


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
    place = _dot(middle - middle[leader[line]], normal[line])
    mean = np.bincount(line, length * place, lines) / np.maximum(
        np.bincount(line, length, lines), 1e-12
    )
    several = np.bincount(line, minlength=lines)[line] > 1
    # A chain of small steps, as along a bent street, is no line.
    moved = several & (np.abs(place - mean[line]) < BESIDE_SHARE * tolerance_m)
    new_angle = angle[line]
    backwards = np.cos(new_angle - walls.angle) < 0
    new_angle = np.where(backwards, new_angle + np.pi, new_angle)
    distance = _dot(middle[leader], normal) + mean
    at_origin = _dot(rings.origin[walls.ring], normal[line])
    new_offset = np.where(backwards, -1, 1) * (distance[line] - at_origin)
    return (
        replace(walls, angle=np.where(moved, new_angle, walls.angle)),
        np.where(moved, new_offset, offset),
    )


def _common_lengths(
    rings: Rings, walls: Walls, one: Indices, other: Indices, along: Floats
) -> Floats:
    """(p,) metres, along the first one, that the runs of pairs of walls have in common.

    Outlines that only meet in corners, as those of pixels do across a lane, have none.
    """
    pair_a, a0, a1 = _run_edges(rings, walls, one)
    pair_b, b0, b1 = _run_edges(rings, walls, other)
    row, found = _side_by_side(
        pair_a, _reaches(a0, a1, along[one][pair_a]), pair_b, _reaches(b0, b1, along[one][pair_b])
    )
    a0, step = a0[row], (a1 - a0)[row]
    length = np.maximum(np.hypot(*step.T), 1e-12)
    unit = step / length[:, None]
    t0, d0 = _along_and_across(b0[found] - a0, unit)
    t1, d1 = _along_and_across(b1[found] - a0, unit)
    low = np.maximum(np.minimum(t0, t1), 0.0)
    high = np.minimum(np.maximum(t0, t1), length)
    slope = (d1 - d0) / np.where(np.abs(t1 - t0) < 1e-9, np.inf, t1 - t0)
    off = np.maximum(np.abs(d0 + (low - t0) * slope), np.abs(d0 + (high - t0) * slope))
    meet = (high > low) & (off <= TOUCH_M)
    pair = pair_a[row[meet]]
    share = np.abs(_dot(unit[meet], along[one[pair]]))
    return np.asarray(np.bincount(pair, (high - low)[meet] * share, len(one)))


def _run_edges(rings: Rings, walls: Walls, which: Indices) -> tuple[Indices, Floats, Floats]:
    """Edges of the runs of some walls: the position of the wall in ``which``, and (m, 2) ends."""
    first = rings.breakpoints[walls.start[which]]
    count = rings.breakpoints[walls.end[which]] - first
    run = np.repeat(np.arange(len(which)), count)
    edge = np.arange(len(run)) - np.repeat(np.cumsum(count) - count - first, count)
    origin = rings.origin[walls.ring[which]][run]
    return run, rings.points[edge] + origin, rings.points[edge + 1] + origin


def _reaches(begin: Floats, end: Floats, along: Floats) -> tuple[Floats, Floats]:
    """(m,) where edges begin and end along lines."""
    one, other = _dot(begin, along), _dot(end, along)
    return np.minimum(one, other), np.maximum(one, other)


def _along_and_across(vector: Floats, unit: Floats) -> tuple[Floats, Floats]:
    return _dot(vector, unit), vector[:, 1] * unit[:, 0] - vector[:, 0] * unit[:, 1]


def _dot(one: Floats, other: Floats) -> Floats:
    """(m,) products of pairs of vectors; several times as fast as a sum along so short an axis."""
    return one[:, 0] * other[:, 0] + one[:, 1] * other[:, 1]


def _side_by_side(
    pair_a: Indices,
    reach_a: tuple[Floats, Floats],
    pair_b: Indices,
    reach_b: tuple[Floats, Floats],
) -> tuple[Indices, Indices]:
    """Index of edges of the one and of the other run of a pair whose (low, high) reaches overlap.

    Both lists are in order of pairs.
    """
    pairs = int(max(pair_a.max(initial=-1), pair_b.max(initial=-1))) + 1
    start = np.full(pairs, np.inf)
    np.minimum.at(start, pair_a, reach_a[0])
    np.minimum.at(start, pair_b, reach_b[0])
    low_a, high_a = (each - start[pair_a] for each in reach_a)
    low_b, high_b = (each - start[pair_b] for each in reach_b)
    longest = np.zeros(pairs)
    np.maximum.at(longest, pair_b, high_b - low_b)
    # Pairs one behind the other on a single axis, so that one search serves all of them.
    width = max(high_a.max(initial=0.0), high_b.max(initial=0.0)) + longest.max(initial=0.0) + 1.0
    order = np.argsort(pair_b * width + low_b)
    key = (pair_b * width + low_b)[order]
    first = np.searchsorted(key, pair_a * width + low_a - longest[pair_a], "left")
    count = np.searchsorted(key, pair_a * width + high_a, "right") - first
    row = np.repeat(np.arange(len(pair_a)), count)
    at = np.arange(len(row)) - np.repeat(np.cumsum(count) - count - first, count)
    return row, order[at]


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
    reach = _dot(point, along)[:, None]
    return np.asarray(rings.origin[ring] + reach * along + offset[:, None] * normal)
