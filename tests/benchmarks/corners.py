"""How well a trained keypoint branch finds the corners of buildings it never saw.

    python tests/benchmarks/corners.py [-o out/corners] [--steps 400] [--rois align pool]

The weights that ship learn the corners on a generated town and are judged on another, by the
distance from the true corner of every building that is found (IoU at least 0.5). Beside it stand
the corners of the footprint's own box and, of its outline, the vertices nearest to those: what one
has without the branch. The Mask R-CNN paper has 64.2 AP for RoIAlign and 59.8 for RoIPool with the
keypoints of people (arXiv 1703.06870, table 6).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from ablation import GSD_M, REPOSITORY, extent_of, make_town
from machine import describe
from numpy.typing import NDArray

from footprints.config import CORNERS, RunConfig
from footprints.data.targets import find_corners
from footprints.loop import read_metrics
from footprints.matching import match
from footprints.pipeline import predict
from footprints.training import CHECKPOINT, METRICS, WEIGHTS, train
from footprints.vector.affine import apply_affine

ROIS = {"align": {"op": "align"}, "pool": {"op": "pool", "reduce": "maximum"}}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "out" / "corners")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rois", nargs="+", choices=ROIS, default=list(ROIS))
    options = parser.parse_args()
    towns = [make_town(options.output, seed) for seed in (21, 22)]
    print("| corners | buildings | corners found | median, m | within 0.5 m | within 1 m |")
    print("|---|---|---|---|---|---|")
    for roi in options.rois:
        weights = trained(options.output, towns, roi, options.steps)
        points = options.output / f"corners-{roi}.gpkg"
        layer = predict(towns[1], weights=weights, keypoints=points, overwrite=True, progress=False)
        found, true, boxes, vertices = corners(layer, gpd.read_file(points), towns[1])
        print(row(f"keypoint branch, RoI{roi.title()}", found, true), flush=True)
        if roi == options.rois[-1]:
            print(row("box of the footprint", boxes, true))
            print(row("vertices nearest to its corners", vertices, true))
    print(f"\n{options.steps} steps; {describe('torch')}")


def row(name: str, found: NDArray[np.float64], true: NDArray[np.float64]) -> str:
    """A line of the table, for corners (n, 4, 2) in metres; NaN where there is none."""
    distance = np.linalg.norm(found - true, axis=2)[np.isfinite(true[..., 0])]
    there = np.isfinite(distance)
    shares = [there.mean(), (distance <= 0.5).mean(), (distance <= 1).mean()]
    all_found, near, nearby = (f"{100 * share:.1f} %" for share in shares)
    return (
        f"| {name} | {len(true)} | {all_found} | {np.median(distance[there]):.2f} "
        f"| {near} | {nearby} |"
    )


def corners(
    layer: gpd.GeoDataFrame, points: gpd.GeoDataFrame, town: Path
) -> tuple[NDArray[np.float64], ...]:
    """Corners (n, 4, 2) of the buildings found: predicted, true, of the box, of the outline."""
    truth = gpd.read_file(town.with_name(f"{town.stem}_buildings.gpkg"))
    pairs, _ = match(
        layer.geometry.to_numpy(),
        truth.geometry.to_numpy(),
        layer["confidence"].to_numpy(),
        iou=0.5,
    )
    with rasterio.open(town) as raster:
        to_pixels = ~raster.transform
    outlines = apply_affine(layer.geometry.to_numpy()[pairs[:, 0]], to_pixels)
    true = of_polygons(apply_affine(truth.geometry.to_numpy()[pairs[:, 1]], to_pixels))
    # A corner that the edge of the town cuts off is none.
    true[truth["cut"].to_numpy()[pairs[:, 1]]] = np.nan
    bounds = shapely.bounds(outlines)
    boxes = bounds[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    found = np.full_like(true, np.nan)
    rows = {building: number for number, building in enumerate(layer["id"].to_numpy()[pairs[:, 0]])}
    places = shapely.get_coordinates(apply_affine(points.geometry.to_numpy(), to_pixels))
    for building, keypoint, place in zip(
        points["building"], points["keypoint"], places, strict=True
    ):
        if building in rows:
            found[rows[building], CORNERS.index(keypoint)] = place
    return tuple(part * GSD_M for part in (found, true, boxes, of_polygons(outlines)))


def of_polygons(polygons: NDArray[np.object_]) -> NDArray[np.float64]:
    """Corners (n, 4, 2) of whole polygons in pixels: the vertices nearest to those of their box."""
    found = find_corners(polygons, polygons, shapely.bounds(polygons))
    return found[..., :2].astype(np.float64)


def trained(output: Path, towns: list[Path], roi: str, steps: int) -> Path:
    """Weights that know corners, trained on the first town unless they are there."""
    branch: dict[str, Any] = {"convs": 4, "width": 128, "roi": ROIS[roi] | {"side": 14}}
    folder = output / f"{roi}-{steps}"
    config = RunConfig.model_validate(
        {
            "name": f"corners-{roi}",
            "model": {"keypoint_head": branch},
            "data": {
                "root": str(output),
                "gsd_m": GSD_M,
                "chip_size": 384,
                "chips_per_epoch": steps,
                "validation": extent_of(towns[1]).name,
                "scenes": [
                    {"images": [town.name], "labels": f"{town.stem}_buildings.gpkg"}
                    for town in towns
                ],
            },
            "optimizer": {"learning_rate": 3e-4, "weight_decay": 0.05, "warmup_steps": steps // 10},
            "train": {
                "epochs": 2,
                "validate_every": 2,
                "batch_size": 2,
                "workers": 1,
                "start_from": "buildings-lite0",
            },
        }
    )
    if len(read_metrics(folder / METRICS)) < config.train.epochs:
        train(config, folder, resume=(folder / CHECKPOINT).exists(), progress=sys.stderr.isatty())
    return folder / WEIGHTS


if __name__ == "__main__":
    main()
