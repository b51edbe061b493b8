"""A layer as the viewer takes it: small, and the same to the last byte for the same layer.

Outlines are whole steps from the upper-left corner of their own box, so two bytes a coordinate are
enough; columns of text hold each text once. `footprints/viewer/layer.js` unpacks all of it.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas.api import types

STEP = 0.01
"""Least step of coordinates: a centimetre, or a hundredth of a pixel."""
MOST_STEPS = 2**16 - 1
"""Of the largest outline, so that two bytes hold each."""
MOST_TEXT = 2000
"""Characters of a text that are kept."""
HOVER = ("class", "confidence", "area_m2")
"""Columns that are shown under the pointer."""
_EXACT = 2**53
"""Whole numbers from here on are texts: JavaScript's numbers do not hold them."""
NOTHING = "\N{EN DASH}"
"""Text of a missing value."""

_ARRAYS = {"u1": "u8", "u2": "u16", "u4": "u32", "i4": "i32", "f8": "f64"}

Packed = dict[str, Any]


def pack_layer(layer: GeoDataFrame, polygons: NDArray[np.object_]) -> Packed:
    """Everything of a layer that the viewer needs, ready for JSON.

    Args:
        layer: Any columns; ``confidence`` is shown as such if it holds numbers.
        polygons: (n,) its polygons where the viewer shows them, y downwards.
    """
    # Those alike in size together and neighbours side by side, so that what is out of sight is
    # skipped in few runs, and so is what is too small; the largest first, below the others.
    nearby = np.lexsort((_along_a_curve(polygons), -_magnitudes(polygons)))
    layer, polygons = layer.iloc[nearby], polygons[nearby]
    columns = layer.drop(columns=layer.geometry.name)
    sure = "confidence" in columns and types.is_numeric_dtype(columns["confidence"])
    packed: Packed = {
        "count": len(layer),
        "confidence": "confidence" if sure else None,
        "columns": [_pack_column(str(name), columns[name]) for name in columns],
        "hover": [name for name in HOVER if name in columns],
    }
    if sure:
        numbers = columns["confidence"].to_numpy(dtype=np.float64, na_value=np.nan)
        packed["order"] = pack(np.argsort(numbers, kind="stable"))
    return packed | _pack_outlines(polygons)


def pack(values: NDArray[Any]) -> dict[str, str]:
    """An array in base64, whole numbers in the smallest type that holds them, and its type."""
    if values.dtype.kind in "ub":
        values = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    elif values.dtype.kind == "i":
        small = np.min_scalar_type(int(values.max(initial=0)))
        values = values.astype(small if values.min(initial=0) >= 0 else np.int32)
    stored = values.astype(values.dtype.newbyteorder("<"))
    name = _ARRAYS[stored.dtype.str[1:]]
    return {"type": name, "data": base64.b64encode(stored.tobytes()).decode()}


def _along_a_curve(polygons: NDArray[np.object_]) -> NDArray[np.int64]:
    """(n,) places of the polygons on a curve that fills the plane."""
    from geopandas import GeoSeries

    bounds = shapely.bounds(polygons)
    if not len(polygons) or np.ptp(bounds) == 0:
        return np.zeros(len(polygons), dtype=np.int64)
    distance: NDArray[np.int64] = GeoSeries(polygons).hilbert_distance().to_numpy()
    return distance


def _magnitudes(polygons: NDArray[np.object_]) -> NDArray[np.float64]:
    """(n,) whole powers of two of the longer side of the polygons' boxes."""
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    sides = np.fmax(bounds[:, 2:] - bounds[:, :2], STEP).max(axis=1)
    powers: NDArray[np.float64] = np.floor(np.log2(sides))
    return powers


def _pack_outlines(polygons: NDArray[np.object_]) -> Packed:
    """Vertices, rings and triangles of polygons; rings repeat their first vertex at their end."""
    lines, ring_owner = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(lines, return_index=True)
    owner = ring_owner[ring]
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    largest = float((bounds[:, 2:] - bounds[:, :2]).max(initial=0))
    quantum = max(STEP, largest / MOST_STEPS)
    origins = np.floor(bounds[:, :2] / quantum)
    steps = np.clip(np.round(points / quantum) - origins[owner], 0, MOST_STEPS)
    triangles, corners = _triangulate(polygons, points, owner)
    return {
        "quantum": quantum,
        "outlines": {
            "origins": pack(origins.astype(np.int64).ravel()),
            "vertices": pack(steps.astype(np.uint16).ravel()),
            "ring_sizes": pack(np.bincount(ring, minlength=len(lines))),
            "rings": pack(np.bincount(ring_owner, minlength=len(polygons))),
            "triangles": pack(triangles),
            "corners": pack(corners),
        },
    }


def _triangulate(
    polygons: NDArray[np.object_], points: NDArray[np.float64], owner: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut polygons into triangles between their own vertices.

    Args:
        polygons: (n,) valid polygons.
        points: (p, 2) their vertices, polygon by polygon.
        owner: (p,) polygon of each vertex.

    Returns:
        (n,) how many triangles each polygon has, and (3 t,) their corners: numbers of vertices,
        counted within the polygon.
    """
    cut = shapely.constrained_delaunay_triangles(polygons)
    corners, of = shapely.get_coordinates(cut, return_index=True)
    # Rings of triangles are closed: every fourth point is the first one again.
    keep = np.arange(len(corners)) % 4 < 3
    corners, of = corners[keep], of[keep]
    x = np.concatenate([points[:, 0], corners[:, 0]])
    y = np.concatenate([points[:, 1], corners[:, 1]])
    by_place = np.lexsort((y, x, np.concatenate([owner, of])))
    # The sort is stable, so of equal places the first is a vertex, and corners follow it.
    sorted_x, sorted_y = x[by_place], y[by_place]
    sorted_of = np.concatenate([owner, of])[by_place]
    new = np.ones(len(x), dtype=bool)
    new[1:] = (
        (sorted_x[1:] != sorted_x[:-1])
        | (sorted_y[1:] != sorted_y[:-1])
        | (sorted_of[1:] != sorted_of[:-1])
    )
    vertex = np.empty(len(x), dtype=np.int64)
    vertex[by_place] = by_place[new][np.cumsum(new) - 1]
    numbers = vertex[len(points) :] - np.searchsorted(owner, of)
    return np.bincount(of, minlength=len(polygons)) // 3, numbers


def _pack_column(name: str, column: pd.Series) -> Packed:
    """Numbers as such, everything else as text: each once, with how much of it is left out."""
    if types.is_float_dtype(column) or _is_small_integer(column):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return {"name": name, "values": pack(numbers)}
    codes, texts = pd.factorize(column.map(_text))
    return {
        "name": name,
        "values": pack(codes.astype(np.uint32)),
        "texts": [[text[:MOST_TEXT], max(0, len(text) - MOST_TEXT)] for text in texts],
    }


def _is_small_integer(column: pd.Series) -> bool:
    if not types.is_integer_dtype(column):
        return False
    return bool((column.dropna().abs() < _EXACT).all())


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    missing = value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA
    return NOTHING if missing else str(value)
