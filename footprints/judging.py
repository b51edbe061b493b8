"""The verdict on every polygon of a comparison, as a layer: errors are looked at on a map."""

from __future__ import annotations

import numpy as np
import shapely
from geopandas import GeoDataFrame

from footprints.measuring import Comparison

HIT, FALSE_ALARM, MISS = "hit", "false alarm", "miss"


def judged_layer(compared: Comparison) -> GeoDataFrame:
    """Footprints and truths that count, each with what it is.

    Args:
        compared: A layer beside the truth.

    Returns:
        Column ``verdict``: ``hit``, the outline of a footprint that matches; ``false alarm``, that
        of one that does not; ``miss``, the outline of a truth that nothing matches. ``confidence``
        is empty where nothing was found, ``iou`` where nothing matches. In the CRS of the truth.
    """
    rows = compared.hits()
    found, wrong, missed = compared.pairs[rows, 0], compared.false_alarms(), compared.misses()
    counts = len(found), len(wrong), len(missed)
    nothing = np.full(len(missed), np.nan)
    return GeoDataFrame(
        {
            "verdict": np.repeat([HIT, FALSE_ALARM, MISS], counts),
            "confidence": np.concatenate([compared.scores[found], compared.scores[wrong], nothing]),
            "iou": np.concatenate([compared.ious[rows], np.full(len(wrong), np.nan), nothing]),
        },
        geometry=shapely.orient_polygons(
            np.concatenate([compared.found[found], compared.found[wrong], compared.truth[missed]])
        ),
        crs=compared.crs,
    ).round({"confidence": 4, "iou": 4})
