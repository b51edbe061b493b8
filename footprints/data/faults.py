"""What is wrong with labels: off the image, doubled, shifted, missing.

The shift is where the labels' walls fit the imagery's edges best. A wall fits where the picture
changes across it, whether the roof is the brighter side or not: with the wall's normal n and the
picture's gradient g, by (n . g)^2 / |g|, capped. That is a sum of three products of one part from
the walls and one from the picture, so correlations by FFT try all shifts at once. How sure that is
follows from drawing the tiles anew (bootstrap).

Frames: raster pixels; work pixels, `_WORK_M` metres or a raster pixel wide, in a tile with a margin
as wide as the largest shift. A shift is that of the labels against the imagery.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from footprints.chip import Window
from footprints.data.labels import (
    LabelledImage,
    ReprojectedLayer,
    TrainingScene,
    label_image,
    window_box,
)
from footprints.data.targets import Cut, tile_window
from footprints.errors import LabelWarning
from footprints.raster.listing import list_rasters
from footprints.raster.source import open_scene
from footprints.tables import table
from footprints.vector.affine import apply_affine
from footprints.vector.read import clean_polygons, read_features, read_layer

LARGEST_SHIFT_M = 10.0
"""Shifts that are looked for, in each direction; at least `_LEAST_REACH` pixels."""
DOUBLED_IOU = 0.8
"""Two labels that agree as well as this are one building."""
LEAST_CLEAR_M = 1.0
"""Shorter shifts are within what shadows and leaning walls do to edges."""
CLEAR_ERRORS = 3.0
"""A shift is clear if it is this many standard errors long."""
_LEAST_REACH = 8
_WORK_M = 0.3
_TILE = 384
_TILES = 48
"""Tiles that are looked at, those with most labels: more add nothing."""
_LEAST_TILES = 4
"""Of fewer tiles no error can be told."""
_DRAWS = 200
_GROUP_M = 25.0
"""Buildings without label this near to one another are one area."""
_LEAST_GROUP = 3
"""Buildings that make an area look built up."""


class Shift(NamedTuple):
    """How far labels lie from where the imagery shows them."""

    east_m: float
    north_m: float
    error_m: float
    """Standard error of its length, from tile to tile."""

    @property
    def length_m(self) -> float:
        """Its length."""
        return float(np.hypot(self.east_m, self.north_m))

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance and shadows make of labels that are right."""
        return self.length_m > max(LEAST_CLEAR_M, CLEAR_ERRORS * self.error_m)


class Gap(NamedTuple):
    """An area that looks built up but has no labels."""

    buildings: int
    """Found by the detector."""
    x: float
    """Of its centre, in the CRS of the layer of what was found."""
    y: float


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What `check_labels` found."""

    labels: int
    """Polygons, multipolygons taken apart."""
    off_image: int
    """Labels that lie on no image."""
    invalid: int
    """Features with an invalid outline; they are repaired when they are read."""
    without_geometry: int
    """Features without one."""
    doubled: int
    """Labels that repeat another."""
    shift: Shift | None
    """None where the labels on imagery are too few to tell."""
    gaps: tuple[Gap, ...] | None
    """The largest first; None where no detector looked."""

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.labels:,} labels",
                f"{self.off_image:,} lie on no image",
                f"{self.invalid:,} invalid, {self.without_geometry:,} without geometry",
                f"{self.doubled:,} repeat another",
                self._say_shift(),
                *self._say_gaps(),
            ]
        )

    def _repr_html_(self) -> str:
        rows = [
            ("labels", f"{self.labels:,}"),
            ("on no image", f"{self.off_image:,}"),
            ("invalid", f"{self.invalid:,}"),
            ("without geometry", f"{self.without_geometry:,}"),
            ("repeat another", f"{self.doubled:,}"),
            tuple(self._say_shift().split(": ", 1)),
            *(("without labels", line.strip()) for line in self._say_gaps()),
        ]
        return table(rows, text=True)

    def _say_shift(self) -> str:
        if self.shift is None:
            return "shift against the imagery: too few labels to tell"
        east, north, error = self.shift
        how = "clear; move them back" if self.shift.is_clear else "may be chance"
        return (
            f"shift against the imagery: {abs(east):.1f} m {'east' if east >= 0 else 'west'}, "
            f"{abs(north):.1f} m {'north' if north >= 0 else 'south'}, standard error "
            f"{error:.1f} m: {how}"
        )

    def _say_gaps(self) -> list[str]:
        if self.gaps is None:
            return []
        found = sum(gap.buildings for gap in self.gaps)
        head = f"{len(self.gaps):,} areas look built up but have no labels, {found:,} buildings"
        return [
            head,
            *(f"  {g.buildings:,} around x {g.x:.10g}, y {g.y:.10g}" for g in self.gaps[:5]),
        ]


def check_labels(
    images: str | Path | Sequence[str | Path],
    labels: str | Path,
    *,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    aoi: str | Path | None = None,
    found: GeoDataFrame | None = None,
    seed: int = 0,
) -> LabelReport:
    """Look for what is wrong with labels.

    Args:
        images: A raster, a folder of rasters, a pattern, or a list.
        labels: Polygon layer in any CRS.
        bands: 1-based bands that show edges; None: as the raster has them.
        nodata: Overrides the raster's nodata value.
        aoi: Polygon layer of the areas outside which no label is missing; None: everywhere.
        found: Footprint layer that a detector found on the images (`footprints.predict`), to find
            buildings without labels by.
        seed: Of the draws that tell how sure the shift is.

    Raises:
        LayerError: The labels are unreadable, without CRS, lines or points, or empty.
        RasterError: An image is missing, unreadable or without georeference.
    """
    features = read_features(labels)
    geometries = features.geometry.to_numpy()
    there = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    with warnings.catch_warnings():
        # The report says all that they would.
        warnings.simplefilter("ignore", LabelWarning)
        polygons = clean_polygons(features, name=str(labels), allow_empty=False)
        scene = TrainingScene(images, labels, bands=_tuple(bands), nodata=nodata)
        labelled, used = _open_all(scene, polygons)
    return LabelReport(
        labels=len(polygons),
        off_image=int((~used).sum()),
        invalid=int((~shapely.is_valid(geometries[there])).sum()),
        without_geometry=int((~there).sum()),
        doubled=_count_doubled(polygons.geometry.to_numpy()),
        shift=_measure_shift(labelled, np.random.default_rng(seed)),
        gaps=None if found is None else _find_gaps(_inside(found, aoi), polygons),
    )


def _inside(layer: GeoDataFrame, aoi: str | Path | None) -> GeoDataFrame:
    """The rows of a layer that meet an area of interest."""
    if aoi is None:
        return layer
    return layer[layer.intersects(read_layer(aoi).to_crs(layer.crs).union_all())]


def _tuple(bands: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if bands is None else tuple(bands)


def _open_all(
    scene: TrainingScene, polygons: GeoDataFrame
) -> tuple[list[LabelledImage], NDArray[np.bool_]]:
    """The images with their labels, and which of the labels lie on any."""
    layer = ReprojectedLayer(polygons, str(scene.labels))
    used, images = np.zeros(len(polygons), dtype=bool), []
    for path in list_rasters(scene.images):
        with open_scene(path, bands=scene.bands, nodata=scene.nodata) as raster:
            rows, on_image = layer.on(raster)
            labels = np.zeros(len(rows), dtype=np.int64)
            images.append(label_image(raster, scene, on_image, labels, None))
        used[rows] = True
    return images, used


def _count_doubled(polygons: NDArray[np.object_]) -> int:
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    first, second = first[first < second], second[first < second]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    area = shapely.area(polygons)
    iou = shared / (area[first] + area[second] - shared)
    return len(np.unique(second[iou > DOUBLED_IOU]))


def _find_gaps(found: GeoDataFrame, labels: GeoDataFrame) -> tuple[Gap, ...]:
    """Groups of buildings found that meet no label."""
    metric = found.to_crs(found.estimate_utm_crs())
    buildings = metric.geometry.to_numpy()
    known = shapely.STRtree(labels.to_crs(metric.crs).geometry.to_numpy())
    alone = np.setdiff1d(
        np.arange(len(buildings)), known.query(buildings, predicate="intersects")[0]
    )
    centres = shapely.centroid(buildings[alone])
    areas = shapely.get_parts(shapely.union_all(shapely.buffer(centres, _GROUP_M / 2)))
    _, owner = shapely.STRtree(areas).query(centres, predicate="within")
    counts = np.bincount(owner, minlength=len(areas))
    built_up = [i for i in np.argsort(-counts, kind="stable") if counts[i] >= _LEAST_GROUP]
    places = GeoDataFrame(geometry=shapely.centroid(areas[built_up]), crs=metric.crs)
    return tuple(
        Gap(int(counts[i]), point.x, point.y)
        for i, point in zip(built_up, places.to_crs(found.crs).geometry, strict=True)
    )


def _measure_shift(images: Sequence[LabelledImage], rng: np.random.Generator) -> Shift | None:
    """The shift that fits the tiles with most labels best."""
    axes = _axes(max(images, key=lambda image: len(image.polygons)))
    # Fits add up where x and y are the same directions.
    alike = [image for image in images if np.allclose(_axes(image), axes, atol=1e-3)]
    work_m = max(_WORK_M, *(side for image in alike for side in image.gsd_m or ()))
    reach = max(_LEAST_REACH, round(LARGEST_SHIFT_M / work_m))
    maps = np.array([_fit(cut, reach) for cut in _tiles_with_labels(alike, work_m)])
    maps = maps[[bool(fit.any()) for fit in maps]]
    if len(maps) < _LEAST_TILES:
        return None
    best = _peak(maps.sum(axis=0)) - reach
    draws = rng.integers(len(maps), size=(_DRAWS, len(maps)))
    peaks = np.array([_peak(maps[draw].sum(axis=0)) - reach for draw in draws])
    error = float(np.sqrt(((peaks - best) ** 2).sum(axis=1).mean()))
    # Edges lie on the far side of where the labels were shifted to.
    east, north = -axes @ best * work_m
    return Shift(float(east), float(north), error * work_m)


def _axes(image: LabelledImage) -> NDArray[np.float64]:
    """(2, 2) directions of the image's x and y in the CRS, as columns of length 1."""
    linear = np.array(
        [[image.transform.a, image.transform.b], [image.transform.d, image.transform.e]]
    )
    axes: NDArray[np.float64] = linear / np.linalg.norm(linear, axis=0)
    return axes


def _tiles_with_labels(images: Sequence[LabelledImage], work_m: float) -> list[Cut]:
    cuts = [
        cut
        for image in images
        for cut in tile_window(image, Window(0, 0, image.width, image.height), _TILE, work_m)
    ]
    counts = np.array([len(cut.image.tree.query(window_box(cut.window))) for cut in cuts])
    order = np.argsort(-counts, kind="stable")[:_TILES]
    return [cuts[i] for i in np.sort(order[counts[order] > 0])]


def _fit(cut: Cut, reach: int) -> NDArray[np.float64]:
    """How well a tile's walls fit the picture's edges, for each shift of the edges.

    Returns:
        (2 reach + 1, 2 reach + 1) by y and x from -reach to reach work pixels, less its mean;
        zeros where there is nothing to fit.
    """
    across, down = cut.window.width / cut.width, cut.window.height / cut.height
    window = Window(
        cut.window.x - reach * across,
        cut.window.y - reach * down,
        (cut.width + 2 * reach) * across,
        (cut.height + 2 * reach) * down,
    )
    shape = cut.height + 2 * reach, cut.width + 2 * reach
    with cut.image.open() as raster:
        pixels, valid = raster.read(window, shape)
    edges = _edges(pixels.astype(np.float64).mean(axis=0), valid)
    walls = np.zeros((3, cut.height, cut.width))
    rows = cut.image.tree.query(window_box(cut.window))
    _draw_walls(walls, apply_affine(cut.image.polygons[rows], cut.to_chip))
    spectrum = np.conj(np.fft.rfft2(walls, s=shape)) * np.fft.rfft2(edges)
    side = 2 * reach + 1
    fit: NDArray[np.float64] = np.fft.irfft2(spectrum.sum(axis=0), s=shape)[:side, :side]
    fit -= fit.mean()
    return fit


def _edges(grey: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(3, height, width) gx^2, gx gy and gy^2 over |g| of a smoothed picture; 0 beside no data."""
    smooth: NDArray[np.float64] = np.pad(grey, 1, mode="edge")
    smooth = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
    smooth = (smooth[:, :-2] + 2 * smooth[:, 1:-1] + smooth[:, 2:]) / 4
    gy, gx = np.gradient(smooth)
    inside = np.pad(valid, 2)
    # Two pixels less on each side: smoothing and gradient look as far.
    for axis in (0, 1, 0, 1):
        inside &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    strength = np.hypot(gx, gy)
    usual = strength[valid].mean() if valid.any() else 1.0
    # A strong edge counts as one: the shadow of one tower must not outweigh a street of houses.
    weight = inside[2:-2, 2:-2] / np.maximum(strength * np.maximum(strength, usual), 1e-9)
    products: NDArray[np.float64] = np.stack([gx * gx, gx * gy, gy * gy]) * weight
    return products


def _draw_walls(walls: NDArray[np.float64], polygons: NDArray[np.object_]) -> None:
    """Add nx^2, 2 nx ny and ny^2 of the walls' normals along them, a point every half pixel."""
    rings = shapely.get_rings(polygons)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    along = np.diff(points, axis=0)
    one_ring = ring[1:] == ring[:-1]
    starts, along = points[:-1][one_ring], along[one_ring]
    length = np.hypot(*along.T)
    starts, along, length = starts[length > 0], along[length > 0], length[length > 0]
    steps = np.ceil(2 * length).astype(int)
    wall = np.repeat(np.arange(len(steps)), steps)
    share = (np.arange(len(wall)) - np.repeat(np.cumsum(steps) - steps, steps) + 0.5) / steps[wall]
    x, y = np.floor(starts[wall] + share[:, np.newaxis] * along[wall]).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < walls.shape[2]) & (y < walls.shape[1])
    nx, ny = (along[:, 1] / length)[wall], (-along[:, 0] / length)[wall]
    weight = (length / steps)[wall]
    for plane, value in zip(walls, (nx * nx, 2 * nx * ny, ny * ny), strict=True):
        np.add.at(plane, (y[inside], x[inside]), (weight * value)[inside])


def _peak(fit: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y) of the highest place of a map, between its cells by a parabola along each axis."""
    y, x = np.unravel_index(np.argmax(fit), fit.shape)
    return np.array([x + _vertex(fit[y], int(x)), y + _vertex(fit[:, x], int(y))])


def _vertex(values: NDArray[np.float64], at: int) -> float:
    """Offset of a parabola's top through a highest value and its neighbours; 0 at the ends."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, top, after = values[at - 1 : at + 2]
    bend = before - 2 * top + after
    return float((before - after) / (2 * bend)) if bend else 0.0
