"""The papers' ablations at a small scale: one choice changed at a time, all else as it was.

    python tests/benchmarks/ablation.py [-o out/ablation] [--rows roi masks classes] [--seeds 3]

Every run starts from the trunk, the pyramid and the proposals of the weights that ship, with new
heads, and sees the same chips as the others of its seed. `roi` and `masks` learn from the training
ground of those weights and are judged on the blocks of Banepa that were kept from it; `classes`
learns seven kinds of roof on a generated town and is judged on another. `trunk` and `boxes` are
the presets with ResNet-50, trained from ImageNet, and run on a GPU only. A run that is done is not
repeated, one that was killed goes on.

The papers: Mask R-CNN, arXiv 1703.06870, tables 2 and 3; PointRend, arXiv 1912.08193, table 4.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import rasterio
import shapely
import torch
from geopandas import GeoDataFrame
from machine import describe

from footprints.config import RunConfig, load_config
from footprints.data.synthetic import generate_scene
from footprints.data.synthetic.roofs import ROOFS
from footprints.loop import read_metrics
from footprints.model.checkpoint import read_info
from footprints.model.detector import DEFAULT_WEIGHTS
from footprints.training import CHECKPOINT, METRICS, train

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("FOOTPRINTS_DATA", REPOSITORY / "../shared/data")).resolve()
FIGURES = ("val_ap", "val_ap50", "val_ap75", "val_boundary_iou", "val_box_ap")
CHIP_PX = 256
GSD_M = 0.27


class Row(NamedTuple):
    """One choice."""

    name: str
    published: str
    """What the paper says, in average precision of COCO masks: AP or AP/AP50/AP75."""
    network: dict[str, Any] | str
    """What it changes in the small network, or the preset in ``configs/`` that it is."""


ALIGN = {"op": "align", "reduce": "average"}
WARP = {"op": "warp", "reduce": "average"}
POOL = {"op": "pool", "reduce": "maximum"}


def with_roi(roi: dict[str, Any]) -> dict[str, Any]:
    """Boxes and masks through one RoI operator."""
    return {
        "box_head": {"roi": roi | {"side": 7}},
        "mask_head": {"kind": "fcn", "roi": roi | {"side": 14}},
    }


GROUPS = {
    "roi": [
        Row("RoIAlign", "30.3/51.2/31.5", with_roi(ALIGN)),
        Row("RoIWarp", "27.2", with_roi(WARP)),
        Row("RoIPool", "26.9", with_roi(POOL)),
    ],
    "masks": [
        Row("FCN", "33.6/55.2/35.3; 35.2 in PointRend's", with_roi(ALIGN)),
        Row("MLP", "31.5", {"mask_head": {"kind": "mlp"}}),
        Row("PointRend", "36.2", {"mask_head": {"kind": "pointrend"}}),
    ],
    "classes": [
        Row("sigmoid", "30.3/51.2/31.5", {"mask_head": {"kind": "fcn", "classes": "sigmoid"}}),
        Row("softmax", "24.8", {"mask_head": {"kind": "fcn", "classes": "softmax"}}),
        Row("agnostic", "29.7", {"mask_head": {"kind": "fcn", "classes": "agnostic"}}),
    ],
}
PRESETS = {
    "trunk": [
        Row("FPN", "33.6/55.2/35.3", "mask-rcnn-r50-fpn"),
        Row("C4", "30.3/51.2/31.5", "mask-rcnn-r50-c4"),
    ],
    "boxes": [
        Row("with masks", "box AP 38.2", "mask-rcnn-r50-fpn"),
        Row("boxes only", "box AP 37.3", "faster-rcnn-r50-fpn"),
    ],
}
"""Groups that need a GPU."""


ROWS = GROUPS | PRESETS


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "out" / "ablation")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    started = time.monotonic()
    for line in report(options.output, options.rows, options.seeds, options.steps):
        print(line, flush=True)
    minutes = (time.monotonic() - started) / 60
    print(f"\n{describe('torch')}\n{minutes:.0f} minutes for the runs that were missing")


def report(output: Path, groups: list[str], seeds: int, steps: int) -> Iterator[str]:
    """The table in Markdown, row by row as they are done."""
    yield f"{seeds} seeds, {steps} steps of 2 chips of {CHIP_PX} px; mean ± standard deviation\n"
    yield "| group | choice | AP | AP50 | AP75 | boundary IoU | box AP | the paper |"
    yield "|---|---|---|---|---|---|---|---|"
    for group in groups:
        for row in ROWS[group]:
            cells = ["not measured"] * len(FIGURES)
            if group not in PRESETS or torch.cuda.is_available():
                runs = [run(output, group, row, seed, steps) for seed in range(seeds)]
                cells = [spread([100 * figures[name] for figures in runs]) for name in FIGURES]
            yield f"| {' | '.join([group, row.name, *cells, row.published])} |"


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def run(output: Path, group: str, row: Row, seed: int, steps: int) -> dict[str, float]:
    """Train one choice with one seed, unless that is done, and read its figures."""
    # What stands in two groups is trained once.
    network = row.network if isinstance(row.network, str) else f"{group}-{row.name}"
    network = "roi-RoIAlign" if row.name == "FCN" else network
    folder = output / f"{network}-{steps}-{seed}".lower()
    config = RunConfig.model_validate(
        {
            "name": network,
            "model": preset(row.network) if isinstance(row.network, str) else small(group, row),
            "data": (generated if group == "classes" else real)(output)
            | {"gsd_m": GSD_M, "chip_size": CHIP_PX, "chips_per_epoch": steps},
            "optimizer": {"learning_rate": 3e-4, "weight_decay": 0.05, "warmup_steps": steps // 10},
            "train": {
                "epochs": 2,
                "validate_every": 2,
                "batch_size": 2,
                "workers": 1,
                "seed": seed,
                "start_from": None if isinstance(row.network, str) else str(DEFAULT_WEIGHTS),
            },
        }
    )
    rows = read_metrics(folder / METRICS)
    if len(rows) < config.train.epochs:
        train(config, folder, resume=(folder / CHECKPOINT).exists(), progress=sys.stderr.isatty())
        rows = read_metrics(folder / METRICS)
    return {figure: float(rows[-1][figure]) for figure in FIGURES}


def preset(name: str) -> dict[str, Any]:
    """The network of a preset."""
    os.environ.setdefault("FOOTPRINTS_DATA", str(DATA))
    return load_config(REPOSITORY / "configs" / f"{name}.yaml").model.model_dump()


def small(group: str, row: Row) -> dict[str, Any]:
    """The network that ships, with other heads: of other widths, so that all of them start anew."""
    model = read_info(DEFAULT_WEIGHTS).model.model_dump()
    assert isinstance(row.network, dict)
    model["backbone"] |= {"pretrained": False, "frozen_stages": 5}
    model["box_head"] |= {"width": 256, "samples": 64} | row.network.get("box_head", {})
    widths = {
        "fcn": {"width": 64},
        "mlp": {"width": 512},
        "pointrend": {"coarse_width": 256, "point_width": 64},
    }
    mask_head = row.network["mask_head"]
    model["mask_head"] = widths[mask_head["kind"]] | mask_head
    return model | ({"classes": ROOFS} if group == "classes" else {})


def real(_output: Path) -> dict[str, Any]:
    """Banepa, judged on the blocks that nothing was trained on, and Dhaka."""
    return {
        "root": str(DATA),
        "validation": str(REPOSITORY / "configs" / "banepa_holdout.gpkg"),
        "scenes": [
            {"images": ["banepa/south.tif"], "labels": "banepa/south_buildings.gpkg"},
            {
                "images": ["dhaka/images"],
                "labels": "dhaka/buildings.gpkg",
                "image_field": "image",
            },
        ],
    }


def generated(output: Path) -> dict[str, Any]:
    """Two towns that do not exist, one of them to judge by."""
    towns = [make_town(output, seed) for seed in (21, 22)]
    return {
        "root": str(output),
        "validation": extent_of(towns[1]).name,
        "scenes": [
            {
                "images": [town.name],
                "labels": f"{town.stem}_buildings.gpkg",
                "class_field": "class",
            }
            for town in towns
        ],
    }


def make_town(folder: Path, seed: int) -> Path:
    """A town that does not exist, with its buildings beside it."""
    path = folder / f"town{seed}.tif"
    if not path.exists():
        generate_scene(
            path,
            width=1600,
            height=1600,
            gsd_m=GSD_M,
            seed=seed,
            density=0.5,
            # Side by side with a gap, or the one town would stand on the other's ground.
            lonlat=(85.0 + seed / 10, 27.6),
            nodata_collar=False,
        )
    return path


def extent_of(town: Path) -> Path:
    """A layer of the ground that a town covers."""
    with rasterio.open(town) as raster:
        outline = GeoDataFrame(geometry=[shapely.box(*raster.bounds)], crs=raster.crs)
    path = town.with_name(f"{town.stem}_extent.gpkg")
    outline.to_file(path)
    return path


if __name__ == "__main__":
    main()
