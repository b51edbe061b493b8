"""What it costs to turn instances into a layer: time, memory, growth, and beside plain ways.

    python tests/benchmarks/merge.py                        # a million instances, then four
    python tests/benchmarks/merge.py --instances 100000     # quicker

Instances start as 28 x 28 int8 grids of a dense town (`dense_town`), are traced, merged row by row,
placed, and written as GeoParquet, by what `predict` does after its network. Every run is a process
of its own, pinned to two cores, so that its peak memory is its own. The plain ways get the traced
outlines of a smaller scene and do not close seams: (a) NMS by IoU over all polygons, the loop
around an STRtree that others have; (b) `GeoDataFrame.dissolve` of what overlaps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from dense_town import CHIP, GSD_M, chips_of_a_period, chips_of_a_row, grid_of
from machine import describe
from pyproj import CRS

from footprints.chip import ChipGrid, Instances
from footprints.vector.detected import ChipRow, Pass
from footprints.vector.layer import place
from footprints.vector.merge import merge
from footprints.vector.outlines import Outlines
from footprints.vector.streaming import merge_rows
from footprints.vector.trace import trace
from footprints.vector.write import write_layer

UTM = CRS("EPSG:32645")
TO_UTM = Affine(GSD_M, 0, 300_000, 0, -GSD_M, 3_100_000)
CONFIDENCE = 0.5
LEAST_IOU = 0.5
CORES = 2


def rows(grid: ChipGrid, period: list[Instances]) -> Iterator[ChipRow]:
    """The scene as a detector would give it, traced."""
    valid = np.ones((CHIP, CHIP), dtype=bool)
    columns = len(grid.column_starts)
    for row in range(len(grid.row_starts)):
        chips = enumerate(chips_of_a_row(grid, row, period), row * columns)
        yield ChipRow(
            Outlines.concatenate(
                Outlines.from_instances(seen, trace(seen), grid.window(number), number, valid)
                for number, seen in chips
            ),
            np.ones(columns, dtype=bool),
            shapely.box(0, 0, grid.width, grid.height),
        )


def seam_share(grid: ChipGrid, period: list[Instances]) -> float:
    """Share of the instances of inner chips that reach ground another chip sees, too."""
    low, high = grid.overlap, grid.size - grid.overlap
    boxes = np.concatenate([seen.boxes for seen in period])
    return float(((boxes[:, :2] < low) | (boxes[:, 2:] > high)).any(axis=1).mean())


def run_once(instances: int, path: Path) -> dict[str, float]:
    """All of it, in this process."""
    period = chips_of_a_period()
    grid = grid_of(instances, np.mean([len(seen) for seen in period]))
    start, cpu_start = time.perf_counter(), time.process_time()
    counted = 0

    def counting() -> Iterator[ChipRow]:
        nonlocal counted
        for row in rows(grid, period):
            counted += len(row.outlines)
            yield row

    look = Pass(grid, TO_UTM, counting())
    footprints = merge_rows(look, confidence=CONFIDENCE, overlaps=False)
    merged = time.perf_counter()
    layer = place(footprints, TO_UTM, UTM, classes=("building",), source="dhaka", model="none")
    del footprints
    write_layer(layer, path)
    end, cpu_end = time.perf_counter(), time.process_time()
    return {
        "instances": counted,
        "footprints": len(layer),
        "in strips": seam_share(grid, period),
        "traced and merged, s": merged - start,
        "placed and written, s": end - merged,
        "wall, s": end - start,
        "cpu, s": cpu_end - cpu_start,
        "peak, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def nms_loop(outlines: Outlines) -> int:
    """(a) The surest stays, what overlaps it by IoU goes; over all polygons, one by one."""
    polygons = outlines.polygons
    tree, areas = shapely.STRtree(polygons), shapely.area(polygons)
    alive = np.ones(len(polygons), dtype=bool)
    kept = 0
    for i in np.argsort(-outlines.scores):
        if not alive[i]:
            continue
        kept += 1
        for j in tree.query(polygons[i]):
            if j != i and alive[j]:
                shared = polygons[i].intersection(polygons[j]).area
                if shared >= LEAST_IOU * (areas[i] + areas[j] - shared):
                    alive[j] = False
    return kept


def dissolve(outlines: Outlines) -> int:
    """(b) What overlaps becomes one polygon."""
    frame = gpd.GeoDataFrame(geometry=outlines.polygons)
    return len(frame.dissolve().explode())


def compare(instances: int) -> dict[str, tuple[int, float]]:
    """Buildings and seconds of merging alone, by each way, on the same traced outlines."""
    period = chips_of_a_period()
    grid = grid_of(instances, np.mean([len(seen) for seen in period]))
    outlines = Outlines.concatenate(row.outlines for row in rows(grid, period))
    read = np.ones(len(grid), dtype=bool)
    ways: dict[str, Callable[[], int]] = {
        "footprints": lambda: len(merge(outlines, grid, read)),
        "NMS loop": lambda: nms_loop(outlines),
        "dissolve": lambda: dissolve(outlines),
    }
    results = {}
    for name, way in ways.items():
        start = time.process_time()
        count = way()
        results[name] = (count, time.process_time() - start)
    return results


def in_a_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--compared", type=int, default=30_000, help="for the plain ways")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
        print(json.dumps(run_once(options.instances, options.once)))
        return

    print(f"load {os.getloadavg()[0]:.1f}; {describe('shapely', 'numpy')}")
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 4):
            for run in range(options.runs):
                path = Path(folder, f"{times}-{run}.parquet")
                figures = in_a_process("--instances", times * options.instances, "--once", path)
                assert (
                    len(gpd.read_parquet(path, columns=["id", "geometry"])) == figures["footprints"]
                )
                path.unlink()
                print(", ".join(f"{name} {value:,.2f}" for name, value in figures.items()))
                best = seconds.get(times, (np.inf, np.inf))
                seconds[times] = min(best, (figures["wall, s"], figures["cpu, s"]))
    wall, cpu = (seconds[4][i] / seconds[1][i] for i in (0, 1))
    print(f"four times the instances: {wall:.2f} times the time, {cpu:.2f} times the CPU time")
    compared = compare(options.compared)
    own = compared["footprints"][1]
    for name, (count, taken) in compared.items():
        print(f"{name}: {count:,} polygons, {taken:.2f} s of CPU, {taken / own:.1f} times ours")


if __name__ == "__main__":
    main()
