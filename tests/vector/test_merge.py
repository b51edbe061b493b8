"""Merging across seams, by exactly clipped outlines and by detectors of known buildings."""

import time
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from known_buildings import (
    KnownBuildings,
    best_ious,
    detect_scene,
    doubled,
    exact_outlines,
    misnamed_at_edges,
    missing,
    noisy,
    outlines_of,
    short,
    under_every_name,
    with_blob,
)
from shapely import Polygon, box
from shapely.affinity import rotate, translate

from footprints.chip import ChipGrid
from footprints.vector.merge import merge
from footprints.vector.outlines import Footprints, Outlines
from footprints.vector.overlaps import find_overlaps

HOUSES = [box(20 + 32 * i, 20, 38 + 33 * i, 34 + i) for i in range(5)]
TERRACE = [rotate(box(20 + 17 * i, 70, 37 + 17 * i, 100), 12, origin=(20, 70)) for i in range(9)]
COURTYARD = box(200, 20, 290, 100).difference(box(225, 45, 265, 75))
L_AND_SHED = [
    Polygon([(20, 150), (70, 150), (70, 168), (40, 168), (40, 210), (20, 210)]),
    box(44, 172, 56, 182),
]
BARNS = [rotate(box(90 + 22 * i, 170, 103 + 22 * i, 215), 35) for i in range(6)]
U_SHAPE = Polygon(
    [(30, 260), (180, 260), (180, 340), (150, 340), (150, 285), (60, 285), (60, 340), (30, 340)]
)
WAREHOUSE = rotate(box(240, 130, 420, 300), 7)
ROTUNDA = shapely.Point(380, 60).buffer(25)
TOWN = [*HOUSES, *TERRACE, COURTYARD, *L_AND_SHED, *BARNS, U_SHAPE, WAREHOUSE, ROTUNDA]
HEIGHT, WIDTH = 400, 480

grids = st.integers(64, 256).flatmap(
    lambda size: st.builds(
        ChipGrid, st.just(HEIGHT), st.just(WIDTH), st.just(size), st.integers(12, size // 2)
    )
)
offsets = st.tuples(st.floats(-9, 35), st.floats(-15, 45))


def moved(town: list[Polygon], offset: tuple[float, float]) -> list[Polygon]:
    return [translate(building, *offset) for building in town]


def merge_all(outlines: Outlines, grid: ChipGrid) -> Footprints:
    return merge(outlines, grid, np.ones(len(grid), dtype=bool))


def common_ground(footprints: Footprints) -> float:
    return float(find_overlaps(footprints.polygons).area.sum())


# Detectors that see only the ground.


@given(grid=grids, offset=offsets)
@settings(max_examples=12)
def test_perfect_outlines_come_back_whole_from_any_grid(grid, offset):
    town = moved(TOWN, offset)
    found = merge_all(exact_outlines(town, grid), grid)
    assert len(found) == len(town)
    assert best_ious(found.polygons, town).min() > 0.9999
    assert not found.cut.any()


@given(grid=grids, offset=offsets, by_chip=st.booleans())
@settings(max_examples=6)
def test_perfect_masks_come_back_whole_from_any_grid(grid, offset, by_chip):
    town = moved(TOWN, offset)
    detector = KnownBuildings(town, jitter_by_chip=by_chip)
    found = merge_all(detect_scene(detector, grid), grid)
    assert len(found) == len(town)
    assert best_ious(found.polygons, town).min() >= 0.98
    assert common_ground(found) < 1e-6


@pytest.mark.parametrize("overlap", [0, 1, 3, 6])
def test_houses_cut_by_seams_of_no_width_are_joined(overlap):
    houses = [box(90, 20, 115, 40), box(130, 90, 150, 112), rotate(box(60, 180, 130, 205), 10)]
    grid = ChipGrid(300, 300, 100, overlap)
    found = merge_all(exact_outlines(houses, grid), grid)
    assert len(found) == len(houses)
    assert best_ious(found.polygons, houses).min() > 0.99


def test_a_courtyard_cut_by_four_seams_stays_open():
    grid = ChipGrid(200, 200, 112, 24)
    court = box(60, 60, 140, 140).difference(box(80, 80, 120, 120))
    (polygon,) = merge_all(detect_scene(KnownBuildings([court]), grid), grid).polygons
    (hole,) = shapely.polygons(polygon.interiors)
    assert hole.intersection(box(80, 80, 120, 120)).area == pytest.approx(1600, rel=0.01)


def test_a_warehouse_across_nine_chips_is_one_polygon():
    grid = ChipGrid(192, 192, 80, 24)
    warehouse = box(10, 12, 181, 179)
    found = merge_all(detect_scene(KnownBuildings([warehouse]), grid), grid)
    assert len(grid) == 9
    assert len(found) == 1
    assert best_ious(found.polygons, [warehouse])[0] > 0.999
    assert not found.cut[0]


def test_the_arms_of_a_u_found_one_by_one_join_its_body():
    grid = ChipGrid(100, 160, 100, 40)
    body = box(20, 20, 50, 80).union(box(50, 20, 100, 40)).union(box(50, 60, 100, 80))
    arms = [box(60, 20, 110, 40), box(60, 60, 110, 80)]
    outlines = outlines_of([body, *arms], chips=[0, 1, 1])
    found = merge_all(outlines, grid)
    assert len(found) == 1
    assert best_ious(found.polygons, [shapely.union_all([body, *arms])])[0] > 0.999


# The order of the output is part of the result.


@given(seed=st.integers(0, 1000))
@settings(max_examples=3)
def test_the_order_of_the_instances_does_not_matter(seed):
    grid = ChipGrid(HEIGHT, WIDTH, 128, 32)
    outlines = detect_scene(KnownBuildings(TOWN, flaws=[noisy, doubled]), grid)
    shuffled = outlines.take(np.random.default_rng(seed).permutation(len(outlines)))
    one, other = merge_all(outlines, grid), merge_all(shuffled, grid)
    assert shapely.to_wkb(one.polygons).tolist() == shapely.to_wkb(other.polygons).tolist()
    assert one.scores.tobytes() == other.scores.tobytes()
    assert one.cut.tolist() == other.cut.tolist()


def test_footprints_come_from_top_to_bottom():
    grid = ChipGrid(HEIGHT, WIDTH, 128, 32)
    found = merge_all(exact_outlines(TOWN, grid), grid)
    assert np.all(np.diff(shapely.bounds(found.polygons)[:, 1]) >= 0)


# Rules, one by one. Two chips: 0-100 and 60-160 in x.

PAIR = ChipGrid(100, 160, 100, 40)


def test_of_two_whole_outlines_the_one_farther_inside_is_kept():
    near_the_edge, far_inside = box(70, 40, 92, 60), box(70.5, 40, 92.5, 60)
    found = merge_all(outlines_of([near_the_edge, far_inside], chips=[0, 1]), PAIR)
    assert [p.bounds[0] for p in found.polygons] == [70.5]


def test_row_houses_that_share_a_wall_are_never_joined():
    row = [box(66, 40, 80, 60), box(80, 40, 94, 60)]
    found = merge_all(outlines_of([*row, *row], chips=[0, 0, 1, 1]), PAIR)
    assert len(found) == 2


def test_a_whole_roof_is_not_inflated_by_a_neighbours_stump():
    whole, stump = box(64.5, 40, 120, 60), box(64, 36, 100, 62)
    found = merge_all(outlines_of([whole, stump], chips=[1, 0], scores=[0.5, 0.99]), PAIR)
    assert found.polygons.tolist() == [shapely.normalize(whole)]
    assert not found.cut[0]


def test_a_roof_that_stops_short_of_its_edge_is_joined_with_what_goes_on():
    left, right = box(20, 40, 90, 60), box(60, 40, 140, 60)
    found = merge_all(outlines_of([left, right], chips=[0, 1]), PAIR)
    assert len(found) == 1
    assert found.polygons[0].equals(box(20, 40, 140, 60))


def test_each_piece_counts_on_its_own_side_of_the_middle():
    left, right = box(20, 40, 100, 60), box(60, 38, 140, 62)
    (polygon,) = merge_all(outlines_of([left, right], chips=[0, 1]), PAIR).polygons
    assert polygon.equals(box(20, 40, 80, 60).union(box(80, 38, 140, 62)))


def test_a_piece_whose_other_part_was_missed_stays_and_is_marked_cut():
    lone = box(50, 40, 100, 60)
    found = merge_all(outlines_of([lone], chips=[0]), PAIR)
    assert found.polygons.tolist() == [shapely.normalize(lone)]
    assert found.cut.tolist() == [True]


def test_pieces_of_neighbouring_houses_whose_counterparts_were_missed_are_not_joined():
    upper, lower = box(40, 20, 100, 40), box(60, 40, 130, 60)
    found = merge_all(outlines_of([upper, lower], chips=[0, 1]), PAIR)
    assert len(found) == 2
    assert found.cut.all()


def test_pieces_of_different_classes_join_and_the_stronger_evidence_names_them():
    pieces = [box(50, 40, 100, 60), box(60, 40, 150, 60)]
    found = merge_all(outlines_of(pieces, chips=[0, 1], labels=[1, 2], scores=[0.6, 0.9]), PAIR)
    assert found.labels.tolist() == [2]
    assert 0.6 < found.scores[0] < 0.9


# Classes: shape decides what is a building, votes decide what it is called.

KINDS = ("house", "hall", "shed")
NAMES = np.arange(len(TOWN)) % len(KINDS)


def names_of(found: Footprints, town: list[Polygon]) -> list[int]:
    """Label of the footprint that covers most of each true building."""
    covers = shapely.area(shapely.intersection(np.array(town)[:, None], found.polygons))
    return found.labels[covers.argmax(axis=1)].tolist()


@given(grid=grids, offset=offsets)
@settings(max_examples=6)
def test_a_building_found_under_every_name_comes_once_under_the_surest(grid, offset):
    town = moved(TOWN, offset)
    detector = KnownBuildings(
        town, classes=KINDS, labels=NAMES, flaws=[under_every_name(len(KINDS))]
    )
    found = merge_all(detect_scene(detector, grid), grid)
    assert len(found) == len(town)
    assert best_ious(found.polygons, town).min() > 0.9
    assert names_of(found, town) == NAMES.tolist()
    assert common_ground(found) < 1e-6


@pytest.mark.parametrize(("size", "overlap"), [(64, 24), (128, 32), (256, 64)])
def test_pieces_misnamed_at_edges_neither_double_nor_split_a_building(size, overlap):
    grid = ChipGrid(HEIGHT, WIDTH, size, overlap)
    detector = KnownBuildings(
        TOWN, classes=KINDS, labels=NAMES, flaws=[misnamed_at_edges(len(KINDS))]
    )
    found = merge_all(detect_scene(detector, grid), grid)
    assert len(found) == len(TOWN)
    assert best_ious(found.polygons, TOWN).min() > 0.98
    bounds, windows = shapely.bounds(TOWN), [box(x, y, x + w, y + h) for x, y, w, h in grid]
    whole = [any(w.contains(box(*b).buffer(5)) for w in windows) for b in bounds]
    right = np.array(names_of(found, TOWN)) == NAMES
    assert right[whole].all(), "a chip that shows a building whole names it"


def test_of_two_names_in_one_chip_the_surer_one_stays():
    both = [box(20, 40, 40, 60), box(21, 40, 41, 60)]
    found = merge_all(outlines_of(both, labels=[0, 1], scores=[0.5, 0.6]), PAIR)
    assert found.labels.tolist() == [1]
    assert found.polygons.tolist() == [shapely.normalize(both[1])]


def test_chips_that_show_a_building_whole_vote_on_its_name():
    # The right chip shows it farthest from its edges and takes it for class 2, hardly more surely
    # than for class 1, of which the left chip has no doubt.
    roof = box(75, 40, 93, 60)
    three = outlines_of([roof] * 3, chips=[0, 1, 1], labels=[1, 2, 1], scores=[0.9, 0.5, 0.45])
    found = merge_all(three, PAIR)
    assert found.polygons.tolist() == [shapely.normalize(roof)]
    assert found.labels.tolist() == [1]
    assert found.scores.tolist() == [np.float32(0.5)], "the outline that stays gives the confidence"


def test_many_unsure_doubles_in_one_chip_have_one_vote():
    roofs = [box(20 + i, 40, 60 + i, 60) for i in range(4)]
    found = merge_all(outlines_of(roofs, labels=[0, 1, 1, 1], scores=[0.6, 0.5, 0.5, 0.5]), PAIR)
    assert found.labels.tolist() == [0]


def test_a_stump_has_no_vote_where_another_chip_shows_the_building_whole():
    whole, stump = box(64.5, 40, 120, 60), box(64, 40, 100, 60)
    outlines = outlines_of([whole, stump], chips=[1, 0], labels=[1, 0], scores=[0.4, 0.99])
    assert merge_all(outlines, PAIR).labels.tolist() == [1]


def test_pieces_join_under_the_name_with_most_evidence_over_all_their_doubles():
    # Class 1 is second in both chips, with 0.4 each; classes 0 and 2 are first, in one chip each.
    left, right = box(20, 40, 100, 60), box(60, 40, 140, 60)
    outlines = outlines_of(
        [left, left, right, right],
        chips=[0, 0, 1, 1],
        labels=[0, 1, 2, 1],
        scores=[0.5, 0.4, 0.5, 0.4],
    )
    found = merge_all(outlines, PAIR)
    assert found.polygons[0].equals(box(20, 40, 140, 60))
    assert found.labels.tolist() == [1]


def test_neighbours_of_different_classes_stay_apart():
    row = [box(66, 40, 80, 60), box(80, 40, 94, 60)]
    found = merge_all(outlines_of([*row, *row], chips=[0, 0, 1, 1], labels=[0, 1, 0, 1]), PAIR)
    assert names_of(found, row) == [0, 1]


def test_overlaps_between_classes_are_settled_like_all_others():
    house, shed = box(20, 40, 50, 60), box(46, 40, 70, 60)
    found = merge_all(outlines_of([house, shed], labels=[0, 1], scores=[0.9, 0.6]), PAIR)
    assert [p.bounds[0::2] for p in found.polygons] == [(20, 50), (50, 70)]
    assert found.labels.tolist() == [0, 1]


def test_a_chain_of_matches_does_not_join_what_one_chip_shows_apart():
    # The blob of the left chip ends in both houses of the right one; only one may take it.
    blob = box(40, 30, 100, 70)
    houses = [box(60, 30, 120, 50), box(60, 50, 120, 70)]
    found = merge_all(outlines_of([blob, *houses], chips=[0, 1, 1]), PAIR)
    assert len(found) == 2
    assert not any(p.contains(box(101, 48, 119, 52)) for p in found.polygons)
    assert shapely.union_all(found.polygons).covers(box(81, 31, 119, 69))


# Confidence.


def test_a_sure_stump_of_an_unsure_building_does_not_outlive_it():
    whole, stump = box(70, 40, 130, 60), box(70, 40, 100, 60)
    outlines = outlines_of([whole, stump], chips=[1, 0], scores=[0.4, 0.9])
    everyone = np.ones(2, dtype=bool)
    assert len(merge(outlines, PAIR, everyone, confidence=0.5)) == 0
    assert merge(outlines, PAIR, everyone, confidence=0.3).polygons.tolist() == [
        shapely.normalize(whole)
    ]


def test_a_sure_piece_joins_its_unsure_counterpart_and_both_make_the_confidence():
    pieces = [box(20, 40, 100, 60), box(60, 40, 140, 60)]
    outlines = outlines_of(pieces, chips=[0, 1], scores=[0.8, 0.4])
    (score,) = merge(outlines, PAIR, np.ones(2, dtype=bool), confidence=0.5).scores
    assert score == pytest.approx(0.6)


def test_unsure_houses_do_not_make_a_blob_of_a_sure_building():
    roof = box(10, 40, 50, 60)
    outlines = outlines_of([roof, box(10, 40, 30, 60), box(30, 40, 50, 60)], scores=[0.9, 0.4, 0.4])
    found = merge(outlines, PAIR, np.ones(2, dtype=bool), confidence=0.5)
    assert found.polygons.tolist() == [shapely.normalize(roof)]


# Where a building may go on unseen.


@pytest.mark.parametrize(
    ("building", "cut"),
    [
        pytest.param(box(0, 40, 20, 60), True, id="at the left edge of the raster"),
        pytest.param(box(140, 40, 160, 60), True, id="at the right edge of the raster"),
        pytest.param(box(70, 80, 90, 100), True, id="at the lower edge, seen by two chips"),
        pytest.param(box(90, 40, 110, 60), False, id="across a seam, inside the raster"),
    ],
)
def test_border_buildings_are_kept_and_marked(building, cut):
    found = merge_all(exact_outlines([building], PAIR), PAIR)
    assert best_ious(found.polygons, [building])[0] > 0.999
    assert found.cut.tolist() == [cut]


def test_a_building_beside_a_failed_chip_is_kept_and_marked():
    piece = box(80, 40, 100, 60)
    found = merge(outlines_of([piece], chips=[0]), PAIR, np.array([True, False]))
    assert found.polygons.tolist() == [shapely.normalize(piece)]
    assert found.cut.tolist() == [True]


def test_a_building_at_pixels_without_data_is_marked():
    raster = np.ones((100, 160), dtype=bool)
    raster[:, 120:] = False
    buildings = [box(100, 20, 130, 40), box(20, 20, 40, 40)]
    found = merge_all(detect_scene(KnownBuildings(buildings), PAIR, raster=raster), PAIR)
    assert best_ious(found.polygons, [box(100, 20, 120, 40), buildings[1]]).min() > 0.97
    assert sorted(zip(shapely.bounds(found.polygons)[:, 0].round(), found.cut, strict=True)) == [
        (20, False),
        (100, True),
    ]


def test_a_raster_smaller_than_a_chip_needs_no_seams():
    grid = ChipGrid(50, 70, 128, 32, multiple=32)
    house = box(10, 10, 40, 35)
    found = merge_all(exact_outlines([house], grid), grid)
    assert found.polygons.tolist() == [shapely.normalize(house)]
    assert not found.cut.any()


def test_nothing_found_gives_no_footprints():
    assert len(merge_all(Outlines.empty(), PAIR)) == 0


# Bad detectors.


@pytest.mark.parametrize(("size", "overlap"), [(64, 24), (128, 32), (256, 64)])
@pytest.mark.parametrize("flaw", [noisy, short, doubled], ids=["noisy", "short", "doubled"])
def test_bad_masks_and_boxes_give_every_building_once(flaw, size, overlap):
    grid = ChipGrid(HEIGHT, WIDTH, size, overlap)
    town = moved(TOWN, (13.3, 21.7))
    found = merge_all(detect_scene(KnownBuildings(town, flaws=[flaw]), grid), grid)
    assert len(found) == len(town)
    assert best_ious(found.polygons, town).min() > 0.3
    assert np.median(best_ious(found.polygons, town)) > 0.85
    assert common_ground(found) < 1e-6


@pytest.mark.parametrize("size", [64, 128, 256])
def test_missed_pieces_neither_lose_nor_join_the_others(size):
    grid = ChipGrid(HEIGHT, WIDTH, size, 24)
    outlines = detect_scene(KnownBuildings(TOWN, flaws=[missing(0.3)]), grid)
    found = merge_all(outlines, grid)
    seen = shapely.union_all(outlines.polygons)
    assert shapely.area(seen) - shapely.area(found.polygons).sum() < 0.01 * shapely.area(seen)
    covers = shapely.area(shapely.intersection(found.polygons[:, None], np.array(TOWN)))
    assert np.all(np.sum(covers > 0.05 * shapely.area(TOWN), axis=1) <= 1)


@pytest.mark.parametrize(("size", "overlap"), [(96, 32), (128, 32), (256, 64)])
def test_a_blob_over_a_row_gives_way_to_its_houses_however_sure_it_is(size, overlap):
    grid = ChipGrid(HEIGHT, WIDTH, size, overlap)
    blob = shapely.buffer(shapely.union_all(TERRACE), 2, join_style="mitre")
    found = merge_all(detect_scene(KnownBuildings(TOWN, flaws=[with_blob(blob)]), grid), grid)
    assert len(found) == len(TOWN)
    assert best_ious(found.polygons, TOWN).min() > 0.8


@pytest.mark.slow
def test_merging_takes_time_in_proportion_to_the_instances():
    def seconds(side: int) -> float:
        x, y = (g.ravel() for g in np.meshgrid(*[np.arange(10.0, side - 30, 26)] * 2))
        grid = ChipGrid(side, side, 256, 64)
        town = shapely.box(x, y, x + 20, y + 18)
        tree, outlines = shapely.STRtree(town), []
        for number, (left, top, width, height) in enumerate(grid):
            chip = box(left, top, left + width, top + height)
            seen = shapely.intersection(town[tree.query(chip, predicate="intersects")], chip)
            outlines.append(outlines_of(seen[shapely.area(seen) > 1], chips=number))
        together = Outlines.concatenate(outlines)
        start = time.process_time()
        assert len(merge_all(together, grid)) == len(town)
        return (time.process_time() - start) / len(town)

    assert seconds(4000) < 3 * seconds(1000)


def test_classes_that_overlap_are_merged_as_if_alone() -> None:
    grid = ChipGrid(200, 300, 200, 100)
    bus, person = box(20, 40, 280, 160), box(120, 60, 180, 190)
    things = [exact_outlines([thing], grid) for thing in (bus, person)]
    outlines = Outlines.concatenate(
        replace(each, labels=np.full(len(each), label)) for label, each in enumerate(things)
    )
    read = np.ones(len(grid), dtype=bool)
    found = merge(outlines, grid, read, overlaps=True)
    assert found.labels.tolist() == [0, 1]
    assert shapely.hausdorff_distance(found.polygons, np.array([bus, person])).max() < 1e-6
    assert common_ground(merge(outlines, grid, read)) < 1e-6
    assert len(merge(Outlines.empty(), grid, read, overlaps=True)) == 0
