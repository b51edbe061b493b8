"""Layer against truth: one-to-one matching by polygon IoU, and what follows from it.

Matching is greedy by confidence, as COCO does it: each prediction, the most confident first, takes
the unmatched truth with which its IoU is highest, if it reaches the threshold. Among predictions of
equal confidence the pairs with the highest IoU come first, so that the order of rows in a file does
not matter.

IoU is a ratio of areas that lie side by side, so the units of the CRS cancel out, degrees too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from footprints.errors import ConfigError, LayerError
from footprints.vector.layer import reproject
from footprints.vector.read import clean_polygons, read_layer

IOU_TOLERANCE = 1e-9
"""An IoU this little below the threshold reaches it: rounding of large coordinates."""


@dataclass(frozen=True, slots=True)
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

    def to_dict(self) -> dict[str, float | int]:
        """Every field by name, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"precision    {self.precision:6.3f}   ({self.tp} of {self.tp + self.fp} predicted)\n"
            f"recall       {self.recall:6.3f}   ({self.tp} of {self.tp + self.fn} true)\n"
            f"F1           {self.f1:6.3f}\n"
            f"matched IoU  {self.matched_iou:6.3f}"
        )


def evaluate(
    predicted: GeoDataFrame | str | Path,
    truth: GeoDataFrame | str | Path,
    *,
    aoi: GeoDataFrame | str | Path | None = None,
    iou: float = 0.5,
    confidence: float | None = None,
) -> Report:
    """Compare a layer of footprints with the truth.

    Multipolygons count part by part and invalid polygons are repaired. With an area of interest,
    everything is matched first and counted afterwards: a match, and a truth without one, count
    where a point within the truth lies in the area; a prediction without a match where a point
    within itself does. So a building on the border of the area is never half counted.

    Args:
        predicted: Layer or vector file; a column ``confidence`` decides who matches first.
        truth: Layer or vector file. Everything else is moved to its CRS.
        aoi: Layer or vector file of the areas to count in.
        iou: A match has at least this IoU, above 0 and up to 1.
        confidence: Predictions below are left out; None keeps all.

    Returns:
        Counts and ratios.

    Raises:
        ConfigError: ``iou`` or ``confidence`` is out of range.
        LayerError: A file cannot be read, some layers have a CRS and others none, the layers lie
            apart, or the confidence is missing where it is needed or not a number.

    Warns:
        LabelWarning: Polygons were repaired or left out.
    """
    if not 0 < iou <= 1:
        raise ConfigError(f"IoU threshold must be above 0 and at most 1, got {iou}")
    if confidence is not None and not 0 <= confidence <= 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}")
    true = _load(truth, "truth")
    found = _moved_to(true, _load(predicted, "predicted"), "predicted")
    area = None if aoi is None else _moved_to(true, _load(aoi, "aoi"), "aoi")
    _require_overlap(found, true, area)
    scores = _confidences(found, needed=confidence is not None)
    if confidence is not None:
        kept = scores >= confidence
        found, scores = found[kept], scores[kept]

    found_polygons, true_polygons = found.geometry.to_numpy(), true.geometry.to_numpy()
    pairs, ious = match(found_polygons, true_polygons, scores, iou=iou)
    found_inside = _stand_in(found_polygons, area)
    true_inside = _stand_in(true_polygons, area)
    is_match = true_inside[pairs[:, 1]]
    found_inside[pairs[:, 0]] = False
    true_inside[pairs[:, 1]] = False
    return _report(ious[is_match], fp=int(found_inside.sum()), fn=int(true_inside.sum()))


def match(
    predicted: NDArray[np.object_],
    truth: NDArray[np.object_],
    scores: NDArray[np.float64],
    *,
    iou: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Match polygons one to one, greedily by score.

    Args:
        predicted: (n,) valid polygons.
        truth: (m,) valid polygons in the same frame.
        scores: (n,) confidences.
        iou: A match has at least this IoU.

    Returns:
        (k, 2) index of the prediction and of its truth, and (k,) their IoU; the most confident
        match comes first.
    """
    candidates, ious = _candidates(predicted, truth, iou)
    # Rows of the files break exact ties only.
    order = np.lexsort((candidates[:, 1], candidates[:, 0], -ious, -scores[candidates[:, 0]]))
    is_free_found = np.ones(len(predicted), dtype=bool)
    is_free_true = np.ones(len(truth), dtype=bool)
    matches = []
    for index, (found, true) in zip(order, candidates[order].tolist(), strict=True):
        if is_free_found[found] and is_free_true[true]:
            is_free_found[found] = is_free_true[true] = False
            matches.append(index)
    return candidates[matches], ious[matches]


def _candidates(
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


def _load(layer: GeoDataFrame | str | Path, name: str) -> GeoDataFrame:
    if isinstance(layer, GeoDataFrame):
        return clean_polygons(layer, name=name)
    return read_layer(layer, needs_crs=False)


def _moved_to(truth: GeoDataFrame, layer: GeoDataFrame, name: str) -> GeoDataFrame:
    """The layer in the CRS of the truth; pixel coordinates fit pixel coordinates only."""
    if truth.crs is None and layer.crs is None:
        return layer
    if truth.crs is None or layer.crs is None:
        without, other = ("truth", name) if truth.crs is None else (name, "truth")
        raise LayerError(
            f"{without} has no coordinate reference system, but {other} has; give it its own"
        )
    return reproject(layer, truth.crs)


def _require_overlap(found: GeoDataFrame, true: GeoDataFrame, area: GeoDataFrame | None) -> None:
    """Layers that lie apart are a mistake; empty ones are a result."""
    if len(found) and len(true) and not _extents_meet(found, true):
        raise LayerError(
            f"predicted {_extent(found)} and truth {_extent(true)} do not overlap; "
            f"check that they show the same place and have the right CRS"
        )
    if area is None:
        return
    if area.empty:
        raise LayerError("the area of interest holds no polygon")
    layers = [layer for layer in (found, true) if len(layer)]
    if layers and not any(_extents_meet(area, layer) for layer in layers):
        raise LayerError(
            f"aoi {_extent(area)} does not overlap "
            f"{' or '.join(_extent(layer) for layer in layers)}, the extent of the layers"
        )


def _extents_meet(one: GeoDataFrame, other: GeoDataFrame) -> bool:
    return bool(shapely.intersects(*(shapely.box(*layer.total_bounds) for layer in (one, other))))


def _extent(layer: GeoDataFrame) -> str:
    return "({})".format(", ".join(f"{value:.10g}" for value in layer.total_bounds))


def _confidences(layer: GeoDataFrame, *, needed: bool) -> NDArray[np.float64]:
    """(n,) the column ``confidence``; all 1 where there is none."""
    if "confidence" not in layer:
        if needed and len(layer):  # an empty GeoJSON has no columns at all
            raise LayerError("predicted has no column confidence to filter by; leave it out")
        return np.ones(len(layer))
    if len(layer) and not is_numeric_dtype(layer["confidence"]):
        raise LayerError(f"column confidence must hold numbers, got {layer['confidence'].dtype}")
    scores = layer["confidence"].to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(scores).any():
        raise LayerError(f"column confidence is empty in {np.isnan(scores).sum()} rows")
    return np.asarray(scores)


def _stand_in(polygons: NDArray[np.object_], area: GeoDataFrame | None) -> NDArray[np.bool_]:
    """(n,) whether a point within each polygon lies in the area; None is everywhere."""
    if area is None:
        return np.ones(len(polygons), dtype=bool)
    inside = np.zeros(len(polygons), dtype=bool)
    tree = shapely.STRtree(area.geometry.to_numpy())
    inside[tree.query(shapely.point_on_surface(polygons), predicate="intersects")[0]] = True
    return inside


def _report(ious: NDArray[np.float64], *, fp: int, fn: int) -> Report:
    tp = len(ious)
    return Report(
        precision=tp / (tp + fp) if tp + fp else 0.0,
        recall=tp / (tp + fn) if tp + fn else 0.0,
        f1=2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0,
        matched_iou=float(ious.mean()) if tp else 0.0,
        tp=tp,
        fp=fp,
        fn=fn,
    )
