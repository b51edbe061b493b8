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

from footprints.vector.walls import Floats, Indices, Rings, Walls, scatter, take_ragged

FORBIDDEN = 1e9
"""Cost of a run that is too short to be a wall; finite, so that every ring has a cheapest cut."""
BATCH_CELLS = 64_000
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
        room = max(1, int(2 * BATCH_CELLS / (size**2 * directions**2)))
        high = min(low + room, int(np.searchsorted(counts[order], size * SPAN + 2, "right")))
        rows = np.sort(which[order[low:high]])
        batch = _Batch.of(rings, rows)
        if angles is None:
            costs = _free_costs(rings, batch, shortest[rows])
        else:
            costs = _directed_costs(
                rings, batch, angles[rows], price[rows], shortest[rows], farthest[rows]
            )
        cost[rows], runs = _solve(batch, costs, price[rows])
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
    """B rings, padded to n breakpoints; P runs from a breakpoint i to a later one j.

    Runs are in order of j and then i, so those that end at the same breakpoint are one slice.
    """

    rings: Indices
    """(B,) their numbers."""
    first: Indices
    """(B,) first breakpoint of each."""
    last: Indices
    """(B,) how many come after it."""
    column: Indices
    """(n, B) breakpoint of the ring for each place; the last one fills up."""
    start: Indices
    """(P,) place where each run starts."""
    end: Indices
    """(P,) place where it ends."""

    @classmethod
    def of(cls, rings: Rings, which: Indices) -> _Batch:
        first = rings.first_break[which]
        last = rings.first_break[which + 1] - 1 - first
        places = int(last.max()) + 1
        end, start = np.tril_indices(places, -1)
        column = np.minimum(np.arange(places)[:, None], last)
        return cls(which, first, last, column, start, end)

    def runs_to(self, j: int) -> slice:
        """The runs that end at breakpoint ``j``."""
        return slice(j * (j - 1) // 2, j * (j + 1) // 2)

    def differences(self, values: Floats) -> Floats:
        """(..., P, B) what (..., n, B) values grow by along each run."""
        difference = np.take(values, self.end, axis=-2)
        difference -= np.take(values, self.start, axis=-2)
        return difference


def _directed_costs(
    rings: Rings,
    batch: _Batch,
    angles: Floats,
    price: Floats,
    shortest: Floats,
    farthest: Floats,
) -> Floats:
    """(K, P, B) costs of runs as walls of (B, K) given directions, but for the price."""
    breaks, first = take_ragged(rings.first_break, batch.rings)
    owner = np.repeat(np.arange(len(batch.rings)), np.diff(first))
    at = first[:-1] + batch.column
    cos, sin = np.cos(angles).T, np.sin(angles).T
    top, bottom = _extremes(rings, batch, cos, sin, first, at)
    cos, sin = cos.take(owner, axis=1), sin.take(owner, axis=1)
    moments = rings.moments[breaks].T
    points = rings.points[rings.breakpoints[breaks]].T
    length = batch.differences(moments[0].take(at))
    total = batch.differences((cos * moments[2] - sin * moments[1]).take(at, axis=1))
    square = sin * sin * moments[3] - 2 * sin * cos * moments[4] + cos * cos * moments[5]
    cost = batch.differences(square.take(at, axis=1))
    mean = total / np.maximum(length, 1e-9)
    total *= mean
    cost -= total
    top -= mean
    np.subtract(mean, bottom, out=bottom)
    excess = np.maximum(top, bottom, out=top)
    excess -= farthest
    np.maximum(excess, 0.0, out=excess)
    beyond = excess > 0
    excess *= TOO_FAR * price / farthest
    cost += excess
    cost += np.multiply(beyond, TOO_FAR * price, out=excess)
    reach = batch.differences((cos * points[0] + sin * points[1]).take(at, axis=1))
    cost[np.abs(reach, out=reach) < shortest] = FORBIDDEN
    return np.asarray(cost)


def _extremes(
    rings: Rings, batch: _Batch, cos: Floats, sin: Floats, first_break: Indices, at: Indices
) -> tuple[Floats, Floats]:
    """(K, P, B) highest and lowest vertex of each run, across (K, B) directions."""
    vertices, first = take_ragged(rings.first, batch.rings)
    ring = np.repeat(np.arange(len(batch.rings)), np.diff(first))
    x, y = rings.points[vertices].T
    distance = cos.take(ring, axis=1)
    distance *= y
    distance -= sin.take(ring, axis=1) * x
    breaks, _ = take_ragged(rings.first_break, batch.rings)
    owner = np.repeat(np.arange(len(batch.rings)), np.diff(first_break))
    begins = rings.breakpoints[breaks] - rings.first[batch.rings][owner] + first[:-1][owner]
    ends = distance.take(begins[1:], axis=1)
    return (
        _accumulate(np.maximum, np.maximum.reduceat(distance, begins, axis=1), ends, batch, at),
        _accumulate(np.minimum, np.minimum.reduceat(distance, begins, axis=1), ends, batch, at),
    )


def _accumulate(
    extreme: np.ufunc, between: Floats, ends: Floats, batch: _Batch, at: Indices
) -> Floats:
    """(K, P, B) extremes of runs from those of (K, m) stretches between breakpoints."""
    step = extreme(between[:, :-1], ends).take(np.minimum(at, ends.shape[1] - 1), axis=1)
    result = np.empty((len(step), len(batch.end), at.shape[1]))
    for j in range(1, len(at)):
        runs = result[:, batch.runs_to(j)]
        extreme(result[:, batch.runs_to(j - 1)], step[:, j - 1, None], out=runs[:, :-1])
        runs[:, -1] = step[:, j - 1]
    return result


def _free_costs(rings: Rings, batch: _Batch, shortest: Floats) -> Floats:
    """(1, P, B) costs of runs as walls each of its own direction, but for the price."""
    rows = batch.first + batch.column
    moments = batch.differences(np.moveaxis(rings.moments[rows], -1, 0)[:6])
    step = batch.differences(np.moveaxis(rings.points[rings.breakpoints[rows]], -1, 0))
    xx, xy, yy = scatter(np.moveaxis(moments, 0, -1))
    least = (xx + yy - np.sqrt((xx - yy) ** 2 + 4 * xy * xy)) / 2
    cost = np.maximum(least, 0.0, out=least)
    cost[np.hypot(step[0], step[1]) < shortest] = FORBIDDEN
    return np.asarray(cost[None])


def _solve(batch: _Batch, costs: Floats, price: Floats) -> tuple[Floats, tuple[Indices, ...]]:
    """Cheapest cost (B,), and ring, start, end and direction of every run."""
    kinds = len(costs)
    n, rings = batch.column.shape
    # best[l, k, j]: up to breakpoint j, the last run in direction k, where the ring's very last run
    # will be in direction l; the run before the first one is that last run.
    best = np.full((kinds, kinds, n, rings), np.inf)
    best[np.arange(kinds), np.arange(kinds), 0] = 0.0
    # The same for the cheapest last run that is not in direction k, and the price of the next.
    other = np.empty((kinds, kinds, n, rings))
    other[:, :, 0] = _best_other(best[:, :, 0]) + price
    for j in range(1, n):
        total = other[:, :, :j] + costs[:, batch.runs_to(j)]
        best[:, :, j] = total.min(axis=2)
        np.add(_best_other(best[:, :, j]), price, out=other[:, :, j])
    return _trace_back(batch, best, other, costs)


def _trace_back(
    batch: _Batch, best: Floats, other: Floats, costs: Floats
) -> tuple[Floats, tuple[Indices, ...]]:
    rows = np.arange(len(batch.rings))
    kinds = len(best)
    ends = best[np.arange(kinds)[:, None], np.arange(kinds)[:, None], batch.last, rows]
    final = ends.argmin(axis=0)
    cost = ends[final, rows]
    cost[cost >= FORBIDDEN] = np.inf
    at, state = batch.last.copy(), final.copy()
    places = np.arange(len(batch.column))
    runs: list[tuple[Indices, ...]] = [(np.empty(0, dtype=np.intp),) * 4]
    alive = rows[np.isfinite(cost)]
    while len(alive):
        j, last, kind = at[alive], final[alive], state[alive]
        before = places[: j.max()]
        # Where the run starts is looked up along the way back only, not for every state.
        run = np.minimum((j * (j - 1) // 2)[:, None] + before, len(batch.end) - 1)
        rank = (last * kinds + kind)[:, None] * len(places) + before
        total = other.take(rank * len(rows) + alive[:, None])
        total += costs.take((kind[:, None] * len(batch.end) + run) * len(rows) + alive[:, None])
        total[before >= j[:, None]] = np.inf
        i = total.argmin(axis=1)
        runs.append((batch.rings[alive], batch.first[alive] + i, batch.first[alive] + j, kind))
        left = best[last, :, i, alive]
        if kinds > 1:
            left[np.arange(len(alive)), kind] = np.inf
        at[alive], state[alive] = i, left.argmin(axis=1)
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
