"""Chips at the detector's ground resolution."""

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from footprints.chip import ChipGrid, Scaling, Window
from footprints.errors import RasterError
from footprints.raster import SceneGrid, open_scene, read_chip, resample_scene
from footprints.raster.reader import resize_picture

SCALING = Scaling((127.0,) * 3, (128.0,) * 3)


def stitch(grid, chip_size, overlap):
    """Read the whole grid chip by chip; fails where chips differ on what they share."""
    sheet = np.full((3, grid.height, grid.width), -1, dtype=int)
    for window in ChipGrid(grid.height, grid.width, chip_size, overlap):
        chip = read_chip(grid, window, SCALING)
        x, y = int(window.x), int(window.y)
        part = sheet[:, y : y + chip.pixels.shape[1], x : x + chip.pixels.shape[2]]
        shown = chip.pixels[:, : part.shape[1], : part.shape[2]].astype(int)
        np.testing.assert_array_equal(part[part >= 0], shown[part >= 0])
        part[:] = shown
    return sheet


@pytest.mark.parametrize("gsd_m", [0.287, 0.3, 0.314, None])
def test_a_scene_within_five_percent_is_read_as_stored(write_scene, noise, gsd_m):
    pixels = noise(3, 90, 120)
    with open_scene(write_scene(pixels)) as scene:
        grid = resample_scene(scene, gsd_m)
        assert (grid.width, grid.height, grid.factor) == (120, 90, (1, 1))
        np.testing.assert_array_equal(stitch(grid, 32, 7), pixels)


@pytest.mark.parametrize("gsd_m", [0.11, 0.4, 0.93, 2.0])
@pytest.mark.parametrize(("chip_size", "overlap"), [(32, 7), (50, 41), (64, 0)])
def test_neighbouring_chips_agree_to_the_grey_level(write_scene, noise, gsd_m, chip_size, overlap):
    if overlap > 40 and gsd_m < 0.2:
        overlap = 30
    with open_scene(write_scene(noise(3, 90, 120), overviews=[2, 4])) as scene:
        grid = resample_scene(scene, gsd_m)
        by_chip = stitch(grid, chip_size, overlap)
        at_once = stitch(grid, max(grid.width, grid.height), 0)
    np.testing.assert_array_equal(by_chip, at_once)


def test_the_grid_covers_the_raster_exactly_with_one_factor_per_axis(write_scene, noise):
    transform = Affine(0.3, 0, 5e5, 0, -0.5, 3e6)
    with open_scene(write_scene(noise(3, 90, 121), transform=transform)) as scene:
        grid = resample_scene(scene, 1.0)
        assert (grid.width, grid.height) == (36, 45)
        assert grid.factor == (121 / 36, 2.0)
        far_corner = scene.transform @ (121, 90)
        assert grid.transform @ (36, 45) == pytest.approx(far_corner)


def test_pixel_coordinates_are_read_as_stored(write_scene, noise):
    with open_scene(write_scene(noise(3, 90, 120)), pixels=True) as scene:
        assert resample_scene(scene, 5.0).factor == (1, 1)


def test_a_scene_smaller_than_a_wanted_pixel_keeps_one(write_scene, noise):
    with open_scene(write_scene(noise(3, 2, 3))) as scene:
        grid = resample_scene(scene, 10.0)
        assert (grid.width, grid.height) == (1, 1)


def test_a_scene_too_coarse_for_the_detector_is_refused(write_scene, noise):
    path = write_scene(noise(3, 90, 120), transform=Affine(10, 0, 5e5, 0, -10, 3e6))
    with open_scene(path) as scene, pytest.raises(RasterError, match=r"10 m .* 0.3 m .*--crs"):
        resample_scene(scene, 0.3)


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(Affine(0.15, 0, 5e5, 0, -0.15, 3e6), id="north-up"),
        pytest.param(Affine(0.15, 0, 5e5, 0, 0.15, 3e6), id="south-up"),
        pytest.param(
            Affine.translation(5e5, 3e6) @ Affine.rotation(40) @ Affine.scale(0.15, -0.15),
            id="rotated",
        ),
    ],
)
def test_a_chip_knows_its_place(write_scene, noise, transform):
    with open_scene(write_scene(noise(3, 200, 200), transform=transform)) as scene:
        grid = resample_scene(scene, 0.3)
        chip = read_chip(grid, Window(30, 20, 64, 32), SCALING)
    assert grid.factor == (2, 2)
    assert chip.window == Window(60, 40, 128, 64)
    assert chip.pixels.shape == (3, 32, 64)
    assert chip.valid.shape == (32, 64)
    for x, y in ((0, 0), (64, 32), (10.5, 3)):
        assert chip.transform @ (x, y) == pytest.approx(transform @ (60 + 2 * x, 40 + 2 * y))
    assert (chip.crs, chip.source, chip.scaling) == (CRS("EPSG:32645"), "scene.tif", SCALING)


def test_a_mark_lands_where_its_chip_says(write_scene):
    pixels = np.full((3, 240, 240), 50, dtype="uint8")
    pixels[:, 120:126, 60:66] = 250
    with open_scene(write_scene(pixels, transform=Affine(0.1, 0, 5e5, 0, -0.1, 3e6))) as scene:
        grid = resample_scene(scene, 0.25)
        chip = read_chip(grid, Window(7, 31, 64, 64), SCALING)
    weight = chip.pixels[0].astype(float) - 50
    weight[~chip.valid] = 0
    rows, columns = np.indices(weight.shape) + 0.5
    centre = [(axis * weight).sum() / weight.sum() for axis in (columns, rows)]
    assert chip.transform @ tuple(centre) == pytest.approx((5e5 + 6.3, 3e6 - 12.3), abs=0.02)


def test_a_chip_beyond_a_small_raster_is_invalid_there(write_scene, noise):
    with open_scene(write_scene(noise(3, 40, 70))) as scene:
        grid = resample_scene(scene, None)
        (window,) = ChipGrid(grid.height, grid.width, 512, 128, 32)
        chip = read_chip(grid, window, SCALING)
    assert chip.valid.shape == (64, 96)
    assert chip.valid.sum() == 40 * 70
    assert not chip.pixels[:, 40:].any()


class TestRealImagery:
    @pytest.mark.parametrize(
        ("name", "gsd_m"),
        [
            ("zanzibar_0.0775m_utm37s", (0.0775, 0.0775)),
            ("spacenet2_vegas_uint16", (0.243, 0.2996)),
            ("spacenet4_atlanta_pan_uint16", (0.5, 0.5)),
            ("rio_epsg4326_black_corner", (0.46, 0.497)),
            ("rio_epsg4326_black_strip", (0.46, 0.497)),
        ],
    )
    def test_every_format_is_read_at_the_resolution_wanted(self, real_data, name, gsd_m):
        path = real_data / "formats" / f"{name}.tif"
        with open_scene(path, bands=(1, 1, 1) if "pan" in name else None, want_bands=3) as scene:
            assert scene.gsd_m() == pytest.approx(gsd_m, rel=0.005)
            grid = resample_scene(scene, 0.3)
            found = [g * f for g, f in zip(scene.gsd_m(), grid.factor, strict=True)]
            assert found == pytest.approx([0.3, 0.3], rel=0.005)
            chip = read_chip(grid, Window(0, 0, grid.width, grid.height), SCALING)
            _, stored = scene.read(
                Window(0, 0, scene.width, scene.height), (scene.height, scene.width)
            )
        assert chip.valid.mean() == pytest.approx(stored.mean(), abs=0.005)
        assert chip.pixels[:, chip.valid].std() > 10


def test_a_grid_can_be_asked_for_by_size(write_scene, noise):
    with open_scene(write_scene(noise(3, 80, 120))) as scene:
        coarse = SceneGrid(scene, width=30, height=20)
        assert coarse.factor == (4, 4)
        assert read_chip(coarse, Window(0, 0, 32, 32), SCALING).valid.sum() == 600


@pytest.mark.parametrize(
    ("width", "height", "sides", "size"),
    [
        pytest.param(64, 48, (80, 133), (107, 80), id="landscape"),
        pytest.param(48, 64, (80, 133), (80, 107), id="portrait"),
        pytest.param(100, 40, (80, 133), (133, 53), id="panorama"),
        pytest.param(100, 40, (80, None), (200, 80), id="panorama without limit"),
        pytest.param(200, 160, (80, 133), (100, 80), id="shrunk"),
        pytest.param(81, 80, (80, 133), (81, 80), id="as it is"),
        pytest.param(4, 3, (80, 133), (107, 80), id="thumbnail"),
        pytest.param(400, 1, (80, 133), (133, 1), id="a line"),
    ],
)
def test_a_picture_is_resized_by_its_shorter_side(write_scene, noise, width, height, sides, size):
    with open_scene(write_scene(noise(1, height, width))) as scene:
        grid = resize_picture(scene, *sides)
    assert (grid.width, grid.height) == size
