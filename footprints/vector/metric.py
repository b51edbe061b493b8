"""CRS units -> metres around each building, and back.

Angles and distances are only right in metres, and no one projection has them right over a whole
layer. So the layer falls into blocks of neighbouring buildings, and each is laid out in the plane
of its own place: east and north on the WGS 84 ellipsoid. Blocks stand side by side, apart from one
another, so that one call can treat them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer

from footprints.errors import LayerError
from footprints.vector.outlines import Indices, Polygons
from footprints.vector.ragged import build, flatten

Floats = NDArray[np.float64]

APART_M = 10.0
"""Metres between blocks in the common plane."""
STEP = 1e-4
"""Derivatives are taken over this many degrees, or that share of 100 km in other units."""


@dataclass(frozen=True, slots=True, eq=False)
class MetricFrame:
    """Where each block of a layer lies in the common plane."""

    block: Indices
    """(n,) block of each polygon."""
    centre: Floats
    """(b, 2) CRS units."""
    to_plane: Floats
    """(b, 2, 2) metres per CRS unit: a row vector in CRS units times it is one in metres."""
    offset: Floats
    """(b, 2) metres: where the centre is in the plane."""

    @classmethod
    def around(cls, polygons: Polygons, crs: CRS | None, reach_m: float) -> MetricFrame:
        """Lay out polygons in metres.

        Args:
            polygons: (n,) non-empty polygons in CRS units.
            crs: None and local (engineering) systems leave units as they are, but for their length.
            reach_m: Polygons whose boxes come this near to each other share a block.

        Raises:
            LayerError: Coordinates lie where ``crs`` is not defined.
        """
        bounds = shapely.bounds(polygons)
        middle = (bounds[:, :2] + bounds[:, 2:]) / 2
        own = metres_per_unit(middle, crs)
        # Boxes grow by the reach in CRS units, along both axes.
        unit = np.maximum(np.abs(own).max(axis=(1, 2), initial=0), 1e-12)
        if crs is not None and CRS.from_user_input(crs).is_geographic:
            unit = np.minimum(np.abs(own[:, 0, 0]), np.abs(own[:, 1, 1]))
        grown = bounds + np.array([-1, -1, 1, 1]) * (reach_m / np.maximum(unit, 1e-12))[:, None]
        boxes = shapely.box(*grown.T)
        block = components(len(polygons), shapely.STRtree(boxes).query(boxes).T)
        count = np.maximum(np.bincount(block), 1)
        blocks = len(count) if len(block) else 0
        centre = np.column_stack(
            [np.bincount(block, column, blocks) / count[:blocks] for column in middle.T]
        )
        to_plane = metres_per_unit(centre, crs)
        x_half = np.zeros(blocks)
        corners = shapely.get_coordinates(boxes).reshape(-1, 5, 2)
        placed = np.einsum("nki,nij->nkj", corners - centre[block][:, None], to_plane[block])
        np.maximum.at(x_half, block, np.abs(placed[..., 0]).max(axis=1))
        east = np.cumsum(2 * x_half + APART_M) - x_half
        return cls(block, centre, to_plane, np.column_stack([east, np.zeros(blocks)]))

    def to_metres(self, polygons: Polygons) -> Polygons:
        """(n,) polygons in CRS units, laid out in the plane."""
        return self._moved(polygons, self.centre, self.to_plane, self.offset)

    def to_crs(self, polygons: Polygons) -> Polygons:
        """(n,) polygons in the plane, back in CRS units; points that coincide still do."""
        back: Floats = np.linalg.inv(self.to_plane).astype(np.float64)
        return self._moved(polygons, self.offset, back, self.centre)

    def _moved(self, polygons: Polygons, from_: Floats, turn: Floats, to: Floats) -> Polygons:
        """(n,) polygons in another frame; all are (b, ...) of blocks."""
        points, first, first_ring = flatten(polygons)
        block = np.repeat(self.block, np.diff(first[first_ring]))
        x, y = (points - from_.take(block, axis=0)).T
        moved = to.take(block, axis=0)
        # Two products and a sum in a fixed order: equal points stay equal.
        for axis in (0, 1):
            moved[:, axis] += x * turn[:, 0, axis].take(block) + y * turn[:, 1, axis].take(block)
        return build(moved, first, first_ring)


def metres_per_unit(places: Floats, crs: CRS | None) -> Floats:
    """How far a step along each axis of a CRS goes on the ground.

    Args:
        places: (n, 2) CRS units.
        crs: None has units of 1.

    Returns:
        (n, 2, 2) metres east and north per unit of the first axis, then of the second.

    Raises:
        LayerError: A place lies where ``crs`` is not defined.
    """
    result = np.tile(np.eye(2), (len(places), 1, 1))
    if crs is None or not len(places):
        return result
    crs = CRS.from_user_input(crs)
    factor = crs.axis_info[0].unit_conversion_factor or 1.0
    if crs.is_engineering:
        return np.asarray(result * factor)
    step = STEP if crs.is_geographic else STEP * 1e5 / factor
    transformer = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    # Central differences: one-sided ones would be off by the curvature.
    moves = step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
    points = (places[:, None] + moves).reshape(-1, 2)
    lon, lat = transformer.transform(*points.T)
    lon, lat = (np.reshape(each, (-1, len(moves))) for each in (lon, lat))
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise LayerError(
            f"coordinates lie outside the domain of {crs.name}; check the georeference and the CRS"
        )
    east, north = _radii_m(lat[:, 4])
    for axis, (ahead, behind) in enumerate(((0, 1), (2, 3))):
        turn = (lon[:, ahead] - lon[:, behind] + 180.0) % 360.0 - 180.0
        result[:, axis, 0] = np.radians(turn) * east / (2 * step)
        result[:, axis, 1] = np.radians(lat[:, ahead] - lat[:, behind]) * north / (2 * step)
    flat = np.abs(np.linalg.det(result)) < 1e-12 * factor**2
    result[flat] = np.eye(2) * factor
    return result


def _radii_m(latitude: Floats) -> tuple[Floats, Floats]:
    """Metres per radian of longitude and of latitude at (n,) latitudes in degrees."""
    ellipsoid = Geod(ellps="WGS84")
    sin = np.sin(np.radians(latitude))
    bend = 1 - ellipsoid.es * sin * sin
    across = ellipsoid.a / np.sqrt(bend)
    return (
        np.asarray(across * np.maximum(np.cos(np.radians(latitude)), 1e-6)),
        np.asarray(across * (1 - ellipsoid.es) / bend),
    )


def components(count: int, pairs: Indices) -> Indices:
    """Which things hang together.

    Args:
        count: Number of things, n.
        pairs: (p, 2) things that belong to one another.

    Returns:
        (n,) number of each thing's component, from 0, in order of their first members.
    """
    label = np.arange(count)
    one, other = pairs[:, 0], pairs[:, 1]
    while True:
        least = np.minimum(label[one], label[other])
        before = label.copy()
        # Roots are hooked as well, so that long chains shrink by half a turn.
        for ends in (one, other):
            np.minimum.at(label, before[ends], least)
            np.minimum.at(label, ends, least)
        label = label[label]
        if np.array_equal(label, before):
            return np.unique(label, return_inverse=True)[1].astype(np.intp)
