"""The plan of a generated town: main streets and the cells between them.

The town has no end and is a function of position: a warped lattice of main streets makes cells,
and all that is in a cell follows from the seed and the cell's two numbers. Any part of the town can
therefore be laid out on its own and agrees with its neighbours.

Everything is in *town metres*: x to the right, y down the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from footprints.data.synthetic.blocks import (
    ASPHALT,
    DIRT,
    MARKING,
    PAVING,
    Contents,
    fill_block,
    fill_industry,
    park,
)
from footprints.data.synthetic.rings import Ring, inset, subdivide
from footprints.data.synthetic.roofs import Place, Surface

CELL_M = (215.0, 175.0)
"""Spacing of the main streets."""
WARP_M = 52.0
"""How far the lattice is bent, smoothly, and a third of it at random."""
BEND_M = 520.0
"""Wavelength of the bends, and of the change from the old centre to open land."""
OVERHANG_M = 10.0
"""Nothing reaches farther than this out of its cell: half a street, half a crown."""
ORIGIN = 1 << 20
"""Added to cell numbers: seeds must not be negative."""


class Purpose(IntEnum):
    """What random numbers are for; each purpose has its own."""

    TURN = 0
    BEND_X = 1
    BEND_Y = 2
    JITTER = 3
    URBANITY = 4
    ROW_WIDTH = 5
    COLUMN_WIDTH = 6
    CONTENTS = 7


@dataclass(frozen=True, slots=True)
class Town:
    """A town without end, made from a seed."""

    seed: int = 0
    density: float = 0.7
    """From 0, fields with a few houses, to 1, houses wall to wall."""

    def cells(self, bounds: tuple[float, float, float, float]) -> Iterator[Contents]:
        """Lay out all cells that reach into bounds (x_min, y_min, x_max, y_max), row by row.

        Cells are laid out whole, so some of what they hold lies outside.
        """
        x0, y0, x1, y1 = bounds
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) @ self.directions()
        reach = 1.4 * WARP_M + OVERHANG_M
        first = np.floor((corners.min(axis=0) - reach) / CELL_M).astype(int)
        last = np.floor((corners.max(axis=0) + reach) / CELL_M).astype(int)
        for row in range(first[1], last[1] + 1):
            for column in range(first[0], last[0] + 1):
                ring = self.corners(column, row)
                left, top = ring.min(axis=0) - OVERHANG_M
                right, bottom = ring.max(axis=0) + OVERHANG_M
                if left < x1 and right > x0 and top < y1 and bottom > y0:
                    yield _lay_out(self, column, row)

    def directions(self) -> NDArray[np.float64]:
        """(2, 2), the unbent lattice's directions as columns."""
        angle = np.random.default_rng((self.seed, Purpose.TURN)).uniform(0.1, 1.4)
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    def corners(self, column: int, row: int) -> Ring:
        """The crossings around a cell, from its upper-left one on."""
        around = ((0, 0), (1, 0), (1, 1), (0, 1))
        return np.array([_crossing(self, column + i, row + j) for i, j in around])

    def urbanity(self, place: NDArray[np.float64]) -> float:
        """How built-up the town is at a place: below 0 open land, above 1 the old centre."""
        return self.density + 0.9 * (self.smooth(place, Purpose.URBANITY) - 0.5)

    def rng(self, column: int, row: int, purpose: Purpose) -> np.random.Generator:
        """Random numbers that belong to a cell."""
        return np.random.default_rng((self.seed, purpose, column + ORIGIN, row + ORIGIN))

    def smooth(self, place: NDArray[np.float64], purpose: Purpose) -> float:
        """Noise from 0 to 1 that changes over `BEND_M`."""
        x, y = place / BEND_M
        column, row = math.floor(x), math.floor(y)
        x, y = x - column, y - row
        x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
        return sum(
            float(weight) * self.rng(column + i, row + j, purpose).random()
            for i, j, weight in (
                (0, 0, (1 - x) * (1 - y)),
                (1, 0, x * (1 - y)),
                (0, 1, (1 - x) * y),
                (1, 1, x * y),
            )
        )


@lru_cache(maxsize=4096)
def _crossing(town: Town, column: int, row: int) -> NDArray[np.float64]:
    """Place of a crossing of main streets, (2,)."""
    straight = town.directions() @ (np.array([column, row]) * CELL_M)
    bend = [town.smooth(straight, purpose) for purpose in (Purpose.BEND_X, Purpose.BEND_Y)]
    jitter = town.rng(column, row, Purpose.JITTER).uniform(-1, 1, 2) / 3
    place: NDArray[np.float64] = straight + WARP_M * (2 * np.array(bend) - 1 + jitter)
    return place


@lru_cache(maxsize=128)
def _lay_out(town: Town, column: int, row: int) -> Contents:
    """Everything in one cell of the lattice."""
    rng = town.rng(column, row, Purpose.CONTENTS)
    corners = town.corners(column, row)
    widths = np.array(
        [
            _street_width(town, row, Purpose.ROW_WIDTH),
            _street_width(town, column + 1, Purpose.COLUMN_WIDTH),
            _street_width(town, row + 1, Purpose.ROW_WIDTH),
            _street_width(town, column, Purpose.COLUMN_WIDTH),
        ]
    )
    found = Contents()
    _pave(found, rng, corners, widths)
    # A cell has the streets above it and on its left; those below and on its right are others'.
    _lay_street(found, rng, corners[[0, 1]], widths[0])
    _lay_street(found, rng, corners[[0, 3]], widths[3])
    inside = inset(corners, widths / 2 + 2.0)
    urbanity = town.urbanity(corners.mean(axis=0))
    if urbanity > 0.2 and rng.random() < 0.16:
        fill_industry(found, rng, inside)
        return found
    for quarter in subdivide(inside, rng, 9000.0, 6.0):
        for block in subdivide(quarter, rng, 3400.0, rng.uniform(2.5, 4.5)):
            fill_block(found, rng, block, urbanity + rng.normal(0.0, 0.12))
    return found


def _street_width(town: Town, line: int, purpose: Purpose) -> float:
    return float(town.rng(line, 0, purpose).uniform(7.0, 15.0))


def _pave(
    found: Contents, rng: np.random.Generator, corners: Ring, widths: NDArray[np.float64]
) -> None:
    """The ground of a cell: verges of the main streets and, inside, what its lanes are made of."""
    verge, lane = (DIRT if rng.random() < share else PAVING for share in (0.5, 0.6))
    inside = inset(corners, widths / 2 + 1.9)
    found.streets += [
        Surface(Polygon(corners).buffer(0.5), verge),
        Surface(Polygon(inside), lane),
    ]


def _lay_street(
    found: Contents, rng: np.random.Generator, ends: NDArray[np.float64], width: float
) -> None:
    """A main street between two crossings (2, 2): asphalt, cars and, if wide, a dashed line."""
    line = shapely.LineString(ends)
    east, south = ends[1] - ends[0]
    along = math.atan2(south, east)
    found.ground.append(Surface(line.buffer(width / 2), ASPHALT))
    if width > 9.0:
        starts = line.interpolate(np.arange(8.0, line.length - 8.0, 6.0))
        for x, y in shapely.get_coordinates(starts):
            dash = Place(x, y, along).to_town(shapely.box(0.0, -0.1, 2.5, 0.1))
            found.cars.append(Surface(dash, MARKING))
    for distance in rng.uniform(10.0, line.length - 10.0, rng.poisson(line.length / 16)):
        spot = line.interpolate(distance)
        side = rng.choice([-1.0, 1.0]) * (width / 2 - rng.choice([1.2, width / 4]))
        x, y = spot.x - side * math.sin(along), spot.y + side * math.cos(along)
        park(found, rng, Place(x, y, along + rng.normal(0.0, 0.03)))
