"""No ground belongs to two footprints: who keeps it, and what becomes of the rest."""

import numpy as np
import pytest
import shapely
from shapely import box

from footprints.vector.disjoint import make_disjoint
from footprints.vector.outlines import Footprints
from footprints.vector.overlaps import best_of_rivals, find_blobs, find_overlaps, ranks
from footprints.vector.parts import is_sliver, largest_parts, without_slivers


def settle(*footprints: tuple[shapely.Geometry, float], unmatched: tuple[int, ...] = ()):
    polygons = np.empty(len(footprints), dtype=object)
    polygons[:] = [polygon for polygon, _ in footprints]
    scores = np.array([score for _, score in footprints], dtype=np.float32)
    n = len(footprints)
    cut = np.isin(np.arange(n), unmatched)
    keypoints = np.empty((n, 0, 3))
    return make_disjoint(Footprints(polygons, scores, np.arange(n), cut, keypoints), cut)


def test_two_neighbours_share_a_wall_where_the_surer_one_puts_it():
    found = settle((box(0, 0, 20, 20), 0.6), (box(18, 0, 40, 20), 0.9))
    assert [p.bounds for p in found.polygons] == [(0, 0, 18, 20), (18, 0, 40, 20)]


def test_the_less_sure_of_two_outlines_of_a_building_goes():
    found = settle((box(0, 0, 20, 20), 0.6), (box(2, 2, 24, 22), 0.9))
    assert found.labels.tolist() == [1]


def test_an_unmatched_piece_gives_way_however_sure_it_is():
    found = settle((box(0, 0, 20, 20), 0.6), (box(2, 2, 24, 22), 0.9), unmatched=(1,))
    assert found.labels.tolist() == [0]


def test_a_chimney_goes_even_when_it_is_surer_than_its_roof():
    found = settle((box(0, 0, 40, 40), 0.6), (box(10, 10, 16, 16), 0.99))
    assert found.polygons.tolist() == [shapely.normalize(box(0, 0, 40, 40))]


def test_no_footprint_becomes_a_ring_around_a_surer_one():
    found = settle((box(0, 0, 40, 40), 0.6), (box(10, 10, 33, 33), 0.9))
    assert found.labels.tolist() == [1]


def test_a_building_in_a_courtyard_stays():
    court = box(0, 0, 60, 60).difference(box(15, 15, 45, 45))
    found = settle((court, 0.9), (box(20, 20, 30, 30), 0.6))
    assert sorted(found.labels) == [0, 1]


def test_a_small_building_in_a_notch_keeps_its_free_ground():
    house = shapely.Polygon([(0, 0), (40, 0), (40, 15), (15, 15), (15, 40), (0, 40)])
    found = settle((house, 0.9), (box(13, 18, 23, 28), 0.6))
    assert sorted(found.labels) == [0, 1]
    assert shapely.area(found.polygons).min() == pytest.approx(80)


@pytest.mark.parametrize("blob_score", [0.3, 0.99], ids=["unsure", "surest of all"])
def test_a_blob_over_a_row_goes_whatever_its_confidence(blob_score):
    houses = [(box(12 * i, 0, 12 * i + 10, 10), 0.6) for i in range(4)]
    found = settle((box(-1, -1, 47, 11), blob_score), *houses)
    assert sorted(found.labels) == [1, 2, 3, 4]


def test_a_blob_over_blobs_over_houses_goes_as_well():
    houses = [(box(10 * i, 0, 10 * i + 10, 10), 0.6) for i in range(4)]
    found = settle((box(0, 0, 40, 10), 0.99), (box(0, 0, 20, 10), 0.98), *houses)
    assert sorted(found.labels) == [2, 3, 4, 5]


def test_a_house_is_no_blob_because_two_small_things_lie_on_its_roof():
    roof = box(0, 0, 40, 30)
    found = settle((roof, 0.7), (box(3, 3, 15, 15), 0.9), (box(20, 10, 35, 25), 0.6))
    assert roof.equals(found.polygons[shapely.area(found.polygons).argmax()].union(roof))
    assert shapely.area(found.polygons).max() > 600


def test_what_a_row_house_leaves_of_a_blob_on_both_sides_are_two_buildings():
    found = settle((box(0, 0, 36, 10), 0.6), (box(13, -1, 23, 11), 0.9))
    assert [p.bounds for p in found.polygons] == [(13, -1, 23, 11), (0, 0, 13, 10), (23, 0, 36, 10)]


def test_a_chain_of_overlaps_does_not_swallow_a_street():
    street = [(box(15 * i, 0, 15 * i + 18, 10), 0.5 + 0.01 * (i % 7)) for i in range(30)]
    found = settle(*street)
    assert sorted(found.labels) == list(range(30))
    assert find_overlaps(found.polygons).area.sum() == 0


def test_leftover_slivers_go_but_buildings_of_that_size_stay():
    shed = box(50, 0, 53, 3)
    found = settle((box(0, 0, 30, 30), 0.9), (box(18, 0, 32, 30), 0.6), (shed, 0.5))
    assert sorted(found.labels) == [0, 2]


def test_a_stump_beside_a_building_goes_and_a_lone_one_stays():
    stumps = [(box(30, 5, 33, 25), 0.9), (box(60, 5, 63, 25), 0.9)]
    found = settle((box(0, 0, 29, 30), 0.6), *stumps, unmatched=(1, 2))
    assert sorted(found.labels) == [0, 2]


def test_the_surest_rival_stays_and_frees_the_rivals_of_its_rivals():
    # 0 beats 1, 1 would beat 2, 3 has no rival.
    stays = best_of_rivals(np.array([0, 1, 2, 3]), np.array([0, 1]), np.array([1, 2]))
    assert stays.tolist() == [True, False, True, True]


def test_ranks_follow_the_first_key_and_ties_the_next():
    assert ranks(np.array([1, 0, 1]), np.array([5, 9, 4])).tolist() == [2, 0, 1]


def test_every_overlapping_pair_is_found_once():
    pairs = find_overlaps(shapely.box([0, 5, 10, 40], 0, [10, 15, 20, 50], 10))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 1), (1, 2)]
    assert pairs.area.tolist() == [50, 50]


def test_an_outline_that_one_other_explains_alone_is_no_blob():
    polygons = shapely.box([0, 0, 27], 0, [30, 26, 30], 10)
    assert not find_blobs(polygons, find_overlaps(polygons)).any()


def test_parts_are_told_from_slivers():
    parts = np.array(
        [shapely.union_all([box(0, 0, 20, 20), box(30, 0, 40, 10), box(50, 0, 52, 40)]), None],
        dtype=object,
    )
    assert is_sliver(shapely.get_parts(parts)).tolist() == [False, False, True]
    assert without_slivers(parts)[0].area == 500
    assert [p and p.area for p in largest_parts(parts)] == [400, None]
