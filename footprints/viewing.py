"""A map of a layer in one HTML file: no installation, no server, no request.

The page itself, written by hand for WebGL 2, is in `footprints/viewer`; here it gets its data.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from footprints.chip import Window
from footprints.errors import ConfigError, OutputError
from footprints.files import check_place, write_whole
from footprints.packing import Packed, pack_layer
from footprints.pictures import read_picture
from footprints.plotting import Bounds, open_below
from footprints.raster.source import Scene
from footprints.vector.affine import apply_affine
from footprints.vector.metric import metres_per_unit
from footprints.vector.read import open_polygons
from footprints.vector.style import SHADES

if TYPE_CHECKING:
    from PIL.Image import Image
    from pyproj import CRS

LARGEST_SIDE = 4096
"""Of the picture in pixels, unless asked otherwise: about 7 MB of the file."""
TILE = 512
"""Side of the tiles that the picture is cut into."""
_QUALITY = 85
"""Of the JPEGs."""
_SCRIPTS = ("layer.js", "painter.js", "page.js")
_FRAME_HEIGHT_PX = 600
"""In a notebook."""


@dataclass(frozen=True, slots=True, repr=False)
class View:
    """A page that shows a layer; a notebook shows it as it is."""

    html: str
    """The page."""
    shown: int
    """Footprints in it."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the page as a file that any browser opens, without a network.

        Args:
            path: File that ends in .html.
            overwrite: Replace it if it exists.

        Raises:
            OutputError: It is not called ``.html``, it exists, or it cannot be written.
        """
        path = Path(path)
        check_page(path, overwrite=overwrite)
        write_whole(path, self.html.encode(), "page")
        return path

    def _repr_html_(self) -> str:
        # In a frame of its own, without the notebook's rights: what stands in a layer is not to
        # reach what the notebook can do.
        return (
            f'<iframe title="Footprints" sandbox="allow-scripts" srcdoc="{escape(self.html)}" '
            f'style="width:100%;height:{_FRAME_HEIGHT_PX}px;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"View({self.shown:,} footprints, {len(self.html) / 1e6:.1f} MB of HTML)"


def check_page(path: Path, *, overwrite: bool) -> None:
    """Find out before the work starts whether a page can be written.

    Raises:
        OutputError: It is not called ``.html``, it exists, or its folder is not there or not
            writable.
    """
    if path.suffix.lower() != ".html":
        raise OutputError(f"a page must end in .html, got {path.name!r}")
    check_place(path, "page", overwrite=overwrite)


def view(
    layer: GeoDataFrame | str | Path,
    scene: str | Path | None = None,
    *,
    bounds: Bounds | None = None,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    crs: str | CRS | None = None,
    pixels: bool = False,
    largest_side: int = LARGEST_SIDE,
) -> View:
    """Make a map to look around in: outlines over the scene's own pixels, coloured by confidence.

    A slider hides what is less sure, the pointer shows values, a click shows all attributes, and
    keys or buttons go through the footprints from the least certain one on. It stays quick with
    100,000 footprints, and makes no request of any kind.

    Args:
        layer: Polygons, as a layer or a file; columns of any kind.
        scene: The raster below; without one, outlines stand alone.
        bounds: Part of the scene to show, (x_min, y_min, x_max, y_max) in its CRS: of a large scene
            it has more detail than the whole.
        bands: One or three bands to show, 1-based; of others the first three, or the first.
        nodata: Value of pixels without data, which are white.
        crs: CRS of the scene; goes before the one it declares.
        pixels: Layer and scene are in pixel coordinates.
        largest_side: Longer side of the picture in pixels, which decides on the size of the page;
            smaller scenes are shown as they are.

    Returns:
        The page: notebooks show it, `View.save` writes it.

    Raises:
        RasterError: The scene cannot be read.
        LayerError: The layer cannot be read, the scene shows none of it, or one of them has a CRS
            and the other has none.
        ConfigError: ``largest_side`` is not positive.
    """
    if largest_side < 1:
        raise ConfigError(f"the largest side must be at least 1 pixel, got {largest_side}")
    name = Path(layer).name if isinstance(layer, str | Path) else "Footprints"
    shown = open_polygons(layer, needs_crs=False)
    if scene is None:
        return _without_scene(shown, name, bounds)
    with open_below(shown, scene, bounds, bands=bands, nodata=nodata, crs=crs, pixels=pixels) as (
        shown,
        raster,
        window,
    ):
        return _over_scene(shown, name, raster, window, largest_side)


def _over_scene(
    layer: GeoDataFrame, name: str, raster: Scene, window: Window, largest_side: int
) -> View:
    gsd = raster.gsd_m() or (1.0, 1.0)
    size = window.width * gsd[0], window.height * gsd[1]
    to_ground = Affine.scale(*gsd) @ Affine.translation(-window.x, -window.y) @ ~raster.transform
    polygons = apply_affine(layer.geometry.to_numpy(), to_ground)
    inside = shapely.intersects(polygons, shapely.box(0, 0, *size))
    picture = read_picture(raster, window, largest_side)
    shrink = max(window.width, window.height) / max(picture.shape[:2])
    unit = "px" if raster.crs is None else "m"
    of_whole = "" if shrink == 1 else f", shown at {gsd[0] * shrink:.3g} {unit}"
    about = f"{raster.name}: {gsd[0]:.3g} {unit} per pixel{of_whole}"
    image = {"width": size[0], "height": size[1], "tile": TILE, "levels": _pyramid(picture)}
    return _assemble(layer[inside], polygons[inside], name, unit, (0.0, 0.0, *size), image, about)


def _without_scene(layer: GeoDataFrame, name: str, bounds: Bounds | None) -> View:
    x_min, y_min, x_max, y_max = np.nan_to_num(layer.total_bounds if bounds is None else bounds)
    steps = metres_per_unit(np.array([[(x_min + x_max) / 2, (y_min + y_max) / 2]]), layer.crs)[0]
    across, up = np.linalg.norm(steps, axis=1)
    # Without a CRS these are pixels of a picture, counted downwards already.
    down = -1.0 if layer.crs is not None else 1.0
    top = y_max if layer.crs is not None else y_min
    to_ground = Affine.scale(across, down * up) @ Affine.translation(-x_min, -top)
    size = (x_max - x_min) * across, (y_max - y_min) * up
    polygons = apply_affine(layer.geometry.to_numpy(), to_ground)
    inside = shapely.intersects(polygons, shapely.box(0, 0, *size))
    unit = "px" if layer.crs is None else "m"
    return _assemble(layer[inside], polygons[inside], name, unit, (0.0, 0.0, *size), None, "")


def _pyramid(picture: NDArray[np.uint8]) -> list[Packed]:
    """The picture, halved again and again down to one tile, each level cut into tiles."""
    from PIL import Image

    image = Image.fromarray(picture)
    levels = [_level(image)]
    while max(image.size) > TILE:
        image = image.resize([max(1, (side + 1) // 2) for side in image.size], Image.Resampling.BOX)
        levels.append(_level(image))
    return levels


def _level(image: Image) -> Packed:
    tiles = [
        _jpeg(image.crop((x, y, min(x + TILE, image.width), min(y + TILE, image.height))))
        for y in range(0, image.height, TILE)
        for x in range(0, image.width, TILE)
    ]
    return {"width": image.width, "height": image.height, "tiles": tiles}


def _jpeg(image: Image) -> str:
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=_QUALITY)
    return base64.b64encode(content.getvalue()).decode()


def _assemble(
    layer: GeoDataFrame,
    polygons: NDArray[np.object_],
    name: str,
    unit: str,
    bounds: Bounds,
    image: Packed | None,
    about: str,
) -> View:
    """Put the data into the page."""
    data = pack_layer(layer, polygons) | {
        "unit": unit,
        "bounds": bounds,
        "image": image,
        "about": about,
        "shades": [
            {"from": low, "to": high, "rgb": [int(part) for part in rgb.split(",")]}
            for low, high, rgb in SHADES
        ],
    }
    folder = files("footprints") / "viewer"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "".join((folder / part).read_text(encoding="utf-8") for part in _SCRIPTS)
    page = Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(name),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        # No text of a layer can end the element that holds it.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )
    return View(page, len(layer))


def _hash(content: str) -> str:
    """What a content security policy lets run: this text, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
