"""Generated buildings: the plan of the walls, the roof on top and what stands on it.

Everything is in *town metres*: x to the right, y down the image, heights above the street. A
building is first drawn in its own frame, centred and with its long side along u, then turned and
moved to its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from shapely import Polygon

Colour = tuple[float, float, float]
"""Red, green and blue as a camera renders them in the sun, 0 to 1."""
Rectangle = tuple[float, float, float, float]
"""u_min, v_min, u_max, v_max in the building's own frame."""

CONCRETE: tuple[Colour, ...] = (
    (0.62, 0.60, 0.57),
    (0.70, 0.68, 0.65),
    (0.55, 0.53, 0.50),
    (0.48, 0.46, 0.43),
    (0.66, 0.61, 0.55),
    (0.78, 0.77, 0.75),
    (0.60, 0.54, 0.47),
)
METAL: tuple[Colour, ...] = (
    (0.20, 0.45, 0.69),
    (0.28, 0.53, 0.76),
    (0.62, 0.65, 0.67),
    (0.70, 0.73, 0.75),
    (0.52, 0.55, 0.57),
    (0.46, 0.33, 0.28),
    (0.52, 0.38, 0.31),
    (0.30, 0.55, 0.46),
    (0.66, 0.27, 0.25),
)
TILE: tuple[Colour, ...] = (
    (0.64, 0.36, 0.28),
    (0.70, 0.45, 0.34),
    (0.57, 0.29, 0.23),
    (0.55, 0.40, 0.33),
    (0.40, 0.36, 0.35),
)
HALL: tuple[Colour, ...] = ((0.70, 0.72, 0.73), (0.30, 0.52, 0.72), (0.60, 0.62, 0.62))
TANK: tuple[Colour, ...] = ((0.10, 0.10, 0.11), (0.16, 0.16, 0.17), (0.85, 0.85, 0.84))
HIGHEST_RISE_M = 6.5
"""Wide roofs are flatter: no ridge is higher above its eaves."""
RUST: Colour = (0.44, 0.29, 0.22)
SOOT: Colour = (0.33, 0.31, 0.28)
LEAF: Colour = (0.26, 0.36, 0.14)


class Wing(NamedTuple):
    """A pitched roof over a rectangle, in town metres."""

    x: float
    """Centre."""
    y: float
    angle: float
    """Direction of the ridge in radians."""
    half_length: float
    half_width: float
    rise: float
    """Ridge above the eaves in metres."""
    hipped: bool
    """Whether the short sides slope as well."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a surface looks like."""

    colour: Colour
    stain: Colour = SOOT
    """The colour of its patches: moss, rust, bare soil."""
    stained: float = 0.3
    """Share of patches, 0 to 1."""
    grain: float = 0.08
    """Strength of the fine texture."""
    stripe_m: float = 0.0
    """Period of ribs, tile courses or furrows; 0: none."""
    plants: float = 0.0
    """Share of leaves, which are bright in the near infrared."""


@dataclass(frozen=True, slots=True)
class Surface:
    """Something flat, or roofed by wings, that covers what lies below it."""

    outline: Polygon
    """In town metres."""
    material: Material
    top_m: float = 0.0
    """Height of the top, or of the eaves where there are wings."""
    angle: float = 0.0
    """Direction of the material's stripes in radians."""
    wings: tuple[Wing, ...] = ()


@dataclass(frozen=True, slots=True)
class Building:
    """A true footprint with everything that is painted for it."""

    outline: Polygon
    """Of the walls, in town metres."""
    roof: str
    """Its class: one of `ROOFS`."""
    height_m: float
    surfaces: tuple[Surface, ...]
    """From the bottom up."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a building stands and how it is turned."""

    x: float
    y: float
    angle: float
    """Direction of u in radians, from x towards y."""

    def to_town(self, shape: Polygon) -> Polygon:
        """Move a shape from the building's own frame to town metres."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        matrix = np.array([[cos, sin], [-sin, cos]])
        origin = np.array([self.x, self.y])
        moved: Polygon = shapely.transform(shape, lambda uv: uv @ matrix + origin)
        return moved

    def wing(self, rectangle: Rectangle, pitch: float, *, hipped: bool) -> Wing:
        """Roof a rectangle of the own frame, ridge along its longer side."""
        u0, v0, u1, v1 = rectangle
        u, v, length, width = (u0 + u1) / 2, (v0 + v1) / 2, u1 - u0, v1 - v0
        turn = 0.0
        if width > length:
            length, width, turn = width, length, math.pi / 2
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return Wing(
            self.x + u * cos - v * sin,
            self.y + u * sin + v * cos,
            self.angle + turn,
            length / 2,
            width / 2,
            min(width / 2 * pitch, HIGHEST_RISE_M),
            hipped,
        )


def draw_plan(rng: np.random.Generator, shape: str, length: float, width: float) -> list[Rectangle]:
    """Cover the walls' plan by overlapping rectangles, in the building's own frame.

    Args:
        rng: Where the proportions come from.
        shape: One of rectangle, L, T, U, courtyard.
        length: Size along u in metres.
        width: Size along v in metres.
    """
    a, b = length / 2, width / 2
    depth = min(min(length, width) * rng.uniform(0.36, 0.46), rng.uniform(8.0, 12.0))
    bar = (-a, -b, a, -b + depth)
    left, right = (-a, -b, -a + depth, b), (a - depth, -b, a, b)
    middle = rng.uniform(-0.3, 0.3) * length
    plans: dict[str, list[Rectangle]] = {
        "rectangle": [(-a, -b, a, b)],
        "L": [bar, left],
        "T": [bar, (middle - depth / 2, -b, middle + depth / 2, b)],
        "U": [bar, left, right],
        "courtyard": [bar, left, right, (-a, b - depth, a, b)],
    }
    return plans[shape]


def build_flat(rng: np.random.Generator, place: Place, plan: Sequence[Rectangle]) -> Building:
    """Concrete roof with a parapet, often half a storey more, and what stands about on it."""
    walls = _unite(plan)
    outline = place.to_town(walls)
    deck = walls.buffer(-rng.uniform(0.25, 0.45), join_style="mitre")
    height = float(rng.integers(1, 5)) * 3.1 + 0.4
    concrete = _age_concrete(rng)
    rim = Material(_shade(concrete.colour, 1.12), stained=0.2)
    surfaces = [
        Surface(outline, rim, height + rng.uniform(0.2, 0.9)),
        Surface(place.to_town(deck), concrete, height),
        *_clutter(rng, place, deck, height),
    ]
    if rng.random() < 0.4:
        height += 2.9
        storey = _cut_storey(rng, plan[0], deck)
        surfaces += [
            Surface(place.to_town(storey), _age_concrete(rng), height),
            *_clutter(rng, place, storey.buffer(-0.3), height),
        ]
    return Building(outline, "flat", height, tuple(surfaces))


def build_gable(rng: np.random.Generator, place: Place, plan: Sequence[Rectangle]) -> Building:
    """Tiled roof with a ridge over every wing, hipped or with gables, and chimneys."""
    walls = _unite(plan)
    outline = place.to_town(walls)
    eaves = float(rng.integers(1, 4)) * 2.8 + 0.5
    pitch = rng.uniform(0.45, 0.75)
    hipped = bool(rng.random() < 0.4)
    wings = tuple(place.wing(part, pitch, hipped=hipped) for part in plan)
    ridge = eaves + max(wing.rise for wing in wings)
    tiles = Material(_vary(rng, TILE), stained=0.25, grain=0.10, stripe_m=0.5)
    bricks = Material((0.50, 0.42, 0.38))
    chimneys = _boxes(rng, walls, int(rng.integers(0, 3)), (0.6, 1.0))
    surfaces = (
        Surface(outline, tiles, eaves, wings[0].angle, wings),
        *(Surface(place.to_town(box), bricks, ridge + 0.4) for box in chimneys),
    )
    return Building(outline, "hip" if hipped else "gable", ridge, surfaces)


def build_metal(rng: np.random.Generator, place: Place, plan: Sequence[Rectangle]) -> Building:
    """Corrugated sheets on a low pitch, often rusty."""
    outline = place.to_town(_unite(plan))
    eaves = rng.uniform(2.6, 7.0)
    pitch = rng.uniform(0.1, 0.25)
    wings = tuple(place.wing(part, pitch, hipped=False) for part in plan)
    ridge = eaves + max(wing.rise for wing in wings)
    roof = Surface(outline, _age_metal(rng), eaves, wings[0].angle + math.pi / 2, wings)
    return Building(outline, "metal", ridge, (roof,))


def build_industrial(rng: np.random.Generator, place: Place, plan: Sequence[Rectangle]) -> Building:
    """A hall: wide ribbed sheets and two rows of skylights."""
    outline = place.to_town(_unite(plan))
    eaves = rng.uniform(7.0, 11.0)
    wing = place.wing(plan[0], 0.12, hipped=False)
    colour = _vary(rng, HALL)
    sheets = Material(colour, _shade(colour, 0.82), grain=0.05, stripe_m=2.4)
    glass = Material((0.85, 0.87, 0.86), stained=0.1, grain=0.03)
    u0, v0, u1, v1 = plan[0]
    width = v1 - v0
    lights = (
        shapely.box(u, v0 + share * width, u + 1.2, v0 + (share + 0.24) * width)
        for u in np.arange(u0 + 6.0, u1 - 6.0, 9.0)
        for share in (0.13, 0.63)
    )
    surfaces = (
        Surface(outline, sheets, eaves, wing.angle + math.pi / 2, (wing,)),
        *(Surface(place.to_town(light), glass, eaves, wings=(wing,)) for light in lights),
    )
    return Building(outline, "industrial", eaves + wing.rise, surfaces)


def build_dome(rng: np.random.Generator, place: Place, radius: float) -> Building:
    """A round building, a tank or a shrine, with a smaller drum on top."""
    height = rng.uniform(3.0, 7.0)
    middle = shapely.Point(place.x, place.y)
    outline = middle.buffer(radius, quad_segs=12)
    colour = _vary(rng, (*CONCRETE, (0.62, 0.27, 0.22)))
    surfaces = (
        Surface(outline, Material(colour, stained=0.2), height),
        Surface(
            middle.buffer(radius * 0.55, quad_segs=12),
            Material(_shade(colour, 1.15), stained=0.2),
            height + 1.5,
        ),
    )
    return Building(outline, "dome", height + 1.5, surfaces)


def build_courtyard(rng: np.random.Generator, place: Place, plan: Sequence[Rectangle]) -> Building:
    """Four wings around a yard, tiled or flat."""
    build = build_gable if rng.random() < 0.5 else build_flat
    made = build(rng, place, plan)
    return Building(made.outline, "courtyard", made.height_m, made.surfaces)


ROOFS = ("flat", "gable", "hip", "metal", "industrial", "courtyard", "dome")
"""Roof classes of the true polygons."""

BUILDERS: dict[str, Callable[[np.random.Generator, Place, Sequence[Rectangle]], Building]] = {
    "flat": build_flat,
    "gable": build_gable,
    "metal": build_metal,
    "industrial": build_industrial,
    "courtyard": build_courtyard,
}


def _unite(plan: Sequence[Rectangle]) -> Polygon:
    united: Polygon = shapely.union_all([shapely.box(*part) for part in plan])
    return united


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(1.0, factor * value) for value in colour)
    return red, green, blue


def _vary(rng: np.random.Generator, palette: Sequence[Colour]) -> Colour:
    """Pick a colour and age it a little."""
    red, green, blue = palette[int(rng.integers(len(palette)))]
    light = rng.uniform(0.84, 1.12)
    tint = rng.normal(0.0, 0.015, 3)
    red, green, blue = np.clip(np.array((red, green, blue)) * light + tint, 0.05, 0.95)
    return float(red), float(green), float(blue)


def _boxes(
    rng: np.random.Generator, deck: Polygon, count: int, sides: tuple[float, float]
) -> list[Polygon]:
    """Up to ``count`` boxes with sides in the given range that lie on the deck, own frame."""
    u0, v0, u1, v1 = deck.bounds
    places = rng.uniform((u0, v0), (u1, v1), (count, 2))
    sizes = rng.uniform(*sides, (count, 2)) / 2
    boxes = shapely.box(*(places - sizes).T, *(places + sizes).T)
    return [box for box in boxes if deck.contains(box)]


def _age_concrete(rng: np.random.Generator) -> Material:
    return Material(_vary(rng, CONCRETE), stained=rng.uniform(0.15, 0.6), grain=0.16)


def _age_metal(rng: np.random.Generator) -> Material:
    return Material(_vary(rng, METAL), RUST, rng.uniform(0.0, 0.45), grain=0.07, stripe_m=0.9)


def _cut_storey(rng: np.random.Generator, part: Rectangle, deck: Polygon) -> Polygon:
    """One end of a part of the plan, for a storey that leaves the rest as a terrace."""
    u0, v0, u1, v1 = part
    length = (u1 - u0) * rng.uniform(0.3, 0.65)
    start = u0 if rng.random() < 0.5 else u1 - length
    storey: Polygon = shapely.box(start, v0, start + length, v1).intersection(deck)
    return storey


def _clutter(rng: np.random.Generator, place: Place, deck: Polygon, height: float) -> list[Surface]:
    """What stands on a flat roof: sheets and plants first, then the stair house, then tanks."""
    if deck.is_empty:
        return []
    size = math.sqrt(deck.area)

    def spots(most: int, smallest: float, largest: float) -> list[Polygon]:
        boxes = _boxes(rng, deck, int(rng.integers(0, most + 1)), (smallest, largest))
        return [place.to_town(box) for box in boxes]

    sheets = [
        Surface(spot, _age_metal(rng), height + 2.2, place.angle)
        for spot in spots(2, 0.2 * size, 0.5 * size)
    ]
    pots = Material(LEAF, stained=0.4, grain=0.4, plants=0.8)
    plants = [Surface(spot, pots, height + 0.5) for spot in spots(3, 0.5, 2.0)]
    stairs = [Surface(spot, _age_concrete(rng), height + 2.6) for spot in spots(3, 2.2, 4.2)[:1]]
    tank = Material(TANK[int(rng.integers(len(TANK)))], stained=0.1)
    tanks = [
        Surface(spot.centroid.buffer(0.6, quad_segs=4), tank, height + 1.5)
        for spot in spots(4, 1.2, 1.5)
    ]
    return [*sheets, *plants, *stairs, *tanks]
