"""Tracing: instances a second and core, beside `rasterio.features.shapes`, and how near the truth.

    python tests/benchmarks/trace.py

The grids are those of a dense town, 28 x 28 (`dense_town`), traced chip by chip as `predict` does,
and, for the truth, of rectangles at any angle and place, rendered as area coverage over their own
box. The plain way polygonises each mask by itself and gives pixel stairs. CPU time of one thread;
the best of several turns, which take turns, because other work on the machine comes and goes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from dense_town import SIDE, chips_of_a_period
from machine import describe
from numpy.typing import NDArray

from footprints.chip import Instances, MaskGroup
from footprints.vector.coverage import rasterize_coverage
from footprints.vector.trace import trace

SIZES = ((24.0, 24.0), (12.0, 7.5), (60.0, 20.0))
"""Of rectangles, in pixels."""


def mask_by_mask(seen: Instances) -> list[object]:
    """The plain way: every mask to GeoJSON geometries, one by one."""
    (group,) = seen.masks
    outlines = []
    for logits, box in zip(group.logits, seen.mask_boxes, strict=True):
        to_chip = Affine.translation(box[0], box[1]) @ Affine.scale(
            (box[2] - box[0]) / SIDE, (box[3] - box[1]) / SIDE
        )
        inside = (logits > 0).astype(np.uint8)
        outlines.append(list(rasterio.features.shapes(inside, mask=inside > 0, transform=to_chip)))
    return outlines


def seconds(way: Callable[[Instances], object], chips: list[Instances]) -> float:
    """CPU time for all chips."""
    start = time.process_time()
    for seen in chips:
        way(seen)
    return time.process_time() - start


def rectangles(count: int, width: float, height: float) -> NDArray[np.object_]:
    """Rectangles at random angles and places."""
    rng = np.random.default_rng(0)
    angle, centre = rng.uniform(0, np.pi, count), rng.uniform(0, 500, (count, 2))
    along = np.column_stack([np.cos(angle), np.sin(angle)]) * width / 2
    across = np.column_stack([-np.sin(angle), np.cos(angle)]) * height / 2
    corners = [centre + i * along + j * across for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return shapely.polygons(np.stack(corners, axis=1))


def rendered(truth: NDArray[np.object_]) -> Instances:
    """What a perfect network would say of polygons."""
    boxes = shapely.bounds(truth)
    share = np.clip(rasterize_coverage(truth, boxes, SIDE).astype(np.float64), 1e-6, 1 - 1e-6)
    logits = np.clip(np.rint(16 * np.log(share / (1 - share))), -128, 127).astype(np.int8)
    n = len(truth)
    return Instances(
        boxes=boxes.astype(np.float32),
        scores=np.ones(n, dtype=np.float32),
        labels=np.zeros(n, dtype=np.int64),
        mask_boxes=boxes.astype(np.float32),
        masks=(MaskGroup(np.arange(n), logits),),
    )


def mean_iou(found: NDArray[np.object_], truth: NDArray[np.object_]) -> float:
    shared = shapely.area(shapely.intersection(found, truth))
    return float(np.mean(shared / shapely.area(shapely.union(found, truth))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}; {describe('shapely', 'rasterio', 'numpy')}")

    chips = chips_of_a_period()
    count = sum(len(seen) for seen in chips)
    turns = [(seconds(trace, chips), seconds(mask_by_mask, chips)) for _ in range(options.turns)]
    ours, plain = (min(times) for times in zip(*turns, strict=True))
    print(f"{count:,} instances of {len(chips)} chips, {SIDE} x {SIDE}, {options.turns} turns")
    print(f"footprints: {count / ours:,.0f} instances a second and core")
    print(f"rasterio.features.shapes: {count / plain:,.0f}, {plain / ours:.1f} times the time")
    for width, height in SIZES:
        truth = rectangles(2000, width, height)
        print(f"{width:g} x {height:g} px: mean IoU {mean_iou(trace(rendered(truth)), truth):.4f}")


if __name__ == "__main__":
    main()
