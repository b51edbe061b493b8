"""Regularisation: corners found, walls shared, nothing lost, in any CRS."""

from __future__ import annotations

from itertools import pairwise

import building_shapes
import geopandas as gpd
import numpy as np
import pytest
import shapely
from building_shapes import (
    MAKERS,
    common_staircase,
    corner_count,
    is_exact,
    is_round,
    noisy,
    rounded,
    staircase,
    turned,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from shapely import Polygon, affinity, box

from footprints.errors import ConfigError, LabelWarning, LayerError
from footprints.vector.regularize import METHODS, regularize
from footprints.vector.result import UNCHANGED, summary

UTM = CRS("EPSG:32645")
SPACING_M = 60.0


def town(polygons, crs=UTM):
    """Polygons around (0, 0) side by side, far enough to leave one another alone."""
    placed = [
        affinity.translate(p, 350_000 + SPACING_M * (i % 20), 3_057_000 + SPACING_M * (i // 20))
        for i, p in enumerate(polygons)
    ]
    return gpd.GeoDataFrame(
        {"name": [f"b{i}" for i in range(len(placed))]}, geometry=placed, crs=crs
    )


def ious(one, other):
    common = shapely.area(shapely.intersection(one, other))
    return common / (shapely.area(one) + shapely.area(other) - common)


def outlines(layer):
    return layer.geometry.to_numpy()


@pytest.fixture(scope="module")
def shapes():
    """Kind, truth, staircase and noisy outline of buildings at random angles."""
    rng = np.random.default_rng(7)
    made = [(kind, turned(make(rng), rng)) for kind, make in MAKERS.items() for _ in range(12)]
    return [(kind, true, staircase(true), noisy(true, rng)) for kind, true in made]


# What it finds.


@pytest.mark.parametrize(
    ("which", "least_exact", "least_iou"),
    [pytest.param(2, 0.97, 0.99, id="staircases"), pytest.param(3, 0.75, 0.97, id="noise")],
)
def test_automatic_choice_finds_the_corners_at_any_angle(shapes, which, least_exact, least_iou):
    result = outlines(regularize(town([each[which] for each in shapes])))
    true = outlines(town([each[1] for each in shapes]))
    exact = [is_exact(each[0], polygon) for each, polygon in zip(shapes, result, strict=True)]
    assert np.mean(exact) >= least_exact
    assert ious(result, true).mean() >= least_iou


@pytest.mark.parametrize(
    ("sigma_px", "tolerance_m"),
    [pytest.param(1.5, 0.5, id="narrow tolerance"), pytest.param(2.5, 1.0, id="wide blur")],
)
def test_corners_that_a_network_rounds_are_rebuilt(shapes, sigma_px, tolerance_m):
    some = [(kind, true) for kind, true, *_ in shapes if kind != "round"][::2]
    worn = outlines(town([rounded(true, sigma_px) for _, true in some]))
    found = outlines(regularize(town([rounded(t, sigma_px) for _, t in some]), "auto", tolerance_m))
    exact = [is_exact(kind, p) for (kind, _), p in zip(some, found, strict=True)]
    assert np.mean(exact) >= 0.95
    assert shapely.hausdorff_distance(found, worn).max() <= tolerance_m + 0.01
    assert ious(found, outlines(town([true for _, true in some]))).min() >= 0.95


def test_walls_across_a_corner_that_are_no_wear_stay():
    far = Polygon([(0, 0), (16, 0), (16, 9), (13, 12), (0, 12)])
    beside_short = Polygon([(0, 0), (12, 0), (12, 10), (5, 10), (3.5, 8.5), (3.5, 6), (0, 6)])
    octagon = affinity.rotate(shapely.Point(0, 0).buffer(3, quad_segs=2), 22.5)
    layer = regularize(town([far, beside_short, octagon]), "diagonals", 0.5)
    assert [corner_count(p) for p in outlines(layer)] == [5, 7, 8]


def test_a_courtyard_and_an_inner_corner_are_rebuilt_too():
    worn = Polygon(
        [(0, 0), (20, 0), (20, 9.3), (19.3, 10), (10.7, 10), (10, 10.7), (10, 20), (0, 20)],
        [[(3, 3), (3, 6.3), (3.7, 7), (8, 7), (8, 3)]],
    )
    (found,) = outlines(regularize(town([worn]), "diagonals", 0.5))
    assert corner_count(found) == 10
    assert len(found.interiors) == 1


def test_minimum_rotated_rectangles_would_not_pass(shapes):
    true = np.array([each[1] for each in shapes])
    rectangles = shapely.minimum_rotated_rectangle(np.array([each[2] for each in shapes]))
    exact = [is_exact(each[0], p) for each, p in zip(shapes, rectangles, strict=True)]
    assert np.mean(exact) < 0.2
    assert ious(rectangles, true).mean() < 0.9


@pytest.mark.parametrize("method", METHODS)
def test_every_method_says_what_it_did_and_stays_near(shapes, method):
    layer = town([each[3] for each in shapes])
    result = regularize(layer, method, 1.0)
    assert set(result["regularized"]) <= {*METHODS, UNCHANGED} - {"auto"}
    assert list(result.columns) == ["name", "regularized", "iou", "geometry"]
    assert result["name"].tolist() == layer["name"].tolist()
    source, fitted = outlines(layer), outlines(result)
    assert shapely.is_valid(fitted).all()
    assert shapely.hausdorff_distance(source, fitted).max() <= 1.0 + 1e-6
    assert np.abs(result["iou"] - ious(source, fitted)).max() < 1e-3
    back = (result["regularized"] == UNCHANGED).to_numpy()
    assert shapely.equals_exact(source[back], fitted[back]).all()


def turns_deg(polygon):
    points = np.asarray(polygon.exterior.coords)
    step = np.diff(points, axis=0)
    heading = np.degrees(np.arctan2(step[:, 1], step[:, 0]))
    return np.diff(heading, append=heading[:1]) % 360


def test_right_angles_are_right(shapes):
    result = regularize(town([each[2] for each in shapes if each[0] != "round"]), "right-angles")
    assert (result["regularized"] == "right-angles").all()
    for polygon in outlines(result):
        assert np.allclose((turns_deg(polygon) + 1) % 90, 1, atol=1e-3)


def test_diagonals_find_a_cut_corner_and_nothing_else():
    house = Polygon([(0, 0), (16, 0), (16, 8), (11, 13), (0, 13)])
    rng = np.random.default_rng(3)
    layer = town([staircase(turned(house, rng)) for _ in range(6)])
    result = regularize(layer, "diagonals")
    assert [corner_count(p) for p in outlines(result)] == [5] * 6
    for polygon in outlines(result):
        assert np.allclose((turns_deg(polygon) + 1) % 45, 1, atol=1e-3)
    assert set(regularize(layer, "auto")["regularized"]) == {"diagonals"}


def test_what_is_said_is_what_came_out(shapes):
    cut = Polygon([(0, 0), (16, 0), (16, 8), (11, 13), (0, 13)])
    bent = Polygon([(0, 0), (20, 0), (24, 12), (3, 10)])
    rng = np.random.default_rng(11)
    worn = [rounded(each[1], 2.5) for each in shapes if each[0] != "round"]
    crooked = [staircase(turned(house, rng)) for house in (cut, bent) for _ in range(8)]
    result = regularize(town([*worn, *crooked]), "auto")
    for polygon, said in zip(outlines(result), result["regularized"], strict=True):
        off = np.concatenate(
            [
                np.abs((turns_deg(Polygon(ring)) + 45) % 90 - 45)
                for ring in [polygon.exterior, *polygon.interiors]
            ]
        )
        narrowest = (
            "right-angles"
            if off.max() < 0.5
            else "diagonals"
            if np.minimum(off, 45 - off).max() < 0.5
            else "any-angle"
        )
        assert said == narrowest
    assert set(result["regularized"][len(worn) :]) == {"diagonals", "any-angle"}
    assert (result["regularized"][: len(worn)] == "right-angles").mean() > 0.8


def test_any_angle_follows_walls_that_are_not_square():
    house = Polygon([(0, 0), (20, 0), (24, 12), (3, 10)])
    rng = np.random.default_rng(4)
    true = [turned(house, rng) for _ in range(6)]
    result = outlines(regularize(town([staircase(p) for p in true]), "any-angle"))
    assert [corner_count(p) for p in result] == [4] * 6
    assert ious(result, outlines(town(true))).min() > 0.97


def test_circles_are_as_large_as_what_they_stand_for(shapes):
    layer = town([each[2] for each in shapes if each[0] == "round"])
    result = regularize(layer, "circle")
    assert (result["regularized"] == "circle").all()
    assert all(is_round(p) for p in outlines(result))
    assert np.allclose(shapely.area(outlines(result)), shapely.area(outlines(layer)), rtol=1e-6)


def test_a_house_is_no_circle(shapes):
    layer = town([each[2] for each in shapes if each[0] == "L"])
    result = regularize(layer, "circle")
    assert (result["regularized"] == UNCHANGED).all()
    assert shapely.equals_exact(outlines(result), outlines(layer)).all()
    assert (result["iou"] == 1).all()


def test_weak_evidence_follows_the_neighbours():
    rng = np.random.default_rng(5)
    long = [affinity.rotate(box(-10, -3, 10, 3), 30, origin=(0, 0)) for _ in range(8)]
    # A blob of no direction, in the middle of them.
    blob = shapely.Point(0, 0).buffer(3.0, quad_segs=3)
    places = [(12 * i, 0) for i in (-2, -1, 1, 2)] + [(12 * i, 16) for i in (-1, 0, 1, 2)]
    polygons = [affinity.translate(p, *at) for p, at in zip(long, places, strict=True)]
    layer = gpd.GeoDataFrame(geometry=[*polygons[4:], noisy(blob, rng, 0.1)], crs=UTM)
    result = regularize(layer, "right-angles", 2.0)
    step = np.diff(np.asarray(outlines(result)[-1].exterior.coords), axis=0)[0]
    turn = np.degrees(np.arctan2(step[1], step[0])) % 90
    assert abs(turn - 30) < 8


# Metres, and nothing lost.


@pytest.mark.parametrize(
    "crs",
    [
        pytest.param("EPSG:4326", id="degrees"),
        pytest.param("EPSG:3857", id="Web Mercator"),
        pytest.param("+proj=utm +zone=45 +datum=WGS84 +units=us-ft", id="feet"),
    ],
)
def test_result_does_not_depend_on_the_units_of_the_crs(shapes, crs):
    layer = town([each[2] for each in shapes[::3]])
    direct = regularize(layer)
    through = regularize(layer.to_crs(crs))
    assert through.crs == CRS(crs)
    assert through["regularized"].tolist() == direct["regularized"].tolist()
    assert ious(outlines(through.to_crs(UTM)), outlines(direct)).min() > 0.995


def test_nothing_is_lost_in_degrees(shapes):
    layer = town([each[3] for each in shapes]).to_crs("EPSG:4326")
    result = regularize(layer)
    assert len(result) == len(layer)
    assert shapely.is_valid(outlines(result)).all()
    assert (result["regularized"] != UNCHANGED).mean() > 0.9


def test_without_crs_the_tolerance_is_in_pixels(shapes):
    layer = town([each[2] for each in shapes[:12]], crs=None)
    result = regularize(layer)
    assert result.crs is None
    assert [corner_count(p) for p in outlines(result)] == [4] * 12


def test_multipolygons_and_invalid_ones_come_out_part_by_part():
    bow = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    two = shapely.MultiPolygon([box(40, 0, 50, 8), box(60, 0, 70, 8)])
    layer = gpd.GeoDataFrame({"k": [1, 2]}, geometry=[bow, two], crs=UTM)
    with pytest.warns(UserWarning, match="1 repaired"):
        result = regularize(layer)
    assert result["k"].tolist() == [1, 1, 2, 2] or result["k"].tolist() == [1, 2, 2]
    assert shapely.is_valid(outlines(result)).all()


def test_an_empty_layer_stays_one():
    layer = gpd.GeoDataFrame({"id": []}, geometry=[], crs=UTM)
    result = regularize(layer)
    assert len(result) == 0
    assert list(result.columns) == ["id", "regularized", "iou", "geometry"]


def test_areas_are_those_of_the_new_outlines(shapes):
    layer = town([shapes[0][2]]).assign(area_m2=1.0)
    result = regularize(layer)
    assert result["area_m2"].iloc[0] == pytest.approx(result.area.iloc[0], rel=2e-3)
    again = regularize(result)
    assert list(again.columns) == list(result.columns)


@settings(max_examples=25)
@given(data=st.data())
def test_any_polygons_come_out_valid_near_and_apart(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    tolerance = data.draw(st.sampled_from([0.3, 1.0, 3.0]))
    method = data.draw(st.sampled_from(METHODS))
    rng = np.random.default_rng(seed)
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.multipoints(rng.uniform(0, 60, (12, 2))))
    )
    cells = shapely.intersection(cells, box(0, 0, 60, 60))
    # Some touch, some have a lane between them.
    shrunk = np.where(rng.random(len(cells)) < 0.4, shapely.buffer(cells, -0.4), cells)
    polygons = shapely.get_parts(shrunk)
    polygons = polygons[shapely.area(polygons) > 1]
    layer = gpd.GeoDataFrame(geometry=polygons)
    result = regularize(layer, method, tolerance)
    fitted = outlines(result)
    assert len(fitted) == len(layer)
    assert shapely.is_valid(fitted).all()
    assert shapely.hausdorff_distance(polygons, fitted).max() <= tolerance * 1.001
    assert shapely.area(fitted).sum() == pytest.approx(shapely.union_all(fitted).area, rel=1e-6)


# Shared walls.


def terrace(rng, houses=6, angle=23.0):
    """A row of houses of different depths that share walls, as staircases with common pixels."""
    x, rows = 0.0, []
    for _ in range(houses):
        width, depth = rng.uniform(5, 8), rng.uniform(9, 11)
        rows.append(box(x, 0, x + width, depth))
        x += width
    true = [affinity.rotate(p, angle, origin=(0, 0)) for p in rows]
    return true, common_staircase(true)


@pytest.mark.parametrize("crs", ["EPSG:32645", "EPSG:4326"])
def test_terraces_share_one_wall_without_gap_or_overlap(crs):
    true, rows = terrace(np.random.default_rng(2))
    move = [affinity.translate(p, 350_000, 3_057_000) for p in rows]
    layer = gpd.GeoDataFrame(geometry=move, crs=UTM).to_crs(crs)
    result = regularize(layer)
    assert len(result) == len(layer)
    assert shapely.coverage_is_valid(outlines(result))
    metric = outlines(result.to_crs(UTM))
    block = shapely.union_all(metric)
    assert block.geom_type == "Polygon"
    assert not block.interiors
    assert shapely.area(metric).sum() == pytest.approx(block.area, abs=1e-3)
    for one, other in pairwise(metric):
        shared = shapely.intersection(one, other)
        assert shared.length > 8
        wall = shapely.simplify(shapely.line_merge(shared), 0.01)
        assert shapely.get_num_coordinates(wall) == 2
    wanted = [affinity.translate(p, 350_000, 3_057_000) for p in true]
    assert ious(metric, np.array(wanted)).min() > 0.95
    assert np.median([corner_count(p) for p in metric]) == 4


def test_houses_that_overlap_keep_their_ground():
    one, other = box(0, 0, 12, 10), box(8, 4, 20, 14)
    result = regularize(gpd.GeoDataFrame(geometry=[one, other], crs=UTM))
    assert shapely.intersection(*outlines(result)).area == pytest.approx(24, rel=0.05)


def test_lanes_stay_open_and_nobody_overlaps_his_neighbour():
    rng = np.random.default_rng(8)
    true = [box(9 * i, 0, 9 * i + 8.5, 12) for i in range(6)]
    layer = gpd.GeoDataFrame(geometry=[noisy(p, rng, 0.1) for p in true], crs=UTM)
    result = outlines(regularize(layer))
    for i, one in enumerate(result):
        for other in result[i + 1 :]:
            assert shapely.intersection(one, other).area < 1e-6


@pytest.mark.parametrize("angle", [10, 23, 35])
def test_a_lane_that_pixels_bridge_at_corners_stays_open(angle):
    lane = box(0, 0, 6, 10), box(6.3, 0, 12, 10)
    true = [affinity.rotate(p, angle, origin=(0, 0)) for p in lane]
    rows = common_staircase(true)
    assert shapely.distance(*rows) == 0
    result = outlines(regularize(gpd.GeoDataFrame(geometry=rows, crs=UTM)))
    assert shapely.distance(*result) > 0.2
    assert ious(result, np.array(true)).min() > 0.99


# Holes.


def test_courtyards_are_square_and_chimneys_go():
    rng = np.random.default_rng(6)
    yard = box(0, 0, 24, 20).difference(box(7, 6, 17, 14)).difference(box(2, 2, 2.6, 2.6))
    layer = town([staircase(turned(yard, rng)) for _ in range(4)])
    result = outlines(regularize(layer))
    assert [len(p.interiors) for p in result] == [1] * 4
    assert [corner_count(p) for p in result] == [8] * 4


def test_a_house_in_a_courtyard_stays_there():
    yard = box(0, 0, 24, 20).difference(box(7, 6, 8, 7))
    inside = box(7, 6, 8, 7)
    layer = gpd.GeoDataFrame(geometry=[yard, inside], crs=UTM)
    result = outlines(regularize(layer, tolerance_m=1.5))
    assert len(result) == 2
    assert shapely.intersection(*result).area < 1e-6


# Never worse silently.


def test_what_does_not_fit_is_left_and_counted():
    star = Polygon(
        [
            (r * np.cos(a), r * np.sin(a))
            for a, r in zip(
                np.linspace(0, 2 * np.pi, 24, endpoint=False), [12, 4] * 12, strict=True
            )
        ]
    )
    layer = town([star, box(0, 0, 10, 8)])
    result = regularize(layer, "right-angles", 0.5)
    assert result["regularized"].tolist() == [UNCHANGED, "right-angles"]
    assert outlines(result)[0].equals_exact(outlines(layer)[0], 0)
    assert summary(result) == "1 left as they were, 0 with IoU below 0.8"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"method": "squares"}, ["squares", "right-angles"], id="unknown method"),
        pytest.param({"tolerance_m": 0}, ["tolerance", "got 0"], id="no tolerance"),
        pytest.param({"tolerance_m": float("nan")}, ["tolerance", "nan"], id="not a number"),
    ],
)
def test_bad_options_are_one_line(options, words):
    layer = gpd.GeoDataFrame(geometry=[box(0, 0, 9, 9)], crs=UTM)
    with pytest.raises(ConfigError) as caught:
        regularize(layer, **options)
    assert all(word in str(caught.value) for word in words)


def test_coordinates_outside_the_crs_are_one_line():
    layer = gpd.GeoDataFrame(geometry=[box(1e9, 1e9, 1e9 + 9, 1e9 + 9)], crs=UTM)
    with pytest.raises(LayerError, match="outside the domain"):
        regularize(layer)


def test_shapes_used_here_have_the_corners_they_are_said_to_have(shapes):
    for kind, true, *_ in shapes:
        wanted = building_shapes.CORNERS[kind]
        assert wanted is None or corner_count(true) == wanted


def test_columns_of_somebody_else_are_kept_under_other_names():
    layer = town([box(0, 0, 10, 8), box(0, 0, 9, 9)]).assign(iou=["a", "b"], iou_before=[1, 2])
    with pytest.warns(LabelWarning, match="renamed: iou to iou_before_$"):
        once = regularize(layer)
    assert once["iou_before_"].tolist() == ["a", "b"]
    assert once["iou_before"].tolist() == [1, 2]
    assert once["iou"].between(0.9, 1).all()
    again = regularize(once)
    assert list(again.columns) == list(once.columns)
