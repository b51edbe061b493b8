"""How far a layer depends on the chips it was found in.

    python tests/benchmarks/two_grids.py [SCENE] [--chip-sizes 384 512]

A scene is predicted twice, cut into chips of two sizes with the weights that ship, and one layer is
the truth of the other. Perfect detectors give the same layer in any grid (the tests show it); what
differs here is what the network sees. SCENE defaults to the town of Banepa (FOOTPRINTS_DATA).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from machine import describe

import footprints as fp

DATA = Path(os.environ.get("FOOTPRINTS_DATA", Path(__file__).parents[2] / "../shared/data"))


def main() -> None:
    """Predict twice, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", type=Path, nargs="?", default=DATA / "banepa" / "scene.tif")
    parser.add_argument("--chip-sizes", type=int, nargs=2, default=(384, 512))
    options = parser.parse_args()
    detector = fp.load_detector()
    layers = []
    for size in options.chip_sizes:
        start = time.perf_counter()
        layers.append(fp.predict(options.scene, detector=detector, chip_size=size))
        seconds = time.perf_counter() - start
        print(f"chips of {size} px: {len(layers[-1]):,} buildings, {seconds:.0f} s")
    one, other = layers
    print(f"\nof the second layer, with the first as the truth:\n{fp.evaluate(other, one)}")
    print(f"\n{describe('torch', 'shapely')}")


if __name__ == "__main__":
    main()
