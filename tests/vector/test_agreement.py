"""Common areas in closed form, against polygon overlay."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon, box

from footprints.vector.agreement import common_area, intersection_over_union

RING = box(0, 0, 10, 10).difference(box(3, 3, 7, 7))


@pytest.mark.parametrize(
    ("one", "other", "area"),
    [
        pytest.param(box(0, 0, 4, 4), box(0, 0, 4, 4), 16, id="the same"),
        pytest.param(box(0, 0, 4, 4), box(4, 0, 8, 4), 0, id="side by side"),
        pytest.param(box(0, 0, 4, 4), box(9, 9, 10, 10), 0, id="apart"),
        pytest.param(box(0, 0, 4, 4), box(1, -9, 2, 9), 4, id="across"),
        pytest.param(RING, box(4, 4, 6, 6), 0, id="in a courtyard"),
        pytest.param(RING, box(5, 5, 20, 20), 21, id="over a courtyard"),
        pytest.param(Polygon([(0, 0), (4, 0), (0, 4)]), box(0, 0, 2, 2), 4, id="diagonal"),
    ],
)
def test_areas_are_those_of_the_overlay(one, other, area):
    for pair in ((one, other), (other, one), (one.reverse(), other)):
        assert common_area(*np.array(pair).reshape(2, 1))[0] == pytest.approx(area, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([0.0, 1e6]))
def test_areas_of_any_polygons_are_those_of_the_overlay(seed, offset):
    rng = np.random.default_rng(seed)

    def star() -> Polygon:
        angle = np.linspace(0, 2 * np.pi, rng.integers(3, 30), endpoint=False)
        reach = rng.uniform(2, 10, len(angle))
        place = np.column_stack([np.cos(angle), np.sin(angle)]) * reach[:, None]
        hole = shapely.Point(0, 0).buffer(0.5, quad_segs=3)
        cut = shapely.difference(Polygon(place), hole)
        largest = max(shapely.get_parts(cut), key=lambda part: part.area)
        move = rng.uniform(-3, 3, 2)
        return shapely.transform(largest, lambda xy: xy + move)

    one, other = (np.array([star() for _ in range(5)]) for _ in range(2))
    one, other = (shapely.transform(each, lambda xy: xy + offset) for each in (one, other))
    wanted = shapely.area(shapely.intersection(one, other))
    assert np.allclose(common_area(one, other), wanted, atol=1e-6)


def test_iou_of_nothing_is_zero():
    ious = intersection_over_union(np.array([RING, RING, None]), np.array([RING, None, RING]))
    assert ious.tolist() == [1, 0, 0]
    assert len(intersection_over_union(np.array([]), np.array([]))) == 0
