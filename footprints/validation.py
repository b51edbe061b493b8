"""What validation says: detections of a chip beside the truth, and the figures of all chips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from footprints.calibration import (
    Calibration,
    calibration_error,
    error_elsewhere,
    fit_calibration,
)
from footprints.chip import Chip, Instances, MaskGroup, Scaling, Window
from footprints.data.dataset import Batch
from footprints.data.targets import Sample
from footprints.matching import match
from footprints.model.boxes import ignore_unlabelled
from footprints.precision import (
    ScoredImage,
    average_precision,
    boundary_iou,
    iou_matrix,
)
from footprints.vector.overlaps import find_doubles, find_overlaps, surest
from footprints.vector.trace import trace

_IOU = 0.5
"""What counts as found in validation."""
_BOUNDARY_PX = 2.0
"""Width of the strip inside outlines whose IoU says how well they fit."""
UNKNOWN_CONFIDENCE = 0.5
"""Where nothing has validated yet."""
_PLATEAU = 0.995
"""Confidences with this share of the best F1 are as good; the middle one is the safest."""


class Judged(NamedTuple):
    """Detections of a validation chip, beside what stands there."""

    scores: NDArray[np.float32]
    """(n,) confidences."""
    hits: NDArray[np.bool_]
    """(n,) which of them match a true building."""
    labels: NDArray[np.int64]
    """(n,) their 0-based classes."""
    true_labels: NDArray[np.int64]
    """(m,) those of the true buildings."""
    ious: NDArray[np.float64]
    """(n, m) of outlines."""
    box_ious: NDArray[np.float64]
    """(n, m)."""
    boundary_ious: NDArray[np.float64]
    """(k,) of matches."""


def judge(found: Instances, truth: Instances, labelled: Tensor) -> Judged:
    """Match the detections of one chip with the truth.

    A match has the right class. A building detected under several classes counts once, under the
    surest, as in prediction. What matches nothing on ground without labels does not count.

    Args:
        found: Detections in chip pixels.
        truth: Buildings in chip pixels.
        labelled: (H, W) bool, True where labels are complete.
    """
    outlines, true_outlines = trace(found), trace(truth)
    traced = np.flatnonzero(outlines != None)  # noqa: E711  # element by element
    seen = true_outlines != None  # noqa: E711
    overlaps = find_overlaps(outlines[traced])
    doubles = find_doubles(outlines[traced], overlaps)
    rows = traced[surest(outlines[traced], found.scores[traced], doubles)]
    scores, labels, true_labels = found.scores[rows], found.labels[rows], truth.labels[seen]
    outlines, true_outlines = outlines[rows], true_outlines[seen]
    pairs, _ = match(outlines, true_outlines, scores, iou=_IOU, classes=(labels, true_labels))
    state = torch.zeros(len(rows), dtype=torch.long)
    state[pairs[:, 0]] = 1
    state = ignore_unlabelled(state, labelled, torch.from_numpy(found.boxes[rows]))
    counts = (state >= 0).numpy()
    return Judged(
        scores[counts],
        (state == 1).numpy()[counts],
        labels[counts],
        true_labels,
        iou_matrix(outlines[counts], true_outlines),
        iou_matrix(_rectangles(found.boxes[rows][counts]), _rectangles(truth.boxes[seen])),
        boundary_iou(outlines[pairs[:, 0]], true_outlines[pairs[:, 1]], _BOUNDARY_PX),
    )


def _rectangles(boxes: NDArray[np.float32]) -> NDArray[np.object_]:
    rectangles: NDArray[np.object_] = shapely.box(*boxes.T)
    return rectangles


def average_precisions(
    judged: Sequence[Judged], class_count: int, *, of_boxes: bool = False
) -> NDArray[np.float64]:
    """Mean over the classes of the average precision at each of `IOU_THRESHOLDS`.

    Args:
        judged: Detections of every chip.
        class_count: Number of classes.
        of_boxes: By the IoU of boxes instead of that of outlines.

    Returns:
        (T,); NaN where there are no true buildings.
    """
    by_class = [
        average_precision(
            [
                ScoredImage(
                    chip.scores[chip.labels == number],
                    (chip.box_ious if of_boxes else chip.ious)[
                        np.ix_(chip.labels == number, chip.true_labels == number)
                    ],
                )
                for chip in judged
            ]
        )
        for number in range(class_count)
    ]
    present = [figures for figures in by_class if not np.isnan(figures).any()]
    means: NDArray[np.float64] = np.mean(present or by_class, axis=0)
    return means


def choose_confidence(
    scores: NDArray[np.float32], hits: NDArray[np.bool_], true_count: int
) -> tuple[float, NDArray[np.bool_]]:
    """The confidence with the best F1, from the middle of its plateau.

    Matching is greedy by confidence, so leaving out less confident detections changes no match.

    Args:
        scores: (n,) confidences of all detections.
        hits: (n,) which of them match a true building.
        true_count: Number of true buildings.

    Returns:
        The confidence, and (n,) which detections reach it; none where there are no hits.
    """
    order = np.argsort(-scores, kind="stable")
    found, kept = np.cumsum(hits[order]), np.arange(1, len(order) + 1)
    f1 = 2 * found / np.maximum(kept + true_count, 1)
    reach = np.zeros(len(scores), dtype=bool)
    if not len(f1) or not f1.max():
        return UNKNOWN_CONFIDENCE, reach
    good = np.flatnonzero(f1 >= _PLATEAU * f1.max())
    at = good[len(good) // 2]
    reach[order[: at + 1]] = True
    return round(float(scores[order[at]]), 3), reach


def calibration_of(judged: Sequence[Judged]) -> tuple[Calibration | None, dict[str, float]]:
    """The map from scores to probabilities, and how far off both are.

    Args:
        judged: Detections of every chip.

    Returns:
        The map, None where detections are too few, and the errors by name: that of the scores, and
        that of what half of the chips makes of the scores of the other half.
    """
    scores = np.concatenate([chip.scores for chip in judged])
    hits = np.concatenate([chip.hits for chip in judged])
    errors = {"val_score_error": calibration_error(scores, hits)}
    # Every other chip: they share next to no ground, and each half has chips of all scenes.
    halves = np.repeat(np.arange(len(judged)) % 2 == 0, [len(chip.scores) for chip in judged])
    if (error := error_elsewhere(scores, hits, halves)) is not None:
        errors["val_calibrated_error"] = error
    return fit_calibration(scores, hits), errors


def ratios(name: str, hits: NDArray[np.bool_], true_count: int) -> dict[str, float]:
    """Precision, recall and F1 of detections; 0 where there is nothing to count.

    Args:
        name: What the names of the figures start with.
        hits: (n,) which detections match a true building.
        true_count: Number of true buildings.
    """
    found = int(hits.sum())
    return {
        f"{name}_precision": found / max(len(hits), 1),
        f"{name}_recall": found / max(true_count, 1),
        f"{name}_f1": 2 * found / max(len(hits) + true_count, 1),
    }


def as_chip(sample: Sample, scaling: Scaling) -> Chip:
    """A sample as prediction sees it, at no place of the ground."""
    height, width = sample.valid.shape
    window = Window(0, 0, width, height)
    return Chip(
        sample.pixels, sample.valid, scaling, window, Affine.identity(), None, sample.origin
    )


def true_instances(batch: Batch, image: int) -> Instances:
    """The ground truth of an image as instances, to be traced like detections."""
    count = len(batch.boxes[image])
    logits = (batch.masks[image].cpu().numpy().astype(np.int16) - 128).clip(-127, 127)
    return Instances(
        boxes=batch.boxes[image].cpu().numpy(),
        scores=np.ones(count, dtype=np.float32),
        labels=batch.labels[image].cpu().numpy(),
        mask_boxes=batch.mask_boxes[image].cpu().numpy(),
        masks=(MaskGroup(np.arange(count), logits.astype(np.int8)),) if count else (),
    )
