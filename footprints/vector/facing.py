"""Which way buildings face before and after their walls are known: touching ones alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely

from footprints.vector.candidates import Candidates
from footprints.vector.metric import components
from footprints.vector.orientation import (
    QUARTER,
    Stretches,
    direction_histograms,
    main_directions,
    refine_directions,
    sharpen_directions,
)
from footprints.vector.outlines import Indices, Mask
from footprints.vector.walls import Floats, Walls, only_rings, squared_distances

SWING_SHARE = 0.15
"""A building that turns by less than this share of the tolerance at its ends keeps its cuts."""
NO_COST = 1e-6
"""Cubic metres of rounding."""
NEAR_M = 25.0
"""Buildings this near to each other tend to face the same way."""
SAME_WAY = np.radians(2.5)
SAME_SHARE = 0.15
"""Touching buildings face the same way where they face within this of each other, and along the
smaller one the difference is less than this share of the tolerance."""


@dataclass(slots=True, eq=False)
class Facing:
    """Which way buildings face, and which of them turn together."""

    angle: Floats
    """(n,) radians."""
    group: Indices
    """(n,) number of those that face the same way because they touch."""

    @classmethod
    def of(cls, best: Candidates, touching: Indices) -> Facing:
        """The directions of buildings whose walls are not known yet."""
        angle = _directions(best, touching)
        return cls(angle, components(len(angle), _facing_same(best, angle, touching)))

    def cut(self, best: Candidates, which: Mask, steps: Floats) -> Walls:
        """Walls in directions that differ by steps, after a turn to what a first cut tells."""
        walls = best.cut(which, self.angle[:, None] + steps, 1.0)
        before = self.angle.copy()
        self.angle[best.owner] = refine_directions(
            best.rings, walls, self.angle[best.owner], self.group[best.owner]
        )
        turn = self.angle - before
        square = squared_distances(best.rings, walls)
        count = np.bincount(walls.ring, minlength=len(best.rings))
        far = walls.cost > square + count * best.price + NO_COST
        too_far = np.isin(np.arange(len(turn)), best.owner[far])
        # A turn that moves nothing by much changes no wall's ends, if they were good.
        swing = np.abs(turn) * np.sqrt(shapely.area(best.source))
        again = which & (too_far | (swing > SWING_SHARE * best.tolerance_m))
        kept = only_rings(walls, ~again[best.owner])
        kept = replace(kept, angle=kept.angle + turn[best.owner[kept.ring]])
        kept = replace(kept, cost=kept.cost + squared_distances(best.rings, kept) - square)
        return _together(kept, best.cut(again, self.angle[:, None] + steps, 1.0))


def _together(one: Walls, other: Walls) -> Walls:
    """The walls of different rings, in ring order."""
    pairs = zip(
        (one.ring, one.start, one.end, one.angle),
        (other.ring, other.start, other.end, other.angle),
        strict=True,
    )
    ring, start, end, angle = (np.concatenate(pair) for pair in pairs)
    order = np.lexsort((start, ring))
    cost = np.minimum(one.cost, other.cost)
    return Walls(ring[order], start[order], end[order], angle[order], cost)


def _directions(best: Candidates, touching: Indices) -> Floats:
    """(n,) main direction of each building, before its walls are known."""
    stretches = Stretches.of(best.rings, best.owner)
    histograms = direction_histograms(stretches, len(best.source))
    middle = shapely.centroid(best.source)
    near = shapely.STRtree(middle).query(middle, predicate="dwithin", distance=NEAR_M).T
    near = near[near[:, 0] != near[:, 1]]
    direction = sharpen_directions(stretches, main_directions(histograms, near))
    # Touching buildings that face nearly the same way face the same way.
    group = components(len(direction), _facing_same(best, direction, touching))
    weight = shapely.length(best.source)
    turn = weight * np.exp(4j * direction)
    total = np.bincount(group, turn.real) + 1j * np.bincount(group, turn.imag)
    common = np.angle(total)[group] / 4
    off = np.abs((common - direction + QUARTER / 2) % QUARTER - QUARTER / 2)
    return np.asarray(np.where(off < SAME_WAY, common, direction))


def _facing_same(best: Candidates, direction: Floats, touching: Indices) -> Indices:
    """The pairs that face nearly the same way."""
    apart = direction[touching[:, 0]] - direction[touching[:, 1]]
    apart = np.abs((apart + QUARTER / 2) % QUARTER - QUARTER / 2)
    side = np.sqrt(shapely.area(best.source))[touching].min(axis=1)
    same: Indices = touching[apart < np.minimum(SAME_WAY, SAME_SHARE * best.tolerance_m / side)]
    return same
