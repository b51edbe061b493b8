"""Where a raster lies, and how large its pixels are on the ground."""

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from footprints.errors import RasterError
from footprints.raster import open_scene

PIXELS = np.full((1, 60, 80), 90, dtype="uint8")
DEGREES = 1 / 111_194.9266  # degrees per metre on a sphere of the mean earth radius


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        pytest.param("EPSG:32645", Affine(0.3, 0, 5e5, 0, -0.3, 3e6), (0.3, 0.3), id="UTM"),
        pytest.param("EPSG:32645", Affine(0.3, 0, 5e5, 0, 0.3, 3e6), (0.3, 0.3), id="south-up"),
        pytest.param(
            "EPSG:32645",
            Affine.translation(5e5, 3e6) @ Affine.rotation(33) @ Affine.scale(0.3, -0.5),
            (0.3, 0.5),
            id="rotated, oblong pixels",
        ),
        pytest.param(
            "EPSG:4326",
            Affine(DEGREES, 0, 10, 0, -DEGREES, 60),
            (0.5, 1.0),
            id="degrees at 60 N are half as wide",
        ),
        pytest.param(
            "EPSG:3857",
            Affine(1, 0, 1e6, 0, -1, 8_399_738),
            (0.5, 0.5),
            id="Mercator metres at 60 N are half a metre",
        ),
        pytest.param(
            "EPSG:2263", Affine(1, 0, 984_250, 0, -1, 2e5), (0.3048, 0.3048), id="US survey feet"
        ),
        pytest.param(
            "EPSG:4326", Affine(DEGREES, 0, 179.9998, 0, -DEGREES, 0), (1, 1), id="antimeridian"
        ),
        pytest.param(
            'LOCAL_CS["site grid",UNIT["foot",0.3048],AXIS["x",EAST],AXIS["y",NORTH]]',
            Affine(2, 0, 10, 0, -2, 10),
            (0.6096, 0.6096),
            id="local grid in feet",
        ),
    ],
)
def test_ground_resolution_is_in_true_metres(write_scene, crs, transform, expected):
    with open_scene(write_scene(PIXELS, crs=crs, transform=transform)) as scene:
        assert scene.gsd_m() == pytest.approx(expected, rel=0.01)


def test_pixel_coordinates_have_no_crs_and_no_ground_resolution(write_scene):
    with open_scene(write_scene(PIXELS), pixels=True) as scene:
        assert (scene.crs, scene.transform, scene.gsd_m()) == (None, Affine.identity(), None)


def test_the_users_crs_goes_before_the_files(write_scene):
    with open_scene(write_scene(PIXELS), crs="EPSG:32644") as scene:
        assert scene.crs == CRS("EPSG:32644")


def test_a_missing_crs_names_both_ways_out(write_scene):
    path = write_scene(PIXELS, crs=None)
    with pytest.raises(RasterError, match=r"no CRS; --crs EPSG:xxxx gives one, --pixels"):
        open_scene(path)
    with open_scene(path, crs="EPSG:32645") as scene:
        assert scene.crs == CRS("EPSG:32645")


def test_a_missing_geotransform_is_not_mended_by_a_crs(write_scene):
    path = write_scene(PIXELS, transform=Affine.identity())
    for crs in (None, "EPSG:32645"):
        with pytest.raises(RasterError, match=r"no geotransform.*--pixels"):
            open_scene(path, crs=crs)
    with open_scene(path, pixels=True) as scene:
        assert scene.width == 80


def test_ground_control_points_are_refused_with_the_way_to_warp(write_scene):
    corners = [(0, 0), (0, 80), (60, 0), (60, 80)]
    points = [
        GroundControlPoint(row=r, col=c, x=85.5 + c * 1e-6, y=27.6 - r * 1e-6) for r, c in corners
    ]
    path = write_scene(PIXELS, gcps=points, crs="EPSG:4326", transform=Affine.identity())
    with pytest.raises(RasterError, match=r"gdalwarp -tps -r cubic -s_srs EPSG:4326 .*scene.tif"):
        open_scene(path)
    with open_scene(path, pixels=True) as scene:
        assert scene.gsd_m() is None


def test_rpcs_are_refused_with_the_way_to_orthorectify(write_scene):
    ones = [1.0] + [0.0] * 19
    rpcs = RPC(
        height_off=0, height_scale=1, lat_off=27, lat_scale=1, line_den_coeff=ones,
        line_num_coeff=ones, line_off=0, line_scale=1, long_off=85, long_scale=1,
        samp_den_coeff=ones, samp_num_coeff=ones, samp_off=0, samp_scale=1,
    )  # fmt: skip
    path = write_scene(PIXELS, rpcs=rpcs, crs=None, transform=Affine.identity())
    with pytest.raises(RasterError, match=r"gdalwarp -rpc -to RPC_DEM"):
        open_scene(path)


def test_a_crs_that_proj_does_not_know_is_named(write_scene):
    with pytest.raises(RasterError, match="'EPSG:9' is not a coordinate reference system"):
        open_scene(write_scene(PIXELS), crs="EPSG:9")


def test_a_geotransform_that_flattens_the_image_is_refused(write_scene):
    path = write_scene(PIXELS, transform=Affine(0.3, 0, 5e5, 0, 0, 3e6))
    with pytest.raises(RasterError, match="flattens the image"):
        open_scene(path)


def test_a_place_outside_the_crs_says_so(write_scene):
    path = write_scene(PIXELS, crs="EPSG:3035", transform=Affine(0.3, 0, 5e12, 0, -0.3, 3e14))
    with open_scene(path) as scene, pytest.raises(RasterError, match="outside the area of"):
        scene.gsd_m()


def test_metres_taken_for_degrees_say_so(write_scene):
    with (
        open_scene(write_scene(PIXELS), crs="EPSG:4326") as scene,
        pytest.raises(RasterError, match=r"outside the area of.*--crs"),
    ):
        scene.gsd_m()
