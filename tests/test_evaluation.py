import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, box

from footprints.errors import ConfigError, LabelWarning, LayerError
from footprints.evaluation import Report, evaluate
from footprints.vector.scenes import SceneRecord, attach_scenes
from footprints.vector.write import write_layer

X, Y = 500_000, 3_000_000


def square(x: float, y: float = 0, side: float = 10) -> Polygon:
    return box(X + x, Y + y, X + x + side, Y + y + side)


def layer_of(*polygons, confidence=None, crs="EPSG:32645") -> GeoDataFrame:
    columns = {} if confidence is None else {"confidence": confidence}
    return GeoDataFrame(columns, geometry=list(polygons), crs=crs)


def counts(report: Report) -> tuple[int, int, int]:
    return report.tp, report.fp, report.fn


def test_a_perfect_layer_scores_one() -> None:
    layer = layer_of(square(0), square(20), square(40))
    assert evaluate(layer, layer) == Report(1.0, 1.0, 1.0, 1.0, tp=3, fp=0, fn=0)


def test_ratios_follow_from_counts() -> None:
    # Two matches, one with half its neighbour's width missing (IoU 0.6); one false; two missed.
    truth = layer_of(square(0), square(20), square(40), square(60))
    predicted = layer_of(square(0), box(X + 20, Y, X + 26, Y + 10), square(100))
    report = evaluate(predicted, truth)
    assert counts(report) == (2, 1, 2)
    assert report.precision == pytest.approx(2 / 3)
    assert report.recall == pytest.approx(2 / 4)
    assert report.f1 == pytest.approx(4 / 7)
    assert report.matched_iou == pytest.approx((1 + 0.6) / 2)


@pytest.mark.parametrize(
    ("width", "iou", "matches"),
    [
        pytest.param(5.0, 0.5, 1, id="exactly at the threshold"),
        pytest.param(4.999, 0.5, 0, id="a millimetre below the threshold"),
        pytest.param(5.0, 0.51, 0, id="below a higher threshold"),
        pytest.param(10.0, 1.0, 1, id="identical at threshold one"),
    ],
)
def test_the_threshold_belongs_to_the_matches(width: float, iou: float, matches: int) -> None:
    predicted = layer_of(box(X + 0.1, Y, X + 0.1 + width, Y + 10))
    truth = layer_of(box(X + 0.1, Y, X + 10.1, Y + 10))
    assert evaluate(predicted, truth, iou=iou).tp == matches


def test_a_duplicate_is_a_false_positive() -> None:
    predicted = layer_of(square(0), square(0.5), confidence=[0.5, 0.9])
    report = evaluate(predicted, layer_of(square(0)))
    assert counts(report) == (1, 1, 0)
    assert report.matched_iou == pytest.approx(9.5 / 10.5)  # the confident one, not the better one


def test_among_equal_confidences_the_better_outline_matches() -> None:
    predicted = layer_of(square(0.5), square(0), confidence=[0.7, 0.7])
    assert evaluate(predicted, layer_of(square(0))).matched_iou == 1.0


def test_a_prediction_takes_the_best_of_the_truths_that_are_left() -> None:
    # Truths at 0 and 2; the sure prediction at 1.2 is nearer to 2, so the other gets 0.
    truth = layer_of(square(0), square(2))
    predicted = layer_of(square(1.2), square(1.4), confidence=[0.9, 0.8])
    report = evaluate(predicted, truth)
    assert counts(report) == (2, 0, 0)
    assert report.matched_iou == pytest.approx((9.2 / 10.8 + 8.6 / 11.4) / 2)


def test_greedy_by_confidence_may_lose_a_match() -> None:
    # The sure prediction takes the only truth the other could have had.
    truth = layer_of(square(0), square(4))
    predicted = layer_of(square(1.9), square(-2), confidence=[0.9, 0.8])
    assert counts(evaluate(predicted, truth)) == (1, 1, 1)


def test_one_blob_over_two_houses_matches_neither() -> None:
    truth = layer_of(square(0), square(10))
    assert counts(evaluate(layer_of(box(X, Y, X + 20, Y + 10)), truth, iou=0.51)) == (0, 1, 2)


def test_a_filled_courtyard_lowers_the_iou() -> None:
    truth = layer_of(Polygon(square(0).exterior, [square(3, 3, 4).exterior]))
    assert evaluate(layer_of(square(0)), truth).matched_iou == pytest.approx(0.84)


def test_low_confidences_are_left_out_and_the_bound_is_kept() -> None:
    predicted = layer_of(square(0), square(20), square(100), confidence=[0.9, 0.5, 0.49])
    truth = layer_of(square(0), square(20))
    assert counts(evaluate(predicted, truth)) == (2, 1, 0)
    assert counts(evaluate(predicted, truth, confidence=0.5)) == (2, 0, 0)
    assert counts(evaluate(predicted, truth, confidence=0.51)) == (1, 0, 1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), tied=st.booleans())
def test_the_order_of_rows_does_not_matter(seed: int, tied: bool) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (60, 2))
    squares = [square(x, y) for x, y in corners]
    confidence = random.integers(1, 3, 40) / 4 if tied else random.permutation(40) / 40
    predicted, truth = layer_of(*squares[:40], confidence=confidence), layer_of(*squares[40:])
    report = evaluate(predicted, truth, iou=0.3)
    shuffled = evaluate(predicted.sample(frac=1, random_state=seed), truth.iloc[::-1], iou=0.3)
    assert counts(shuffled) == counts(report)
    assert shuffled.matched_iou == pytest.approx(report.matched_iou)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), iou=st.floats(0.1, 0.9))
def test_matching_agrees_with_the_plain_loop(seed: int, iou: float) -> None:
    random = np.random.default_rng(seed)
    found = [square(x, y) for x, y in random.uniform(0, 50, (25, 2))]
    true = [square(x, y) for x, y in random.uniform(0, 50, (25, 2))]
    confidence = random.permutation(25) / 25
    free, matched = set(range(25)), []
    for i in np.argsort(-confidence):
        ious = {j: found[i].intersection(true[j]).area / found[i].union(true[j]).area for j in free}
        best = max(ious, key=ious.__getitem__)
        if ious[best] >= iou:
            free.remove(best)
            matched.append(ious[best])
    report = evaluate(layer_of(*found, confidence=confidence), layer_of(*true), iou=iou)
    assert counts(report) == (len(matched), 25 - len(matched), 25 - len(matched))
    assert report.matched_iou == pytest.approx(np.mean(matched) if matched else 0)


def test_predictions_move_to_the_crs_of_the_truth() -> None:
    layer = layer_of(square(0), square(20))
    report = evaluate(layer.to_crs("EPSG:4326"), layer)
    assert counts(report) == (2, 0, 0)
    assert report.matched_iou == pytest.approx(1, abs=1e-6)


def test_iou_is_the_same_in_degrees() -> None:
    predicted, truth = layer_of(square(0)), layer_of(square(2, 1))
    in_degrees = evaluate(predicted, truth.to_crs("EPSG:4326"))
    assert in_degrees.matched_iou == pytest.approx(evaluate(predicted, truth).matched_iou, abs=1e-4)


def test_layers_without_crs_compare_in_pixels() -> None:
    layer = layer_of(square(0), crs=None)
    assert counts(evaluate(layer, layer, aoi=layer)) == (1, 0, 0)


def test_one_layer_without_crs_is_refused() -> None:
    placed, pixels = layer_of(square(0)), layer_of(square(0), crs=None)
    with pytest.raises(LayerError, match="predicted has no coordinate reference system, but truth"):
        evaluate(pixels, placed)
    with pytest.raises(LayerError, match="truth has no coordinate reference system, but predicted"):
        evaluate(placed, pixels)
    with pytest.raises(LayerError, match="aoi has no coordinate reference system, but truth"):
        evaluate(placed, placed, aoi=pixels)


def test_layers_that_lie_apart_are_refused_with_both_extents() -> None:
    with pytest.raises(LayerError) as error:
        evaluate(layer_of(square(0)), layer_of(square(5000)))
    assert "(500000, 3000000, 500010, 3000010)" in str(error.value)
    assert "(505000, 3000000, 505010, 3000010)" in str(error.value)


def test_only_what_stands_in_the_area_counts() -> None:
    truth = layer_of(square(0), square(20), square(100), square(120))
    predicted = layer_of(square(0), square(40), square(100), square(140))
    area = layer_of(box(X - 5, Y - 5, X + 70, Y + 15))
    assert counts(evaluate(predicted, truth, aoi=area)) == (1, 1, 1)


def test_a_match_on_the_border_counts_where_its_truth_stands() -> None:
    area = layer_of(box(X - 50, Y - 50, X + 10, Y + 50))
    truth_inside, truth_outside = layer_of(square(4)), layer_of(square(6))
    assert counts(evaluate(truth_outside, truth_inside, aoi=area)) == (1, 0, 0)
    assert counts(evaluate(truth_inside, truth_outside, aoi=area)) == (0, 0, 0)


def test_an_area_of_many_parts_counts_each_building_once() -> None:
    halves = layer_of(box(X - 5, Y - 5, X + 6, Y + 15), box(X + 4, Y - 5, X + 15, Y + 15))
    layer = layer_of(square(0))
    assert counts(evaluate(layer, layer, aoi=halves.to_crs("EPSG:4326"))) == (1, 0, 0)


def test_an_area_elsewhere_or_empty_is_refused() -> None:
    layer = layer_of(square(0))
    with pytest.raises(LayerError, match=r"^aoi \(509000, .* does not overlap the layers \(5000"):
        evaluate(layer, layer, aoi=layer_of(square(9000)))
    with pytest.raises(LayerError, match="area of interest holds no polygon"):
        evaluate(layer, layer, aoi=layer_of())


def test_an_area_that_cannot_be_moved_to_the_truth_is_named_with_its_place(tmp_path) -> None:
    file = tmp_path / "area.gpkg"
    layer_of(square(0)).set_crs("EPSG:4326", allow_override=True).to_file(file)
    with pytest.raises(LayerError, match=rf"^aoi {file} \(500000, .*, in WGS 84, lies where .*UTM"):
        evaluate(layer_of(square(0)), layer_of(square(0)), aoi=file)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        pytest.param(0, 2, (0, 0, 2), id="nothing predicted"),
        pytest.param(2, 0, (0, 2, 0), id="nothing there"),
        pytest.param(0, 0, (0, 0, 0), id="nothing at all"),
    ],
)
def test_empty_layers_score_zero_and_stay_valid_json(predicted, truth, expected) -> None:
    houses = [square(0), square(20)]
    report = evaluate(layer_of(*houses[:predicted]), layer_of(*houses[:truth]), confidence=None)
    assert counts(report) == expected
    assert (report.precision, report.recall, report.f1, report.matched_iou) == (0, 0, 0, 0)
    json.dumps(report.to_dict(), allow_nan=False)


def test_broken_polygons_are_repaired_and_multipolygons_count_by_part() -> None:
    bow_tie = Polygon([(X, Y), (X + 10, Y + 10), (X + 10, Y), (X, Y + 10)])
    parts = shapely.MultiPolygon([square(20), square(40)])
    with pytest.warns(LabelWarning, match="truth: faulty polygons, 1 repaired"):
        report = evaluate(layer_of(square(20), square(40)), layer_of(bow_tie, parts))
    assert counts(report) == (2, 0, 2)


def test_truth_beyond_the_scenes_is_pointed_out_and_an_area_settles_it() -> None:
    predicted, truth = layer_of(square(0)), layer_of(square(0), square(20), square(40))
    seen = box(X - 5, Y - 5, X + 32, Y + 15)
    scene = SceneRecord(
        "a.tif", "known", "1", 0.3, {}, shapely.MultiPolygon([seen]).wkt, str(truth.crs)
    )
    attach_scenes(predicted, [scene])
    with pytest.warns(LabelWarning, match=r"1 of 3 true buildings lie where .* aoi says where"):
        evaluate(predicted, truth)
    report = evaluate(predicted, truth, aoi=layer_of(seen))
    assert counts(report) == (1, 0, 1)


def test_files_are_read(tmp_path: Path) -> None:
    layer_of(square(0), square(20), confidence=[0.9, 0.2]).to_file(tmp_path / "predicted.gpkg")
    layer_of(square(0)).to_parquet(tmp_path / "truth.parquet")
    layer_of(box(X - 5, Y - 5, X + 50, Y + 50)).to_file(tmp_path / "area.geojson", driver="GeoJSON")
    report = evaluate(
        tmp_path / "predicted.gpkg",
        str(tmp_path / "truth.parquet"),
        aoi=tmp_path / "area.geojson",
    )
    assert counts(report) == (1, 1, 0)
    with pytest.raises(LayerError, match=r"not found: .*absent\.gpkg"):
        evaluate(tmp_path / "absent.gpkg", tmp_path / "truth.parquet")


def test_an_empty_geojson_is_nothing_predicted(tmp_path: Path) -> None:
    write_layer(layer_of(), tmp_path / "desert.geojson")
    report = evaluate(tmp_path / "desert.geojson", layer_of(square(0)), confidence=0.5)
    assert counts(report) == (0, 0, 1)


def test_the_layers_given_stay_as_they_are() -> None:
    predicted, truth = layer_of(square(0), confidence=[0.5]), layer_of(square(0))
    before = predicted.copy(), truth.copy()
    evaluate(predicted, truth.to_crs("EPSG:3857"), confidence=0.6)
    assert predicted.equals(before[0])
    assert truth.equals(before[1])


@pytest.mark.parametrize("iou", [0, -0.1, 1.1, 50, float("nan")])
def test_a_threshold_out_of_range_is_refused(iou: float) -> None:
    with pytest.raises(ConfigError, match="--iou must be above 0"):
        evaluate(layer_of(square(0)), layer_of(square(0)), iou=iou)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"--confidence must be in \[0, 1\]"):
        evaluate(layer_of(square(0)), layer_of(square(0)), confidence=confidence)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        pytest.param(None, "no column confidence to filter by", id="missing"),
        pytest.param(["high"], "must hold numbers from 0 to 1, got 'high'; rename", id="text"),
        pytest.param([np.nan], "empty in 1 rows", id="empty"),
    ],
)
def test_confidences_that_cannot_be_used_are_refused(column: list | None, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        evaluate(layer_of(square(0), confidence=column), layer_of(square(0)), confidence=0.5)


def test_confidences_may_be_numbers_in_text() -> None:
    found = layer_of(square(0), square(20), confidence=["0.9", "0.2"])
    assert evaluate(found, layer_of(square(0)), confidence=0.5).precision == 1


def test_the_report_is_a_small_table_and_a_dictionary() -> None:
    report = Report(precision=0.75, recall=0.6, f1=2 / 3, matched_iou=0.8, tp=3, fp=1, fn=2)
    assert list(report.to_dict()) == ["precision", "recall", "f1", "matched_iou", "tp", "fp", "fn"]
    assert str(report).splitlines() == [
        "precision     0.750   (3 of 4 predicted)",
        "recall        0.600   (3 of 5 true)",
        "F1            0.667",
        "matched IoU   0.800",
    ]


# Classes.


def named(layer: GeoDataFrame, names: list, column: str = "class") -> GeoDataFrame:
    return layer.assign(**{column: names})


def by_class(report: Report) -> dict[str, tuple[int, int, int]]:
    return {name: counts(each) for name, each in report.classes.items()}


def test_with_a_class_field_matches_have_the_right_class() -> None:
    row = layer_of(square(0), square(20), square(40), square(60))
    truth = named(row, ["house", "house", "hall", "shed"], "kind")
    predicted = named(
        layer_of(square(0), square(20), square(40), square(80)), ["house", "hall", "hall", "barn"]
    )
    report = evaluate(predicted, truth, class_field="kind")
    assert counts(report) == (2, 2, 2)
    assert by_class(report) == {
        "barn": (0, 1, 0),
        "hall": (1, 1, 0),
        "house": (1, 0, 1),
        "shed": (0, 0, 1),
    }
    assert report.classes["hall"].precision == 0.5
    assert report.classes["house"].recall == 0.5
    assert report.classes["house"].f1 == pytest.approx(2 / 3)
    assert report.classes["shed"].matched_iou == 0
    alone = evaluate(predicted, truth)
    assert counts(alone) == (3, 1, 1)
    assert alone.classes is None


def test_a_sure_wrong_name_does_not_take_the_truth_from_a_right_one() -> None:
    truth = named(layer_of(square(0)), ["house"], "kind")
    predicted = layer_of(square(0), square(1), confidence=[0.9, 0.4])
    report = evaluate(named(predicted, ["hall", "house"]), truth, class_field="kind")
    assert by_class(report) == {"hall": (0, 1, 0), "house": (1, 0, 0)}
    assert report.matched_iou == report.classes["house"].matched_iou == pytest.approx(9 / 11)


def test_classes_count_in_the_area_of_interest_only() -> None:
    truth = named(layer_of(square(0), square(100)), ["house", "hall"], "kind")
    predicted = named(layer_of(square(0), square(100), square(120)), ["house", "hall", "hall"])
    area = layer_of(box(X - 5, Y - 5, X + 50, Y + 15))
    report = evaluate(predicted, truth, aoi=area, class_field="kind")
    assert by_class(report) == {"hall": (0, 0, 0), "house": (1, 0, 0)}


def test_a_class_map_leads_from_the_values_of_the_truth_to_the_classes(tmp_path: Path) -> None:
    truth = named(layer_of(square(0), square(20), square(40)), [1.0, 12.0, 12.0], "code")
    predicted = named(truth[["geometry"]], ["house", "hall", "house"])
    (tmp_path / "map.yaml").write_text("{1: house, 12: hall}")
    for class_map in ({1: "house", 12: "hall"}, tmp_path / "map.yaml"):
        report = evaluate(predicted, truth, class_field="code", class_map=class_map)
        assert by_class(report) == {"hall": (1, 0, 1), "house": (1, 1, 0)}
    assert set(evaluate(predicted, truth, class_field="code").classes) == {
        *("1", "12", "hall", "house")
    }


def test_truths_left_out_count_for_nothing_and_nor_does_what_stands_on_them() -> None:
    truth = named(layer_of(square(0), square(20), square(40)), ["house", "ruin", None], "kind")
    on_them = [square(20), square(40, side=5), square(47)]
    predicted = named(layer_of(square(0), *on_them), ["house"] * 4)
    with pytest.warns(LabelWarning, match="truth: column 'kind' is empty in 1 of 3 rows"):
        report = evaluate(predicted, truth, class_field="kind", class_map={"ruin": None})
    # The last one stands on unknown ground with less than half of itself: it is wrong.
    assert by_class(report) == {"house": (1, 1, 0)}


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        pytest.param(0, 1, {"house": (0, 0, 1)}, id="nothing predicted"),
        pytest.param(1, 0, {"hall": (0, 1, 0)}, id="nothing there"),
        pytest.param(0, 0, {}, id="nothing at all"),
    ],
)
def test_empty_layers_need_no_class_column(predicted: int, truth: int, expected: dict) -> None:
    found = named(layer_of(square(0)), ["hall"]) if predicted else layer_of()
    true = named(layer_of(square(0)), ["house"], "kind") if truth else layer_of()
    report = evaluate(found, true, class_field="kind")
    assert by_class(report) == expected
    assert (
        json.loads(json.dumps(report.to_dict(), allow_nan=False))["classes"].keys()
        == expected.keys()
    )


def test_classes_that_cannot_be_compared_are_refused() -> None:
    plain = layer_of(square(0))
    house = named(plain, ["house"])
    with pytest.raises(LayerError, match=r"^predicted has no column 'class'; it has: none$"):
        evaluate(plain, house, class_field="class")
    with pytest.raises(LayerError, match=r"^truth has no column 'kind'; it has: class$"):
        evaluate(house, house, class_field="kind")
    with pytest.raises(LayerError, match="column 'class' of predicted is empty in 1 rows"):
        evaluate(named(plain, [None]), house, class_field="class")
    with pytest.raises(ConfigError, match=r"--class-map needs .* --class-field"):
        evaluate(house, house, class_map={"house": "hall"})


def test_the_report_of_classes_is_a_table_and_part_of_the_dictionary() -> None:
    row = layer_of(square(0), square(20))
    report = evaluate(
        named(row, ["hall", "hall"]),
        named(row, ["hall", "two storeys"], "kind"),
        class_field="kind",
    )
    assert str(report).splitlines()[4:] == [
        "",
        "class        precision  recall     F1    IoU     tp     fp     fn",
        "hall             0.500   1.000  0.667  1.000      1      1      0",
        "two storeys          -   0.000  0.000      -      0      0      1",
    ]
    values = report.to_dict()
    assert list(values)[:-1] == list(Report(0, 0, 0, 0, 0, 0, 0).to_dict())
    assert list(values["classes"]) == ["hall", "two storeys"]
    assert values["classes"]["hall"] == {
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "matched_iou": pytest.approx(1),
        "tp": 1,
        "fp": 1,
        "fn": 0,
    }
