"""Convex plots of land: cut, shrink, divide and measure them.

A *ring* is a convex polygon as an array (k, 2) of its corners in town metres, x to the right and y
down, without the closing point. An empty ring has no corners.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

Ring = NDArray[np.float64]


def next_corner(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The next one of each along a ring; `numpy.roll` takes ten times as long."""
    return np.concatenate((values[1:], values[:1]))


def cut(ring: Ring, point: NDArray[np.float64], normal: NDArray[np.float64]) -> Ring:
    """Keep the part of a ring on the side of a line that the normal points to; may be empty."""
    if len(ring) == 0:
        return ring
    side = (ring - point) @ normal
    kept = []
    for here, there, a, b in zip(ring, next_corner(ring), side, next_corner(side), strict=True):
        if a >= 0:
            kept.append(here)
        if (a >= 0) != (b >= 0):
            kept.append(here + (there - here) * (a / (a - b)))
    return np.array(kept).reshape(-1, 2)


def inset(ring: Ring, distances: NDArray[np.float64] | float) -> Ring:
    """Move every side of a ring inwards by its distance; empty where nothing is left."""
    result = ring
    for start, normal, distance in zip(
        ring, _inward_normals(ring), np.broadcast_to(distances, len(ring)), strict=True
    ):
        result = cut(result, start + normal * distance, normal)
    return result


def long_direction(ring: Ring) -> NDArray[np.float64]:
    """Unit vector along the longest side."""
    along = next_corner(ring) - ring
    longest = along[np.argmax(np.linalg.norm(along, axis=1))]
    unit: NDArray[np.float64] = longest / np.linalg.norm(longest)
    return unit


def subdivide(
    ring: Ring, rng: np.random.Generator, largest_m2: float, gap_m: float
) -> Iterator[Ring]:
    """Halve a ring across its longer extent until every part is small enough.

    Args:
        ring: What to divide.
        rng: Decides how even the halves are.
        largest_m2: Parts above this area are halved.
        gap_m: Width of the lane left between halves.
    """
    if len(ring) < 3:
        return
    if area_m2(ring) < largest_m2:
        yield ring
        return
    u = long_direction(ring)
    v = np.array([-u[1], u[0]])
    normal = u if np.ptp(ring @ u) >= np.ptp(ring @ v) else v
    reach = ring @ normal
    middle = normal * (reach.min() + np.ptp(reach) * rng.uniform(0.42, 0.58))
    for sign in (1.0, -1.0):
        half = cut(ring, middle + sign * normal * gap_m / 2, sign * normal)
        yield from subdivide(half, rng, largest_m2, gap_m)


def area_m2(ring: Ring) -> float:
    """Area of a ring."""
    x, y = ring.T
    return float(abs(np.dot(x, next_corner(y)) - np.dot(y, next_corner(x))) / 2)


def fit_rectangle(
    ring: Ring, u: NDArray[np.float64], share: tuple[float, float] = (1.0, 1.0)
) -> tuple[NDArray[np.float64], float, float]:
    """Centre (2,), length and width of a rectangle along u that just fits into a ring.

    Args:
        ring: Where it must lie.
        u: Unit vector along its length.
        share: Its proportions: how much of the ring's extent along and across u it would like.
    """
    if len(ring) < 3:
        return np.zeros(2), 0.0, 0.0
    v = np.array([-u[1], u[0]])
    centre = shapely.get_coordinates(shapely.centroid(Polygon(ring)))[0]
    half = np.array([np.ptp(ring @ u) * share[0], np.ptp(ring @ v) * share[1]]) / 2
    normals = _inward_normals(ring)
    room = np.sum((centre - ring) * normals, axis=1)
    # A side is met first by the corner farthest against its normal.
    need = np.abs(normals @ u) * half[0] + np.abs(normals @ v) * half[1]
    half = half * min(1.0, float(np.min(room / need)))
    return centre, 2 * float(half[0]), 2 * float(half[1])


def _inward_normals(ring: Ring) -> NDArray[np.float64]:
    """(k, 2) unit normals of the sides, from each corner to the next."""
    along = next_corner(ring) - ring
    normals = np.column_stack([-along[:, 1], along[:, 0]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    middle = ring.mean(axis=0)
    inward: NDArray[np.float64] = normals * np.sign(
        np.sum((middle - ring) * normals, axis=1, keepdims=True)
    )
    return inward
