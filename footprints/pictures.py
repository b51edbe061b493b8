"""Pictures of a footprint layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import Window
from footprints.errors import OutputError
from footprints.raster.source import Scene, open_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geopandas import GeoDataFrame

_STRETCH = (2, 98)
"""Percentiles of the pixel values that become black and white."""


def save_overlay(
    layer: GeoDataFrame,
    scene: str | Path,
    path: str | Path,
    *,
    bands: Sequence[int] | None = None,
    pixels: bool = False,
    largest_side: int = 1600,
) -> None:
    """Draw the outlines of a layer over its scene as a PNG, coloured by confidence.

    Args:
        layer: Footprint layer in the CRS of the scene, or in any.
        scene: The raster; read at the size of the picture, never whole.
        path: PNG to write.
        bands: One or three bands to show, 1-based; None takes the first three, or the first.
        pixels: The layer is in pixel coordinates.
        largest_side: Longer side of the picture in pixels; smaller scenes are shown as they are.

    Raises:
        RasterError: The scene cannot be read.
        OutputError: The picture cannot be written.
    """
    # Here and not above: matplotlib takes a second to load and most jobs draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    with open_scene(scene, bands=bands, pixels=pixels) as raster:
        picture, shrink = _read_picture(raster, largest_side)
        if layer.crs is not None and raster.crs is not None:
            layer = layer.to_crs(raster.crs)
        to_picture = ~raster.transform
    height, width = picture.shape[:2]
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(picture, cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
    rings, owner = shapely.get_rings(layer.geometry.to_numpy(), return_index=True)
    lines = [
        np.column_stack(to_picture @ (xy[:, 0], xy[:, 1])) / shrink
        for xy in map(shapely.get_coordinates, rings)
    ]
    colours = ScalarMappable(Normalize(0.3, 1.0), "plasma")
    axes.add_collection(
        LineCollection(
            lines,
            colors=colours.to_rgba(layer["confidence"].to_numpy()[owner]),
            linewidths=1.2,
        )
    )
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    try:
        figure.savefig(path, format="png")
    except OSError as err:
        raise OutputError(f"cannot write picture {path}: {err.strerror}") from err


def _read_picture(raster: Scene, largest_side: int) -> tuple[NDArray[np.uint8], float]:
    """The scene as (height, width, 3) or (height, width) bytes, and raster pixels per pixel."""
    shrink = max(1.0, max(raster.width, raster.height) / largest_side)
    shape = (max(1, round(raster.height / shrink)), max(1, round(raster.width / shrink)))
    pixels, valid = raster.read(Window(0, 0, raster.width, raster.height), shape)
    shown = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    values = shown[:, valid].astype(np.float64)
    if raster.dtype == "uint8" or not values.size:
        stretched = shown
    else:
        low, high = np.percentile(values, _STRETCH, axis=1)[:, :, None, None]
        stretched = (shown - low) / np.maximum(high - low, 1e-12) * 255
    picture = np.clip(stretched, 0, 255).astype(np.uint8)
    picture[:, ~valid] = 255
    return np.moveaxis(picture, 0, -1).squeeze(), shrink
