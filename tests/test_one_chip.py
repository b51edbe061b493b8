"""One chip of a scene: where it lies, and that a detector makes of it what `predict` does."""

import numpy as np
import pytest
from affine import Affine
from known_buildings import KnownBuildings
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import write_image

import footprints as fp
from footprints.errors import BandError, RasterError

PIXELS = np.random.default_rng(0).integers(40, 250, (1, HEIGHT, WIDTH)).astype(np.uint8)


@pytest.fixture
def scene(tmp_path):
    return write_image(tmp_path / "town.tif", PIXELS, transform=NORTH_UP, crs=UTM)


@pytest.fixture
def detector():
    return KnownBuildings(on_ground(TOWN))


def test_a_scene_smaller_than_a_chip_is_seen_whole(scene, detector):
    chip = fp.chip_at(scene, detector=detector)
    assert chip.valid.sum() == HEIGHT * WIDTH
    assert np.array_equal(chip.pixels[:, :HEIGHT, :WIDTH], PIXELS)
    (instances,) = detector([chip])
    assert len(instances) == len(fp.predict(scene, detector=detector, progress=False))


@pytest.mark.parametrize(
    ("place", "corner"), [(None, (394, 394)), ((700, 300), (444, 44)), ((5, 1290), (0, 788))]
)
def test_the_place_is_in_the_middle_unless_the_scene_ends(tmp_path, detector, place, corner):
    pixels = np.random.default_rng(1).integers(40, 250, (1, 1300, 1300)).astype(np.uint8)
    path = write_image(tmp_path / "large.tif", pixels, transform=NORTH_UP, crs=UTM)
    on_map = None if place is None else NORTH_UP @ place
    chip = fp.chip_at(path, on_map, detector=detector)
    x, y = corner
    assert np.array_equal(chip.pixels, pixels[:, y : y + 512, x : x + 512])
    assert chip.transform == NORTH_UP @ Affine.translation(x, y)


def test_a_place_beside_the_scene_and_bands_that_are_missing_are_errors(scene):
    with pytest.raises(RasterError, match=r"beside town\.tif; footprints info says where it lies"):
        fp.chip_at(scene, (0, 0), detector=KnownBuildings(on_ground(TOWN)))
    with pytest.raises(BandError, match="--bands 1,1,1"):
        fp.chip_at(scene, detector=fp.load_detector(device="cpu"))
