"""Outlines as somebody would have digitised them: straight walls, right angles, shared walls.

1. Every outline is laid out in metres and gets a main direction, from its long edges and, where
   those say little, from its neighbours (`orientation`).
2. It is cut into walls along that direction and across it, with diagonals, or of any direction
   (`walls`). A wall costs a price, so that there are as few as the tolerance allows; a circle
   competes on the same scale.
3. Walls that two touching buildings share, or continue, become one line (`shared_walls`).
4. What is not valid or leaves the tolerance is cut again in more detail, and stays as it was if
   that does not help. In the end touching buildings are fitted together (`touching`).

Frame: metres on the ground (`metric`), angles counter-clockwise from east.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from shapely import GeometryType

from footprints.errors import ConfigError
from footprints.vector.agreement import intersection_over_union
from footprints.vector.circles import fit_circles
from footprints.vector.cutting import cut_anywhere, cut_at_directions
from footprints.vector.holes import close_small_holes
from footprints.vector.metric import MetricFrame, components
from footprints.vector.orientation import (
    QUARTER,
    direction_histograms,
    main_directions,
    refine_directions,
)
from footprints.vector.outlines import Indices, Mask, Polygons
from footprints.vector.parts import largest_parts
from footprints.vector.read import clean_polygons
from footprints.vector.result import UNCHANGED, check_metres, described
from footprints.vector.shared_walls import share_walls
from footprints.vector.touching import (
    find_touching,
    fit_together,
    settle_overlaps,
)
from footprints.vector.walls import (
    Floats,
    Rings,
    Walls,
    corners,
    farthest_from_walls,
    find_rings,
    wall_offsets,
)

Method = Literal["right-angles", "diagonals", "any-angle", "circle", "auto"]
"""Right angles only; those and 45 degrees; walls of any direction; circles; what describes a
building best."""
METHODS: tuple[str, ...] = get_args(Method)

DEFAULT_TOLERANCE_M = 1.0
"""Metres; about how far outlines from imagery of 0.3 m are off."""

BREAK_SHARE = 0.55
"""Between places where walls may end, an outline is this share of the tolerance straight."""
PRICE = 0.4
"""Price of a wall, times the tolerance cubed. Two walls more are worth their price where they bring
the outline of a wall of 10 m, on average over its length, a third of a tolerance nearer."""
SHORTEST_SHARE = 1.0
"""No wall is shorter than this share of the tolerance."""
FINE = 0.4
"""Second attempts have walls of this share of the length, and of its cube in price."""
FREE_WALL = 1.5
"""A wall with a direction of its own costs this much more than one of a given direction."""
CIRCLE_WALLS = 6.0
"""A circle costs as much as this many walls: a small square with worn corners is no circle."""
EXTRA_WALLS = 4.0
"""What diagonals, and directions of its own, have to save before a building gets them."""
FEWEST_WALLS = 4
"""Of what is cheaper than right angles."""
SWING_SHARE = 0.15
"""A building that turns by less than this share of the tolerance at its ends keeps its cuts."""
NEAR_M = 25.0
"""Buildings this near to each other tend to face the same way."""
RIGHT_ANGLES = QUARTER * np.array([0.0, 1.0])
EIGHTHS = QUARTER * np.array([0.0, 0.5, 1.0, 1.5])
"""Directions of walls at right angles and of diagonals."""
SAME_WAY = np.radians(2.5)
SAME_SHARE = 0.15
"""Touching buildings face the same way where they face within this of each other, and along the
smaller one the difference is less than this share of the tolerance."""


def regularize(
    layer: GeoDataFrame, method: str = "auto", tolerance_m: float = DEFAULT_TOLERANCE_M
) -> GeoDataFrame:
    """Give buildings straight walls.

    No building is lost: where no fit is valid and within the tolerance, its outline stays as it
    was. Touching buildings share their walls, without gap or overlap, and buildings that had no
    ground in common still have none.

    Args:
        layer: Polygons and multipolygons in any CRS; without one, the tolerance is in its units.
        method: One of `METHODS`; "auto" chooses for each building.
        tolerance_m: Metres on the ground, in any CRS. No outline moves farther (as a Hausdorff
            distance at the vertices), and details smaller than it go; holes nowhere wider than it
            close.

    Returns:
        The layer as `footprints.vector.read.clean_polygons` has it, with all its columns; before
        the geometry stand two new ones. ``regularized`` says what was done: a method, or "source";
        ``iou`` how much the result agrees with its source. ``area_m2`` is of the new outlines.

    Raises:
        ConfigError: The method is unknown, or the tolerance not a positive number.
        LayerError: Geometries are no polygons, or lie where the CRS is not defined.

    Warns:
        LabelWarning: Invalid polygons were repaired, or had no area and were left out.
    """
    check_method(method)
    check_metres(tolerance_m, "tolerance")
    layer = clean_polygons(layer)
    original = layer.geometry.to_numpy()
    if not len(original):
        return described(layer, original, regularized=pd.Series(dtype=str), iou=np.empty(0))
    frame = MetricFrame.around(original, layer.crs, reach_m=4 * tolerance_m)
    source = frame.to_metres(original)
    touching = find_touching(source)
    closed, holes = close_small_holes(source, tolerance_m)
    fitted, done = _fit(closed, touching, method, tolerance_m)
    fitted, back = fit_together(closed, fitted, touching, tolerance_m)
    iou = intersection_over_union(source, fitted)
    settled, back = settle_overlaps(closed, fitted, back, iou, tolerance_m)
    reopen = back & ~shapely.is_missing(holes)
    settled[reopen] = largest_parts(shapely.difference(settled[reopen], holes[reopen]))
    changed = settled != fitted
    iou[changed] = intersection_over_union(source[changed], settled[changed])
    done = np.where(back, UNCHANGED, done)
    polygons = _placed(original, settled, frame, back, touching)
    return described(layer, polygons, regularized=pd.Series(done, dtype=str), iou=np.round(iou, 4))


def check_method(method: str) -> None:
    """Refuse what is no method.

    Raises:
        ConfigError: It is none of `METHODS`.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


def _placed(
    original: Polygons, fitted: Polygons, frame: MetricFrame, back: Mask, touching: Indices
) -> Polygons:
    """(n,) results in CRS units, shells counter-clockwise; untouched sources to the last digit."""
    polygons: Polygons = shapely.orient_polygons(frame.to_crs(fitted), exterior_cw=False)
    # Neighbours of a footprint need its vertices as the way there and back left them.
    alone = back.copy()
    alone[np.unique(touching)] = False
    polygons[alone] = original[alone]
    # Rounding to CRS units can spoil what is barely valid.
    spoiled = ~shapely.is_valid(polygons)
    polygons[spoiled] = original[spoiled]
    return polygons


@dataclass(slots=True, eq=False)
class _Buildings:
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
    done: NDArray[np.object_] = field(init=False)
    """(n,) its method."""
    choice: Indices = field(init=False)
    """(n,) which of ``walls`` it is made of; -1 for none."""
    walls: list[tuple[Walls, Floats]] = field(init=False, default_factory=list)
    """Walls of every attempt, with their offsets."""

    def __post_init__(self) -> None:
        n = len(self.source)
        _, points, (first, first_ring) = shapely.to_ragged_array(self.source)
        self.first_ring = np.asarray(first_ring, dtype=np.intp)
        self.owner = np.repeat(np.arange(n), np.diff(self.first_ring))
        # A small building has small parts.
        side = np.sqrt(shapely.area(self.source))[self.owner]
        straight = np.minimum(BREAK_SHARE * self.tolerance_m, 0.05 * side)
        self.rings = find_rings(points, np.asarray(first, dtype=np.intp), straight)
        self.cost = np.full(n, np.inf)
        self.polygons = np.full(n, None, dtype=object)
        self.done = np.full(n, UNCHANGED, dtype=object)
        self.choice = np.full(n, -1)

    @property
    def price(self) -> float:
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
        offset = wall_offsets(self.rings, walls)
        index = np.flatnonzero(which)
        meet = corners(self.rings, walls, offset)
        polygons = self.build(walls, meet)[index]
        farthest = np.zeros(len(which))
        np.maximum.at(farthest, self.owner, farthest_from_walls(self.rings, walls, meet))
        cost = self.per_building(np.nan_to_num(walls.cost, posinf=1e9))[index]
        cost = cost + extra * self.price
        if kind == "any-angle":
            count = np.bincount(self.owner[walls.ring], minlength=len(which))[index]
            cost = cost + (FREE_WALL - 1) * self.price * count
        better = self._accept(index, polygons, cost, farthest[index], kind, anyhow=anyhow)
        self.choice[better] = len(self.walls)
        self.walls.append((walls, offset))

    def offer_vertices(self, which: Mask, walls: Walls, kind: str) -> None:
        """Take straight lines between the ends of runs where walls do not meet well."""
        meet = self.rings.points[self.rings.breakpoints[walls.end]]
        index = np.flatnonzero(which)
        nothing = np.zeros(len(index))
        polygons = self.build(walls, meet)[index]
        better = self._accept(index, polygons, nothing, nothing + np.inf, kind, anyhow=True)
        self.choice[better] = -1

    def offer_circles(self, which: Mask) -> None:
        """The same for circles."""
        circles, square = fit_circles(self.rings, self.first_ring, self.tolerance_m)
        cost = self.per_building(square + CIRCLE_WALLS * self.price)
        index = np.flatnonzero(which & (cost < self.cost))
        farthest = np.full(len(index), np.inf)
        better = self._accept(index, circles[index], cost[index], farthest, "circle", anyhow=False)
        self.choice[better] = -1

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
        *,
        anyhow: bool,
    ) -> Indices:
        """Take over what is better; ``farthest`` is no less than the Hausdorff distance."""
        hopeful = ~shapely.is_missing(polygons)
        hopeful &= (cost < self.cost[index]) | (anyhow & shapely.is_missing(self.polygons[index]))
        index, polygons, cost = index[hopeful], polygons[hopeful], cost[hopeful]
        near = farthest[hopeful] <= self.tolerance_m
        fits = fits_source(self.source[index], polygons, self.tolerance_m, near)
        index = index[fits]
        self.polygons[index], self.cost[index], self.done[index] = polygons[fits], cost[fits], kind
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
        result[whole] = shapely.from_ragged_array(GeometryType.POLYGON, closed, (first, first_ring))
        return result

    def chosen_walls(self) -> tuple[Walls, Floats]:
        """The walls of the best results, in ring order."""
        parts = []
        for number, (walls, offset) in enumerate(self.walls):
            mine = self.choice[self.owner[walls.ring]] == number
            parts.append(
                [each[mine] for each in (walls.ring, walls.start, walls.end, walls.angle, offset)]
            )
        ring, start, end, angle, offset = (
            np.concatenate(each) for each in zip(*parts, strict=True)
        )
        order = np.lexsort((start, ring))
        cost = np.zeros(len(self.rings))
        return Walls(ring[order], start[order], end[order], angle[order], cost), offset[order]


def fits_source(
    source: Polygons, fitted: Polygons, tolerance_m: float, near: Mask | None = None
) -> Mask:
    """(n,) whether polygons are valid and within the tolerance; those ``near`` are known to be."""
    sound = shapely.is_valid(fitted)
    sound &= shapely.get_num_interior_rings(fitted) == shapely.get_num_interior_rings(source)
    open_ = np.flatnonzero(sound if near is None else sound & ~near)
    sound[open_] = shapely.hausdorff_distance(source[open_], fitted[open_]) <= tolerance_m
    return np.asarray(sound)


def _fit(
    source: Polygons, touching: Indices, method: str, tolerance_m: float
) -> tuple[Polygons, NDArray[np.object_]]:
    """(n,) results before touching buildings are fitted together, None for none; and methods."""
    best = _Buildings(source, tolerance_m)
    if method == "circle":
        best.offer_circles(np.ones(len(source), dtype=bool))
    else:
        _try_walls(best, touching, method)
    if len(touching) and best.walls:
        _share(best, touching)
    return best.polygons, best.done


def _try_walls(best: _Buildings, touching: Indices, method: str) -> None:
    everything = np.ones(len(best.source), dtype=bool)
    if method == "any-angle":
        best.offer(everything, best.cut(everything, None, 1.0), method, 0.0, anyhow=True)
        _try_finer(best, None, ["any-angle"])
        return
    facing = _Facing.of(best, touching)
    walls = facing.cut(best, everything, RIGHT_ANGLES)
    best.offer(everything, walls, "right-angles", 0.0, anyhow=False)
    if method == "right-angles":
        _try_finer(best, facing.angle[:, None] + RIGHT_ANGLES, ["right-angles"])
        return
    if method == "diagonals":
        best.offer(everything, facing.cut(best, everything, EIGHTHS), method, 0.0, anyhow=False)
        _try_finer(best, facing.angle[:, None] + EIGHTHS, ["diagonals"])
        return
    best.offer_circles(everything)
    left = best.cost > (FEWEST_WALLS + EXTRA_WALLS) * best.price
    free = best.cut(left, None, 1.0)
    # Walls of any direction at the price of given ones: nothing with diagonals costs less.
    bound = best.per_building(free.cost)
    left &= best.cost > bound + EXTRA_WALLS * best.price
    squares = facing.angle[:, None] + RIGHT_ANGLES
    best.offer(left, facing.cut(best, left, EIGHTHS), "diagonals", EXTRA_WALLS, anyhow=False)
    best.offer(left, _only(free, left[best.owner]), "any-angle", EXTRA_WALLS, anyhow=False)
    _try_finer(best, squares, ["right-angles", "any-angle"])


@dataclass(slots=True, eq=False)
class _Facing:
    """Which way buildings face, and which of them turn together."""

    angle: Floats
    """(n,) radians."""
    group: Indices
    """(n,) number of those that face the same way because they touch."""

    @classmethod
    def of(cls, best: _Buildings, touching: Indices) -> _Facing:
        """The directions of buildings whose walls are not known yet."""
        angle = _directions(best, touching)
        return cls(angle, components(len(angle), _facing_same(best, angle, touching)))

    def cut(self, best: _Buildings, which: Mask, steps: Floats) -> Walls:
        """Walls in directions that differ by steps, after a turn to what a first cut tells."""
        walls = best.cut(which, self.angle[:, None] + steps, 1.0)
        before = self.angle.copy()
        self.angle[best.owner] = refine_directions(
            best.rings, walls, self.angle[best.owner], self.group[best.owner]
        )
        turn = self.angle - before
        # A turn that moves nothing by much changes no wall's ends.
        swing = np.abs(turn) * np.sqrt(shapely.area(best.source))
        again = which & (swing > SWING_SHARE * best.tolerance_m)
        kept = _only(walls, ~again[best.owner])
        kept = replace(kept, angle=kept.angle + turn[best.owner[kept.ring]])
        return _together(kept, best.cut(again, self.angle[:, None] + steps, 1.0))


def _only(walls: Walls, rings: Mask) -> Walls:
    """The walls of some of the (R,) rings."""
    mine = rings[walls.ring]
    cost = np.where(rings, walls.cost, np.inf)
    return Walls(walls.ring[mine], walls.start[mine], walls.end[mine], walls.angle[mine], cost)


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


def _try_finer(best: _Buildings, angles: Floats | None, kinds: Sequence[str]) -> None:
    """Cut in more detail what no attempt fits."""
    for kind in kinds:
        missing = shapely.is_missing(best.polygons)
        if missing.any():
            walls = best.cut(missing, None if kind == "any-angle" else angles, FINE)
            best.offer(missing, walls, kind, 0.0, anyhow=True)
            missing &= shapely.is_missing(best.polygons)
            if kind == "any-angle" and missing.any():
                best.offer_vertices(missing, walls, kind)


def _directions(best: _Buildings, touching: Indices) -> Floats:
    """(n,) main direction of each building, before its walls are known."""
    histograms = direction_histograms(best.rings, best.owner, len(best.source))
    middle = shapely.centroid(best.source)
    near = shapely.STRtree(middle).query(middle, predicate="dwithin", distance=NEAR_M).T
    near = near[near[:, 0] != near[:, 1]]
    direction = main_directions(histograms, near)
    # Touching buildings that face nearly the same way face the same way.
    group = components(len(direction), _facing_same(best, direction, touching))
    weight = shapely.length(best.source)
    turn = weight * np.exp(4j * direction)
    total = np.bincount(group, turn.real) + 1j * np.bincount(group, turn.imag)
    common = np.angle(total)[group] / 4
    off = np.abs((common - direction + QUARTER / 2) % QUARTER - QUARTER / 2)
    return np.asarray(np.where(off < SAME_WAY, common, direction))


def _facing_same(best: _Buildings, direction: Floats, touching: Indices) -> Indices:
    """The pairs that face nearly the same way."""
    apart = direction[touching[:, 0]] - direction[touching[:, 1]]
    apart = np.abs((apart + QUARTER / 2) % QUARTER - QUARTER / 2)
    side = np.sqrt(shapely.area(best.source))[touching].min(axis=1)
    same: Indices = touching[apart < np.minimum(SAME_WAY, SAME_SHARE * best.tolerance_m / side)]
    return same


def _share(best: _Buildings, touching: Indices) -> None:
    """Put shared walls onto common lines, wherever the results stay valid and near."""
    walls, offset = best.chosen_walls()
    walls, offset = share_walls(best.rings, walls, offset, best.owner, touching, best.tolerance_m)
    polygons = best.build(walls, corners(best.rings, walls, offset))
    which = np.zeros(len(best.source), dtype=bool)
    which[np.unique(touching)] = True
    index = np.flatnonzero(which & (best.choice >= 0) & ~shapely.is_missing(polygons))
    # Collinear corners, and those that walls of no length leave.
    thinned = shapely.simplify(polygons[index], 1e-6)
    fits = fits_source(best.source[index], thinned, best.tolerance_m)
    best.polygons[index[fits]] = thinned[fits]
