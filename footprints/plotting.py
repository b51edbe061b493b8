"""Layers and instances as matplotlib figures, for notebooks and papers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from footprints.chip import Chip, Instances, Window
from footprints.errors import ConfigError, LayerError
from footprints.pictures import (
    CASING,
    FILL_OPACITY,
    PALETTE,
    as_picture,
    class_colours,
    confidence_scale,
    in_frame_of,
    outline_path,
    read_picture,
    text_colour,
)
from footprints.raster.source import Scene, open_scene
from footprints.vector.metric import metres_per_unit
from footprints.vector.read import open_polygons

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.axes import Axes
    from pandas import Series
    from pyproj import CRS

Bounds = tuple[float, float, float, float]

_BAR_SHARE = 0.25
"""Of the width of the axes that the scale bar takes, at most."""
_PLAIN = "#00a2ff"
"""Colour of layers without a value to show."""
_LINE_WIDTHS = (0.5, 1.5)
"""Of outlines, in points; thin where buildings are small, or lines would be all there is to see."""
_LINE_SHARE = 0.05
"""Of the side of a middling building that its outline takes, between those."""


def plot(
    layer: GeoDataFrame | str | Path,
    scene: str | Path | None = None,
    *,
    ax: Axes | None = None,
    column: str | None = None,
    bounds: Bounds | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
    largest_side: int = 1600,
) -> Axes:
    """Draw a layer, over the pixels of its scene where one is given.

    Confidences have the colours that QGIS gives them in our GeoPackages. The scale bar is in metres
    on the ground in any CRS, along the x axis at the middle; in pixel coordinates it is in pixels.

    Args:
        layer: Polygons, as a layer or a file; labels will do as well as footprints.
        scene: The raster below; read at the size of the picture, never whole.
        ax: Axes to draw in; None makes a figure.
        column: Column that decides the colour: numbers have a colour bar, names a legend. None
            takes ``confidence`` if there is one, and one colour otherwise.
        bounds: Part to show, (x_min, y_min, x_max, y_max) in the CRS of the axes.
        bands: One or three bands to show, 1-based; of others the first three, or the first.
        nodata: Value of pixels without data, which are white.
        crs: CRS of the scene; goes before the one it declares.
        pixels: Layer and scene are in pixel coordinates.
        largest_side: Longer side of the picture in pixels; smaller scenes are shown as they are.

    Returns:
        The axes, in the CRS of the scene, without one in that of the layer, so that other layers
        can be drawn on top: ``truth.to_crs(...).boundary.plot(ax=ax)``.

    Raises:
        RasterError: The scene cannot be read.
        LayerError: The layer cannot be read, the scene shows none of it, one of them has a CRS and
            the other has none, ``bounds`` are empty, or there is no such column.
    """
    shown = open_polygons(layer, needs_crs=False)
    if column is None and "confidence" in shown:
        column = "confidence"
    if column is not None and column not in shown:
        raise LayerError(f"the layer has no column {column}; it has {', '.join(shown.columns)}")
    ax = _new_axes() if ax is None else ax
    if scene is None:
        _frame(ax, shown.crs, _extent(shown.total_bounds if bounds is None else bounds))
    else:
        with open_below(
            shown, scene, bounds, bands=bands, nodata=nodata, crs=crs, pixels=pixels
        ) as (shown, raster, window):
            _draw_scene(ax, raster, window, read_picture(raster, window, largest_side), bounds)
    _draw_layer(ax, shown, column)
    _add_scale_bar(ax, shown.crs)
    return ax


def plot_instances(
    image: Chip | NDArray[np.generic],
    instances: Instances,
    *,
    classes: Sequence[str] = ("building",),
    confidence: float = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the detections of one chip: masks, boxes, names and confidences.

    Each class has a colour; where there is one class only, each instance has.

    Args:
        image: The chip, or its pixels (bands, height, width).
        instances: What a detector found in it.
        classes: Names by label: the detector's ``classes``.
        confidence: Instances below it are not drawn.
        ax: Axes to draw in; None makes a figure.

    Returns:
        The axes, in chip pixels.

    Raises:
        ConfigError: An instance's label has no name.
    """
    # Here and not above: tracing is not needed to look at layers.
    from footprints.vector.trace import trace

    if len(instances) and instances.labels.max() >= len(classes):
        raise ConfigError(
            f"label {instances.labels.max()} has no name among {len(classes)}; give the detector's "
            f"classes"
        )
    sure = instances.take(np.flatnonzero(instances.scores >= confidence))
    pixels = image.pixels if isinstance(image, Chip) else np.asarray(image)
    valid = image.valid if isinstance(image, Chip) else np.ones(pixels.shape[1:], dtype=bool)
    height, width = valid.shape
    ax = _new_axes() if ax is None else ax
    ax.imshow(
        as_picture(pixels, valid), cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0)
    )
    names = [classes[label] for label in sure.labels]
    by_class = class_colours(names)
    outlines = trace(sure)
    for index in np.argsort(sure.scores, kind="stable"):
        colour = by_class[names[index]] if len(by_class) > 1 else PALETTE[7 * index % len(PALETTE)]
        text = f"{names[index]} {sure.scores[index]:.2f}"
        _draw_instance(ax, outlines[index], sure.boxes[index], text, colour)
    return ax


@contextmanager
def open_below(
    layer: GeoDataFrame,
    scene: str | Path,
    bounds: Bounds | None,
    *,
    bands: Sequence[int] | None,
    nodata: float | None,
    crs: str | CRS | None,
    pixels: bool,
) -> Iterator[tuple[GeoDataFrame, Scene, Window]]:
    """A scene to show below a layer: the layer in its frame, the scene, the window to show.

    Arguments and errors as for `plot`.
    """
    # In pixel coordinates it may be a photograph, where black is the dark and no collar.
    with open_scene(
        scene, bands=bands, nodata=nodata, crs=crs, pixels=pixels, collars=not pixels
    ) as raster:
        placed = in_frame_of(raster, layer)
        check_on_scene(placed, raster)
        yield placed, raster, window_of(raster, bounds)


def window_of(raster: Scene, bounds: Bounds | None) -> Window:
    """Whole raster pixels that show what lies within bounds in the raster's CRS, or all.

    Raises:
        LayerError: The bounds are empty or beyond the raster.
    """
    if bounds is None:
        return Window(0, 0, raster.width, raster.height)
    x_min, x_max, y_min, y_max = _extent(bounds)
    corners = [~raster.transform @ (x, y) for x in (x_min, x_max) for y in (y_min, y_max)]
    size = raster.width, raster.height
    low = np.clip(np.floor(np.min(corners, axis=0)), 0, size)
    high = np.clip(np.ceil(np.max(corners, axis=0)), 0, size)
    if (high <= low).any():
        raise LayerError(f"bounds {tuple(bounds)} lie beyond {raster.name}; they are in its CRS")
    return Window(*low, *(high - low))


def check_on_scene(layer: GeoDataFrame, raster: Scene) -> None:
    """Refuse a layer, already in the raster's CRS, of which the raster shows nothing.

    Raises:
        LayerError: There are polygons, and none lies on the raster.
    """
    ends = [(x, y) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    ground = shapely.Polygon(
        [raster.transform @ (x * raster.width, y * raster.height) for x, y in ends]
    )
    if len(layer) and not shapely.intersects(layer.geometry.to_numpy(), ground).any():
        raise LayerError(f"{raster.name} shows none of the buildings; give the scene of the place")


def _new_axes() -> Axes:
    # Here and not above: matplotlib takes a second to load.
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(8, 6), layout="constrained")[1]


def _extent(bounds: Sequence[float] | NDArray[np.float64]) -> Bounds:
    """Bounds as matplotlib has them: left, right, bottom, top."""
    x_min, y_min, x_max, y_max = np.nan_to_num(np.asarray(bounds, dtype=np.float64))
    if x_max < x_min or y_max < y_min:
        raise LayerError(f"bounds are x_min, y_min, x_max, y_max, got {tuple(bounds)}")
    return float(x_min), float(x_max), float(y_min), float(y_max)


def _frame(ax: Axes, crs: CRS | None, extent: Bounds) -> None:
    """Set the limits of the axes and make lengths on the ground alike along both."""
    left, right, low, high = extent
    steps = np.linalg.norm(_steps_m((left + right) / 2, (low + high) / 2, crs), axis=1)
    ax.set_aspect(steps[1] / steps[0])
    # Without a CRS these are pixels of a picture, counted downwards.
    ax.set(xlim=(left, right), ylim=(high, low) if crs is None else (low, high))
    ax.ticklabel_format(style="plain", useOffset=False)
    ax.tick_params(axis="x", labelrotation=30)


def _steps_m(x: float, y: float, crs: CRS | None) -> NDArray[np.float64]:
    """(2, 2) metres east and north of a step of one unit along x and along y."""
    steps: NDArray[np.float64] = metres_per_unit(np.array([[x, y]]), crs)[0]
    return steps


def _draw_scene(
    ax: Axes, raster: Scene, window: Window, picture: NDArray[np.uint8], bounds: Bounds | None
) -> None:
    """Draw a window of the scene where it lies, turned as it is."""
    from matplotlib.transforms import Affine2D

    to_crs = raster.transform @ Affine.translation(window.x, window.y)
    matrix = np.array(to_crs, dtype=np.float64).reshape(3, 3)
    corners = np.array([to_crs @ (x, y) for x in (0, window.width) for y in (0, window.height)])
    ax.imshow(
        picture,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest",
        extent=(0, window.width, window.height, 0),
        transform=Affine2D(matrix) + ax.transData,
        aspect="auto",
    )
    whole = (*corners.min(axis=0), *corners.max(axis=0))
    _frame(ax, raster.crs, _extent(whole if bounds is None else bounds))


def _draw_layer(ax: Axes, layer: GeoDataFrame, column: str | None) -> None:
    from matplotlib.collections import PathCollection

    polygons = layer.geometry.to_numpy()
    paths = [outline_path(each) for each in shapely.orient_polygons(polygons)]
    width = _line_width(ax, polygons)
    drawn = PathCollection(paths, linewidths=width)
    # All casings below all outlines: neighbours share walls.
    below = drawn.get_zorder() - 0.1
    casing = PathCollection(paths, linewidths=CASING * width, facecolors="none", zorder=below)
    for each in (drawn, casing):
        ax.add_collection(each, autolim=False)
    if column is None:
        colours = np.tile(_rgb(_PLAIN), (len(layer), 1))
    elif is_numeric_dtype(layer[column]):
        colours = _add_colour_bar(ax, layer[column], column)
    else:
        names = [str(name) for name in layer[column]]
        by_name = class_colours(names)
        colours = np.array([by_name[name] for name in names]).reshape(-1, 3)
        _add_legend(ax, by_name)
    drawn.set_edgecolor([tuple(colour) for colour in colours])
    drawn.set_facecolor([(*colour, FILL_OPACITY / 2) for colour in colours])
    casing.set_edgecolor([text_colour(colour) for colour in colours])


def _line_width(ax: Axes, polygons: NDArray[np.object_]) -> float:
    """Width of outlines in points, by how large the buildings are in the axes."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    shown = polygons[shapely.intersects(polygons, shapely.box(left, low, right, high))]
    if not len(shown):
        return _LINE_WIDTHS[1]
    side_share = np.sqrt(np.median(shapely.area(shown)) / abs((right - left) * (high - low)))
    side = side_share * np.sqrt(np.prod(ax.get_window_extent().size)) * 72 / ax.figure.dpi
    return float(np.clip(_LINE_SHARE * side, *_LINE_WIDTHS))


def _add_colour_bar(ax: Axes, values: Series, column: str) -> NDArray[np.float64]:
    """Draw what colours mean; (n, 3) the colours of the values."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if column == "confidence":
        scale = confidence_scale()
    else:
        known = numbers[np.isfinite(numbers)]
        ends = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        scale = ScalarMappable(Normalize(*ends), "viridis")
    ax.figure.colorbar(scale, ax=ax, label=column, shrink=0.6)
    rgba: NDArray[np.float64] = scale.to_rgba(numbers)
    return rgba[:, :3]


def _add_legend(ax: Axes, colours: Mapping[str, tuple[float, float, float]]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    ax.legend(handles=handles, loc="upper right")


def _add_scale_bar(ax: Axes, crs: CRS | None) -> None:
    """A bar of a round length in the lower left corner; it stays right when the axes are zoomed."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    unit_m = float(np.linalg.norm(_steps_m((left + right) / 2, (low + high) / 2, crs)[0]))
    length_m = round_length(abs(right - left) * unit_m * _BAR_SHARE)
    ax.add_artist(
        AnchoredSizeBar(
            ax.transData,
            length_m / unit_m,
            name_length(length_m, "px" if crs is None else "m"),
            "lower left",
            pad=0.4,
            size_vertical=abs(high - low) / 200,
        )
    )


def round_length(most: float) -> float:
    """The largest length of the form 1, 2 or 5 times a power of ten that is not above ``most``."""
    power = 10.0 ** np.floor(np.log10(most)) if most > 0 else 1.0
    return float(max(factor * power for factor in (1, 2, 5) if factor * power <= max(most, power)))


def name_length(length: float, unit: str) -> str:
    """A length for reading."""
    return f"{length / 1000:g} km" if unit == "m" and length >= 1000 else f"{length:g} {unit}"


def _draw_instance(
    ax: Axes,
    outline: shapely.Polygon | None,
    box: NDArray[np.float32],
    text: str,
    colour: tuple[float, float, float],
) -> None:
    from matplotlib.patches import PathPatch, Rectangle

    if outline is not None:
        path = outline_path(shapely.orient_polygons(outline))
        width = _LINE_WIDTHS[1]
        ax.add_patch(PathPatch(path, fill=False, ec=text_colour(colour), lw=CASING * width))
        ax.add_patch(PathPatch(path, fc=(*colour, FILL_OPACITY), ec=colour, lw=width))
    x_min, y_min, x_max, y_max = box
    ax.add_patch(Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, fill=False, ec=colour))
    ax.text(
        x_min,
        y_min,
        text,
        size=7,
        color=text_colour(colour),
        va="bottom",
        bbox={"boxstyle": "square,pad=0.15", "fc": colour, "ec": "none"},
        clip_on=True,
        parse_math=False,
    )


def _rgb(name: str) -> NDArray[np.float64]:
    from matplotlib.colors import to_rgb

    return np.array(to_rgb(name))
