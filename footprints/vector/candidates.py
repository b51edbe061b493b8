"""Ways to draw buildings, of which each keeps the cheapest that is valid and near.

Frame: metres on the ground, as laid out by `footprints.vector.metric`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.chamfers import find_chamfers, without_chamfers
from footprints.vector.circles import circle_costs, draw_circles
from footprints.vector.cutting import cut_anywhere, cut_at_directions
from footprints.vector.outlines import Indices, Mask, Polygons
from footprints.vector.ragged import build, flatten
from footprints.vector.result import UNCHANGED
from footprints.vector.walls import (
    Floats,
    Rings,
    Walls,
    corners,
    farthest_from_walls,
    find_rings,
    only_rings,
    wall_offsets,
)

BREAK_SHARE = 0.55
"""Between places where walls may end, an outline is this share of the tolerance straight."""
PRICE = 0.4
"""Price of a wall, times the tolerance cubed. Two walls more are worth their price where they bring
the outline of a wall of 10 m, on average over its length, a third of a tolerance nearer."""
SHORTEST_SHARE = 1.0
"""No wall is shorter than this share of the tolerance."""
FREE_WALL = 1.5
"""A wall with a direction of its own costs this much more than one of a given direction."""
CIRCLE_WALLS = 6.0
"""A circle costs as much as this many walls: a small square with worn corners is no circle."""
SAME_LINE_M = 1e-6
"""Metres; vertices no farther off a line are on it."""


@dataclass(slots=True, eq=False)
class Candidates:
    """Outlines in metres and the best description found for each so far."""

    source: Polygons
    """(n,) polygons."""
    tolerance_m: float
    rings: Rings = field(init=False)
    first_ring: Indices = field(init=False)
    """(n + 1,) first ring of each building."""
    owner: Indices = field(init=False)
    """(R,) building of each ring."""
    cost: Floats = field(init=False)
    """(n,) of the best description."""
    polygons: Polygons = field(init=False)
    """(n,) best result; None where there is none."""
    reach: Floats = field(init=False)
    """(n,) no less than how far, as a Hausdorff distance, that is from the source; infinite where
    there is none."""
    done: NDArray[np.object_] = field(init=False)
    """(n,) its method."""
    choice: Indices = field(init=False)
    """(n,) which of ``walls`` it is made of; -1 for none."""
    walls: list[tuple[Walls, Floats]] = field(init=False, default_factory=list)
    """Walls of every attempt, with their offsets."""

    def __post_init__(self) -> None:
        n = len(self.source)
        points, first, self.first_ring = flatten(self.source)
        self.owner = np.repeat(np.arange(n), np.diff(self.first_ring))
        # A small building has small parts.
        side = np.sqrt(shapely.area(self.source))[self.owner]
        straight = np.minimum(BREAK_SHARE * self.tolerance_m, 0.05 * side)
        self.rings = find_rings(points, first, straight)
        self.cost = np.full(n, np.inf)
        self.polygons = np.full(n, None, dtype=object)
        self.reach = np.full(n, np.inf)
        self.done = np.full(n, UNCHANGED, dtype=object)
        self.choice = np.full(n, -1)

    @property
    def price(self) -> float:
        """What a wall costs."""
        return PRICE * self.tolerance_m**3

    def rings_of(self, which: Mask) -> Indices:
        """Rings of some of the buildings."""
        return np.flatnonzero(which[self.owner])

    def cut(self, which: Mask, angles: Floats | None, detail: float) -> Walls:
        """Walls of some buildings: of (n, K) directions, or of any."""
        rings = self.rings_of(which)
        price = np.full(len(self.rings), self.price * detail**3)
        shortest = np.full(len(self.rings), SHORTEST_SHARE * self.tolerance_m * detail)
        if angles is None:
            return cut_anywhere(self.rings, rings, price=price, shortest=shortest)
        return cut_at_directions(
            self.rings,
            rings,
            angles[self.owner],
            price=price,
            shortest=shortest,
            farthest=np.full(len(self.rings), self.tolerance_m),
        )

    def offer(self, which: Mask, walls: Walls, kind: str, extra: float, *, anyhow: bool) -> None:
        """Take what walls make of some buildings where it is valid, near and cheaper.

        Args:
            which: (n,) buildings that were cut.
            walls: Their walls.
            kind: Method, for the column.
            extra: Walls' worth of price on top.
            anyhow: Take no account of cost where there is no result yet.
        """
        cost = self.per_building(np.nan_to_num(walls.cost, posinf=1e9)) + extra * self.price
        if kind == "any-angle":
            count = np.bincount(self.owner[walls.ring], minlength=len(which))
            cost += (FREE_WALL - 1) * self.price * count
        hopeful = which & ((cost < self.cost) | (anyhow & shapely.is_missing(self.polygons)))
        walls = only_rings(walls, hopeful[self.owner])
        offset = wall_offsets(self.rings, walls)
        index = np.flatnonzero(hopeful)
        meet = corners(self.rings, walls, offset)
        polygons = self.build(walls, meet)[index]
        farthest = self.farthest(walls, meet)[index]
        better = self._accept(index, polygons, cost[index], farthest, kind)
        self.choice[better] = len(self.walls)
        self.walls.append((walls, offset))

    def offer_vertices(self, which: Mask, walls: Walls, kind: str) -> None:
        """Take straight lines between the ends of runs where walls do not meet well."""
        meet = self.rings.points[self.rings.breakpoints[walls.end]]
        index = np.flatnonzero(which)
        nothing = np.zeros(len(index))
        polygons = self.build(walls, meet)[index]
        better = self._accept(index, polygons, nothing, nothing + np.inf, kind)
        self.choice[better] = -1

    def offer_circles(self, which: Mask) -> None:
        """The same for circles."""
        # No circle costs less than the price of its walls.
        rings = self.rings_of(which & (self.cost > CIRCLE_WALLS * self.price))
        square = circle_costs(self.rings, rings) + CIRCLE_WALLS * self.price
        cost = np.bincount(self.owner[rings], square, len(which)).astype(np.float64)
        cheap = (cost > 0) & (cost < self.cost)
        index, rings = np.flatnonzero(cheap), self.rings_of(cheap)
        circles = draw_circles(self.rings, rings, self.owner[rings], self.tolerance_m)
        farthest = np.full(len(index), np.inf)
        better = self._accept(index, circles, cost[index], farthest, "circle")
        self.choice[better] = -1

    def farthest(self, walls: Walls, meet: Floats) -> Floats:
        """(n,) no less than the Hausdorff distance of walls that (W, 2) meet the next."""
        farthest = np.zeros(len(self.source))
        np.maximum.at(farthest, self.owner, farthest_from_walls(self.rings, walls, meet))
        return farthest

    def rebuild_corners(self) -> None:
        """Take short walls across right-angled corners out of the best results."""
        walls, offset = self.chosen_walls(self.choice >= 0)
        chamfer = find_chamfers(walls, corners(self.rings, walls, offset), self.tolerance_m)
        worn = np.bincount(walls.ring[chamfer], minlength=len(self.rings)) > 0
        sharp, place = without_chamfers(walls, chamfer), offset[~chamfer]
        rebuilt = self.redraw(sharp, place, worn[sharp.ring])
        self.choice[rebuilt] = len(self.walls)
        self.walls.append((sharp, place))

    def redraw(self, walls: Walls, offset: Floats, moved: Mask) -> Indices:
        """Draw buildings with other lines for (W,) moved walls, where they stay valid and near.

        Returns:
            (k,) the buildings that were.
        """
        mine = np.bincount(self.owner[walls.ring[moved]], minlength=len(self.source)) > 0
        mine = mine[self.owner]
        offset, walls = offset[mine[walls.ring]], only_rings(walls, mine)
        meet = corners(self.rings, walls, offset)
        polygons, farthest = self.build(walls, meet), self.farthest(walls, meet)
        index = np.flatnonzero(~shapely.is_missing(polygons))
        # Collinear corners, and those that walls of no length leave.
        thinned = shapely.simplify(polygons[index], SAME_LINE_M)
        bound = farthest[index] + SAME_LINE_M
        distance = sound_distance(self.source[index], thinned, bound, self.tolerance_m)
        fits = distance <= self.tolerance_m
        self.polygons[index[fits]], self.reach[index[fits]] = thinned[fits], distance[fits]
        return index[fits]

    def per_building(self, values: Floats) -> Floats:
        """(n,) sums over the rings of each building."""
        return np.asarray(np.bincount(self.owner, values, len(self.source)), dtype=np.float64)

    def _accept(
        self,
        index: Indices,
        polygons: Polygons,
        cost: Floats,
        farthest: Floats,
        kind: str,
    ) -> Indices:
        """Take over what is sound; ``farthest`` is no less than the Hausdorff distance."""
        there = ~shapely.is_missing(polygons)
        index, polygons, cost, bound = index[there], polygons[there], cost[there], farthest[there]
        distance = sound_distance(self.source[index], polygons, bound, self.tolerance_m)
        fits = distance <= self.tolerance_m
        index = index[fits]
        self.polygons[index], self.cost[index], self.done[index] = polygons[fits], cost[fits], kind
        self.reach[index] = distance[fits]
        return index

    def build(self, walls: Walls, meet: Floats) -> Polygons:
        """(n,) polygons of walls that (W, 2) meet the next; None where a ring has too few."""
        points = meet + self.rings.origin[walls.ring]
        count = np.bincount(walls.ring, minlength=len(self.rings))
        whole = np.bincount(self.owner, count < 3, len(self.source)) == 0
        result = np.full(len(self.source), None, dtype=object)
        inside = whole[self.owner[walls.ring]]
        ring = walls.ring[inside]
        if not len(ring):
            return result
        points = points[inside]
        # Close every ring with its first corner.
        begins = np.flatnonzero(np.diff(ring, prepend=-1))
        ends = np.append(begins[1:], len(ring))
        closed = np.insert(points, ends, points[begins], axis=0)
        first = np.concatenate([[0], np.cumsum(ends - begins + 1)])
        rings_of = np.bincount(self.owner[ring[begins]], minlength=len(self.source))[whole]
        first_ring = np.concatenate([[0], np.cumsum(rings_of)])
        result[whole] = build(closed, first, first_ring)
        return result

    def chosen_walls(self, which: Mask) -> tuple[Walls, Floats]:
        """The walls of the best results of (n,) some buildings, in ring order."""
        parts = []
        for number, (walls, offset) in enumerate(self.walls):
            mine = ((self.choice == number) & which)[self.owner[walls.ring]]
            parts.append(
                [each[mine] for each in (walls.ring, walls.start, walls.end, walls.angle, offset)]
            )
        ring, start, end, angle, offset = (
            np.concatenate(each) for each in zip(*parts, strict=True)
        )
        order = np.lexsort((start, ring))
        cost = np.zeros(len(self.rings))
        return Walls(ring[order], start[order], end[order], angle[order], cost), offset[order]


def sound_distance(source: Polygons, fitted: Polygons, bound: Floats, tolerance_m: float) -> Floats:
    """How far drawings are from their sources.

    Args:
        source: (n,) polygons.
        fitted: (n,) what became of each.
        bound: (n,) no less than their Hausdorff distances, which are only searched for where this
            is beyond the tolerance.
        tolerance_m: Metres.

    Returns:
        (n,) metres, infinite where drawings are not valid or have other holes.
    """
    sound = shapely.is_valid(fitted)
    sound &= shapely.get_num_interior_rings(fitted) == shapely.get_num_interior_rings(source)
    distance = np.where(sound, bound, np.inf)
    unclear = np.flatnonzero(sound & (bound > tolerance_m))
    distance[unclear] = shapely.hausdorff_distance(source[unclear], fitted[unclear])
    return distance
