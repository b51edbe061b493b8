"""The figures of a comparison beyond its matches: what each means, and how they read."""

from __future__ import annotations

from dataclasses import dataclass


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
class SeamFigures:
    """Of buildings that an edge of a chip crosses, or of those that none does."""

    crossed: bool
    """By an edge of a chip behind which another one looked."""
    truths: int
    predictions: int
    recall: float
    """Share of these truths that are matched."""
    precision: float
    """Share of these footprints that match."""
    f1: float
    """Harmonic mean of the two."""
    matched_iou: float
    """Mean IoU of the matches of these truths."""
    duplicates: float
    """As of `LayerFigures`, as a share of these footprints."""
    fragments: float
    """Likewise."""
    merged: float
    """As of `LayerFigures`, as a share of these truths."""


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
    by_seam: tuple[SeamFigures, ...] = ()
    """Crossed and not crossed by an edge of a chip; empty where the layer does not tell its chips,
    or had one alone."""


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


def shown(value: float, count: float) -> str:
    """A figure for reading; a dash where there is nothing that it could be of."""
    return f"{value:.3f}" if count else "-"


def tabulate_sizes(measured: Figures) -> list[tuple[str, ...]]:
    """A table of the figures by size, with its head."""
    head = ("size", "truths", "predicted", "recall", "precision", "IoU", "AP")
    rows: list[tuple[str, ...]] = [
        (
            f"from {size.from_m2:.0f} m2"
            if size.to_m2 is None
            else f"{size.from_m2:.0f} to {size.to_m2:.0f} m2",
            f"{size.truths:,}",
            f"{size.predictions:,}",
            shown(size.recall, size.truths),
            shown(size.precision, size.predictions),
            shown(size.matched_iou, size.recall + size.precision),
            shown(size.ap, size.truths),
        )
        for size in measured.by_size
    ]
    return [head, *rows]


def tabulate_seams(measured: Figures) -> list[tuple[str, ...]]:
    """A table of the figures at and off the edges of chips, with its head; empty without any."""
    head = ("chip edges", "truths", "predicted", "recall", "precision", "F1", "IoU")
    faults = ("duplicates", "fragments", "merged")
    rows = [
        (
            "crossed by one" if seam.crossed else "elsewhere",
            f"{seam.truths:,}",
            f"{seam.predictions:,}",
            shown(seam.recall, seam.truths),
            shown(seam.precision, seam.predictions),
            shown(seam.f1, seam.truths + seam.predictions),
            shown(seam.matched_iou, seam.recall + seam.precision),
            *(f"{x:.2%}" for x in (seam.duplicates, seam.fragments, seam.merged)),
        )
        for seam in measured.by_seam
    ]
    return [(*head, *faults), *rows] if rows else []


def suggest(measured: Figures) -> list[str]:
    """Which confidence to ask for, in sentences."""
    said = measured.confidence
    if said is None:
        return ["No confidence is suggested: it is the same for all footprints that count."]
    lines = [
        f"Confidence and share of matches differ by {said.calibration_error:.3f} on average.",
        f"Confidence {said.best_f1_from:.4g} has the best F1, {said.best_f1:.3f}.",
    ]
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
