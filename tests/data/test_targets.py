"""Masks lie on what the chip shows; what is too little to learn from is not background either."""

from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_scenes import GROUND, ROOF, make_scene, paint

from footprints.chip import Window
from footprints.data.augment import Orientation, Tilt
from footprints.data.labels import LabelledImage, read_training_scene
from footprints.data.targets import MASK_SIDE, Cut, Sample, make_sample, rasterize_targets
from footprints.vector.affine import apply_affine

BARN = shapely.Polygon([(30, 40), (90, 55), (80, 95), (20, 80)])
COURT = shapely.Polygon(
    [(110, 30), (170, 30), (170, 90), (110, 90)], [[(125, 45), (155, 45), (155, 75), (125, 75)]]
)


class Painted:
    """Reads from an array instead of a file, nearest pixel."""

    def __init__(self, pixels: np.ndarray, valid: np.ndarray | None = None) -> None:
        self.pixels = pixels
        self.valid = np.ones(pixels.shape[1:], dtype=bool) if valid is None else valid

    def __call__(self, image, window, shape):
        ys = np.floor(window.y + (np.arange(shape[0]) + 0.5) * window.height / shape[0])
        xs = np.floor(window.x + (np.arange(shape[1]) + 0.5) * window.width / shape[1])
        inside = ((ys >= 0) & (ys < image.height))[:, None] & ((xs >= 0) & (xs < image.width))
        rows = ys.clip(0, image.height - 1).astype(int)
        columns = xs.clip(0, image.width - 1).astype(int)
        valid = inside & self.valid[np.ix_(rows, columns)]
        return self.pixels[:, rows[:, None], columns] * valid, valid


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> LabelledImage:
    return read_training_scene(make_scene(tmp_path_factory.mktemp("s"), [BARN, COURT]))[0]


READ = Painted(paint([BARN, COURT], 200, 300))


def area_px(sample: Sample, number: int) -> float:
    """Area of a mask in chip pixels."""
    x_min, y_min, x_max, y_max = sample.mask_boxes[number]
    cell = (x_max - x_min) * (y_max - y_min) / MASK_SIDE**2
    return float(sample.masks[number].sum() / 255 * cell)


def roofs(sample: Sample) -> np.ndarray:
    """(height, width) True where a pixel's centre is on a target."""
    shown = np.zeros(sample.valid.shape, dtype=bool)
    for mask, (x_min, y_min, x_max, y_max) in zip(sample.masks, sample.mask_boxes, strict=True):
        y, x = np.indices(shown.shape) + 0.5
        column = np.floor((x - x_min) / (x_max - x_min) * MASK_SIDE).astype(int)
        row = np.floor((y - y_min) / (y_max - y_min) * MASK_SIDE).astype(int)
        inside = (row >= 0) & (row < MASK_SIDE) & (column >= 0) & (column < MASK_SIDE)
        shown[inside] |= mask[row[inside], column[inside]] > 127
    return shown


def read_roofs(image, window, shape):
    """Reads without a raster in between: `ROOF` where a pixel's own centre is on a roof."""
    y = window.y + (np.arange(shape[0]) + 0.5) * window.height / shape[0]
    x = window.x + (np.arange(shape[1]) + 0.5) * window.width / shape[1]
    on_roof = shapely.contains_xy(shapely.MultiPolygon([BARN, COURT]), x, y[:, None])
    inside = ((y > 0) & (y < image.height))[:, None] & ((x > 0) & (x < image.width))
    return np.where(on_roof, ROOF, GROUND)[None].repeat(3, axis=0), inside


def farthest_error(sample: Sample, cut: Cut) -> float:
    """Chip pixels from the outlines to the farthest pixel that shows other than its target."""
    shows_roof = sample.pixels[0] > (GROUND + ROOF) / 2
    rows, columns = np.nonzero((shows_roof != roofs(sample)) & sample.labelled)
    outlines = apply_affine(np.array([BARN.boundary, COURT.boundary]), cut.to_chip)
    centres = shapely.points(columns + 0.5, rows + 0.5)
    return float(shapely.distance(shapely.union_all(outlines), centres).max(initial=0.0))


def cell_reach(sample: Sample) -> float:
    """How far from an outline the nearest cell of a mask can be wrong about a pixel's centre.

    A cell is roof where more than half of it is. Where a straight wall halves a cell, its corners
    are half a diagonal away; in the tip of a roof that fills half of it, up to 0.57 diagonals.
    """
    sizes = sample.mask_boxes[:, 2:] - sample.mask_boxes[:, :2]
    return float(0.57 * np.hypot(*(sizes / MASK_SIDE).T).max(initial=0.0)) + 1e-3


@given(
    x=st.floats(-40, 120),
    y=st.floats(-40, 60),
    scale=st.floats(0.5, 2),
    turns=st.integers(0, 3),
    mirrored=st.booleans(),
)
@settings(max_examples=40)
def test_targets_lie_on_the_roofs_that_pixels_show(
    image: LabelledImage, x: float, y: float, scale: float, turns: int, mirrored: bool
) -> None:
    window = Window(x, y, 160 / scale, 128 / scale)
    cut = Cut(image, window, 128, 160, Orientation(turns, mirrored=mirrored))
    sample = make_sample([cut], read_roofs, *((160, 128) if turns % 2 else (128, 160)))
    assert farthest_error(sample, cut) <= cell_reach(sample)


@given(
    x=st.floats(0, 60),
    y=st.floats(0, 20),
    degrees=st.floats(-45, 45),
    turns=st.integers(0, 3),
    mirrored=st.booleans(),
)
@settings(max_examples=40)
def test_targets_lie_on_tilted_roofs(
    image: LabelledImage, x: float, y: float, degrees: float, turns: int, mirrored: bool
) -> None:
    tilt, turn = Tilt(degrees), Orientation(turns, mirrored=mirrored)
    height, width = tilt.shape_under(90, 120)
    cut = Cut(image, Window(x, y, width, height), 90, 120, turn, tilt=tilt)
    sample = make_sample([cut], read_roofs, *((120, 90) if turns % 2 else (90, 120)))
    # A pixel is mixed from the four around it. Those that outweigh the others are never all
    # farther than 0.77 pixels: sqrt(1 - sqrt(2) + 1), where three tie with the nearest.
    assert farthest_error(sample, cut) <= 0.77 + cell_reach(sample)


def test_a_tilted_cut_is_without_data_where_it_leaves_the_raster(image: LabelledImage) -> None:
    tilt = Tilt(30)
    height, width = tilt.shape_under(100, 100)
    corner = Cut(image, Window(-width / 2, -height / 2, width, height), 100, 100, tilt=tilt)
    sample = make_sample([corner], READ, 100, 100)
    y, x = np.mgrid[0:100, 0:100] + 0.5
    on_raster = ~corner.to_chip
    inside = np.minimum(
        on_raster.a * x + on_raster.b * y + on_raster.c,
        on_raster.d * x + on_raster.e * y + on_raster.f,
    )
    assert sample.valid[inside > 1.5].all()
    assert not sample.valid[inside < -1.5].any()
    assert not sample.pixels[0][~sample.valid].any()


def test_masks_have_the_exact_area_and_keep_courtyards_open(image: LabelledImage) -> None:
    sample = make_sample([Cut(image, Window(0, 0, 300, 200), 200, 300)], READ, 200, 300)
    assert area_px(sample, 0) == pytest.approx(BARN.area, rel=1e-3)
    assert area_px(sample, 1) == pytest.approx(COURT.area, rel=1e-3)
    assert sample.masks[1, MASK_SIDE // 2, MASK_SIDE // 2] == 0
    np.testing.assert_allclose(sample.boxes, [BARN.bounds, COURT.bounds], atol=1e-3)
    assert sample.labelled.all()


def test_the_margin_is_one_empty_cell_around_the_box() -> None:
    boxes = np.array([[10.0, 20.0, 32.0, 75.0]])
    masks, mask_boxes = rasterize_targets(np.array([shapely.box(*boxes[0])]), boxes)
    assert (masks[0, 1:-1, 1:-1] == 255).all()
    border = np.ones((MASK_SIDE, MASK_SIDE), dtype=bool)
    border[1:-1, 1:-1] = False
    assert (masks[0][border] <= 1).all()
    cell = (mask_boxes[0, 2:] - mask_boxes[0, :2]) / MASK_SIDE
    np.testing.assert_allclose(mask_boxes[0, :2], boxes[0, :2] - cell, atol=1e-4)
    np.testing.assert_allclose(mask_boxes[0, 2:], boxes[0, 2:] + cell, atol=1e-4)


def test_a_building_is_clipped_at_the_chip(image: LabelledImage) -> None:
    sample = make_sample([Cut(image, Window(50, 0, 200, 200), 200, 200)], READ, 200, 200)
    seen = shapely.intersection(BARN, shapely.box(50, 0, 250, 200))
    assert sample.boxes[0, 0] == 0
    assert area_px(sample, 0) == pytest.approx(seen.area, rel=1e-3)


@pytest.mark.parametrize(
    ("left", "targets"),
    [
        pytest.param(86, 1, id="a sliver of a tenth is not labelled"),
        pytest.param(50, 2, id="a half is a target"),
    ],
)
def test_slivers_are_neither_target_nor_background(
    image: LabelledImage, left: float, targets: int
) -> None:
    sample = make_sample([Cut(image, Window(left, 0, 200, 200), 200, 200)], READ, 200, 200)
    assert len(sample.boxes) == len(sample.masks) == len(sample.labels) == targets
    sliver = shapely.intersection(BARN, shapely.box(left, 0, 300, 200)).bounds
    rows = slice(int(sliver[1]), int(np.ceil(sliver[3])))
    on_sliver = sample.labelled[rows, : int(np.ceil(sliver[2] - left))]
    assert on_sliver.all() if targets == 2 else not on_sliver.any()
    assert sample.labelled[:, 30:].all()


def test_a_building_of_two_pixels_is_not_labelled_ground(tmp_path: Path) -> None:
    hut = shapely.box(50, 50, 52, 70)
    tiny = read_training_scene(make_scene(tmp_path, [hut, BARN]))[0]
    sample = make_sample([Cut(tiny, Window(0, 0, 300, 200), 200, 300)], READ, 200, 300)
    assert len(sample.boxes) == 1
    assert not sample.labelled[50:70, 50:52].any()
    assert sample.labelled.sum() == 200 * 300 - 40


def test_a_building_that_is_left_out_is_neither_target_nor_background(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, [BARN, COURT])
    layer = gpd.read_file(scene.labels).assign(kind=["barn", "court"])
    layer.to_file(tmp_path / "kinds.gpkg")
    kinds = replace(
        scene,
        labels=tmp_path / "kinds.gpkg",
        class_column="kind",
        class_map={"barn": None, "court": "house"},
    )
    (image,) = read_training_scene(kinds, classes=("shed", "house"))
    assert not image.has_buildings(BARN)
    assert image.has_buildings(COURT)
    sample = make_sample([Cut(image, Window(0, 0, 192, 128), 128, 192)], READ, 128, 192)
    np.testing.assert_array_equal(sample.labels, [1])
    np.testing.assert_allclose(sample.boxes, [COURT.bounds], atol=1e-3)
    expected = np.ones((128, 192), dtype=bool)
    expected[40:95, 20:90] = False
    np.testing.assert_array_equal(sample.labelled, expected)


def test_ground_beyond_the_raster_has_neither_data_nor_labels(image: LabelledImage) -> None:
    sample = make_sample([Cut(image, Window(-50, -20, 200, 200), 200, 200)], READ, 200, 200)
    assert not sample.valid[:20].any()
    assert not sample.labelled[:, :50].any()
    assert (sample.pixels[:, :20] == 0).all()
    assert sample.valid[20:, 50:].all()


def test_buildings_without_data_are_no_targets(image: LabelledImage) -> None:
    valid = np.ones((200, 300), dtype=bool)
    valid[:, 100:] = False
    read = Painted(paint([BARN, COURT], 200, 300), valid)
    sample = make_sample([Cut(image, Window(0, 0, 300, 200), 200, 300)], read, 200, 300)
    np.testing.assert_allclose(sample.boxes, [BARN.bounds], atol=1e-3)
    assert (sample.pixels[:, ~valid] == 0).all()
    np.testing.assert_array_equal(sample.labelled, valid)


@pytest.mark.parametrize("turns", range(4))
def test_only_areas_of_interest_are_labelled(tmp_path: Path, turns: int) -> None:
    area = shapely.box(0, 0, 100, 200)
    partly = read_training_scene(make_scene(tmp_path, [BARN, COURT], aoi=area))[0]
    turn = Orientation(turns, mirrored=False)
    sides = (300, 200) if turns % 2 else (200, 300)
    cut = Cut(partly, Window(0, 0, 300, 200), 200, 300, turn)
    sample = make_sample([cut], READ, *sides)
    inside = np.zeros((200, 300), dtype=bool)
    inside[:, :100] = True
    np.testing.assert_array_equal(sample.labelled, turn.turn_pixels(inside))
    assert len(sample.boxes) == 1
    assert sample.valid.all()


def test_a_chip_outside_the_area_of_interest_is_all_unlabelled(tmp_path: Path) -> None:
    partly = read_training_scene(make_scene(tmp_path, [BARN], aoi=shapely.box(0, 0, 100, 200)))[0]
    sample = make_sample([Cut(partly, Window(150, 0, 100, 100), 100, 100)], READ, 100, 100)
    assert not sample.labelled.any()
    assert sample.masks.shape == (0, MASK_SIDE, MASK_SIDE)


def test_empty_ground_gives_empty_targets_of_the_right_shape(image: LabelledImage) -> None:
    sample = make_sample([Cut(image, Window(0, 120, 64, 64), 64, 64)], READ, 64, 64)
    assert sample.boxes.shape == sample.mask_boxes.shape == (0, 4)
    assert sample.masks.shape == (0, MASK_SIDE, MASK_SIDE)
    assert sample.labels.shape == (0,)
    assert (sample.pixels == GROUND).all()
    assert sample.labelled.all()


def test_cuts_side_by_side_do_not_leak_into_each_other(image: LabelledImage) -> None:
    left = Cut(image, Window(0, 20, 100, 100), 100, 100)
    right = Cut(image, Window(100, 20, 80, 80), 100, 100, x=100)
    sample = make_sample([left, right], READ, 100, 200)
    assert len(sample.boxes) == 2
    assert sample.boxes[0, 2] <= 100 <= sample.boxes[1, 0]
    alone = make_sample([left], READ, 100, 100)
    np.testing.assert_array_equal(sample.pixels[:, :, :100], alone.pixels)
    np.testing.assert_array_equal(sample.masks[:1], alone.masks)
    assert area_px(sample, 1) == pytest.approx(COURT.area * (100 / 80) ** 2, rel=1e-3)


def test_the_types_are_what_a_network_takes(image: LabelledImage) -> None:
    sample = make_sample([Cut(image, Window(0, 0, 300, 200), 200, 300)], READ, 200, 300)
    arrays = [name for name in Sample.__slots__ if name != "origin"]
    kinds = {name: getattr(sample, name).dtype.name for name in arrays}
    assert kinds == {
        "pixels": "float32",
        "valid": "bool",
        "labelled": "bool",
        "boxes": "float32",
        "labels": "int64",
        "masks": "uint8",
        "mask_boxes": "float32",
        "keypoints": "float32",
    }


@pytest.mark.parametrize(("turns", "mirrored"), [(0, False), (1, False), (2, True)])
def test_keypoints_are_the_corners_as_the_chip_shows_them(image, turns, mirrored):
    cut = Cut(image, Window(0, 0, 200, 200), 200, 200, Orientation(turns, mirrored=mirrored))
    sample = make_sample([cut], READ, 200, 200)
    for box, keypoints in zip(sample.boxes, sample.keypoints, strict=True):
        x_min, y_min, x_max, y_max = box
        corners = np.array([(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)])
        assert (keypoints[:, 2] == 1).all()
        # The barn leans by a sixth of its side at most; the courtyard is upright.
        off = np.abs(keypoints[:, :2] - corners).max(axis=1)
        assert (off <= max(x_max - x_min, y_max - y_min) / 4).all()
        assert len(np.unique(keypoints[:, :2], axis=0)) == 4


def test_a_corner_that_an_edge_cuts_off_is_not_visible(image):
    cut = Cut(image, Window(140, 0, 100, 100), 100, 100)
    (keypoints,) = make_sample([cut], READ, 100, 100).keypoints
    np.testing.assert_allclose(keypoints[[1, 2]], [[30, 30, 1], [30, 90, 1]], atol=1e-3)
    np.testing.assert_allclose(keypoints[[0, 3]], [[0, 30, 0], [0, 90, 0]], atol=1e-3)
