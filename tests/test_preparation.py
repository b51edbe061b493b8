"""What cannot be learnt from is one line, before anything is written."""

import json
import warnings
from pathlib import Path

import geopandas as gpd
import pytest
import shapely
from labelled_scenes import NORTH_UP, make_scene, paint, write_image
from tiny_run import write_tiny_run

from footprints.config import load_config
from footprints.errors import FootprintsError
from footprints.training import train


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and beside it the same labels, spoilt in one way each."""
    folder = tmp_path_factory.mktemp("scene")
    config = write_tiny_run(folder)
    labels = gpd.read_file(folder / "scene.gpkg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        labels.set_crs(None, allow_override=True).to_file(folder / "nowhere.gpkg")
    labels.set_geometry(labels.boundary).to_file(folder / "lines.gpkg")
    labels.set_geometry(labels.centroid).to_file(folder / "points.gpkg")
    labels.iloc[:0].to_file(folder / "empty.gpkg")
    labels.set_geometry(labels.translate(50_000)).to_file(folder / "apart.gpkg")
    four = paint([], 224, 224, bands=4)
    write_image(folder / "four.tif", four, transform=NORTH_UP)
    make_scene(folder / "beside", [shapely.box(10, 10, 30, 30)], bands=2)
    for name, image, category in (("gone", "gone.tif", "building"), ("cars", "scene.tif", "car")):
        write_coco(folder / f"{name}.json", image, category)
    return config


def write_coco(path: Path, image: str, category: str) -> None:
    square = [6, 6, 22, 6, 22, 20, 6, 20]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square]}
    content = {
        "images": [{"id": 1, "file_name": image, "width": 224, "height": 224}],
        "categories": [{"id": 1, "name": category}],
        "annotations": [annotation | {"iscrowd": 0, "area": 224, "bbox": [6, 6, 16, 14]}],
    }
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("scenes", "said"),
    [
        ("labels: nowhere.gpkg", r"nowhere\.gpkg has no coordinate reference system; assign"),
        ("labels: lines.gpkg", r"64 of 64 geometries are linestring; close lines to polygons"),
        ("labels: points.gpkg", r"must hold polygons, but 64 of 64 geometries are point"),
        ("labels: empty.gpkg", r"empty\.gpkg holds no polygon; give a layer with at least one"),
        ("labels: apart.gpkg", r"no label of .*apart\.gpkg lies on .*; check the CRS of both"),
        ("labels: gone.gpkg", r"vector file not found: .*gone\.gpkg"),
        ("coco: gone.json", r"1 of 1 images of .*gone\.json are not in .*: gone\.tif; name the"),
        ("coco: cars.json", r"unknown classes car \(1\) in column .*; known are: building; map"),
        (
            "labels: scene.gpkg}, {images: [beside/scene.tif], labels: beside/scene.gpkg",
            r"differ in their number of bands: 3 \(.*\), 2 \(.*\); choose with bands",
        ),
        (
            "images: [four.tif], labels: scene.gpkg",
            r"four\.tif gives 4 bands, but the network takes 3: .* bands: \[1, 2, 3\], or set",
        ),
        (
            "bands: [1], labels: scene.gpkg",
            r"gives 1 bands, but the network takes 3: .* as in bands: \[1, 1, 1\], or set",
        ),
    ],
)
def test_faults_of_scenes_and_labels_are_one_line_and_leave_nothing(
    config_file: Path, tmp_path: Path, scenes: str, said: str
) -> None:
    image = "" if scenes.startswith("images") else "images: [scene.tif], "
    if scenes.startswith("coco"):
        image = f"images: [{config_file.parent}], "
    config = load_config(config_file, [f"data.scenes=[{{{image}{scenes}}}]"])
    with pytest.raises(FootprintsError, match=said) as caught:
        train(config, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
