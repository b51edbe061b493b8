"""Outlines as rings that can be cut anywhere, and the straight walls they are cut into.

Moments, summed along each outline, tell how far any stretch of it is from any line without looking
at its vertices again. Where the cuts are, `cutting` finds out.

Shapes: R rings, N vertices of all rings, M breakpoints of all rings (a selection of the vertices),
W walls. Frame: metres, x to the right and y up; angles in radians, counter-clockwise from the x
axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

NEARLY_PARALLEL = np.sin(np.radians(12.0))
"""Walls that meet at a flatter angle have no corner that could be trusted to their lines."""


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Closed outlines, their breakpoints and the moments of the outline up to each breakpoint."""

    origin: Floats
    """(R, 2) a point near each ring; everything else is relative to it, for precision's sake."""
    points: Floats
    """(N, 2) vertices, the first of a ring repeated at its end."""
    first: Indices
    """(R + 1,) first vertex of each ring."""
    breakpoints: Indices
    """(M,) vertices where a wall may end; the first and the last of each ring are among them."""
    first_break: Indices
    """(R + 1,) first breakpoint of each ring."""
    moments: Floats
    """(M, 7) integrals along the outline from the ring's start to each breakpoint, by arc length:
    of 1, x, y, x^2, xy, y^2; and of x dy."""

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def break_ring(self) -> Indices:
        """(M,) ring of each breakpoint."""
        return np.repeat(np.arange(len(self)), np.diff(self.first_break))


@dataclass(frozen=True, slots=True, eq=False)
class Walls:
    """Straight walls of rings, one behind the other; W walls in all, in ring order."""

    ring: Indices
    """(W,) ring of each wall."""
    start: Indices
    """(W,) breakpoint where its run starts, as an index into ``Rings.breakpoints``."""
    end: Indices
    """(W,) breakpoint where its run ends."""
    angle: Floats
    """(W,) direction, radians in [-pi / 2, 3 pi / 2)."""
    cost: Floats
    """(R,) cost of each ring: squared distances, and the price of its walls; infinite without."""


def find_rings(
    points: Floats, first: Indices, tolerance: Floats, *, origin: Floats | None = None
) -> Rings:
    """Choose the breakpoints of rings and integrate along their outlines.

    Args:
        points: (N, 2) vertices of all rings in metres, the first of a ring repeated at its end.
        first: (R + 1,) first vertex of each ring.
        tolerance: (R,) metres; between breakpoints an outline is this straight.
        origin: (R, 2) what the points are relative to; None takes a vertex of each ring.

    Returns:
        The rings, rotated so that each starts at the vertex farthest from its middle: that one is
        at a corner of the building, whatever its orientation.
    """
    counts = np.diff(first)
    ring = np.repeat(np.arange(len(counts)), counts)
    if origin is None:
        origin = points[first[:-1]]
    local = points - origin.take(ring, axis=0)
    middle = np.add.reduceat(local, first[:-1], axis=0) / counts[:, None]
    x, y = (local - middle.take(ring, axis=0)).T
    away = np.hypot(x, y)
    farthest = np.flatnonzero(away == np.maximum.reduceat(away, first[:-1]).take(ring))
    begin = farthest[np.searchsorted(farthest, first[:-1])] - first[:-1]
    number = np.arange(len(points))
    turned = number + begin.take(ring)
    turned -= np.where(turned >= (first[1:] - 1).take(ring), (counts - 1).take(ring), 0)
    local = local.take(turned, axis=0)

    numbered = np.column_stack([local, number])
    lines = shapely.linestrings(numbered, indices=ring)
    # Douglas-Peucker keeps vertices as they are, their number in the third coordinate included.
    kept = shapely.simplify(lines, tolerance, preserve_topology=False)
    vertices, owner = shapely.get_coordinates(kept, include_z=True, return_index=True)
    breakpoints = vertices[:, 2].astype(np.intp)
    first_break = np.searchsorted(owner, np.arange(len(counts) + 1))
    return Rings(
        origin,
        local,
        np.asarray(first, dtype=np.intp),
        breakpoints,
        first_break,
        _moments(local, ring, breakpoints),
    )


def _moments(points: Floats, ring: Indices, at: Indices) -> Floats:
    """(M, 7) integrals along the outline from the ring's start to vertices; see `Rings`."""
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    x1, y1 = np.ascontiguousarray(points.T)
    x0, y0 = np.roll(x1, 1), np.roll(y1, 1)
    length = np.hypot(x1 - x0, y1 - y0)
    pieces = np.empty((7, len(points)))
    pieces[0] = length
    pieces[1] = length * (x0 + x1) / 2
    pieces[2] = length * (y0 + y1) / 2
    pieces[3] = length * (x0 * x0 + x0 * x1 + x1 * x1) / 3
    pieces[4] = length * (2 * x0 * y0 + x0 * y1 + x1 * y0 + 2 * x1 * y1) / 6
    pieces[5] = length * (y0 * y0 + y0 * y1 + y1 * y1) / 3
    pieces[6] = (x0 + x1) / 2 * (y1 - y0)
    pieces[:, starts] = 0.0
    total = np.cumsum(pieces, axis=1, out=pieces)
    moments = total.take(at, axis=1)
    moments -= total.take(starts.take(ring.take(at)), axis=1)
    return np.asarray(moments.T)


def scatter(moments: Floats) -> tuple[Floats, Floats, Floats]:
    """Integrals of dx^2, dx dy and dy^2 about the middle of runs with (..., 7) moments."""
    length = np.maximum(moments[..., 0], 1e-12)
    x, y = moments[..., 1], moments[..., 2]
    return (
        moments[..., 3] - x * x / length,
        moments[..., 4] - x * y / length,
        moments[..., 5] - y * y / length,
    )


def wall_offsets(rings: Rings, walls: Walls) -> Floats:
    """(W,) distance of each wall's line from its ring's origin, to the left of its direction.

    The line leaves as much area on one side of it as on the other.
    """
    moments = rings.moments[walls.end] - rings.moments[walls.start]
    x0, y0 = rings.points[rings.breakpoints[walls.start]].T
    x1, y1 = rings.points[rings.breakpoints[walls.end]].T
    cos, sin = np.cos(walls.angle), np.sin(walls.angle)
    x_dx, y_dy = (x1 * x1 - x0 * x0) / 2, (y1 * y1 - y0 * y0) / 2
    x_dy = moments[:, 6]
    y_dx = x1 * y1 - x0 * y0 - x_dy
    reach = (x1 - x0) * cos + (y1 - y0) * sin
    return np.asarray(
        (-sin * cos * x_dx - sin * sin * x_dy + cos * cos * y_dx + cos * sin * y_dy) / reach
    )


def corners(rings: Rings, walls: Walls, offset: Floats) -> Floats:
    """(W, 2) where each wall meets the next one of its ring, relative to the ring's origin."""
    after = next_in_ring(walls.ring)
    cos, sin = np.cos(walls.angle), np.sin(walls.angle)
    turn = cos * sin[after] - sin * cos[after]
    flat = np.abs(turn) < NEARLY_PARALLEL
    safe = np.where(flat, 1.0, turn)
    x = (cos[after] * offset - cos * offset[after]) / safe
    y = (sin[after] * offset - sin * offset[after]) / safe
    found = np.column_stack([x, y])
    point = rings.points[rings.breakpoints[walls.end]]
    for line in (np.arange(len(after)), after):
        # Halfway between the two lines, where they pass the end of the run.
        distance = offset[line] + sin[line] * point[:, 0] - cos[line] * point[:, 1]
        shift = np.column_stack([-sin[line] * distance, cos[line] * distance])
        point = point + np.where(flat[:, None], shift / 2, 0.0)
    found[flat] = point[flat]
    return found


def farthest_from_walls(rings: Rings, walls: Walls, meet: Floats) -> Floats:
    """No less than the Hausdorff distance between rings and their walls, without searching for it.

    Each vertex is measured to the wall of its run, and each corner to the end of its run.

    Args:
        rings: R rings.
        walls: W walls.
        meet: (W, 2) corners, as `corners` gives them.

    Returns:
        (R,) metres, infinite for rings without walls.
    """
    farthest = np.full(len(rings), np.inf)
    if not len(meet):
        return farthest
    begin = np.empty_like(meet)
    begin[next_in_ring(walls.ring)] = meet
    first, last = rings.breakpoints[walls.start], rings.breakpoints[walls.end]
    count = last - first + 1
    starts = np.cumsum(count) - count
    vertex = np.arange(count.sum()) + np.repeat(first - starts, count)
    side = meet - begin
    square = np.maximum((side * side).sum(axis=1), 1e-18)
    side_x, side_y, share_x, share_y, begin_x, begin_y = np.repeat(
        [*side.T, *(side / square[:, None]).T, *begin.T], count, axis=1
    )
    x, y = rings.points[vertex].T
    x, y = x - begin_x, y - begin_y
    share = np.clip(x * share_x + y * share_y, 0.0, 1.0)
    x -= share * side_x
    y -= share * side_y
    away = np.sqrt(np.maximum.reduceat(x * x + y * y, starts))
    farthest[walls.ring] = 0.0
    np.maximum.at(farthest, walls.ring, away)
    np.maximum.at(farthest, walls.ring, np.hypot(*(meet - rings.points[last]).T))
    return farthest


def next_in_ring(ring: Indices) -> Indices:
    """(W,) index of what follows each entry, cyclically within entries of the same ring."""
    after = np.arange(1, len(ring) + 1)
    if len(ring):
        is_last = np.append(ring[1:] != ring[:-1], True)
        starts = np.append(0, np.flatnonzero(is_last)[:-1] + 1)
        after[is_last] = starts
    return after


def take_ragged(first: Indices, which: Indices) -> tuple[Indices, Indices]:
    """Index of the entries of some rows of a ragged array, and where the rows then start."""
    counts = np.diff(first)[which]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(starts[-1]) + np.repeat(first[which] - starts[:-1], counts), starts


def squared_distances(rings: Rings, walls: Walls) -> Floats:
    """(R,) integrals of the squared distance between outlines and their walls."""
    xx, xy, yy = scatter(rings.moments[walls.end] - rings.moments[walls.start])
    cos, sin = np.cos(walls.angle), np.sin(walls.angle)
    across = sin * sin * xx - 2 * cos * sin * xy + cos * cos * yy
    return np.asarray(np.bincount(walls.ring, across, len(rings)))


def only_rings(walls: Walls, rings: NDArray[np.bool_]) -> Walls:
    """The walls of some of the (R,) rings."""
    mine = rings[walls.ring]
    cost = np.where(rings, walls.cost, np.inf)
    return Walls(walls.ring[mine], walls.start[mine], walls.end[mine], walls.angle[mine], cost)
