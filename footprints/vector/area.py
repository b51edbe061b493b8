"""The area of interest: which ground is looked at, and which buildings belong to it.

A building belongs to the area that holds the centroid of its footprint, as the layer has it. So
every building is in exactly one of the areas that tile some ground, and whoever has the layer can
see why. Centroids are taken a tenth of a millimetre to the side, by an odd amount: those of houses
on whole pixels lie on borders at round numbers, where two areas, or none, would claim them.

So that a building comes out as it would if all of the scene were looked at, chips are looked at
that lie up to half a chip beyond the area; a building reaches no farther from its centroid, or is
so wide that the coarse pass, whose half chip is four times as long, settles it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS

from footprints.chip import ChipGrid
from footprints.errors import LayerError
from footprints.vector.affine import apply_affine
from footprints.vector.layer import reproject
from footprints.vector.read import clean_polygons, read_layer
from footprints.vector.scenes import SceneRecord, attach_scenes, scenes_of
from footprints.vector.seams import windows_of
from footprints.vector.snapping import nominal_unit_m

NUDGE_M = np.array([7.234e-5, 3.561e-5])
"""What centroids are moved by; in pixels where there is no CRS."""
BEYOND = 0.5
"""Chips are looked at up to this many chip sides beyond the area."""
UNNAMED = "the area of interest"
"""What messages call an area that is no file."""
CHORDS = 64
"""Straight edges bend in another CRS: a side of the scene's ground has this many corners there."""


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """Ground that somebody asked for."""

    ground: shapely.Geometry
    """Polygon or MultiPolygon."""
    crs: CRS | None
    """None in plain pixel coordinates."""
    name: str = UNNAMED
    """What messages call it."""

    @property
    def digest(self) -> str:
        """Another one for any other area."""
        crs = "" if self.crs is None else self.crs.to_wkt()
        content = shapely.to_wkb(shapely.normalize(self.ground)) + crs.encode()
        return hashlib.sha256(content).hexdigest()[:16]

    def on_grid(self, chips: ChipGrid, transform: Affine, crs: CRS | None) -> shapely.Geometry:
        """The area near a scene, in grid pixels.

        Args:
            chips: The scene's.
            transform: Grid pixels to CRS units.
            crs: Of the scene.

        Raises:
            LayerError: One of area and scene has a CRS and the other has none.
        """
        ground = self._near(_extent(chips, transform), crs)
        return apply_affine(np.array([ground]), ~transform)[0]

    def bounds_of(self, chips: ChipGrid, transform: Affine, crs: CRS | None) -> NDArray[np.float64]:
        """(4,) bounds of a scene in the CRS of the area; arguments as `on_grid`."""
        return self._bounds(_extent(chips, transform), crs)

    def clip(self, record: SceneRecord) -> SceneRecord:
        """The record of a scene of which nothing counts but the area."""
        crs = None if record.outline_crs is None else CRS.from_user_input(record.outline_crs)
        seen = record.ground()
        if not shapely.is_empty(seen):
            seen = shapely.intersection(seen, self._near(seen, crs))
        parts = shapely.get_parts(seen)
        outline = shapely.multipolygons(parts[shapely.get_type_id(parts) == _POLYGON])
        return replace(
            record, outline=shapely.to_wkt(shapely.normalize(outline), rounding_precision=-1)
        )

    def holds(self, layer: GeoDataFrame) -> NDArray[np.bool_]:
        """(n,) whether each footprint of a layer belongs to the area."""
        centroids = GeoDataFrame(geometry=shapely.centroid(layer.geometry.to_numpy()))
        if layer.crs is not None and self.crs is not None:
            centroids = centroids.set_crs(layer.crs).to_crs(self.crs)
        unit = 1.0 if self.crs is None else nominal_unit_m(self.crs)
        points = shapely.get_coordinates(centroids.geometry.to_numpy()) + NUDGE_M / unit
        shapely.prepare(self.ground)
        inside: NDArray[np.bool_] = shapely.intersects_xy(self.ground, points)
        return inside

    def _near(self, place: shapely.Geometry, crs: CRS | None) -> shapely.Geometry:
        """The area in a scene's CRS, as far as the scene reaches and as far again."""
        if (crs is None) != (self.crs is None):
            sides = ["the area of interest", "the scene"]
            without, having = sides if self.crs is None else sides[::-1]
            raise LayerError(
                f"{without} has no coordinate reference system and {having} has; draw areas "
                "for pictures in pixel coordinates, others in any CRS"
            )
        if crs is None or self.crs is None:
            return self.ground
        bounds = self._bounds(place, crs)
        reach = np.ptp(bounds.reshape(2, 2), axis=0).max()
        window = shapely.box(*(bounds + reach * np.array([-1, -1, 1, 1])))
        some = shapely.segmentize(shapely.intersection(self.ground, window), reach / CHORDS)
        parts = GeoDataFrame(geometry=_polygons(some), crs=self.crs)
        if parts.empty:
            return shapely.MultiPolygon()
        return shapely.union_all(reproject(parts, crs).geometry.to_numpy())

    def _bounds(self, place: shapely.Geometry, crs: CRS | None) -> NDArray[np.float64]:
        """(4,) bounds of a place in the CRS of the area."""
        if crs is None or self.crs is None:
            return np.array(place.bounds)
        size = np.ptp(np.array(place.bounds).reshape(2, 2), axis=0).max()
        outline = GeoDataFrame(geometry=[shapely.segmentize(place, size / CHORDS)], crs=crs)
        return np.array(reproject(outline, self.crs).total_bounds)


_POLYGON = shapely.GeometryType.POLYGON


def _polygons(geometry: shapely.Geometry) -> NDArray[np.object_]:
    parts = shapely.get_parts(shapely.get_parts(geometry))
    is_polygon = (shapely.get_type_id(parts) == _POLYGON) & ~shapely.is_empty(parts)
    polygons: NDArray[np.object_] = parts[is_polygon]
    return polygons


def _extent(chips: ChipGrid, transform: Affine) -> shapely.Geometry:
    """All of a scene, in its CRS."""
    return apply_affine(np.array([shapely.box(0, 0, chips.width, chips.height)]), transform)[0]


def show_bounds(bounds: Iterable[float]) -> str:
    """Bounds for a message: (x_min, y_min, x_max, y_max)."""
    return "({})".format(", ".join(f"{value:.10g}" for value in bounds))


def read_area(area: str | Path | GeoDataFrame) -> Area:
    """An area of interest: all polygons of a layer, in any CRS.

    Args:
        area: A vector file, or such a layer.

    Raises:
        LayerError: It is missing or unreadable, or holds no polygon.
    """
    if isinstance(area, GeoDataFrame):
        layer = clean_polygons(area, name=UNNAMED, allow_empty=False)
    else:
        layer = read_layer(area, needs_crs=False, allow_empty=False)
    crs = None if layer.crs is None else CRS.from_user_input(layer.crs)
    name = UNNAMED if isinstance(area, GeoDataFrame) else str(area)
    return Area(gpd.GeoSeries(layer.geometry).union_all(), crs, name)


def cut_layer(layer: GeoDataFrame, area: Area) -> GeoDataFrame:
    """The footprints that belong to an area, with what the record of scenes says of it."""
    cut = layer[area.holds(layer)].reset_index(drop=True)
    attach_scenes(cut, [area.clip(record) for record in scenes_of(layer)])
    return cut


def chips_near(chips: ChipGrid, area: shapely.Geometry) -> NDArray[np.bool_]:
    """Which chips have to be looked at for the buildings of an area.

    Args:
        chips: n chips.
        area: In grid pixels.

    Returns:
        (n,) True for those that lie in the area, or less than `BEYOND` chips beside it.
    """
    reach = BEYOND * chips.size * np.array([-1, -1, 1, 1])
    shapely.prepare(area)
    near: NDArray[np.bool_] = shapely.intersects(shapely.box(*(windows_of(chips) + reach).T), area)
    return near
