"""Which way buildings face: directions modulo a quarter turn, with a prior from the neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
QUARTER = np.pi / 2


def direction_histograms(rings: Rings, owner: Indices, buildings: int) -> Floats:
    """How much wall each building has in each direction.

    Args:
        rings: R rings in metres.
        owner: (R,) building of each ring.
        buildings: Number of buildings, n.

    Returns:
        (n, BINS) smooth histograms that add up to 1; bin i is for i degrees modulo 90. Edges
        between breakpoints count by the square of their length: a long one tells more exactly.
    """
    break_ring = rings.break_ring
    vertices = rings.points[rings.breakpoints]
    inner = break_ring[1:] == break_ring[:-1]
    step = (vertices[1:] - vertices[:-1])[inner]
    building = owner[break_ring[1:][inner]]
    angle = np.degrees(np.arctan2(step[:, 1], step[:, 0])) % BINS
    low = np.floor(angle).astype(np.intp)
    share = angle - low
    weight = (step**2).sum(axis=1)
    size = buildings * BINS
    histogram = np.bincount(building * BINS + low % BINS, weight * (1 - share), size)
    histogram += np.bincount(building * BINS + (low + 1) % BINS, weight * share, size)
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
        around[who] = np.add.reduceat(histograms[other], starts, axis=0) / counts[:, None]
    peak = (histograms + NEIGHBOUR_SHARE * around).argmax(axis=1)
    rows = np.arange(len(histograms))
    before, at, after = (histograms[rows, (peak + step) % BINS] for step in (-1, 0, 1))
    # A parabola through the peak and its neighbours; none where neighbours moved the peak.
    bend = before - 2 * at + after
    fraction = np.where(bend < -1e-12, (before - after) / np.where(bend < -1e-12, 2 * bend, 1), 0)
    return np.asarray(np.radians(peak + np.clip(fraction, -0.5, 0.5)) % QUARTER)


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
