"""From a scene on disk to a layer on disk against the bare network, chip for chip.

    python tests/benchmarks/throughput.py [--chips 200] [--parts 4] [--batch-size 2] [--threads 2]

A generated dense town, repeated, is predicted with `footprints.predict`; the bare network is the
detector on the same chips, read before, up to its grids, one batch after the other and in lanes, as
`predict` calls it. All take turns, part by part of the scene, with the same batches, precision and
threads; loading is left out and shown apart. The
coarse pass's chips are the network's work like all others, on both sides. Beside them goes a plain
loop: read a window, predict, paste each mask into its chip, `rasterio.features.shapes`, IoU-NMS.

On a machine that does other work as well, processor time is what counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
import torch
import torch.nn.functional as F
from machine import describe
from rasterio.features import shapes

from footprints.chip import Chip, ChipGrid, Instances
from footprints.data.synthetic.scene import generate_scene
from footprints.detection import cover_scene
from footprints.model.detector import NetworkDetector, load_detector
from footprints.pipeline import predict
from footprints.raster.reader import read_chip
from footprints.raster.source import open_scene
from footprints.stages import measure_stages

TILE = 1400
"""Side in pixels of what is generated; repeats are mirror images, so that no edge shows."""
GSD_M = 0.3
NMS_IOU = 0.5
CONTENDERS = ("bare network", "bare network in lanes", "footprints", "plain loop")


class Clock:
    """Wall and processor seconds of one contender."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


class Counting:
    """A detector that keeps the chips it was shown, in their batches."""

    def __init__(self, detector: NetworkDetector) -> None:
        self._detector = detector
        self.lanes = detector.lanes
        self.open_lanes = detector.open_lanes
        self.batches: list[list[Chip]] = []

    def __getattr__(self, name: str) -> Any:  # whatever the detector has
        return getattr(self._detector, name)

    def __call__(self, chips: list[Chip]) -> list[Instances]:
        self.batches.append(list(chips))
        return self._detector(chips)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", type=int, default=200, help="at least so many fine chips")
    parser.add_argument("--parts", type=int, default=4, help="scenes that contenders take turns on")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    detector = load_detector()
    loading = time.perf_counter() - began
    clocks = {name: Clock() for name in CONTENDERS}
    chips = buildings = pixels = 0
    with tempfile.TemporaryDirectory() as folder, measure_stages() as stages:
        tile = generate_scene(
            Path(folder) / "tile.tif", width=TILE, height=TILE, density=0.9, nodata_collar=False
        )
        for part in range(options.parts):
            scene = write_scene(tile.raster, Path(folder) / f"{part}.tif", options)
            counting = Counting(detector)
            with clocks["footprints"].running():
                layer = predict(
                    scene,
                    output=scene.with_suffix(".gpkg"),
                    detector=counting,
                    batch_size=options.batch_size,
                    progress=False,
                )
            with clocks["bare network"].running():
                for batch in counting.batches:
                    detector(batch)
            with (
                clocks["bare network in lanes"].running(),
                detector.open_lanes(detector.lanes) as lanes,
            ):
                list(lanes.map(detector, counting.batches))
            with clocks["plain loop"].running():
                plain(scene, detector, options.batch_size)
            chips += sum(map(len, counting.batches))
            pixels += sum(chip.valid.size for batch in counting.batches for chip in batch)
            buildings += len(layer)
            report(clocks, chips, buildings, pixels)
    print("\nstages of footprints, all parts, in seconds by the wall clock\n")
    for name, seconds in stages.seconds.items():
        print(f"{name:32}{seconds:9.2f}")
    for name, seconds in stages.beside.items():
        print(f"{f'{name}, beside':32}{seconds:9.2f}")
    print(
        f"\n{options.parts} parts by turns, {options.threads} threads, {detector.precision}, "
        f"loading {loading:.1f} s\n{describe('torch', 'rasterio', 'shapely')}"
    )


def report(clocks: dict[str, Clock], chips: int, buildings: int, pixels: int) -> None:
    """What has been measured so far."""
    bare = clocks["bare network"]
    print(f"\n{chips} chips, {buildings / chips:.0f} buildings in the layer per chip\n")
    print("| | wall s | cpu s | chips/s | Mpx/s | wall, of the network's | cpu |")
    print("|---|---|---|---|---|---|---|")
    for name, clock in clocks.items():
        print(
            f"| {name} | {clock.wall:.1f} | {clock.cpu:.1f} | {chips / clock.wall:.2f} | "
            f"{pixels / 1e6 / clock.wall:.2f} | {clock.wall / bare.wall:.3f} | "
            f"{clock.cpu / bare.cpu:.3f} |",
            flush=True,
        )


def write_scene(tile: Path, path: Path, options: argparse.Namespace) -> Path:
    """The tile and its mirror images, as many as give each part its share of the chips."""
    per_part = -(-options.chips // options.parts)
    with rasterio.open(tile) as source:
        pixels, profile = source.read(), source.profile
    side = 512 + 384 * (int(np.ceil(np.sqrt(per_part))) - 1)
    length = int(side * 0.27 / GSD_M)
    repeats = -(-length // TILE)
    row = np.concatenate([pixels[:, :, :: 1 - i % 2 * 2] for i in range(repeats)], axis=2)
    whole = np.concatenate([row[:, :: 1 - i % 2 * 2] for i in range(repeats)], axis=1)
    profile.update(width=length, height=length)
    with rasterio.open(path, "w", **profile) as target:
        target.write(whole[:, :length, :length])
    return path


def plain(scene: Path, detector: NetworkDetector, batch_size: int) -> int:
    """Windows one after the other, masks pasted, outlined pixel by pixel, doubles suppressed."""
    polygons, scores = [], []
    with open_scene(scene, want_bands=3) as raster:
        cover = cover_scene(raster, detector.input_spec)
        windows = list(cover.chips)
        for first in range(0, len(windows), batch_size):
            some = windows[first : first + batch_size]
            chips = [read_chip(cover.grid, w, detector.input_spec.scaling) for w in some]
            for window, found in zip(some, detector(chips), strict=True):
                sure = found.take(np.flatnonzero(found.scores >= detector.confidence))
                outlines = [outline(mask) for mask in paste(sure, cover.chips)]
                polygons += [
                    shapely.transform(p, lambda xy, w=window: xy + np.array([w.x, w.y]))
                    for p in outlines
                ]
                scores += sure.scores.tolist()
    return len(suppress(np.array(polygons, dtype=object), np.array(scores)))


def paste(found: Instances, chips: ChipGrid) -> Iterator[np.ndarray]:
    """Each mask, resized to its box in a picture as large as the chip."""
    grids: dict[int, np.ndarray] = {}
    for members, logits in found.masks:
        grids.update(zip(members.tolist(), logits, strict=True))
    for number, (x, y, right, bottom) in enumerate(found.mask_boxes.round().astype(int)):
        whole = np.zeros((chips.chip_height, chips.chip_width), dtype=np.uint8)
        size = max(bottom - y, 1), max(right - x, 1)
        logits = torch.from_numpy(grids[number].astype(np.float32))[None, None]
        mask = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0].numpy() > 0
        room = whole[y : y + size[0], x : x + size[1]]
        room[:] = mask[: room.shape[0], : room.shape[1]]
        yield whole


def outline(mask: np.ndarray) -> shapely.Geometry:
    """The largest part of a mask."""
    parts = [shapely.geometry.shape(part) for part, _ in shapes(mask, mask=mask > 0)]
    return max(parts, key=lambda part: part.area, default=shapely.Polygon())


def suppress(polygons: np.ndarray, scores: np.ndarray) -> list[int]:
    """Which outlines stay: the surest of those that overlap."""
    kept: list[int] = []
    tree, gone = shapely.STRtree(polygons), np.zeros(len(polygons), dtype=bool)
    for index in np.argsort(-scores):
        if gone[index]:
            continue
        kept.append(int(index))
        near = tree.query(polygons[index], predicate="intersects")
        shared = shapely.area(shapely.intersection(polygons[near], polygons[index]))
        union = shapely.area(polygons[near]) + polygons[index].area - shared
        gone[near[shared > NMS_IOU * union]] = True
    return kept


if __name__ == "__main__":
    main()
