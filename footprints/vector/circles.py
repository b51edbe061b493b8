"""Round buildings: tanks, silos, towers, domes."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import GeometryType

from footprints.vector.outlines import Indices, Polygons
from footprints.vector.walls import Floats, Rings

FEWEST_CORNERS = 16
SAGITTA_SHARE = 0.05
"""A side of the drawn circle leaves the true one by this share of the tolerance."""


def fit_circles(rings: Rings, first_ring: Indices, tolerance_m: float) -> tuple[Polygons, Floats]:
    """The circle of the same area and middle as each ring.

    Args:
        rings: R rings in metres.
        first_ring: (n + 1,) first ring of each polygon, its shell.
        tolerance_m: Metres; decides how many corners a drawn circle has.

    Returns:
        (n,) polygons with a regular ring for each of theirs, of the same area; and (R,) integrals
        of the squared distance between outline and circle.
    """
    x, y = rings.points.T
    ring = np.repeat(np.arange(len(rings)), np.diff(rings.first))
    area, middle = _area_and_middle(rings, ring)
    radius = np.sqrt(area / np.pi)
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    length = np.hypot(x1 - x, y1 - y)
    length[rings.first[1:] - 1] = 0.0
    cost = np.zeros(len(rings))
    # Simpson's rule on every edge.
    for share, weight in ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6)):
        away = np.hypot(
            x + share * (x1 - x) - middle[ring, 0], y + share * (y1 - y) - middle[ring, 1]
        )
        cost += weight * np.bincount(ring, length * (away - radius[ring]) ** 2, len(rings))

    wanted = np.pi * np.sqrt(radius / (2 * SAGITTA_SHARE * tolerance_m))
    sides = 4 * np.maximum(np.ceil(wanted / 4), FEWEST_CORNERS // 4).astype(np.intp)
    # A ring's first corner closes it, too.
    first = np.concatenate([[0], np.cumsum(sides + 1)])
    owner = np.repeat(np.arange(len(rings)), sides + 1)
    turn = 2 * np.pi / sides
    place = (np.arange(first[-1]) - first[owner]) % sides[owner]
    reach = np.sqrt(2 * area / (sides * np.sin(turn)))
    angle = place * turn[owner]
    corners = np.column_stack([np.cos(angle), np.sin(angle)]) * reach[owner, None]
    corners += (middle + rings.origin)[owner]
    circles: Polygons = shapely.from_ragged_array(
        GeometryType.POLYGON, corners, (first, np.asarray(first_ring))
    )
    return circles, cost


def _area_and_middle(rings: Rings, ring: Indices) -> tuple[Floats, Floats]:
    """(R,) area and (R, 2) centre of mass of what each ring encloses."""
    x, y = rings.points.T
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    cross = x * y1 - x1 * y
    cross[rings.first[1:] - 1] = 0.0
    twice = np.bincount(ring, cross, len(rings))
    safe = np.where(twice == 0, 1.0, twice)
    middle = np.column_stack(
        [
            np.bincount(ring, cross * (x + x1), len(rings)) / (3 * safe),
            np.bincount(ring, cross * (y + y1), len(rings)) / (3 * safe),
        ]
    )
    return np.abs(twice) / 2, middle
