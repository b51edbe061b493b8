"""Layer against truth: what matches one to one, and what follows from it.

With a class column, a prediction takes truths of its own class only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from footprints.comparable import (
    called,
    chip_edges_beside,
    coarsest_pixel_m,
    confidences_of,
    open_beside,
    require_overlap,
    warn_of_ground_not_seen,
)
from footprints.config import load_class_map
from footprints.errors import ConfigError, LayerError
from footprints.figures import Figures, shown, suggest, tabulate, tabulate_seams, tabulate_sizes
from footprints.judging import judged_layer
from footprints.matching import find_candidates, of_one_class, take_greedily
from footprints.measuring import Comparison, measure
from footprints.precision import IOU_THRESHOLDS, IOU_TOLERANCE
from footprints.ranges import check_number, check_share
from footprints.report import check_report, write_report
from footprints.tables import beside, table
from footprints.vector.classes import read_classes, read_values
from footprints.vector.read import open_polygons
from footprints.vector.write import check_output, write_layer

UNKNOWN_SHARE = 0.5
"""A prediction with this share on ground whose class is unknown is neither right nor wrong."""

_NO_NAMES: NDArray[np.object_] = np.empty(0, dtype=object)


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """How well a layer of footprints agrees with the truth.

    A ratio without anything to count (no predictions, no truth, no match) is 0, never NaN: an
    empty layer must not look good, and JSON has no NaN.
    """

    precision: float
    """Share of the predictions that match a truth."""
    recall: float
    """Share of the truths that are matched."""
    f1: float
    """Harmonic mean of precision and recall."""
    matched_iou: float
    """Mean IoU of the matches."""
    tp: int
    """Matches."""
    fp: int
    """Predictions without a match."""
    fn: int
    """Truths without a match."""
    classes: dict[str, Report] | None = None
    """The same for each class of either layer, by name; None where classes were not compared."""
    figures: Figures | None = None
    """The further figures, where they were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON; ``classes`` and ``figures`` only where they are."""
        optional = ("classes", "figures")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in optional}
        if self.figures is not None:
            values["figures"] = asdict(self.figures)
        if self.classes is not None:
            values["classes"] = {name: each.to_dict() for name, each in self.classes.items()}
        return values

    def headline(self) -> list[tuple[str, str]]:
        """The first figures for reading: rows of name and value."""
        precision, recall, f1, iou = self._shown()
        return [
            ("precision", f"{precision}   ({self.tp} of {self.tp + self.fp} predicted)"),
            ("recall", f"{recall}   ({self.tp} of {self.tp + self.fn} true)"),
            ("F1", f1),
            ("matched IoU", iou),
        ]

    def _shown(self) -> tuple[str, str, str, str]:
        """Precision, recall, F1 and IoU for reading."""
        return (
            shown(self.precision, self.tp + self.fp),
            shown(self.recall, self.tp + self.fn),
            shown(self.f1, self.tp + self.fp + self.fn),
            shown(self.matched_iou, self.tp),
        )

    def class_table(self) -> list[tuple[str, ...]]:
        """The classes for reading: a head and a row for each; empty where there are none."""
        head = ("class", "precision", "recall", "F1", "IoU", "tp", "fp", "fn")
        rows = [
            (name, *each._shown(), *(str(x) for x in (each.tp, each.fp, each.fn)))
            for name, each in (self.classes or {}).items()
        ]
        return [head, *rows] if rows else []

    def __repr__(self) -> str:
        # A terminal shows this of a last line: the figures, to be read.
        return str(self)

    def _repr_html_(self) -> str:
        further = [] if self.figures is None else [*tabulate(self.figures).items()]
        groups = [("at this confidence", self.headline()), *further]
        parts = [beside(table(rows, caption=name) for name, rows in groups)]
        tables = [self.class_table()]
        if self.figures is not None:
            tables += [tabulate_sizes(self.figures), tabulate_seams(self.figures)]
        parts += [table(rows[1:], head=rows[0]) for rows in tables if rows]
        if self.figures is not None:
            parts += [f"<p>{escape(line)}</p>" for line in suggest(self.figures)]
        return "".join(parts)

    def __str__(self) -> str:
        lines = [f"{name:<11}   {value}" for name, value in self.headline()]
        if self.classes:
            width = max(5, *map(len, self.classes))
            widths = (9, 6, 5, 5, 5, 5, 5)
            lines.append("")
            for name, *cells in self.class_table():
                right = (f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
                lines.append("  ".join([f"{name:<{width}}", *right]))
        if self.figures is not None:
            lines += _further_lines(self.figures)
        return "\n".join(lines)


def evaluate(
    predicted: GeoDataFrame | str | Path,
    truth: GeoDataFrame | str | Path,
    *,
    aoi: GeoDataFrame | str | Path | None = None,
    iou: float = 0.5,
    confidence: float | None = None,
    class_field: str | None = None,
    class_map: Mapping[Any, str | None] | str | Path | None = None,
    full: bool = False,
    precision: float | None = None,
    pixel_m: float | None = None,
    html: str | Path | None = None,
    scene: str | Path | None = None,
    judged: str | Path | None = None,
    overwrite: bool = False,
) -> Report:
    """Compare a layer of footprints with the truth.

    Multipolygons count part by part and invalid polygons are repaired. With an area of interest,
    everything is matched first and counted afterwards: a match, and a truth without one, count
    where a point within the truth lies in the area; a prediction without a match where a point
    within itself does. So a building on the border of the area is never half counted.

    With a class field, a match has the right class, too. Truths that the class map leaves out, or
    that have no class, do not count, and nor does a prediction without a match that stands on them:
    what they are is unknown.

    Args:
        predicted: Layer or vector file; a column ``confidence`` decides who matches first.
        truth: Layer or vector file. Everything else is moved to its CRS.
        aoi: Layer or vector file of the areas to count in.
        iou: A match has at least this IoU, above 0 and up to 1.
        confidence: Predictions below are left out; None keeps all.
        class_field: Column of the truth with the class, to be compared with the column ``class``
            of the predictions; None compares no classes.
        class_map: Values of that column to the predictions' classes, or to None, which leaves
            truths out; a mapping or a YAML file of one. Values that are not in it are classes.
        full: Also measure average precision, outlines, faults and confidences
            (`footprints.figures`). With classes, average precision is the mean of theirs.
        precision: Also suggest a confidence that reaches this precision; implies ``full``.
        pixel_m: Metres per pixel of the imagery, for boundary IoU in pixels; default: the largest
            in the predicted layer's record of scenes.
        html: Also write a report with charts to this file, which replaces another; implies
            ``full``.
        scene: Raster of which the report shows the worst places.
        judged: Also write all polygons that count as a layer, as for `predict`: hits, false alarms
            and misses (`footprints.judging`).
        overwrite: Replace ``judged`` if it exists.

    Returns:
        Counts and ratios; with ``class_field`` for each class, too.

    Raises:
        ConfigError: ``iou``, ``confidence``, ``precision`` or ``pixel_m`` is out of range, the
            class map is none, or there is a scene but no report.
        RasterError: The scene cannot be read.
        OutputError: The report or ``judged`` cannot be written, or that exists.
        LayerError: A file cannot be read, some layers have a CRS and others none, the layers lie
            apart, the confidence is missing where it is needed or not a number, or a column of
            classes is missing.

    Warns:
        LabelWarning: Polygons were repaired or left out, truths have no class, or truths lie where
            the predicted layer's scenes show no ground.
    """
    _check_ranges(iou, confidence, precision, pixel_m)
    if scene is not None and html is None:
        raise ConfigError(
            f"scene {scene} is for the pictures of a report; name the report (--html)"
        )
    if html is not None:
        check_report(html)
    if judged is not None:
        check_output(judged, overwrite=overwrite)
    if class_map is not None and class_field is None:
        raise ConfigError("--class-map needs the column whose values it maps: --class-field")
    known = load_class_map({} if class_map is None else class_map)
    true = open_polygons(truth, name="truth", needs_crs=False)
    found = open_beside(true, predicted, "predicted")
    area = None if aoi is None else open_beside(true, aoi, "aoi")
    names = {"predicted": predicted, "truth": truth, "aoi": aoi}
    require_overlap(found, true, area, {name: called(name, names[name]) for name in names})
    if area is None:
        warn_of_ground_not_seen(found, true)
    scores = confidences_of(found, needed=confidence is not None)
    if confidence is not None:
        kept = scores >= confidence
        found, scores = found[kept], scores[kept]

    classes = None if class_field is None else _classes(found, true, class_field, known)
    compared = _compare(found, true, scores, area, classes, iou)
    compared = replace(
        compared,
        pixel_m=coarsest_pixel_m(found) if pixel_m is None else pixel_m,
        chip_edges=chip_edges_beside(found, true),
    )
    if judged is not None:
        write_layer(judged_layer(compared), judged, overwrite=overwrite)
    parts = None if classes is None else _parts(compared, classes)
    report = _report(compared, parts)
    if not full and precision is None and html is None:
        return report
    report = _add_figures(report, compared, parts, precision)
    if html is not None and report.figures is not None:
        write_report(
            html,
            compared,
            report.figures,
            headline=report.headline(),
            classes=report.class_table(),
            scene=scene,
        )
    return report


def _check_ranges(
    iou: float, confidence: float | None, precision: float | None, pixel_m: float | None
) -> None:
    for share, option in ((iou, "--iou"), (precision, "--precision")):
        if share is None:
            continue
        check_number(share, option)
        if not 0 < share <= 1:
            raise ConfigError(f"{option} must be above 0 and at most 1, got {share}")
    if confidence is not None:
        check_share(confidence, "--confidence")
    if pixel_m is not None:
        check_number(pixel_m, "--pixel-size")
        if not 0 < pixel_m < float("inf"):
            raise ConfigError(f"--pixel-size must be above 0, in metres, got {pixel_m}")


def _compare(
    found: GeoDataFrame,
    true: GeoDataFrame,
    scores: NDArray[np.float64],
    area: GeoDataFrame | None,
    classes: tuple[NDArray[np.object_], NDArray[np.object_]] | None,
    iou: float,
) -> Comparison:
    """Match the layers, and find out what counts."""
    polygons, true_polygons = found.geometry.to_numpy(), true.geometry.to_numpy()
    candidates, ious = find_candidates(polygons, true_polygons, min(iou, IOU_THRESHOLDS[0]))
    if classes is not None:
        candidates, ious = of_one_class(candidates, ious, classes)
    reach = np.flatnonzero(ious >= iou - IOU_TOLERANCE)
    matches = reach[take_greedily(candidates[reach], ious[reach], scores)]
    found_counts, truth_counts = _stand_in(polygons, area), _stand_in(true_polygons, area)
    if classes is not None:
        unknown = classes[1] == None  # noqa: E711  # element by element
        truth_counts &= ~unknown
        found_counts &= ~_stand_on(polygons, true_polygons[unknown])
    return Comparison(
        polygons,
        true_polygons,
        true.crs,
        scores,
        candidates,
        ious,
        iou,
        candidates[matches],
        ious[matches],
        found_counts,
        truth_counts,
        None if area is None else shapely.union_all(area.geometry.to_numpy()),
    )


def _stand_in(polygons: NDArray[np.object_], area: GeoDataFrame | None) -> NDArray[np.bool_]:
    """(n,) whether a point within each polygon lies in the area; None is everywhere."""
    if area is None:
        return np.ones(len(polygons), dtype=bool)
    inside = np.zeros(len(polygons), dtype=bool)
    tree = shapely.STRtree(area.geometry.to_numpy())
    inside[tree.query(shapely.point_on_surface(polygons), predicate="intersects")[0]] = True
    return inside


def _classes(
    found: GeoDataFrame,
    true: GeoDataFrame,
    column: str,
    class_map: Mapping[str, str | None],
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """(n,) classes of the predictions, and (m,) of the truths, None where it is unknown."""
    # An empty GeoJSON has no columns at all.
    names = read_values(found, "class", name="predicted") if len(found) else _NO_NAMES
    if (names == "").any():
        raise LayerError(f"column 'class' of predicted is empty in {(names == '').sum()} rows")
    return names, read_classes(true, column, class_map, name="truth") if len(true) else _NO_NAMES


def _stand_on(polygons: NDArray[np.object_], others: NDArray[np.object_]) -> NDArray[np.bool_]:
    """(n,) whether `UNKNOWN_SHARE` of each polygon lies on some of the others."""
    index, other = shapely.STRtree(others).query(polygons, predicate="intersects")
    shared = shapely.area(shapely.intersection(polygons[index], others[other]))
    on = np.bincount(index, shared, minlength=len(polygons))
    return np.asarray(on >= UNKNOWN_SHARE * shapely.area(polygons))


def _parts(
    compared: Comparison, classes: tuple[NDArray[np.object_], NDArray[np.object_]]
) -> dict[str, Comparison]:
    """What is compared of each class of either layer."""
    found, true = classes
    names = sorted({*found, *true} - {None})
    return {name: compared.part(found == name, true == name) for name in names}


def _report(compared: Comparison, parts: Mapping[str, Comparison] | None = None) -> Report:
    ious = compared.ious[compared.hits()]
    tp, fp, fn = len(ious), len(compared.false_alarms()), len(compared.misses())
    return Report(
        precision=tp / (tp + fp) if tp + fp else 0.0,
        recall=tp / (tp + fn) if tp + fn else 0.0,
        f1=2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
        matched_iou=float(ious.mean()) if tp else 0.0,
        tp=tp,
        fp=fp,
        fn=fn,
        classes=None if parts is None else {name: _report(each) for name, each in parts.items()},
    )


def _add_figures(
    report: Report,
    compared: Comparison,
    parts: Mapping[str, Comparison] | None,
    precision: float | None,
) -> Report:
    """The report with the further figures, for each class too."""
    whole = measure(compared, precision=precision)
    if report.classes is None or parts is None:
        return replace(report, figures=whole)
    classes = {
        name: replace(report.classes[name], figures=measure(part, precision=precision))
        for name, part in parts.items()
    }
    ranks = [
        each.figures.over_iou
        for each in classes.values()
        if each.figures is not None and each.tp + each.fn
    ]
    if ranks:
        means = {n: float(np.mean([getattr(r, n) for r in ranks])) for n in ("ap", "ap50", "ap75")}
        whole = replace(whole, over_iou=replace(whole.over_iou, **means))
    return replace(report, classes=classes, figures=whole)


def _further_lines(figures: Figures) -> list[str]:
    """The further figures as text: groups, sizes and suggestions."""
    lines = []
    for group, rows in tabulate(figures).items():
        lines += ["", group, *(f"  {name:<18} {value:>9}" for name, value in rows)]
    sizes = [
        f"{size:<15}" + "".join(f"{cell:>11}" for cell in cells)
        for size, *cells in tabulate_sizes(figures)
    ]
    seams = [
        f"{seam:<15}" + "".join(f"{cell:>11}" for cell in cells)
        for seam, *cells in tabulate_seams(figures)
    ]
    return [*lines, "", *sizes, "", *seams, *([""] if seams else []), *suggest(figures)]
