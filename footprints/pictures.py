"""Pictures of a footprint layer."""

from __future__ import annotations

import colorsys
import io
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from footprints.chip import Window
from footprints.errors import LayerError, OutputError
from footprints.files import check_place, write_whole
from footprints.raster.source import Scene, open_scene
from footprints.vector.layer import reproject
from footprints.vector.style import SHADES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geopandas import GeoDataFrame
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.path import Path as Outline
    from pyproj import CRS

_STRETCH = (2, 98)
"""Percentiles of the pixel values that become black and white."""
_DPI = 100
_GAP = 8
"""Pixels between panels."""
_LEAST_SIDE_WITH_LEGEND = 400
"""Pixels; on smaller pictures a legend would hide what it explains."""
_OUTLINE_POINTS = 1.2
"""Width of outlines."""
CASING = 2.0
"""How many times as wide as an outline the line below it is, black or white, whichever is unlike
it: no colour shows on roofs of every colour by itself."""
FILL_OPACITY = 0.45
"""Of masks: what they cover stays to be seen."""
_NAME_POINTS = 8.0
"""Size of the letters, 11 pixels at `_DPI`."""
_NAME_MARGIN = 0.15
"""Around a name, as a share of the size of its letters."""
PALETTE = [colorsys.hsv_to_rgb(hue / 12, 0.9, value) for value in (1.0, 0.6) for hue in range(12)]
"""Colours of classes."""
_PALETTE_STEP = 7
"""To the next colour where one is taken: far away, and every colour's turn comes."""
_DARK_TEXT_FROM = 0.5
"""Luma of a colour from which on letters on it are black."""


def check_picture(path: str | Path, *, overwrite: bool = False) -> None:
    """Find out before the work starts whether a picture can be written.

    Args:
        path: PNG to write.
        overwrite: Accept that it exists.

    Raises:
        OutputError: It is not called ``.png``, its folder is missing or not writable, or it exists.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"a picture must end in .png, got {path.name!r}")
    check_place(path, "picture", overwrite=overwrite)


def save_overlay(
    layer: GeoDataFrame,
    scene: str | Path,
    path: str | Path,
    *,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
    names: bool | None = None,
    largest_side: int = 1600,
) -> None:
    """Draw a layer over a scene as a PNG.

    Buildings are outlined, coloured by confidence. Objects of several classes are drawn with their
    mask, box, name and confidence instead; the name decides the colour.

    Whatever lies in the scene is drawn, from whichever raster it came; in pixel coordinates only
    what was found in this one. A picture that exists is replaced.

    Args:
        layer: Footprint layer in the CRS of the scene, or in any.
        scene: The raster; read at the size of the picture, never whole.
        path: PNG to write.
        bands: One or three bands to show, 1-based; of others the first three, or the first.
        nodata: Value of pixels without data, which are white.
        crs: CRS of the scene; goes before the one it declares.
        pixels: The layer is in pixel coordinates.
        names: Draw masks, boxes and names; False draws outlines, None whichever suits the number of
            classes in the layer.
        largest_side: Longer side of the picture in pixels; smaller scenes are shown as they are.

    Raises:
        RasterError: The scene cannot be read.
        LayerError: One of layer and scene has a CRS and the other has none, or the layer has no
            classes to name.
        OutputError: The picture cannot be written.
    """
    check_picture(path, overwrite=True)
    if names is None:
        names = "class" in layer and layer["class"].nunique() > 1
    if names and "class" not in layer:
        raise LayerError("the layer has no column class; draw it without names")
    # In pixel coordinates it may be a photograph, where black is the dark and no collar.
    with open_scene(
        scene, bands=bands, nodata=nodata, crs=crs, pixels=pixels, collars=not pixels
    ) as raster:
        layer = in_frame_of(raster, layer)
        picture = read_picture(raster, Window(0, 0, raster.width, raster.height), largest_side)
    height, width = picture.shape[:2]
    to_picture = Affine.scale(width / raster.width, height / raster.height) @ ~raster.transform
    polygons = shapely.transform(
        layer.geometry.to_numpy(), lambda xy: np.column_stack(to_picture @ (xy[:, 0], xy[:, 1]))
    )
    shown = shapely.intersects(polygons, shapely.box(0, 0, width, height))
    confidences = layer["confidence"].to_numpy(dtype=np.float64)
    classes = layer["class"].tolist() if names else []
    some = [name for name, is_shown in zip(classes, shown, strict=False) if is_shown]
    content = _draw(picture, polygons[shown], some, confidences[shown], names=names)
    write_whole(Path(path), content, "picture")


class Panel(NamedTuple):
    """A picture with polygons over it, beside others."""

    picture: NDArray[np.uint8]
    """(height, width, 3) or (height, width)."""
    polygons: NDArray[np.object_]
    """(n,) in pixels of the picture."""
    confidences: NDArray[np.float64]
    """(n,)."""
    classes: Sequence[str]
    """n names."""


def draw_panels(rows: Sequence[Sequence[Panel]], *, names: bool) -> bytes:
    """Draw pictures side by side, in rows below each other, with what stands on them.

    Args:
        rows: Panels from left to right; rows may differ in their length.
        names: Draw masks, boxes and names; False draws outlines in the colour of their confidence.

    Returns:
        A PNG.
    """
    heights = [max(panel.picture.shape[0] for panel in row) for row in rows]
    widths = [sum(panel.picture.shape[1] for panel in row) + _GAP * (len(row) - 1) for row in rows]
    canvas = np.full((sum(heights) + _GAP * (len(rows) - 1), max(widths), 3), 255, np.uint8)
    polygons, panels = [], []
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for panel in row:
            rows_high, columns_wide = panel.picture.shape[:2]
            picture = np.atleast_3d(panel.picture)
            canvas[y : y + rows_high, x : x + columns_wide] = picture
            shift = np.array([x, y])
            polygons.append(shapely.transform(panel.polygons, lambda xy, by=shift: xy + by))
            panels.append(panel)
            x += columns_wide + _GAP
        y += height + _GAP
    classes = [name for panel in panels for name in panel.classes]
    confidences = np.concatenate([panel.confidences for panel in panels])
    return _draw(canvas, np.concatenate(polygons), classes, confidences, names=names)


def stretch(
    pixels: NDArray[np.generic], value_range: Sequence[tuple[float, float]]
) -> NDArray[np.uint8]:
    """Pixels (bands, height, width) to (height, width, 3) or (height, width) bytes.

    Of more than three bands the first three are shown, of two the first.

    Args:
        pixels: Values of any type.
        value_range: Value that becomes black and the one that becomes white, by band.
    """
    shown = _shown_bands(pixels)
    low, high = np.array(value_range[: len(shown)], dtype=np.float64).T[:, :, None, None]
    return _to_bytes((shown.astype(np.float64) - low) / np.maximum(high - low, 1e-12) * 255)


def _shown_bands(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    return pixels[:3] if len(pixels) >= 3 else pixels[:1]


def _to_bytes(bands: NDArray[np.generic]) -> NDArray[np.uint8]:
    picture = np.clip(bands, 0, 255).astype(np.uint8)
    return picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1)


def in_frame_of(raster: Scene, layer: GeoDataFrame) -> GeoDataFrame:
    """A layer in the CRS of a raster; in pixel coordinates only what was found in this one.

    Raises:
        LayerError: One of them has a CRS and the other has none.
    """
    if raster.crs is None and layer.crs is None:
        # Pixel coordinates of another raster mean nothing in this one.
        if "source" not in layer:
            return layer
        return layer[layer["source"].isin((raster.name, raster.path))]
    if raster.crs is None or layer.crs is None:
        without = "the layer" if layer.crs is None else raster.name
        raise LayerError(f"{without} is in pixel coordinates; draw it on a scene that is, too")
    return reproject(layer, raster.crs)


def read_picture(raster: Scene, window: Window, largest_side: int) -> NDArray[np.uint8]:
    """A window as (height, width, 3) or (height, width) bytes, white where there is no data.

    Args:
        raster: Bands beyond the third are not shown, nor is the second of two.
        window: In raster pixels.
        largest_side: Longer side of the picture in pixels; smaller windows are shown as they are.
    """
    shrink = max(1.0, max(window.width, window.height) / largest_side)
    shape = (max(1, round(window.height / shrink)), max(1, round(window.width / shrink)))
    return as_picture(*raster.read(window, shape))


def as_picture(pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pixels as (height, width, 3) or (height, width) bytes, white where there is no data.

    Bytes are shown as they are, other values from their 2nd to their 98th percentile.

    Args:
        pixels: (bands, height, width); bands beyond the third are not shown, nor is the second of
            two.
        valid: (height, width), True = data.
    """
    shown = _shown_bands(pixels)
    if shown.dtype == np.uint8 or not valid.any():
        picture = _to_bytes(shown)
    else:
        values = shown[:, valid].astype(np.float64)
        picture = stretch(shown, list(zip(*np.percentile(values, _STRETCH, axis=1), strict=True)))
    picture[~valid] = 255
    return picture


def _draw(
    picture: NDArray[np.uint8],
    polygons: NDArray[np.object_],
    classes: Sequence[str],
    confidences: NDArray[np.float64],
    *,
    names: bool,
) -> bytes:
    """Draw outlines, or named objects, over a picture.

    Args:
        picture: (height, width) or (height, width, 3).
        polygons: (n,) in pixels of the picture.
        classes: Their n names; not used without ``names``.
        confidences: (n,).
        names: Draw named objects.

    Returns:
        A PNG of the picture's size.
    """
    # Here and not above: matplotlib takes a second to load and most jobs draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = picture.shape[:2]
    # A little more, because the canvas has the whole pixels that fit into its inches.
    figure = Figure(figsize=((width + 1e-3) / _DPI, (height + 1e-3) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(
        picture,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest",
        extent=(0, width, height, 0),
        aspect="auto",
    )
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    if names:
        _draw_objects(axes, polygons, classes, confidences)
    else:
        _draw_outlines(axes, polygons, confidences)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw_outlines(
    axes: Axes, polygons: NDArray[np.object_], confidences: NDArray[np.float64]
) -> None:
    """Every ring of the polygons, in the colour of its confidence."""
    from matplotlib.collections import LineCollection

    rings, owner = shapely.get_rings(polygons, return_index=True)
    scale = confidence_scale()
    colours = scale.to_rgba(confidences)[owner, :3]
    lines = [shapely.get_coordinates(ring) for ring in rings]
    # All casings below all outlines: neighbours share walls.
    casing = [text_colour(colour) for colour in colours]
    axes.add_collection(LineCollection(lines, colors=casing, linewidths=CASING * _OUTLINE_POINTS))
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=_OUTLINE_POINTS))
    if len(rings) and min(axes.bbox.size) >= _LEAST_SIDE_WITH_LEGEND:
        _draw_legend(axes, scale)


def confidence_scale() -> ScalarMappable:
    """Confidences to the colours that QGIS draws them in (`footprints.vector.style`)."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    edges = [SHADES[0][0], *(high for _, high, _ in SHADES)]
    colours = [[int(part) / 255 for part in rgb.split(",")] for _, _, rgb in SHADES]
    return ScalarMappable(BoundaryNorm(edges, len(colours)), ListedColormap(colours))


def _draw_legend(axes: Axes, scale: ScalarMappable) -> None:
    """What the colours of outlines mean, in the lower left corner."""
    from matplotlib.patches import Rectangle

    pixel_x, pixel_y = 1 / axes.bbox.width, 1 / axes.bbox.height
    axes.add_patch(
        Rectangle(
            (8 * pixel_x, 8 * pixel_y),
            192 * pixel_x,
            58 * pixel_y,
            transform=axes.transAxes,
            facecolor=(1, 1, 1, 0.85),
            zorder=3,
        )
    )
    place = axes.inset_axes((20 * pixel_x, 34 * pixel_y, 160 * pixel_x, 10 * pixel_y), zorder=4)
    bar = axes.figure.colorbar(scale, cax=place, orientation="horizontal")
    bar.ax.set_title("confidence", fontsize=9, pad=3)
    bar.ax.tick_params(labelsize=9, length=2, pad=1)


def _draw_objects(
    axes: Axes,
    polygons: NDArray[np.object_],
    classes: Sequence[str],
    confidences: NDArray[np.float64],
) -> None:
    """Mask, box, name and confidence of every object, the small ones on top of the large ones."""
    from matplotlib.patches import PathPatch, Rectangle

    colours = class_colours(classes)
    # Holes stay open where they run against their shell.
    polygons = shapely.orient_polygons(polygons)
    for layer, index in enumerate(np.argsort(-shapely.area(polygons), kind="stable")):
        colour = colours[classes[index]]
        fill = (*colour, FILL_OPACITY)
        axes.add_patch(
            PathPatch(outline_path(polygons[index]), fc=fill, ec=colour, lw=1.2, zorder=2 + layer)
        )
        x_min, y_min, x_max, y_max = shapely.bounds(polygons[index])
        size = x_max - x_min, y_max - y_min
        axes.add_patch(
            Rectangle((x_min, y_min), *size, fill=False, ec=colour, lw=0.8, zorder=2 + layer)
        )
    # All names above all masks, and the surest above the others.
    for index in np.argsort(confidences, kind="stable"):
        corner = shapely.bounds(polygons[index])[:2]
        text = f"{classes[index]} {confidences[index]:.2f}"
        _write_name(axes, corner, text, colours[classes[index]], 2 + len(polygons))


def outline_path(polygon: shapely.Polygon) -> Outline:
    """All rings of a polygon whose holes run against its shell, as one path."""
    from matplotlib.path import Path as Outline

    rings = shapely.get_rings(polygon)
    return Outline.make_compound_path(
        *(Outline(shapely.get_coordinates(ring), closed=True) for ring in rings)
    )


def text_colour(colour: Sequence[float]) -> str:
    """Black or white, whichever is easier to read on a colour (red, green, blue from 0 to 1)."""
    return "black" if np.dot(colour, (0.299, 0.587, 0.114)) >= _DARK_TEXT_FROM else "white"


def _write_name(
    axes: Axes,
    corner: NDArray[np.float64],
    text: str,
    colour: tuple[float, float, float],
    zorder: int,
) -> None:
    """Write above the upper-left corner of a box, or as near to it as there is picture."""
    label = axes.text(
        corner[0],
        corner[1],
        text,
        size=_NAME_POINTS,
        color=text_colour(colour),
        va="bottom",
        bbox={"boxstyle": f"square,pad={_NAME_MARGIN}", "fc": colour, "ec": "none"},
        zorder=zorder,
        parse_math=False,
    )
    extent = label.get_window_extent()
    margin = _NAME_MARGIN * _NAME_POINTS * _DPI / 72
    rightmost = axes.get_xlim()[1] - extent.width - margin
    lowest = axes.get_ylim()[0] - margin
    label.set_position(
        (
            max(margin, min(corner[0] + margin, rightmost)),
            max(extent.height + margin, min(corner[1] - margin, lowest)),
        )
    )


def class_colours(classes: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Colours by class name, red, green and blue from 0 to 1.

    The name alone decides, so that pictures agree, unless another class has the colour already.
    """
    places: dict[str, int] = {}
    for name in sorted(set(classes)):
        place = zlib.crc32(name.encode()) % len(PALETTE)
        while place in places.values() and len(places) < len(PALETTE):
            place = (place + _PALETTE_STEP) % len(PALETTE)
        places[name] = place
    return {name: PALETTE[place] for name, place in places.items()}
