"""Scenes of a made-up town: files that are what they say, and outlines that lie on the pixels."""

import shlex
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from shapely import Polygon

from footprints.data.synthetic import generate_scene, scene
from footprints.data.synthetic.__main__ import main
from footprints.data.synthetic.blocks import Contents
from footprints.data.synthetic.paint import (
    HAZE,
    SAMPLES,
    TALLEST_M,
    Samples,
    _noise,
    _shadow_height,
    paint,
)
from footprints.data.synthetic.rings import area_m2, cut, fit_rectangle, inset, subdivide
from footprints.data.synthetic.roofs import ROOFS, Material, Surface
from footprints.data.synthetic.town import Town
from footprints.errors import ConfigError, OutputError

GEOD = Geod(ellps="WGS84")
SQUARE = np.array([(0.0, 0.0), (40.0, 0.0), (40.0, 30.0), (0.0, 30.0)])
CORNERS = [(0, 0), (9, 0), (9, 3), (4, 3), (4, 8), (0, 8)]
SAMPLE = Path(__file__).parents[2] / "data_samples"


@pytest.fixture(scope="module")
def truth():
    return gpd.read_file(SAMPLE / "town_buildings.gpkg")


class OnePolygon:
    """Stands in for a town: one white polygon on black ground."""

    seed = 0

    def __init__(self, polygon):
        self.polygon = polygon

    def cells(self, _bounds):
        black = Material((0.0, 0.0, 0.0), stain=(0.0, 0.0, 0.0), grain=0.0)
        white = Material((0.9, 0.9, 0.9), stain=(0.9, 0.9, 0.9), grain=0.0)
        ground = Surface(shapely.box(-1000, -1000, 1000, 1000), black)
        yield Contents(streets=[ground], ground=[Surface(self.polygon, white)])


@settings(max_examples=4, deadline=None)
@given(row=st.integers(-900, 900), column=st.integers(-900, 900))
def test_a_window_painted_alone_is_the_same_as_in_a_larger_one(row, column):
    town = Town(seed=5)
    large = paint(town, row, column, 60, 70, 0.3)
    small = paint(town, row + 21, column + 13, 30, 40, 0.3)
    np.testing.assert_allclose(small, large[:, 21:51, 13:53], atol=1e-5)


@pytest.mark.parametrize("angle", [0, 17, 45, 80])
def test_pixels_cover_what_the_true_polygon_covers(angle):
    gsd = 0.3
    house = shapely.affinity.rotate(Polygon(CORNERS), angle)
    house = shapely.affinity.translate(house, 12.345, 11.111)
    view = paint(OnePolygon(house), 0, 0, 90, 90, gsd)[0]
    share = (view - 0.75 * HAZE[0]) / (0.9 * (1 - HAZE[0]))
    assert share.sum() * gsd**2 == pytest.approx(house.area, rel=0.01)
    y, x = np.mgrid[:90, :90] + 0.5
    seen = np.array([(share * x).sum(), (share * y).sum()]) / share.sum()
    expected = np.array(house.centroid.coords[0]) / gsd
    assert np.abs(seen - expected).max() < 0.5 / SAMPLES


def test_a_scene_written_in_small_blocks_has_the_same_pixels(tmp_path, monkeypatch):
    whole = generate_scene(tmp_path / "whole.tif", width=150, height=130, seed=4)
    monkeypatch.setattr(scene, "BLOCK", 64)
    pieces = generate_scene(tmp_path / "pieces.tif", width=150, height=130, seed=4)
    with rasterio.open(whole.raster) as a, rasterio.open(pieces.raster) as b:
        difference = np.abs(a.read().astype(int) - b.read())
    assert difference.max() <= 1


def test_another_seed_is_another_town(tmp_path):
    layers = [
        gpd.read_file(
            generate_scene(tmp_path / f"{seed}.tif", width=80, height=80, seed=seed).buildings
        )
        for seed in (0, 1)
    ]
    assert not layers[0].geometry.union_all().equals(layers[1].geometry.union_all())


@pytest.mark.parametrize(
    ("options", "nodata"),
    [
        pytest.param({"dtype": "uint8", "bands": 3}, 0, id="aerial RGB"),
        pytest.param({"dtype": "uint16", "bands": 4}, 0, id="satellite with near infrared"),
        pytest.param({"dtype": "uint16", "bands": 1}, 0, id="panchromatic"),
        pytest.param({"dtype": "float32", "bands": 3}, np.nan, id="reflectance"),
    ],
)
def test_files_have_the_type_and_bands_asked_for(tmp_path, options, nodata):
    made = generate_scene(tmp_path / "a.tif", width=120, height=100, **options)
    with rasterio.open(made.raster) as file:
        pixels = file.read()
        assert (file.width, file.height, file.count) == (120, 100, options["bands"])
        assert set(file.dtypes) == {options["dtype"]}
        assert np.array_equal(file.nodata, nodata, equal_nan=True)
        assert set(file.block_shapes) == {(256, 256)}
        assert file.colorinterp[-1] != rasterio.enums.ColorInterp.alpha
        valid = file.dataset_mask() > 0
    assert not valid[[0, -1], [0, -1]].any()
    assert valid[50, 60]
    assert np.all(np.isnan(pixels[:, ~valid]) if np.isnan(nodata) else pixels[:, ~valid] == 0)
    assert np.all(pixels[:, valid] > 0)
    assert pixels[:, valid].std() > 0.1 * pixels[:, valid].mean()
    if options["dtype"] == "uint16":
        assert 255 < pixels.max() <= 2047


@pytest.mark.parametrize(
    ("crs", "rotation"),
    [("EPSG:32645", 0.0), ("EPSG:3857", 0.0), ("EPSG:4326", 0.0), ("EPSG:4326", 30.0)],
)
def test_pixels_have_their_size_on_the_ground_in_any_crs(tmp_path, crs, rotation):
    made = generate_scene(
        tmp_path / "a.tif", width=150, height=140, gsd_m=0.5, crs=crs, rotation_deg=rotation
    )
    layer = gpd.read_file(made.buildings)
    with rasterio.open(made.raster) as file:
        assert layer.crs == file.crs
        corners = Polygon([file.transform @ p for p in ((0, 0), (150, 0), (150, 140), (0, 140))])
        ground = gpd.GeoSeries([corners], crs=file.crs)
    assert layer.within(ground[0].buffer(1e-6)).all()
    area = abs(GEOD.geometry_area_perimeter(ground.to_crs(4326)[0])[0])
    assert area == pytest.approx(75 * 70, rel=3e-3)


def test_the_same_town_is_seen_at_every_resolution(tmp_path):
    fine, coarse = (
        generate_scene(
            tmp_path / f"{side}.tif", width=side, height=side, gsd_m=60 / side, nodata_collar=False
        )
        for side in (200, 100)
    )
    assert fine.count == coarse.count >= 5
    with rasterio.open(fine.raster) as a, rasterio.open(coarse.raster) as b:
        halved = a.read().reshape(3, 100, 2, 100, 2).mean(axis=(2, 4))
        assert np.corrcoef(halved.ravel(), b.read().ravel())[0, 1] > 0.9


def test_true_outlines_are_valid_apart_and_on_data(truth):
    assert (truth.geom_type == "Polygon").all()
    assert truth.is_valid.all()
    assert set(truth["class"]) <= set(ROOFS)
    assert len(truth) > 300
    assert truth["height_m"].between(2, TALLEST_M).all()
    first, second = truth.sindex.query(truth.geometry, predicate="intersects")
    pairs = first < second
    common = truth.geometry.values[first[pairs]].intersection(truth.geometry.values[second[pairs]])
    assert common.area.max() < 0.01
    assert np.sum(common.length > 3) > 10, "no terraced houses share a wall"
    with rasterio.open(SAMPLE / "town.tif") as file:
        inside = truth.buffer(-0.3)
        mask = rasterio.features.geometry_mask(inside, file.shape, file.transform, invert=True)
        assert file.dataset_mask()[mask].all()


def test_only_buildings_at_the_edge_of_the_data_are_cut(truth):
    with rasterio.open(SAMPLE / "town.tif") as file:
        valid = next(
            Polygon(shape["coordinates"][0])
            for shape, value in rasterio.features.shapes(
                (file.dataset_mask() > 0).astype("uint8"), transform=file.transform
            )
            if value
        )
    assert truth["cut"].any()
    assert not truth["cut"].all()
    assert truth[truth["cut"]].distance(valid.exterior).max() < 0.5


def test_a_building_casts_a_shadow_away_from_the_sun():
    height = np.zeros((40, 40), np.float32)
    height[20:24, 20:24] = 4.0
    shaded = _shadow_height(height, 0.6, 0.8, drop=0.5) > height
    assert shaded[17:20, 17:20].any()
    assert not shaded[24:, :].any()
    assert not shaded[:, 24:].any()
    assert not shaded[:10, :].any(), "4 m at half a metre a step reach 8 steps"


@given(row=st.integers(-500, 500), column=st.integers(-500, 500))
@settings(max_examples=20, deadline=None)
def test_noise_is_a_function_of_the_place(row, column):
    large = _noise(3, Samples(row, column, 40, 50, 0.1), 2.5)
    small = _noise(3, Samples(row + 11, column + 7, 9, 8, 0.1), 2.5)
    np.testing.assert_array_equal(small, large[11:20, 7:15])
    assert large.min() >= 0
    assert large.max() <= 1


def test_dividing_a_plot_loses_only_the_lanes():
    parts = list(subdivide(SQUARE, np.random.default_rng(0), 100.0, 0.0))
    assert all(area_m2(part) < 100.0 for part in parts)
    assert sum(area_m2(part) for part in parts) == pytest.approx(area_m2(SQUARE))
    first, second = subdivide(SQUARE, np.random.default_rng(0), 1000.0, 2.0)
    assert Polygon(first).distance(Polygon(second)) == pytest.approx(2.0)


def test_a_plot_shrinks_from_each_side_until_nothing_is_left():
    assert area_m2(inset(SQUARE, 5.0)) == pytest.approx(30 * 20)
    assert area_m2(inset(SQUARE, np.array([0.0, 10.0, 0.0, 0.0]))) == pytest.approx(30 * 30)
    assert len(inset(SQUARE, 16.0)) == 0
    assert len(cut(SQUARE, np.array([50.0, 0.0]), np.array([1.0, 0.0]))) == 0


def test_the_fitted_rectangle_touches_the_plot_from_inside():
    u = np.array([np.cos(0.3), np.sin(0.3)])
    (x, y), length, width = fit_rectangle(SQUARE, u)
    box = shapely.affinity.rotate(
        shapely.box(x - length / 2, y - width / 2, x + length / 2, y + width / 2), np.degrees(0.3)
    )
    assert Polygon(SQUARE).buffer(1e-6).contains(box)
    assert box.distance(Polygon(SQUARE).exterior) < 1e-6
    assert fit_rectangle(np.empty((0, 2)), u)[1:] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"width": 0}, "at least one pixel", id="no pixels"),
        pytest.param({"gsd_m": -0.3}, "positive size", id="negative resolution"),
        pytest.param({"bands": 2}, "got 2", id="two bands"),
        pytest.param({"dtype": "int8"}, "'int8'", id="pixel type without a rendering"),
        pytest.param({"crs": "EPSG:1"}, "'EPSG:1'", id="unknown CRS"),
        pytest.param({"seed": -1}, "got -1", id="negative seed"),
        pytest.param({"density": 1.5}, "1.5", id="more than full"),
    ],
)
def test_what_cannot_be_is_refused_before_a_file_is_written(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        generate_scene(tmp_path / "a.tif", **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path, capsys):
    with pytest.raises(OutputError, match=r"does not exist: .*nowhere; create it"):
        generate_scene(tmp_path / "nowhere" / "a.tif")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere" / "a.tif")])
    assert "nowhere; create it first" in capsys.readouterr().err


@pytest.mark.parametrize("existing", ["a.tif", "a_buildings.gpkg"])
def test_files_are_replaced_only_when_that_is_asked_for(tmp_path, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(OutputError, match=r"exists?: .*; replace (it|them) with --overwrite"):
        generate_scene(tmp_path / "a.tif", width=40, height=40)
    assert (tmp_path / existing).read_text() == "precious"
    main([str(tmp_path / "a.tif"), "--width=40", "--height=40", "--overwrite"])
    assert len(gpd.read_file(tmp_path / "a_buildings.gpkg").columns) == 4


def test_only_geotiffs_are_written(tmp_path):
    with pytest.raises(OutputError, match=r"must end in \.tif, got 'a\.png'"):
        generate_scene(tmp_path / "a.png")


def test_the_command_in_the_readme_makes_the_sample_again(tmp_path):
    text = (SAMPLE / "README.md").read_text()
    line = next(line for line in text.splitlines() if "-m footprints.data.synthetic" in line)
    target, *options = shlex.split(line.split("footprints.data.synthetic")[1])
    assert target == "data_samples/town.tif"
    main([str(tmp_path / "town.tif"), *options])
    with rasterio.open(tmp_path / "town.tif") as new, rasterio.open(SAMPLE / "town.tif") as old:
        assert new.transform == old.transform
        assert new.crs == old.crs
        # Other versions of NumPy and GDAL may round a sample's place differently.
        assert np.mean(np.abs(new.read().astype(int) - old.read())) < 1.0
    layers = [gpd.read_file(folder / "town_buildings.gpkg") for folder in (tmp_path, SAMPLE)]
    assert list(layers[0]["class"]) == list(layers[1]["class"])
    assert layers[0].geom_equals_exact(layers[1], tolerance=0.01).all()


def test_the_sample_is_small_and_holds_every_class_and_a_hall_wider_than_a_chip(truth):
    assert (SAMPLE / "town.tif").stat().st_size < 5e6
    assert set(truth["class"]) == set(ROOFS)
    assert truth.interiors.map(len).sum() > 2
    hall = truth.minimum_rotated_rectangle()[(truth["class"] == "industrial") & ~truth["cut"]]
    sides = [
        shapely.distance(*shapely.points(ring.exterior.coords[i : i + 2]))
        for ring in hall
        for i in (0, 1)
    ]
    longest = max(sides)
    assert longest > 512 * 0.3


def test_nothing_is_higher_than_shadows_are_reckoned_for():
    cells = list(Town(seed=1, density=0.5).cells((0, 0, 400, 400)))
    surfaces = [s for cell in cells for b in cell.buildings for s in b.surfaces]
    tops = [s.top_m + max((wing.rise for wing in s.wings), default=0.0) for s in surfaces]
    assert max(tops) < TALLEST_M
    assert max(tree.height_m for cell in cells for tree in cell.trees) < TALLEST_M
