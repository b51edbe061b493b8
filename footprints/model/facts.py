"""What weights say of themselves, for people: rows of name and value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from footprints.model.checkpoint import WeightsInfo

FIGURES = {
    "val_precision": "precision",
    "val_recall": "recall",
    "val_f1": "F1",
    "val_ap": "AP, IoU 0.5 to 0.95",
    "val_ap50": "AP50",
    "val_ap75": "AP75",
    "val_boundary_iou": "boundary IoU, 2 px",
    "val_score_error": "calibration error of the scores",
    "val_calibrated_error": "calibration error, calibrated on other chips",
}
"""Figures of validation, and how they read."""

Box = tuple[float, float, float, float]
"""West, south, east and north."""
ONE_PLACE_DEG = 0.5
"""Ground with smaller gaps is one place."""


def describe(info: WeightsInfo, parameters: int) -> list[tuple[str, str]]:
    """All of it, of a network with so many parameters."""
    return [
        ("network", _network(info, parameters)),
        ("classes", ", ".join(info.model.classes)),
        *_input(info),
        ("default confidence", f"{info.reported_confidence:.3g}"),
        ("confidence is", _calibration(info)),
        *_training(info),
        *_validation(info),
    ]


def bounds(area: dict[str, Any]) -> Box:
    """West, south, east and north of a MultiPolygon."""
    return _around(_bounds(polygon) for polygon in area["coordinates"])


def places(area: dict[str, Any]) -> list[Box]:
    """The same of each place that a MultiPolygon in degrees shows, from west to east."""
    found: list[Box] = []
    for polygon in area["coordinates"]:
        box = _bounds(polygon)
        # A box that has grown may be near to others.
        while near := [place for place in found if _are_near(place, box)]:
            found = [place for place in found if place not in near]
            box = _around([box, *near])
        found.append(box)
    return sorted(found)


def _bounds(polygon: Sequence[Sequence[Sequence[float]]]) -> Box:
    xs, ys = zip(*(point for ring in polygon for point in ring), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _around(boxes: Iterable[Box]) -> Box:
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)


def _are_near(one: Box, other: Box) -> bool:
    gaps = (max(one[k], other[k]) - min(one[k + 2], other[k + 2]) for k in (0, 1))
    return max(gaps) <= ONE_PLACE_DEG


def _network(info: WeightsInfo, parameters: int) -> str:
    model = info.model
    head = model.mask_head
    masks = "no masks" if head is None else f"masks by {head.kind}"
    return (
        f"Mask R-CNN, trunk {model.backbone.name}, {model.backbone.neck} of "
        f"{model.backbone.channels} channels, {masks}, {parameters:,} parameters"
    )


def _input(info: WeightsInfo) -> list[tuple[str, str]]:
    spec = info.input_spec
    mean, std = ([f"{x:.4g}" for x in values] for values in (spec.scaling.mean, spec.scaling.std))
    if len({*mean}) == len({*std}) == 1:
        mean, std = mean[:1], std[:1]
    rows = [
        ("bands", f"{spec.bands}, {spec.dtype}"),
        ("scaling", f"(value - {', '.join(mean)}) / {', '.join(std)}"),
        ("resolution", _resolution(info)),
    ]
    if spec.value_range:
        usual = "; ".join(f"{low:g} to {high:g}" for low, high in spec.value_range)
        rows.insert(1, ("usual values", usual))
    return rows


def _resolution(info: WeightsInfo) -> str:
    spec = info.input_spec
    if spec.short_side is not None:
        most = "" if spec.long_side is None else f", the longer one to at most {spec.long_side} px"
        return f"whole pictures, their shorter side resized to {spec.short_side} px{most}"
    return "as the raster" if spec.gsd_m is None else f"{spec.gsd_m:g} m per pixel"


def _calibration(info: WeightsInfo) -> str:
    if info.calibration is None:
        return "a score of the network, not calibrated"
    place = info.training.get("calibrated_on")
    where = "validation ground" if place is None else f"the ground of {place['labels']}"
    return f"the share of such detections that match a building at IoU 0.5, on {where}"


def _training(info: WeightsInfo) -> Iterator[tuple[str, str]]:
    training = info.training
    if before := training.get("start_from"):
        yield "started from", before["name"]
    counts = training.get("buildings", {})
    for use, name in (("training", "trained on"), ("validation", "validated on")):
        if counts.get(use):
            yield name, f"{counts[use]:,} buildings{_where(training, use)}"
    for entry in [*training.get("data", []), *(before or {}).get("data", [])]:
        what = filter(None, [", ".join(entry.get("images", [])), entry.get("labels")])
        yield "data", f"{' with '.join(what)}. {' '.join(entry['attribution'].split())}"


def _where(training: dict[str, Any], use: str) -> str:
    area = training.get("areas", {}).get(use)
    if area is None:
        return ""
    boxes = [f"{w:.4f}, {s:.4f} to {e:.4f}, {n:.4f}" for w, s, e, n in places(area)]
    return f", within {'; '.join(boxes)} (WGS 84)"


def _validation(info: WeightsInfo) -> Iterator[tuple[str, str]]:
    figures = info.training.get("validation", {})
    for name, reads in FIGURES.items():
        if name in figures:
            yield f"validation: {reads}", f"{figures[name]:.3f}"
