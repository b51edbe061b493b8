"""A dense town that repeats, and what a network would find in its chips: 28 x 28 grids.

Blocks of houses wall to wall or a step apart, turned, with lanes between them and open ground
around, as in Dhaka. The town repeats every few chips, so that a scene of any size costs the
generator nothing while something else is measured.

Frame: grid pixels, 0.3 m on the ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import rotate, translate

from footprints.chip import ChipGrid, Instances, MaskGroup
from footprints.vector.coverage import rasterize_coverage

CHIP, OVERLAP = 512, 128
STEP = CHIP - OVERLAP
PERIOD = 4
"""Chips after which the town repeats."""
SIDE = 28
GSD_M = 0.3


def town(seed: int = 0) -> NDArray[np.object_]:
    """Houses of one period, some of them beyond its edge, where they repeat."""
    rng = np.random.default_rng(seed)
    length, houses = PERIOD * STEP, []
    for y in range(0, length, 192):
        for x in range(0, length, 192):
            # A third of the ground is water, fields and squares.
            if rng.random() < 0.33:
                continue
            houses += _block(rng, x + 96, y + 96)
    return np.array(houses, dtype=object)


def _block(rng: np.random.Generator, x: float, y: float) -> list[shapely.Polygon]:
    """Rows of houses around a point, 192 px less a lane on a side."""
    half, angle, houses = 90.0, rng.uniform(-12, 12), []
    top = -half
    while top < half - 16:
        height, left = rng.uniform(20, 44), -half
        while left < half - 12:
            width = rng.uniform(16, 40)
            house = shapely.box(left, top, min(left + width, half), min(top + height, half))
            if rng.random() < 0.25:
                house = house.difference(shapely.box(left, top, left + width / 3, top + height / 2))
            houses.append(translate(rotate(house, angle, origin=(0, 0)), x, y))
            left += width + rng.choice([0.0, 1.0, 3.0, 6.0])
        top += height + rng.choice([0.0, 2.0, 8.0])
    return houses


def grid_of(instances: int, per_chip: float) -> ChipGrid:
    """A square scene whose chips show at least this many instances."""
    side = max(2, math.ceil((instances / per_chip) ** 0.5))
    return ChipGrid(OVERLAP + side * STEP, OVERLAP + side * STEP, CHIP, OVERLAP)


def chips_of_a_period(seed: int = 0) -> list[Instances]:
    """What the PERIOD x PERIOD chips show, row by row."""
    houses, length = town(seed), PERIOD * STEP
    around = [
        np.array([translate(house, dx, dy) for house in houses], dtype=object)
        for dy in (-length, 0, length)
        for dx in (-length, 0, length)
    ]
    everything = np.concatenate(around)
    rng = np.random.default_rng(seed + 1)
    return [
        _detect(rng, everything, column * STEP, row * STEP)
        for row in range(PERIOD)
        for column in range(PERIOD)
    ]


def _detect(rng: np.random.Generator, houses: NDArray[np.object_], x: float, y: float) -> Instances:
    """Houses of one chip as a network would have them: beside themselves, doubled now and then."""
    chip = shapely.box(0, 0, CHIP, CHIP)
    local = shapely.transform(houses, lambda xy: xy - (x, y))
    local = local[shapely.intersects(local, chip)]
    doubles = local[rng.random(len(local)) < 0.1]
    found = np.concatenate([local, doubles])
    shifts = rng.normal(0, 0.5, (len(found), 2))
    found = np.array([translate(p, *s) for p, s in zip(found, shifts, strict=True)], dtype=object)
    found = shapely.intersection(found, chip)
    found = found[shapely.area(found) >= 20]
    boxes = shapely.bounds(found)
    grown = np.repeat((boxes[:, 2:] - boxes[:, :2]) * 0.1, 2, axis=0).reshape(-1, 4)
    mask_boxes = np.clip(boxes + grown * [-1, -1, 1, 1], 0, CHIP)
    coverage = rasterize_coverage(found, mask_boxes, SIDE).astype(np.float64)
    share = np.clip(coverage, 1e-6, 1 - 1e-6)
    logits = np.clip(np.rint(16 * np.log(share / (1 - share))), -127, 127).astype(np.int8)
    return Instances(
        boxes=boxes.astype(np.float32),
        scores=rng.uniform(0.3, 1, len(found)).astype(np.float32),
        labels=np.zeros(len(found), dtype=np.int64),
        mask_boxes=mask_boxes.astype(np.float32),
        masks=(MaskGroup(np.arange(len(found)), logits),),
    )


def chips_of_a_row(grid: ChipGrid, row: int, period: list[Instances]) -> Iterator[Instances]:
    """What the chips of a row of a scene show."""
    for column in range(len(grid.column_starts)):
        yield period[(row % PERIOD) * PERIOD + column % PERIOD]
