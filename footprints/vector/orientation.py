"""Which way buildings face: directions modulo a quarter turn, with a prior from the neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from footprints.vector.outlines import Polygons
from footprints.vector.ragged import flatten
from footprints.vector.walls import Rings, Walls, scatter

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

BINS = 90
"""Of one degree each, around a quarter turn."""
SPREAD_DEG = 4.0
"""How far the direction of an edge of an outline is off its wall's."""
NEIGHBOUR_SHARE = 0.25
"""Weight of the neighbours' directions beside a building's own: it decides between peaks of like
height, as those of small round blobs are, and never overrules a clear one."""
SHARP_DEG = 12.0
"""Stretches this near to the main direction tell where it is exactly."""
QUARTER = np.pi / 2


@dataclass(frozen=True, slots=True, eq=False)
class Stretches:
    """What outlines do between breakpoints; m stretches in all."""

    building: Indices
    """(m,) to which each belongs."""
    angle: Floats
    """(m,) degrees modulo 90: the line nearest to all of the outline, not to its ends alone."""
    length: Floats
    """(m,) metres from end to end."""

    @classmethod
    def of(cls, rings: Rings, owner: Indices) -> Stretches:
        """Those of R rings of (R,) buildings."""
        ring = rings.break_ring
        inner = ring[1:] == ring[:-1]
        xx, xy, yy = scatter((rings.moments[1:] - rings.moments[:-1])[inner])
        angle = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) % BINS
        ends = rings.points[rings.breakpoints]
        length = np.hypot(*(ends[1:] - ends[:-1])[inner].T)
        return cls(owner[ring[1:][inner]], angle, length)


def direction_histograms(stretches: Stretches, buildings: int) -> Floats:
    """How much wall each building has in each direction.

    Args:
        stretches: Of the outlines of n buildings.
        buildings: Number of buildings, n.

    Returns:
        (n, BINS) smooth histograms that add up to 1; bin i is for i degrees modulo 90. Stretches
        count by the square of their length: a long one tells more exactly.
    """
    low = np.floor(stretches.angle).astype(np.intp)
    share = stretches.angle - low
    weight = stretches.length**2
    size = buildings * BINS
    place = stretches.building * BINS
    histogram = np.bincount(place + low % BINS, weight * (1 - share), size)
    histogram += np.bincount(place + (low + 1) % BINS, weight * share, size)
    histogram = histogram.reshape(buildings, BINS)
    smooth = histogram @ _kernel()
    return np.asarray(smooth / np.maximum(smooth.sum(axis=1, keepdims=True), 1e-12))


def _kernel() -> Floats:
    """(BINS, BINS) blurs a histogram around the quarter turn."""
    apart = np.abs(np.arange(BINS)[:, None] - np.arange(BINS))
    apart = np.minimum(apart, BINS - apart)
    return np.asarray(np.exp(-0.5 * (apart / SPREAD_DEG) ** 2))


def main_directions(histograms: Floats, pairs: Indices) -> Floats:
    """The direction of most wall.

    Args:
        histograms: (n, BINS) as `direction_histograms` gives them.
        pairs: (p, 2) buildings that are neighbours, both ways round.

    Returns:
        (n,) radians, modulo a quarter turn.
    """
    around = np.zeros_like(histograms)
    if len(pairs):
        one, other = pairs[np.argsort(pairs[:, 0], kind="stable")].T
        who, starts, counts = np.unique(one, return_index=True, return_counts=True)
        for place in range(int(counts.max())):
            more = counts > place
            around[who[more]] += histograms[other[starts[more] + place]]
        around[who] /= counts[:, None]
    peak = (histograms + NEIGHBOUR_SHARE * around).argmax(axis=1)
    rows = np.arange(len(histograms))
    before, at, after = (histograms[rows, (peak + step) % BINS] for step in (-1, 0, 1))
    # A parabola through the peak and its neighbours; none where neighbours moved the peak.
    bend = before - 2 * at + after
    fraction = np.where(bend < -1e-12, (before - after) / np.where(bend < -1e-12, 2 * bend, 1), 0)
    return np.asarray(np.radians(peak + np.clip(fraction, -0.5, 0.5)) % QUARTER)


def sharpen_directions(stretches: Stretches, angle: Floats) -> Floats:
    """(n,) main directions in radians, moved to the mean of the stretches within `SHARP_DEG`."""
    # The direction of a line through points with errors varies by the cube of its length.
    weight = stretches.length**3
    for _ in range(2):
        off = stretches.angle - np.degrees(angle)[stretches.building]
        off = (off + BINS / 2) % BINS - BINS / 2
        near = np.where(np.abs(off) < SHARP_DEG, weight, 0.0)
        total = np.bincount(stretches.building, near, len(angle))
        turn = np.bincount(stretches.building, near * off, len(angle)) / np.maximum(total, 1e-12)
        angle = angle + np.radians(turn)
    return np.asarray(angle % QUARTER)


def refine_directions(rings: Rings, walls: Walls, angle: Floats, group: Indices) -> Floats:
    """Turn buildings until the distances from their walls are least.

    Args:
        rings: R rings in metres.
        walls: Their walls.
        angle: (R,) direction of each ring.
        group: (R,) number of those that turn together, as the rings of one building do.

    Returns:
        (R,) better directions; those of rings without walls as they were.
    """
    xx, xy, yy = scatter(rings.moments[walls.end] - rings.moments[walls.start])
    cos, sin = np.cos(walls.angle), np.sin(walls.angle)
    along = cos * cos * xx + 2 * cos * sin * xy + sin * sin * yy
    across = sin * sin * xx - 2 * cos * sin * xy + cos * cos * yy
    mixed = (cos * cos - sin * sin) * xy + cos * sin * (yy - xx)
    size = int(group.max(initial=-1)) + 1
    number = group[walls.ring]
    turn = 0.5 * np.arctan2(
        2 * np.bincount(number, mixed, size), np.bincount(number, along - across, size)
    )
    return np.asarray(angle + turn[group])


def leaning(polygons: Polygons) -> tuple[Floats, Floats]:
    """How far walls lean from right angles with their building's longest wall.

    Args:
        polygons: (n,) polygons.

    Returns:
        (n,) units of length between the ends of the wall that leans most, across the nearest right
        angle; and (n,) across that or the nearest diagonal.
    """
    if not len(polygons):
        return np.zeros(0), np.zeros(0)
    points, first, first_ring = flatten(polygons)
    begin = first[first_ring]
    owner = np.repeat(np.arange(len(polygons)), np.diff(begin))
    step = np.diff(points, axis=0, append=points[-1:])
    # From the last vertex of a ring to the next ring there is no wall.
    step[first[1:] - 1] = 0.0
    length = np.hypot(step[:, 0], step[:, 1])
    longest = np.lexsort((length, owner))[begin[1:] - 1]
    x, y = (step[longest] / length[longest, None])[owner].T
    along = np.abs(step[:, 0] * x + step[:, 1] * y)
    across = np.abs(step[:, 1] * x - step[:, 0] * y)
    square = np.minimum(along, across)
    eighth = np.minimum(square, np.abs(along - across) / np.sqrt(2))
    return np.maximum.reduceat(square, begin[:-1]), np.maximum.reduceat(eighth, begin[:-1])
