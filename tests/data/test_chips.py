"""Chips on disk train like the scene they were cut from, and nothing is left half-written."""

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from labelled_scenes import NORTH_UP, UTM, make_scene, paint, write_image, write_layer
from pycocotools.coco import COCO
from tiny_network import SECTIONS

from footprints.chip import Window
from footprints.config import RunConfig
from footprints.data.chips import write_chips
from footprints.data.coco import CocoScene, read_coco_scene
from footprints.data.dataset import ImageReader
from footprints.data.labels import LabelledImage, TrainingScene, read_training_scene
from footprints.data.split import split_by_place
from footprints.data.targets import Cut, Sample, make_sample
from footprints.errors import ChipSizeError, ConfigError, LabelWarning, LayerError, OutputError
from footprints.training import train

SIDE = 260
HOUSES = [shapely.box(x, y, x + 18, y + 12) for x in range(3, 240, 26) for y in range(5, 240, 26)]
TURNED = [shapely.affinity.rotate(house, 20 + 0.39 * i) for i, house in enumerate(HOUSES)]


def coco_of(folder: Path, **options: object) -> CocoScene:
    return CocoScene([folder / "images"], folder / "annotations.json", **options)


def whole(image: LabelledImage, window: Window, height: int, width: int) -> Sample:
    return make_sample([Cut(image, window, height, width)], ImageReader(), height, width)


@pytest.mark.parametrize(
    ("transform", "crs", "gsd_m"),
    [
        pytest.param(NORTH_UP, UTM, None, id="at the scene's own pixels"),
        pytest.param(NORTH_UP, UTM, 0.65, id="coarser"),
        pytest.param(
            Affine.translation(5e5, 4e6) @ Affine.rotation(25) @ Affine.scale(0.5, -0.5),
            UTM,
            0.4,
            id="rotated and finer",
        ),
        pytest.param(Affine(5e-6, 0, 15, 0, -5e-6, 45), "EPSG:4326", 0.5, id="in degrees"),
    ],
)
def test_coco_chips_have_the_targets_of_the_scene(
    tmp_path: Path, transform: Affine, crs: str, gsd_m: float | None
) -> None:
    scene = make_scene(tmp_path, TURNED, height=SIDE, width=SIDE, transform=transform, crs=crs)
    write_chips(
        scene.images,
        scene.labels,
        tmp_path / "chips",
        gsd_m=gsd_m,
        chip_size=96,
        overlap=16,
        validation_share=0,
    )
    (source,) = read_training_scene(scene)
    found = 0
    for chip in read_coco_scene(coco_of(tmp_path / "chips")):
        with rasterio.open(chip.path) as file:
            x, y = ~transform @ (file.transform @ (0, 0))
        scale_x, scale_y = source.scale(gsd_m)
        window = Window(x, y, chip.width * scale_x, chip.height * scale_y)
        window = Window(*(round(side, 4) for side in window))
        expected = whole(source, window, chip.height, chip.width)
        got = whole(chip, Window(0, 0, chip.width, chip.height), chip.height, chip.width)
        np.testing.assert_allclose(got.pixels, expected.pixels, atol=1)
        np.testing.assert_array_equal(got.valid, expected.valid)
        assert (got.labelled != expected.labelled).mean() < 0.002
        np.testing.assert_allclose(got.boxes, expected.boxes, atol=0.01)
        np.testing.assert_array_equal(got.labels, expected.labels)
        assert np.abs(got.masks.astype(int) - expected.masks).max(initial=0) <= 8
        np.testing.assert_array_equal(got.keypoints[..., 2], expected.keypoints[..., 2])
        # Which of two equally near vertices stands in for a corner that is cut off is chance.
        own = expected.keypoints[..., 2] > 0
        np.testing.assert_allclose(got.keypoints[own], expected.keypoints[own], atol=0.01)
        found += len(got.boxes)
    assert found > len(HOUSES)


def test_pairs_of_chips_and_labels_train_as_well(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, HOUSES, height=SIDE, width=SIDE)
    index = write_chips(
        scene.images, scene.labels, tmp_path / "chips", chip_size=128, validation_share=0
    )
    pairs = TrainingScene(tmp_path / "chips" / "images", tmp_path / "chips" / "labels")
    with pytest.warns(match="reprojected"):
        images = read_training_scene(pairs)
    assert [Path(image.path).name for image in images] == index["image"].tolist()
    assert sum(len(image.polygons) for image in images) >= len(HOUSES)
    house = images[0].polygons[0]
    assert min(shapely.hausdorff_distance(house, other) for other in HOUSES) < 0.1


def test_others_read_the_annotations_with_holes_classes_and_areas(tmp_path: Path) -> None:
    court = shapely.box(20, 20, 60, 50) - shapely.box(30, 28, 44, 40)
    image = make_scene(tmp_path, [court, HOUSES[40]], height=128, width=160).images
    layer = write_layer(tmp_path / "kinds.gpkg", [court, HOUSES[40]], kind=["hall", "barn"])
    write_chips(
        image, layer, tmp_path / "chips", chip_size=256, class_column="kind", validation_share=0
    )
    coco = COCO(tmp_path / "chips" / "annotations.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["barn", "hall"]
    hall, barn = coco.loadAnns([1, 2])
    assert (hall["category_id"], barn["category_id"]) == (2, 1)
    assert hall["area"] == pytest.approx(court.area, rel=1e-4)
    assert hall["bbox"] == pytest.approx([20, 20, 40, 30], abs=1e-3)
    with pytest.warns(DeprecationWarning, match="__array__"):
        mask = coco.annToMask(hall)
    assert mask.sum() == court.area
    assert mask[34, 37] == 0


def test_a_class_map_leads_from_values_to_classes(tmp_path: Path) -> None:
    some = HOUSES[:4]
    image = make_scene(tmp_path, some, height=128, width=160).images
    layer = write_layer(tmp_path / "k.gpkg", some, kind=["villa", "hut", "ruin", None])
    (tmp_path / "map.yaml").write_text("{villa: house, hut: house, ruin: null}")
    options = {"chip_size": 256, "class_column": "kind", "validation_share": 0}
    with pytest.warns(LabelWarning, match="1 of 4"):
        write_chips(image, layer, tmp_path / "c", class_map=tmp_path / "map.yaml", **options)
    coco = json.loads((tmp_path / "c" / "annotations.json").read_text())
    assert [category["name"] for category in coco["categories"]] == ["house"]
    assert sorted(each["iscrowd"] for each in coco["annotations"]) == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"--class-map needs .* --class-field"):
        write_chips(image, layer, tmp_path / "d", class_map={"villa": "house"}, chip_size=256)


def test_validation_stays_apart_with_its_buffer_and_training_follows_it(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, HOUSES, height=SIDE, width=SIDE)
    folder = tmp_path / "chips"
    index = write_chips(
        scene.images, scene.labels, folder, chip_size=64, overlap=16, validation_share=0.2
    )
    assert index.equals(gpd.read_file(folder / "chips.gpkg")[index.columns])
    parts = index.set_index("split").geometry
    kept, free = parts.loc[["validation"]].union_all(), parts.loc[["train"]]
    # 8 px of half a metre; the last thousandths are the layer's.
    assert free.distance(kept).min() > 3.99
    assert kept.area > 0.1 * (SIDE / 2) ** 2
    assert free.area.sum() > 0.5 * (SIDE / 2) ** 2
    split = split_by_place(
        [read_coco_scene(coco_of(folder))],
        chip_size=64,
        gsd_m=0.5,
        validation=gpd.read_file(folder / "validation.gpkg"),
    )
    validates = set(index.image[index.split == "validation"])
    assert {Path(block.image.path).name for block in split.validation} == validates
    assert all(part.kept is None for part in split.training[0])
    assert len(split.training[0]) + len(validates) == len(index)


def test_no_data_is_a_mask_and_a_share_and_its_labels_are_crowds(tmp_path: Path) -> None:
    pixels = paint(HOUSES, 128, 128)
    pixels[:, :, 64:] = 9
    image = write_image(tmp_path / "a.tif", pixels, nodata=9)
    layer = write_layer(tmp_path / "a.gpkg", [h for h in HOUSES if max(h.bounds) < 128])
    index = write_chips(image, layer, tmp_path / "chips", chip_size=96, validation_share=0)
    assert index["nodata_share"].tolist() == pytest.approx([1 / 3, 2 / 3] * 2, abs=1e-4)
    with rasterio.open(tmp_path / "chips" / "images" / index["image"][0]) as file:
        np.testing.assert_array_equal(file.dataset_mask()[:, :64], 255)
        assert not file.dataset_mask()[:, 64:].any()
    first = [
        each
        for each in json.loads((tmp_path / "chips" / "annotations.json").read_text())["annotations"]
        if each["image_id"] == 1
    ]
    assert all(each["iscrowd"] == (each["bbox"][0] > 60) for each in first)


def test_chips_lie_in_the_area_of_interest(tmp_path: Path) -> None:
    area = shapely.box(0, 0, 60, SIDE)
    scene = make_scene(tmp_path, HOUSES, height=SIDE, width=SIDE, aoi=area)
    index = write_chips(
        scene.images,
        scene.labels,
        tmp_path / "chips",
        aoi=scene.aoi,
        chip_size=64,
        validation_share=0,
    )
    assert index.geometry.bounds.minx.max() == 500_000
    images = read_coco_scene(coco_of(tmp_path / "chips", aoi=scene.aoi))
    sample = whole(images[0], Window(0, 0, 64, 64), 64, 64)
    assert not sample.labelled[:, 60:].any()


def test_a_failing_run_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    scene = make_scene(tmp_path, HOUSES, height=SIDE, width=SIDE)
    folder = tmp_path / "chips"
    write_chips(scene.images, scene.labels, folder, chip_size=128, validation_share=0)
    before = (folder / "annotations.json").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("footprints.data.chips._write_geotiff", fail)
    with pytest.raises(OutputError, match=r"cannot write chips to .*No space left"):
        write_chips(scene.images, scene.labels, folder, chip_size=128, overwrite=True)
    assert (folder / "annotations.json").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("output", "options", "error", "message"),
    [
        pytest.param("old", {}, OutputError, "chips exist: .*--overwrite", id="existing chips"),
        pytest.param(
            "mine",
            {"overwrite": True},
            OutputError,
            "holds what is no part .*: a.txt",
            id="foreign",
        ),
        pytest.param("no/where", {}, OutputError, "does not exist: .*create it", id="no parent"),
        pytest.param("scene.tif", {}, OutputError, "but .* is a file", id="a file"),
        pytest.param("new", {"overlap": 128}, ChipSizeError, "overlap must be", id="overlap"),
        pytest.param(
            "new", {"class_column": "kind"}, LayerError, "no column 'kind'", id="no such column"
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path, output: str, options: dict, error: type[Exception], message: str
) -> None:
    scene = make_scene(tmp_path, HOUSES, height=SIDE, width=SIDE)
    (tmp_path / "old").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    with pytest.raises(error, match=message) as caught:
        write_chips(scene.images, scene.labels, tmp_path / output, chip_size=128, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_written_chips_train(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, HOUSES, height=SIDE, width=SIDE)
    write_chips(scene.images, scene.labels, tmp_path / "chips", chip_size=64, validation_share=0.2)
    data = {
        "root": str(tmp_path / "chips"),
        "scenes": [{"coco": "annotations.json", "images": "images"}],
        "validation": "validation.gpkg",
        "gsd_m": 0.5,
        "chip_size": 64,
        "chips_per_epoch": 4,
    }
    loop = {"epochs": 1, "batch_size": 2, "workers": 0}
    config = RunConfig.model_validate({"model": SECTIONS, "data": data, "train": loop})
    assert train(config, tmp_path / "run", progress=False).is_file()
