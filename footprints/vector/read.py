"""Vector files -> polygons: labels, truth and areas of interest, in whatever state they come."""

from __future__ import annotations

import itertools
import json
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from shapely import GeometryType

from footprints.addresses import is_address
from footprints.errors import LabelWarning, LayerError
from footprints.vector.scenes import RECORD

logger = logging.getLogger(__name__)

PARQUET_SUFFIXES = frozenset({".parquet", ".geoparquet"})
"""Endings read and written by pyarrow; everything else goes through GDAL."""

NO_CRS = b'"crs": null,\n'
"""The member of a GeoJSON file in pixel coordinates; without it GeoJSON is WGS 84."""
GEOJSON_SUFFIXES = frozenset({".geojson", ".json"})
GEOJSON_RECORD = b'"footprints": '
"""The member with the record of scenes, on a line of its own."""
SIDECAR = ".footprints.json"
"""Ending of the file beside a Shapefile that holds the record of scenes."""
_GEOJSON_HEAD_BYTES = 4096
"""Members of the collection stand before its features, within this many bytes."""
_GEOJSON_HEAD_LINES = 6
_GEOJSON_LINE_BYTES = 1 << 26

_POLYGONAL = (GeometryType.POLYGON, GeometryType.MULTIPOLYGON)


def read_layer(
    path: str | Path,
    *,
    layer: str | None = None,
    needs_crs: bool = True,
    allow_empty: bool = True,
) -> GeoDataFrame:
    """Read the polygons of any vector file GDAL or pyarrow opens.

    Args:
        path: File, or an address GDAL understands.
        layer: Name of the layer, for files that hold several.
        needs_crs: Refuse a layer without a coordinate reference system.
        allow_empty: Accept a layer without any polygon.

    Returns:
        The layer in its own CRS with all its columns, cleaned as `clean_polygons` says, and with
        the record of scenes if it is one of ours (`footprints.vector.scenes`).

    Raises:
        LayerError: The file is missing, unreadable or ambiguous, holds lines or points, or lacks
            what ``needs_crs`` and ``allow_empty`` ask for.
    """
    frame = read_features(path, layer=layer, needs_crs=needs_crs)
    return clean_polygons(frame, name=str(path), allow_empty=allow_empty)


def read_features(
    path: str | Path, *, layer: str | None = None, needs_crs: bool = True
) -> GeoDataFrame:
    """Read a layer as it is stored, with lines, points and faults; arguments as `read_layer`.

    Raises:
        LayerError: The file is missing, unreadable or ambiguous, or lacks a CRS it needs.
    """
    if not isinstance(path, str | Path):
        raise LayerError(f"a layer is a file or a GeoDataFrame, got {path!r}")
    if not (Path(path).exists() or is_address(str(path))):
        raise LayerError(f"vector file not found: {path}")
    try:
        if Path(path).suffix.lower() in PARQUET_SUFFIXES:
            frame = gpd.read_parquet(path)
        else:
            layer = layer or _only_layer(path)
            frame = pyogrio.read_dataframe(path, layer=layer)
            if _is_geojson_without_crs(path):
                frame = frame.set_crs(None, allow_override=True)
            record = _stored_record(path, layer)
            if record is not None:
                frame.attrs[RECORD] = json.loads(record)
    # ValueError: pyarrow's and geopandas' word for damaged files, and text that is not decodable.
    except (DataSourceError, DataLayerError, OSError, ValueError) as err:
        if isinstance(err, LayerError):
            raise
        # GDAL goes on with a hint that only a programmer can follow.
        reason = (str(err) or type(err).__name__).splitlines()[0].partition("; It might")[0]
        raise LayerError(f"cannot read {path} as a vector layer: {reason}") from err
    if needs_crs and frame.crs is None:
        raise LayerError(
            f"{path} has no coordinate reference system; assign the right one, "
            f"for instance with ogr2ogr -a_srs EPSG:4326 fixed.gpkg {path}"
        )
    logger.info(
        "%s: %d features read, %s", path, len(frame), frame.crs.name if frame.crs else "no CRS"
    )
    return frame


def clean_polygons(
    layer: GeoDataFrame, *, name: str = "layer", allow_empty: bool = True, explode: bool = True
) -> GeoDataFrame:
    """Make a layer one valid two-dimensional Polygon a row.

    Features without geometry are dropped, multipolygons become one row a part, and invalid
    polygons are repaired; a repair may leave several parts, or none of a polygon without area.

    Args:
        layer: Polygons and multipolygons, in any CRS or none.
        name: What messages call the layer.
        allow_empty: Accept that no polygon is left.
        explode: False leaves multipolygons as they are: one object in several parts.

    Returns:
        A new layer in the same order with a fresh index and the geometry column ``geometry``;
        parts repeat the columns of their feature.

    Raises:
        LayerError: A geometry is neither a polygon nor a multipolygon, or there is none where
            ``allow_empty`` is False.

    Warns:
        LabelWarning: Polygons were repaired, or had no geometry or area and were left out; says how
            many.
    """
    geometries = layer.geometry.to_numpy()
    if (shapely.get_coordinate_dimension(geometries) > 2).any():
        geometries = shapely.force_2d(geometries)
    there = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    row = np.flatnonzero(there)
    geometries = geometries[row]
    _require_polygons(geometries, name)

    finite = np.isfinite(shapely.bounds(geometries)).all(axis=1)
    invalid = finite & ~shapely.is_valid(geometries)
    geometries[invalid] = make_valid_polygons(geometries[invalid])
    lost = ~finite | shapely.is_empty(geometries)
    _warn_of_repairs(
        name,
        {
            "repaired": int((invalid & ~lost).sum()),
            "without area left out": int(lost.sum()),
            "without geometry left out": int((~there).sum()),
        },
    )

    parts, owner = geometries[~lost], np.arange(len(row) - np.count_nonzero(lost))
    if explode and (shapely.get_type_id(parts) != GeometryType.POLYGON).any():
        parts, owner = shapely.get_parts(parts, return_index=True)
    if len(parts) == 0 and not allow_empty:
        raise LayerError(f"{name} holds no polygon; give a layer with at least one")
    columns = layer.drop(columns=layer.geometry.name).iloc[row[~lost][owner]]
    cleaned = GeoDataFrame(columns.reset_index(drop=True), geometry=parts, crs=layer.crs)
    cleaned.attrs = layer.attrs
    return cleaned


def open_polygons(
    layer: GeoDataFrame | str | Path, *, name: str = "layer", needs_crs: bool = True
) -> GeoDataFrame:
    """A layer, or that of a file, as `clean_polygons` has it.

    Args:
        layer: As such or as a file.
        name: What messages call a layer that is no file.
        needs_crs: Refuse a file without a coordinate reference system.

    Raises:
        LayerError: As `read_layer` and `clean_polygons`.
    """
    if isinstance(layer, GeoDataFrame):
        return clean_polygons(layer, name=name)
    return read_layer(layer, needs_crs=needs_crs)


def make_valid_polygons(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Repair polygons: what their rings enclose, less their holes, lines and points left out.

    Args:
        geometries: (n,) invalid Polygon or MultiPolygon with finite coordinates.

    Returns:
        (n,) Polygon or MultiPolygon; empty where nothing has area.
    """
    # "structure" unites overlapping parts and keeps shells filled; the default "linework" opens a
    # hole wherever an outline overlaps itself.
    valid: NDArray[np.object_] = shapely.make_valid(
        geometries, method="structure", keep_collapsed=False
    )
    return valid


def _is_geojson_without_crs(path: str | Path) -> bool:
    """Whether GeoJSON says that it has no CRS; GDAL takes it for WGS 84 all the same."""
    path = Path(path)
    if path.suffix.lower() not in GEOJSON_SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        head = re.split(rb'"features"|"footprints"', file.read(_GEOJSON_HEAD_BYTES))[0]
    return re.search(rb'"crs"\s*:\s*null', head) is not None


def _stored_record(path: str | Path, layer: str) -> str | bytes | None:
    """The JSON text of the record of scenes, where GDAL reads the layer."""
    place = Path(path)
    suffix = place.suffix.lower()
    if suffix in GEOJSON_SUFFIXES:
        return _geojson_record(place) if place.is_file() else None
    if suffix == ".shp":
        sidecar = place.with_name(place.stem + SIDECAR)
        return sidecar.read_text() if sidecar.is_file() else None
    metadata = pyogrio.read_info(path, layer=layer)["layer_metadata"] or {}
    text: str | None = metadata.get(RECORD)
    return text


def _geojson_record(path: Path) -> bytes | None:
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(_GEOJSON_LINE_BYTES), b"")
        for line in itertools.islice(lines, _GEOJSON_HEAD_LINES):
            if line.startswith(GEOJSON_RECORD):
                return line.removeprefix(GEOJSON_RECORD).rstrip(b",\n")
    return None


def _only_layer(path: str | Path) -> str:
    """Name of the file's one layer with geometries."""
    layers = pyogrio.list_layers(path)
    # Tables without geometry, such as the styles QGIS stores in a GeoPackage, are not layers here.
    names = [str(name) for name, geometry_type in layers if geometry_type is not None]
    if not names:
        raise LayerError(f"{path} holds no geometries")
    if len(names) > 1:
        raise LayerError(
            f"{path} holds {len(names)} layers ({', '.join(names)}); "
            f"save the one you mean in a file of its own"
        )
    return names[0]


def _require_polygons(geometries: NDArray[np.object_], name: str) -> None:
    types = shapely.get_type_id(geometries)
    others = types[~np.isin(types, _POLYGONAL)]
    if len(others):
        kinds = ", ".join(sorted({GeometryType(kind).name.lower() for kind in others}))
        raise LayerError(
            f"{name} must hold polygons, but {len(others)} of {len(types)} geometries are {kinds}; "
            f"close lines to polygons, and leave the rest out"
        )


def _warn_of_repairs(name: str, counts: Mapping[str, int]) -> None:
    done = [f"{count} {what}" for what, count in counts.items() if count]
    if done:
        warnings.warn(
            f"{name}: faulty polygons, {', '.join(done)}; check the layer",
            LabelWarning,
            stacklevel=3,
        )
