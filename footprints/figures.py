"""What a comparison of a layer with the truth says beyond its matches.

Everything here follows from a `Comparison`, which `footprints.evaluation` makes. A mean or a share
of nothing is 0, as in its report.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from footprints.precision import Verdicts, boundary_iou, judge
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
BINS = 10
"""Of confidence, in the reliability diagram."""

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


@dataclass(frozen=True, slots=True)
class RankFigures:
    """Over the IoU thresholds 0.5, 0.55, ..., 0.95, as COCO has them (arXiv 1405.0312)."""

    ap: float
    """Average precision: mean precision over 101 recalls, and over the thresholds."""
    ap50: float
    """At IoU 0.5."""
    ap75: float
    """At IoU 0.75."""
    precision: float
    """Precision of all footprints, mean over the thresholds."""
    recall: float
    """Recall, mean over the thresholds."""
    f1: float
    """F1, mean over the thresholds."""


@dataclass(frozen=True, slots=True)
class SizeFigures:
    """Of buildings of one size; a footprint has its own area, a truth its own."""

    from_m2: float
    to_m2: float | None
    """None for no bound."""
    truths: int
    predictions: int
    recall: float
    """Share of the truths of this size that are matched."""
    precision: float
    """Share of the footprints of this size that match."""
    matched_iou: float
    """Mean IoU of the matches of truths of this size."""
    ap: float
    """Average precision; footprints of other sizes that match nothing are no false alarms."""


@dataclass(frozen=True, slots=True)
class ShapeFigures:
    """How far the outlines of matches are from the truth's: means, lengths in metres."""

    boundary_iou_1m: float
    """IoU of the strips 1 m wide inside both outlines, or of the whole where that is less
    (arXiv 2103.16562)."""
    boundary_iou_2px: float | None
    """The same for strips of 2 pixels; None where the size of a pixel is not known."""
    polis_m: float
    """Mean distance of the vertices of each outline from the other (PoLiS, Avbelj et al. 2015)."""
    c_iou: float
    """IoU, less for other numbers of vertices (PolyWorld, arXiv 2111.15491)."""
    n_ratio: float
    """Vertices of all footprints that match over those of their truths (the same source)."""
    max_tangent_angle_deg: float
    """Largest angle between the outline and the wall beside it (arXiv 2004.14875)."""
    rotation_deg: float
    """Angle between the minimum rotated rectangles, modulo a quarter turn."""
    centroid_m: float
    """Distance of the centroids."""


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """The layers as a whole; over- and under-segmentation as of Hoover et al., TPAMI 18(7)."""

    pixel_iou: float
    """Area that both layers cover over the area that one of them covers."""
    duplicates: float
    """Share of the footprints that overlap a truth enough to match it, which another one does."""
    fragments: float
    """Share of the footprints without a match, and no duplicates, that lie mostly in a truth in
    which another one lies mostly."""
    merged: float
    """Share of the truths that lie mostly in a footprint in which another truth lies mostly."""


@dataclass(frozen=True, slots=True)
class ConfidenceFigures:
    """Which confidence to ask for. The layer tells of those it holds, and of none below."""

    best_f1: float
    """The highest F1 over all least confidences."""
    best_f1_from: float
    """The least confidence that has it."""
    calibration_error: float
    """Expected difference of confidence and share of matches in ten bins (arXiv 1706.04599)."""
    asked_precision: float | None
    """The precision that was asked for."""
    asked_precision_from: float | None
    """The lowest least confidence that reaches it, None where none does."""
    asked_precision_recall: float | None
    """Recall there."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything beyond the matches, in groups."""

    over_iou: RankFigures
    by_size: tuple[SizeFigures, ...]
    shape: ShapeFigures
    layer: LayerFigures
    confidence: ConfidenceFigures | None
    """None where all confidences are the same."""


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
    reach = comparison.candidate_ious >= comparison.iou - 1e-9
    alarms, hits, misses = comparison.false_alarms(), comparison.hits(), comparison.misses()
    duplicate = np.isin(alarms, comparison.candidates[reach, 0])
    counted = np.concatenate([comparison.pairs[hits, 1], misses])
    predictions = max(len(hits) + len(alarms), 1)
    return LayerFigures(
        pixel_iou=_pixel_iou(comparison),
        duplicates=float(duplicate.sum() / predictions),
        fragments=float(is_fragment[alarms[~duplicate]].sum() / predictions),
        merged=_mean(is_merged[counted]),
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
    bins = reliability(comparison)
    return ConfidenceFigures(
        best_f1=float(curve.f1[best]),
        best_f1_from=float(curve.confidence[best]),
        calibration_error=float(
            np.average(np.abs(bins.confidence - bins.hit_share), weights=bins.count)
        ),
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


def tabulate(measured: Figures) -> dict[str, list[tuple[str, str]]]:
    """The figures for reading: rows of name and value, by group."""
    over, shape, layer = measured.over_iou, measured.shape, measured.layer
    outlines = [("boundary IoU, 1 m", f"{shape.boundary_iou_1m:.3f}")]
    if shape.boundary_iou_2px is not None:
        outlines.append(("boundary IoU, 2 px", f"{shape.boundary_iou_2px:.3f}"))
    return {
        "IoU 0.5 to 0.95": [
            ("AP", f"{over.ap:.3f}"),
            ("AP50", f"{over.ap50:.3f}"),
            ("AP75", f"{over.ap75:.3f}"),
            ("precision", f"{over.precision:.3f}"),
            ("recall", f"{over.recall:.3f}"),
            ("F1", f"{over.f1:.3f}"),
        ],
        "outlines of matches": [
            *outlines,
            ("PoLiS", f"{shape.polis_m:.2f} m"),
            ("centroid offset", f"{shape.centroid_m:.2f} m"),
            ("C-IoU", f"{shape.c_iou:.3f}"),
            ("vertex ratio", f"{shape.n_ratio:.2f}"),
            ("max tangent angle", f"{shape.max_tangent_angle_deg:.1f} deg"),
            ("rotation", f"{shape.rotation_deg:.1f} deg"),
        ],
        "layers": [
            ("pixel IoU", f"{layer.pixel_iou:.3f}"),
            ("duplicates", f"{layer.duplicates:.2%}"),
            ("fragments", f"{layer.fragments:.2%}"),
            ("merged neighbours", f"{layer.merged:.2%}"),
        ],
    }


def tabulate_sizes(measured: Figures) -> list[tuple[str, ...]]:
    """A table of the figures by size, with its head."""
    head = ("size", "truths", "predicted", "recall", "precision", "IoU", "AP")
    return [head] + [
        (
            f"from {size.from_m2:.0f} m2"
            if size.to_m2 is None
            else f"{size.from_m2:.0f} to {size.to_m2:.0f} m2",
            f"{size.truths:,}",
            f"{size.predictions:,}",
            *(f"{x:.3f}" for x in (size.recall, size.precision, size.matched_iou, size.ap)),
        )
        for size in measured.by_size
    ]


def suggest(measured: Figures) -> list[str]:
    """Which confidence to ask for, in sentences."""
    said = measured.confidence
    if said is None:
        return ["No confidence is suggested: it is the same for all footprints that count."]
    lines = [f"Confidence {said.best_f1_from:.4g} has the best F1, {said.best_f1:.3f}."]
    if said.asked_precision is None:
        return lines
    if said.asked_precision_from is None:
        lines.append(f"No confidence reaches precision {said.asked_precision:g}.")
    else:
        lines.append(
            f"Confidence {said.asked_precision_from:.4g} reaches precision "
            f"{said.asked_precision:g}, with recall {said.asked_precision_recall:.3f}."
        )
    return lines
