"""Simplification: fewer vertices, a bound on the distance, shared walls and holes kept."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from shapely import Polygon, box

from footprints.errors import ConfigError, LayerError
from footprints.vector.regularize import regularize
from footprints.vector.simplify import simplify

UTM = CRS("EPSG:32645")


def outlines(layer):
    return layer.geometry.to_numpy()


def wavy_coverage(seed):
    """Cells that share wavy walls, vertex for vertex, some of them with a hole."""
    rng = np.random.default_rng(seed)
    points = shapely.multipoints(rng.uniform(0, 60, (12, 2)))
    cells = shapely.get_parts(shapely.voronoi_polygons(points))
    cells = shapely.intersection(cells, box(0, 0, 60, 60))
    dense = shapely.segmentize(shapely.coverage_clean(cells), 1.0)
    holes = shapely.buffer(shapely.point_on_surface(dense), 0.5)
    cut = np.where(shapely.area(dense) > 60, shapely.difference(dense, holes), dense)
    phase = rng.uniform(0, 6, 2)
    # The derivative stays below 1, so that nothing folds over.
    return shapely.transform(cut, lambda xy: xy + 0.3 * np.sin(2 * xy[:, ::-1] + phase))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), tolerance=st.sampled_from([0.1, 0.5, 2.0, 10.0]))
def test_distance_is_bounded_and_nothing_is_lost(seed, tolerance):
    source = wavy_coverage(seed)
    result = outlines(simplify(gpd.GeoDataFrame(geometry=source), tolerance))
    assert len(result) == len(source)
    assert shapely.is_valid(result).all()
    assert shapely.hausdorff_distance(source, result, densify=0.5).max() <= tolerance * (1 + 1e-6)
    assert (shapely.get_num_interior_rings(result) == shapely.get_num_interior_rings(source)).all()
    assert (shapely.get_num_coordinates(result) <= shapely.get_num_coordinates(source)).all()
    before = shapely.union_all(source)
    after = shapely.union_all(result)
    assert shapely.area(result).sum() == pytest.approx(after.area, abs=1e-3)
    assert len(shapely.get_parts(after)) == len(shapely.get_parts(before))
    # No gap opens between cells.
    assert shapely.get_num_interior_rings(after) <= shapely.get_num_interior_rings(before)
    assert shapely.coverage_is_valid(result)


def test_it_drops_what_does_not_matter():
    rng = np.random.default_rng(0)
    circle = shapely.Point(350_000, 3_057_000).buffer(10, quad_segs=64)
    ring = np.asarray(circle.exterior.coords)[:-1]
    noisy = Polygon(ring + rng.uniform(-0.1, 0.1, ring.shape))
    (result,) = outlines(simplify(gpd.GeoDataFrame(geometry=[noisy], crs=UTM), 0.5))
    assert shapely.get_num_coordinates(result) < 20
    assert shapely.hausdorff_distance(noisy, result, densify=0.01) <= 0.5


def test_metres_are_metres_in_degrees():
    source = shapely.transform(wavy_coverage(3), lambda xy: xy + np.array([350_000, 3_057_000]))
    layer = gpd.GeoDataFrame(geometry=source, crs=UTM).to_crs("EPSG:4326")
    result = simplify(layer, 1.0)
    assert shapely.coverage_is_valid(outlines(result)) == shapely.coverage_is_valid(outlines(layer))
    moved = outlines(result.to_crs(UTM))
    assert 0.4 < shapely.hausdorff_distance(source, moved).max() <= 1.002
    assert (
        shapely.get_num_coordinates(moved).sum() < 0.6 * shapely.get_num_coordinates(source).sum()
    )


def test_shared_walls_stay_shared():
    one = Polygon([(0, 0), (5, 0.2), (10, 0), (10.2, 5), (10, 10), (0, 10)])
    other = Polygon([(10, 0), (20, 0), (20, 10), (10, 10), (10.2, 5)])
    result = outlines(simplify(gpd.GeoDataFrame(geometry=[one, other], crs=UTM), 0.3))
    assert shapely.coverage_is_valid(result)
    assert shapely.get_num_coordinates(result).tolist() == [5, 5]


def test_a_house_that_fills_a_courtyard_still_does():
    yard = shapely.Point(0, 0).buffer(5, quad_segs=16)
    ring = box(-10, -10, 10, 10).difference(yard)
    result = outlines(simplify(gpd.GeoDataFrame(geometry=[ring, yard], crs=UTM), 0.4))
    assert shapely.coverage_is_valid(result)
    assert shapely.union_all(result).area == pytest.approx(400)
    assert shapely.get_num_coordinates(result[1]) < 20


def test_neighbours_across_a_lane_do_not_run_into_each_other():
    teeth = [(x, 0.9 * (x % 2)) for x in range(21)]
    low = Polygon([(0, -10), *teeth, (20, -10)])
    high = Polygon([(0, 10), *((x, y + 0.3) for x, y in teeth), (20, 10)])
    result = outlines(simplify(gpd.GeoDataFrame(geometry=[low, high], crs=UTM), 1.0))
    assert shapely.intersection(*result).area < 1e-6
    assert shapely.hausdorff_distance([low, high], result).max() <= 1.0


def test_small_houses_never_collapse():
    houses = [box(3 * i, 0, 3 * i + 1, 1) for i in range(4)]
    result = outlines(simplify(gpd.GeoDataFrame(geometry=houses, crs=UTM), 50.0))
    assert len(result) == 4
    assert (shapely.area(result) > 0).all()
    assert shapely.is_valid(result).all()


def test_columns_and_order_survive_and_areas_are_new():
    layer = gpd.GeoDataFrame(
        {"id": [4, 2], "area_m2": [0.0, 0.0], "name": ["a", "b"]},
        geometry=[
            box(350_000, 3_057_000, 350_010, 3_057_010),
            box(350_020, 3_057_000, 350_030, 3_057_005),
        ],
        crs=UTM,
    )
    result = simplify(layer, 0.5)
    assert list(result.columns) == ["id", "area_m2", "name", "geometry"]
    assert result["id"].tolist() == [4, 2]
    assert result["area_m2"].tolist() == pytest.approx([100, 50], rel=2e-3)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_no_distance_is_one_line(value):
    layer = gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs=UTM)
    with pytest.raises(ConfigError, match="positive number of metres, got"):
        simplify(layer, value)


def test_an_empty_layer_stays_one():
    assert len(simplify(gpd.GeoDataFrame({"id": []}, geometry=[], crs=UTM), 1.0)) == 0


@pytest.mark.parametrize("change", [simplify, regularize], ids=["simplify", "regularize"])
def test_a_file_will_do_in_place_of_a_layer(tmp_path, change):
    cells = [box(0, 0, 20, 12).segmentize(0.7), box(30, 0, 44, 9).segmentize(0.7)]
    layer = gpd.GeoDataFrame({"owner": ["a", "b"]}, geometry=cells, crs=UTM)
    layer.to_file(tmp_path / "houses.gpkg")
    changed = change(tmp_path / "houses.gpkg", tolerance_m=0.5)
    assert_geodataframe_equal(changed, change(layer, tolerance_m=0.5))
    assert (shapely.get_num_coordinates(outlines(changed)) == 5).all()
    with pytest.raises(LayerError, match=r"nowhere\.gpkg"):
        change(tmp_path / "nowhere.gpkg", tolerance_m=0.5)
