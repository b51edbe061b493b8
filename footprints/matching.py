"""One-to-one matching of polygons by IoU.

Matching is greedy by confidence, as COCO does it: each prediction, the most confident first, takes
the unmatched truth with which its IoU is highest, if it reaches the threshold. Among predictions of
equal confidence the pairs with the highest IoU come first, so that the order of rows in a file does
not matter.

IoU is a ratio of areas that lie side by side, so the units of the CRS cancel out, degrees too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.precision import IOU_TOLERANCE, take_in_order


def match(
    predicted: NDArray[np.object_],
    truth: NDArray[np.object_],
    scores: NDArray[np.floating],
    *,
    iou: float,
    classes: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Match polygons one to one, greedily by score.

    Args:
        predicted: (n,) valid polygons.
        truth: (m,) valid polygons in the same frame.
        scores: (n,) confidences.
        iou: A match has at least this IoU.
        classes: (n,) and (m,) classes, which are the same in a match; None matches any two.

    Returns:
        (k, 2) index of the prediction and of its truth, and (k,) their IoU; the most confident
        match comes first.
    """
    candidates, ious = find_candidates(predicted, truth, iou)
    if classes is not None:
        candidates, ious = of_one_class(candidates, ious, classes)
    matches = take_greedily(candidates, ious, scores)
    return candidates[matches], ious[matches]


def of_one_class(
    candidates: NDArray[np.int64],
    ious: NDArray[np.float64],
    classes: tuple[NDArray[Any], NDArray[Any]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Those of candidates (k, 2), and their IoU, whose two classes are the same."""
    alike = classes[0][candidates[:, 0]] == classes[1][candidates[:, 1]]
    return candidates[alike], ious[alike]


def take_greedily(
    candidates: NDArray[np.int64], ious: NDArray[np.float64], scores: NDArray[np.floating]
) -> NDArray[np.intp]:
    """Rows of candidates that become matches, the most confident first."""
    # Rows of the files break exact ties only.
    order = np.lexsort((candidates[:, 1], candidates[:, 0], -ious, -scores[candidates[:, 0]]))
    return order[take_in_order(*candidates[order].T)]


def find_candidates(
    predicted: NDArray[np.object_], truth: NDArray[np.object_], iou: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All pairs (k, 2) that reach the threshold, and their IoU (k,)."""
    least = iou - IOU_TOLERANCE
    pairs = shapely.STRtree(truth).query(predicted, predicate="intersects").T
    found_area = shapely.area(predicted)[pairs[:, 0]]
    true_area = shapely.area(truth)[pairs[:, 1]]
    # The smaller area over the larger bounds the IoU; most neighbours end here.
    possible = np.minimum(found_area, true_area) >= least * np.maximum(found_area, true_area)
    pairs, total = pairs[possible], (found_area + true_area)[possible]
    shared = shapely.area(shapely.intersection(predicted[pairs[:, 0]], truth[pairs[:, 1]]))
    ious = shared / (total - shared)
    return pairs[ious >= least], np.minimum(ious[ious >= least], 1.0)
