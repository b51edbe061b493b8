"""The page of a layer: where outlines lie on the picture, and what must not get into the page."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from known_town import HEIGHT, NORTH_UP, TOWN, UTM, WIDTH, on_ground
from labelled_scenes import paint, write_image
from PIL import Image
from test_packing import outlines_of
from typer.testing import CliRunner

import footprints as fp
from footprints.cli import app
from footprints.errors import ConfigError, LayerError, OutputError
from footprints.viewing import TILE, View


def layer_of(transform: Affine = NORTH_UP, crs: str | None = UTM, **columns) -> gpd.GeoDataFrame:
    columns = {"confidence": np.linspace(0.3, 0.95, len(TOWN)), **columns}
    return gpd.GeoDataFrame(columns, geometry=on_ground(TOWN, transform), crs=crs)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = paint(TOWN, HEIGHT, WIDTH)
    return write_image(tmp_path / "town.tif", pixels, transform=NORTH_UP, crs=UTM)


def data_of(view: View) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', view.html, re.S)
    return json.loads(found[1])


def picture_of(level: dict) -> np.ndarray:
    """A level of the picture, put together from its tiles."""
    whole = Image.new("RGB", (level["width"], level["height"]))
    columns = -(-level["width"] // TILE)
    for index, tile in enumerate(level["tiles"]):
        place = index % columns * TILE, index // columns * TILE
        whole.paste(Image.open(io.BytesIO(base64.b64decode(tile))), place)
    return np.asarray(whole)


def agreement(view: View) -> float:
    """IoU of the outlines with the bright roofs of the picture, both at the picture's pixels."""
    data = data_of(view)
    picture = picture_of(data["image"]["levels"][0])
    scale = picture.shape[1] / data["image"]["width"], picture.shape[0] / data["image"]["height"]
    polygons = [shapely.transform(each, lambda xy: xy * scale) for each in outlines_of(data)[0]]
    outlines = paint(polygons, *picture.shape[:2], bands=1)[0] > 100
    roofs = picture[..., 0] > 125
    return (outlines & roofs).sum() / (outlines | roofs).sum()


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        pytest.param(NORTH_UP, UTM, id="north up"),
        pytest.param(NORTH_UP @ Affine.rotation(30), UTM, id="rotated"),
        pytest.param(Affine(3e-6, 0, 20, 0, -2e-6, 60), "EPSG:4326", id="degrees"),
        pytest.param(Affine.identity(), None, id="pixels"),
    ],
)
def test_outlines_lie_on_the_roofs(tmp_path, transform, crs):
    pixels = paint(TOWN, HEIGHT, WIDTH)
    placed = NORTH_UP if crs is None else transform
    path = write_image(tmp_path / "town.tif", pixels, transform=placed, crs=crs)
    view = fp.view(layer_of(transform, crs, source="town.tif"), path, pixels=crs is None)
    assert view.shown == len(TOWN)
    assert agreement(view) > 0.95


def test_lengths_are_metres_on_the_ground(tmp_path):
    # At 60 degrees north a degree of longitude is half as long as one of latitude.
    transform = Affine(1e-5, 0, 20, 0, -1e-5, 60)
    path = write_image(
        tmp_path / "town.tif", paint(TOWN, HEIGHT, WIDTH), transform=transform, crs="EPSG:4326"
    )
    for view in (
        fp.view(layer_of(transform, "EPSG:4326"), path),
        fp.view(layer_of(transform, "EPSG:4326")),
    ):
        data = data_of(view)
        areas = sorted(each.area for each in outlines_of(data)[0])
        true = sorted(layer_of(transform, "EPSG:4326").to_crs("EPSG:3035").area)
        assert areas == pytest.approx(true, rel=0.01)
        assert data["unit"] == "m"


def test_the_picture_is_the_scene_and_halves_of_it(scene, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 700, 1300), dtype=np.uint8)
    pixels = np.repeat(np.repeat(pixels[:, ::20, ::20], 20, axis=1), 20, axis=2)
    path = write_image(tmp_path / "large.tif", pixels, transform=NORTH_UP, crs=UTM)
    levels = data_of(fp.view(layer_of(), path))["image"]["levels"]
    assert [(level["width"], level["height"]) for level in levels] == [
        (1300, 700),
        (650, 350),
        (325, 175),
    ]
    shown = picture_of(levels[0]).astype(int)
    assert np.abs(shown - np.moveaxis(pixels, 0, -1)).mean() < 6


def test_large_scenes_are_shown_smaller_or_in_part(scene):
    levels = data_of(fp.view(layer_of(), scene, largest_side=100))["image"]["levels"]
    assert max(levels[0]["width"], levels[0]["height"]) == 100
    left, top = NORTH_UP @ (0, 0)
    part = fp.view(layer_of(), scene, bounds=(left, top - 24, left + 45, top))
    assert data_of(part)["bounds"] == pytest.approx([0, 0, 45, 24], abs=0.3)
    assert agreement(part) > 0.95
    inside = shapely.intersects(TOWN, shapely.box(0, 0, 150, 80))
    assert part.shown == inside.sum()


def test_nothing_of_the_layer_becomes_part_of_the_page(tmp_path):
    bad = "</script><script>alert(1)</script><!--"
    view = fp.view(layer_of(**{"note": bad, bad: "x"}))
    assert "<script>alert" not in view.html
    assert view.html.count("<script") == view.html.count("</script") == 2
    columns = data_of(view)["columns"]
    assert [column["texts"][0][0] for column in columns if column["name"] == "note"] == [bad]
    path = tmp_path / "<img src=x>.gpkg"
    layer_of().to_file(path, layer="town")
    assert "<img" not in fp.view(path).html


def test_the_page_names_no_other_place(scene):
    page = fp.view(layer_of(), scene).html
    code = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert not re.search(r"https?://|src=|href=|import\s|fetch\(|url\(", code)
    assert "default-src 'none'" in code


def test_a_notebook_gets_the_page_in_a_frame_without_rights(scene):
    view = fp.view(layer_of(), scene)
    frame = view._repr_html_()
    assert re.match(r'<iframe [^>]*sandbox="allow-scripts" srcdoc="', frame)
    assert unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == view.html
    assert len(repr(view)) < 80
    assert "12 footprints" in repr(view)


def test_the_same_layer_makes_the_same_page(scene):
    assert fp.view(layer_of(), scene).html == fp.view(layer_of(), scene).html


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        pytest.param({"bounds": (0, 0, 1, 1)}, LayerError, "beyond town.tif", id="elsewhere"),
        pytest.param({"bounds": (2, 0, 1, 1)}, LayerError, "x_min, y_min", id="bounds reversed"),
        pytest.param({"largest_side": 0}, ConfigError, "at least 1", id="no picture"),
        pytest.param({"pixels": True}, LayerError, "pixel coordinates", id="layer on the ground"),
    ],
)
def test_what_does_not_fit_is_refused(scene, options, error, words):
    with pytest.raises(error, match=words):
        fp.view(layer_of(), scene, **options)


def test_a_scene_of_another_place_is_refused(scene):
    elsewhere = layer_of().translate(5000, 0).to_frame("geometry")
    with pytest.raises(LayerError, match=r"town\.tif shows none of the buildings"):
        fp.view(elsewhere, scene)


def test_the_command_writes_the_page_beside_the_layer(scene, tmp_path):
    layer = tmp_path / "town.gpkg"
    layer_of().to_file(layer)
    arguments = ["view", str(layer), "--scene", str(scene)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"12 footprints, 0\.\d MB, .*town\.html\n", result.stdout)
    page = tmp_path / "town.html"
    assert page.read_text() == fp.view(layer, scene).html
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert again.stderr == f"footprints: page exists: {page}; replace it with --overwrite\n"
    wrong = CliRunner().invoke(app, [*arguments, "--overwrite", "--bounds", "1,2,3"])
    assert "--bounds takes x_min,y_min,x_max,y_max, got '1,2,3'" in wrong.stderr


def test_a_page_is_called_html(tmp_path):
    with pytest.raises(OutputError, match=r"end in \.html, got 'town\.png'"):
        fp.view(layer_of()).save(tmp_path / "town.png")
