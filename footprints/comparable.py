"""The layers of a comparison, in one CRS and of one place, and what the predicted one says."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from numpy.typing import NDArray

from footprints.errors import LabelWarning, LayerError
from footprints.vector.area import show_bounds
from footprints.vector.layer import reproject
from footprints.vector.read import open_polygons
from footprints.vector.scenes import chip_edges, scenes_of


def open_beside(truth: GeoDataFrame, given: GeoDataFrame | str | Path, name: str) -> GeoDataFrame:
    """The layer in the CRS of the truth; pixel coordinates fit pixel coordinates only."""
    layer = open_polygons(given, name=name, needs_crs=False)
    if truth.crs is None and layer.crs is None:
        return layer
    if truth.crs is None or layer.crs is None:
        without, other = ("truth", name) if truth.crs is None else (name, "truth")
        raise LayerError(
            f"{without} has no coordinate reference system, but {other} has; give it its own"
        )
    try:
        return reproject(layer, truth.crs)
    except LayerError as err:
        raise LayerError(
            f"{called(name, given)} {show_bounds(layer.total_bounds)}, in {layer.crs.name}, lies "
            f"where {truth.crs.name} of the truth is not defined; check that it shows the same "
            "place and says the CRS that it is drawn in"
        ) from err


def called(name: str, given: GeoDataFrame | str | Path | None) -> str:
    """A layer in a message: what it is, and its file."""
    return f"{name} {given}" if isinstance(given, str | Path) else name


def require_overlap(
    found: GeoDataFrame, true: GeoDataFrame, area: GeoDataFrame | None, names: Mapping[str, str]
) -> None:
    """Layers that lie apart are a mistake; empty ones are a result."""
    crs = "pixels" if true.crs is None else true.crs.name
    if len(found) and len(true) and not _extents_meet(found, true):
        raise LayerError(
            f"{names['predicted']} {_extent(found)} and {names['truth']} {_extent(true)} do not "
            f"overlap, both in {crs}; check that they show the same place and have the right CRS"
        )
    if area is None:
        return
    if area.empty:
        raise LayerError("the area of interest holds no polygon")
    layers = [layer for layer in (found, true) if len(layer)]
    if layers and not any(_extents_meet(area, layer) for layer in layers):
        raise LayerError(
            f"{names['aoi']} {_extent(area)} does not overlap the layers "
            f"{' or '.join(_extent(layer) for layer in layers)}, all in {crs}; check that it shows "
            "the same place and has the right CRS"
        )


def warn_of_ground_not_seen(found: GeoDataFrame, true: GeoDataFrame) -> None:
    """Say it where the truth goes on beyond the scenes: what nobody looked at counts as missed."""
    scenes = scenes_of(found)
    if not scenes:
        return
    outlines = [GeoSeries.from_wkt([scene.outline], crs=scene.outline_crs) for scene in scenes]
    if true.crs is not None:
        outlines = [outline.to_crs(true.crs) for outline in outlines]
    seen = shapely.union_all([outline[0] for outline in outlines])
    inside = shapely.intersects(seen, shapely.point_on_surface(true.geometry.to_numpy()))
    if not inside.all():
        warnings.warn(
            f"{(~inside).sum():,} of {len(true):,} true buildings lie where the layer's scenes "
            f"show no ground, and count as missed; aoi says where to count",
            LabelWarning,
            stacklevel=3,
        )


def _extents_meet(one: GeoDataFrame, other: GeoDataFrame) -> bool:
    return bool(shapely.intersects(*(shapely.box(*layer.total_bounds) for layer in (one, other))))


def _extent(layer: GeoDataFrame) -> str:
    return show_bounds(layer.total_bounds)


def confidences_of(layer: GeoDataFrame, *, needed: bool) -> NDArray[np.float64]:
    """(n,) the column ``confidence``; all 1 where there is none."""
    if "confidence" not in layer:
        if needed and len(layer):  # an empty GeoJSON has no columns at all
            raise LayerError("predicted has no column confidence to filter by; leave it out")
        return np.ones(len(layer))
    given = layer["confidence"]
    numbers = pd.to_numeric(given, errors="coerce")
    others = given[numbers.isna() & given.notna()]
    if len(others):
        raise LayerError(
            "column confidence of predicted must hold numbers from 0 to 1, got "
            f"{others.iloc[0]!r}; rename the column if it means something else"
        )
    scores = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(scores).any():
        raise LayerError(f"column confidence is empty in {np.isnan(scores).sum()} rows")
    return np.asarray(scores)


def coarsest_pixel_m(found: GeoDataFrame) -> float | None:
    """Of the coarsest scene of the layer, None where it is not known."""
    return max((s.pixel_m for s in scenes_of(found) if s.pixel_m is not None), default=None)


def chip_edges_beside(found: GeoDataFrame, true: GeoDataFrame) -> shapely.Geometry | None:
    """Where the chips of the layer's scenes end, in the CRS of the truth; None if not known."""
    edges = []
    for scene in scenes_of(found):
        lines = chip_edges(scene)
        if lines is not None:
            placed = GeoSeries([lines], crs=scene.outline_crs)
            edges.append((placed if true.crs is None else placed.to_crs(true.crs))[0])
    return shapely.union_all(edges) if edges else None
