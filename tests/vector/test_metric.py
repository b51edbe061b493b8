"""Layouts in metres: right in any CRS, and back to where things were."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from pyproj import CRS, Geod
from shapely import box

from footprints.errors import LayerError
from footprints.vector.metric import MetricFrame, components, metres_per_unit


@pytest.mark.parametrize(
    ("crs", "x", "y", "size"),
    [
        pytest.param("EPSG:4326", 85.5, 27.6, 1e-4, id="degrees"),
        pytest.param("EPSG:4326", 25.0, 69.0, 1e-4, id="degrees, far north"),
        pytest.param("EPSG:4326", 180.0, -16.0, 1e-4, id="across the antimeridian"),
        pytest.param("EPSG:3857", 9.52e6, 3.2e6, 20.0, id="Web Mercator"),
        pytest.param("EPSG:32645", 350_000.0, 3.05e6, 20.0, id="UTM"),
        pytest.param("EPSG:2263", 990_000.0, 200_000.0, 60.0, id="feet"),
    ],
)
def test_metres_are_those_of_the_ellipsoid(crs, x, y, size):
    one, far = box(x, y, x + size, y + size), box(x + 90 * size, y, x + 91 * size, y + size)
    polygons = np.array([one, far])
    frame = MetricFrame.around(polygons, CRS(crs), reach_m=2.0)
    plane = frame.to_metres(polygons)
    to_degrees = gpd.GeoSeries([one], crs=crs).to_crs("EPSG:4326")
    area, length = Geod(ellps="WGS84").geometry_area_perimeter(to_degrees.iloc[0])
    assert plane[0].length == pytest.approx(length, rel=1e-4)
    assert plane[0].area == pytest.approx(abs(area), rel=1e-4)
    assert not plane[0].intersects(plane[1])
    back = frame.to_crs(plane)
    assert shapely.hausdorff_distance(back, polygons).max() < size * 1e-6


def test_without_crs_units_are_metres_and_an_engineering_system_has_its_own():
    place = np.array([[5.0, 7.0]])
    assert np.array_equal(metres_per_unit(place, None)[0], np.eye(2))
    feet = CRS('LOCAL_CS["site",UNIT["foot",0.3048]]')
    assert np.allclose(metres_per_unit(place, feet)[0], 0.3048 * np.eye(2))


def test_points_that_coincide_do_so_there_and_back():
    one, other = box(85.5, 27.6, 85.5001, 27.6001), box(85.5001, 27.6, 85.5002, 27.6001)
    frame = MetricFrame.around(np.array([one, other]), CRS("EPSG:4326"), reach_m=1.0)
    plane = frame.to_metres(np.array([one, other]))
    assert shapely.coverage_is_valid(plane)
    assert shapely.coverage_is_valid(frame.to_crs(plane))


def test_places_outside_the_crs_are_refused():
    with pytest.raises(LayerError, match="outside the domain"):
        metres_per_unit(np.array([[1e9, 1e9]]), CRS("EPSG:32645"))


def test_components_of_long_chains_and_of_nothing():
    chain = np.column_stack([np.arange(999), np.arange(1, 1000)])[::-1]
    assert set(components(1000, chain)) == {0}
    pairs = np.array([[3, 1], [4, 0]])
    assert components(6, pairs).tolist() == [0, 1, 2, 1, 0, 3]
    assert components(3, np.empty((0, 2), dtype=int)).tolist() == [0, 1, 2]
