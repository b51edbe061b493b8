"""Footprint layer -> GeoPackage, Shapefile, GeoParquet, FlatGeobuf, GeoJSON or a PostGIS table.

A file is written into a temporary folder beside its place and renamed when complete, so that a run
that fails or is killed leaves what was there. Equal layers give equal bytes: time stamps inside
files are a constant. FlatGeobuf stores features in the order of its spatial index, GeoParquet along
a Hilbert curve, so that readers of a small area read little of the file.

The record of the scenes (`footprints.vector.scenes`) is stored where each format has room, as JSON
under one key: layer metadata in GeoPackage (``gpkg_metadata``) and FlatGeobuf, file metadata in
GeoParquet, a member of the collection in GeoJSON, a file beside a Shapefile, a table's comment.
A layer of outlines would be easier to look at, but then no program could open "the layer" of a file
without asking which.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import sqlite3
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyogrio
import shapely
from geopandas import GeoDataFrame
from pandas.api.types import is_numeric_dtype
from pyogrio.errors import DataLayerError, DataSourceError
from shapely import GeometryType

from footprints.errors import OutputError
from footprints.files import check_name, making_beside
from footprints.stages import staged
from footprints.vector.postgis import check_table, is_database, write_table
from footprints.vector.read import (
    GEOJSON_RECORD,
    GEOJSON_SUFFIXES,
    NO_CRS,
    PARQUET_SUFFIXES,
    SIDECAR,
)
from footprints.vector.scenes import RECORD
from footprints.vector.style import embed_style

logger = logging.getLogger(__name__)

SUFFIXES = (".gpkg", ".shp", ".parquet", ".geoparquet", ".fgb", ".geojson", ".json")
"""Endings of the files that can be written."""

SHAPEFILE_COLUMNS = {
    "id": "id",
    "class": "class",
    "confidence": "confidence",
    "area_m2": "area_m2",
    "cut": "cut",
    "source": "source",
    "model": "model",
    "regularized": "regular",
    "iou": "iou",
}
"""Layer column to Shapefile column. Other columns keep their name, which must be short enough."""

SHAPEFILE_NAME_BYTES = 10
SHAPEFILE_TEXT_BYTES = 254
SHAPEFILE_FILE_BYTES = 2**31 - 1
"""Limits of the format; beyond them GDAL truncates, or writes what others cannot read."""

DBF_HEADER_BYTES = 32
"""Length of the fixed part of a .dbf header."""
DBF_TEXT_BYTES = 80
DBF_OTHER_BYTES = {"b": 1, "i": 18}
DBF_NUMBER_BYTES = 24
"""What GDAL sets aside in a row of a .dbf: for a text at least, for these kinds of types, else."""

ROW_GROUP = 65_536
"""Features that readers of GeoParquet take or leave together, by their common bounding box."""

_TIME_STAMP = {"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"}

_DRIVERS = {
    ".gpkg": "GPKG",
    ".shp": "ESRI Shapefile",
    ".fgb": "FlatGeobuf",
    ".geojson": "GeoJSON",
    ".json": "GeoJSON",
}

_TYPES = {"Polygon": GeometryType.POLYGON, "Point": GeometryType.POINT}

_RFC7946 = {"RFC7946": "YES", "COORDINATE_PRECISION": 7}

_COLLECTION = b'{\n"type": "FeatureCollection",\n'
"""How GDAL begins a GeoJSON file."""

# What may lie beside a file and belong to it. Left behind by an older file, an index would hide
# features and a write-ahead log (QGIS holds one while a GeoPackage is open) would be replayed.
_SIDECARS = {
    ".gpkg": ("-wal", "-shm", "-journal"),
    ".shp": (".shx", ".dbf", ".prj", ".cpg", ".qpj", ".qix", ".sbn", ".sbx", ".shp.xml", SIDECAR),
}


def check_output(path: str | Path, *, overwrite: bool = False) -> None:
    """Find out before the work starts whether a layer can be written.

    Args:
        path: File to write, or address of a table (`footprints.vector.postgis`).
        overwrite: Accept that it exists.

    Raises:
        OutputError: The ending is unknown, the folder is missing or not writable, or the file
            exists; or the database cannot be reached.
    """
    check_name(path)
    if is_database(path):
        check_table(str(path), overwrite=overwrite)
        return
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"unknown output ending {path.name!r}; use one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise OutputError(f"output folder does not exist: {path.parent}; create it first")
    if path.is_dir():
        raise OutputError(f"output is a folder: {path}; give the name of a file")
    existing = next((part for part in _parts(path) if part.exists()), None)
    if existing and not overwrite:
        raise OutputError(f"output exists: {existing}; replace it with --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"output folder is not writable: {path.parent}")


@staged("writing")
def write_layer(
    layer: GeoDataFrame,
    path: str | Path,
    *,
    overwrite: bool = False,
    geometry: Literal["Polygon", "Point"] = "Polygon",
) -> None:
    """Write a layer to a file whose ending names the format, or to a table of a database.

    GeoJSON is always WGS 84 with seven decimals (RFC 7946), cut at the antimeridian. A layer
    without CRS, in pixel coordinates, is written as it is in every format; GeoJSON then says
    ``"crs": null`` (GeoJSON 2008), which `read_layer` believes and other readers ignore. An empty
    layer keeps its columns, except in GeoJSON, which has nowhere to put them.

    Args:
        layer: Any layer of polygons or of points; the footprint layer's columns fit every format.
        path: File to write, or address of a table (`footprints.vector.postgis`).
        overwrite: Replace what exists.
        geometry: What an empty layer would hold.

    Raises:
        OutputError: As `check_output`, or the disk is full, or the layer exceeds the limits of a
            Shapefile. What existed is then as it was.
    """
    if is_database(path):
        write_table(layer, str(path), overwrite=overwrite, geometry=geometry)
        return
    path = Path(path)
    check_output(path, overwrite=overwrite)
    if path.suffix.lower() == ".shp":
        layer = layer.rename(columns=SHAPEFILE_COLUMNS)
        _check_shapefile_limits(layer, path)
    try:
        with making_beside(path) as folder:
            unfinished = folder / (path.stem + path.suffix.lower())
            _write(layer, unfinished, geometry)
            _replace(path, unfinished)
        logger.info("%s: %d features written", path, len(layer))
    except (DataSourceError, DataLayerError, OSError, sqlite3.Error) as err:
        reason = (str(err) or type(err).__name__).splitlines()[0]
        raise OutputError(
            f"cannot write {path}: {reason}; is the disk full or the file open elsewhere?"
        ) from err


def _write(layer: GeoDataFrame, path: Path, geometry: str) -> None:
    suffix = path.suffix
    record = json.dumps(layer.attrs[RECORD]) if RECORD in layer.attrs else None
    if suffix in PARQUET_SUFFIXES:
        _write_parquet(layer, path)
    elif suffix == ".shp":
        date = _TIME_STAMP["OGR_CURRENT_DATE"][:10]
        options: dict[str, Any] = {"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": date}
        _write_by_gdal(layer, path, path, geometry, options)
        _check_shapefile_is_whole(layer, path)
        if record is not None:
            path.with_name(path.stem + SIDECAR).write_text(record + "\n")
    else:
        # Through memory: what fails when GDAL closes a file on a full disk is not reported, and
        # SQLite cannot lock on many network drives. The bytes are few beside the layer itself.
        buffer = io.BytesIO()
        is_geojson, is_placed = suffix in GEOJSON_SUFFIXES, layer.crs is not None
        options = dict(_RFC7946) if is_geojson and is_placed else {}
        _write_by_gdal(layer, buffer, path, geometry, options, record)
        content = buffer.getvalue()
        if is_geojson:
            content = content.replace(_COLLECTION, _head(record, is_placed=is_placed), 1)
        path.write_bytes(content)
        if suffix == ".gpkg" and geometry == "Polygon" and _has_confidence(layer):
            embed_style(path, _TIME_STAMP["OGR_CURRENT_DATE"])


def _has_confidence(layer: GeoDataFrame) -> bool:
    """Whether there is what the style draws by; QGIS would draw nothing by a text or a gap."""
    if "confidence" not in layer or not is_numeric_dtype(layer["confidence"]):
        return False
    return bool(layer["confidence"].notna().all())


def _write_parquet(layer: GeoDataFrame, path: Path) -> None:
    if not layer.empty:
        layer = layer.iloc[np.argsort(layer.hilbert_distance().to_numpy(), kind="stable")]
    # GeoPandas writes all attributes, and ours are the only ones known to fit into JSON.
    layer = layer.copy(deep=False)
    layer.attrs = {key: value for key, value in layer.attrs.items() if key == RECORD}
    layer.to_parquet(
        path,
        index=False,
        compression="zstd",
        schema_version="1.1.0",
        write_covering_bbox=True,
        row_group_size=ROW_GROUP,
    )


def _head(record: str | None, *, is_placed: bool) -> bytes:
    """The beginning of a GeoJSON file, up to GDAL's own members."""
    head = _COLLECTION if is_placed else _COLLECTION + NO_CRS
    return head if record is None else head + GEOJSON_RECORD + record.encode() + b",\n"


def _write_by_gdal(
    layer: GeoDataFrame,
    target: Path | io.BytesIO,
    path: Path,
    geometry: str,
    options: Mapping[str, Any],
    record: str | None = None,
) -> None:
    types = np.unique(shapely.get_type_id(layer.geometry.to_numpy()))
    with _gdal_options(_TIME_STAMP), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        pyogrio.write_dataframe(
            layer,
            target,
            layer=path.stem,
            driver=_DRIVERS[path.suffix],
            # Said outright, because an empty layer has no geometry to tell it from.
            geometry_type=geometry if set(types) <= {_TYPES[geometry]} else None,
            layer_options=dict(options),
            layer_metadata=None if record is None else {RECORD: record},
        )


def _replace(path: Path, unfinished: Path) -> None:
    """Move what was written to its place, the main file last, and drop sidecars of an older one."""
    written = sorted(unfinished.parent.iterdir(), key=lambda part: part.name == unfinished.name)
    moved = {part: path.with_name(path.stem + part.name[len(path.stem) :]) for part in written}
    moved[unfinished] = path
    for part, place in moved.items():
        part.replace(place)
    for part in set(_parts(path)) - set(moved.values()):
        part.unlink(missing_ok=True)


def _parts(path: Path) -> tuple[Path, ...]:
    """A file and everything that may lie beside it as part of it."""
    suffix = path.suffix.lower()
    # A GeoPackage's sidecars append to the whole name, a Shapefile's take the place of its ending.
    stem = path.stem if suffix == ".shp" else path.name
    return (path, *(path.with_name(stem + sidecar) for sidecar in _SIDECARS.get(suffix, ())))


@contextlib.contextmanager
def _gdal_options(options: dict[str, str]) -> Iterator[None]:
    """Set options of the GDAL inside pyogrio (rasterio brings another), and restore them."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


def _check_shapefile_limits(layer: GeoDataFrame, path: Path) -> None:
    columns = layer.drop(columns=layer.geometry.name)
    for name in columns:
        if len(str(name).encode()) > SHAPEFILE_NAME_BYTES:
            raise OutputError(
                f"column {name!r} is longer than the {SHAPEFILE_NAME_BYTES} bytes of a Shapefile "
                f"name; rename it or write {path.stem}.gpkg"
            )
    record_bytes = 1 + sum(
        DBF_OTHER_BYTES.get(columns[name].dtype.kind, DBF_NUMBER_BYTES) for name in columns
    )
    for name in columns.select_dtypes(include=["object", "string"]):
        longest = max(
            (len(text.encode()) for text in columns[name].dropna().astype(str)), default=0
        )
        if longest > SHAPEFILE_TEXT_BYTES:
            raise OutputError(
                f"column {name!r} holds {longest} bytes of text, a Shapefile at most "
                f"{SHAPEFILE_TEXT_BYTES}; write {path.stem}.gpkg"
            )
        record_bytes += max(longest, DBF_TEXT_BYTES) - DBF_NUMBER_BYTES
    table_bytes = DBF_HEADER_BYTES * (columns.shape[1] + 1) + 2 + len(layer) * record_bytes
    if max(_shp_bytes(layer), table_bytes) > SHAPEFILE_FILE_BYTES:
        raise OutputError(
            f"{len(layer)} footprints exceed the 2 GB of a Shapefile; write {path.stem}.gpkg"
        )


def _check_shapefile_is_whole(layer: GeoDataFrame, path: Path) -> None:
    """Compare sizes, because GDAL does not say when closing a Shapefile fails."""
    with path.with_suffix(".dbf").open("rb") as table:
        header_bytes, record_bytes = struct.unpack("<8xHH", table.read(12).ljust(12, b"\0"))
    expected = {
        ".shp": _shp_bytes(layer),
        ".shx": 100 + 8 * len(layer),
        ".dbf": max(DBF_HEADER_BYTES, header_bytes + len(layer) * record_bytes),
    }
    for suffix, size in expected.items():
        if path.with_suffix(suffix).stat().st_size < size:
            raise OSError(errno.ENOSPC, f"{suffix} is incomplete")


def _shp_bytes(layer: GeoDataFrame) -> int:
    """Size of the .shp: its header, then per feature a record header, a type and the geometry."""
    if (shapely.get_type_id(layer.geometry.to_numpy()) == GeometryType.POINT).all():
        return 100 + 28 * len(layer)
    parts = shapely.get_parts(layer.geometry.to_numpy())
    rings = len(parts) + int(shapely.get_num_interior_rings(parts).sum())
    return 100 + 52 * len(layer) + 4 * rings + 16 * int(shapely.get_num_coordinates(parts).sum())
