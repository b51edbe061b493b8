"""Merged footprints in grid pixels -> the footprint layer that users keep.

A footprint layer is a plain GeoDataFrame, one row a building, in this order of columns:

| column       | type    | meaning                                                              |
|--------------|---------|----------------------------------------------------------------------|
| `id`         | int64   | of its place, and its own (`footprints.vector.numbering`)             |
| `class`      | str     | class name                                                           |
| `confidence` | float64 | 0 to 1, four decimals                                                |
| `area_m2`    | float64 | area on the ellipsoid in any CRS, two decimals; square pixels without CRS |
| `cut`        | bool    | the imagery ends inside the building, or may                         |
| `source`     | str     | raster it was found in                                               |
| `model`      | str     | detector that found it                                               |
| `geometry`   | Polygon | valid and two-dimensional; shell counter-clockwise, holes clockwise, as RFC 7946 and OGC have it |

Further columns may stand between `model` and `geometry`. What is known of the scenes themselves is
in `footprints.vector.scenes`.
"""  # noqa: E501  # a table row cannot be wrapped

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pandas.api import types
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from shapely import GeometryType

from footprints.errors import FootprintsWarning, LayerError
from footprints.stages import staged
from footprints.vector.affine import apply_affine, transform_points
from footprints.vector.numbering import free_numbers, number_by_place
from footprints.vector.read import make_valid_polygons
from footprints.vector.scenes import attach_scenes, scenes_of

if TYPE_CHECKING:
    from affine import Affine

    from footprints.vector.outlines import Footprints

COLUMNS = ("id", "class", "confidence", "area_m2", "cut", "source", "model")
"""Every column before the geometry, in order."""

_IS_TYPE = {
    "id": types.is_integer_dtype,
    "class": types.is_string_dtype,
    "confidence": types.is_float_dtype,
    "area_m2": types.is_float_dtype,
    "cut": types.is_bool_dtype,
    "source": types.is_string_dtype,
    "model": types.is_string_dtype,
}

_AT_ONCE = 100_000
"""Polygons that are projected together."""

HALF_TURN = 180.0
"""Degrees; no building is wider."""

_log = logging.getLogger(__name__)


@staged("placing")
def place(
    footprints: Footprints,
    transform: Affine,
    crs: CRS | None,
    *,
    classes: Sequence[str],
    source: str,
    model: str,
    min_area_m2: float = 0.0,
) -> GeoDataFrame:
    """Put footprints on the ground and describe each in the layer's columns.

    Args:
        footprints: Merged footprints of one scene, in grid pixels.
        transform: Grid pixels to CRS units; may rotate, shear or mirror.
        crs: Of the scene; None leaves everything in the units of ``transform``, areas too.
        classes: Class names in the order of the labels.
        source: Name of the scene.
        model: Name of the detector.
        min_area_m2: Footprints below this area are left out; square units without CRS.

    Returns:
        A footprint layer in the order of ``footprints``. Where they have keypoints, a column
        ``keypoints`` with an array (J, 3) of each: x and y in CRS units, and confidence.

    Raises:
        LayerError: The transform is not finite, or leads out of the domain of ``crs``.

    Warns:
        FootprintsWarning: Footprints had no area and were left out; says how many.
    """
    if not np.isfinite(transform[:6]).all():
        raise LayerError(f"{source}: its georeference is not finite: {transform[:6]}")
    polygons, kept = _tidy(apply_affine(footprints.polygons, transform), source)
    area = areas_m2(polygons, crs)
    large = area >= min_area_m2
    polygons, kept, area = polygons[large], kept[large], area[large]
    n = len(polygons)
    columns = {
        "id": number_by_place(polygons, crs),
        "class": _text([classes[label] for label in footprints.labels[kept]]),
        "confidence": np.round(footprints.scores[kept].astype(np.float64), 4),
        "area_m2": np.round(area, 2),
        "cut": footprints.cut[kept].astype(bool),
        "source": _text([source] * n),
        "model": _text([model] * n),
    }
    if footprints.keypoints.shape[1]:
        keypoints = footprints.keypoints[kept].copy()
        keypoints[..., :2] = transform_points(keypoints[..., :2], transform)
        columns["keypoints"] = pd.Series([*keypoints], dtype=object)
    return GeoDataFrame(columns, geometry=polygons, crs=crs)


def areas_m2(polygons: NDArray[np.object_], crs: CRS | None) -> NDArray[np.float64]:
    """Areas on the WGS 84 ellipsoid, whatever the units of the CRS.

    Args:
        polygons: (n,) polygons in CRS units.
        crs: None measures in the plane, in square units. So does a local (engineering) CRS, which
            has no place on the ellipsoid, but in square metres.

    Returns:
        (n,) square metres.

    Raises:
        LayerError: Coordinates lie where ``crs`` is not defined.
    """
    if crs is None or not len(polygons):
        return np.asarray(shapely.area(polygons), dtype=np.float64)
    crs = CRS.from_user_input(crs)
    if crs.is_engineering:
        metres = crs.axis_info[0].unit_conversion_factor or 1.0
        return np.asarray(shapely.area(polygons) * metres**2, dtype=np.float64)
    # Planar areas in an equal-area projection around the layer are exact but for the bend of
    # geodesics, and need no call per polygon, no special case for poles or the antimeridian.
    x, y = shapely.bounds(polygons[:1])[0].reshape(2, 2).mean(axis=0)
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    if not (np.isfinite(lon) and abs(lat) <= HALF_TURN / 2):
        raise _out_of_domain(crs)
    equal_area = CRS.from_dict(
        {"proj": "laea", "lat_0": lat, "lon_0": lon, "datum": "WGS84", "units": "m"}
    )
    # In portions: projected all at once, they would take their memory once more.
    portions = np.split(polygons, range(_AT_ONCE, len(polygons), _AT_ONCE))
    areas = [shapely.area(_project(portion, crs, equal_area)) for portion in portions]
    return np.concatenate(areas).astype(np.float64)


def reproject(layer: GeoDataFrame, crs: CRS) -> GeoDataFrame:
    """Move a polygon layer to another CRS; columns stay as they are.

    In degrees, a polygon across the antimeridian goes on beyond 180 instead of around the globe.

    Args:
        layer: Polygons with a CRS, any columns.
        crs: The CRS to move to.

    Returns:
        The layer in ``crs``: valid, counter-clockwise polygons in the same order.

    Raises:
        LayerError: The layer has no CRS, or lies where ``crs`` is not defined.

    Warns:
        FootprintsWarning: Polygons collapsed and were left out; says how many.
    """
    crs = CRS.from_user_input(crs)
    if layer.crs is None:
        raise LayerError(
            f"a layer without coordinate reference system cannot be moved to {crs.name}; give it "
            f"its CRS first (layer.set_crs)"
        )
    if layer.crs.equals(crs, ignore_axis_order=True):
        return layer
    polygons = layer.geometry.to_numpy()
    moved = _project(polygons, layer.crs, crs)
    if crs.is_geographic:
        moved = _unwrap(moved, polygons, layer.crs)
    polygons, kept = _tidy(moved, "layer")
    columns = layer.drop(columns=layer.geometry.name).iloc[kept].reset_index(drop=True)
    if "keypoints" in columns and len(columns):
        columns["keypoints"] = _moved_keypoints(columns["keypoints"], layer.crs, crs)
    moved_layer = GeoDataFrame(columns, geometry=polygons, crs=crs)
    moved_layer.attrs = layer.attrs
    return moved_layer


def concat_layers(layers: Sequence[GeoDataFrame], *, crs: CRS | None = None) -> GeoDataFrame:
    """Join the footprint layers of several scenes, one after the other, and their records.

    Where two have the same ``id``, in overlapping scenes, the later one takes the next free number.

    Args:
        layers: At least one footprint layer.
        crs: CRS of the result; None takes the first layer's.

    Returns:
        A footprint layer.

    Raises:
        LayerError: There are no layers, or some have a CRS and others none.
    """
    if not layers:
        raise LayerError("cannot join layers: none were given")
    target = layers[0].crs if crs is None else crs
    if target is None and any(layer.crs is not None for layer in layers):
        raise LayerError(
            "cannot join layers with and without coordinate reference system; give every scene "
            "its CRS (--crs)"
        )
    moved = layers if target is None else [reproject(layer, target) for layer in layers]
    # An empty layer's untyped text columns would decide the types of the whole.
    filled = [layer for layer in moved if len(layer)] or moved[:1]
    joined = pd.concat(filled, ignore_index=True)
    joined["id"] = free_numbers(joined["id"].to_numpy())
    joined = gpd.GeoDataFrame(joined, geometry="geometry", crs=target)
    attach_scenes(joined, [scene for layer in layers for scene in scenes_of(layer)])
    return joined


def check_layer(layer: GeoDataFrame) -> None:
    """Check that a layer is a footprint layer: columns, types, ranges, geometries and record.

    Raises:
        LayerError: It is not; names the first thing found.
    """
    names = tuple(layer.columns)
    if names[: len(COLUMNS)] != COLUMNS or names[-1] != "geometry":
        raise LayerError(
            f"a footprint layer's columns are {', '.join(COLUMNS)} and, last, geometry; "
            f"got {', '.join(map(str, names))}"
        )
    for name, is_type in _IS_TYPE.items():
        if not is_type(layer[name]):
            raise LayerError(f"column {name} has the wrong type: {layer[name].dtype}")
    if (layer["id"] < 1).any() or layer["id"].duplicated().any():
        wrong = layer["id"][(layer["id"] < 1) | layer["id"].duplicated()].iloc[0]
        raise LayerError(f"column id must hold different numbers from 1 on, got {wrong}")
    if not layer["confidence"].between(0, 1).all():
        raise LayerError("column confidence must lie between 0 and 1")
    if not (np.isfinite(layer["area_m2"]) & (layer["area_m2"] >= 0)).all():
        raise LayerError("column area_m2 must be finite and not negative")
    _check_polygons(layer.geometry.to_numpy(), layer["id"].to_numpy())
    scenes_of(layer)


def _check_polygons(polygons: NDArray[np.object_], ids: NDArray[np.int64]) -> None:
    rules = {
        "polygons": shapely.get_type_id(polygons) == GeometryType.POLYGON,
        "not empty": ~shapely.is_empty(polygons),
        "two-dimensional": ~shapely.has_z(polygons),
        "valid": shapely.is_valid(polygons),
        "counter-clockwise": shapely.is_ccw(shapely.get_exterior_ring(polygons)),
    }
    for rule, holds in rules.items():
        if not holds.all():
            first = ids[np.flatnonzero(~holds)[0]]
            raise LayerError(f"geometries must be {rule}, the one with id {first} is not")


def _tidy(
    polygons: NDArray[np.object_], name: str
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Valid, oriented polygons and the index of each in the input."""
    invalid = ~shapely.is_valid(polygons)
    if invalid.any():
        _log.info("%s: repaired %d polygons", name, invalid.sum())
        polygons = polygons.copy()
        polygons[invalid] = _largest_parts(make_valid_polygons(polygons[invalid]))
    kept = np.flatnonzero(~(shapely.is_missing(polygons) | shapely.is_empty(polygons)))
    if len(kept) < len(polygons):
        warnings.warn(
            f"{name}: {len(polygons) - len(kept)} polygons without area were left out",
            FootprintsWarning,
            stacklevel=3,
        )
    # The affine mirrors where north is up, and projections may.
    return shapely.orient_polygons(polygons[kept], exterior_cw=False), kept


def _largest_parts(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """(n,) the largest polygon of each (n,) Polygon or MultiPolygon; None for an empty one."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    largest = np.full(len(geometries), None, dtype=object)
    by_area = np.argsort(shapely.area(parts), kind="stable")
    largest[owner[by_area]] = parts[by_area]
    return largest


def _project(polygons: NDArray[np.object_], crs: CRS, target: CRS) -> NDArray[np.object_]:
    try:
        transformer = Transformer.from_crs(crs, target, always_xy=True)
    except ProjError as err:
        raise LayerError(f"there is no way from {crs.name} to {target.name}; check both") from err

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))

    moved: NDArray[np.object_] = shapely.transform(polygons, move)
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise _out_of_domain(target)
    return moved


def _moved_keypoints(column: pd.Series, crs: CRS, target: CRS) -> pd.Series:
    """A column of keypoints (J, 3) in another CRS; what is not known stays so."""
    keypoints = np.stack([*column])
    known = np.isfinite(keypoints[..., 0])
    points = _project(shapely.points(keypoints[known][:, :2]), crs, target)
    keypoints[known, :2] = shapely.get_coordinates(points)
    return pd.Series([*keypoints], dtype=object)


def _unwrap(
    moved: NDArray[np.object_], polygons: NDArray[np.object_], crs: CRS
) -> NDArray[np.object_]:
    """Continue polygons beyond 180 degrees where their longitudes jump by a turn.

    Args:
        moved: (n,) polygons in degrees.
        polygons: (n,) the same before they were moved.
        crs: Of ``polygons``.
    """
    bounds = shapely.bounds(moved)
    wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > HALF_TURN)
    if not len(wide):
        return moved
    turn = np.array([2 * HALF_TURN, 0.0])
    unwrapped = shapely.transform(moved[wide], lambda xy: xy + turn * (xy[:, :1] < 0))
    # A polygon around most of the globe is as wide; only what has its inside where its unwrapped
    # outline is did jump.
    inside = _project(shapely.point_on_surface(polygons[wide]), crs, CRS("EPSG:4326"))
    longitude = shapely.get_x(inside) % turn[0]
    west, _, east, _ = shapely.bounds(unwrapped).T
    jumps = (west <= longitude) & (longitude <= east)
    moved = moved.copy()
    moved[wide[jumps]] = unwrapped[jumps]
    return moved


def _out_of_domain(crs: CRS) -> LayerError:
    return LayerError(
        f"coordinates lie outside the domain of {crs.name}; check the georeference and the CRS"
    )


def _text(values: list[str]) -> pd.Series:
    return pd.Series(values, dtype=str)
