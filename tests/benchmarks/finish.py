"""What it costs to make a layer from a kept run, without the network.

    python tests/benchmarks/finish.py                       # 100,000 buildings

The run is that of a dense town (`dense_town`), kept by what `predict --keep` uses.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from dense_town import chips_of_a_period, grid_of
from machine import describe
from merge import TO_UTM, UTM, rows

import footprints as fp
from footprints.vector.detected import DetectedScene, Pass
from footprints.vector.kept import KeptRun, keep_scenes

WANTED = ((0.5, 4.0, ".parquet"), (0.4, 10.0, ".gpkg"))
"""Confidence, least area and format."""


def keep(instances: int, folder: Path) -> int:
    """A kept run of about so many instances; returns how many."""
    period = chips_of_a_period()
    grid = grid_of(instances, np.mean([len(seen) for seen in period]))
    run = KeptRun(
        model="none",
        classes=("building",),
        keypoints=(),
        confidence=0.5,
        kept_confidence=0.05,
        overlaps=False,
        parameters={},
    )
    passes = (Pass(grid, TO_UTM, rows(grid, period)),)
    scene = DetectedScene(0, "dhaka", "", UTM, TO_UTM.a, (1, 2, 3), passes)
    count = 0
    for kept in keep_scenes([scene], run, folder):
        for row in kept.passes[0].rows:
            count += len(row.outlines)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=280_000)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}; {describe('shapely')}")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        start, cpu_start = time.perf_counter(), time.process_time()
        count = keep(options.instances, run)
        size = sum(path.stat().st_size for path in run.iterdir())
        print(
            f"{count:,} instances traced and kept, {time.perf_counter() - start:.1f} s, "
            f"{time.process_time() - cpu_start:.1f} s of CPU, {size / 1e6:.0f} MB"
        )
        for confidence, area, ending in WANTED:
            start, cpu_start = time.perf_counter(), time.process_time()
            layer = fp.finish(
                run,
                output=Path(folder, f"layer{ending}"),
                confidence=confidence,
                min_area_m2=area,
                progress=False,
            )
            print(
                f"confidence {confidence}, {area:g} m2, {ending}: {len(layer):,} footprints, "
                f"{time.perf_counter() - start:.1f} s, "
                f"{time.process_time() - cpu_start:.1f} s of CPU"
            )


if __name__ == "__main__":
    main()
