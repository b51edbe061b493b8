"""Corners that a network has rounded: the short wall across them goes, its neighbours meet.

A network's masks are smooth. Where a corner is worn away by more than the outline is allowed to
miss, walls are cut with one more across it. It is taken for such a chamfer where it is short, by
itself and beside both its neighbours, and those are walls of one right-angled corner. Long
chamfers are walls that were built so, and the walls of an octagon are as long as each other.

A right angle over a chamfer of length c has its corner c / 2 away from it, and somewhat less from a
round outline. Buildings stay as they are where a corner would be farther out than the tolerance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from footprints.vector.walls import Floats, Walls, next_in_ring

LONGEST_SHARE = 2.5
"""A chamfer is no longer than this many tolerances."""
NEIGHBOUR_SHARE = 0.4
"""And no longer than this share of each of the walls that it lies between."""
SQUARE_DEG = 15.0
"""Those walls are this near to a right angle."""
LEAST_TURN_DEG = 20.0
"""From each of them to the chamfer the outline turns this much at least, the same way."""


def find_chamfers(walls: Walls, meet: Floats, tolerance_m: float) -> NDArray[np.bool_]:
    """Which walls cut off a corner.

    Args:
        walls: W walls.
        meet: (W, 2) where each meets the next one of its ring, metres.
        tolerance_m: Metres.

    Returns:
        (W,) mask; of two walls one behind the other, no more than one is in it.
    """
    after = next_in_ring(walls.ring)
    before = np.argsort(after)
    length = np.hypot(*(meet - meet[before]).T)
    turn = _turned_deg(walls.angle[after] - walls.angle)
    into, out = turn[before], turn
    is_corner = np.abs(np.abs(into + out) - 90.0) <= SQUARE_DEG
    is_corner &= (into * out > 0) & (np.minimum(np.abs(into), np.abs(out)) >= LEAST_TURN_DEG)
    shorter = np.minimum(length[before], length[after])
    is_short = length <= np.minimum(LONGEST_SHARE * tolerance_m, NEIGHBOUR_SHARE * shorter)
    return np.asarray(is_corner & is_short)


def without_chamfers(walls: Walls, chamfer: NDArray[np.bool_]) -> Walls:
    """Walls without those of the (W,) mask, whose runs go to the walls behind them."""
    number, after = np.flatnonzero(chamfer), next_in_ring(walls.ring)
    before = np.argsort(after)
    # No run goes on over the place where its ring starts.
    is_last = after[number] <= number
    start, end = walls.start.copy(), walls.end.copy()
    start[after[number[~is_last]]] = walls.start[number[~is_last]]
    end[before[number[is_last]]] = walls.end[number[is_last]]
    stays = ~chamfer
    return Walls(walls.ring[stays], start[stays], end[stays], walls.angle[stays], walls.cost)


def _turned_deg(angle: Floats) -> Floats:
    """Degrees in [-180, 180) of angles in radians."""
    return np.asarray((np.degrees(angle) + 180.0) % 360.0 - 180.0)
