"""Tracing on hand-made grids, against coverage, and on analytic rectangles."""

import time

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from footprints.chip import Instances, MaskGroup
from footprints.vector.coverage import rasterize_coverage
from footprints.vector.trace import trace


def instances_of(*groups: tuple[list[int], np.ndarray], boxes: np.ndarray) -> Instances:
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return Instances(
        boxes=boxes,
        scores=np.ones(len(boxes), dtype=np.float32),
        labels=np.zeros(len(boxes), dtype=np.int64),
        mask_boxes=boxes,
        masks=tuple(
            MaskGroup(np.asarray(index, dtype=np.int64), np.asarray(logits, dtype=np.int8))
            for index, logits in groups
        ),
    )


def trace_grids(logits: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray:
    """Trace (k, S, S) grids, by default each over a box with cells of one pixel."""
    count, side, _ = logits.shape
    if boxes is None:
        boxes = np.tile([0, 0, side, side], (count, 1))
    return trace(instances_of((np.arange(count), logits), boxes=boxes))


def trace_picture(picture: str, strength: int = 64) -> shapely.Geometry | None:
    """Trace one grid drawn with # for inside, o for exactly zero and . for outside."""
    value = {"#": strength, ".": -strength, "o": 0}
    logits = np.array([[value[cell] for cell in row] for row in picture.split()], dtype=np.int8)
    return trace_grids(logits[None])[0]


def rectangles(count: int, width: float, height: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, count)
    centre = rng.uniform(0, 500, (count, 2))
    along = np.column_stack([np.cos(angle), np.sin(angle)]) * width / 2
    across = np.column_stack([-np.sin(angle), np.cos(angle)]) * height / 2
    corners = [centre + i * along + j * across for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return shapely.polygons(np.stack(corners, axis=1))


def as_logits(coverage: np.ndarray) -> np.ndarray:
    share = np.clip(coverage.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.clip(np.rint(16 * np.log(share / (1 - share))), -128, 127).astype(np.int8)


def iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return shapely.area(shapely.intersection(left, right)) / shapely.area(
        shapely.union(left, right)
    )


@pytest.mark.parametrize("side", [1, 2, 28])
@pytest.mark.parametrize("value", [1, 127])
def test_a_mask_full_to_its_border_is_exactly_its_box(side, value):
    box = np.array([[3.1, 4.7, 20.3, 11.9]], dtype=np.float32)
    outline = trace_grids(np.full((1, side, side), value, dtype=np.int8), box)[0]
    assert sorted(outline.exterior.coords[:-1]) == sorted(
        (float(x), float(y)) for x in box[0, [0, 2]] for y in box[0, [1, 3]]
    )


@pytest.mark.parametrize("value", [0, -1, -128])
def test_a_mask_without_inside_is_none(value):
    assert trace_grids(np.full((2, 9, 9), value, dtype=np.int8)).tolist() == [None, None]


def test_a_block_of_cells_is_cut_half_way_to_its_neighbours_with_bevelled_corners():
    outline = trace_picture("..... .##.. .##.. ..... .....")
    assert outline.normalize().equals_exact(
        shapely.Polygon(
            [(1, 1.5), (1.5, 1), (2.5, 1), (3, 1.5), (3, 2.5), (2.5, 3), (1.5, 3), (1, 2.5)]
        ).normalize(),
        1e-12,
    )


def test_a_corner_at_the_border_of_the_mask_box_is_kept():
    outline = trace_picture("##.. ##.. .... ....")
    assert outline.normalize().equals_exact(
        shapely.Polygon([(0, 0), (2, 0), (2, 1.5), (1.5, 2), (0, 2)]).normalize(), 1e-12
    )


def test_a_lone_weak_cell_is_noise_but_a_lone_strong_one_is_not():
    grid = np.full((2, 3, 3), -2, dtype=np.int8)
    grid[:, 1, 1] = 1, 127
    weak, strong = trace_grids(grid)
    assert weak is None
    assert strong.area > 1


@pytest.mark.parametrize(
    ("between", "parts"), [pytest.param(-10, 1, id="joined"), pytest.param(-80, 2, id="apart")]
)
@pytest.mark.parametrize("step", [pytest.param(1, id="falling"), pytest.param(-1, id="rising")])
def test_a_saddle_is_decided_by_the_mean_of_its_four_cells(between, parts, step):
    grid = np.full((6, 6), between, dtype=np.int8)
    grid[:3, :3] = grid[3:, 3:] = 40
    outline = trace_grids(grid[None, :, ::step])[0]
    assert shapely.get_num_geometries(outline) == parts
    assert outline.is_valid


def test_a_courtyard_is_a_hole():
    outline = trace_picture("....... .#####. .#####. .##.##. .#...#. .#####. .......", 100)
    assert len(outline.interiors) == 1
    assert outline.contains(shapely.Point(5.5, 5.5))
    assert not outline.intersects(shapely.Point(3.5, 4.5))


def test_a_hole_of_less_than_a_cell_is_closed():
    assert not trace_picture("##### ##### ##o## ##### #####").interiors


def test_a_house_in_a_courtyard_and_holes_of_several_parts_find_their_shells():
    outline = trace_picture(
        "#########.#####"
        " #########.#####"
        " ##.....##.##.##"
        " ##.###.##.#...#"
        " ##.###.##.##.##"
        " ##.###.##.#####"
        " ##.....##.#####"
        " #########......"
        " #########.#####"
        " ..........#####"
        " ######....#####"
        " ######....#####"
        " ##..##....#####"
        " ##..##........."
        " ######........."
    )
    assert outline.is_valid
    assert len(outline.geoms) == 5
    # By the area of their envelope: the ring around the house, the roof beside it, the one below.
    assert {round(part.envelope.area) for part in outline.geoms if part.interiors} == {81, 30, 35}


def test_shells_turn_left_in_the_picture_and_holes_right():
    outline = trace_picture("##### ##### #...# #...# #####")
    # is_ccw takes y to point up; in the picture it points down.
    assert not shapely.is_ccw(outline.exterior)
    assert shapely.is_ccw(outline.interiors[0])


def test_exact_zeros_are_outside_and_rings_do_not_touch():
    outline = trace_picture("##o## ##o## ooooo ##o## ##o##")
    assert shapely.get_num_geometries(outline) == 4
    assert outline.is_valid


def test_straight_runs_have_no_points_in_between():
    grid = np.full((1, 28, 28), -90, dtype=np.int8)
    grid[0, 4:20, 3:25] = 50
    assert shapely.get_num_coordinates(trace_grids(grid)[0]) == 9


@settings(deadline=None, max_examples=60)
@given(
    logits=hnp.arrays(
        np.int8,
        st.tuples(st.just(4), st.integers(1, 9)).map(lambda shape: (*shape, shape[1])),
        elements=st.one_of(st.integers(-128, 127), st.sampled_from([-1, 0, 1])),
    )
)
def test_any_grid_gives_valid_outlines_around_its_inside_cells(logits):
    # Cells three times finer than the values are not small enough to be dropped as noise.
    sign = np.where(logits > 0, 50, -50).astype(np.int8).repeat(3, axis=1).repeat(3, axis=2)
    outlines = trace_grids(sign)
    assert [outline is not None for outline in outlines] == (logits > 0).any(axis=(1, 2)).tolist()
    y, x = np.mgrid[: sign.shape[1], : sign.shape[1]] + 0.5
    for outline, grid in zip(outlines, sign, strict=True):
        if outline is not None:
            assert outline.is_valid
            np.testing.assert_array_equal(shapely.contains_xy(outline, x, y), grid > 0)
    for outline in trace_grids(logits):
        assert outline is None or outline.is_valid


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), side=st.sampled_from([14, 28, 56]))
def test_outlines_of_noise_are_valid_and_inside_their_box_without_repeated_points(seed, side):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-40, 500, (8, 2))
    boxes = np.hstack([corner, corner + rng.uniform(0.5, 90, (8, 2))]).astype(np.float32)
    outlines = trace_grids(rng.integers(-90, 128, (8, side, side)).astype(np.int8), boxes)
    assert shapely.is_valid(outlines).all()
    bounds = shapely.bounds(outlines)
    assert (bounds[:, :2] >= boxes[:, :2]).all()
    assert (bounds[:, 2:] <= boxes[:, 2:]).all()
    rings, ring = shapely.get_coordinates(
        shapely.get_rings(shapely.get_parts(outlines)), return_index=True
    )
    repeated = (rings[1:] == rings[:-1]).all(axis=1) & (ring[1:] == ring[:-1])
    assert not repeated.any()


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(0.1, 10), x=st.integers(-100, 1000), y=st.integers(-100, 1000))
def test_outlines_move_and_grow_with_their_mask_box(scale, x, y):
    truth = rectangles(3, 20, 9)
    logits = as_logits(rasterize_coverage(truth, shapely.bounds(truth), 28))
    placed = np.array([x, y, x + np.float32(30 * scale), y + np.float32(20 * scale)], np.float32)
    outlines = trace_grids(logits, np.tile(placed, (3, 1)))
    width, height = (placed[2:] - placed[:2]).astype(float)
    unit = trace_grids(logits, np.tile([0, 0, 1, 1], (3, 1)))
    for outline, reference in zip(outlines, unit, strict=True):
        expected = shapely.transform(reference, lambda xy: xy * [width, height] + [x, y])
        assert outline.equals_exact(expected, 1e-3)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), size=st.tuples(st.floats(8, 60), st.floats(8, 60)))
def test_the_area_is_the_sum_of_the_coverage(seed, size):
    truth = rectangles(20, *size, seed=seed)
    boxes = shapely.bounds(truth)
    coverage = rasterize_coverage(truth, boxes, 28)
    cell = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 28**2
    area = shapely.area(trace_grids(as_logits(coverage), boxes))
    np.testing.assert_allclose(area, coverage.sum(axis=(1, 2)) * cell, rtol=0.04)


@pytest.mark.parametrize(
    ("width", "height", "least"), [(24, 24, 0.99), (12, 7.5, 0.97), (60, 20, 0.99)]
)
def test_rectangles_at_any_angle_come_back(width, height, least):
    truth = rectangles(500, width, height)
    boxes = shapely.bounds(truth)
    outlines = trace_grids(as_logits(rasterize_coverage(truth, boxes, 28)), boxes)
    assert iou(outlines, truth).mean() >= least


@settings(deadline=None, max_examples=30)
@given(width=st.floats(2.5, 25), height=st.floats(2.5, 25), x=st.floats(1, 2), y=st.floats(1, 2))
def test_the_walls_of_an_upright_rectangle_are_exact_to_the_quantum_of_a_logit(width, height, x, y):
    truth = shapely.box(x, y, x + width, y + height)
    coverage = rasterize_coverage(np.array([truth]), np.array([[0, 0, 28, 28]]), 28)
    outline = trace_grids(as_logits(coverage))[0]
    np.testing.assert_allclose(outline.bounds, truth.bounds, atol=0.02)


def test_instances_of_different_sides_keep_their_order():
    full = {side: np.full((2, side, side), 9, dtype=np.int8) for side in (7, 28)}
    full[28][1] = -9
    boxes = np.array([[i, 0, i + 1 + i, 2] for i in range(4)])
    outlines = trace(instances_of(([2, 0], full[28]), ([1, 3], full[7]), boxes=boxes))
    assert outlines[0] is None
    for i in (1, 2, 3):
        assert outlines[i].bounds == tuple(boxes[i])


def test_more_instances_than_are_traced_at_once_keep_their_order():
    count = 3000
    start = np.arange(count, dtype=np.float32)
    boxes = np.column_stack([start, 0 * start, start + 1, 0 * start + 1])
    outlines = trace_grids(np.full((count, 14, 14), 5, dtype=np.int8), boxes)
    np.testing.assert_array_equal(shapely.bounds(outlines), boxes)


def test_no_instances_give_no_outlines():
    assert trace(instances_of(boxes=np.empty((0, 4)))).shape == (0,)
    assert trace_grids(np.empty((0, 28, 28), dtype=np.int8)).shape == (0,)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 4), (np.nan, 0, 1, 1), (0, 0, np.inf, 1)])
def test_a_mask_box_without_area_gives_none_and_leaves_its_neighbours_alone(box):
    boxes = np.array([[0, 0, 4, 4], box, [4, 0, 8, 4]])
    first, broken, last = trace_grids(np.full((3, 4, 4), 5, dtype=np.int8), boxes)
    assert broken is None
    assert (first.area, last.area) == (16, 16)


def test_tracing_is_many_times_faster_than_mask_by_mask():
    truth = rectangles(400, 24, 24)
    boxes = shapely.bounds(truth)
    logits = as_logits(rasterize_coverage(truth, boxes, 28))

    def mask_by_mask() -> None:
        for grid in logits:
            inside = (grid > 0).astype(np.uint8)
            list(rasterio.features.shapes(inside, inside > 0))

    def seconds(step) -> float:
        started = time.process_time()
        step()
        return time.process_time() - started

    ours = min(seconds(lambda: trace_grids(logits, boxes)) for _ in range(3))
    assert 5 * ours <= seconds(mask_by_mask)
