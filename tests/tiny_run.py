"""A training run that takes seconds: a small network on an image of squares."""

from pathlib import Path

import shapely
import yaml
from labelled_scenes import make_scene
from tiny_network import SECTIONS

SIDE = 224


def write_tiny_run(folder: Path) -> Path:
    """Write an image with a building every 28 pixels, and the configuration of three epochs.

    The run validates after its second epoch.
    """
    corners = range(6, SIDE - 20, 28)
    squares = [shapely.box(x, y, x + 16, y + 14) for x in corners for y in corners]
    make_scene(folder, squares, height=SIDE, width=SIDE)
    settings = {
        "name": "tiny",
        "model": SECTIONS | {"detection": {"max_per_chip": 500}},
        "data": {
            "root": str(folder),
            "gsd_m": 0.5,
            "chip_size": 64,
            "chips_per_epoch": 8,
            "validation_share": 0.1,
            "scenes": [{"images": ["scene.tif"], "labels": "scene.gpkg", "attribution": "ours"}],
        },
        "optimizer": {"warmup_steps": 4, "average": 0.9, "learning_rate": 1e-3},
        "train": {"epochs": 3, "validate_every": 2, "batch_size": 2, "workers": 0},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
