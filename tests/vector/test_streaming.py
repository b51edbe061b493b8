"""Merging row by row gives what merging at once gives, and holds only what is still open."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from known_buildings import (
    KnownBuildings,
    Seen,
    detect_scene,
    doubled,
    missing,
    noisy,
    outlines_of,
    under_every_name,
    with_blob,
)
from shapely import box
from shapely.affinity import rotate, translate

from footprints.chip import ChipGrid
from footprints.config import CORNERS
from footprints.vector import streaming
from footprints.vector.detected import ChipRow, Pass
from footprints.vector.merge import merge
from footprints.vector.outlines import Footprints, Outlines
from footprints.vector.streaming import find_open, merge_rows

HEIGHT, WIDTH = 420, 160
STREET = [rotate(box(20, 10 + 24 * i, 44 + i, 34 + 24 * i), 3 * i) for i in range(16)]
"""Houses wall to wall from top to bottom: each has to do with the next."""
HALL = rotate(box(70, 60, 130, 280), 4)
SHEDS = [translate(box(0, 0, 9, 8), 60 + 22 * (i % 4), 300 + 26 * (i // 4)) for i in range(16)]
TOWN = [*STREET, HALL, *SHEDS]


def unsure(seen: Seen) -> Seen:
    scores = [seen.rng(i).uniform(0.1, 1) for i in range(len(seen.polygons))]
    return replace(seen, scores=np.array(scores))


FLAWS = [noisy, doubled, unsure, missing(0.3), with_blob(box(18, 100, 60, 200))]


def rows_of(outlines: Outlines, grid: ChipGrid, read: np.ndarray) -> Pass:
    columns = len(grid.column_starts)
    row = outlines.chips // columns
    rows = [
        ChipRow(outlines.take(row == number), seen, box(0, 0, grid.width, grid.height))
        for number, seen in enumerate(read.reshape(-1, columns))
    ]
    return Pass(grid, Affine.identity(), rows)


def assert_same(one: Footprints, other: Footprints) -> None:
    assert shapely.to_wkb(one.polygons).tolist() == shapely.to_wkb(other.polygons).tolist()
    for name in ("scores", "labels", "cut", "keypoints"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


@given(
    size=st.integers(50, 130),
    share=st.sampled_from([0, 0.05, 0.25, 0.45, 0.75]),
    offset=st.tuples(st.floats(-9, 9), st.floats(-9, 20)),
    seed=st.integers(0, 99),
)
@settings(max_examples=8)
def test_rows_give_what_all_at_once_give(size, share, offset, seed):
    grid = ChipGrid(HEIGHT, WIDTH, size, int(share * size))
    town = [translate(building, *offset) for building in TOWN]
    detector = KnownBuildings(town, flaws=FLAWS, keypoints=CORNERS)
    read = np.random.default_rng(seed).random(len(grid)) < 0.95
    outlines = detect_scene(detector, grid, read=read)
    for confidence in (0.1, 0.6):
        together = merge(outlines, grid, read, confidence=confidence)
        look = rows_of(outlines, grid, read)
        assert_same(merge_rows(look, confidence=confidence, overlaps=False), together)


@pytest.mark.parametrize("overlaps", [True, False])
def test_rows_of_several_classes_give_what_all_at_once_give(overlaps):
    grid, read = ChipGrid(HEIGHT, WIDTH, 90, 25), np.ones(10, dtype=bool)
    kinds = np.arange(len(TOWN)) % 3
    detector = KnownBuildings(
        TOWN, labels=kinds, classes=("a", "b", "c"), flaws=[under_every_name(3), unsure]
    )
    read = np.ones(len(grid), dtype=bool)
    outlines = detect_scene(detector, grid)
    together = merge(outlines, grid, read, confidence=0.4, overlaps=overlaps)
    look = rows_of(outlines, grid, read)
    assert_same(merge_rows(look, confidence=0.4, overlaps=overlaps), together)


def test_nothing_found_gives_no_footprints():
    grid = ChipGrid(HEIGHT, WIDTH, 90, 25)
    look = rows_of(Outlines.empty(keypoints=4), grid, np.ones(len(grid), dtype=bool))
    found = merge_rows(look, confidence=0.5, overlaps=False)
    assert (len(found), found.keypoints.shape) == (0, (0, 4, 3))


# What is held. Chips of 100 px, 60 px apart: the third row begins at 120.

GRID = ChipGrid(400, 100, 100, 40)


@pytest.mark.parametrize(
    ("houses", "chips", "is_open"),
    [
        pytest.param([box(10, 10, 30, 30)], [0], [False], id="far above what is to come"),
        pytest.param([box(10, 62, 30, 80)], [1], [True], id="of the last row"),
        pytest.param([box(10, 96, 30, 100)], [0], [False], id="a piece out of reach"),
        pytest.param(
            [box(10, 10, 30, 97), box(10, 62, 30, 110)], [0, 1], [True, True], id="pieces of one"
        ),
        pytest.param(
            [box(30, 40, 50, 59), box(30, 58, 50, 85), box(30, 75, 50, 95)],
            [0, 0, 1],
            [True, True, True],
            id="linked by another",
        ),
        pytest.param(
            [box(30, 40, 50, 57), box(30, 58, 50, 85), box(30, 75, 50, 95)],
            [0, 0, 1],
            [False, True, True],
            id="whole and beside another, no common ground",
        ),
        pytest.param(
            [box(30, 40, 50, 60), box(30, 65, 50, 90)],
            [0, 1],
            [True, True],
            id="beside a piece",
        ),
    ],
)
def test_open_is_what_rows_to_come_may_change(houses, chips, is_open):
    assert find_open(outlines_of(houses, chips=chips), GRID, rows=2).tolist() == is_open


def test_nothing_is_open_after_the_last_row():
    outlines = outlines_of([box(10, 380, 30, 400)], chips=[5])
    assert find_open(outlines, GRID, rows=len(GRID.row_starts)).tolist() == [False]


def test_a_tall_scene_is_let_go_row_by_row(monkeypatch):
    grid = ChipGrid(6000, 100, 100, 25)
    houses = [box(20, 10 + 30 * i, 40, 30 + 30 * i) for i in range(199)]
    outlines = detect_scene(KnownBuildings(houses), grid)
    read = np.ones(len(grid), dtype=bool)
    at_once = []

    def watch(outlines, *args, **options):
        at_once.append(len(outlines))
        return merge(outlines, *args, **options)

    monkeypatch.setattr(streaming, "merge", watch)
    found = merge_rows(rows_of(outlines, grid, read), confidence=0.5, overlaps=False)
    assert len(found) == len(houses)
    assert max(at_once) <= 12
