"""Outlines -> straight walls: where each wall begins and ends, by dynamic programming.

A ring is cut at some of its vertices into runs, each of which becomes one wall. The cost of a run
is the integral of the squared distance between the outline and its wall, plus a price per wall; the
cheapest way to cut the ring is found exactly (R. Bellman, "On the approximation of curves by line
segments using dynamic programming", 1961), for all rings of about the same size at once. Walls
either have one of a few directions (right angles, diagonals) or each its own.

Shapes: R rings, N vertices of all rings, M breakpoints of all rings (a selection of the vertices),
K directions, B rings of one batch with at most n breakpoints. Frame: metres, x to the right and y
up; angles in radians, counter-clockwise from the x axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

FORBIDDEN = 1e9
"""Cost of a run that is too short to be a wall; finite, so that every ring has a cheapest cut."""
BATCH_CELLS = 400_000
"""Numbers in the largest array of a batch: it stays within the processor's cache."""
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
    local = points - origin[ring]
    middle = np.add.reduceat(local, first[:-1], axis=0) / counts[:, None]
    away = np.hypot(*(local - middle[ring]).T)
    farthest = np.flatnonzero(away == np.maximum.reduceat(away, first[:-1])[ring])
    begin = farthest[np.searchsorted(farthest, first[:-1])] - first[:-1]
    place = np.arange(len(points)) - first[ring]
    local = local[first[ring] + (place + begin[ring]) % (counts - 1)[ring]]

    numbered = np.column_stack([local, place])
    lines = shapely.linestrings(numbered, indices=ring)
    # Douglas-Peucker keeps vertices as they are, their number in the third coordinate included.
    kept = shapely.simplify(lines, tolerance, preserve_topology=False)
    vertices, owner = shapely.get_coordinates(kept, include_z=True, return_index=True)
    breakpoints = vertices[:, 2].astype(np.intp) + first[owner]
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
    before = np.roll(points, 1, axis=0)
    inside = np.diff(ring, prepend=-1) == 0
    x0, y0 = before.T
    x1, y1 = points.T
    length = np.hypot(x1 - x0, y1 - y0)
    pieces = np.stack(
        [
            length,
            length * (x0 + x1) / 2,
            length * (y0 + y1) / 2,
            length * (x0 * x0 + x0 * x1 + x1 * x1) / 3,
            length * (2 * x0 * y0 + x0 * y1 + x1 * y0 + 2 * x1 * y1) / 6,
            length * (y0 * y0 + y0 * y1 + y1 * y1) / 3,
            (x0 + x1) / 2 * (y1 - y0),
        ]
    )
    pieces[:, ~inside] = 0.0
    total = np.cumsum(pieces, axis=1)
    starts = np.flatnonzero(~inside)
    return np.asarray((total[:, at] - total[:, starts[ring[at]]]).T)


def cut_at_directions(
    rings: Rings,
    which: Indices,
    angles: Floats,
    *,
    price: Floats,
    shortest: Floats,
    farthest: Floats,
) -> Walls:
    """Cut rings into walls of given directions; neighbouring walls have different ones.

    Args:
        rings: R rings.
        which: Index of the rings to cut; the others get no walls.
        angles: (R, K) directions of each ring, modulo pi.
        price: (R,) square metres times metres that a wall costs.
        shortest: (R,) metres; no wall is shorter.
        farthest: (R,) metres; walls that leave a vertex farther away are avoided.

    Returns:
        The cheapest walls; rings that cannot be cut so have no walls and an infinite cost.
    """
    return _cut(rings, which, angles, price, shortest, farthest)


def cut_anywhere(rings: Rings, which: Indices, *, price: Floats, shortest: Floats) -> Walls:
    """Cut rings into walls of any direction; arguments as for `cut_at_directions`."""
    return _cut(rings, which, None, price, shortest, np.full(len(rings), np.inf))


def _cut(
    rings: Rings,
    which: Indices,
    angles: Floats | None,
    price: Floats,
    shortest: Floats,
    farthest: Floats,
) -> Walls:
    counts = np.diff(rings.first_break)[which]
    directions = 1 if angles is None else angles.shape[1]
    order = np.argsort(counts, kind="stable")
    cost = np.full(len(rings), np.inf)
    found: list[tuple[Indices, Indices, Indices, Indices]] = []
    low = 0
    while low < len(order):
        size = counts[order[low]]
        room = max(1, int(BATCH_CELLS / (size * 1.25 * directions**2)))
        high = min(low + room, int(np.searchsorted(counts[order], size * 1.25 + 2, "right")))
        batch = np.sort(which[order[low:high]])
        states = None if angles is None else _States(rings, batch, angles[batch])
        table = _Table(rings, batch, price[batch], shortest[batch], farthest[batch], states)
        cost[batch], runs = table.solve()
        found.append(runs)
        low = high
    ring, start, end, state = (
        (np.concatenate(parts) for parts in zip(*found, strict=True))
        if found
        else (np.empty(0, dtype=np.intp),) * 4
    )
    order = np.lexsort((start, ring))
    ring, start, end, state = ring[order], start[order], end[order], state[order]
    if angles is None:
        angle = _own_direction(rings.moments[end] - rings.moments[start])
    else:
        angle = angles[ring, state]
    step = _step(rings, start, end)
    angle = np.where(
        step[:, 0] * np.cos(angle) + step[:, 1] * np.sin(angle) < 0, angle + np.pi, angle
    )
    return Walls(ring, start, end, angle, cost)


def _step(rings: Rings, start: Indices, end: Indices) -> Floats:
    """(W, 2) from the first to the last vertex of each run."""
    return rings.points[rings.breakpoints[end]] - rings.points[rings.breakpoints[start]]


def _own_direction(moments: Floats) -> Floats:
    """(W,) principal direction of runs with the given (W, 7) moments."""
    xx, xy, yy = scatter(moments)
    return 0.5 * np.arctan2(2 * xy, xx - yy)


def scatter(moments: Floats) -> tuple[Floats, Floats, Floats]:
    """Integrals of dx^2, dx dy and dy^2 about the middle of runs with (..., 7) moments."""
    length = np.maximum(moments[..., 0], 1e-12)
    x, y = moments[..., 1], moments[..., 2]
    return (
        moments[..., 3] - x * x / length,
        moments[..., 4] - x * y / length,
        moments[..., 5] - y * y / length,
    )


class _States:
    """Distances from walls of given directions, per breakpoint of a batch."""

    def __init__(self, rings: Rings, batch: Indices, angles: Floats) -> None:
        normal = np.stack([-np.sin(angles), np.cos(angles)], axis=-1)
        along = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        # Extremes of every distance between a breakpoint and the next.
        vertices, first = _take_ragged(rings.first, batch)
        ring = np.repeat(np.arange(len(batch)), np.diff(first))
        distance = np.einsum("nd,nkd->nk", rings.points[vertices], normal[ring])
        breaks, self.first = _take_ragged(rings.first_break, batch)
        owner = np.repeat(np.arange(len(batch)), np.diff(self.first))
        at = rings.breakpoints[breaks] - rings.first[batch][owner] + first[:-1][owner]
        high = np.maximum.reduceat(distance, at, axis=0)
        low = np.minimum.reduceat(distance, at, axis=0)
        self.high = np.maximum(high[:-1], distance[at[1:]])
        self.low = np.minimum(low[:-1], distance[at[1:]])
        moments = rings.moments[breaks]
        a, b = normal[owner].transpose(2, 0, 1)
        self.sum = a * moments[:, 1:2] + b * moments[:, 2:3]
        self.square = (
            a * a * moments[:, 3:4] + 2 * a * b * moments[:, 4:5] + b * b * moments[:, 5:6]
        )
        self.place = np.einsum("md,mkd->mk", rings.points[rings.breakpoints[breaks]], along[owner])


class _Table:
    """The dynamic programme of one batch: B rings, padded to n breakpoints, K directions."""

    def __init__(
        self,
        rings: Rings,
        batch: Indices,
        price: Floats,
        shortest: Floats,
        farthest: Floats,
        states: _States | None,
    ) -> None:
        self.batch = batch
        self.first = rings.first_break[batch]
        self.last = rings.first_break[batch + 1] - 1 - self.first
        self.size = int(self.last.max()) + 1
        column = np.minimum(np.arange(self.size), self.last[:, None])
        self.price, self.shortest, self.farthest = (
            each[:, None, None] for each in (price, shortest, farthest)
        )
        rows = self.first[:, None] + column
        self.moments = rings.moments[rows]
        self.points = rings.points[rings.breakpoints[rows]]
        self.states = states
        if states is not None:
            local = states.first[:-1, None] + column
            self.sum, self.square, self.place = (
                each[local] for each in (states.sum, states.square, states.place)
            )
            inner = np.minimum(local, len(states.high) - 1)
            self.high, self.low = states.high[inner], states.low[inner]

    def solve(self) -> tuple[Floats, tuple[Indices, Indices, Indices, Indices]]:
        """Cheapest cost (B,), and ring, start, end and direction of every run."""
        n, rings = self.size, len(self.batch)
        kinds = 1 if self.states is None else self.sum.shape[2]
        # best[b, j, l, k]: up to breakpoint j, the last run in direction k, where the ring's very
        # last run will be in direction l; the run before the first one is that last run.
        best = np.full((rings, n, kinds, kinds), np.inf)
        best[:, 0][:, np.arange(kinds), np.arange(kinds)] = 0.0
        other = np.full((rings, n, kinds, kinds), np.inf)
        other[:, 0] = _best_other(best[:, 0])
        source = np.zeros((rings, n, kinds, kinds), dtype=np.intp)
        if self.states is not None:
            self.top = np.full((rings, n, kinds), -np.inf)
            self.bottom = np.full((rings, n, kinds), np.inf)
        for j in range(1, n):
            cost = self._cost(j) if self.states is not None else self._free_cost(j)
            total = other[:, :j] + cost[:, :, None, :]
            source[:, j] = total.argmin(axis=1)
            best[:, j] = np.take_along_axis(total, source[:, j][:, None], axis=1)[:, 0]
            other[:, j] = _best_other(best[:, j])
        return self._trace_back(best, source)

    def _cost(self, j: int) -> Floats:
        """(B, j, K) cost of runs from each breakpoint before ``j`` to ``j``."""
        top, bottom = self.top[:, :j], self.bottom[:, :j]
        np.maximum(top, self.high[:, j - 1, None], out=top)
        np.minimum(bottom, self.low[:, j - 1, None], out=bottom)
        length = np.maximum(self.moments[:, j, None, :1] - self.moments[:, :j, :1], 1e-9)
        total = self.sum[:, j, None] - self.sum[:, :j]
        mean = total / length
        cost = self.square[:, j, None] - self.square[:, :j] - mean * total
        reach = np.abs(self.place[:, j, None] - self.place[:, :j])
        excess = np.maximum(np.maximum(top - mean, mean - bottom) - self.farthest, 0.0)
        cost += self.price * (1.0 + (excess > 0) * (4.0 + 4.0 * excess / self.farthest))
        cost[reach < self.shortest] = FORBIDDEN
        return np.asarray(cost)

    def _free_cost(self, j: int) -> Floats:
        """(B, j, 1) the same for walls of any direction."""
        xx, xy, yy = scatter(self.moments[:, j, None] - self.moments[:, :j])
        least = (xx + yy - np.sqrt((xx - yy) ** 2 + 4 * xy * xy)) / 2
        step = self.points[:, j, None] - self.points[:, :j]
        cost = np.maximum(least, 0.0)[..., None] + self.price
        cost[np.hypot(step[..., 0], step[..., 1])[..., None] < self.shortest] = FORBIDDEN
        return np.asarray(cost)

    def _trace_back(
        self, best: Floats, source: Indices
    ) -> tuple[Floats, tuple[Indices, Indices, Indices, Indices]]:
        rows = np.arange(len(self.batch))
        kinds = best.shape[2]
        ends = best[rows, self.last][:, np.arange(kinds), np.arange(kinds)]
        final = ends.argmin(axis=1)
        cost = ends[rows, final]
        cost[cost >= FORBIDDEN] = np.inf
        at, state = self.last.copy(), final.copy()
        runs = []
        alive = rows[np.isfinite(cost)]
        while len(alive):
            j, last, kind = at[alive], final[alive], state[alive]
            i = source[alive, j, last, kind]
            runs.append((self.batch[alive], self.first[alive] + i, self.first[alive] + j, kind))
            before = best[alive, i, last].copy()
            if kinds > 1:
                before[np.arange(len(alive)), kind] = np.inf
            at[alive], state[alive] = i, before.argmin(axis=1)
            alive = alive[i > 0]
        if not runs:
            return cost, (np.empty(0, dtype=np.intp),) * 4
        ring, start, end, kind = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        return cost, (ring, start, end, kind)


def _best_other(best: Floats) -> Floats:
    """For each direction the least (..., K) cost among the other directions."""
    kinds = best.shape[-1]
    if kinds == 1:
        return best
    if kinds == 2:
        return best[..., ::-1]
    least = best.argmin(axis=-1)[..., None] == np.arange(kinds)
    second = np.where(least, np.inf, best).min(axis=-1, keepdims=True)
    return np.asarray(np.where(least, second, best.min(axis=-1, keepdims=True)))


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
    begin = np.empty_like(meet)
    begin[next_in_ring(walls.ring)] = meet
    first, last = rings.breakpoints[walls.start], rings.breakpoints[walls.end]
    count = last - first + 1
    wall = np.repeat(np.arange(len(count)), count)
    vertex = np.arange(len(wall)) - np.repeat(np.cumsum(count) - count - first, count)
    side = meet - begin
    square = np.maximum((side * side).sum(axis=1), 1e-18)
    away = rings.points[vertex] - begin[wall]
    share = np.clip((away * side[wall]).sum(axis=1) / square[wall], 0.0, 1.0)
    away -= share[:, None] * side[wall]
    farthest = np.full(len(rings), np.inf)
    farthest[walls.ring] = 0.0
    np.maximum.at(farthest, walls.ring[wall], np.hypot(*away.T))
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


def _take_ragged(first: Indices, which: Indices) -> tuple[Indices, Indices]:
    """Index of the entries of some rows of a ragged array, and where the rows then start."""
    counts = np.diff(first)[which]
    starts = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    return np.repeat(first[which], counts) + place, starts
