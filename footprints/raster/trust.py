"""What a file may name: rasters at or below its own folder.

What a user names is read. What such a file names in turn may come from anybody: a virtual raster
that was downloaded can name any file of this machine, or any address that this machine reaches. So
it may name what lies at or below its folder, and nothing else, unless the user says so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

import rasterio

from footprints.addresses import is_address
from footprints.errors import RasterError

HINT = "if you trust it, pass --allow-outside"
"""Ends every refusal."""

_NAMING_DRIVERS = frozenset(
    [
        "DAAS",
        "DERIVED",
        "EEDA",
        "EEDAI",
        "GTI",
        "HTTP",
        "NGW",
        "OGCAPI",
        "PLMOSAIC",
        "PLScenes",
        "PostGISRaster",
        "STACIT",
        "STACTA",
        "VRT",
        "WCS",
        "WMS",
        "WMTS",
    ]
)
"""GDAL drivers of rasters that are elsewhere."""

_HEAD_BYTES = 1024
_VRT = b"<vrtdataset"
_NAMING = ("filename", "dataset", "_file", "dem", "dempath")
"""Endings of tags, and of the keys of options, whose text is the name of a file."""
_CODE = frozenset({"pixelfunctionlanguage", "pixelfunctioncode"})


def check_names(path: str) -> None:
    """Refuse a virtual raster that names what does not lie at or below its folder.

    Args:
        path: File or address; anything but a virtual raster passes.

    Raises:
        RasterError: It names something else, or brings code, or is no proper XML.
    """
    if is_address(path) or not _is_virtual(Path(path)):
        return
    root = Path(path).resolve().parent
    seen: set[Path] = set()
    waiting = [Path(path).resolve()]
    while waiting:
        virtual = waiting.pop()
        for source in _sources(virtual):
            if source in seen:
                continue
            seen.add(source)
            if not source.is_relative_to(root):
                raise RasterError(
                    f"{path} names {source}, which is not in its folder {root}; {HINT}"
                )
            if _is_virtual(source):
                waiting.append(source)
            elif _is_text(source):
                raise RasterError(
                    f"{path} names {source}, a text that can name rasters elsewhere; {HINT}"
                )


def harmless_drivers(path: str) -> list[str]:
    """GDAL's drivers that read what they are given and nothing else.

    Args:
        path: File or address; a virtual raster on this machine, which `check_names` let pass, may
            be one.
    """
    virtual = not is_address(path) and _is_virtual(Path(path))
    return [*_harmless(), "VRT"] if virtual else [*_harmless()]


def may_name_rasters(path: str) -> bool:
    """Whether a file or address could be of a kind that names rasters elsewhere."""
    return is_address(path) or not Path(path).is_file() or _is_text(Path(path))


@functools.cache
def _harmless() -> tuple[str, ...]:
    with rasterio.Env() as env:
        return tuple(sorted(set(env.drivers()) - _NAMING_DRIVERS))


def _sources(virtual: Path) -> Iterator[Path]:
    """The files that a virtual raster names, links followed."""
    for element in _elements(virtual):
        # GDAL does not tell capitals from small letters.
        attributes = {key.lower(): value.strip().lower() for key, value in element.items()}
        if element.tag.lower() in _CODE:
            raise RasterError(f"{virtual} brings code of its own ({element.tag}); {HINT}")
        name = (element.text or "").strip()
        if not name or not _names_file(element, attributes):
            continue
        relative = attributes.get("relativetovrt", "0")
        place = virtual.parent / name if relative == "1" else Path(name)
        # Addresses, parts of other rasters (`NETCDF:...`), rasters written out in the name.
        if relative not in ("0", "1") or is_address(name) or not place.is_file():
            raise RasterError(
                f"{virtual} names {name!r:.200}, which is no file in its folder; {HINT}"
            )
        yield place.resolve()


def _names_file(element: Element, attributes: dict[str, str]) -> bool:
    called = (element.tag.lower(), attributes.get("key", ""), attributes.get("name", ""))
    return any(name.endswith(_NAMING) for name in called)


def _elements(virtual: Path) -> Iterator[Element]:
    """The elements of an XML file, which never is in memory as a whole."""
    parser: XMLPullParser[Any] = XMLPullParser(["end"])
    last = b""
    try:
        with virtual.open("rb") as file:
            for part in iter(lambda: file.read(1 << 16), b""):
                # GDAL's own reader and this one differ in what they make of them.
                if b"<!" in last + part:
                    raise RasterError(
                        f"{virtual} has remarks or declarations, which cannot be checked; {HINT}"
                    )
                parser.feed(part)
                last = part[-1:]
                for _, element in cast("Iterator[tuple[str, Element]]", parser.read_events()):
                    yield element
                    element.clear()
        parser.close()
    except (OSError, ParseError) as err:
        raise RasterError(f"cannot read {virtual} as a virtual raster: {err}") from err


def _is_virtual(path: Path) -> bool:
    return _VRT in _head(path).lower()


def _is_text(path: Path) -> bool:
    return _head(path).lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{", b"["))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""
