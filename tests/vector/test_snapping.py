"""Vertices are rounded, and what met before still meets."""

import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyproj import CRS
from shapely import Polygon, box
from shapely.affinity import rotate, scale, translate

from footprints.vector.disjoint import make_disjoint
from footprints.vector.outlines import Footprints
from footprints.vector.scenes import SceneRecord, attach_scenes
from footprints.vector.snapping import lattice_step, snap, snap_vertices

UTM = CRS("EPSG:32645")
ORIGIN = (338_000.123, 3_057_000.77)


def old_town(seed: int, houses: int = 120, side: float = 130.0) -> np.ndarray:
    """Houses at all angles that were cut to fit one another: corners lie on neighbours' walls."""
    rng = np.random.default_rng(seed)
    boxes = [
        translate(
            rotate(box(0, 0, *rng.uniform(6, 22, 2)), rng.uniform(0, 90)), *rng.uniform(0, side, 2)
        )
        for _ in range(houses)
    ]
    footprints = Footprints(
        np.array(boxes, dtype=object),
        rng.random(houses).astype(np.float32),
        np.zeros(houses, dtype=np.int64),
        np.zeros(houses, dtype=bool),
        np.empty((houses, 0, 3)),
    )
    polygons = make_disjoint(footprints, np.zeros(houses, dtype=bool)).polygons
    placed = shapely.transform(polygons, lambda xy: xy + np.array(ORIGIN))
    return shapely.orient_polygons(placed, exterior_cw=False)


def shared_area(polygons: np.ndarray) -> float:
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    pairs = first < second
    shared = shapely.intersection(polygons[first[pairs]], polygons[second[pairs]])
    return float(shapely.area(shared).sum())


@settings(max_examples=8)
@example(7104)  # has a spike, with which GEOS takes a ring for the other way round
@given(st.integers(0, 10_000))
def test_neighbours_stay_neighbours(seed: int) -> None:
    town = old_town(seed)
    snapped = snap(town, 0.01)
    xy = shapely.get_coordinates(snapped)
    np.testing.assert_array_equal(xy, np.round(xy, 2))
    assert shapely.is_valid(snapped).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(snapped)).all()
    # Edge-matched: no overlap, and along common walls no gap.
    assert shapely.coverage_is_valid(snapped)
    without_spikes = shapely.simplify(town, 0.001)
    assert shapely.covers(shapely.buffer(without_spikes, 0.015), snapped).all()
    # What hangs on a neck thinner than the lattice may go.
    lost = shapely.area(town) - shapely.area(snapped)
    assert (np.abs(lost) <= 0.01 * shapely.length(town)).mean() > 0.95
    assert lost.sum() < 0.02 * shapely.area(town).sum()


def test_rounding_alone_would_not_do() -> None:
    town = old_town(1)
    rounded = shapely.transform(town, lambda xy: np.round(xy, 2))
    assert not shapely.coverage_is_valid(rounded)
    assert shared_area(rounded[shapely.is_valid(rounded)]) > 0.01
    assert shared_area(snap(town, 0.01)) == 0


def test_a_corner_on_a_straight_wall_becomes_a_corner_of_both() -> None:
    long = Polygon([(0, 0), (30, 7), (28, 16), (-2, 9)])
    at = shapely.line_interpolate_point(shapely.LineString([(0, 0), (30, 7)]), 11.1234)
    short = Polygon([(at.x, at.y), (at.x, at.y - 9), (at.x + 9, at.y - 9), (at.x + 9, at.y - 3)])
    both = snap(np.array([long, short]), 0.01)
    corner = tuple(np.round([at.x, at.y], 2))
    for polygon in both:
        assert corner in [tuple(xy) for xy in shapely.get_coordinates(polygon)]


def test_a_spike_thinner_than_the_lattice_goes() -> None:
    house = Polygon([(0, 0), (10, 0), (10, 5), (14, 5.001), (10, 5.002), (10, 10), (0, 10)])
    [snapped] = snap(np.array([house]), 0.01)
    assert snapped.bounds == (0, 0, 10, 10)
    assert snapped.is_valid


def test_what_is_thinner_than_the_lattice_stays() -> None:
    thread = np.array([box(0, 0, 5, 0.001)])
    assert snap(thread, 0.01)[0].equals(thread[0])


def test_holes_are_kept() -> None:
    house = box(0, 0, 20, 20).difference(box(5, 5, 9.12345, 9))
    [snapped] = snap(np.array([house]), 0.01)
    assert snapped.equals(box(0, 0, 20, 20).difference(box(5, 5, 9.12, 9)))


@pytest.mark.parametrize(
    ("crs", "pixel_m", "step"),
    [
        pytest.param(UTM, 0.3, 0.01, id="a centimetre"),
        pytest.param(UTM, 0.08, 0.001, id="a drone's pixels"),
        pytest.param(UTM, 10.0, 0.01, id="never coarser"),
        pytest.param(CRS("EPSG:4326"), 0.3, 1e-7, id="degrees"),
        pytest.param(CRS("EPSG:2263"), 0.3, 0.01, id="US feet"),
        pytest.param(None, None, 0.01, id="pixels"),
    ],
)
def test_the_lattice_is_fine_on_the_ground(crs: CRS | None, pixel_m: float, step: float) -> None:
    assert lattice_step(crs, pixel_m) == pytest.approx(step)


def test_a_layer_in_degrees_is_rounded_to_a_centimetre() -> None:
    house = translate(
        scale(box(0, 0, 20, 10), 1e-5, 1e-5, origin=(0, 0)), 85.123456789, 27.987654321
    )
    layer = GeoDataFrame({"area_m2": [0.0]}, geometry=[house], crs="EPSG:4326")
    attach_scenes(layer, [SceneRecord("a", "b", "0", 0.3, {}, "MULTIPOLYGON EMPTY", None)])
    snapped = snap_vertices(layer)
    xy = shapely.get_coordinates(snapped.geometry)
    np.testing.assert_allclose(xy, np.round(xy, 7), rtol=0, atol=1e-12)
    assert snapped["area_m2"][0] == pytest.approx(19.66 * 11.08, rel=0.01)
    assert snapped.attrs == layer.attrs
    assert layer["area_m2"][0] == 0
