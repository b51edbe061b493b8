"""Round buildings: tanks, silos, towers, domes; circles of the area and middle of rings."""

from __future__ import annotations

import numpy as np

from footprints.vector.outlines import Indices, Polygons
from footprints.vector.ragged import build
from footprints.vector.walls import Floats, Rings, take_ragged

FEWEST_CORNERS = 16
SAGITTA_SHARE = 0.05
"""A side of the drawn circle leaves the true one by this share of the tolerance."""


def circle_costs(rings: Rings, which: Indices) -> Floats:
    """How far rings are from being circles.

    Args:
        rings: R rings in metres.
        which: (r,) numbers of those asked for.

    Returns:
        (r,) integrals of the squared distance between outline and circle.
    """
    if not len(which):
        return np.zeros(0)
    vertices, first = take_ragged(rings.first, which)
    points = rings.points[vertices]
    area, middle = _area_and_middle(points, first)
    sizes = np.diff(first)
    radius = np.repeat(np.sqrt(area / np.pi), sizes)
    x, y = (points - np.repeat(middle, sizes, axis=0)).T
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    length = np.hypot(x1 - x, y1 - y)
    length[first[1:] - 1] = 0.0
    begin = (np.hypot(x, y) - radius) ** 2
    halfway = (np.hypot((x + x1) / 2, (y + y1) / 2) - radius) ** 2
    # Simpson's rule on every edge.
    square = length * (begin + 4 * halfway + np.roll(begin, -1)) / 6
    return np.asarray(np.add.reduceat(square, first[:-1]))


def draw_circles(rings: Rings, which: Indices, owner: Indices, tolerance_m: float) -> Polygons:
    """Circles as polygons with a regular ring of the same area for each of theirs.

    Args:
        rings: R rings in metres.
        which: (r,) numbers of the rings to draw, those of a polygon together, its shell first.
        owner: (r,) equal for the rings of a polygon.
        tolerance_m: Metres; decides how many corners a drawn circle has.
    """
    if not len(which):
        return np.empty(0, dtype=object)
    vertices, first = take_ragged(rings.first, which)
    area, middle = _area_and_middle(rings.points[vertices], first)
    wanted = np.pi * np.sqrt(np.sqrt(area / np.pi) / (2 * SAGITTA_SHARE * tolerance_m))
    sides = 4 * np.maximum(np.ceil(wanted / 4), FEWEST_CORNERS // 4).astype(np.intp)
    # A ring's first corner closes it, too.
    first = np.concatenate([[0], np.cumsum(sides + 1)])
    ring = np.repeat(np.arange(len(which)), sides + 1)
    turn = 2 * np.pi / sides
    place = (np.arange(first[-1]) - first[ring]) % sides[ring]
    reach = np.sqrt(2 * area / (sides * np.sin(turn)))
    angle = place * turn[ring]
    corners = np.column_stack([np.cos(angle), np.sin(angle)]) * reach[ring, None]
    corners += (middle + rings.origin[which])[ring]
    shells = np.flatnonzero(np.diff(owner, prepend=-1))
    return build(corners, first, np.append(shells, len(which)))


def _area_and_middle(points: Floats, first: Indices) -> tuple[Floats, Floats]:
    """(r,) area and (r, 2) centre of mass of what rings enclose that begin at (r + 1,) vertices."""
    after = np.roll(points, -1, axis=0)
    cross = points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]
    cross[first[1:] - 1] = 0.0
    twice = np.add.reduceat(cross, first[:-1])
    safe = np.where(twice == 0, 1.0, twice)
    middle = np.add.reduceat(cross[:, None] * (points + after), first[:-1], axis=0)
    return np.abs(twice) / 2, middle / (3 * safe[:, None])
