"""Several classes from the labels' column to the evaluation of the layer."""

from pathlib import Path

import numpy as np
import pytest
from labelled_scenes import write_image, write_layer
from shapely import box
from tiny_network import SECTIONS

from footprints.config import RunConfig
from footprints.data.synthetic import generate_scene
from footprints.describe import describe
from footprints.evaluation import evaluate
from footprints.loop import read_metrics
from footprints.model.checkpoint import read_info
from footprints.model.detector import load_detector
from footprints.pipeline import predict
from footprints.training import train

SIDE = 224
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 220, 40),
    "blue": (40, 40, 220),
    "yellow": (230, 230, 40),
    "pink": (230, 40, 230),
}
CODES = {10 * (number + 1): name for number, name in enumerate(COLOURS)}
RUIN = 99
SHARES = (
    "tilted",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "band_gain",
    "gamma",
    "thinned",
    "blur",
    "sharpen",
)
PLAIN = dict.fromkeys([*SHARES, "noisy"], 0) | {"scale": (1, 1)}


def config_of(folder: Path, classes: list[str], scene: dict, **sections: dict) -> RunConfig:
    backbone = SECTIONS["backbone"] | {"norm": "live"}
    network = {"backbone": backbone, "detection": {"max_per_chip": 100}, "classes": classes}
    return RunConfig.model_validate(
        {
            "name": "kinds",
            "model": SECTIONS | network,
            "data": {"root": str(folder), "chip_size": 64, "scenes": [scene]} | sections["data"],
            "augment": sections.get("augment", {}),
            "optimizer": {"warmup_steps": 10, "learning_rate": 3e-3},
            "train": {"epochs": 1, "batch_size": 4, "workers": 0},
        }
    )


def paint_houses(folder: Path) -> Path:
    """A scene of houses that colour tells apart, with a code for each colour; some are ruins."""
    pixels = np.full((3, SIDE, SIDE), 110, dtype=np.uint8)
    corners = [(x, y) for x in range(6, SIDE - 20, 28) for y in range(6, SIDE - 20, 28)]
    codes = [list(CODES)[number * 3 % 5] for number in range(len(corners))]
    codes[::13] = [RUIN] * len(codes[::13])
    for (x, y), code in zip(corners, codes, strict=True):
        colour = COLOURS.get(CODES.get(code), (160, 130, 110))
        pixels[:, y : y + 14, x : x + 16] = np.array(colour)[:, None, None]
    write_image(folder / "houses.tif", pixels)
    houses = [box(x, y, x + 16, y + 14) for x, y in corners]
    return write_layer(folder / "houses.gpkg", houses, code=codes)


@pytest.mark.slow
def test_codes_of_a_column_become_classes_of_the_layer(tmp_path):
    labels = paint_houses(tmp_path)
    class_map = CODES | {RUIN: None}
    scene = {"images": ["houses.tif"], "labels": labels.name, "class_field": "code"}
    config = config_of(
        tmp_path,
        list(COLOURS),
        scene | {"class_map": class_map},
        data={"gsd_m": 0.5, "chips_per_epoch": 600},
        augment=PLAIN,
    )
    weights = train(config, tmp_path / "run", progress=False)

    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    # Whoever knows no colours is right once in five.
    assert float(row["val_f1"]) > 0.5, row
    detector = load_detector(weights, device="cpu")
    assert detector.confidence == pytest.approx(float(row["val_confidence"]), abs=1e-3)
    layer = predict(
        tmp_path / "houses.tif", detector=detector, chip_size=64, overlap=32, progress=False
    )
    report = evaluate(layer, labels, class_field="code", class_map=class_map)
    assert list(report.classes) == sorted(COLOURS)
    assert min(each.f1 for each in report.classes.values()) > 0.5, report
    assert report.tp == sum(each.tp for each in report.classes.values())


@pytest.mark.slow
# After so few steps it sees roofs of every kind everywhere.
@pytest.mark.filterwarnings("ignore::footprints.errors.DetectionCapWarning")
def test_a_generated_town_trains_a_class_for_each_kind_of_roof(tmp_path):
    town = generate_scene(
        tmp_path / "town.tif", width=320, height=320, gsd_m=0.9, seed=10, nodata_collar=False
    )
    roofs = ["gable", "hip", "flat", "metal", "dome", "courtyard", "industrial"]
    scene = {"images": [town.raster.name], "labels": town.buildings.name, "class_field": "class"}
    config = config_of(tmp_path, roofs, scene, data={"gsd_m": 0.9, "chips_per_epoch": 40})
    weights = train(config, tmp_path / "run", progress=False)

    assert read_info(weights).model.classes == tuple(roofs)
    assert "gable, hip, flat, metal, dome, courtyard, industrial" in describe(weights)
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert {f"val_{roof}_{ratio}" for roof in roofs for ratio in ("precision", "recall", "f1")} <= {
        *row
    }
    layer = predict(
        town.raster, weights=weights, device="cpu", chip_size=160, confidence=0.02, progress=False
    )
    assert set(layer["class"]) <= set(roofs)
    assert len(layer)
    report = evaluate(layer, town.buildings, class_field="class")
    assert sorted(report.classes) == sorted(roofs)
    assert all(each.tp + each.fn for each in report.classes.values()), "all kinds are in the truth"
