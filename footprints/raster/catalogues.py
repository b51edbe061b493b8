"""Files that name rasters: STAC items and collections of items, and GDAL's tile indexes.

A catalogue may come from anybody, so it may name what lies at or below its own folder, and nothing
else, unless the user says so (`footprints.raster.trust`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from footprints.addresses import is_address, redact
from footprints.errors import RasterError
from footprints.raster.trust import HINT

STAC_ENDINGS = frozenset({".json", ".geojson"})
INDEX_ENDINGS = frozenset({".gpkg", ".shp", ".fgb", ".gti"})
LOCATION = "location"
"""Column of a tile index that names the tiles, in GDAL's own tools."""

_ROLES = ("data", "visual")
_RASTER_TYPES = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "image/vrt")


def rasters_in_catalogue(path: Path, *, asset: str | None, allow_outside: bool) -> list[str] | None:
    """The rasters that a catalogue names, in its order.

    Args:
        path: A file.
        asset: Name of the STAC asset to take; None takes the one whose role is data or visual.
        allow_outside: It may name rasters anywhere.

    Returns:
        None for a file that is no catalogue.

    Raises:
        RasterError: It is damaged, has not the asset, leaves open which one is meant, or names
            what it may not.
    """
    suffix = path.suffix.lower()
    if suffix in STAC_ENDINGS and path.is_file():
        names = _stac_names(path, asset)
    elif suffix in INDEX_ENDINGS and path.is_file():
        names = _index_names(_indexed(path, allow_outside=allow_outside))
    else:
        return None
    if names is None:
        return None
    return [_place(name, path, allow_outside=allow_outside) for name in names]


def _stac_names(path: Path, asset: str | None) -> list[str] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as err:
        raise RasterError(f"cannot read {path} as a STAC item: {err}") from err
    items = list(_items(content))
    return [_href(item, asset, path) for item in items] or None


def _items(content: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(content, dict):
        return
    if content.get("type") == "FeatureCollection" and isinstance(content.get("features"), list):
        for feature in content["features"]:
            yield from _items(feature)
    elif isinstance(content.get("assets"), dict) and content.get("type") == "Feature":
        yield content


def _href(item: Mapping[str, Any], asset: str | None, path: Path) -> str:
    """Where the raster of an item is."""
    name = f"item {item.get('id', '?')} of {path}"
    assets = {key: each for key, each in item["assets"].items() if isinstance(each, dict)}
    if asset is not None:
        if asset not in assets:
            raise RasterError(
                f"{name} has no asset {asset!r}; it has {', '.join(assets) or 'none'}"
            )
        return _string(assets[asset].get("href"), name)
    rasters = {key: each for key, each in assets.items() if _is_raster(each)}
    for role in _ROLES:
        fitting = [key for key, each in rasters.items() if role in (each.get("roles") or ())]
        if len(fitting) == 1:
            return _string(rasters[fitting[0]].get("href"), name)
        if fitting:
            raise RasterError(
                f"{name} has {len(fitting)} assets of role {role}: {', '.join(fitting)}; name the "
                "one you mean with --asset"
            )
    if len(rasters) == 1:
        return _string(next(iter(rasters.values())).get("href"), name)
    raise RasterError(
        f"{name} does not say which asset holds the image: {', '.join(assets) or 'none'}; name it "
        "with --asset"
    )


def _is_raster(asset: Mapping[str, Any]) -> bool:
    kind = asset.get("type")
    return kind is None or str(kind).lower().startswith(_RASTER_TYPES)


def _string(href: object, name: str) -> str:
    if not isinstance(href, str) or not href:
        raise RasterError(f"{name} has an asset without href")
    return href


def _index_names(path: Path) -> list[str] | None:
    """The tiles of a tile index; None for another file, a raster in a GeoPackage perhaps."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            about, _, _, values = pyogrio.raw.read(path, columns=[LOCATION], read_geometry=False)
    except (DataSourceError, DataLayerError, ValueError):
        return None
    if list(about["fields"]) != [LOCATION]:
        return None
    return [str(name) for name in values[0]]


def _indexed(path: Path, *, allow_outside: bool) -> Path:
    """The vector file that a .gti file says to be its index."""
    content = path.read_bytes()
    if not content.lstrip().startswith(b"<"):
        return path
    try:
        if b"<!" in content:
            raise RasterError(f"{path} has remarks or declarations; leave them out")
        name = ElementTree.fromstring(content).findtext("IndexDataset")
    except ElementTree.ParseError as err:
        raise RasterError(f"cannot read {path} as a tile index: {err}") from err
    if not name:
        raise RasterError(f"{path} names no IndexDataset")
    return Path(_place(name, path, allow_outside=allow_outside))


def _place(name: str, catalogue: Path, *, allow_outside: bool) -> str:
    """A file or address as GDAL takes it, seen to lie where it may."""
    shown = f"{catalogue} names {redact(name)!r:.200}"
    if name.startswith("file://"):
        name = unquote(urlsplit(name).path)
    if is_address(name) or name.lstrip().startswith(("<", "{")):
        if not allow_outside:
            raise RasterError(f"{shown}, which is no file in its folder; {HINT}")
        return name
    place = catalogue.parent / name
    if not allow_outside and not place.resolve().is_relative_to(catalogue.resolve().parent):
        raise RasterError(f"{shown}, which is not in its folder {catalogue.parent}; {HINT}")
    return str(place)
