"""COCO annotations become labels in raster pixels, and bad files say what is wrong."""

import json
from contextlib import nullcontext as nothing
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from labelled_scenes import UTM, paint, write_image, write_layer
from PIL import Image
from pycocotools import mask as pycoco

from footprints.data.coco import (
    CocoScene,
    from_segmentation,
    read_coco_scene,
    to_segmentation,
)
from footprints.data.dataset import TrainingChips, TrainingSource
from footprints.data.labels import LEFT_OUT
from footprints.data.split import split_by_place
from footprints.errors import LabelWarning, LayerError, RasterError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""pycocotools' arrays."""

HOUSE = shapely.box(20, 30, 60, 50)
COURT = shapely.box(5, 5, 45, 35) - shapely.box(15, 12, 30, 25)
ELL = shapely.Polygon([(70, 10), (95, 10), (95, 20), (80, 20), (80, 40), (70, 40)])
RING = [20, 30, 60, 30, 60, 50, 20, 50]


def write_coco(folder: Path, objects: list[dict], **changes: object) -> CocoScene:
    """An image of 100 x 64 pixels without georeference, and annotations with defaults."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.moveaxis(paint([HOUSE], 64, 100), 0, -1)).save(folder / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 64}],
        "categories": [{"id": 3, "name": "building"}, {"id": 4, "name": "shed"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 3, "iscrowd": 0, **annotation}
            for number, annotation in enumerate(objects)
        ],
        **changes,
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return CocoScene([folder], folder / "annotations.json")


def test_rings_arrive_in_pixels_of_an_image_without_georeference(tmp_path: Path) -> None:
    (image,) = read_coco_scene(write_coco(tmp_path, [{"segmentation": [RING]}]))
    assert image.polygons[0].equals(HOUSE)
    assert (image.crs, image.gsd_m, image.labels.tolist()) == (None, None, [0])
    assert image.scale(0.3) == (1.0, 1.0)


def test_an_image_with_georeference_keeps_it(tmp_path: Path) -> None:
    scene = write_coco(tmp_path, [{"segmentation": [RING]}])
    write_image(tmp_path / "a.png", paint([HOUSE], 64, 100))
    (image,) = read_coco_scene(scene)
    assert image.gsd_m == pytest.approx((0.5, 0.5), rel=1e-3)
    assert image.crs == UTM


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "as numbers"])
def test_runs_are_traced_along_pixels_with_their_holes(tmp_path: Path, compressed: bool) -> None:
    runs = to_segmentation(COURT, 64, 100)
    if compressed:
        runs = pycoco.frPyObjects(runs, 64, 100)
        runs["counts"] = runs["counts"].decode()
    (image,) = read_coco_scene(write_coco(tmp_path, [{"segmentation": runs}]))
    assert image.polygons[0].equals(COURT)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=30).filter(lambda runs: sum(runs) > 0))
def test_compressed_runs_read_as_those_of_pycocotools(counts: list[int]) -> None:
    size = [1, sum(counts)]
    text = pycoco.frPyObjects({"size": size, "counts": counts}, *size)["counts"].decode()
    expected = shapely.union_all(
        [
            shapely.box(x, 0, x + 1, 1)
            for x in np.flatnonzero(pycoco.decode({"size": size, "counts": text})[0])
        ]
    )
    found = from_segmentation({"size": size, "counts": text}, *size)
    assert (found or shapely.Polygon()).equals(expected)


@pytest.mark.parametrize(
    "outline",
    [
        pytest.param(HOUSE, id="rectangle"),
        pytest.param(ELL, id="L"),
        pytest.param(COURT, id="with a hole"),
        pytest.param(shapely.MultiPolygon([HOUSE, ELL]), id="two parts"),
        pytest.param(shapely.MultiPolygon([COURT, ELL]), id="two parts, one with a hole"),
        pytest.param(shapely.box(0, 0, 9, 9) - shapely.box(2, 2, 5, 5), id="from the first pixel"),
    ],
)
def test_an_outline_comes_back_and_pycocotools_sees_it_too(outline: shapely.Geometry) -> None:
    segmentation = json.loads(json.dumps(to_segmentation(outline, 64, 100)))
    assert from_segmentation(segmentation, 64, 100).equals(outline)
    runs = pycoco.frPyObjects(segmentation, 64, 100)
    seen = pycoco.decode(pycoco.merge(runs) if isinstance(runs, list) else runs)
    assert seen.sum() == pytest.approx(outline.area, rel=0.06)


def test_crowds_are_left_out_and_parts_stay_one_object(tmp_path: Path) -> None:
    two = [RING, [70, 10, 95, 10, 95, 20, 70, 20]]
    scene = write_coco(tmp_path, [{"segmentation": two}, {"segmentation": [RING], "iscrowd": 1}])
    (image,) = read_coco_scene(scene)
    assert image.labels.tolist() == [0, LEFT_OUT]
    assert image.polygons[0].area == HOUSE.area + 250


def test_categories_become_classes_through_a_map(tmp_path: Path) -> None:
    scene = write_coco(
        tmp_path, [{"segmentation": [RING]}, {"segmentation": [RING], "category_id": 4}]
    )
    with pytest.raises(LayerError, match=r"unknown classes shed \(1\).*known are: building; map"):
        read_coco_scene(scene)
    mapped = CocoScene(scene.images, scene.annotations, class_map={"building": "house"})
    (image,) = read_coco_scene(mapped, classes=("shed", "house"))
    assert image.labels.tolist() == [1, 0]


def test_an_image_without_objects_stays(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": "a.png", "width": 100, "height": 64} for number in (7, 8)]
    scene = write_coco(tmp_path, [{"segmentation": [RING]}], images=images)
    assert [len(image.polygons) for image in read_coco_scene(scene)] == [1, 0]


def test_faulty_segmentations_are_repaired_or_left_out_and_counted(tmp_path: Path) -> None:
    bow = [10, 10, 30, 30, 30, 10, 10, 30]
    scene = write_coco(
        tmp_path, [{"segmentation": [RING]}, {"segmentation": [bow]}, {"segmentation": []}]
    )
    with pytest.warns(LabelWarning, match=r"1 repaired, 1 without geometry left out"):
        (image,) = read_coco_scene(scene)
    assert len(image.polygons) == 2
    assert shapely.is_valid(image.polygons).all()


@pytest.mark.parametrize(
    ("annotation", "changes", "error", "message"),
    [
        pytest.param(
            {},
            {"images": [{"id": 7, "file_name": "x/b.png", "width": 100, "height": 64}]},
            RasterError,
            r"1 of 1 images of .*annotations\.json are not in .*: x/b\.png; name the folder",
            id="a missing image",
        ),
        pytest.param(
            {},
            {"images": [{"id": 7, "file_name": "a.png", "width": 90, "height": 64}]},
            LayerError,
            r"a\.png has 100 x 64 pixels, but .* says 90 x 64",
            id="an image of another size",
        ),
        pytest.param(
            {"image_id": 8}, {}, LayerError, "annotation 0 of .* is of image 8", id="unknown image"
        ),
        pytest.param({"category_id": 9}, {}, LayerError, "is of category 9", id="unknown category"),
        pytest.param(
            {"segmentation": {"size": [9, 9], "counts": [81]}},
            {},
            LayerError,
            r"no segmentation that can be read: its runs are of 81 pixels",
            id="runs of another size",
        ),
        pytest.param(
            {"segmentation": "house"}, {}, LayerError, "a list or runs were expected", id="text"
        ),
        pytest.param({"segmentation": []}, {}, LayerError, "holds no polygon", id="no outline"),
        pytest.param({}, {"annotations": []}, LayerError, "holds no annotation", id="empty"),
        pytest.param({}, {"categories": None}, LayerError, "no list 'categories'", id="not COCO"),
    ],
)
def test_bad_annotations_are_one_clear_line(
    tmp_path: Path, annotation: dict, changes: dict, error: type[Exception], message: str
) -> None:
    scene = write_coco(tmp_path, [{"segmentation": [RING], **annotation}], **changes)
    is_lost = annotation == {"segmentation": []}
    warned = pytest.warns(LabelWarning, match="left out") if is_lost else nothing()
    with warned, pytest.raises(error, match=message) as caught:
        read_coco_scene(scene)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "annotations not found"), ("{", "cannot read .* as COCO"), ("[]", "no COCO file")],
    ids=["missing", "not JSON", "a list"],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(LayerError, match=message):
        read_coco_scene(CocoScene([tmp_path], tmp_path / "x.json"))


def test_an_area_needs_a_georeference(tmp_path: Path) -> None:
    scene = write_coco(tmp_path, [{"segmentation": [RING]}])
    area = write_layer(tmp_path / "area.gpkg", [HOUSE])
    with pytest.raises(RasterError, match=r"does not say where it lies, so .*area\.gpkg cannot"):
        read_coco_scene(CocoScene(scene.images, scene.annotations, aoi=area))


def test_images_without_georeference_validate_each_by_itself(tmp_path: Path) -> None:
    images = []
    for name in "bcdefgh":
        write_coco(tmp_path / name, [{"segmentation": [RING]}])
        images += read_coco_scene(
            CocoScene([tmp_path / name], tmp_path / name / "annotations.json")
        )
    split = split_by_place([images], chip_size=64, gsd_m=0.3, validation_share=0.3)
    kept = {block.image.path for block in split.validation}
    free = {part.image.path for part in split.training[0]}
    assert len(kept) == 2
    assert kept | free == {image.path for image in images}
    assert not kept & free


def test_blocks_of_a_large_image_without_georeference_are_kept_from_training(
    tmp_path: Path,
) -> None:
    (image,) = read_coco_scene(write_coco(tmp_path, [{"segmentation": [RING]}]))
    split = split_by_place([[image]], chip_size=32, gsd_m=0.3, validation_share=0.3)
    (part,) = split.training[0]
    assert split.validation
    assert not any(part.is_free(block.window) for block in split.validation)


def test_chips_come_from_images_without_georeference(tmp_path: Path) -> None:
    images = read_coco_scene(write_coco(tmp_path, [{"segmentation": [RING]}]))
    split = split_by_place([images], chip_size=64, gsd_m=0.3, validation_share=0)
    chips = TrainingChips(
        [TrainingSource(split.training[0])], chip_size=64, gsd_m=0.3, length=4, empty_share=0
    )
    assert all(len(chips[index].boxes) == 1 for index in range(4))
