"""Shape errors of pairs of polygons, against cases done by hand."""

import numpy as np
import pytest
import shapely
from numpy.testing import assert_allclose
from pyproj import Transformer
from shapely import Polygon, affinity, box

from footprints.vector.shape_errors import AT_ONCE, in_metres, shape_errors

SQUARE = box(0, 0, 10, 10)


def errors_of(found, truth, iou=1.0):
    errors = shape_errors(np.array([found]), np.array([truth]), np.array([iou]))
    return {name: float(getattr(errors, name)[0]) for name in errors.__dataclass_fields__}


def test_the_same_outline_has_no_error():
    with_hole = Polygon(SQUARE.exterior, [box(3, 3, 6, 6).exterior])
    errors = errors_of(with_hole, with_hole)
    assert errors.pop("c_iou") == 1
    assert (errors.pop("vertices"), errors.pop("true_vertices")) == (8, 8)
    assert_allclose(list(errors.values()), 0, atol=1e-6)


def test_a_moved_square_is_off_by_its_shift():
    errors = errors_of(affinity.translate(SQUARE, 1), SQUARE, iou=9 / 11)
    # Left corners lie on the true walls, right ones 1 m outside; the other way round alike.
    assert errors["polis_m"] == pytest.approx(0.5)
    assert errors["centroid_m"] == pytest.approx(1)
    assert errors["c_iou"] == pytest.approx(9 / 11)
    assert errors["rotation_deg"] == pytest.approx(0, abs=1e-6)


def test_polis_averages_both_directions():
    # From the rectangle: two corners on the square, two 4 m off: 2. Back: all on it but two at 0.
    errors = errors_of(box(0, 0, 14, 10), SQUARE)
    assert errors["polis_m"] == pytest.approx((4 * 2 / 4 + 0) / 2)


@pytest.mark.parametrize(("turn", "expected"), [(5, 5), (-30, 30), (60, 30), (90, 0)])
def test_rotation_is_counted_modulo_a_quarter_turn(turn, expected):
    long = box(0, 0, 20, 8)
    errors = errors_of(affinity.rotate(long, turn), long)
    assert errors["rotation_deg"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("turn", [3, 10])
def test_the_tangents_of_a_turned_square_are_off_by_its_turn(turn):
    assert errors_of(affinity.rotate(SQUARE, turn), SQUARE)["tangent_deg"] == pytest.approx(turn)


def test_one_slanting_wall_sets_the_maximum_tangent_error():
    slanting = Polygon([(0, 0), (10, 0), (10, 10), (0, 8)])
    expected = np.degrees(np.arctan2(2, 10))
    assert errors_of(slanting, SQUARE)["tangent_deg"] == pytest.approx(expected)


def test_needless_vertices_cost_complexity_aware_iou():
    doubled = shapely.segmentize(SQUARE, 5)
    errors = errors_of(doubled, SQUARE)
    assert (errors["vertices"], errors["true_vertices"]) == (8, 4)
    assert errors["c_iou"] == pytest.approx(1 - 4 / 12)
    assert errors["polis_m"] == 0


def test_nothing_to_compare_gives_nothing():
    none = np.empty(0, dtype=object)
    errors = shape_errors(*in_metres(none, none, None), np.empty(0))
    assert {len(getattr(errors, name)) for name in errors.__dataclass_fields__} == {0}


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32645"])
def test_lengths_are_metres_in_any_crs(crs):
    x, y = 500_000, 3_000_000
    pair = np.array([box(x, y, x + 10, y + 10), box(x + 1, y, x + 11, y + 10)])
    move = Transformer.from_crs("EPSG:32645", crs, always_xy=True)
    moved = shapely.transform(pair, lambda p: np.column_stack(move.transform(*p.T)))
    errors = shape_errors(*in_metres(moved[:1], moved[1:], crs), np.ones(1))
    # The metre of the zone is 0.9996 metres of ground long.
    assert_allclose(errors.polis_m, 0.5, rtol=2e-3)
    assert_allclose(errors.centroid_m, 1.0, rtol=2e-3)


def test_portions_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(0)
    found = np.array([affinity.rotate(SQUARE, turn) for turn in rng.uniform(0, 20, 50)])
    truth = np.repeat(SQUARE, 50)
    whole = shape_errors(found, truth, np.ones(50))
    monkeypatch.setattr("footprints.vector.shape_errors.AT_ONCE", 100)
    parts = shape_errors(found, truth, np.ones(50))
    assert AT_ONCE > 100
    assert_allclose(parts.polis_m, whole.polis_m)
    assert_allclose(parts.tangent_deg, whole.tangent_deg)
