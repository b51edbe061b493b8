"""Overlays: outlines where the buildings are, in a picture of the scene's size."""

from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from labelled_scenes import write_image
from matplotlib.image import imread
from shapely import Polygon, box
from shapely.affinity import affine_transform

import footprints as fp
from footprints.errors import BandError, LayerError, OutputError, RasterError
from footprints.raster.source import Scene

NORTH_UP = Affine(0.5, 0, 350_000, 0, -0.5, 3_057_000)
UTM = "EPSG:32645"
HEIGHT, WIDTH = 90, 157
HOUSE = box(40, 20, 100, 60)
GREY = 120


def layer_of(*pixel_polygons: Polygon, transform: Affine = NORTH_UP, crs=UTM) -> gpd.GeoDataFrame:
    """Footprints given in raster pixels."""
    t = transform
    polygons = [affine_transform(p, [t.a, t.b, t.d, t.e, t.c, t.f]) for p in pixel_polygons]
    columns = {"confidence": [0.9] * len(polygons), "source": ["scene.tif"] * len(polygons)}
    return gpd.GeoDataFrame(columns, geometry=polygons, crs=crs)


def flat(dtype: str = "uint8", bands: int = 3, height: int = HEIGHT, width: int = WIDTH):
    return np.full((bands, height, width), GREY, dtype=dtype)


def drawn(picture: np.ndarray) -> np.ndarray:
    """(h, w) where a picture of grey ground has colour."""
    return np.ptp(picture[:, :, :3], axis=2) > 0.1


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_scene(pixels: np.ndarray | None = None, **options) -> Path:
        options = {"transform": NORTH_UP, "crs": UTM, **options}
        return write_image(tmp_path / "scene.tif", flat() if pixels is None else pixels, **options)

    return write_scene


@pytest.fixture
def overlay(tmp_path: Path) -> Callable[..., np.ndarray]:
    def draw(layer: gpd.GeoDataFrame, scene: Path, **options) -> np.ndarray:
        fp.save_overlay(layer, scene, tmp_path / "overlay.png", **options)
        return imread(tmp_path / "overlay.png")

    return draw


def assert_shows_house(picture: np.ndarray, shrink: float = 1.0) -> None:
    """Colour along the walls of the house, and nowhere else."""
    rows, columns = np.nonzero(drawn(picture))
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.multiply(edges, shrink) == pytest.approx(HOUSE.bounds, abs=1.5 * shrink + 0.5)
    middle = (np.array(HOUSE.centroid.coords[0]) / shrink).astype(int)
    assert not drawn(picture)[middle[1], middle[0]]


def test_outlines_lie_on_the_buildings_of_a_picture_as_large_as_the_scene(write, overlay):
    picture = overlay(layer_of(HOUSE), write())
    assert picture.shape[:2] == (HEIGHT, WIDTH)
    assert_shows_house(picture)
    assert picture[0, 0, :3] == pytest.approx(GREY / 255, abs=0.01)


@pytest.mark.parametrize("width", [1, 57, 58, 115, 229, 333])
def test_no_size_loses_a_pixel(write, overlay, width):
    picture = overlay(layer_of(), write(flat(height=1, width=width)))
    assert picture.shape[:2] == (1, width)


def test_surer_buildings_have_another_colour(write, overlay):
    layer = layer_of(HOUSE, box(110, 20, 140, 60))
    layer["confidence"] = [0.35, 0.95]
    picture = overlay(layer, write())
    (doubtful, sure) = (picture[20:60, columns, :3] for columns in (slice(38, 42), slice(138, 142)))
    assert np.abs(doubtful.reshape(-1, 3).min(0) - sure.reshape(-1, 3).min(0)).max() > 0.2


def test_courtyards_are_outlined_too(write, overlay):
    picture = overlay(layer_of(HOUSE.difference(box(60, 30, 80, 50))), write())
    assert drawn(picture)[40, 59:62].any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_any_raster_makes_a_picture(write, overlay, dtype, bands):
    pixels = np.random.default_rng(0).integers(300, 3000, (bands, HEIGHT, WIDTH))
    pixels = (pixels // 12 if dtype == "uint8" else pixels).astype(dtype)
    picture = overlay(layer_of(), write(pixels))
    grey_levels = len(np.unique(picture[:, :, 0]))
    assert grey_levels > 100
    assert drawn(picture).any() == (bands >= 3)


def test_ground_without_data_is_white(write, overlay):
    pixels = flat(dtype="uint16")
    pixels[:, :, :30] = 0
    picture = overlay(layer_of(), write(pixels), nodata=0)
    assert (picture[:, :29] == 1).all()
    assert not (picture[:, 31:, :3] == 1).any()


def test_an_empty_layer_leaves_the_scene_as_it_is(write, overlay):
    assert not drawn(overlay(layer_of(), write())).any()


def test_a_layer_in_another_crs_is_moved(write, overlay):
    assert_shows_house(overlay(layer_of(HOUSE).to_crs("EPSG:3857"), write()))


def test_rotated_scenes_are_drawn_as_they_are_stored(write, overlay):
    turned = NORTH_UP @ Affine.rotation(30)
    assert_shows_house(overlay(layer_of(HOUSE, transform=turned), write(transform=turned)))


def test_what_lies_outside_is_not_drawn(write, overlay):
    away = box(400, 400, 500, 500)
    assert not drawn(overlay(layer_of(away), write())).any()


def test_a_large_scene_is_read_at_the_size_of_its_picture(write, overlay, monkeypatch):
    shapes = []
    read = Scene.read
    monkeypatch.setattr(
        Scene, "read", lambda *args: (shapes.append(args[2]), read(*args))[1], raising=True
    )
    picture = overlay(layer_of(HOUSE), write(), largest_side=80)
    assert shapes == [(46, 80)]
    assert picture.shape[:2] == (46, 80)
    assert_shows_house(picture, shrink=WIDTH / 80)


def test_pixel_coordinates_show_only_what_was_found_in_this_scene(write, overlay):
    layer = layer_of(HOUSE, box(110, 20, 140, 60), transform=Affine.identity(), crs=None)
    layer["source"] = ["scene.tif", "other.tif"]
    assert_shows_house(overlay(layer, write(crs=None), pixels=True))


def test_the_crs_of_the_scene_can_be_given(write, overlay):
    assert_shows_house(overlay(layer_of(HOUSE), write(crs=None), crs=UTM))


def test_a_picture_is_replaced(write, overlay, tmp_path):
    (tmp_path / "overlay.png").write_text("an older one")
    assert_shows_house(overlay(layer_of(HOUSE), write()))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"pixels": True}, LayerError, "pixel coordinates", id="layer on the ground"),
        pytest.param({"bands": [4]}, BandError, "band 4", id="a band that is not there"),
        pytest.param({"crs": "moon"}, RasterError, "moon", id="unknown CRS"),
    ],
)
def test_what_does_not_fit_is_refused(write, overlay, options, error, words):
    with pytest.raises(error, match=words):
        overlay(layer_of(HOUSE), write(), **options)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("no/such/overlay.png", "does not exist: .*no/such; create", id="no folder"),
        pytest.param("overlay.jpg", r"end in \.png, got 'overlay\.jpg'", id="another format"),
        pytest.param("folder.png", "is a folder", id="a folder"),
    ],
)
def test_pictures_that_cannot_be_written_are_refused(write, tmp_path, name, words):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=words):
        fp.save_overlay(layer_of(HOUSE), write(), tmp_path / name)
