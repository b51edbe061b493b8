"""How the layer gets better with the number of buildings that were digitised to train on.

    python tests/benchmarks/small_labels.py WEIGHTS [-o out/small-labels]
        [--buildings 25 100 400 all] [--steps 200] [--seeds 1] [--trunk lite0.pth]
        [--chart docs/small-labels.svg]

WEIGHTS must never have seen Banepa: without labels, they show what a city left out means. Then they
are trained on with the first 25, 100, ... buildings of one connected area that grows from a corner
of the scene, as one digitises, complete inside and unknown beyond (`aoi`). Every row is
`footprints train configs/your-buildings.yaml` with the settings that `settings_of` gives, and is
judged as a merged layer at its default confidence on the two blocks of
`configs/banepa_holdout.gpkg`, which no row learns from; "best F1" is what the best of all
confidences would give there. `--trunk` adds rows that start from ImageNet weights alone, with as
many steps. A row that is done is not repeated, one that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from geopandas import GeoDataFrame
from machine import describe

import footprints as fp
from footprints.config import RunConfig, load_config
from footprints.model.checkpoint import read_info
from footprints.pipeline import KEPT_CONFIDENCE
from footprints.training import CHECKPOINT, train

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("FOOTPRINTS_DATA", REPOSITORY / "../shared/data")).resolve()
SCENE = DATA / "banepa" / "south.tif"
LABELS = DATA / "banepa" / "south_buildings.gpkg"
HOLDOUT = REPOSITORY / "configs" / "banepa_holdout.gpkg"
STRIP_M = 5.0
"""Width of what is not digitised around the blocks that judge."""
EPOCHS = 4
Figures = dict[str, float]


def main() -> None:
    """Train what is missing, print the table, draw the chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "out" / "small-labels")
    parser.add_argument("--buildings", nargs="+", default=["25", "100", "400", "all"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--chip-size", type=int, default=256)
    parser.add_argument("--trunk", type=Path)
    parser.add_argument("--chart", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("FOOTPRINTS_DATA", str(DATA))
    rows: list[list[Figures]] = []
    for line in report(options, rows):
        print(line, flush=True)
    print(f"\n{describe('torch')}")
    if options.chart is not None:
        draw([row for row in rows if not row[0]["from_trunk"]], options.chart)


def report(options: argparse.Namespace, rows: list[list[Figures]]) -> Iterator[str]:
    """The table in Markdown, row by row; the figures of each row, by seed, go to ``rows``."""
    yield f"{options.seeds} seeds, {options.steps} steps of 2 chips of {options.chip_size} px\n"
    yield (
        "| start | buildings | ha | steps | minutes | precision | recall | F1 | at 0.75 | IoU "
        "| best F1 | from |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    wanted: list[tuple[str, bool]] = [("0", False), *((b, False) for b in options.buildings)]
    if options.trunk is not None:
        wanted += [(buildings, True) for buildings in options.buildings]
    for buildings, from_trunk in wanted:
        seeds = range(options.seeds if buildings != "0" else 1)
        rows.append([run(options, buildings, seed, from_trunk=from_trunk) for seed in seeds])
        mean = {key: statistics.fmean(r[key] for r in rows[-1]) for key in rows[-1][0]}
        yield (
            f"| {'ImageNet' if from_trunk else options.weights.stem} | {mean['buildings']:.0f} "
            f"| {mean['hectares']:.2f} | {mean['steps']:.0f} | {mean['minutes']:.0f} "
            f"| {mean['precision']:.3f} | {mean['recall']:.3f} | {spread(rows[-1])} "
            f"| {mean['f1_75']:.3f} | {mean['iou']:.3f} "
            f"| {mean['best_f1']:.3f} | {mean['best_from']:.2f} |"
        )


def spread(row: list[Figures]) -> str:
    """Mean F1 of the seeds and, of several, the standard deviation."""
    values = [figures["f1"] for figures in row]
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def run(options: argparse.Namespace, buildings: str, seed: int, *, from_trunk: bool) -> Figures:
    """The figures of one row and seed, unless they are there already."""
    start = "imagenet" if from_trunk else "weights"
    folder = options.output / f"{start}-{buildings}-{options.steps}-{seed}"
    done = folder / "figures.json"
    if done.exists():
        figures: Figures = json.loads(done.read_text(encoding="utf-8"))
        return figures
    folder.mkdir(parents=True, exist_ok=True)
    weights, figures = options.weights, {"buildings": 0.0, "hectares": 0.0, "steps": 0.0}
    started = time.monotonic()
    if buildings != "0":
        figures = digitise(folder, buildings, from_right=seed % 2 == 1)
        figures["steps"] = float(options.steps)
        overrides = settings_of(options, folder, seed, from_trunk=from_trunk)
        config = load_config(REPOSITORY / "configs" / "your-buildings.yaml", overrides)
        weights = trained(config, folder / "run")
    figures |= {"minutes": (time.monotonic() - started) / 60, "from_trunk": float(from_trunk)}
    figures |= judged(weights, folder / "layer.gpkg")
    done.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return figures


def digitise(folder: Path, buildings: str, *, from_right: bool) -> Figures:
    """Write the first buildings of a corner as labels, and their ground as area of interest.

    The area grows from the upper left corner of the scene, or from the lower right one, with the
    sides of the scene.
    """
    labels, holdout = gpd.read_file(LABELS), gpd.read_file(HOLDOUT)
    with rasterio.open(SCENE) as raster:
        left, lower, right, upper = raster.bounds
        holdout = holdout.to_crs(raster.crs)
    scene = shapely.box(left, lower, right, upper)
    free = scene.difference(holdout.union_all().buffer(STRIP_M, join_style="mitre"))
    inside = shapely.get_coordinates(labels.representative_point())
    corner = np.array([(right, lower) if from_right else (left, upper)])
    reach = np.abs((inside - corner) / (right - left, upper - lower)).max(axis=1)
    reach = np.sort(reach[shapely.contains_xy(free, inside)])
    share = 1.0 if buildings == "all" else float(reach[int(buildings) - 1]) + 1e-9
    (x, y), (width, height) = corner[0], (share * (right - left), share * (upper - lower))
    grown = (x - width, y, x, y + height) if from_right else (x, y - height, x + width, y)
    area = free.intersection(shapely.box(*grown))
    GeoDataFrame(geometry=[area], crs=labels.crs).to_file(folder / "area.gpkg")
    labels[labels.intersects(area)].to_file(folder / "labels.gpkg")
    metres = GeoDataFrame(geometry=[area], crs=labels.crs)
    hectares = float(metres.to_crs(metres.estimate_utm_crs()).area.sum()) / 1e4
    count = int(shapely.contains_xy(area, inside).sum())
    return {"buildings": float(count), "hectares": hectares}


def settings_of(
    options: argparse.Namespace, folder: Path, seed: int, *, from_trunk: bool
) -> list[str]:
    """What a row says differently from `configs/your-buildings.yaml`."""
    scene = {
        "images": [str(SCENE)],
        "labels": str((folder / "labels.gpkg").resolve()),
        "aoi": str((folder / "area.gpkg").resolve()),
        "attribution": "OpenAerialMap contributors, CC BY 4.0; OpenStreetMap contributors, ODbL",
    }
    settings: dict[str, Any] = {
        "data.scenes": [scene],
        "data.holdout": str(HOLDOUT.resolve()),
        # All labels teach: the confidence is that of the weights to start from.
        "data.validation_share": 0,
        "data.chip_size": options.chip_size,
        "data.chips_per_epoch": 2 * options.steps // EPOCHS,
        "optimizer.warmup_steps": options.steps // 10,
        "train.epochs": EPOCHS,
        "train.seed": seed,
        "train.start_from": str(options.weights.resolve()),
    }
    if from_trunk:
        model = read_info(options.weights).model.model_dump(mode="json")
        model["backbone"]["pretrained"] = str(options.trunk.resolve())
        settings |= {"train.start_from": None, "model": model}
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def trained(config: RunConfig, folder: Path) -> Path:
    """The weights of a run, which goes on if it was cut short."""
    resume = (folder / CHECKPOINT).exists()
    return train(config, folder, resume=resume, progress=sys.stderr.isatty())


def judged(weights: Path, layer: Path) -> Figures:
    """Predict the blocks that nothing was learnt from, and compare the layer with the truth."""
    kept = layer.with_name("found")
    fp.predict(
        SCENE,
        output=layer,
        keep=kept,
        weights=weights,
        aoi=HOLDOUT,
        overwrite=True,
        progress=False,
    )
    half, strict = (fp.evaluate(layer, LABELS, aoi=HOLDOUT, iou=iou) for iou in (0.5, 0.75))
    unsure = fp.finish(kept, confidence=KEPT_CONFIDENCE)
    figures = fp.evaluate(unsure, LABELS, aoi=HOLDOUT, full=True).figures
    assert figures is not None
    return {
        "precision": half.precision,
        "recall": half.recall,
        "f1": half.f1,
        "f1_75": strict.f1,
        "iou": half.matched_iou,
        "best_f1": figures.confidence.best_f1,
        "best_from": figures.confidence.best_f1_from,
    }


def draw(rows: list[list[Figures]], path: Path) -> None:
    """F1 over the number of buildings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="buildings to learn from", ylabel="F1 on ground not learned from", ylim=(0, 1))
    (without,), labelled = rows[0], rows[1:]
    counts = [statistics.fmean(r["buildings"] for r in row) for row in labelled]
    for key, name in (("best_f1", "best of all confidences"), ("f1", "default confidence")):
        values = [statistics.fmean(r[key] for r in row) for row in labelled]
        (line,) = axes.plot(counts, values, marker="o", label=name)
        axes.axhline(without[key], color=line.get_color(), linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    axes.legend(title="dotted: without labels", frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
