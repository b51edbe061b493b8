"""Figures of layers and instances: where things are, in which colour, how long the scale bar."""

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from known_buildings import KnownBuildings
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import paint, write_image
from matplotlib import pyplot as plt
from pyproj import Geod

import footprints as fp
from footprints.chip import Chip, Scaling, Window
from footprints.errors import ConfigError, LayerError
from footprints.plotting import round_length


@pytest.fixture(autouse=True)
def _figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def layer_of(transform: Affine = NORTH_UP, crs: str | None = UTM, **columns) -> gpd.GeoDataFrame:
    columns = {"confidence": np.linspace(0.1, 0.95, len(TOWN)), **columns}
    return gpd.GeoDataFrame(columns, geometry=on_ground(TOWN, transform), crs=crs)


@pytest.fixture
def scene(tmp_path):
    def write(transform=NORTH_UP, crs=UTM):
        pixels = paint(TOWN, HEIGHT, WIDTH)
        return write_image(tmp_path / "town.tif", pixels, transform=transform, crs=crs)

    return write


def colour_at(ax, x: float, y: float) -> np.ndarray:
    ax.figure.canvas.draw()
    picture = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int)
    column, row = ax.transData.transform((x, y))
    return picture[round(picture.shape[0] - row), round(column)]


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        pytest.param(NORTH_UP, UTM, id="north up"),
        pytest.param(NORTH_UP @ Affine.rotation(30), UTM, id="rotated"),
        pytest.param(Affine(3e-6, 0, 20, 0, -2e-6, 60), "EPSG:4326", id="degrees"),
    ],
)
def test_the_scene_lies_where_its_georeference_says(scene, transform, crs):
    # A layer that is elsewhere leaves the roofs as they are.
    ax = fp.plot(layer_of(transform, crs).iloc[:1], scene(transform, crs))
    warehouse = TOWN[-1].representative_point()
    assert colour_at(ax, *(transform @ (warehouse.x, warehouse.y))) == pytest.approx(200, abs=5)
    assert colour_at(ax, *(transform @ (265, 200))) == pytest.approx(50, abs=5)


def test_confidences_have_the_colours_of_qgis_and_a_bar(scene):
    ax = fp.plot(layer_of(), scene())
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "confidence"
    edges = np.array([0.0, 0.3, 0.5, 0.7, 0.9, 1.0])
    assert bar.get_yticks() == pytest.approx(edges)
    reds, blues = (ax.collections[0].get_edgecolor()[[0, -1]] * 255).round()
    assert reds[:3].tolist() == [215, 25, 28]
    assert blues[:3].tolist() == [0, 140, 255]


def test_fills_let_the_scene_through(scene):
    ax = fp.plot(layer_of(), scene())
    place = TOWN[-1].representative_point()
    inside = colour_at(ax, *(NORTH_UP @ (place.x, place.y)))
    assert inside[2] > inside[0]
    assert inside[0] > 100


@pytest.mark.parametrize("column", ["confidence", "kind"])
def test_an_outline_shows_on_roofs_of_its_own_colour(scene, column):
    kinds = [f"kind {number}" for number in range(len(TOWN))]
    ax = fp.plot(layer_of(kind=kinds), scene(), column=column)
    outlines, casings = ax.collections
    assert casings.get_zorder() < outlines.get_zorder()
    assert casings.get_linewidth()[0] > outlines.get_linewidth()[0] + 0.5
    luma = [0.299, 0.587, 0.114]
    contrast = (casings.get_edgecolor() - outlines.get_edgecolor())[:, :3] @ luma
    assert np.abs(contrast).min() > 0.4


def test_outlines_are_thin_where_buildings_are_small(scene):
    far = fp.plot(layer_of(), scene(), bounds=(200_000, 3_000_000, 400_000, 3_200_000))
    x_min, y_min, x_max, y_max = on_ground(TOWN)[-1].bounds
    near = fp.plot(layer_of(), scene(), bounds=(x_min, y_min, x_max, y_max))
    widths = [ax.collections[0].get_linewidth()[0] for ax in (far, near)]
    assert widths == [0.5, 1.5]


def test_classes_have_a_legend(scene):
    ax = fp.plot(layer_of(kind=["house"] * 10 + ["shop"] * 2), scene(), column="kind")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["house", "shop"]
    assert len(np.unique(ax.collections[0].get_edgecolor(), axis=0)) == 2


def test_truth_without_confidence_has_one_colour(scene):
    ax = fp.plot(layer_of().drop(columns="confidence"), scene())
    assert ax.figure.axes == [ax]
    assert len(np.unique(ax.collections[0].get_edgecolor(), axis=0)) == 1


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        pytest.param(NORTH_UP, UTM, id="metres"),
        pytest.param(Affine(5e-6, 0, 20, 0, -2.5e-6, 60), "EPSG:4326", id="degrees"),
        pytest.param(Affine(0.6, 0, 2e6, 0, -0.6, 8.4e6), "EPSG:3857", id="web mercator"),
        pytest.param(Affine(1, 0, 9.8e5, 0, -1, 1.9e5), "EPSG:2263", id="feet"),
    ],
)
def test_the_scale_bar_is_as_long_as_it_says(transform, crs):
    layer = layer_of(transform, crs)
    ax = fp.plot(layer)
    (bar,) = ax.artists
    text, length = bar.txt_label.get_text(), bar.size_bar.get_children()[0].get_width()
    left, right = ax.get_xlim()
    middle = (left + right) / 2, sum(ax.get_ylim()) / 2
    ends = gpd.points_from_xy([middle[0], middle[0] + length], [middle[1]] * 2, crs=crs)
    degrees = ends.to_crs(4326)
    true = Geod(ellps="WGS84").inv(degrees[0].x, degrees[0].y, degrees[1].x, degrees[1].y)[2]
    assert text == f"{true:.0f} m"
    assert 0.05 < length / (right - left) <= 0.25


def test_a_step_on_the_ground_is_as_long_along_both_axes():
    transform = Affine(1e-5, 0, 20, 0, -1e-5, 60)
    ax = fp.plot(layer_of(transform, "EPSG:4326"))
    assert ax.get_aspect() == pytest.approx(2, rel=0.01)


def test_a_part_is_read_at_its_own_pixels(scene):
    left, top = NORTH_UP @ (100, 100)
    ax = fp.plot(layer_of(), scene(), bounds=(left, top - 15, left + 15, top), largest_side=50)
    assert ax.get_images()[0].get_array().shape[:2] == (50, 50)
    assert ax.get_xlim() == pytest.approx((left, left + 15))


def test_files_and_axes_of_ones_own_are_taken(scene, tmp_path):
    layer_of().to_file(tmp_path / "layer.gpkg")
    _, axes = plt.subplots(1, 2)
    assert fp.plot(tmp_path / "layer.gpkg", scene(), ax=axes[1]) is axes[1]
    assert not axes[0].collections


def test_an_empty_layer_shows_the_scene(scene):
    ax = fp.plot(layer_of().iloc[:0], scene())
    assert colour_at(ax, *(NORTH_UP @ (265, 200))) == pytest.approx(50, abs=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"column": "height"}, "no column height; it has confidence", id="column"),
        pytest.param({"bounds": (5, 5, 6, 6)}, "beyond town.tif", id="bounds elsewhere"),
        pytest.param({"bounds": (5, 5, 4, 6)}, "x_min, y_min, x_max, y_max", id="no bounds"),
    ],
)
def test_what_does_not_fit_is_refused(scene, options, words):
    with pytest.raises(LayerError, match=words):
        fp.plot(layer_of(), scene(), **options)


@pytest.mark.parametrize(
    ("most", "length"), [(1, 1), (1.9, 1), (2, 2), (49, 20), (50, 50), (999, 500), (0.03, 0.02)]
)
def test_scale_bars_have_round_lengths(most, length):
    assert round_length(most) == pytest.approx(length)


# Instances of one chip.

CHIP = Chip(
    pixels=paint(TOWN, HEIGHT, WIDTH),
    valid=np.ones((HEIGHT, WIDTH), dtype=bool),
    scaling=Scaling((120.0,) * 3, (60.0,) * 3),
    window=Window(0, 0, WIDTH, HEIGHT),
    transform=NORTH_UP,
    crs=None,
    source="town.tif",
)


def found():
    return KnownBuildings(on_ground(TOWN), jitter_px=0)([CHIP])[0]


def test_instances_have_masks_boxes_and_names():
    instances = found()
    ax = fp.plot_instances(CHIP, instances)
    # An outline, what is below it, and a box.
    assert len(ax.patches) == 3 * len(instances)
    texts = {text.get_text() for text in ax.texts}
    assert texts == {f"building {score:.2f}" for score in instances.scores}
    # One class: each instance has a colour of its own.
    assert len({patch.get_edgecolor() for patch in ax.patches}) > len(instances) / 2
    roof = TOWN[-1].representative_point()
    assert np.ptp(colour_at(ax, roof.x, roof.y)) > 20
    assert np.ptp(colour_at(ax, 265, 200)) == 0


def test_unsure_instances_are_left_out_and_plain_pixels_will_do():
    instances = found()
    ax = fp.plot_instances(CHIP.pixels[:1], instances, confidence=1.01)
    assert not ax.patches
    assert ax.get_images()[0].get_array().shape == (HEIGHT, WIDTH)


def test_labels_need_names():
    with pytest.raises(ConfigError, match="label 0 has no name among 0"):
        fp.plot_instances(CHIP, found(), classes=())
