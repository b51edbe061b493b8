"""Average precision against pycocotools on the same IoU, and against cases done by hand."""

import contextlib
import io

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from shapely import box

from footprints.precision import (
    IOU_THRESHOLDS,
    ScoredImage,
    average_precision,
    boundary_iou,
    iou_matrix,
    judge,
)


def of_pycocotools(images: list[ScoredImage]) -> np.ndarray:
    """Average precision at each threshold, from the very same IoU matrices."""

    class GivenIoU(COCOeval):
        def computeIoU(self, image_id, category):  # noqa: ARG002
            scores, ious = images[image_id - 1]
            order = np.argsort(-scores, kind="mergesort")
            return ious[order] if ious.size else []

    annotations = [
        {"image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81.0, "iscrowd": 0}
        for i, image in enumerate(images, 1)
        for _ in range(image.ious.shape[1])
    ]
    detections = [
        {"image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9], "score": float(score)}
        for i, image in enumerate(images, 1)
        for score in image.scores
    ]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(1, len(images) + 1)],
        "categories": [{"id": 1, "name": "building"}],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = GivenIoU(truth, truth.loadRes(detections), "bbox")
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, 0, 2].mean(axis=1)


def drawn(seed: int, *, ties: bool) -> list[ScoredImage]:
    """Images with few and many detections, misses, doubles, and none of either."""
    rng = np.random.default_rng(seed)
    images = []
    for n, m in [(0, 3), (5, 0), (30, 20), (12, 25), (1, 1), (60, 30)]:
        ious = rng.uniform(0, 1, (n, m)) ** 3
        scores = rng.uniform(0, 1, n)
        if ties:
            ious, scores = ious.round(1), scores.round(1)
        images.append(ScoredImage(scores, ious))
    return images


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_it_equals_pycocotools_on_the_same_iou(seed, ties):
    images = drawn(seed, ties=ties)
    assert_allclose(average_precision(images), of_pycocotools(images), atol=1e-9)


def of_pycocotools_with_areas(scores, ious, found_areas, true_areas, low, high) -> np.ndarray:
    """Average precision at each threshold of one image, of true instances of one size."""

    class GivenIoU(COCOeval):
        def computeIoU(self, image_id, category):  # noqa: ARG002
            return ious[np.argsort(-scores, kind="mergesort")]

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "building"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0}
            | {"area": float(area)}
            for i, area in enumerate(true_areas, 1)
        ],
    }
    detections = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, float(area)], "score": float(score)}
        for score, area in zip(scores, found_areas, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = GivenIoU(truth, truth.loadRes(detections), "bbox")
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.params.areaRng = [[low, high]]
        evaluation.params.areaRngLbl = ["some"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, 0, 2].mean(axis=1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_of_a_layer_equal_pycocotools_on_the_same_iou_for_any_size(seed, ties):
    rng = np.random.default_rng(seed)
    scores, ious = rng.uniform(0, 1, 60), rng.uniform(0, 1, (60, 40)) ** 3
    if ties:
        scores, ious = scores.round(1), ious.round(1)
    found_areas, true_areas = rng.uniform(1, 100, 60), rng.uniform(1, 100, 40)
    pairs = np.argwhere(ious >= 0.5)
    for low, high in [(0, 1000), (30, 70), (90, 100)]:
        counts = [(each >= low) & (each <= high) for each in (found_areas, true_areas)]
        verdicts = judge(scores, pairs, ious[tuple(pairs.T)], counts)
        assert_allclose(
            [each.average_precision() for each in verdicts],
            of_pycocotools_with_areas(scores, ious, found_areas, true_areas, low, high),
            atol=1e-9,
        )


def test_a_layer_without_truth_has_no_average_precision():
    nothing = np.zeros((0, 2), dtype=int)
    verdict = judge(np.ones(1), nothing, np.zeros(0), (np.ones(1, bool), np.zeros(0, bool)))[0]
    assert np.isnan(verdict.average_precision())
    assert verdict.hits.tolist() == [False]


def test_a_perfect_result_has_one_and_an_empty_one_has_none():
    perfect = [ScoredImage(np.array([0.9, 0.8]), np.eye(2))]
    assert_allclose(average_precision(perfect), np.ones(len(IOU_THRESHOLDS)))
    nothing = [ScoredImage(np.zeros(0), np.zeros((0, 4)))]
    assert_allclose(average_precision(nothing), np.zeros(len(IOU_THRESHOLDS)))


def test_without_truth_there_is_no_average_precision():
    assert np.isnan(average_precision([ScoredImage(np.array([0.5]), np.zeros((1, 0)))])).all()


def test_a_false_alarm_before_a_hit_halves_the_precision():
    image = ScoredImage(np.array([0.9, 0.8]), np.array([[0.0], [0.7]]))
    by_threshold = average_precision([image], np.array([0.5, 0.7, 0.75]))
    assert_allclose(by_threshold, [0.5, 0.5, 0.0])


def test_a_double_is_a_false_alarm():
    image = ScoredImage(np.array([0.9, 0.8, 0.7]), np.array([[0.9, 0], [0.8, 0], [0, 0.9]]))
    # Hit at recall 1/2 with precision 1; hit at recall 1 with precision 2/3.
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert_allclose(average_precision([image], np.array([0.5])), [expected])


def test_boundary_iou_sees_what_the_area_hides():
    found, truth = np.array([box(1, 0, 101, 100)]), np.array([box(0, 0, 100, 100)])
    assert_allclose(iou_matrix(found, truth), [[9900 / 10100]])
    # The upright sides share a strip 1 wide, the level ones 2 wide between those.
    strip = 100**2 - 96**2
    shared = 2 * (1 * 100) + 2 * (2 * 97)
    assert_allclose(boundary_iou(found, truth, 2.0), [shared / (2 * strip - shared)])


def test_boundary_iou_of_small_instances_is_that_of_their_area():
    found, truth = np.array([box(0, 0, 4, 3)] * 2), [box(0, 0, 4, 4), box(50, 0, 54, 4)]
    assert_allclose(boundary_iou(found, np.array(truth), 2.0), [0.75, 0.0])
