"""The grid of chips: every pixel, moved inwards, small rasters, bad values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footprints.chip import ChipGrid, InputSpec, Scaling, Window
from footprints.errors import ChipSizeError, ConfigError, FootprintsError


@st.composite
def grids(draw):
    multiple = draw(st.sampled_from([1, 8, 32]))
    size = multiple * draw(st.integers(1, 6))
    overlap = draw(st.integers(0, size - 1))
    # Small overlaps on purpose too: an overlap of size - 1 makes a chip of every pixel.
    length = st.integers(1, 300)
    return ChipGrid(draw(length), draw(length), size, min(overlap, size - 1), multiple)


@given(grids())
@settings(max_examples=150)
def test_every_pixel_is_in_a_chip_and_neighbours_share_the_overlap(grid):
    for starts, chip, length in (
        (grid.row_starts, grid.chip_height, grid.height),
        (grid.column_starts, grid.chip_width, grid.width),
    ):
        covered = np.zeros(max(length, chip), dtype=int)
        for start in starts:
            covered[start : start + chip] += 1
        assert covered[:length].min() >= 1
        assert np.diff(starts).max(initial=0) <= grid.size - grid.overlap


@given(grids())
@settings(max_examples=150)
def test_chips_stay_inside_a_raster_that_has_room(grid):
    for starts, chip, length in (
        (grid.row_starts, grid.chip_height, grid.height),
        (grid.column_starts, grid.chip_width, grid.width),
    ):
        assert starts[0] == 0
        assert list(starts) == sorted(set(starts))
        if length >= chip:
            assert starts[-1] + chip == length
        else:
            assert starts == (0,)


@given(grids())
@settings(max_examples=50)
def test_chip_sides_are_multiples_and_never_larger_than_asked(grid):
    assert grid.chip_height % grid.multiple == 0
    assert grid.chip_width % grid.multiple == 0
    assert max(grid.chip_height, grid.chip_width) <= grid.size


def test_last_row_and_column_are_moved_inwards():
    grid = ChipGrid(height=700, width=1000, size=512, overlap=128)
    assert grid.column_starts == (0, 384, 488)
    assert grid.row_starts == (0, 188)
    assert grid.window(5) == Window(488, 188, 512, 512)


def test_chips_are_numbered_row_by_row():
    grid = ChipGrid(height=700, width=1000, size=512, overlap=128)
    assert len(grid) == 6
    assert [grid.row_column(i) for i in range(4)] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert list(grid) == [grid.window(i) for i in range(6)]


def test_a_raster_smaller_than_a_chip_gets_one_chip_that_extends_beyond_it():
    grid = ChipGrid(height=40, width=70, size=512, overlap=128, multiple=32)
    assert list(grid) == [Window(0, 0, 96, 64)]


def test_a_raster_of_one_chip_gets_one_chip():
    assert list(ChipGrid(512, 512, size=512, overlap=0)) == [Window(0, 0, 512, 512)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"height": 0}, "at least one pixel, got 100 x 0", id="no rows"),
        pytest.param({"width": -1}, "at least one pixel, got -1 x 100", id="negative width"),
        pytest.param({"size": 0}, "positive multiple of 1, got 0", id="chip of no pixels"),
        pytest.param({"size": 100, "multiple": 32}, "multiple of 32, got 100", id="odd size"),
        pytest.param({"overlap": 64}, "smaller --overlap", id="overlap as large as the chip"),
        pytest.param({"overlap": -1}, r"in \[0, chip size\)", id="negative overlap"),
    ],
)
def test_bad_values_say_the_rule_and_the_value(values, words):
    with pytest.raises(ChipSizeError, match=words) as caught:
        ChipGrid(**{"height": 100, "width": 100, "size": 64, "overlap": 16, **values})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (FootprintsError, ValueError))


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        pytest.param({"short_side": 800, "gsd_m": 0.3}, "0.3 m.*800 px.*never both", id="both"),
        pytest.param({"long_side": 1333}, "1333 px has no short side", id="a limit of nothing"),
        pytest.param({"short_side": 0}, "positive.* got 0", id="no pixel"),
        pytest.param({"short_side": 80, "long_side": 79}, "80 and 79", id="wrong way round"),
    ],
)
def test_one_rule_says_how_large_the_world_is_shown(sides, words):
    with pytest.raises(ConfigError, match=words):
        InputSpec(**{"bands": 1, "gsd_m": None, "scaling": Scaling((0.0,), (1.0,)), **sides})
