"""What regularising and simplifying have in common: options, and the layer with other outlines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
from geopandas import GeoDataFrame

from footprints.errors import ConfigError, LabelWarning
from footprints.ranges import check_number
from footprints.vector.layer import areas_m2
from footprints.vector.outlines import Polygons

UNCHANGED = "source"
"""What the column ``regularized`` says where no fit stays within the tolerance."""
DONE = frozenset({UNCHANGED, "right-angles", "diagonals", "any-angle", "circle"})
"""All that it says."""
POOR_IOU = 0.8
"""Results that agree less with their source are counted."""


def check_metres(value: float, name: str) -> None:
    """Refuse a distance that is not a positive number.

    Raises:
        ConfigError: It is not.
    """
    check_number(value, name)
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number of metres, got {value}")


def summary(layer: GeoDataFrame) -> str:
    """One line about a regularised layer: how many fell back, and how many agree little."""
    back = int((layer["regularized"] == UNCHANGED).sum())
    poor = int((layer["iou"] < POOR_IOU).sum())
    return f"{back:,} left as they were, {poor:,} with IoU below {POOR_IOU}"


def described(layer: GeoDataFrame, polygons: Polygons, **columns: object) -> GeoDataFrame:
    """A layer with other outlines, their areas, and further columns before the geometry.

    Warns:
        LabelWarning: The layer has columns of these names that are not ours, which get others.
    """
    kept = _keep_theirs(layer, columns).drop(
        columns=[layer.geometry.name, *columns], errors="ignore"
    )
    if "area_m2" in kept:
        kept["area_m2"] = np.round(areas_m2(polygons, layer.crs), 2)
    return GeoDataFrame(kept.assign(**columns), geometry=polygons, crs=layer.crs)


def _keep_theirs(layer: GeoDataFrame, names: Iterable[str]) -> GeoDataFrame:
    """A layer whose columns of these names have others, unless they come from regularising."""
    theirs = [name for name in names if name in layer]
    # What was done to every outline is in one of them; who wrote that wrote the other, too.
    if not theirs or ("regularized" in layer and set(layer["regularized"].dropna()) <= DONE):
        return layer
    renamed = {}
    for name in theirs:
        renamed[name] = f"{name}_before"
        while renamed[name] in layer:
            renamed[name] += "_"
    warnings.warn(
        "columns of the layer have names that regularising gives, and are renamed: "
        + ", ".join(f"{old} to {new}" for old, new in renamed.items()),
        LabelWarning,
        stacklevel=4,
    )
    return layer.rename(columns=renamed)
