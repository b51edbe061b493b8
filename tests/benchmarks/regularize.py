"""Regularisation against the package buildingregulariser, in one run on one core.

    pip install '.[benchmark]'
    python tests/benchmarks/regularize.py

Made buildings of known corners at random angles, as staircases of 0.3 m pixels, with noise, and
with corners that a blur of 1.25 or 2.5 px rounds as networks do; and the buildings of Banepa
(FOOTPRINTS_DATA, default ../shared/data) after rasterising at 0.3 m. Times are the processor's, the
least of the runs, in which both take turns; agreement is with the truth that the outlines were made
from. `minimum rotated rectangle` stands for what a method must not be mistaken for.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from machine import describe
from shapely import affinity

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DATA = Path(os.environ.get("FOOTPRINTS_DATA", ROOT.parent / "shared" / "data"))
UTM = "EPSG:32645"
SPACING_M = 60.0


@dataclass(frozen=True)
class Case:
    """Outlines to regularise and the truth they were made from."""

    name: str
    layer: gpd.GeoDataFrame
    truth: np.ndarray
    exact: Callable[[int, shapely.Polygon], bool]
    """Whether a result has the corners of the truth with this number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=150, help="buildings of each made shape")
    parser.add_argument("--runs", type=int, default=3, help="runs of each method")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    cases = [*made_cases(options.each), *real_cases()]
    print(f"one core of: {describe('shapely', 'buildingregulariser')}")
    print(f"runs: {options.runs} of each; the least time counts")
    for case in cases:
        print(f"\n{case.name}: {len(case.layer)} buildings")
        print(f"{'':34}  ms each   mean IoU  exact corners   lost")
        ours, theirs = in_turns(case, (by_footprints, by_buildingregulariser), options.runs)
        report(case, "footprints", *ours)
        report(case, "buildingregulariser", *theirs)
        report(case, "minimum rotated rectangle", *in_turns(case, (by_rectangles,), 1)[0])
        print(f"{'':34} ratio of times: {theirs[0] / ours[0]:.1f}")
        in_degrees(case)


def made_cases(each: int) -> list[Case]:
    """Rectangles, L, T, U, courtyards and circles, once for each of what befalls outlines."""
    from building_shapes import MAKERS, is_exact, noisy, rounded, staircase, turned

    rng = np.random.default_rng(2024)
    kinds = [kind for kind in MAKERS for _ in range(each)]
    true = [turned(MAKERS[kind](rng), rng) for kind in kinds]
    steps = [staircase(polygon) for polygon in true]
    rough = [noisy(polygon, rng) for polygon in true]
    worn = [rounded(polygon, 1.25) for polygon in true]
    blurred = [rounded(polygon, 2.5) for polygon in true]
    truth = spread(true)

    def exact(number: int, polygon: shapely.Polygon) -> bool:
        return is_exact(kinds[number], polygon)

    return [
        Case(name, gpd.GeoDataFrame(geometry=spread(outlines), crs=UTM), truth, exact)
        for name, outlines in (
            ("staircases of 0.3 m", steps),
            ("noise of 0.25 m", rough),
            ("corners blurred by 1.25 px", worn),
            ("corners blurred by 2.5 px", blurred),
        )
    ]


def spread(polygons: list[shapely.Polygon]) -> np.ndarray:
    """Polygons around the origin, side by side."""
    placed = [
        affinity.translate(p, 350_000 + SPACING_M * (i % 40), 3_057_000 + SPACING_M * (i // 40))
        for i, p in enumerate(polygons)
    ]
    return np.array(placed, dtype=object)


def real_cases() -> list[Case]:
    """The buildings of Banepa in a raster of 0.3 m pixels, and out of it again."""
    from building_shapes import common_staircase, corner_count

    path = DATA / "banepa" / "south_buildings.gpkg"
    if not path.exists():
        print(f"no real buildings: {path} is missing; set FOOTPRINTS_DATA")
        return []
    true = gpd.read_file(path).to_crs(UTM).geometry.explode().to_numpy()
    true = true[shapely.area(true) > 10]
    found = common_staircase(list(true))
    kept = [i for i, polygon in enumerate(found) if polygon is not None]
    truth = true[kept]
    layer = gpd.GeoDataFrame(geometry=[found[i] for i in kept], crs=UTM)

    def exact(number: int, polygon: shapely.Polygon) -> bool:
        return corner_count(polygon) == corner_count(truth[number])

    return [Case("Banepa, rasterised at 0.3 m", layer, truth, exact)]


def in_turns(
    case: Case, methods: Sequence[Callable[[gpd.GeoDataFrame], gpd.GeoDataFrame]], runs: int
) -> list[tuple[float, gpd.GeoDataFrame]]:
    """Least CPU seconds and result of each method, by turns: what slows the machine slows both."""
    seconds = np.empty((runs, len(methods)))
    results: list[gpd.GeoDataFrame] = []
    for run in range(runs):
        results = []
        for place, method in enumerate(methods):
            start = time.process_time()
            results.append(method(case.layer.copy()))
            seconds[run, place] = time.process_time() - start
    return list(zip(seconds.min(axis=0).tolist(), results, strict=True))


def report(case: Case, name: str, seconds: float, result: gpd.GeoDataFrame) -> None:
    """Print a row of the table."""
    index, outlines = owners(case, result)
    truth = case.truth[index]
    common = shapely.area(shapely.intersection(outlines, truth))
    iou = common / (shapely.area(outlines) + shapely.area(truth) - common)
    exact = sum(case.exact(i, p) for i, p in zip(index.tolist(), outlines, strict=True))
    each_ms = 1000 * seconds / len(case.layer)
    print(
        f"{name:34} {each_ms:8.3f} {iou.sum() / len(case.truth):10.4f} "
        f"{exact / len(case.truth):14.3f} {len(case.truth) - len(outlines):6d}"
    )


def owners(case: Case, result: gpd.GeoDataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Number and outline of what came back, largest part of each."""
    parts, row = shapely.get_parts(result.geometry.to_numpy(), return_index=True)
    number = np.asarray(result["number"])[row]
    order = np.lexsort((shapely.area(parts), number))
    last = np.append(np.diff(number[order]) > 0, True)[: len(order)]
    return number[order[last]], parts[order[last]]


def in_degrees(case: Case) -> None:
    """How many are left in EPSG:4326."""
    layer = case.layer.to_crs("EPSG:4326")
    for name, method in (
        ("footprints", by_footprints),
        ("buildingregulariser", by_buildingregulariser),
    ):
        try:
            index, outlines = owners(case, method(layer.copy()))
            moved = gpd.GeoSeries(outlines, crs=layer.crs).to_crs(UTM).to_numpy()
            truth = case.truth[index]
            common = shapely.area(shapely.intersection(moved, truth))
            good = common > 0.5 * shapely.area(shapely.union(moved, truth))
            left = f"{len(case.truth) - int(good.sum())} of {len(case.truth)} lost"
        except Exception as err:  # noqa: BLE001  # whatever the other package raises is its result
            left = f"{type(err).__name__}: {str(err).splitlines()[0]}"
        print(f"in EPSG:4326, {name:21} {left}")


def by_footprints(layer: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    import footprints as fp

    return fp.regularize(layer.assign(number=np.arange(len(layer))), "auto", 1.0)


def by_buildingregulariser(layer: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    from buildingregulariser import regularize_geodataframe

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return regularize_geodataframe(layer.assign(number=np.arange(len(layer))), num_cores=1)


def by_rectangles(layer: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    rectangles = shapely.minimum_rotated_rectangle(layer.geometry.to_numpy())
    return gpd.GeoDataFrame({"number": np.arange(len(layer))}, geometry=rectangles, crs=layer.crs)


if __name__ == "__main__":
    main()
