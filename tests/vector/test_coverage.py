"""Area coverage against GEOS, cell by cell."""

import time

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from footprints.vector.coverage import rasterize_coverage

COURTYARD = shapely.Polygon(
    [(1, 1), (9, 2), (8, 9), (2, 8)], holes=[[(4, 4), (4.5, 6), (6, 5.5), (6, 4)]]
)
TWO_PARTS = shapely.MultiPolygon([shapely.box(0, 0, 2.3, 3), shapely.box(5, 5, 9.5, 7.1)])


def geos_coverage(polygon: shapely.Geometry, box: np.ndarray, side: int) -> np.ndarray:
    x_min, y_min, x_max, y_max = (float(value) for value in box)
    x = np.linspace(x_min, x_max, side + 1)
    y = np.linspace(y_min, y_max, side + 1)
    rows, columns = np.mgrid[:side, :side]
    cells = shapely.box(x[columns], y[rows], x[columns + 1], y[rows + 1])
    return shapely.area(shapely.intersection(cells, polygon)) / shapely.area(cells)


def star(rng: np.random.Generator, corners: int) -> shapely.Polygon:
    """A ragged ring around (10, 10) with a hole of the same shape inside."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 0.3)
    radius = rng.uniform(2, 9, corners)
    shell = 10 + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    return shapely.difference(
        shapely.make_valid(shapely.Polygon(shell)),
        shapely.make_valid(shapely.Polygon(10 + 0.5 * (shell - 10))),
    )


@pytest.mark.parametrize(
    ("polygon", "box"),
    [
        pytest.param(COURTYARD, (0, 0, 10, 10), id="courtyard inside the box"),
        pytest.param(COURTYARD, (1, 1, 9, 9), id="box that touches the corners"),
        pytest.param(COURTYARD, (5, -3, 14, 14), id="cut on the left"),
        pytest.param(COURTYARD, (-3, -3, 5, 14), id="cut on the right"),
        pytest.param(COURTYARD, (-3, 5, 14, 14), id="cut at the top"),
        pytest.param(COURTYARD, (-3, -3, 14, 5), id="cut at the bottom"),
        pytest.param(COURTYARD, (4.6, 4.4, 5.4, 5.2), id="box within the courtyard"),
        pytest.param(COURTYARD, (2, 2, 3, 3), id="box within the roof"),
        pytest.param(COURTYARD, (20, 0, 30, 10), id="polygon left of the box"),
        pytest.param(COURTYARD, (-20, 0, -10, 10), id="polygon right of the box"),
        pytest.param(COURTYARD, (0, 20, 10, 30), id="polygon above the box"),
        pytest.param(COURTYARD, (0, -20, 10, -10), id="polygon below the box"),
        pytest.param(COURTYARD, (0, 3, 17, 7), id="oblong box"),
        pytest.param(COURTYARD.reverse(), (0, 0, 10, 10), id="rings the other way round"),
        pytest.param(TWO_PARTS, (0, 0, 10, 10), id="two parts on grid lines"),
        pytest.param(TWO_PARTS, (1, 1, 6, 6), id="two parts cut"),
        pytest.param(shapely.box(-1e6, -1e6, 1e6, 1e6), (3, 4, 5, 7), id="huge polygon"),
        pytest.param(shapely.box(-1e6, 4.5, 1e6, 5.25), (3, 4, 5, 7), id="endless band"),
    ],
)
@pytest.mark.parametrize("side", [1, 7, 10])
def test_each_cell_holds_the_area_that_geos_finds_there(polygon, box, side):
    coverage = rasterize_coverage(np.array([polygon], dtype=object), np.array([box]), side)
    np.testing.assert_allclose(coverage[0], geos_coverage(polygon, box, side), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(1, 12))
def test_ragged_rings_agree_with_geos_in_any_box(seed, side):
    rng = np.random.default_rng(seed)
    polygons = np.array([star(rng, int(corners)) for corners in rng.integers(3, 12, 3)])
    corner = rng.uniform(-5, 20, (3, 2))
    boxes = np.hstack([corner, corner + rng.uniform(0.5, 25, (3, 2))])
    coverage = rasterize_coverage(polygons, boxes, side)
    expected = [geos_coverage(*pair, side) for pair in zip(polygons, boxes, strict=True)]
    np.testing.assert_allclose(coverage, expected, atol=1e-6)


def test_polygons_drawn_together_equal_polygons_drawn_alone():
    rng = np.random.default_rng(3)
    polygons = np.array([star(rng, 9) for _ in range(5)])
    boxes = np.tile([2.0, 3.0, 17.0, 16.0], (5, 1))
    together = rasterize_coverage(polygons, boxes, 28)
    alone = [rasterize_coverage(polygons[i : i + 1], boxes[i : i + 1], 28)[0] for i in range(5)]
    np.testing.assert_array_equal(together, alone)
    assert together.dtype == np.float32


@pytest.mark.parametrize(
    "nothing", [None, shapely.Polygon(), shapely.MultiPolygon()], ids=["None", "empty", "no parts"]
)
def test_nothing_covers_nothing_and_leaves_its_neighbours_alone(nothing):
    polygons = np.array([shapely.box(0, 0, 1, 1), nothing, shapely.box(0, 0, 1, 1)], dtype=object)
    coverage = rasterize_coverage(polygons, np.tile([0.0, 0, 2, 2], (3, 1)), 2)
    assert coverage.sum(axis=(1, 2)).tolist() == [1, 0, 1]


def test_no_polygons_give_no_grids():
    coverage = rasterize_coverage(np.empty(0, dtype=object), np.empty((0, 4)), 28)
    assert coverage.shape == (0, 28, 28)


@pytest.mark.parametrize("box", [(1, 1, 1, 3), (1, 3, 3, 3), (3, 3, 1, 1)])
def test_a_box_without_area_gets_zeros(box):
    polygons = np.array([shapely.box(0, 0, 4, 4)], dtype=object)
    assert not rasterize_coverage(polygons, np.array([box], dtype=np.float32), 4).any()


def test_row_zero_is_at_y_min_and_column_zero_at_x_min():
    polygons = np.array([shapely.box(2, 0, 3, 1)], dtype=object)
    coverage = rasterize_coverage(polygons, np.array([[0.0, 0.0, 3.0, 3.0]]), 3)
    assert np.argwhere(coverage[0] == 1).tolist() == [[0, 2]]


def test_a_chip_of_training_targets_takes_a_fraction_of_a_second():
    rng = np.random.default_rng(0)
    polygons = np.array([star(rng, 8) for _ in range(300)])
    boxes = shapely.bounds(polygons)
    started = time.process_time()
    rasterize_coverage(polygons, boxes, 112)
    assert time.process_time() - started < 1.0
