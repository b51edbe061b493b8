"""What is data and what is not, declared or not."""

import math

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as copy_raster

from footprints.chip import Window
from footprints.errors import RasterError
from footprints.raster import open_scene

AT_1_M = Affine(1, 0, 350000, 0, -1, 3057000)


def read_valid(path, **options):
    """Validity of the whole scene, checked for what holds of every read."""
    with open_scene(path, **options) as scene:
        window = Window(0, 0, scene.width, scene.height)
        pixels, valid = scene.read(window, (scene.height, scene.width))
    assert not pixels[:, ~valid].any()
    assert np.isfinite(pixels).all()
    return valid


def tilted(side, half_width, half_height, degrees):
    """A rotated rectangle of data in the middle of a square raster."""
    y, x = np.indices((side, side)) + 0.5 - side / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (abs(x * cos + y * sin) < half_width) & (abs(y * cos - x * sin) < half_height)


class TestDeclared:
    def test_zero_is_nodata_only_where_all_bands_have_it(self, write_scene, noise):
        pixels = noise(3, 40, 40)
        pixels[:, :9] = 0
        pixels[2, 20:30, 20:30] = 0  # a red roof without any blue
        valid = read_valid(write_scene(pixels, nodata=0))
        np.testing.assert_array_equal(valid, np.arange(40)[:, None] >= np.full(40, 9))

    @pytest.mark.parametrize(
        ("dtype", "nodata"),
        [
            pytest.param("int16", -32768, id="int16"),
            pytest.param("float32", -9999.0, id="float32"),
            pytest.param("float32", float(np.finfo("float32").min), id="lowest float32"),
            pytest.param("float32", math.nan, id="NaN"),
            pytest.param("float64", 1e20, id="float64"),
        ],
    )
    def test_a_value_no_sensor_records_counts_in_any_band(self, write_scene, noise, dtype, nodata):
        pixels = noise(3, 40, 40, dtype=dtype)
        pixels[1, 5, 7] = nodata
        valid = read_valid(write_scene(pixels, nodata=nodata))
        assert np.argwhere(~valid).tolist() == [[5, 7]]

    def test_a_nodata_value_in_decimals_meets_its_float32(self, write_scene, noise):
        pixels = noise(1, 9, 9, dtype="float32")
        pixels[0, 5, 7] = np.finfo("float32").min
        valid = read_valid(write_scene(pixels), nodata=-3.402823e38)
        assert np.argwhere(~valid).tolist() == [[5, 7]]

    def test_nan_and_infinity_are_never_data(self, write_scene, noise):
        pixels = noise(3, 40, 40, dtype="float32")
        pixels[0, 3, 4] = np.nan
        pixels[1, 5, 6] = np.inf
        pixels[2, 7, 8] = -np.inf
        valid = read_valid(write_scene(pixels))
        assert np.argwhere(~valid).tolist() == [[3, 4], [5, 6], [7, 8]]

    def test_alpha_decides(self, write_scene, noise):
        pixels = noise(4, 40, 40)
        pixels[3] = 255
        pixels[3, :, :7] = 0
        path = write_scene(pixels)
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = [
                ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha,
            ]  # fmt: skip
        valid = read_valid(path)
        np.testing.assert_array_equal(valid, np.full((40, 1), 1) * np.arange(40) >= 7)

    @pytest.mark.parametrize("inside", ["YES", "NO"], ids=["inside the file", "beside the file"])
    def test_a_mask_decides(self, write_scene, noise, inside):
        mask = np.ones((40, 40), dtype=bool)
        mask[30:, 10:20] = False
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
            path = write_scene(noise(3, 40, 40), mask=mask)
        np.testing.assert_array_equal(read_valid(path), mask)

    @pytest.mark.parametrize("inside", ["YES", "NO"], ids=["inside the file", "beside the file"])
    def test_a_mask_is_read_from_overviews_too(self, write_scene, noise, inside):
        mask = np.ones((256, 256), dtype=bool)
        mask[:, :128] = False
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
            path = write_scene(noise(3, 256, 256), mask=mask, overviews=[2, 4])
        with open_scene(path) as scene:
            _, valid = scene.read(Window(0, 0, 256, 256), (32, 32))
        assert valid[:, 17:].all()
        assert not valid[:, :15].any()

    def test_a_mask_younger_than_the_overviews_is_not_forgotten(self, write_scene, noise):
        path = write_scene(noise(3, 256, 256), overviews=[2, 4])
        mask = np.ones((256, 256), dtype=bool)
        mask[:, :128] = False
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(mask)
        with open_scene(path) as scene:
            _, valid = scene.read(Window(0, 0, 256, 256), (32, 32))
        assert valid.mean() == 0.5

    def test_what_is_declared_rules_out_collars(self, write_scene, noise):
        pixels = noise(3, 60, 60)
        pixels[:, :30] = 0
        assert read_valid(write_scene(pixels, nodata=255)).all()

    def test_a_declared_value_that_the_type_cannot_hold_declares_nothing(self, write_scene, noise):
        pixels = noise(3, 60, 60)
        pixels[:, :30] = 0
        path = write_scene(pixels, "plain.tif")
        with rasterio.open(path) as dataset:
            copy_raster(dataset, path.with_suffix(".vrt"), driver="VRT")
        text = path.with_suffix(".vrt").read_text()
        odd = text.replace("<ColorInterp>", "<NoDataValue>-9999</NoDataValue><ColorInterp>")
        path.with_suffix(".vrt").write_text(odd)
        assert read_valid(path.with_suffix(".vrt")).mean() == 0.5


class TestGivenByTheUser:
    def test_it_goes_before_the_files(self, write_scene, noise):
        pixels = noise(3, 40, 40)
        pixels[:, 0] = 255
        pixels[:, 1] = 0
        valid = read_valid(write_scene(pixels, nodata=0), nodata=255)
        assert np.argwhere(~valid)[:, 0].tolist() == [0] * 40

    @pytest.mark.parametrize("nodata", [-1, 256, 0.5, math.nan, math.inf])
    def test_it_must_fit_the_pixel_type(self, write_scene, noise, nodata):
        with pytest.raises(RasterError, match=f"a value of type uint8, got {nodata}"):
            open_scene(write_scene(noise(3, 9, 9)), nodata=nodata)

    @pytest.mark.parametrize("nodata", ["black", "0", True])
    def test_it_must_be_a_number(self, write_scene, noise, nodata):
        with pytest.raises(RasterError, match="nodata must be a number"):
            open_scene(write_scene(noise(3, 9, 9)), nodata=nodata)


class TestCollars:
    @given(
        degrees=st.floats(0, 90), half_width=st.integers(20, 90), half_height=st.integers(20, 90)
    )
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_rotated_image_is_found_to_the_pixel(
        self, write_scene, noise, degrees, half_width, half_height
    ):
        data = tilted(140, half_width, half_height, degrees)
        path = write_scene(noise(3, 140, 140) * data, transform=AT_1_M)
        np.testing.assert_array_equal(read_valid(path), data)

    @pytest.mark.parametrize("width", [1, 2, 5, 40])
    def test_a_strip_of_any_width_is_found(self, write_scene, noise, width):
        pixels = noise(3, 90, 90)
        pixels[:, :, -width:] = 0
        assert read_valid(write_scene(pixels)).sum() == 90 * (90 - width)

    @pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
    def test_the_pixel_type_does_not_matter(self, write_scene, noise, dtype):
        data = tilted(140, 50, 40, 30)
        pixels = (noise(3, 140, 140, dtype=dtype) * data).astype(dtype)
        np.testing.assert_array_equal(read_valid(write_scene(pixels)), data)

    def test_black_inside_the_image_is_data(self, write_scene, noise):
        pixels = noise(3, 300, 300)
        pixels[:, :40] = 0
        pixels[:, 100:250, 100:250] = 0  # 45 m of black roof
        valid = read_valid(write_scene(pixels))
        assert valid[40:].all()
        assert not valid[:40].any()

    @pytest.mark.parametrize("top", [40, 0], ids=["beside a collar", "at the border"])
    def test_a_black_roof_that_touches_stays_data(self, write_scene, noise, top):
        pixels = noise(3, 300, 300)
        pixels[:, :top] = 0
        pixels[:, top : top + 60, 100:180] = 0
        valid = read_valid(write_scene(pixels))
        assert valid[top:].all()
        assert not valid[:top].any()

    def test_shadows_at_the_border_of_a_scene_without_collar_stay_data(self, write_scene, noise):
        pixels = noise(3, 200, 200)
        pixels[:, :30, 2:-2:3] = 0
        pixels[:, 150:, 40:100] = 0
        assert read_valid(write_scene(pixels)).all()

    def test_a_scene_of_black_only_has_no_data(self, write_scene):
        black = np.zeros((3, 50, 50), dtype="uint8")
        assert not read_valid(write_scene(black)).any()

    @pytest.mark.parametrize(
        "options", [{"crs": None, "pixels": True}, {"transform": Affine(1e-6, 0, 9, 0, -1e-6, 9)}],
        ids=["pixel coordinates", "degrees"],
    )  # fmt: skip
    def test_the_crs_does_not_matter(self, write_scene, noise, options):
        data = tilted(300, 100, 90, 20)
        pixels = options.pop("pixels", False)
        profile = {"crs": "EPSG:4326", **options}
        path = write_scene(noise(3, 300, 300) * data, **profile)
        np.testing.assert_array_equal(read_valid(path, pixels=pixels), data)

    def test_a_large_scene_is_refined_from_an_overview_to_the_pixel(self, write_scene, noise):
        data = tilted(2500, 1000, 900, 13)
        pixels = noise(1, 2500, 2500) * data
        pixels[:, 1200:1260, 1200:1260] = 0
        valid = read_valid(write_scene(pixels, tiled=True))
        assert (valid != data).mean() < 1e-5
        assert valid[1200:1260, 1200:1260].all()

    @pytest.mark.parametrize("factor", [0.7, 2.3, 9.1])
    def test_resampled_reads_follow_the_collar(self, write_scene, noise, factor):
        data = tilted(600, 220, 200, 25)
        path = write_scene(noise(3, 600, 600, low=120) * data, overviews=[2, 4])
        side = round(600 / factor)
        with open_scene(path) as scene:
            pixels, valid = scene.read(Window(0, 0, 600, 600), (side, side))
        assert valid.mean() == pytest.approx(data.mean(), rel=0.02)
        # An overview made by averaging mixes at most half of the collar into the outermost pixels.
        assert pixels[:, valid].min() > (100 if factor < 4 else 60)

    def test_lossy_compression_may_leave_a_collar_nearly_black(self, write_scene, noise):
        data = tilted(512, 180, 170, 25)
        ground = noise(3, 32, 32).repeat(16, axis=1).repeat(16, axis=2)
        path = write_scene(ground * data, compress="jpeg", photometric="ycbcr", jpeg_quality=75)
        with rasterio.open(path) as dataset:
            assert dataset.read()[:, ~data].any()
        valid = read_valid(path)
        # The 16-pixel blocks that the edge runs through ring; all others are told to the pixel.
        blocks = data.reshape(32, 16, 32, 16).any(axis=(1, 3)).repeat(16, axis=0).repeat(16, axis=1)
        assert not valid[~blocks].any()
        assert (~valid & data).sum() / data.sum() < 0.001

    def test_nearly_black_is_data_without_lossy_compression(self, write_scene, noise):
        pixels = noise(3, 200, 200)
        pixels[:, :90] = 1
        assert read_valid(write_scene(pixels)).all()

    def test_the_overview_is_read_only_where_the_border_is_black(
        self, write_scene, noise, monkeypatch
    ):
        pixels = noise(3, 100, 100)
        pixels[:, 40:50, 40:50] = 0
        monkeypatch.setattr("footprints.raster.nodata._open", None)
        assert read_valid(write_scene(pixels)).all()


class TestWhiteCollars:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_exactly_white_ground_at_a_corner_is_a_collar(self, write_scene, noise, dtype):
        pixels = noise(3, 200, 200, dtype=dtype)
        data = tilted(200, 70, 60, 20)
        pixels[:, ~data] = np.iinfo(dtype).max
        pixels[:, 100:104, 100:104] = np.iinfo(dtype).max  # a white roof
        valid = read_valid(write_scene(pixels))
        assert valid[100:104, 100:104].all()
        np.testing.assert_array_equal(valid, data)

    def test_nearly_white_ground_is_data(self, write_scene, noise):
        pixels = noise(3, 200, 200)
        pixels[:, :90] = 254
        assert read_valid(write_scene(pixels)).all()

    def test_a_white_hall_at_the_border_is_data(self, write_scene, noise):
        pixels = noise(3, 400, 400)
        pixels[:, 100:300, :200] = 255
        assert read_valid(write_scene(pixels)).all()


class TestRealImagery:
    @pytest.mark.parametrize(("name", "share"), [("corner", 0.3007), ("strip", 0.6626)])
    def test_black_parts_of_satellite_chips_are_found(self, real_data, name, share):
        path = real_data / "formats" / f"rio_epsg4326_black_{name}.tif"
        valid = read_valid(path)
        assert valid.mean() == pytest.approx(share, abs=0.0005)
        with rasterio.open(path) as dataset:
            np.testing.assert_array_equal(valid, dataset.read().any(axis=0))

    def test_declared_nodata_of_a_panchromatic_scene(self, real_data):
        path = real_data / "formats" / "spacenet4_atlanta_pan_uint16.tif"
        assert read_valid(path, bands=(1, 1, 1)).all()

    def test_a_drone_image_without_black_is_all_data(self, real_data):
        assert read_valid(real_data / "formats" / "zanzibar_0.0775m_utm37s.tif").all()
