"""What a scene's size costs in memory and time when its buildings cost nothing to find.

    python tests/benchmarks/memory.py [--sides 12500 25000 50000] [--buildings 4 16] [--aoi 300]

Scenes are virtual rasters that repeat one tile; the detector sees the same few houses in every
chip. All the rest is `footprints.predict`, from reading to the file, with the coarse pass. Each
scene is a process of its own, so that its peak memory is its own; it starts no other processes.
With ``--aoi`` the weights that ship look at a square of so many metres in the middle of a scene
that repeats the town of ``data_samples`` instead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from machine import describe
from numpy.typing import NDArray
from shapely import Point

from footprints.chip import Chip, InputSpec, Instances, MaskGroup, Scaling
from footprints.pipeline import predict

SAMPLE = Path(__file__).parents[2] / "data_samples" / "town.tif"
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
    parser.add_argument("--buildings", type=int, nargs="+", default=[4], help="per chip")
    parser.add_argument("--aoi", type=int, help="metres; looked at by the weights that ship")
    parser.add_argument("--memory", help="budget, for --aoi, such as 2GB")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None and options.aoi is not None:
        print(json.dumps(measure_area(options.one, options.aoi, options.memory)))
        return
    if options.one is not None:
        print(json.dumps(measure(options.one, *options.buildings)))
        return
    if options.aoi is not None:
        compare_areas(options.sides, options.aoi, options.memory)
    else:
        compare_scenes(options.sides, options.buildings)
    print(f"\n{describe('rasterio', 'shapely', 'geopandas')}")


def compare_scenes(sides: Sequence[int], buildings: Sequence[int]) -> None:
    """Whole scenes, with a detector that costs nothing."""
    print(
        "| side, px | Gpx | chips | buildings | peak memory, MB | wall s | cpu s | cpu ms a chip |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        tile = write_tile(Path(folder) / "tile.tif")
        for side, per_chip in itertools.product(sides, buildings):
            scene = write_vrt(tile, Path(folder) / f"{side}.vrt", side)
            cost = measure_apart(scene, "--buildings", per_chip)
            scene.with_suffix(".parquet").unlink()
            print(
                f"| {side:,} | {side**2 / 1e9:.2f} | {cost['chips']:,} | {cost['buildings']:,} | "
                f"{cost['peak_mb']:.0f} | {cost['wall']:.0f} | {cost['cpu']:.0f} | "
                f"{1000 * cost['cpu'] / cost['chips']:.1f} |",
                flush=True,
            )


def compare_areas(sides: Sequence[int], metres: int, memory: str | None) -> None:
    """One area in scenes of several sizes, with the network."""
    print("| side, px | budget | buildings | loaded, MB | peak memory, MB | wall s | cpu s |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        tile = write_town(Path(folder) / "tile.tif")
        budget = [] if memory is None else ["--memory", memory]
        for side in sides:
            scene = write_vrt(tile, Path(folder) / f"{side}.vrt", side)
            cost = measure_apart(scene, "--aoi", metres, *budget)
            print(
                f"| {side:,} | {memory or 'none'} | {cost['buildings']:,} | "
                f"{cost['loaded_mb']:.0f} | {cost['peak_mb']:.0f} | {cost['wall']:.0f} | "
                f"{cost['cpu']:.0f} |",
                flush=True,
            )


def measure_apart(scene: Path, *options: object) -> dict[str, float]:
    """Predict one scene in a process of its own."""
    command = [sys.executable, __file__, "--one", scene, *options]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    cost: dict[str, float] = json.loads(done.stdout)
    return cost


def measure_area(scene: Path, metres: int, memory: str | None) -> dict[str, float]:
    """Predict an area of one scene in this process, with the weights that ship."""
    from footprints.model.detector import load_detector

    middle = TO_UTM @ (int(scene.stem) / 2, int(scene.stem) / 2)
    area = gpd.GeoDataFrame(geometry=[Point(middle).buffer(metres / 2, cap_style="square")])
    detector = load_detector()
    loaded = peak_mb()
    wall, before = time.perf_counter(), time.process_time()
    layer = predict(
        scene,
        output=scene.with_suffix(".parquet"),
        detector=detector,
        aoi=area.set_crs("EPSG:32645"),
        memory=memory,
        overwrite=True,
        progress=False,
    )
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - before,
        "loaded_mb": loaded,
        "peak_mb": peak_mb(),
        "buildings": len(layer),
    }


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
    return write_tiled(path, pixels)


def write_town(path: Path) -> Path:
    """The sample town, side by side."""
    with rasterio.open(SAMPLE) as sample:
        pixels = sample.read()
    times = [1, *(-(-TILE // side) for side in pixels.shape[1:])]
    return write_tiled(path, np.tile(pixels, times)[:, :TILE, :TILE])


def write_tiled(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Three bands to a GeoTIFF."""
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
