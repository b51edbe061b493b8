"""Opening anything, reading any window of it, and one line for what goes wrong."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footprints.chip import Window
from footprints.errors import BandError, RasterError
from footprints.raster import open_scene


def whole(scene):
    """The scene as it is stored."""
    return scene.read(Window(0, 0, scene.width, scene.height), (scene.height, scene.width))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "float32"])
def test_every_pixel_type_is_read_as_stored(write_scene, noise, dtype):
    pixels = noise(3, 50, 70, dtype=dtype, high=120)
    with open_scene(write_scene(pixels)) as scene:
        assert (scene.width, scene.height, scene.dtype) == (70, 50, dtype)
        found, valid = whole(scene)
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype == dtype
    assert valid.all()


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param({"driver": "PNG", "name": "scene.png"}, id="PNG with a world file"),
        pytest.param({"driver": "COG"}, id="COG"),
        pytest.param({"tiled": True, "blockxsize": 16, "blockysize": 16}, id="tiled"),
        pytest.param({"interleave": "band", "compress": "lzw"}, id="planes"),
        pytest.param({"BIGTIFF": "YES"}, id="BigTIFF"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_formats_do_not_matter(write_scene, noise, profile):
    pixels = noise(3, 50, 70)
    with open_scene(write_scene(pixels, **profile)) as scene:
        np.testing.assert_array_equal(whole(scene)[0], pixels)


def test_a_window_may_reach_beyond_the_raster_on_every_side(write_scene, noise):
    pixels = noise(3, 50, 70)
    with open_scene(write_scene(pixels)) as scene:
        found, valid = scene.read(Window(-10, -5, 100, 90), (90, 100))
        outside, nothing = scene.read(Window(500, 0, 8, 8), (8, 8))
    np.testing.assert_array_equal(found[:, 5:55, 10:80], pixels)
    assert valid.sum() == 50 * 70
    assert found.sum() == pixels.sum()
    assert not nothing.any()
    assert not outside.any()


@given(
    x=st.floats(-40, 130), y=st.floats(-40, 100), factor=st.floats(0.3, 6), skip=st.integers(1, 12)
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_on_one_lattice_agree_to_the_grey_level(write_scene, noise, x, y, factor, skip):
    pixels = noise(3, 80, 110, low=0)
    pixels[:, 20:30, 40:60] = 7
    path = write_scene(pixels, nodata=7)
    side, move = 16 * factor, skip * factor
    with open_scene(path) as scene:
        first, seen = scene.read(Window(x, y, side, side), (16, 16))
        second, also = scene.read(Window(x + move, y + move, side, side), (16, 16))
    np.testing.assert_array_equal(first[:, skip:, skip:], second[:, :-skip, :-skip])
    np.testing.assert_array_equal(seen[skip:, skip:], also[:-skip, :-skip])


def test_reading_strip_by_strip_changes_nothing(write_scene, noise, monkeypatch):
    with open_scene(write_scene(noise(3, 90, 110))) as scene:
        window = Window(-3.25, 4.5, 120, 80)
        at_once = scene.read(window, (31, 47))
        monkeypatch.setattr("footprints.raster.source._MAX_VALUES", 1000)
        in_strips = scene.read(window, (31, 47))
    np.testing.assert_array_equal(at_once[0], in_strips[0])
    np.testing.assert_array_equal(at_once[1], in_strips[1])


def test_strong_shrinking_reads_an_overview_and_shows_the_same(write_scene, noise):
    # Large smooth blobs: an overview shows them as the full raster does.
    coarse = noise(1, 8, 8).repeat(64, axis=1).repeat(64, axis=2)
    plain = write_scene(coarse, "plain.tif", tiled=True, blockxsize=64, blockysize=64)
    layered = write_scene(
        coarse, "layered.tif", overviews=[2, 4], tiled=True, blockxsize=64, blockysize=64
    )
    window = Window(-20, 33, 480, 480)
    with open_scene(plain) as scene:
        expected, _ = scene.read(window, (60, 60))
    # Damage the full resolution: what is still read then is the overview.
    with open_scene(layered) as scene:
        with rasterio.open(layered, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            dataset.write(np.zeros_like(coarse))
        found, _ = scene.read(window, (60, 60))
    assert np.abs(found.astype(int) - expected).mean() < 1


def test_the_name_is_the_last_part_of_the_address(write_scene, noise):
    with open_scene(write_scene(noise(1, 9, 9), "north town?.tif")) as scene:
        assert scene.name == "north town?.tif"


def test_no_file_stays_open_after_an_error(write_scene, noise):
    path = write_scene(noise(1, 9, 9))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(BandError):
            open_scene(path, bands=(2,))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestBands:
    def test_the_first_ones_without_alpha_are_taken(self, write_scene, noise):
        pixels = noise(4, 20, 20)
        pixels[1] = 255
        path = write_scene(pixels)
        with rasterio.open(path, "r+") as dataset:
            kinds = rasterio.enums.ColorInterp
            dataset.colorinterp = [kinds.red, kinds.alpha, kinds.green, kinds.blue]
        with open_scene(path, want_bands=2) as scene:
            assert scene.bands == (1, 3)
        with open_scene(path) as scene:
            assert scene.bands == (1, 3, 4)

    def test_they_may_be_repeated_and_reordered(self, write_scene, noise):
        pixels = noise(3, 20, 20)
        with open_scene(write_scene(pixels), bands=(3, 1, 1), want_bands=3) as scene:
            np.testing.assert_array_equal(whole(scene)[0], pixels[[2, 0, 0]])

    def test_too_few_suggest_to_repeat_the_only_one(self, write_scene, noise):
        with pytest.raises(BandError, match=r"takes 3 bands, .*has 1.*--bands 1,1,1"):
            open_scene(write_scene(noise(1, 20, 20)), want_bands=3)

    def test_too_few_or_too_many_named_ones_are_counted(self, write_scene, noise):
        path = write_scene(noise(4, 20, 20))
        with pytest.raises(BandError, match=r"takes 3 bands, but --bands names 2.*1,2,3"):
            open_scene(path, bands=(1, 2), want_bands=3)
        with pytest.raises(BandError, match="names 0"):
            open_scene(path, bands=())

    @pytest.mark.parametrize("band", [0, -1, 4])
    def test_one_that_is_not_there_is_named(self, write_scene, noise, band):
        with pytest.raises(BandError, match=f"band {band} is not in .* bands 1 to 3"):
            open_scene(write_scene(noise(3, 20, 20)), bands=(band,))

    def test_a_colour_table_says_how_to_expand_it(self, write_scene, noise):
        path = write_scene(noise(1, 20, 20), photometric="palette")
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, {i: (i, 0, 255 - i) for i in range(256)})
        with pytest.raises(BandError, match="gdal_translate -expand rgb"):
            open_scene(path)


class TestBadFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(RasterError, match=r"none.tif does not exist$"):
            open_scene(tmp_path / "none.tif")

    @pytest.mark.parametrize(
        "content", [b"", b"II*\0", b"not a raster at all"], ids=["empty", "header only", "text"]
    )
    def test_not_a_raster(self, tmp_path, content):
        path = tmp_path / "scene.tif"
        path.write_bytes(content)
        with pytest.raises(RasterError, match=r"cannot open .* as a raster") as caught:
            open_scene(path)
        assert "\n" not in str(caught.value)

    def test_a_folder(self, tmp_path):
        with pytest.raises(RasterError, match=r"cannot open .* as a raster"):
            open_scene(tmp_path)

    def test_truncated_names_the_window(self, write_scene, noise):
        path = write_scene(noise(3, 600, 600), tiled=True, blockxsize=128, blockysize=128)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with open_scene(path) as scene:
            with pytest.raises(RasterError, match=r"pixels x 488-600, y 400-600.*truncated"):
                scene.read(Window(488, 400, 500, 500), (500, 500))
            assert scene.read(Window(0, 0, 99, 99), (99, 99))[1].all()

    def test_truncated_before_its_directory(self, write_scene, noise):
        path = write_scene(noise(3, 600, 600), compress="deflate")
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(RasterError), open_scene(path) as scene:
            whole(scene)

    def test_no_rows_or_no_columns(self, tmp_path):
        path = tmp_path / "scene.vrt"
        path.write_text('<VRTDataset rasterXSize="0" rasterYSize="5"></VRTDataset>')
        with pytest.raises(RasterError, match=r"scene\.vrt"):
            open_scene(path)

    def test_a_container_of_several_rasters_names_one(self, write_scene, noise):
        for table in ("north", "south"):
            options = {"RASTER_TABLE": table, "APPEND_SUBDATASET": "YES", "driver": "GPKG"}
            path = write_scene(noise(3, 30, 30), "scene.gpkg", **options)
        with pytest.raises(RasterError, match=r"holds 2 rasters; .*GPKG:.*scene.gpkg:north"):
            open_scene(path)

    @pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
    def test_pixels_that_are_no_image(self, write_scene, dtype):
        path = write_scene(np.zeros((1, 9, 9), dtype="complex64"), dtype=dtype)
        with pytest.raises(RasterError, match=f"type {dtype}; supported are uint8"):
            open_scene(path)


class TestVrt:
    def test_a_mosaic_is_one_scene(self, write_scene, noise, tmp_path):
        pixels = noise(1, 20, 40)
        write_scene(pixels[:, :, :20], "left.tif")
        write_scene(pixels[:, :, 20:], "right.tif")
        sources = "".join(
            f"<SimpleSource><SourceFilename relativeToVRT='1'>{name}.tif</SourceFilename>"
            f"<SourceBand>1</SourceBand><SrcRect xOff='0' yOff='0' xSize='20' ySize='20'/>"
            f"<DstRect xOff='{x}' yOff='0' xSize='20' ySize='20'/></SimpleSource>"
            for name, x in (("left", 0), ("right", 20))
        )
        path = tmp_path / "scene.vrt"
        path.write_text(
            "<VRTDataset rasterXSize='40' rasterYSize='20'><SRS>EPSG:32645</SRS>"
            "<GeoTransform>350000, 0.3, 0, 3057000, 0, -0.3</GeoTransform>"
            f"<VRTRasterBand dataType='Byte' band='1'>{sources}</VRTRasterBand></VRTDataset>"
        )
        with open_scene(path) as scene:
            np.testing.assert_array_equal(whole(scene)[0], pixels)
            assert scene.transform == Affine(0.3, 0, 350000, 0, -0.3, 3057000)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[str]:
    """Host and port of a server of the test's folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    script = Path(__file__).with_name("range_server.py")
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield f"127.0.0.1:{running.stdout.readline().strip()}"
        running.terminate()


class TestAddresses:
    def test_http(self, write_scene, noise, server):
        pixels = noise(3, 50, 70)
        write_scene(pixels)
        with open_scene(f"http://{server}/scene.tif?token=1") as scene:
            np.testing.assert_array_equal(whole(scene)[0], pixels)
            assert scene.name == "scene.tif"

    def test_s3(self, write_scene, noise, server, monkeypatch, tmp_path):
        for key, value in {
            "AWS_S3_ENDPOINT": server,
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_NO_SIGN_REQUEST": "YES",
        }.items():
            monkeypatch.setenv(key, value)
        pixels = noise(3, 50, 70)
        (tmp_path / "bucket").mkdir()
        write_scene(pixels, "bucket/scene.tif")
        with open_scene("s3://bucket/scene.tif") as scene:
            np.testing.assert_array_equal(whole(scene)[0], pixels)

    def test_a_missing_one_says_what_the_server_said(self, server):
        with pytest.raises(RasterError, match=r"cannot open http.*404"):
            open_scene(f"http://{server}/none.tif")


def test_a_scene_goes_to_another_process_and_is_opened_there(write_scene, noise, monkeypatch):
    path = write_scene(noise(3, 50, 70))
    monkeypatch.chdir(path.parent)
    with open_scene(path.name, bands=[3, 1], nodata=7) as scene:
        sent = pickle.dumps(scene)
        pixels, valid = whole(scene)
    monkeypatch.chdir("/")
    with pickle.loads(sent) as there:
        assert (there.bands, there.rule, there.crs) == (scene.bands, scene.rule, scene.crs)
        found, same = whole(there)
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(same, valid)
    path.write_bytes(write_scene(noise(3, 40, 70), name="other.tif").read_bytes())
    with pytest.raises(RasterError, match="has 70 x 40 pixels, not 70 x 50: another file"):
        pickle.loads(sent)
