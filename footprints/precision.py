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
IOU_TOLERANCE = 1e-9
"""An IoU this little below the threshold reaches it: rounding of large coordinates."""
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
    ranked = hits[:, np.argsort(-scores, kind="stable")]
    return np.array([_mean_precision(row, true_count) for row in ranked])


class Verdicts(NamedTuple):
    """What became of the detections of a layer at one IoU threshold."""

    hits: NDArray[np.bool_]
    """(n,) whether each detection that counts matches a true instance, most confident first."""
    true_count: int
    """True instances that count."""

    def average_precision(self) -> float:
        """Mean precision over 101 recalls; NaN without truth."""
        return _mean_precision(self.hits, self.true_count) if self.true_count else float("nan")


def judge(
    scores: NDArray[np.float64],
    pairs: NDArray[np.int64],
    ious: NDArray[np.float64],
    counts: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    thresholds: NDArray[np.float64] = IOU_THRESHOLDS,
) -> list[Verdicts]:
    """Match a layer that is too large for a matrix of IoU.

    As in COCO, true instances that do not count are matched where no other is left, and then the
    detection does not count either.

    Args:
        scores: (n,) confidences; of equal ones the earlier comes first.
        pairs: (k, 2) detection and true instance, all whose IoU reaches the lowest threshold.
        ious: (k,).
        counts: (n,) detections that are wrong without a match, (m,) true instances to be found.
        thresholds: (T,).

    Returns:
        One for each threshold.
    """
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    found, true = pairs.T
    # Of several equal ones the last, as pycocotools does.
    place = np.lexsort((-true, -ious, ~counts[1][true], rank[found]))
    found, true, ious = found[place], true[place], ious[place]
    contested = (np.bincount(found)[found] > 1) | (np.bincount(true)[true] > 1)
    verdicts = []
    for threshold in thresholds:
        reach = ious >= min(threshold, 1 - 1e-10)
        taken = reach & ~contested
        rows = np.flatnonzero(reach & contested)
        taken[rows[take_in_order(found[rows], true[rows])]] = True
        hits, counted = np.zeros(len(scores), dtype=bool), counts[0].copy()
        hits[found[taken]] = counted[found[taken]] = counts[1][true[taken]]
        verdicts.append(Verdicts(hits[order][counted[order]], int(counts[1].sum())))
    return verdicts


def take_in_order(found: NDArray[np.int64], true: NDArray[np.int64]) -> list[int]:
    """Pairs of which neither member is in a pair taken before."""
    gone_found, gone_true, taken = set(), set(), []
    for row, (one, other) in enumerate(zip(found.tolist(), true.tolist(), strict=True)):
        if one not in gone_found and other not in gone_true:
            gone_found.add(one)
            gone_true.add(other)
            taken.append(row)
    return taken


def _mean_precision(hits: NDArray[np.bool_], true_count: int) -> float:
    """Mean precision over 101 recalls of (n,) ranked detections."""
    found = hits.cumsum()
    precision = found / np.arange(1, len(hits) + 1)
    # The best precision still to come: the curve without its saw teeth.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.append(envelope, 0.0)[np.searchsorted(found / true_count, _RECALLS)].mean())


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
