"""What a scene's size costs in memory and time when its buildings cost nothing to find.

    python tests/benchmarks/memory.py [--sides 12500 25000 50000] [--buildings 4]

Scenes are virtual rasters that repeat one tile; the detector sees the same few houses in every
chip. All the rest is `footprints.predict`, from reading to the file, with the coarse pass. Each
scene is a process of its own, so that its peak memory is its own; it starts no other processes.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from machine import describe

from footprints.chip import Chip, InputSpec, Instances, MaskGroup, Scaling
from footprints.pipeline import predict

TILE = 5000
"""Side in pixels of what is on the disk."""
CHIP, OVERLAP = 1024, 128
HOUSE_PX = 24.0
SIDE = 28


class Houses:
    """A detector that sees the same number of houses in every fine chip, away from its edges."""

    name = digest = "houses"
    classes = ("building",)
    keypoints: tuple[str, ...] = ()
    confidence = 0.5
    input_spec = InputSpec(bands=3, gsd_m=None, scaling=Scaling((0.0,) * 3, (1.0,) * 3))

    def __init__(self, per_chip: int) -> None:
        places = np.random.default_rng(0).permutation(16**2)[:per_chip]
        corners = np.column_stack([places % 16, places // 16]) * 40.0 + 2 * OVERLAP
        boxes = np.hstack([corners, corners + HOUSE_PX]).astype(np.float32)
        logits = np.full((per_chip, SIDE, SIDE), -127, dtype=np.int8)
        logits[:, 2:-2, 2:-2] = 127
        self._seen = Instances(
            boxes=boxes,
            scores=np.full(per_chip, 0.9, dtype=np.float32),
            labels=np.zeros(per_chip, dtype=np.int64),
            mask_boxes=boxes,
            masks=(MaskGroup(np.arange(per_chip), logits),),
        )

    def __call__(self, chips: Sequence[Chip]) -> list[Instances]:
        nothing = self._seen.take(np.empty(0, dtype=np.intp))
        return [self._seen if chip.transform.a < 2 * TO_UTM.a else nothing for chip in chips]


TO_UTM = Affine(0.3, 0, 300_000, 0, -0.3, 3_100_000)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[12_500, 25_000, 50_000])
    parser.add_argument("--buildings", type=int, default=4, help="per chip")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.buildings)))
        return
    print(
        "| side, px | Gpx | chips | buildings | peak memory, MB | wall s | cpu s | cpu ms a chip |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        tile = write_tile(Path(folder) / "tile.tif")
        for side in options.sides:
            scene = write_vrt(tile, Path(folder) / f"{side}.vrt", side)
            command = [sys.executable, __file__, "--one", scene, "--buildings", options.buildings]
            done = subprocess.run(
                list(map(str, command)), check=True, capture_output=True, text=True
            )
            cost = json.loads(done.stdout)
            print(
                f"| {side:,} | {side**2 / 1e9:.2f} | {cost['chips']:,} | {cost['buildings']:,} | "
                f"{cost['peak_mb']:.0f} | {cost['wall']:.0f} | {cost['cpu']:.0f} | "
                f"{1000 * cost['cpu'] / cost['chips']:.1f} |",
                flush=True,
            )
    print(f"\n{describe('rasterio', 'shapely', 'geopandas')}")


def measure(scene: Path, per_chip: int) -> dict[str, float]:
    """Predict one scene in this process."""
    wall = time.perf_counter()
    layer = predict(
        scene,
        output=scene.with_suffix(".parquet"),
        detector=Houses(per_chip),
        chip_size=CHIP,
        overlap=OVERLAP,
        progress=False,
    )
    wall = time.perf_counter() - wall
    used = resource.getrusage(resource.RUSAGE_SELF)
    side = int(scene.stem)
    across = -(-(side - CHIP) // (CHIP - OVERLAP)) + 1
    return {
        "wall": wall,
        "cpu": used.ru_utime + used.ru_stime,
        "peak_mb": peak_mb(),
        "chips": across**2,
        "buildings": len(layer),
    }


def peak_mb() -> float:
    """Most memory that this process ever had, in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024


def write_tile(path: Path) -> Path:
    """Fields of a few grey levels."""
    levels = np.random.default_rng(0).integers(60, 200, (3, TILE // 50, TILE // 50), dtype=np.uint8)
    pixels = levels.repeat(50, axis=1).repeat(50, axis=2)
    profile = {
        "driver": "GTiff",
        "width": TILE,
        "height": TILE,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32645",
        "transform": TO_UTM,
        "tiled": True,
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
    return path


def write_vrt(tile: Path, path: Path, side: int) -> Path:
    """A virtual raster that shows the tile side by side."""
    with rasterio.open(tile) as source:
        crs = source.crs.to_wkt()
    sources = {
        band: "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{tile.name}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SourceProperties RasterXSize="{TILE}" '
            f'RasterYSize="{TILE}" DataType="Byte" BlockXSize="256" BlockYSize="256"/>'
            f'<SrcRect xOff="0" yOff="0" xSize="{TILE}" ySize="{TILE}"/>'
            f'<DstRect xOff="{x}" yOff="{y}" xSize="{TILE}" ySize="{TILE}"/></SimpleSource>'
            for y in range(0, side, TILE)
            for x in range(0, side, TILE)
        )
        for band in (1, 2, 3)
    }
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}">{each}</VRTRasterBand>'
        for band, each in sources.items()
    )
    place = ", ".join(map(str, TO_UTM.to_gdal()))
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>",
        encoding="utf-8",
    )
    return path


if __name__ == "__main__":
    main()
