"""A building has each keypoint once, wherever the seams lie."""

from dataclasses import replace

import numpy as np
import shapely
from known_buildings import outlines_of
from numpy.testing import assert_allclose

from footprints.chip import ChipGrid
from footprints.vector.keypoints import find_keypoints

PAIR = ChipGrid(100, 160, 100, 40)
"""Two chips: columns 0 to 100 and 60 to 160."""
READ = np.array([True, True])


def corners_of(polygon: shapely.Polygon, confidence: float = 0.9) -> np.ndarray:
    x_min, y_min, x_max, y_max = polygon.bounds
    places = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)]
    return np.array([(*place, confidence) for place in places], dtype=np.float32)


def shown(polygons, chips, confidence=0.9):
    keypoints = np.array([corners_of(p, confidence) for p in polygons], dtype=np.float32)
    return replace(outlines_of(polygons, chips=chips), keypoints=keypoints)


def found(polygons, outlines) -> np.ndarray:
    return find_keypoints(np.array(polygons, dtype=object), outlines, PAIR, READ)


def test_a_building_seen_whole_has_its_keypoints():
    house = shapely.box(10, 10, 30, 40)
    assert_allclose(found([house], shown([house], [0]))[0], corners_of(house), rtol=1e-6)


def test_a_building_cut_by_a_seam_has_each_keypoint_from_the_chip_that_shows_it():
    barn = shapely.box(20, 10, 140, 40)
    halves = [shapely.box(20, 10, 100, 40), shapely.box(60, 10, 140, 40)]
    assert_allclose(found([barn], shown(halves, [0, 1]))[0], corners_of(barn), rtol=1e-6)


def test_the_outline_that_is_most_alike_has_the_say():
    house, stump = shapely.box(70, 10, 120, 40), shapely.box(70, 10, 94, 40)
    outlines = shown([stump, house], [0, 1])
    assert_allclose(found([house], outlines)[0], corners_of(house), rtol=1e-6)


def test_of_outlines_alike_the_surest_of_a_keypoint_has_it():
    house = shapely.box(70, 10, 90, 40)
    outlines = shown([house, house], [0, 1], 0.5)
    outlines.keypoints[1, 2] = (88, 38, 0.95)
    outlines.keypoints[0, 0] = (71, 11, 0.6)
    places = found([house], outlines)[0]
    assert_allclose(places[2], [88, 38, 0.95], rtol=1e-6)
    assert_allclose(places[0], [71, 11, 0.6], rtol=1e-6)


def test_what_no_chip_shows_is_not_known():
    barn, left = shapely.box(20, 10, 140, 40), shapely.box(20, 10, 100, 40)
    places = found([barn], shown([left], [0]))[0]
    assert_allclose(places[[0, 3]], corners_of(barn)[[0, 3]], rtol=1e-6)
    assert np.isnan(places[[1, 2]]).all()


def test_neighbours_do_not_lend_theirs():
    houses = [shapely.box(10, 10, 30, 40), shapely.box(30, 10, 50, 40)]
    places = found(houses, shown(houses, [0, 0]))
    assert_allclose(places, [corners_of(house) for house in houses], rtol=1e-6)
    assert np.isnan(found([shapely.box(60, 60, 80, 80)], shown(houses, [0, 0]))).all()


def test_nothing_is_found_in_nothing():
    houses = [shapely.box(10, 10, 30, 40)]
    assert found([], shown(houses, [0])).shape == (0, 4, 3)
    assert found(houses, outlines_of([])).shape == (1, 0, 3)
