"""What a block between streets is filled with: fields, gardens, terraces, the old town, industry.

All lengths and places are in town metres; blocks and plots are rings, see `rings`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import shapely
from shapely import Polygon

from footprints.data.synthetic.rings import (
    Ring,
    area_m2,
    cut,
    fit_rectangle,
    inset,
    long_direction,
    subdivide,
)
from footprints.data.synthetic.roofs import (
    BUILDERS,
    Building,
    Colour,
    Material,
    Place,
    Surface,
    build_dome,
    build_industrial,
    draw_plan,
)

_PAVING: Colour = (0.55, 0.52, 0.48)
_DIRT: Colour = (0.55, 0.47, 0.38)
_SOIL: Colour = (0.45, 0.38, 0.29)
_GRASS: Colour = (0.35, 0.40, 0.22)
_MEADOW: Colour = (0.46, 0.47, 0.29)
_CROP: Colour = (0.31, 0.39, 0.19)
_HEDGE: Colour = (0.21, 0.28, 0.14)

ASPHALT = Material((0.44, 0.44, 0.44), _PAVING, stained=0.25, grain=0.05)
MARKING = Material((0.85, 0.85, 0.83), stain=(0.44, 0.44, 0.44))
PAVING = Material(_PAVING, _SOIL, stained=0.4, grain=0.12)
DIRT = Material(_DIRT, _SOIL, stained=0.4, grain=0.14)
LAWN = Material(_GRASS, _MEADOW, stained=0.5, grain=0.2, plants=0.7)
ROUGH = Material(_GRASS, _SOIL, stained=0.5, grain=0.25, plants=0.6)
HEDGE = Material(_HEDGE, _GRASS, grain=0.3, plants=0.9)
FIELDS = (
    (_CROP, _SOIL, 0.8),
    (_MEADOW, _GRASS, 0.7),
    (_SOIL, _DIRT, 0.1),
    (_GRASS, _HEDGE, 0.8),
)
"""Colour, stain and share of plants."""
GLASS = Material((0.12, 0.13, 0.15), stained=0.0, grain=0.02)
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


def fill_block(found: Contents, rng: np.random.Generator, block: Ring, urbanity: float) -> None:
    """Choose what a block is by how built-up the town is here."""
    if urbanity < 0.22:
        _open_land(found, rng, block)
    elif urbanity < 0.5:
        _gardens(found, rng, block)
    elif urbanity < 0.64:
        _terraces(found, rng, block)
    else:
        _old_town(found, rng, block)


def fill_industry(found: Contents, rng: np.random.Generator, site: Ring) -> None:
    """One hall as large as the site allows, smaller ones and a yard with lorries."""
    found.ground.append(Surface(Polygon(site), PAVING))
    place, length, width = _fit(inset(site, 6.0), (1.0, 0.42))
    hall = build_industrial(rng, place, draw_plan(rng, "rectangle", length, width))
    found.buildings.append(hall)
    for part in subdivide(inset(site, 3.0), rng, 1500.0, 4.0):
        if Polygon(part).distance(hall.outline) > 5.0:
            _build_in(found, rng, inset(part, 3.0), "industrial", "rectangle")
        elif rng.random() < 0.5:
            centre = part.mean(axis=0)
            car = Place(centre[0], centre[1], rng.uniform(0, math.pi))
            if hall.outline.distance(shapely.Point(centre)) > 5.0:
                park(found, rng, car)
    _plant(found, rng, site, area_m2(site) / 500.0, found.buildings)


def _open_land(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Fields, meadows and groves."""
    for plot in subdivide(block, rng, rng.uniform(500.0, 3000.0), 0.8):
        colour, stain, plants = FIELDS[int(rng.integers(len(FIELDS)))]
        crop = Material(
            colour,
            stain,
            stained=rng.uniform(0.2, 0.6),
            grain=0.2,
            stripe_m=float(rng.choice([0.0, 1.4, 2.2])),
            plants=plants,
        )
        x, y = long_direction(plot)
        found.ground.append(Surface(Polygon(plot), crop, angle=math.atan2(y, x)))
        _plant(found, rng, plot, area_m2(plot) / (120.0 if rng.random() < 0.2 else 900.0))


def _gardens(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Detached houses, each in its garden."""
    first = len(found.buildings)
    for plot in subdivide(block, rng, rng.uniform(420.0, 900.0), 0.0):
        lawn = LAWN if rng.random() < 0.75 else DIRT
        found.ground += [
            Surface(Polygon(plot), HEDGE, top_m=1.2),
            Surface(Polygon(inset(plot, 0.5)), lawn),
        ]
        if rng.random() < 0.9:
            shape = str(rng.choice(["rectangle", "L", "T", "U"], p=[0.55, 0.25, 0.12, 0.08]))
            roof = str(rng.choice(["gable", "flat", "metal"], p=[0.5, 0.36, 0.14]))
            _drive(found, rng, plot)
            _build_in(found, rng, inset(plot, rng.uniform(2.0, 4.5)), roof, shape)
        _litter(found, rng, inset(plot, 1.0))
        _plant(found, rng, plot, 8.0, found.buildings[first:])


def _drive(found: Contents, rng: np.random.Generator, plot: Ring) -> None:
    """A drive from the middle of a plot to its edge; the house comes on top of it."""
    x, y = plot.mean(axis=0)
    u = long_direction(plot)
    angle = math.atan2(u[1], u[0]) + math.pi / 2 * int(rng.integers(4))
    strip = Place(x, y, angle).to_town(shapely.box(0.0, 1.0, 60.0, rng.uniform(2.5, 8.0)))
    part = shapely.intersection(strip, Polygon(plot))
    found.ground.append(Surface(part, PAVING if rng.random() < 0.6 else DIRT))


def _litter(found: Contents, rng: np.random.Generator, plot: Ring) -> None:
    """Small things that lie about: crates, heaps, washing."""
    if len(plot) < 3:
        return
    spots = rng.uniform(plot.min(axis=0), plot.max(axis=0), (int(area_m2(plot) / 45), 2))
    for x, y in spots[shapely.contains_xy(Polygon(plot), spots)]:
        a, b = rng.uniform(0.2, 0.9, 2)
        box = Place(x, y, rng.uniform(0.0, math.pi)).to_town(shapely.box(-a, -b, a, b))
        grey = rng.triangular(0.15, 0.35, 0.8)
        red, green, blue = np.clip(grey + rng.normal(0.0, 0.07, 3), 0.1, 0.9)
        found.ground.append(Surface(box, Material((red, green, blue)), rng.uniform(0.1, 1.2)))


def _terraces(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Rows of houses that share their side walls, front to the lane, gardens behind."""
    found.ground.append(Surface(Polygon(block), ROUGH))
    _litter(found, rng, block)
    u = long_direction(block)
    first = len(found.buildings)
    v = np.array([-u[1], u[0]])
    middle = block.mean(axis=0)
    for side in (-v, v) if np.ptp(block @ v) > 30.0 else (v * 0.0,):
        strip = cut(block, middle, side)
        (x, y), length, width = fit_rectangle(inset(strip, 1.0), u, (1.0, 0.7))
        place = Place(x, y, math.atan2(u[1], u[0]))
        if width < 6.0 or length < 12.0:
            continue
        roof = str(rng.choice(["gable", "flat", "metal"], p=[0.5, 0.35, 0.15]))
        edges = np.linspace(-length / 2, length / 2, 1 + int(length / rng.uniform(6.0, 9.0)))
        depth = min(width, 12.0)
        for left, right in pairwise(edges):
            back = depth / 2 - rng.choice([0.0, 0.0, 1.5])
            found.buildings.append(BUILDERS[roof](rng, place, [(left, -depth / 2, right, back)]))
    _plant(found, rng, block, area_m2(block) / 90.0, found.buildings[first:])


def _old_town(found: Contents, rng: np.random.Generator, block: Ring) -> None:
    """Houses wall to wall, yards and sheds in between, now and then a large one."""
    found.ground.append(Surface(Polygon(block), PAVING))
    _litter(found, rng, block)
    first = len(found.buildings)
    if area_m2(block) > 900 and rng.random() < 0.25:
        parts = subdivide(block, rng, 1600.0, 1.0)
    else:
        parts = subdivide(block, rng, rng.uniform(75.0, 260.0), rng.uniform(0.0, 0.6))
    for plot in parts:
        chance = rng.random()
        if chance < 0.07:
            _yard(found, rng, plot)
            continue
        roof = str(rng.choice(["flat", "metal", "gable"], p=[0.66, 0.22, 0.12]))
        shape = str(rng.choice(["rectangle", "L", "U"], p=[0.8, 0.13, 0.07]))
        if area_m2(plot) > 420:
            roof, shape = ("courtyard", "courtyard") if chance < 0.6 else (roof, "U")
        _build_in(found, rng, inset(plot, rng.uniform(0.1, 0.9)), roof, shape)
    _plant(found, rng, block, area_m2(block) / 150.0, found.buildings[first:])


def _yard(found: Contents, rng: np.random.Generator, plot: Ring) -> None:
    """An open place in the old town: a garden, or paving with a round shrine."""
    green = rng.random() < 0.6
    found.ground.append(Surface(Polygon(plot), ROUGH if green else PAVING))
    place, length, width = _fit(plot)
    radius = min(5.0, 0.45 * min(length, width))
    if not green and radius > 2.0 and rng.random() < 0.5:
        found.buildings.append(build_dome(rng, place, radius))
    elif green:
        _plant(found, rng, plot, 7.0)


def _build_in(found: Contents, rng: np.random.Generator, plot: Ring, roof: str, shape: str) -> None:
    """Build as large as the plot allows; nothing where that is too small."""
    if len(plot) < 3:
        return
    place, length, width = _fit(plot)
    length, width = min(length, 48.0), min(width, 36.0)
    if min(length, width) < 4.0:
        return
    if min(length, width) < 9.0 and shape != "rectangle":
        shape = "rectangle"
    if roof == "courtyard" and shape != "courtyard":
        roof = "flat"
    found.buildings.append(BUILDERS[roof](rng, place, draw_plan(rng, shape, length, width)))


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
    radii = rng.uniform(0.8, 2.2, number) ** 2
    shades = rng.uniform(0.75, 1.25, number)
    walls = shapely.union_all([b.outline for b in buildings or []])
    points = shapely.points(spots)
    free = shapely.contains(Polygon(plot), points)
    if not walls.is_empty:
        free &= shapely.distance(points, walls) > radii * 0.9
    for (x, y), radius, shade in zip(spots[free], radii[free], shades[free], strict=True):
        yellow = 1.0 + 0.6 * (shade - 0.75)
        colour = (0.20 * shade * yellow, 0.29 * shade, 0.13 * shade)
        found.trees.append(Tree(x, y, radius, 1.5 + 1.6 * radius, colour))


def park(found: Contents, rng: np.random.Generator, place: Place) -> None:
    """A car with its windscreens."""
    long = float(rng.choice([4.2, 4.5, 7.5], p=[0.5, 0.35, 0.15]))
    paint = Material(CAR_PAINT[int(rng.integers(len(CAR_PAINT)))], stained=0.0, grain=0.02)
    found.cars += [
        Surface(place.to_town(shapely.box(-long / 2, -0.9, long / 2, 0.9)), paint, 1.0),
        Surface(place.to_town(shapely.box(-long * 0.2, -0.8, long * 0.3, 0.8)), GLASS, 1.2),
        Surface(place.to_town(shapely.box(-long * 0.12, -0.75, long * 0.2, 0.75)), paint, 1.5),
    ]


def _fit(ring: Ring, share: tuple[float, float] = (1.0, 1.0)) -> tuple[Place, float, float]:
    """Place, length and width of a building along the ring's longest side."""
    u = long_direction(ring)
    (x, y), length, width = fit_rectangle(ring, u, share)
    return Place(x, y, math.atan2(u[1], u[0])), length, width
