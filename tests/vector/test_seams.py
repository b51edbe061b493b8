"""Which edges cut, where chips compare, who owns which ground."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from known_buildings import outlines_of
from shapely import box

from footprints.chip import ChipGrid
from footprints.vector.seams import compared_zone, find_sides, foreign_ground, windows_of

LEFT, TOP, RIGHT, BOTTOM = np.eye(4, dtype=bool).tolist()
NONE = [False] * 4

NINE = ChipGrid(height=260, width=260, size=100, overlap=20)
MIDDLE = 4  # the chip from 80 to 180 in both axes


@pytest.mark.parametrize(
    ("outline", "chip", "cut"),
    [
        pytest.param(box(84, 120, 110, 140), MIDDLE, LEFT, id="four pixels from the left edge"),
        pytest.param(box(84.5, 120, 110, 140), MIDDLE, NONE, id="a little farther inside"),
        pytest.param(box(120, 150, 140, 180), MIDDLE, BOTTOM, id="at the lower edge"),
        pytest.param(box(0, 40, 20, 60), 0, NONE, id="at the edge of the raster"),
        pytest.param(box(80, 0, 100, 20), 1, LEFT, id="at a seam and at the edge of the raster"),
    ],
)
def test_edges_cut_where_another_chip_read_data_behind_them(outline, chip, cut):
    sides = find_sides(outlines_of([outline], chips=chip), NINE, np.ones(9, bool))
    assert sides.cut.tolist() == [cut]


def test_an_edge_before_a_failed_chip_does_not_cut_but_is_a_border():
    read = np.ones(9, bool)
    read[MIDDLE + 1] = False
    sides = find_sides(outlines_of([box(150, 120, 180, 140)], chips=MIDDLE), NINE, read)
    assert not sides.cut.any()
    assert sides.at_border.tolist() == [True]


def test_an_edge_cuts_where_only_a_diagonal_chip_read_data_behind_it():
    read = np.ones(9, bool)
    read[MIDDLE + 1] = False
    sides = find_sides(outlines_of([box(150, 90, 180, 140)], chips=MIDDLE), NINE, read)
    assert sides.cut.tolist() == [RIGHT]


def test_a_coarse_mask_is_cut_within_one_cell():
    outlines = outlines_of([box(90, 120, 170, 140)], chips=MIDDLE)
    outlines.cells[:] = 11
    sides = find_sides(outlines, NINE, np.ones(9, bool))
    assert sides.cut.tolist() == [[True, False, True, False]]


def test_depth_counts_only_edges_behind_which_data_was_read():
    sides = find_sides(outlines_of([box(1, 30, 60, 50)], chips=0), NINE, np.ones(9, bool))
    assert sides.depth.tolist() == [40]


def test_chips_compare_all_they_share_but_the_faded_edges():
    windows = windows_of(NINE)
    zone, narrow = compared_zone(windows[[0, 0]], windows[[1, 4]])
    assert zone.tolist() == [[84, 0, 96, 100], [84, 84, 96, 96]]
    assert not narrow.any()


def test_chips_that_share_nothing_compare_a_band_about_the_seam():
    windows = windows_of(ChipGrid(100, 200, 100, 0))
    zone, narrow = compared_zone(windows[[0]], windows[[1]])
    assert zone.tolist() == [[98, 0, 102, 100]]
    assert narrow.tolist() == [[True, False]]


@given(
    size=st.integers(40, 90),
    overlap=st.integers(0, 60),
    chips=st.lists(st.integers(0, 10_000), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_all_ground_that_some_chips_see_belongs_to_exactly_one_of_them(size, overlap, chips, seed):
    windows = windows_of(ChipGrid(150, 170, size, min(overlap, size - 10)))
    chosen = windows[np.unique(np.array(chips) % len(windows))]
    owned = []
    for number, own in enumerate(chosen):
        others = np.delete(chosen, number, axis=0)
        foreign = foreign_ground(np.tile(own, (len(others), 1)), others)
        foreign = foreign[np.all(foreign[:, 2:] > foreign[:, :2], axis=1)]
        owned.append(shapely.difference(box(*own), shapely.union_all(shapely.box(*foreign.T))))
    seen = shapely.union_all(shapely.box(*chosen.T))
    assert shapely.area(owned).sum() == pytest.approx(seen.area)
    assert shapely.union_all(owned).area == pytest.approx(seen.area)
