"""Keypoints of whole buildings, from what the chips show of each, and the layer of them.

Shapes: n outlines, m footprints, J keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from footprints.chip import ChipGrid
from footprints.vector.outlines import Outlines, Polygons
from footprints.vector.seams import EDGE_PX, find_sides, windows_of

SHOWN_SHARE = 0.5
"""An outline shows a footprint that covers this share of it."""


def find_keypoints(
    polygons: Polygons, outlines: Outlines, grid: ChipGrid, read: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Settle where each keypoint of each footprint is.

    Of all outlines that show a footprint, the one that is most alike (by IoU) and surest of the
    keypoint (by confidence) has it, by the product of both. What lies at an edge of a chip that
    cuts the outline is no keypoint: it is where the chip ends.

    Args:
        polygons: (m,) footprints, in grid pixels.
        outlines: The outlines they were merged from, with keypoints.
        grid: The chips.
        read: (chips,) whether a chip was read and gave a result.

    Returns:
        (m, J, 3) x, y and confidence; NaN where no outline shows the keypoint.
    """
    count = outlines.keypoints.shape[1]
    found = np.full((len(polygons), count, 3), np.nan)
    if not count:
        return found
    footprint, outline = shapely.STRtree(outlines.polygons).query(polygons)
    shared = shapely.area(shapely.intersection(polygons[footprint], outlines.polygons[outline]))
    area = shapely.area(outlines.polygons)[outline]
    alike = shared / (area + shapely.area(polygons)[footprint] - shared)
    shown = shared >= SHOWN_SHARE * area
    footprint, outline, alike = footprint[shown], outline[shown], alike[shown]

    usable = ~_at_a_cut(outlines, grid, read)[outline]
    worth = np.where(usable, alike[:, None] * outlines.keypoints[outline, :, 2], -1.0)
    for number in range(count):
        # The last one written stays: the worthiest.
        order = np.argsort(worth[:, number], kind="stable")
        order = order[worth[order, number] >= 0]
        found[footprint[order], number] = outlines.keypoints[outline[order], number]
    return found


def keypoint_layer(layer: GeoDataFrame, names: Sequence[str]) -> GeoDataFrame:
    """The keypoints of a layer's footprints as points.

    Args:
        layer: Footprints with the column ``keypoints`` that `footprints.vector.layer.place` gives.
        names: Of the J keypoints.

    Returns:
        Points in the layer's CRS with the columns ``building``, the footprint's ``id``;
        ``keypoint``, its name; ``confidence``, 0 to 1; ``source`` and ``model``. What was not found
        has no row.
    """
    found = np.array([*layer["keypoints"]], dtype=np.float64).reshape(-1, 3)
    rows = layer.loc[layer.index.repeat(len(names)), ["id", "source", "model"]]
    points = GeoDataFrame(
        {
            "building": rows["id"].to_numpy(),
            "keypoint": pd.Series([*names] * len(layer), dtype=str),
            "confidence": found[:, 2].round(4),
            "source": rows["source"].to_numpy(),
            "model": rows["model"].to_numpy(),
        },
        geometry=shapely.points(found[:, :2]),
        crs=layer.crs,
    )
    return points[np.isfinite(found).all(axis=1)].reset_index(drop=True)


def _at_a_cut(outlines: Outlines, grid: ChipGrid, read: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n, J) whether a keypoint lies at an edge of its chip that cuts the outline."""
    windows = windows_of(grid)[outlines.chips][:, None]
    places = np.tile(outlines.keypoints[..., :2], 2)
    near = np.abs(places - windows) <= EDGE_PX
    cut = find_sides(outlines, grid, read).cut[:, None]
    return np.asarray((near & cut).any(axis=2))
