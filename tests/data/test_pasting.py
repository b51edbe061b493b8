"""Pasted buildings bring their targets, and what they hide is no longer shown by any mask."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from labelled_scenes import GROUND, ROOF, make_scene
from test_dataset import PLAIN, chips, houses, same, whole
from test_targets import area_px

from footprints.chip import Window
from footprints.data.augment import Orientation, Tilt
from footprints.data.dataset import ImageReader
from footprints.data.labels import LEFT_OUT, LabelledImage, read_training_scene
from footprints.data.pasting import MOST_PASTED, paste
from footprints.data.targets import Cut, Layout, finish_sample, lay_out

SIDE = 128
HOST = [shapely.box(20, 20, 60, 50), shapely.box(80, 80, 110, 100), shapely.box(5, 100, 25, 120)]
COVER = shapely.box(40, 10, 90, 40)


def layout(folder: Path, buildings: list[shapely.Polygon], **options: object) -> Layout:
    scene = make_scene(folder, buildings, height=SIDE, width=SIDE, **options)
    cut = Cut(read_training_scene(scene)[0], Window(0, 0, SIDE, SIDE), SIDE, SIDE)
    return lay_out([cut], ImageReader(), SIDE, SIDE)


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Layout:
    return layout(tmp_path_factory.mktemp("host"), HOST)


@pytest.fixture(scope="module")
def donor(tmp_path_factory) -> Layout:
    return layout(tmp_path_factory.mktemp("donor"), [COVER])


def test_masks_of_what_is_hidden_lose_what_is_pasted_over_them(host, donor):
    sample = finish_sample(paste(host, donor, np.random.default_rng(0)))
    hidden = HOST[0].difference(COVER)
    expected = {tuple(shape.bounds): shape.area for shape in (hidden, *HOST[1:], COVER)}
    assert {tuple(box) for box in sample.boxes} == set(expected)
    for number, box in enumerate(sample.boxes):
        assert area_px(sample, number) == pytest.approx(expected[tuple(box)], rel=0.002)


def test_pixels_are_the_donors_under_what_is_pasted_and_the_hosts_elsewhere(host, donor):
    pasted = paste(host, donor._replace(pixels=donor.pixels + 7), np.random.default_rng(0))
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[10:40, 40:90] = True
    np.testing.assert_allclose(pasted.pixels[:, inside], ROOF + 7)
    np.testing.assert_array_equal(pasted.pixels[:, ~inside], host.pixels[:, ~inside])


def test_edges_between_pixels_are_mixed_by_their_area(host, tmp_path):
    donor = layout(tmp_path, [shapely.box(40.25, 10, 90, 40)])
    donor = donor._replace(pixels=np.full_like(donor.pixels, ROOF))
    pasted = paste(host, donor, np.random.default_rng(0))
    np.testing.assert_allclose(pasted.pixels[:, 12, 40], 0.25 * GROUND + 0.75 * ROOF, rtol=1e-3)


def test_a_corner_that_only_hiding_makes_is_none_of_the_building(host, donor):
    sample = finish_sample(paste(host, donor, np.random.default_rng(0)))
    number = [tuple(box) for box in sample.boxes].index(tuple(HOST[0].difference(COVER).bounds))
    # Upper left, lower right and lower left are its own; the upper right one is where it is cut.
    assert sample.keypoints[number, :, 2].tolist() == [1, 0, 1, 1]


def test_what_is_quite_hidden_is_gone_and_a_rest_is_no_background(host, tmp_path):
    donor = layout(tmp_path, [shapely.box(18, 18, 59, 52), shapely.box(78, 78, 112, 102)])
    sample = finish_sample(paste(host, donor, FixedDraws(2)))
    assert len(sample.boxes) == 3
    # A column of pixels of the first host building is left: too little to learn from.
    assert not sample.labelled[20:50, 59].any()
    assert sample.labelled[60:75, 60:75].all()


class FixedDraws:
    """Draws a number of buildings, in order."""

    def __init__(self, count: int) -> None:
        self.count = count

    def integers(self, low: int, high: int) -> int:
        assert (low, high) == (1, MOST_PASTED + 1)
        return self.count

    def permutation(self, rows: np.ndarray) -> np.ndarray:
        return rows


def test_only_buildings_seen_whole_on_ground_with_data_are_pasted(host, tmp_path):
    at_edge = layout(tmp_path / "edge", [shapely.box(-20, 10, 20, 40)])
    assert paste(host, at_edge, np.random.default_rng(0)) is host
    donor = layout(tmp_path / "inside", [COVER])
    left_out = donor.visible._replace(labels=np.array([LEFT_OUT]))
    assert paste(host, donor._replace(visible=left_out), np.random.default_rng(0)) is host
    hole = host.valid.copy()
    hole[30, 60] = False
    holed = host._replace(valid=hole)
    assert paste(holed, donor, np.random.default_rng(0)) is holed


def test_no_more_than_a_few_are_pasted(tmp_path):
    many = [shapely.box(x, y, x + 8, y + 8) for x in range(5, 120, 12) for y in range(5, 120, 12)]
    empty, donor = layout(tmp_path / "e", [HOST[2]]), layout(tmp_path / "d", many)
    counts = {
        len(paste(empty, donor, np.random.default_rng(seed)).visible.parts) for seed in range(40)
    }
    # One more or less: the host's own may be hidden.
    assert MOST_PASTED <= max(counts) <= MOST_PASTED + 1
    assert min(counts) <= 2


def test_training_chips_are_pasted_by_the_seed_alone(tmp_path):
    image = read_training_scene(make_scene(tmp_path, houses(40, 400), height=400, width=400))[0]
    pasted = PLAIN.__class__(**{f: getattr(PLAIN, f) for f in PLAIN.__slots__} | {"pasted": 1.0})
    data = chips(whole(image), augmentation=pasted, chip_size=96)
    assert same(data[2], data[2])
    plain = chips(whole(image), augmentation=PLAIN, chip_size=96)
    assert sum(len(data[n].boxes) for n in range(10)) > sum(len(plain[n].boxes) for n in range(10))
    assert "with buildings of" in data[2].origin


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_tilt_by_quarters_is_a_quarter_turn(tmp_path, quarters):
    image = turned_image(tmp_path)
    window = Window(10, 6, 96, 96)
    # Orientations turn counter-clockwise, tilts clockwise.
    cuts = (
        Cut(image, window, 96, 96, tilt=Tilt(90.0 * quarters)),
        Cut(image, window, 96, 96, Orientation(-quarters % 4, mirrored=False)),
    )
    tilted, turned = (finish_sample(lay_out([c], ImageReader(), 96, 96)) for c in cuts)
    np.testing.assert_allclose(tilted.boxes, turned.boxes, atol=1e-3)
    np.testing.assert_allclose(tilted.masks.astype(float), turned.masks.astype(float), atol=2)
    np.testing.assert_allclose(tilted.pixels, turned.pixels, atol=0.1)


def turned_image(folder: Path) -> LabelledImage:
    barn = shapely.Polygon([(30, 40), (90, 55), (80, 95), (20, 80)])
    return read_training_scene(make_scene(folder, [barn], height=SIDE, width=SIDE))[0]
