"""Where each wall of an outline begins and ends, by dynamic programming.

A ring is cut at some of its breakpoints into runs, each of which becomes one wall. The cost of a
run is the integral of the squared distance between the outline and its wall, plus a price per wall;
the cheapest way to cut the ring is found exactly (R. Bellman, "On the approximation of curves by
line segments using dynamic programming", 1961), for all rings of about the same size at once. Walls
either have one of a few directions (right angles, diagonals) or each its own.

Shapes: R rings, K directions, B rings of one batch with at most n breakpoints. The rings of a batch
are the last axis, so that every step works along contiguous memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from footprints.vector.walls import Floats, Indices, Rings, Walls, scatter

FORBIDDEN = 1e9
"""Cost of a run that is too short to be a wall; finite, so that every ring has a cheapest cut."""
BATCH_CELLS = 100_000
"""Numbers in the largest array of a batch: it stays within the processor's cache."""
SPAN = 1.6
"""The longest ring of a batch has this many times the breakpoints of the shortest: padding costs
less than more batches."""
TOO_FAR = 4.0
"""Walls' worth of cost for a wall that leaves a vertex too far away, and again for each time that
it does so by the distance allowed."""


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
    found: list[tuple[Indices, ...]] = []
    low = 0
    while low < len(order):
        size = counts[order[low]]
        room = max(1, int(BATCH_CELLS / (size * SPAN * directions**2)))
        high = min(low + room, int(np.searchsorted(counts[order], size * SPAN + 2, "right")))
        rows = np.sort(which[order[low:high]])
        batch = _Batch.of(rings, rows)
        if angles is None:
            costs: _FreeCosts | _DirectedCosts = _FreeCosts(rings, batch, shortest[rows])
        else:
            costs = _DirectedCosts(
                rings, batch, angles[rows], price[rows], shortest[rows], farthest[rows]
            )
        cost[rows], runs = _solve(batch, costs, directions, price[rows])
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


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """B rings, padded to n breakpoints."""

    rings: Indices
    """(B,) their numbers."""
    first: Indices
    """(B,) first breakpoint of each."""
    last: Indices
    """(B,) how many come after it."""
    column: Indices
    """(n, B) breakpoint of the ring for each place; the last one fills up."""

    @classmethod
    def of(cls, rings: Rings, which: Indices) -> _Batch:
        first = rings.first_break[which]
        last = rings.first_break[which + 1] - 1 - first
        return cls(which, first, last, np.minimum(np.arange(last.max() + 1)[:, None], last))


class _DirectedCosts:
    """Costs of runs as walls of given directions."""

    def __init__(
        self,
        rings: Rings,
        batch: _Batch,
        angles: Floats,
        price: Floats,
        shortest: Floats,
        farthest: Floats,
    ) -> None:
        breaks, first = _take_ragged(rings.first_break, batch.rings)
        owner = np.repeat(np.arange(len(batch.rings)), np.diff(first))
        cos, sin = np.cos(angles).T, np.sin(angles).T
        at = first[:-1] + batch.column
        high, low = self._extremes(rings, batch.rings, cos, sin, first)
        self.high, self.low = (each[:, np.minimum(at, len(breaks) - 2)] for each in (high, low))
        cos, sin = cos[:, owner], sin[:, owner]
        moments = rings.moments[breaks].T
        points = rings.points[rings.breakpoints[breaks]].T
        self.length = moments[0][at]
        self.sum = (cos * moments[2] - sin * moments[1])[:, at]
        square = sin * sin * moments[3] - 2 * sin * cos * moments[4] + cos * cos * moments[5]
        self.square = square[:, at]
        self.place = (cos * points[0] + sin * points[1])[:, at]
        self.top = np.full(self.sum.shape, -np.inf)
        self.bottom = np.full(self.sum.shape, np.inf)
        self.shortest, self.farthest = shortest, farthest
        self.too_far = TOO_FAR * price
        self.farther = TOO_FAR * price / farthest

    @staticmethod
    def _extremes(
        rings: Rings, which: Indices, cos: Floats, sin: Floats, first_break: Indices
    ) -> tuple[Floats, Floats]:
        """(K, m) highest and lowest vertex from each breakpoint to the next, across directions."""
        vertices, first = _take_ragged(rings.first, which)
        ring = np.repeat(np.arange(len(which)), np.diff(first))
        x, y = rings.points[vertices].T
        distance = cos[:, ring] * y - sin[:, ring] * x
        breaks, _ = _take_ragged(rings.first_break, which)
        owner = np.repeat(np.arange(len(which)), np.diff(first_break))
        at = rings.breakpoints[breaks] - rings.first[which][owner] + first[:-1][owner]
        high = np.maximum.reduceat(distance, at, axis=1)
        low = np.minimum.reduceat(distance, at, axis=1)
        ends = distance[:, at[1:]]
        return np.maximum(high[:, :-1], ends), np.minimum(low[:, :-1], ends)

    def to(self, j: int) -> Floats:
        """(K, j, B) cost of runs from each breakpoint before ``j`` to ``j``, but for the price.

        To be asked for every ``j`` from 1, one after the other.
        """
        top, bottom = self.top[:, :j], self.bottom[:, :j]
        np.maximum(top, self.high[:, j - 1, None], out=top)
        np.minimum(bottom, self.low[:, j - 1, None], out=bottom)
        total = self.sum[:, j, None] - self.sum[:, :j]
        mean = total / np.maximum(self.length[j] - self.length[:j], 1e-9)
        cost = self.square[:, j, None] - self.square[:, :j]
        total *= mean
        cost -= total
        excess = np.maximum(top - mean, np.subtract(mean, bottom, out=total), out=total)
        excess -= self.farthest
        np.maximum(excess, 0.0, out=excess)
        beyond = excess > 0
        excess *= self.farther
        cost += excess
        cost += np.multiply(beyond, self.too_far, out=excess)
        reach = np.subtract(self.place[:, j, None], self.place[:, :j], out=excess)
        cost[np.abs(reach, out=reach) < self.shortest] = FORBIDDEN
        return np.asarray(cost)


class _FreeCosts:
    """Costs of runs as walls each of its own direction."""

    def __init__(self, rings: Rings, batch: _Batch, shortest: Floats) -> None:
        rows = batch.first + batch.column
        self.moments = np.moveaxis(rings.moments[rows], -1, 0)[:6].copy()
        self.points = np.moveaxis(rings.points[rings.breakpoints[rows]], -1, 0).copy()
        self.shortest = shortest

    def to(self, j: int) -> Floats:
        """(1, j, B) as `_DirectedCosts.to`."""
        xx, xy, yy = scatter(np.moveaxis(self.moments[:, j, None] - self.moments[:, :j], 0, -1))
        least = (xx + yy - np.sqrt((xx - yy) ** 2 + 4 * xy * xy)) / 2
        step = self.points[:, j, None] - self.points[:, :j]
        cost = np.maximum(least, 0.0, out=least)
        cost[np.hypot(step[0], step[1]) < self.shortest] = FORBIDDEN
        return np.asarray(cost[None])


def _solve(
    batch: _Batch, costs: _DirectedCosts | _FreeCosts, kinds: int, price: Floats
) -> tuple[Floats, tuple[Indices, ...]]:
    """Cheapest cost (B,), and ring, start, end and direction of every run."""
    n, rings = batch.column.shape
    # best[l, k, j]: up to breakpoint j, the last run in direction k, where the ring's very last run
    # will be in direction l; the run before the first one is that last run.
    best = np.full((kinds, kinds, n, rings), np.inf)
    best[np.arange(kinds), np.arange(kinds), 0] = 0.0
    # The same for the cheapest last run that is not in direction k, and the price of the next.
    other = np.full((kinds, kinds, n, rings), np.inf)
    other[:, :, 0] = _best_other(best[:, :, 0]) + price
    source = np.zeros((kinds, kinds, n, rings), dtype=np.intp)
    for j in range(1, n):
        total = other[:, :, :j] + costs.to(j)
        source[:, :, j] = total.argmin(axis=2)
        best[:, :, j] = total.min(axis=2)
        other[:, :, j] = _best_other(best[:, :, j]) + price
    return _trace_back(batch, best, source)


def _trace_back(batch: _Batch, best: Floats, source: Indices) -> tuple[Floats, tuple[Indices, ...]]:
    rows = np.arange(len(batch.rings))
    kinds = len(best)
    ends = best[np.arange(kinds)[:, None], np.arange(kinds)[:, None], batch.last, rows]
    final = ends.argmin(axis=0)
    cost = ends[final, rows]
    cost[cost >= FORBIDDEN] = np.inf
    at, state = batch.last.copy(), final.copy()
    runs: list[tuple[Indices, ...]] = [(np.empty(0, dtype=np.intp),) * 4]
    alive = rows[np.isfinite(cost)]
    while len(alive):
        j, last, kind = at[alive], final[alive], state[alive]
        i = source[last, kind, j, alive]
        runs.append((batch.rings[alive], batch.first[alive] + i, batch.first[alive] + j, kind))
        before = best[last, :, i, alive]
        if kinds > 1:
            before[np.arange(len(alive)), kind] = np.inf
        at[alive], state[alive] = i, before.argmin(axis=1)
        alive = alive[i > 0]
    ring, start, end, kind = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    return cost, (ring, start, end, kind)


def _best_other(best: Floats) -> Floats:
    """For each direction the least (K, K, B) cost among the other directions."""
    kinds = len(best)
    if kinds == 1:
        return best
    if kinds == 2:
        return best[:, ::-1]
    least = best.argmin(axis=1)[:, None] == np.arange(kinds)[:, None]
    second = np.where(least, np.inf, best).min(axis=1, keepdims=True)
    return np.asarray(np.where(least, second, best.min(axis=1, keepdims=True)))


def _take_ragged(first: Indices, which: Indices) -> tuple[Indices, Indices]:
    """Index of the entries of some rows of a ragged array, and where the rows then start."""
    counts = np.diff(first)[which]
    starts = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    return np.repeat(first[which], counts) + place, starts
