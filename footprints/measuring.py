"""Measures what a comparison of a layer with the truth says beyond its matches.

Everything follows from a `Comparison`, which `footprints.evaluation` makes. What each figure means
stands in `footprints.figures`. A mean or a share of nothing is 0, as in the report.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from footprints.calibration import BINS, calibration_error
from footprints.figures import (
    ConfidenceFigures,
    Figures,
    LayerFigures,
    RankFigures,
    SeamFigures,
    ShapeFigures,
    SizeFigures,
)
from footprints.precision import IOU_TOLERANCE, Verdicts, boundary_iou, judge
from footprints.vector.layer import areas_m2
from footprints.vector.metric import components
from footprints.vector.shape_errors import in_metres, shape_errors

BOUNDARY_M = 1.0
"""Width of the strips of boundary IoU."""
BOUNDARY_PX = 2.0
"""The same in pixels."""
MOSTLY = 0.5
"""A building lies mostly where this share of its area lies."""
SIZES_M2 = (0.0, 25.0, 50.0, 100.0, 200.0, 500.0, float("inf"))
"""Bounds of the sizes for which there are figures."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Polygons = NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A layer of n footprints beside m true ones, in one CRS."""

    found: Polygons
    """(n,)."""
    truth: Polygons
    """(m,)."""
    crs: CRS | None
    scores: Floats
    """(n,) confidences."""
    candidates: Indices
    """(c, 2) footprint and truth that may match, whose IoU is at least 0.5 or that of a match."""
    candidate_ious: Floats
    """(c,)."""
    iou: float
    """Least IoU of a match."""
    pairs: Indices
    """(k, 2) matches."""
    ious: Floats
    """(k,)."""
    found_counts: Bools
    """(n,) whether each footprint is wrong without a match."""
    truth_counts: Bools
    """(m,) whether each truth is to be found."""
    area: shapely.Geometry | None = None
    """Outside of it nothing counts."""
    pixel_m: float | None = None
    """Metres per pixel of the imagery, where it is known."""
    chip_edges: shapely.Geometry | None = None
    """Lines where chips end inside of their scenes, where that is known."""

    def hits(self) -> Indices:
        """(h,) rows of ``pairs`` that count."""
        return np.flatnonzero(self.truth_counts[self.pairs[:, 1]])

    def false_alarms(self) -> Indices:
        """Footprints that count and match nothing."""
        return np.setdiff1d(np.flatnonzero(self.found_counts), self.pairs[:, 0])

    def misses(self) -> Indices:
        """Truths that count and match nothing."""
        return np.setdiff1d(np.flatnonzero(self.truth_counts), self.pairs[:, 1])

    def part(self, found: Bools, truth: Bools) -> Comparison:
        """Of some footprints and truths alone; what matches another one does not count."""
        new_found, new_truth = np.cumsum(found) - 1, np.cumsum(truth) - 1

        def within(pairs: Indices) -> tuple[Bools, Indices]:
            kept = found[pairs[:, 0]] & truth[pairs[:, 1]]
            rows = pairs[kept]
            return kept, np.column_stack([new_found[rows[:, 0]], new_truth[rows[:, 1]]])

        kept_candidates, candidates = within(self.candidates)
        kept_pairs, pairs = within(self.pairs)
        return replace(
            self,
            found=self.found[found],
            truth=self.truth[truth],
            scores=self.scores[found],
            candidates=candidates,
            candidate_ious=self.candidate_ious[kept_candidates],
            pairs=pairs,
            ious=self.ious[kept_pairs],
            found_counts=self.found_counts[found],
            truth_counts=self.truth_counts[truth],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall for every least confidence t in the layer, the highest first."""

    confidence: Floats
    """(t,)."""
    precision: Floats
    """(t,)."""
    recall: Floats
    """(t,)."""
    f1: Floats
    """(t,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Footprints in bins of confidence, those that have any."""

    confidence: Floats
    """(b,) mean."""
    hit_share: Floats
    """(b,) share that match."""
    count: Indices
    """(b,)."""


def measure(comparison: Comparison, *, precision: float | None = None) -> Figures:
    """Measure everything.

    Args:
        comparison: What to measure.
        precision: Precision that the confidence is to be found for.
    """
    return Figures(
        over_iou=rank_figures(comparison),
        by_size=size_figures(comparison),
        shape=shape_figures(comparison),
        layer=layer_figures(comparison),
        confidence=confidence_figures(comparison, precision),
        by_seam=seam_figures(comparison),
    )


def rank_figures(comparison: Comparison) -> RankFigures:
    """Average precision, and the figures of all footprints, over the IoU thresholds."""
    verdicts = _judge(comparison, comparison.found_counts, comparison.truth_counts)
    ap = _precisions(verdicts)
    hits = np.array([verdict.hits.sum() for verdict in verdicts])
    predicted = np.array([len(verdict.hits) for verdict in verdicts])
    true = np.array([verdict.true_count for verdict in verdicts])
    return RankFigures(
        ap=float(ap.mean()),
        ap50=float(ap[0]),
        ap75=float(ap[5]),
        precision=_mean(hits / np.maximum(predicted, 1)),
        recall=_mean(hits / np.maximum(true, 1)),
        f1=_mean(2 * hits / np.maximum(predicted + true, 1)),
    )


def size_figures(comparison: Comparison) -> tuple[SizeFigures, ...]:
    """Figures for each of `SIZES_M2`."""
    found_m2 = areas_m2(comparison.found, comparison.crs)
    truth_m2 = areas_m2(comparison.truth, comparison.crs)
    hits = comparison.hits()
    found_hits, truth_hits = comparison.pairs[hits].T
    alarms, misses = comparison.false_alarms(), comparison.misses()
    sizes = []
    for low, high in pairwise(SIZES_M2):
        of_found, of_truth = ((low <= m2) & (m2 < high) for m2 in (found_m2, truth_m2))
        recalled, right = int(of_truth[truth_hits].sum()), int(of_found[found_hits].sum())
        truths = recalled + int(of_truth[misses].sum())
        predictions = right + int(of_found[alarms].sum())
        verdicts = _judge(
            comparison, comparison.found_counts & of_found, comparison.truth_counts & of_truth
        )
        sizes.append(
            SizeFigures(
                from_m2=low,
                to_m2=high if np.isfinite(high) else None,
                truths=truths,
                predictions=predictions,
                recall=recalled / max(truths, 1),
                precision=right / max(predictions, 1),
                matched_iou=_mean(comparison.ious[hits][of_truth[truth_hits]]),
                ap=float(_precisions(verdicts).mean()),
            )
        )
    return tuple(sizes)


def shape_figures(comparison: Comparison) -> ShapeFigures:
    """Means over the matches that count."""
    rows = comparison.hits()
    found, truth = comparison.pairs[rows].T
    one, other = in_metres(comparison.found[found], comparison.truth[truth], comparison.crs)
    errors = shape_errors(one, other, comparison.ious[rows])
    pixel_m = comparison.pixel_m
    return ShapeFigures(
        boundary_iou_1m=_mean(boundary_iou(one, other, BOUNDARY_M)),
        boundary_iou_2px=(
            None if pixel_m is None else _mean(boundary_iou(one, other, BOUNDARY_PX * pixel_m))
        ),
        polis_m=_mean(errors.polis_m),
        c_iou=_mean(errors.c_iou),
        n_ratio=float(errors.vertices.sum() / max(errors.true_vertices.sum(), 1)),
        max_tangent_angle_deg=_mean(errors.tangent_deg),
        rotation_deg=_mean(errors.rotation_deg),
        centroid_m=_mean(errors.centroid_m),
    )


def layer_figures(comparison: Comparison) -> LayerFigures:
    """Pixel IoU, and how often one building became several or several one."""
    faults = find_faults(comparison)
    predictions = len(comparison.hits()) + len(comparison.false_alarms())
    counted = np.concatenate([comparison.pairs[comparison.hits(), 1], comparison.misses()])
    return LayerFigures(
        pixel_iou=_pixel_iou(comparison),
        duplicates=float(len(faults.duplicates) / max(predictions, 1)),
        fragments=float(len(faults.fragments) / max(predictions, 1)),
        merged=_mean(faults.is_merged[counted]),
    )


class Faults(NamedTuple):
    """Buildings that became several, or several that became one."""

    duplicates: Indices
    """Footprints that overlap a truth enough to match it, which another one does."""
    fragments: Indices
    """Those without a match, and no duplicates, in a truth in which there are others."""
    is_merged: Bools
    """(m,) truths in a footprint in which there are others."""


def find_faults(comparison: Comparison) -> Faults:
    """Tell what kind of mistake a false alarm or a miss is."""
    found, truth = comparison.found, comparison.truth
    one, other = shapely.STRtree(truth).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[one], truth[other]))
    in_truth = shared >= MOSTLY * shapely.area(found)[one]
    in_found = shared >= MOSTLY * shapely.area(truth)[other]
    # Of several footprints in a truth, of several truths in a footprint.
    inside = np.bincount(other[in_truth], minlength=len(truth))
    holds = np.bincount(one[in_found], minlength=len(found))
    is_fragment = np.zeros(len(found), dtype=bool)
    is_fragment[one[in_truth & (inside[other] > 1)]] = True
    is_merged = np.zeros(len(truth), dtype=bool)
    is_merged[other[in_found & (holds[one] > 1)]] = True
    reach = comparison.candidate_ious >= comparison.iou - IOU_TOLERANCE
    alarms = comparison.false_alarms()
    duplicate = np.isin(alarms, comparison.candidates[reach, 0])
    others = alarms[~duplicate]
    return Faults(alarms[duplicate], others[is_fragment[others]], is_merged)


def seam_figures(comparison: Comparison) -> tuple[SeamFigures, ...]:
    """Figures of what the edges of chips cross, and of the rest; none where they are not known."""
    if comparison.chip_edges is None:
        return ()
    edges = shapely.STRtree(shapely.get_parts(comparison.chip_edges))
    found, truth = (np.zeros(len(p), bool) for p in (comparison.found, comparison.truth))
    found[edges.query(comparison.found, predicate="intersects")[0]] = True
    truth[edges.query(comparison.truth, predicate="intersects")[0]] = True
    faults = find_faults(comparison)
    return (
        _figures_of_some(comparison, faults, found, truth, crossed=True),
        _figures_of_some(comparison, faults, ~found, ~truth, crossed=False),
    )


def _figures_of_some(
    comparison: Comparison, faults: Faults, found: Bools, truth: Bools, *, crossed: bool
) -> SeamFigures:
    """Of some footprints (n,) and some truths (m,)."""
    hits = comparison.hits()
    found_hits, truth_hits = comparison.pairs[hits].T
    alarms, misses = comparison.false_alarms(), comparison.misses()
    recalled, right = int(truth[truth_hits].sum()), int(found[found_hits].sum())
    truths, predictions = recalled + int(truth[misses].sum()), right + int(found[alarms].sum())
    recall, precision = recalled / max(truths, 1), right / max(predictions, 1)
    counted = np.concatenate([truth_hits, misses])
    return SeamFigures(
        crossed=crossed,
        truths=truths,
        predictions=predictions,
        recall=recall,
        precision=precision,
        f1=2 * recall * precision / max(recall + precision, 1e-9),
        matched_iou=_mean(comparison.ious[hits][truth[truth_hits]]),
        duplicates=float(found[faults.duplicates].sum() / max(predictions, 1)),
        fragments=float(found[faults.fragments].sum() / max(predictions, 1)),
        merged=_mean(faults.is_merged[counted[truth[counted]]]),
    )


def confidence_figures(
    comparison: Comparison, precision: float | None = None
) -> ConfidenceFigures | None:
    """Suggest confidences; None where all are the same."""
    curve = confidence_curve(comparison)
    if len(curve.confidence) < 2:
        return None
    best = int(np.argmax(curve.f1))
    reaches = (
        np.zeros(0, int) if precision is None else np.flatnonzero(curve.precision >= precision)
    )
    last = int(reaches[-1]) if len(reaches) else None
    return ConfidenceFigures(
        best_f1=float(curve.f1[best]),
        best_f1_from=float(curve.confidence[best]),
        calibration_error=calibration_error(*_counted(comparison)),
        asked_precision=precision,
        asked_precision_from=None if last is None else float(curve.confidence[last]),
        asked_precision_recall=None if last is None else float(curve.recall[last]),
    )


def confidence_curve(comparison: Comparison) -> Curve:
    """Leave out the footprints below each confidence in turn.

    Matching goes by confidence, so what is left out takes no truth from the rest, and one matching
    serves all.
    """
    scores, hit = _counted(comparison)
    order = np.argsort(-scores, kind="stable")
    scores, hit = scores[order], hit[order]
    # The last of equal ones; below every score there is nothing more.
    last = np.flatnonzero(scores > np.append(scores, -np.inf)[1:])
    tp = np.cumsum(hit)[last].astype(np.float64)
    predicted = np.arange(1, len(scores) + 1)[last]
    true = int(hit.sum()) + len(comparison.misses())
    return Curve(scores[last], tp / predicted, tp / max(true, 1), 2 * tp / (predicted + true))


def reliability(comparison: Comparison) -> Reliability:
    """How often footprints of a confidence match."""
    scores, hit = _counted(comparison)
    number = np.clip((scores * BINS).astype(np.intp), 0, BINS - 1)
    count = np.bincount(number, minlength=BINS)
    there = count > 0
    sums = [np.bincount(number, weight, BINS)[there] for weight in (scores, hit)]
    return Reliability(sums[0] / count[there], sums[1] / count[there], count[there])


def _counted(comparison: Comparison) -> tuple[Floats, Bools]:
    """Confidences of the hits and the false alarms, and which are hits."""
    hits, alarms = comparison.pairs[comparison.hits(), 0], comparison.false_alarms()
    scores = comparison.scores[np.concatenate([hits, alarms])]
    return scores, np.arange(len(scores)) < len(hits)


def _judge(comparison: Comparison, found: Bools, truth: Bools) -> list[Verdicts]:
    """Match at every threshold; of equal confidences the one that fits best comes first."""
    best = np.zeros(len(comparison.found))
    np.maximum.at(best, comparison.candidates[:, 0], comparison.candidate_ious)
    order = np.lexsort((-best, -comparison.scores))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    one, other = comparison.candidates.T
    pairs = np.column_stack([rank[one], other])
    return judge(comparison.scores[order], pairs, comparison.candidate_ious, (found[order], truth))


def _precisions(verdicts: list[Verdicts]) -> Floats:
    """Average precision at each threshold, 0 without truth."""
    return np.nan_to_num([verdict.average_precision() for verdict in verdicts])


def _pixel_iou(comparison: Comparison) -> float:
    found, truth = (_disjoint(layer) for layer in (comparison.found, comparison.truth))
    if comparison.area is not None:
        shapely.prepare(comparison.area)
        found, truth = (shapely.intersection(layer, comparison.area) for layer in (found, truth))
    one, other = shapely.STRtree(truth).query(found, predicate="intersects")
    shared = _sum_m2(shapely.intersection(found[one], truth[other]), comparison.crs)
    union = _sum_m2(found, comparison.crs) + _sum_m2(truth, comparison.crs) - shared
    return shared / union if union > 0 else 0.0


def _sum_m2(geometries: Polygons, crs: CRS | None) -> float:
    return float(areas_m2(geometries[shapely.area(geometries) > 0], crs).sum())


def _disjoint(polygons: Polygons) -> Polygons:
    """The same ground without overlaps; only what overlaps is united."""
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    one, other = one[one < other], other[one < other]
    overlap = shapely.area(shapely.intersection(polygons[one], polygons[other])) > 0
    pairs = np.column_stack([one, other])[overlap]
    alone = np.setdiff1d(np.arange(len(polygons)), pairs)
    group = components(len(polygons), pairs)
    members = np.unique(pairs)
    members = members[np.argsort(group[members], kind="stable")]
    starts = np.flatnonzero(np.diff(group[members])) + 1
    united = [shapely.union_all(polygons[rows]) for rows in np.split(members, starts) if len(rows)]
    return np.concatenate([polygons[alone], np.array(united, dtype=object)])


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0
