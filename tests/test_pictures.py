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
from footprints.vector.style import SHADES

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


def rgb(shade: tuple[float, float, str]) -> np.ndarray:
    """The colour of a range of confidences, from 0 to 1."""
    return np.array([int(part) for part in shade[2].split(",")]) / 255


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


@pytest.mark.parametrize("shade", SHADES)
def test_a_confidence_has_the_colour_that_qgis_draws_it_in(write, overlay, shade):
    layer = layer_of(HOUSE)
    layer["confidence"] = (shade[0] + shade[1]) / 2
    wall = overlay(layer, write())[30:50, 38:42, :3]
    assert np.abs(wall - rgb(shade)).max(axis=2).min() < 0.2


def test_large_pictures_say_what_the_colours_mean(write, overlay):
    scene = write(flat(height=420, width=420))
    corner = np.s_[350:, :200]
    legend = overlay(layer_of(HOUSE), scene)[corner]
    # From the colour of the least confidence on the left to that of the surest on the right.
    rows, columns = np.nonzero(drawn(legend))
    row = (rows.min() + rows.max()) // 2
    left, right = legend[row, columns.min() + 3, :3], legend[row, columns.max() - 3, :3]
    assert left == pytest.approx(rgb(SHADES[0]), abs=0.01)
    assert right == pytest.approx(rgb(SHADES[-1]), abs=0.01)
    assert not drawn(overlay(layer_of(), scene)).any(), "there is nothing to explain"


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


# Objects of several classes.

BUS, PERSON = box(20, 20, 120, 70), box(90, 40, 140, 80)


def objects(*polygons: Polygon, classes: list[str]) -> gpd.GeoDataFrame:
    layer = layer_of(*polygons)
    layer["class"] = classes
    return layer


def mean_colour(picture: np.ndarray, x: int, y: int) -> np.ndarray:
    return picture[y - 2 : y + 3, x - 2 : x + 3, :3].mean(axis=(0, 1))


def test_masks_are_filled_in_the_colour_of_their_class(write, overlay):
    scene = write()
    picture = overlay(objects(BUS, PERSON, classes=["bus", "person"]), scene)
    bus, person, outside = (mean_colour(picture, *xy) for xy in ((60, 55), (130, 65), (10, 80)))
    assert outside == pytest.approx(GREY / 255, abs=0.01)
    assert np.ptp(bus) > 0.1
    assert np.ptp(person) > 0.1
    assert np.abs(bus - person).max() > 0.1
    # Neither hides the other, nor the picture below.
    both = mean_colour(picture, 105, 60)
    assert min(np.abs(both - bus).max(), np.abs(both - person).max()) > 0.03
    bright = overlay(
        objects(BUS, PERSON, classes=["bus", "person"]), write(np.full_like(flat(), 240))
    )
    assert (mean_colour(bright, 60, 55) > bus + 0.1).all()


def test_a_class_has_its_colour_whatever_else_is_there(write, overlay):
    scene = write()
    alone = overlay(objects(BUS, classes=["bus"]), scene, names=True)
    among = overlay(objects(PERSON, BUS, classes=["person", "bus"]), scene)
    assert mean_colour(alone, 60, 55) == pytest.approx(mean_colour(among, 60, 55))


def test_many_classes_have_many_colours(write, overlay):
    columns = range(4, 154, 15)
    boxes = [box(x, 50, x + 12, 80) for x in columns]
    picture = overlay(objects(*boxes, classes=[f"kind {i}" for i in range(10)]), write())
    colours = [mean_colour(picture, x + 6, 72) for x in columns]
    pairs = [np.abs(a - b).max() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(pairs) > 0.03


def test_holes_are_not_filled_and_boxes_go_around(write, overlay):
    ring = Polygon([(40, 30), (100, 30), (100, 70)]).difference(box(80, 42, 92, 54))
    for polygon in (ring, ring.reverse()):
        picture = overlay(objects(polygon, classes=["kite"]), write(), names=True)
        assert not drawn(picture)[46:50, 84:88].any()
        assert drawn(picture)[36, 60:80].all()
        # The lower left corner is of the box alone.
        assert drawn(picture)[67:73, 38:42].any()
        assert not drawn(picture)[60:66, 45:55].any()


def test_names_and_confidences_are_written(write, overlay):
    scene = write()
    layer = objects(BUS, PERSON, classes=["bus", "person"])
    shown = overlay(layer, scene)
    above_bus = np.s_[8:19, 20:70]
    assert drawn(shown)[above_bus].mean() > 0.5
    doubtful = layer.assign(confidence=[0.31, 0.9])
    assert (overlay(doubtful, scene)[above_bus] != shown[above_bus]).any()
    assert (overlay(doubtful, scene)[30:80, 20:85] == shown[30:80, 20:85]).all()


def test_names_stay_in_the_picture(write, overlay):
    corners = [box(0, 0, 12, 12), box(150, 0, 157, 20), box(150, 85, 157, 90)]
    layer = objects(*corners, classes=["traffic light", "person", "$dog$"])
    picture = overlay(layer, write())
    dark = picture[:, :, :3].max(axis=2) < 0.3
    light = picture[:, :, :3].min(axis=2) > 0.8
    letters = dark | light
    assert letters[1:14, :60].any()
    assert letters[1:14, 100:].any()
    assert letters[70:, 100:].any()
    assert not letters[[0, -1]].any()
    assert not letters[:, [0, -1]].any()


@pytest.mark.parametrize("names", [None, False])
def test_one_class_is_drawn_as_outlines(write, overlay, names):
    scene = write()
    plain = overlay(layer_of(HOUSE), scene)
    assert_shows_house(plain)
    layer = objects(HOUSE, classes=["building"])
    assert (overlay(layer, scene, names=names) == plain).all()
    assert (overlay(layer, scene, names=True) != plain).any()


def test_names_can_be_left_out(write, overlay):
    layer = objects(BUS, PERSON, classes=["bus", "person"])
    plain = overlay(layer.drop(columns="class"), write())
    assert (overlay(layer, write(), names=False) == plain).all()


def test_names_need_classes(write, overlay):
    with pytest.raises(LayerError, match="no column class"):
        overlay(layer_of(HOUSE), write(), names=True)


def test_the_dark_of_a_photograph_is_drawn_dark(write, overlay):
    night = flat()
    night[:, :, :120] = 0
    layer = layer_of(transform=Affine.identity(), crs=None)
    assert overlay(layer, write(night, crs=None), pixels=True)[50, 60, :3].max() == 0


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
