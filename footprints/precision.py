"""Average precision of instances, as COCO defines it, from IoU alone.

Shapes: n detections and m true instances of one image, T IoU thresholds.
Source: the COCO evaluation (Lin et al., arXiv 1405.0312) as pycocotools computes it; boundary IoU,
arXiv 2103.16562.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


class ScoredImage(NamedTuple):
    """Detections of one image against its truth."""

    scores: NDArray[np.float64]
    """(n,) confidences."""
    ious: NDArray[np.float64]
    """(n, m)."""


def average_precision(
    images: Sequence[ScoredImage], thresholds: NDArray[np.float64] = IOU_THRESHOLDS
) -> NDArray[np.float64]:
    """Mean precision over 101 recalls, at each IoU threshold.

    Every image's detections are matched in order of confidence, each with the free true instance
    it overlaps best; then all images are ranked together.

    Args:
        images: One class; images without truth count for their false alarms.
        thresholds: (T,).

    Returns:
        (T,); NaN where no image has any truth.
    """
    true_count = sum(image.ious.shape[1] for image in images)
    if not true_count:
        return np.full(len(thresholds), np.nan)
    orders = [np.argsort(-image.scores, kind="stable") for image in images]
    hits = np.concatenate(
        [_match(i.ious[order], thresholds) for i, order in zip(images, orders, strict=True)], axis=1
    )
    scores = np.concatenate([i.scores[order] for i, order in zip(images, orders, strict=True)])
    hits = hits[:, np.argsort(-scores, kind="stable")]
    found = hits.cumsum(axis=1)
    recall = found / true_count
    precision = found / np.arange(1, hits.shape[1] + 1)
    # The best precision still to come: the curve without its saw teeth.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.hstack((envelope, np.zeros((len(thresholds), 1))))
    return np.array(
        [
            row[np.searchsorted(reached, _RECALLS)].mean()
            for row, reached in zip(padded, recall, strict=True)
        ]
    )


def _match(ious: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(T, n) which detections, most confident first, match a true instance of their own."""
    hits = np.zeros((len(thresholds), len(ious)), dtype=bool)
    if not ious.size:
        return hits
    for threshold, row in zip(thresholds, hits, strict=True):
        free = ious.copy()
        for detection in np.flatnonzero((ious >= threshold).any(axis=1)):
            # Of several equal ones the last, as pycocotools does.
            best = free.shape[1] - 1 - int(free[detection, ::-1].argmax())
            if free[detection, best] >= threshold:
                row[detection] = True
                free[:, best] = -1.0
    return hits


def iou_matrix(found: NDArray[np.object_], truth: NDArray[np.object_]) -> NDArray[np.float64]:
    """IoU (n, m) of valid polygons in one frame."""
    ious = np.zeros((len(found), len(truth)))
    rows, columns = shapely.STRtree(truth).query(found, predicate="intersects")
    ious[rows, columns] = _iou(found[rows], truth[columns])
    return ious


def boundary_iou(
    found: NDArray[np.object_], truth: NDArray[np.object_], distance: float
) -> NDArray[np.float64]:
    """IoU (k,) of the strips inside the outlines of each pair, or of the whole where that is less.

    Args:
        found: (k,) valid polygons.
        truth: (k,) valid polygons in the same frame, one for each.
        distance: Width of the strip, in units of the frame.
    """
    strips = _iou(_strips(found, distance), _strips(truth, distance))
    return np.minimum(_iou(found, truth), strips)


def _iou(found: NDArray[np.object_], truth: NDArray[np.object_]) -> NDArray[np.float64]:
    """IoU (k,) of pairs."""
    shared = shapely.area(shapely.intersection(found, truth))
    total = shapely.area(found) + shapely.area(truth) - shared
    ious: NDArray[np.float64] = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return ious


def _strips(polygons: NDArray[np.object_], distance: float) -> NDArray[np.object_]:
    inside = shapely.buffer(polygons, -distance, join_style="mitre")
    strips: NDArray[np.object_] = shapely.difference(polygons, inside)
    return strips
