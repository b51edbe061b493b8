"""What `evaluate` measures beyond its matches, against cases done by hand."""

import json

import numpy as np
import pytest
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from shapely import MultiPolygon, box

from footprints.chip import ChipGrid
from footprints.errors import ConfigError
from footprints.evaluation import evaluate
from footprints.figures import tabulate_seams
from footprints.vector.scenes import SceneRecord, attach_scenes, describe_grid, describe_scene

X, Y = 500_000, 3_000_000


def house(x: float, width: float = 10, depth: float = 10):
    return box(X + x, Y, X + x + width, Y + depth)


def layer_of(*polygons, confidence=None, crs="EPSG:32645") -> GeoDataFrame:
    columns = {} if confidence is None else {"confidence": confidence}
    return GeoDataFrame(columns, geometry=list(polygons), crs=crs)


def figures_of(predicted, truth, **options):
    return evaluate(predicted, truth, full=True, **options).figures


ROW = layer_of(*(house(20 * i) for i in range(10)))


def test_a_perfect_layer_has_no_fault():
    measured = figures_of(ROW, ROW)
    assert (measured.over_iou.ap, measured.over_iou.ap50, measured.over_iou.f1) == (1, 1, 1)
    assert measured.layer.pixel_iou == pytest.approx(1)
    assert measured.shape.polis_m == pytest.approx(0, abs=1e-6)
    assert (measured.shape.n_ratio, measured.shape.c_iou) == (1, pytest.approx(1))
    assert measured.layer.duplicates == measured.layer.fragments == measured.layer.merged == 0
    assert measured.confidence is None


def test_figures_over_iou_fall_with_the_threshold():
    # One house of two has an IoU of 0.72: it counts at 0.5, 0.55, 0.6, 0.65 and 0.7 only.
    predicted = layer_of(house(0), house(20, 7.2), confidence=[0.9, 0.8])
    over = figures_of(predicted, layer_of(house(0), house(20))).over_iou
    assert over.precision == over.recall == over.f1 == pytest.approx(0.75)
    assert over.ap50 == 1
    assert over.ap75 == pytest.approx(51 / 101)
    assert over.ap == pytest.approx((1 + 51 / 101) / 2)


def test_pixel_iou_counts_ground_once_that_footprints_share():
    # 100 + 100 m2 with 50 m2 twice; 100 m2 of them true.
    predicted = layer_of(house(0), house(5))
    assert figures_of(predicted, layer_of(house(0))).layer.pixel_iou == pytest.approx(100 / 150)


def test_pixel_iou_ends_at_the_area_of_interest():
    area = layer_of(box(X - 5, Y - 5, X + 5, Y + 15))
    measured = figures_of(layer_of(house(0), house(40)), layer_of(house(2)), aoi=area)
    assert measured.layer.pixel_iou == pytest.approx(3 / 5)


def test_duplicates_fragments_and_merged_neighbours_are_told_apart():
    truth = layer_of(house(0), house(20), house(40), house(50), house(80), house(100))
    predicted = layer_of(
        *(house(0), house(1)),  # a duplicate
        *(house(20, 6), house(26, 4)),  # a match and a fragment
        house(40, 20),  # two neighbours in one
        house(80, 4),  # too small, and alone: no fragment
        house(200),
        confidence=[0.9, 0.8, 0.9, 0.8, 0.9, 0.9, 0.9],
    )
    layer = figures_of(predicted, truth).layer
    assert layer.duplicates == pytest.approx(1 / 7)
    assert layer.fragments == pytest.approx(1 / 7)
    assert layer.merged == pytest.approx(2 / 6)


def test_sizes_are_those_of_the_building_itself():
    truth = layer_of(house(0, 4, 5), house(20, 4, 5), house(40, 30, 20))
    predicted = layer_of(house(0, 4, 5), house(40, 30, 20), house(100, 5, 15))
    sizes = {size.from_m2: size for size in figures_of(predicted, truth).by_size}
    assert [(s.truths, s.predictions) for s in sizes.values()] == [
        *[(2, 1), (0, 0), (0, 1), (0, 0), (0, 0), (1, 1)]
    ]
    assert (sizes[0].recall, sizes[0].precision) == (0.5, 1)
    assert sizes[0].ap == pytest.approx(51 / 101)
    assert (sizes[50].precision, sizes[50].ap) == (0, 0)
    assert (sizes[500].ap, sizes[500].to_m2) == (1, None)


CONFIDENCE = [0.9, 0.8, 0.7, 0.6, 0.5]
"""Of three hits, a false alarm and a hit; one of five truths is missed."""
PREDICTED = layer_of(*(house(x) for x in (0, 20, 40, 500, 60)), confidence=CONFIDENCE)
TRUTH = layer_of(*(house(x) for x in (0, 20, 40, 60, 80)))


def test_the_best_confidence_is_that_of_the_best_f1():
    said = figures_of(PREDICTED, TRUTH).confidence
    # F1 is 2 tp / (predicted + 5): 6/8 from 0.7 on, 8/10 from 0.5 on.
    assert (said.best_f1_from, said.best_f1) == (0.5, pytest.approx(0.8))
    expected = np.mean([0.1, 0.2, 0.3, 0.6, 0.5])
    assert said.calibration_error == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wanted", "reached_from", "recall"),
    [(0.8, 0.5, 0.8), (0.81, 0.7, 0.6), (1.0, 0.7, 0.6)],
)
def test_the_lowest_confidence_reaches_the_precision_asked_for(wanted, reached_from, recall):
    report = evaluate(PREDICTED, TRUTH, precision=wanted)
    said = report.figures.confidence
    assert (said.asked_precision_from, said.asked_precision_recall) == (reached_from, recall)
    assert f"Confidence {reached_from} reaches precision {wanted:g}, with recall" in str(report)


def test_it_says_where_no_confidence_reaches_the_precision():
    wrong = layer_of(house(500), house(0), confidence=[0.9, 0.8])
    report = evaluate(wrong, TRUTH, precision=0.9)
    assert report.figures.confidence.asked_precision_from is None
    assert str(report).endswith("No confidence reaches precision 0.9.")


def test_leaving_out_by_the_suggestion_gives_its_f1():
    rng = np.random.default_rng(1)
    predicted = layer_of(
        *(
            house(x + shift)
            for x, shift in zip(range(0, 2000, 10), rng.normal(0, 3, 200), strict=True)
        ),
        confidence=rng.uniform(0, 1, 200),
    )
    truth = layer_of(*(house(x) for x in range(0, 2000, 20)))
    said = figures_of(predicted, truth).confidence
    assert evaluate(predicted, truth, confidence=said.best_f1_from).f1 == said.best_f1


def test_with_classes_average_precision_is_the_mean_of_theirs():
    truth = TRUTH.assign(kind=["hall", "house", "house", "house", "house"])
    predicted = PREDICTED.assign(**{"class": ["hall", "house", "house", "house", "house"]})
    report = evaluate(predicted, truth, class_field="kind", full=True)
    hall, houses = (report.classes[name].figures for name in ("hall", "house"))
    assert hall.over_iou.ap == 1
    assert report.figures.over_iou.ap == pytest.approx((1 + houses.over_iou.ap) / 2)
    assert 0 < houses.over_iou.ap < 1


def test_boundary_iou_in_pixels_wants_the_size_of_a_pixel():
    assert figures_of(ROW, ROW).shape.boundary_iou_2px is None
    # Strips 1 m inside two squares 1 m apart: the level ones share 9 m each.
    moved = layer_of(house(1))
    shape = figures_of(moved, layer_of(house(0)), pixel_m=0.5).shape
    assert shape.boundary_iou_2px == pytest.approx(shape.boundary_iou_1m, rel=1e-3)
    assert shape.boundary_iou_1m == pytest.approx(18 / (36 + 36 - 18), rel=1e-3)


def test_the_record_of_scenes_tells_the_size_of_a_pixel():
    seen = shapely.MultiPolygon([box(X - 50, Y - 50, X + 500, Y + 50)])
    scene = SceneRecord("a.tif", "known", "1", 0.5, {}, seen.wkt, "EPSG:32645")
    predicted = layer_of(house(1))
    attach_scenes(predicted, [scene])
    shape = figures_of(predicted, layer_of(house(0))).shape
    assert shape.boundary_iou_2px == pytest.approx(shape.boundary_iou_1m, rel=1e-3)


def test_lengths_are_metres_in_degrees_too():
    plain = figures_of(layer_of(house(1)), layer_of(house(0)))
    degrees = [layer_of(house(x)).to_crs("EPSG:4326") for x in (1, 0)]
    measured = figures_of(*degrees)
    assert measured.shape.centroid_m == pytest.approx(plain.shape.centroid_m, rel=1e-3)
    assert measured.shape.centroid_m == pytest.approx(1, rel=1e-3)
    assert measured.layer.pixel_iou == pytest.approx(9 / 11, rel=1e-3)


@pytest.mark.parametrize(("predicted", "truth"), [(0, 2), (2, 0), (0, 0)])
def test_empty_layers_have_figures_that_json_can_hold(predicted, truth):
    houses = [house(0), house(20)]
    report = evaluate(layer_of(*houses[:predicted]), layer_of(*houses[:truth]), full=True)
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["figures"]["over_iou"]["ap"] == 0
    assert values["figures"]["layer"]["pixel_iou"] == 0
    assert "AP50" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": 0}, "--precision must be above 0 and at most 1, got 0"),
        ({"precision": 1.5}, "--precision must be above 0 and at most 1, got 1.5"),
        ({"pixel_m": 0}, "--pixel-size must be above 0, in metres, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(ROW, ROW, full=True, **options)


def with_chips(layer: GeoDataFrame) -> GeoDataFrame:
    """The layer as of a scene of two chips of 64 m side by side, which share 20 m."""
    grid = describe_grid(ChipGrid(64, 108, 64, 20), Affine(1, 0, X, 0, -1, Y + 40))
    layer = layer.copy()
    record = describe_scene(
        "a.tif",
        "m",
        MultiPolygon([box(0, 0, 108, 64)]),
        Affine(1, 0, X, 0, -1, Y + 40),
        layer.crs,
        pixel_m=1.0,
        parameters={"grid": grid},
    )
    attach_scenes(layer, [record])
    return layer


def test_what_the_edges_of_chips_cross_has_figures_of_its_own():
    # Chips end 44 m and 64 m east of the corner.
    truth = layer_of(house(0), house(20), house(40), house(60), house(80), house(94))
    predicted = with_chips(
        layer_of(
            house(0),
            *(house(40, 6), house(46, 4)),  # cut in two: a match and a fragment
            *(house(60), house(61)),  # found twice
            house(94),
            confidence=[0.9, 0.8, 0.7, 0.9, 0.8, 0.9],
        )
    )
    measured = figures_of(predicted, truth)
    crossed, elsewhere = measured.by_seam
    assert (crossed.crossed, elsewhere.crossed) == (True, False)
    assert (crossed.truths, elsewhere.truths) == (2, 4)
    assert (crossed.predictions, elsewhere.predictions) == (3, 3)
    assert (crossed.recall, crossed.precision) == (1, pytest.approx(2 / 3))
    assert (elsewhere.recall, elsewhere.precision) == (0.5, pytest.approx(2 / 3))
    assert crossed.f1 == pytest.approx(0.8)
    assert (crossed.duplicates, elsewhere.duplicates) == (pytest.approx(1 / 3), 0)
    assert (crossed.fragments, elsewhere.fragments) == (0, pytest.approx(1 / 3))
    assert measured.layer.duplicates == pytest.approx(1 / 6)
    table = tabulate_seams(measured)
    assert [row[0] for row in table] == ["chip edges", "crossed by one", "elsewhere"]
    assert "crossed by one" in str(evaluate(predicted, truth, full=True))


def test_the_edges_of_chips_are_found_in_another_crs():
    truth = layer_of(house(40), house(80))
    predicted = with_chips(layer_of(house(40), house(80), confidence=[0.9, 0.8]))
    crossed, elsewhere = figures_of(predicted, truth.to_crs("EPSG:4326")).by_seam
    assert (crossed.truths, elsewhere.truths) == (1, 1)


def test_a_layer_that_does_not_tell_its_chips_has_no_figures_of_their_edges():
    measured = figures_of(ROW, ROW)
    assert measured.by_seam == ()
    assert tabulate_seams(measured) == []
    grid = describe_grid(ChipGrid(50, 50, 64, 20), Affine.identity())
    assert grid["columns"] == [[0, 50]]
