"""Test-time augmentation around detectors whose answer is known."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from known_buildings import KnownBuildings, best_ious
from known_town import NORTH_UP, TOWN, on_ground
from labelled_scenes import write_image
from tiny_network import tiny_config, tiny_network

import footprints as fp
from footprints.chip import Chip, InputSpec, Instances, MaskGroup, Scaling, Window
from footprints.config import CORNERS
from footprints.data.augment import Orientation
from footprints.errors import ConfigError
from footprints.model.checkpoint import WeightsInfo, save_weights
from footprints.tta import VIEWS, AugmentedDetector, merge_views
from footprints.vector.scenes import scenes_of
from footprints.vector.trace import trace

SHAPE = (96, 128)


def make_chip(pixels: np.ndarray | None = None) -> Chip:
    if pixels is None:
        pixels = np.random.default_rng(0).integers(1, 255, (1, *SHAPE)).astype(np.uint8)
    valid = np.ones(pixels.shape[1:], dtype=bool)
    window = Window(0, 0, pixels.shape[2], pixels.shape[1])
    return Chip(pixels, valid, Scaling((0.0,), (1.0,)), window, NORTH_UP, None, "chip")


SHED = shapely.Polygon([(20, 20), (60, 20), (60, 40), (40, 40), (40, 70), (20, 70)])
BARN = shapely.affinity.rotate(shapely.box(75, 30, 115, 60), 20)


@pytest.mark.parametrize("views", sorted(VIEWS))
def test_a_perfect_detector_stays_perfect(views):
    truth = [SHED, BARN]
    detector = AugmentedDetector(KnownBuildings(on_ground(truth)), views)
    (plain,) = KnownBuildings(on_ground(truth))([make_chip()])
    (found,) = detector([make_chip()])
    assert len(found) == 2
    assert best_ious(trace(found), truth).min() > 0.97
    order = np.argsort(-plain.scores)
    np.testing.assert_allclose(found.scores, plain.scores[order], rtol=1e-5)
    # Boxes of the known buildings are jittered, in every view otherwise.
    np.testing.assert_allclose(found.boxes, plain.boxes[order], atol=4)


@dataclass
class Brightest:
    """Finds the one bright rectangle of a chip, by its pixels alone."""

    name: str = "brightest"
    keypoints: tuple[str, ...] = ()
    classes: tuple[str, ...] = ("building",)
    confidence: float = 0.5
    input_spec: InputSpec = field(
        default_factory=lambda: InputSpec(1, None, Scaling((0.0,), (1.0,)), multiple=32)
    )

    def __call__(self, chips):
        return [self.find(chip) for chip in chips]

    def find(self, chip: Chip) -> Instances:
        assert all(side % 32 == 0 for side in chip.valid.shape)
        rows, columns = np.nonzero(chip.pixels[0] > 125)
        box = np.float32([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
        mask = np.full((1, 28, 28), 127, np.int8)
        groups = (MaskGroup(np.array([0]), mask),)
        return Instances(box, np.float32([0.8]), np.array([0]), box, groups)


@pytest.mark.parametrize("views", sorted(VIEWS))
@given(x=st.integers(0, 90), y=st.integers(0, 60))
def test_pixels_and_boxes_are_turned_alike(views, x, y):
    pixels = np.zeros((1, *SHAPE), np.uint8)
    pixels[:, y : y + 30, x : x + 35] = 250
    (found,) = AugmentedDetector(Brightest(), views)([make_chip(pixels)])
    np.testing.assert_allclose(found.boxes, [[x, y, x + 35, y + 30]], atol=0.5)
    assert found.scores.tolist() == pytest.approx([0.8])


def instances(box: tuple[float, ...], score: float, *, label: int = 0) -> Instances:
    frame = np.float32([box])
    mask = MaskGroup(np.array([0]), np.full((1, 28, 28), 40, np.int8))
    return Instances(frame, np.float32([score]), np.array([label]), frame, (mask,))


NOTHING = Instances(
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.float32),
    np.zeros(0, np.int64),
    np.zeros((0, 4), np.float32),
    (),
)


def test_confidence_is_the_mean_over_the_views_with_nothing_where_it_was_not_seen():
    merged = merge_views([instances((10, 10, 40, 40), 0.9), NOTHING, NOTHING], SHAPE)
    assert merged.scores.tolist() == pytest.approx([0.3])
    both = [instances((10, 10, 40, 40), 0.9), instances((12, 10, 42, 40), 0.6), NOTHING]
    merged = merge_views(both, SHAPE)
    assert merged.scores.tolist() == pytest.approx([0.5])
    np.testing.assert_allclose(merged.boxes, [[10.8, 10, 40.8, 40]], atol=1e-5)


def test_other_buildings_and_other_classes_stay_apart():
    apart = [instances((10, 10, 40, 40), 0.9), instances((35, 10, 65, 40), 0.6)]
    assert len(merge_views(apart, SHAPE)) == 2
    named = [instances((10, 10, 40, 40), 0.9), instances((10, 10, 40, 40), 0.8, label=1)]
    assert merge_views(named, SHAPE).labels.tolist() == [0, 1]


def test_a_mask_is_the_mean_of_those_of_the_views():
    whole = instances((10, 10, 38, 38), 0.9)
    left = np.full((1, 28, 28), 40, np.int8)
    left[..., 20:] = -40
    half = replace(whole, scores=np.float32([0.8]), masks=(MaskGroup(np.array([0]), left),))
    merged = merge_views([whole, half, half], SHAPE)
    (outline,) = trace(merged)
    assert outline.area == pytest.approx(20 * 28, rel=0.03), "two of three have no right end"
    merged = merge_views([whole, whole, half], SHAPE)
    assert trace(merged)[0].area == pytest.approx(28 * 28, rel=0.03)


def test_nothing_in_any_view_is_nothing():
    assert len(merge_views([NOTHING, NOTHING], SHAPE)) == 0


def test_a_layer_is_the_same_and_its_record_says_how_it_was_made(tmp_path):
    pixels = np.random.default_rng(0).integers(40, 250, (1, 270, 280)).astype(np.uint8)
    scene = write_image(tmp_path / "town.tif", pixels, transform=NORTH_UP, crs="EPSG:32645")
    options = {"detector": KnownBuildings(on_ground(TOWN)), "chip_size": 128, "progress": False}
    plain = fp.predict(scene, **options)
    layer = fp.predict(scene, tta="flips", **options)
    assert len(layer) == len(plain) == len(TOWN)
    assert best_ious(layer.geometry.to_numpy(), on_ground(TOWN)).min() > 0.9
    (record,) = scenes_of(layer)
    assert record.parameters["tta"] == "flips"
    (record,) = scenes_of(plain)
    assert record.parameters["tta"] is None


def test_the_network_can_be_wrapped(tmp_path):
    spec = InputSpec(bands=3, gsd_m=0.3, scaling=Scaling((100.0,) * 3, (50.0,) * 3), multiple=32)
    model = tiny_config(detection={"max_per_chip": 500})
    path = tmp_path / "tiny.safetensors"
    save_weights(path, tiny_network(model), WeightsInfo("tiny", model, spec, confidence=0.2))
    detector = AugmentedDetector(fp.load_detector(path, device="cpu"), "all")
    assert (detector.name, detector.classes, detector.confidence) == ("tiny", ("building",), 0.2)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8)
    chip = replace(make_chip(pixels), scaling=spec.scaling)
    found = detector([chip, chip])
    np.testing.assert_array_equal(found[0].boxes, found[1].boxes)
    assert len(found[0])
    assert (found[0].boxes >= 0).all()
    assert (found[0].boxes <= 64).all()


def test_what_cannot_be_augmented_is_refused():
    with pytest.raises(ConfigError, match="tta must be one of flips, all, got 'turns'"):
        AugmentedDetector(Brightest(), "turns")
    with pytest.raises(ConfigError, match="finds keypoints that have a side"):
        AugmentedDetector(Brightest(keypoints=CORNERS), "flips")


def test_views_are_all_symmetries_and_two_sizes():
    turned = {view.orientation for view in VIEWS["all"] if view.scale == 1}
    assert turned == {Orientation(t, m) for t in range(4) for m in (False, True)}
    assert sorted(view.scale for view in VIEWS["all"] if view.scale != 1) == [0.8, 1.25]
    first = {orientation.affine(1, 1) for orientation in (v.orientation for v in VIEWS["flips"])}
    assert first == {Affine.identity(), Affine(-1, 0, 1, 0, 1, 0), Affine(1, 0, 0, 0, -1, 1)}
