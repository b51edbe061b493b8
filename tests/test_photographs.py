"""Ordinary photographs: seen whole, in pixel coordinates, their objects kept where they overlap."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from known_buildings import KnownBuildings
from matplotlib.image import imread
from PIL import Image
from shapely import Polygon, box
from shapely.affinity import rotate
from tiny_network import tiny_config, tiny_network
from typer.testing import CliRunner, Result

import footprints as fp
from footprints.chip import Chip, InputSpec, Instances, MaskGroup, Scaling
from footprints.cli import app
from footprints.errors import BandError, ChipSizeError, OrientationWarning
from footprints.model.checkpoint import WeightsInfo, save_weights
from footprints.vector.layer import check_layer
from footprints.vector.read import read_layer

WIDTH, HEIGHT = 300, 200
SPEC = InputSpec(
    bands=3, gsd_m=None, scaling=Scaling((0.0,) * 3, (1.0,) * 3), multiple=32, short_side=320
)
BUS = rotate(box(30, 40, 230, 150), 5)
PERSON = box(60, 90, 95, 190)
LAMP = box(150, 60, 163, 72)
"""Inside the bus."""
DOG = rotate(box(240, 120, 280, 150), -15)
OBJECTS, KINDS = [BUS, PERSON, LAMP, DOG], ["bus", "person", "lamp", "dog"]


@dataclass(frozen=True, eq=False)
class KnownObjects:
    """Known buildings of each class, together; keeps the chips it is shown."""

    objects: Sequence[Polygon]
    kinds: Sequence[str]
    input_spec: InputSpec = SPEC
    shown: list[Chip] = field(default_factory=list)
    name: str = "known-objects"
    digest: str = "known"
    classes: tuple[str, ...] = ("person", "bus", "dog", "lamp")
    keypoints: tuple[str, ...] = ()
    confidence: float = 0.5

    def __call__(self, chips: Sequence[Chip]) -> list[Instances]:
        self.shown.extend(chips)
        return [self._detect(chip) for chip in chips]

    def _detect(self, chip: Chip) -> Instances:
        found = []
        for thing, kind in zip(self.objects, self.kinds, strict=True):
            (one,) = KnownBuildings([thing], input_spec=self.input_spec)([chip])
            found.append(replace(one, labels=np.full(len(one), self.classes.index(kind))))
        first = np.cumsum([0, *map(len, found)])
        return Instances(
            *(
                np.concatenate([getattr(one, name) for one in found])
                for name in ("boxes", "scores", "labels", "mask_boxes")
            ),
            masks=tuple(
                MaskGroup(group.members + start, group.logits)
                for one, start in zip(found, first, strict=False)
                for group in one.masks
            ),
        )


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """Save a photograph; its pixels are noise without black."""

    def save(
        name: str = "photo.jpg", mode: str = "RGB", pixels: np.ndarray | None = None, **options
    ) -> Path:
        bands = len(Image.new(mode, (1, 1)).getbands())
        if pixels is None:
            pixels = np.random.default_rng(0).integers(40, 250, (HEIGHT, WIDTH, bands))
        Image.fromarray(pixels.astype(np.uint8).squeeze(), mode).save(tmp_path / name, **options)
        return tmp_path / name

    return save


def predict(path: Path, detector: KnownObjects, **options):
    return fp.predict(path, detector=detector, pixels=True, progress=False, **options)


def in_order_of(layer, kinds: Sequence[str] = KINDS) -> np.ndarray:
    """(n,) the one polygon of each class."""
    assert sorted(layer["class"]) == sorted(kinds)
    return layer.set_index("class").geometry.loc[list(kinds)].to_numpy()


def farthest(found: np.ndarray, truth: Sequence[Polygon]) -> float:
    return float(shapely.hausdorff_distance(found, np.array(truth, dtype=object)).max())


# Size.


@pytest.mark.parametrize(
    ("sides", "shown"),
    [
        pytest.param({"short_side": 320}, (320, 480), id="enlarged"),
        pytest.param({"short_side": 320, "long_side": 400}, (267, 400), id="as far as it may"),
        pytest.param({"short_side": 160, "long_side": 400}, (160, 240), id="shrunk"),
        pytest.param({"short_side": 200}, (200, 300), id="as it is"),
    ],
)
def test_a_picture_is_seen_whole_and_outlined_in_its_own_pixels(photo, sides, shown):
    detector = KnownObjects(OBJECTS, KINDS, replace(SPEC, **sides, chip_size=64))
    layer = predict(photo(), detector)
    (chip,) = detector.shown
    height, width = shown
    assert chip.pixels.shape == (3, -(-height // 32) * 32, -(-width // 32) * 32)
    assert chip.valid[:height, :width].all()
    assert chip.valid.sum() == height * width
    check_layer(layer)
    assert layer.crs is None
    assert farthest(in_order_of(layer), OBJECTS) <= 0.5
    areas = layer.set_index("class")["area_m2"].loc[KINDS]
    assert areas.to_numpy() == pytest.approx([thing.area for thing in OBJECTS], rel=0.05)


def test_what_a_picture_shows_is_resized(photo):
    ramp = np.broadcast_to(np.linspace(50, 250, WIDTH)[None, :, None], (HEIGHT, WIDTH, 3))
    detector = KnownObjects(OBJECTS, KINDS)
    predict(photo("ramp.png", pixels=ramp), detector)
    (chip,) = detector.shown
    row = chip.pixels[0, 100, :480].astype(float)
    assert row == pytest.approx(np.linspace(50, 250, 480), abs=1.5)


def test_a_chip_size_cuts_a_picture_at_its_own_pixels(photo):
    detector = KnownObjects(OBJECTS, KINDS)
    layer = predict(photo(), detector, chip_size=128, overlap=32)
    # Three columns and two rows, and one chip from farther away.
    assert len(detector.shown) == 3 * 2 + 1
    assert {chip.transform.a for chip in detector.shown[:-1]} == {1.0}
    assert farthest(in_order_of(layer), OBJECTS) <= 0.75


def test_an_overlap_alone_has_no_meaning(photo):
    detector = KnownObjects(OBJECTS, KINDS)
    with pytest.raises(ChipSizeError, match=r"overlap 32 .* --chip-size, or leave out --overlap"):
        predict(photo(), detector, overlap=32)
    assert not detector.shown


def test_outlines_end_with_the_picture(photo):
    thing = box(250, 150, 340, 240)
    # At 200 x 300 px the chip is 224 x 320; the detector fills its padding.
    detector = KnownObjects([thing], ["bus"], replace(SPEC, short_side=200))

    class Overflowing(KnownObjects):
        def __call__(self, chips):
            whole = [replace(chip, valid=np.ones_like(chip.valid)) for chip in chips]
            return super().__call__(whole)

    layer = predict(photo(), Overflowing(detector.objects, detector.kinds, detector.input_spec))
    assert farthest(layer.geometry.to_numpy(), [box(250, 150, WIDTH, HEIGHT)]) <= 0.5
    assert layer.total_bounds[2:].tolist() == [WIDTH, HEIGHT]
    assert layer["cut"].all()


# Overlaps.


def test_objects_of_a_photograph_overlap_unless_they_must_not(photo):
    path, detector = photo(), KnownObjects(OBJECTS, KINDS)
    kept = predict(path, detector)
    assert farthest(in_order_of(kept), OBJECTS) <= 0.5
    assert kept.equals(predict(path, detector, overlaps=True))
    apart = predict(path, detector, overlaps=False)
    assert shapely.union_all(apart.geometry).area == pytest.approx(apart.geometry.area.sum())
    assert "lamp" not in set(apart["class"])


def test_weights_of_the_ground_keep_overlaps_if_asked(photo):
    detector = KnownObjects(OBJECTS, KINDS, replace(SPEC, short_side=None))
    assert len(predict(photo(), detector)) < len(OBJECTS)
    assert farthest(in_order_of(predict(photo(), detector, overlaps=True)), OBJECTS) <= 0.5


def test_objects_of_one_class_overlap_too(photo):
    people = [box(40, 60, 100, 180), box(80, 70, 140, 190), box(85, 100, 99, 125)]
    layer = predict(photo(), KnownObjects(people, ["person"] * 3))
    found = layer.geometry.to_numpy()
    assert len(layer) == 3
    for person in people:
        assert shapely.hausdorff_distance(found, person).min() <= 0.5


# Files.


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param("photo.jpg", "RGB", id="JPEG"),
        pytest.param("photo.png", "RGB", id="PNG"),
        pytest.param("photo.webp", "RGB", id="WebP"),
        pytest.param("photo.png", "RGBA", id="PNG with alpha"),
        pytest.param("photo.jpg", "CMYK", id="JPEG of a printer"),
    ],
)
def test_photographs_of_every_kind_are_read(photo, name, mode):
    path = photo(name, mode)
    layer = predict(path, KnownObjects(OBJECTS, KINDS))
    assert farthest(in_order_of(layer), OBJECTS) <= 0.5
    fp.save_overlay(layer, path, path.with_suffix(".overlay.png"), pixels=True)
    assert imread(path.with_suffix(".overlay.png")).shape[:2] == (HEIGHT, WIDTH)


def test_a_grey_photograph_needs_a_word_on_its_bands(photo):
    path, detector = photo("grey.jpg", "L"), KnownObjects(OBJECTS, KINDS)
    with pytest.raises(BandError, match=r"takes 3 bands, .*grey\.jpg has 1 .* --bands 1,1,1"):
        predict(path, detector)
    assert len(predict(path, detector, bands=[1, 1, 1])) == len(OBJECTS)


def test_the_dark_is_no_collar(photo):
    night = np.full((HEIGHT, WIDTH, 3), 120)
    night[:, :180] = 0
    path, detector = photo("night.png", pixels=night), KnownObjects(OBJECTS, KINDS)
    assert farthest(in_order_of(predict(path, detector)), OBJECTS) <= 0.5
    (chip,) = detector.shown
    assert chip.valid[:320, :480].all()
    ground = KnownObjects(OBJECTS, KINDS, replace(SPEC, short_side=None))
    predict(path, ground)
    assert not ground.shown[0].valid[:, :170].any()


@pytest.mark.parametrize("orientation", [0, 1, 3, 6])
def test_a_turned_photograph_is_read_as_stored_and_that_is_said(photo, recwarn, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    layer = predict(photo(exif=exif), KnownObjects(OBJECTS, KINDS))
    assert farthest(in_order_of(layer), OBJECTS) <= 0.5
    said = [str(w.message) for w in recwarn if w.category is OrientationWarning]
    assert len(said) == (orientation > 1)
    assert all("photo.jpg" in words and "as stored" in words for words in said)


# From the command line, with a network.


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny network that has learned nothing of three classes."""
    path = tmp_path_factory.mktemp("weights") / "coco.safetensors"
    config = tiny_config(
        classes=("person", "traffic light", "dog"), detection={"max_per_chip": 200}
    )
    network = tiny_network(config)
    with torch.no_grad():
        # Masks that fill their boxes, so that something is left to trace.
        network.mask_head.coarse_head.prediction.bias.fill_(9)
        network.mask_head.point_head.predictor.bias.fill_(9)
    scaling = Scaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    spec = replace(SPEC, scaling=scaling, short_side=128, long_side=180)
    save_weights(path, network, WeightsInfo("tiny-coco", config, spec, confidence=0.05))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_photograph_becomes_named_polygons_and_a_picture(photo, weights, tmp_path):
    path, out, picture = photo(), tmp_path / "out.geojson", tmp_path / "out.png"
    result = run(
        *("predict", path, "--pixels", "--weights", weights, "-o", out, "--overlay", picture),
        *("--device", "cpu", "-q"),
    )
    assert result.exit_code == 0, result.stderr
    collection = json.loads(out.read_text())
    assert collection["crs"] is None
    names = {feature["properties"]["class"] for feature in collection["features"]}
    assert names <= {"person", "traffic light", "dog"}
    assert len(names) > 1
    layer = read_layer(out, needs_crs=False)
    assert layer.crs is None
    assert shapely.box(0, 0, WIDTH, HEIGHT).covers(layer.geometry.to_numpy()).all()
    assert layer.geometry.area.to_numpy() == pytest.approx(layer["area_m2"], abs=0.01)
    again = tmp_path / "again.png"
    fp.save_overlay(layer, path, again, pixels=True, names=True)
    assert (imread(again) == imread(picture)).all()


def test_one_find_is_named_in_the_picture_too(photo, weights, tmp_path):
    path, out = photo(), tmp_path / "out.gpkg"
    common = ("predict", path, "--pixels", "--weights", weights, "--device", "cpu", "-o", out)
    layer = fp.predict(path, weights=weights, pixels=True, device="cpu", progress=False)
    best = layer["confidence"].nlargest(2).to_numpy()
    assert best[0] > best[1]
    result = run(
        *(*common, "--confidence", best.mean(), "--overlay", tmp_path / "one.png"),
        *("--overwrite",),
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("1 objects, ")
    assert " px2, " in result.stdout
    one = read_layer(out, needs_crs=False)
    fp.save_overlay(one, path, tmp_path / "plain.png", pixels=True)
    assert (imread(tmp_path / "one.png") != imread(tmp_path / "plain.png")).any()


def test_layers_of_photographs_are_evaluated(photo, weights, tmp_path):
    path = photo()
    for name in ("a.geojson", "b.gpkg"):
        common = ("predict", path, "--pixels", "--weights", weights, "--device", "cpu", "-q")
        assert run(*common, "-o", tmp_path / name).exit_code == 0
    report = fp.evaluate(tmp_path / "a.geojson", tmp_path / "b.gpkg", iou=0.95)
    assert (report.f1, report.fp, report.fn) == (1, 0, 0)
    assert report.matched_iou > 0.999


def test_no_overlaps_is_heard(photo, weights, tmp_path):
    common = ("predict", photo(), "--pixels", "--weights", weights, "--device", "cpu", "-q")
    shared = {}
    for option in ("--overlaps", "--no-overlaps"):
        out = tmp_path / f"{option[2:]}.gpkg"
        result = run(*common, option, "-o", out)
        assert result.exit_code == 0, result.stderr
        polygons = read_layer(out, needs_crs=False).geometry
        shared[option] = polygons.area.sum() - shapely.union_all(polygons).area
    assert shared["--no-overlaps"] == pytest.approx(0, abs=1e-6)
    assert shared["--overlaps"] > 100


def test_info_says_how_pictures_are_seen(photo, weights):
    result = run("info", weights)
    assert "person, traffic light, dog" in result.stdout
    assert "shorter side resized to 128 px, the longer one to at most 180 px" in result.stdout
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = run("info", photo(exif=exif))
    assert shown.exit_code == 0, shown.stderr
    assert "300 x 200 px, 3 bands, uint8, stored turned" in shown.stdout
    assert "--pixels" in shown.stdout
