"""The plan of a generated town: streets, blocks, parcels, buildings, trees and cars.

The town has no end and is a function of position: a warped lattice of main streets makes cells,
and all that is in a cell follows from the seed and the cell's two numbers. Any part of the town can
therefore be laid out on its own and agrees with its neighbours.

Everything is in *town metres*: x to the right, y down the image. A *ring* is a convex polygon, an
array (k, 2) without the closing point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from footprints.data.roofs import (
    BUILDERS,
    Building,
    Colour,
    Place,
    Surface,
    build_dome,
    build_industrial,
    draw_plan,
)

Ring = NDArray[np.float64]

CELL_M = (215.0, 175.0)
"""Spacing of the main streets."""
WARP_M = 32.0
"""How far the lattice is bent, smoothly, and a third of it at random."""
BEND_M = 520.0
"""Wavelength of the bends."""
ORIGIN = 1 << 20
"""Added to cell numbers: seeds must not be negative."""

ASPHALT: Colour = (0.44, 0.44, 0.44)
PAVING: Colour = (0.55, 0.52, 0.48)
DIRT: Colour = (0.55, 0.47, 0.38)
SOIL: Colour = (0.45, 0.38, 0.29)
GRASS: Colour = (0.33, 0.40, 0.20)
MEADOW: Colour = (0.42, 0.46, 0.26)
CROP: Colour = (0.30, 0.40, 0.18)
HEDGE: Colour = (0.20, 0.29, 0.13)
WHITE: Colour = (0.85, 0.85, 0.83)
CAR_PAINT: tuple[Colour, ...] = (
    (0.85, 0.85, 0.85),
    (0.15, 0.15, 0.16),
    (0.55, 0.57, 0.6),
    (0.6, 0.15, 0.13),
    (0.2, 0.3, 0.5),
)


@dataclass(frozen=True, slots=True)
class Tree:
    """A round crown."""

    x: float
    y: float
    radius: float
    height_m: float
    colour: Colour


@dataclass(slots=True)
class Contents:
    """What stands in a part of the town; the lists are in painting order."""

    streets: list[Surface] = field(default_factory=list)
    ground: list[Surface] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    cars: list[Surface] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)


@dataclass(frozen=True)
class Town:
    """A town without end, made from a seed."""

    seed: int = 0
    density: float = 0.6
    """From 0, fields with a few houses, to 1, houses wall to wall."""

    def cells(self, bounds: tuple[float, float, float, float]) -> Iterator[Contents]:
        """Lay out all cells that can reach into bounds (x_min, y_min, x_max, y_max).

        Cells are laid out whole, so some of what they hold lies outside.
        """
        x0, y0, x1, y1 = bounds
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) @ self._turn
        low = np.floor((corners.min(axis=0) - 1.4 * WARP_M) / CELL_M).astype(int)
        high = np.floor((corners.max(axis=0) + 1.4 * WARP_M) / CELL_M).astype(int)
        for row in range(low[1] - 1, high[1] + 1):
            for column in range(low[0] - 1, high[0] + 1):
                yield _lay_out(self, column, row)

    @property
    def _turn(self) -> NDArray[np.float64]:
        """Lattice directions as columns."""
        angle = np.random.default_rng((self.seed, 1)).uniform(0.1, 0.6)
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def node(self, column: int, row: int) -> NDArray[np.float64]:
        """Place a crossing of main streets, (2,)."""
        straight = self._turn @ (np.array([column, row]) * CELL_M)
        bend = [self._smooth(straight, number) for number in (2, 3)]
        jitter = self._rng(column, row, 4).uniform(-1, 1, 2) / 3
        place: NDArray[np.float64] = straight + WARP_M * (2 * np.array(bend) - 1 + jitter)
        return place

    def urbanity(self, place: NDArray[np.float64]) -> float:
        """How built-up the town is at a place: below 0 open land, above 1 the old centre."""
        return self.density + 0.9 * (self._smooth(place, 5) - 0.5)

    def _rng(self, column: int, row: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, column + ORIGIN, row + ORIGIN))

    def _smooth(self, place: NDArray[np.float64], purpose: int) -> float:
        """Smooth noise, 0 to 1."""
        cell = np.floor(place / BEND_M).astype(int)
        x, y = place / BEND_M - cell
        corner = [
            [self._rng(cell[0] + i, cell[1] + j, purpose).random() for i in (0, 1)] for j in (0, 1)
        ]
        x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
        return float(
            (corner[0][0] * (1 - x) + corner[0][1] * x) * (1 - y)
            + (corner[1][0] * (1 - x) + corner[1][1] * x) * y
        )


def cut(ring: Ring, point: NDArray[np.float64], normal: NDArray[np.float64]) -> Ring:
    """Keep the part of a ring on the side of a line that the normal points to; may be empty."""
    if len(ring) == 0:
        return ring
    side = (ring - point) @ normal
    kept = []
    for here, there, a, b in zip(
        ring, np.roll(ring, -1, axis=0), side, np.roll(side, -1), strict=True
    ):
        if a >= 0:
            kept.append(here)
        if (a >= 0) != (b >= 0):
            kept.append(here + (there - here) * (a / (a - b)))
    return np.array(kept).reshape(-1, 2)


def inset(ring: Ring, distances: NDArray[np.float64] | float) -> Ring:
    """Move every side of a ring inwards by its distance; empty where nothing is left."""
    centre = ring.mean(axis=0)
    result = ring
    along = np.roll(ring, -1, axis=0) - ring
    normals = np.column_stack([-along[:, 1], along[:, 0]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals *= np.sign(np.sum((centre - ring) * normals, axis=1, keepdims=True))
    for start, normal, distance in zip(
        ring, normals, np.broadcast_to(distances, len(ring)), strict=True
    ):
        result = cut(result, start + normal * distance, normal)
    return result


def long_direction(ring: Ring) -> NDArray[np.float64]:
    """Unit vector along the longest side."""
    along = np.roll(ring, -1, axis=0) - ring
    longest = along[np.argmax(np.linalg.norm(along, axis=1))]
    unit: NDArray[np.float64] = longest / np.linalg.norm(longest)
    return unit


def subdivide(
    ring: Ring, rng: np.random.Generator, largest_m2: float, gap_m: float
) -> Iterator[Ring]:
    """Halve a ring across its longer extent until every part is small enough.

    Args:
        ring: What to divide.
        rng: Decides how even the halves are.
        largest_m2: Parts above this area are halved.
        gap_m: Width of the lane left between halves.
    """
    if len(ring) < 3 or _area(ring) < largest_m2:
        if len(ring) >= 3:
            yield ring
        return
    u = long_direction(ring)
    v = np.array([-u[1], u[0]])
    normal = u if np.ptp(ring @ u) >= np.ptp(ring @ v) else v
    reach = ring @ normal
    middle = normal * (reach.min() + np.ptp(reach) * rng.uniform(0.42, 0.58))
    for sign in (1.0, -1.0):
        half = cut(ring, middle + sign * normal * gap_m / 2, sign * normal)
        yield from subdivide(half, rng, largest_m2, gap_m)


def _area(ring: Ring) -> float:
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


@lru_cache(maxsize=128)
def _lay_out(town: Town, column: int, row: int) -> Contents:
    """Everything in one cell of the lattice."""
    rng = town._rng(column, row, 0)
    corners = np.array(
        [town.node(column + i, row + j) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
    )
    found = Contents()
    widths = np.array(
        [
            _street_width(town, row, 6),
            _street_width(town, column + 1, 7),
            _street_width(town, row + 1, 6),
            _street_width(town, column, 7),
        ]
    )
    _pave(found, rng, corners, widths)
    inside = inset(corners, widths / 2 + 2.0)
    urbanity = town.urbanity(corners.mean(axis=0))
    if rng.random() < 0.16 and urbanity > 0.2:
        _industry(found, rng, inside)
        return found
    for quarter in subdivide(inside, rng, 9000.0, 6.0):
        for block in subdivide(quarter, rng, 3400.0, rng.uniform(2.5, 4.5)):
            _fill_block(found, rng, block, urbanity + rng.normal(0.0, 0.16))
    return found


def _street_width(town: Town, line: int, purpose: int) -> float:
    return float(town._rng(line, 0, purpose).uniform(7.0, 15.0))


def _pave(found: Contents, rng: np.random.Generator, corners: Ring, widths: Ring) -> None:
    """The cell's lanes, and the main streets on its upper and left side."""
    lane = DIRT if rng.random() < 0.6 else PAVING
    found.streets.append(Surface(Polygon(corners).buffer(0.5), lane, SOIL, 0.0, 0.35, 0.12))
    for a, b, width in ((0, 1, widths[0]), (0, 3, widths[3])):
        line = shapely.LineString([corners[a], corners[b]])
        along = math.atan2(*(corners[b] - corners[a])[::-1])
        found.ground.append(Surface(line.buffer(width / 2), ASPHALT, PAVING, 0.0, 0.25, 0.05))
        if width > 9.0:
            for start in np.arange(8.0, line.length - 8.0, 6.0):
                spot = line.interpolate(start)
                dash = Place(spot.x, spot.y, along).to_town(shapely.box(0.0, -0.1, 2.5, 0.1))
                found.cars.append(Surface(dash, WHITE, ASPHALT, 0.0, 0.3))
        for _ in range(int(rng.poisson(line.length / 30))):
            spot = line.interpolate(rng.uniform(10.0, line.length - 10.0))
            side = rng.choice([-1.0, 1.0]) * (width / 2 - rng.choice([1.2, width / 4]))
            x, y = spot.x - side * math.sin(along), spot.y + side * math.cos(along)
            _park(found, rng, Place(x, y, along + rng.normal(0.0, 0.03)))


def _park(found: Contents, rng: np.random.Generator, place: Place) -> None:
    """A car with its windscreens."""
    long = float(rng.choice([4.2, 4.5, 7.5], p=[0.5, 0.35, 0.15]))
    paint = CAR_PAINT[rng.integers(len(CAR_PAINT))]
    body, cabin = shapely.box(-long / 2, -0.9, long / 2, 0.9), shapely.box(-0.9, -0.8, 1.3, 0.8)
    roof = shapely.box(-0.5, -0.75, 0.8, 0.75)
    found.cars += [
        Surface(place.to_town(body), paint, paint, 1.0, 0.0, 0.02),
        Surface(place.to_town(cabin), (0.12, 0.13, 0.15), paint, 1.2, 0.0, 0.02),
        Surface(place.to_town(roof), paint, paint, 1.5, 0.0, 0.02),
    ]


def _industry(found: Contents, rng: np.random.Generator, site: Ring) -> None:
    """One hall as large as the site allows, smaller ones and a yard with lorries."""
    found.ground.append(Surface(Polygon(site), PAVING, SOIL, 0.0, 0.4, 0.08))
    u = long_direction(site)
    place, length, width = _fit(inset(site, 6.0), u, (1.0, 0.42))
    hall = build_industrial(rng, place, draw_plan(rng, "rectangle", length, width))
    found.buildings.append(hall)
    for part in subdivide(inset(site, 3.0), rng, 1500.0, 4.0):
        if Polygon(part).distance(hall.outline) > 5.0:
            _build_in(found, rng, inset(part, 3.0), "industrial", "rectangle")
        elif rng.random() < 0.5:
            centre = part.mean(axis=0)
            car = Place(centre[0], centre[1], rng.uniform(0, math.pi))
            if hall.outline.distance(shapely.Point(centre)) > 5.0:
                _park(found, rng, car)


def _fill_block(found: Contents, rng: np.random.Generator, block: Ring, urbanity: float) -> None:
    """Choose what a block is by how built-up the town is here."""
    if urbanity < 0.22:
        _open_land(found, rng, block)
    elif urbanity < 0.5:
        _gardens(found, rng, block)
    elif urbanity < 0.64:
        _terraces(found, rng, block)
    else:
        _old_town(found, rng, block)


def _open_land(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Fields, meadows and groves."""
    for plot in subdivide(block, rng, rng.uniform(500.0, 3000.0), 0.8):
        colour, stain = [(CROP, SOIL), (MEADOW, GRASS), (SOIL, DIRT), (GRASS, HEDGE)][
            rng.integers(4)
        ]
        u = long_direction(plot)
        stripe = float(rng.choice([0.0, 1.4, 2.2]))
        found.ground.append(
            Surface(
                Polygon(plot), colour, stain, 0.0, rng.uniform(0.2, 0.6), 0.2, stripe,
                math.atan2(u[1], u[0]), plants=0.7,
            )
        )  # fmt: skip
        _plant(found, rng, plot, _area(plot) / (120.0 if rng.random() < 0.2 else 900.0))


def _gardens(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Detached houses, each in its garden."""
    first = len(found.buildings)
    for plot in subdivide(block, rng, rng.uniform(420.0, 900.0), 0.0):
        found.ground.append(Surface(Polygon(plot), HEDGE, GRASS, 1.2, 0.3, 0.3, plants=0.9))
        lawn = inset(plot, 0.5)
        green = rng.random() < 0.75
        found.ground.append(
            Surface(
                Polygon(lawn) if len(lawn) > 2 else Polygon(plot),
                GRASS if green else DIRT, MEADOW if green else GRASS, 0.0, 0.5, 0.2, plants=0.7,
            )
        )  # fmt: skip
        if rng.random() < 0.9:
            shape = str(rng.choice(["rectangle", "L", "T", "U"], p=[0.55, 0.25, 0.12, 0.08]))
            roof = str(rng.choice(["gable", "flat", "metal"], p=[0.6, 0.28, 0.12]))
            _build_in(found, rng, inset(plot, rng.uniform(2.5, 5.0)), roof, shape)
        _plant(found, rng, plot, 4.0, found.buildings[first:])


def _terraces(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Rows of houses that share their side walls, front to the lane, gardens behind."""
    found.ground.append(Surface(Polygon(block), GRASS, SOIL, 0.0, 0.5, 0.25, plants=0.6))
    u = long_direction(block)
    first = len(found.buildings)
    for strip in subdivide(block, rng, _area(block) * 0.6, 0.0):
        place, length, width = _fit(inset(strip, 1.5), u, (1.0, 0.55))
        if width < 6.0 or length < 12.0:
            continue
        roof = str(rng.choice(["gable", "flat", "metal"], p=[0.5, 0.35, 0.15]))
        edges = np.linspace(-length / 2, length / 2, 1 + int(length / rng.uniform(6.0, 9.0)))
        depth = min(width, 13.0)
        for left, right in pairwise(edges):
            back = depth / 2 - rng.choice([0.0, 0.0, 1.5])
            found.buildings.append(BUILDERS[roof](rng, place, [(left, -depth / 2, right, back)]))
    _plant(found, rng, block, _area(block) / 150.0, found.buildings[first:])


def _old_town(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Houses wall to wall, yards and sheds in between, now and then a large one."""
    found.ground.append(Surface(Polygon(block), PAVING, SOIL, 0.0, 0.5, 0.2, plants=0.1))
    first = len(found.buildings)
    if _area(block) > 900 and rng.random() < 0.25:
        parts = subdivide(block, rng, 1600.0, 1.0)
    else:
        parts = subdivide(block, rng, rng.uniform(110.0, 330.0), rng.uniform(0.0, 0.6))
    for plot in parts:
        chance = rng.random()
        if chance < 0.07:
            _yard(found, rng, plot)
            continue
        roof = str(rng.choice(["flat", "metal", "gable"], p=[0.66, 0.22, 0.12]))
        shape = str(rng.choice(["rectangle", "L", "U"], p=[0.8, 0.13, 0.07]))
        if _area(plot) > 420:
            roof, shape = ("courtyard", "courtyard") if chance < 0.6 else (roof, "U")
        _build_in(found, rng, inset(plot, rng.uniform(0.1, 0.9)), roof, shape)
    _plant(found, rng, block, _area(block) / 500.0, found.buildings[first:])


def _yard(found: Contents, rng: np.random.Generator, plot: Ring) -> None:
    """An open place in the old town: a garden, or paving with a round shrine."""
    green = rng.random() < 0.6
    colour = GRASS if green else PAVING
    found.ground.append(
        Surface(Polygon(plot), colour, SOIL, 0.0, 0.5, 0.25, plants=0.7 if green else 0.0)
    )
    centre = plot.mean(axis=0)
    radius = min(5.0, 0.35 * math.sqrt(_area(plot)))
    if not green and radius > 2.0:
        found.buildings.append(build_dome(rng, Place(centre[0], centre[1], 0.0), radius))
    elif green:
        _plant(found, rng, plot, 4.0)


def _build_in(found: Contents, rng: np.random.Generator, plot: Ring, roof: str, shape: str) -> None:
    """Build as large as the plot allows; nothing where that is too small."""
    if len(plot) < 3:
        return
    place, length, width = _fit(plot, long_direction(plot), (1.0, 1.0))
    length, width = min(length, 60.0), min(width, 34.0)
    if min(length, width) < 4.0:
        return
    if min(length, width) < 9.0 and shape != "rectangle":
        shape = "rectangle"
    if roof == "courtyard" and shape != "courtyard":
        roof = "flat"
    found.buildings.append(BUILDERS[roof](rng, place, draw_plan(rng, shape, length, width)))


def _fit(
    ring: Ring, u: NDArray[np.float64], share: tuple[float, float]
) -> tuple[Place, float, float]:
    """Largest rectangle of the ring's proportions along u, about its centre, that stays inside."""
    if len(ring) < 3:
        return Place(0.0, 0.0, 0.0), 0.0, 0.0
    v = np.array([-u[1], u[0]])
    centroid = shapely.centroid(Polygon(ring))
    centre = np.array([centroid.x, centroid.y])
    half = np.array([np.ptp(ring @ u) * share[0], np.ptp(ring @ v) * share[1]]) / 2
    along = np.roll(ring, -1, axis=0) - ring
    normals = np.column_stack([-along[:, 1], along[:, 0]])
    room = np.sum((centre - ring) * normals, axis=1)
    normals *= np.sign(room)[:, None]
    # A side is met first by the corner farthest against its normal.
    need = np.abs(normals @ u) * half[0] + np.abs(normals @ v) * half[1]
    half = half * min(1.0, float(np.min(np.abs(room) / need)))
    return Place(centre[0], centre[1], math.atan2(u[1], u[0])), 2 * half[0], 2 * half[1]


def _plant(
    found: Contents,
    rng: np.random.Generator,
    plot: Ring,
    count: float,
    buildings: list[Building] | None = None,
) -> None:
    """Plant trees at random, none over a roof."""
    low, high = plot.min(axis=0), plot.max(axis=0)
    number = int(rng.poisson(count))
    spots = rng.uniform(low, high, (number, 2))
    radii = rng.uniform(1.2, 4.2, number)
    shades = rng.uniform(0.75, 1.25, number)
    walls = shapely.union_all([b.outline for b in buildings or []])
    points = shapely.points(spots)
    free = shapely.contains(Polygon(plot), points)
    if not walls.is_empty:
        free &= shapely.distance(points, walls) > radii * 0.9
    for (x, y), radius, shade in zip(spots[free], radii[free], shades[free], strict=True):
        colour = (0.22 * shade, 0.30 * shade, 0.12 * shade)
        found.trees.append(Tree(x, y, radius, 1.5 + 1.6 * radius, colour))
