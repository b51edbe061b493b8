"""How long the page of a large layer takes to show, and to move about in.

    python tests/benchmarks/viewer.py                       # 100,000 footprints

The footprints are those of a dense town (`dense_town`), all different, over a painted scene. Times
are the browser's own (its performance API): from the start of the navigation to the end of the
first drawing, and between animation frames while the map moves in every one of them.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
from affine import Affine
from dense_town import GSD_M, PERIOD, STEP, town
from geopandas import GeoDataFrame
from machine import describe
from playwright.sync_api import Browser, sync_playwright
from rasterio.features import rasterize
from shapely.affinity import affine_transform

import footprints as fp

UTM = "EPSG:32645"
CORNER = (300_000.0, 3_100_000.0)
PIXEL_M = 0.9
FRAMES = 60
ZOOMS = {
    "all of it": 0,
    "2.25 times as near": 2,
    "5 times as near": 4,
    "8 times as near": 5,
    "11 times as near": 6,
    "26 times as near": 8,
    "86 times as near": 11,
}
"""Presses of the plus key, each a factor of 1.5."""
_MOVE = """async (frames) => {
  const times = [];
  const frame = () => new Promise(requestAnimationFrame);
  for (let i = 0; i <= frames; i++) {
    const key = ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"][i % 4];
    document.dispatchEvent(new KeyboardEvent("keydown", { key }));
    times.push(await frame());
  }
  return times.slice(1).map((time, i) => time - times[i]);
}"""


def make_layer(count: int) -> tuple[GeoDataFrame, int]:
    """Footprints of as many different towns as it takes, and the side of them all in metres."""
    side_m, houses = PERIOD * STEP * GSD_M, []
    per_town = len(town(0))
    across = math.ceil(math.sqrt(count / per_town))
    for seed, (row, column) in enumerate(itertools.product(range(across + 1), range(across))):
        if len(houses) >= count:
            break
        place = [GSD_M, 0, 0, -GSD_M, CORNER[0] + column * side_m, CORNER[1] - row * side_m]
        houses += [affine_transform(house, place) for house in town(seed)]
    sure = np.random.default_rng(0).beta(5, 2, count).round(4)
    columns = {"id": np.arange(1, count + 1), "class": "building", "confidence": sure}
    layer = GeoDataFrame(columns, geometry=houses[:count], crs=UTM)
    layer["area_m2"] = layer.area.round(2)
    return layer, math.ceil((across + 1) * side_m)


def paint(layer: GeoDataFrame, side_m: int, path: Path) -> Path:
    """A scene of roofs and noise, as hard to compress as imagery is."""
    side = math.ceil(side_m / PIXEL_M)
    transform = Affine(PIXEL_M, 0, CORNER[0], 0, -PIXEL_M, CORNER[1])
    roofs = rasterize(layer.geometry, (side, side), transform=transform, dtype=np.uint8)
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=UTM, transform=transform, **profile) as dataset:
        for band in (1, 2, 3):
            noise = rng.normal(0, 12, (side, side)).astype(np.float32)
            dataset.write((80 + 70 * roofs + noise).clip(0, 255).astype(np.uint8), band)
    return path


def look(browser: Browser, address: str) -> None:
    """Open the page and move about."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(300_000)
    page.goto(address)
    page.wait_for_function("performance.getEntriesByName('drawn').length > 0")
    drawn = page.evaluate("performance.getEntriesByName('drawn')[0].startTime")
    print(f"first drawn after {drawn:.0f} ms")
    for name, presses in ZOOMS.items():
        page.keyboard.press("0")
        for _ in range(presses):
            page.keyboard.press("+")
        page.evaluate(_MOVE, 10)
        before = browser_cpu_s()
        took = np.array(page.evaluate(_MOVE, FRAMES))
        cpu_ms = 1000 * (browser_cpu_s() - before) / FRAMES
        print(
            f"{name}: {np.median(took):.0f} ms a frame (median of {FRAMES}), "
            f"{np.percentile(took, 95):.0f} ms at the 95th percentile, {cpu_ms:.0f} ms of CPU"
        )


def browser_cpu_s() -> float:
    """CPU seconds of all the browser's processes: what counts where other work shares the cores."""
    used = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--footprints", type=int, default=100_000)
    parser.add_argument("--gl", default="swiftshader", help="what draws: swiftshader, gl, vulkan")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}; {describe('playwright', 'shapely')}")
    layer, side_m = make_layer(options.footprints)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        scene = paint(layer, side_m, Path(folder, "town.tif"))
        start = time.process_time()
        page = fp.view(layer, scene)
        print(f"{page}, {time.process_time() - start:.1f} s of CPU")
        path = page.save(Path(folder, "town.html"))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", f"--use-angle={options.gl}", "--enable-unsafe-swiftshader"],
        )
        print(f"Chromium {browser.version}, ANGLE on {options.gl}")
        look(browser, path.as_uri())
        browser.close()


if __name__ == "__main__":
    main()
