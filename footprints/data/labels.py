"""Scenes and their vector labels, indexed image by image in raster pixels.

Every label is moved once, when it is read, into the raster pixels of the image it lies on. From
there to a chip it takes one affine, and CRS, rotated rasters and degrees are dealt with.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import Window
from footprints.data.pairs import IMAGE, read_pairs
from footprints.errors import LabelWarning, LayerError, RasterError
from footprints.raster.listing import list_rasters
from footprints.raster.source import Scene, open_scene
from footprints.vector.affine import apply_affine
from footprints.vector.classes import count_values, read_classes, require_column
from footprints.vector.read import read_layer

if TYPE_CHECKING:
    from affine import Affine
    from geopandas import GeoDataFrame
    from pyproj import CRS

LEFT_OUT = -1
"""Label of a polygon whose class is not to be learnt: neither a target nor background."""


@dataclass(frozen=True, slots=True)
class TrainingScene:
    """Imagery and the labels drawn on it."""

    images: str | Path | Sequence[str | Path]
    """A raster, a folder of rasters, a pattern such as ``images/*.tif``, or a list of rasters."""
    labels: str | Path
    """Polygon layer of the buildings on all of the images; or a folder with a GeoJSON for each
    image, as SpaceNet has them (`footprints.data.pairs`)."""
    aoi: str | Path | None = None
    """Polygon layer of the areas in which labels are complete; None: everywhere."""
    image_column: str | None = None
    """Column of ``labels`` that names the image file of each polygon; None: every polygon counts
    on every image under it. Of a folder each file belongs to its own image."""
    class_column: str | None = None
    """Column of ``labels`` with the class; None: all are of the first class."""
    class_map: Mapping[str, str | None] = field(default_factory=dict)
    """Values of that column to class names; what is mapped to None, or empty, is `LEFT_OUT`."""
    bands: tuple[int, ...] | None = None
    """1-based bands to read, in order; None: as the raster has them."""
    nodata: float | None = None
    """Overrides the raster's nodata value."""


class ImageOptions(Protocol):
    """How the images of a scene are read."""

    @property
    def bands(self) -> tuple[int, ...] | None:
        """1-based bands, in order; None: as the raster has them."""

    @property
    def nodata(self) -> float | None:
        """Overrides the raster's nodata value."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One raster and the labels on it."""

    path: str
    bands: tuple[int, ...] | None
    """Bands to read; None: as the raster has them."""
    nodata: float | None
    count: int
    """Number of bands that are read."""
    dtype: str
    width: int
    height: int
    gsd_m: tuple[float, float] | None
    """Metres per raster pixel along x and y; None where the CRS has no metres."""
    crs: CRS | None
    """None for an image that does not say where it lies."""
    transform: Affine
    """Raster pixels to CRS units; identity without a CRS."""
    polygons: NDArray[np.object_]
    """(n,) valid Polygons and MultiPolygons in raster pixels; they may reach beyond the image."""
    labels: NDArray[np.int64]
    """(n,) 0-based class of each polygon, or `LEFT_OUT`."""
    tree: shapely.STRtree
    """Over ``polygons``."""
    aoi: shapely.Geometry | None
    """Where labels are complete, in raster pixels; None: everywhere."""

    def open(self) -> Scene:
        """Open the raster, with the bands and the nodata value it is to be read with.

        Raises:
            RasterError: It is missing or unreadable by now.
        """
        return open_scene(self.path, bands=self.bands, nodata=self.nodata, pixels=self.crs is None)

    @property
    def footprint(self) -> shapely.Polygon:
        """The raster's outline in CRS units."""
        return to_crs_units(Window(0, 0, self.width, self.height), self.transform)

    def scale(self, gsd_m: float | None) -> tuple[float, float]:
        """Raster pixels per chip pixel along x and y.

        Args:
            gsd_m: Metres per chip pixel; None: as the raster.
        """
        if gsd_m is None or self.gsd_m is None:
            return 1.0, 1.0
        return gsd_m / self.gsd_m[0], gsd_m / self.gsd_m[1]

    def is_labelled(self, window: Window) -> bool:
        """Whether labels are complete anywhere in a window in raster pixels."""
        return self.aoi is None or bool(self.aoi.intersects(window_box(window)))

    def has_buildings(self, area: shapely.Polygon) -> bool:
        """Whether any label that is not left out meets an area in raster pixels."""
        met = self.labels[self.tree.query(area, predicate="intersects")]
        return bool((met != LEFT_OUT).any())


def window_box(window: Window) -> shapely.Polygon:
    """A window as a polygon in its own pixel frame."""
    return shapely.box(
        window.x, window.y, window.x + window.width, window.y + window.height, ccw=True
    )


def to_crs_units(window: Window, transform: Affine) -> shapely.Polygon:
    """The outline of a window in raster pixels, in CRS units."""
    return apply_affine(np.array([window_box(window)]), transform)[0]


def read_training_scene(
    scene: TrainingScene, *, classes: Sequence[str] = ("building",)
) -> list[LabelledImage]:
    """Open every image of a scene once and give it its labels.

    Args:
        scene: Imagery and labels.
        classes: Class names, in the order of the labels.

    Returns:
        One entry per image, in order; an image without buildings stays, without polygons.

    Raises:
        LayerError: The labels are unreadable, have no polygon or no CRS, lack a column, name an
            unknown class, are all left out, or lie on none of the images; so does the area of
            interest.
        RasterError: An image is missing, unreadable or without georeference.

    Warns:
        LabelWarning: Labels were repaired or reprojected, have no class, or lie on no image.
    """
    name, paths = str(scene.labels), list_rasters(scene.images)
    image_column: str | None
    if Path(scene.labels).is_dir():
        frame, image_column = read_pairs(scene.labels, paths), IMAGE
    else:
        frame, image_column = read_layer(scene.labels, allow_empty=False), scene.image_column
    if image_column is not None:
        require_column(frame, image_column, name=name)
    label_of_row = class_indices(frame, scene.class_column, scene.class_map, classes, name=name)
    layers = ReprojectedLayer(frame, name)
    areas = read_areas(scene.aoi)
    images, used = [], np.zeros(len(frame), dtype=bool)
    for path in paths:
        with open_scene(path, bands=scene.bands, nodata=scene.nodata) as raster:
            rows, polygons = layers.on(raster)
            if image_column is not None:
                names = frame[image_column].to_numpy()[rows]
                own = np.isin(names, [Path(path).name, Path(path).stem])
                rows, polygons = rows[own], polygons[own]
            images.append(label_image(raster, scene, polygons, label_of_row[rows], areas))
        used[rows] = True
    _check_overlap(images, frame, name, used)
    check_areas(images, areas)
    return images


class ReprojectedLayer:
    """A layer in the CRS of whichever image asks, reprojected once per CRS and said once."""

    def __init__(self, frame: GeoDataFrame, name: str) -> None:
        self.frame = frame
        self.name = name
        self._by_crs: dict[str, tuple[NDArray[np.object_], shapely.STRtree]] = {}

    def on(self, raster: Scene) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """What meets an image.

        Args:
            raster: The open image.

        Returns:
            (n,) rows of the layer, ascending, and their polygons in raster pixels.

        Raises:
            RasterError: The image does not say where it lies.
        """
        if raster.crs is None:
            raise RasterError(
                f"{raster.path} does not say where it lies, so {self.name} cannot be placed on it; "
                f"give it a georeference or leave that layer out"
            )
        polygons, tree = self._in_crs(raster.crs)
        outline = to_crs_units(Window(0, 0, raster.width, raster.height), raster.transform)
        rows = np.sort(tree.query(outline, predicate="intersects"))
        return rows, apply_affine(polygons[rows], ~raster.transform)

    def _in_crs(self, crs: CRS) -> tuple[NDArray[np.object_], shapely.STRtree]:
        key = crs.to_wkt()
        if key not in self._by_crs:
            geometries = self.frame.geometry
            if geometries.crs != crs:
                if not self._by_crs:
                    warnings.warn(
                        f"{self.name} is in {geometries.crs.name} and was reprojected to "
                        f"{crs.name}, the CRS of its image",
                        LabelWarning,
                        stacklevel=5,
                    )
                geometries = geometries.to_crs(crs)
            polygons = geometries.to_numpy()
            self._by_crs[key] = polygons, shapely.STRtree(polygons)
        return self._by_crs[key]


def read_areas(path: str | Path | None) -> ReprojectedLayer | None:
    """An area of interest, where there is one; errors as `read_layer`."""
    return None if path is None else ReprojectedLayer(read_layer(path), str(path))


def label_image(
    raster: Scene,
    scene: ImageOptions,
    polygons: NDArray[np.object_],
    labels: NDArray[np.int64],
    areas: ReprojectedLayer | None,
) -> LabelledImage:
    """An open image with its labels.

    Args:
        raster: The image.
        scene: Where it belongs.
        polygons: (n,) Polygons and MultiPolygons in raster pixels.
        labels: (n,) class of each, or `LEFT_OUT`.
        areas: Where labels are complete; None: everywhere.

    Raises:
        RasterError: There are areas, and the image does not say where it lies.
    """
    aoi = None
    if areas is not None:
        aoi = shapely.union_all(areas.on(raster)[1])
    return LabelledImage(
        path=raster.path,
        bands=scene.bands,
        nodata=scene.nodata,
        count=len(raster.bands),
        dtype=str(raster.dtype),
        width=raster.width,
        height=raster.height,
        gsd_m=raster.gsd_m(),
        crs=raster.crs,
        transform=raster.transform,
        polygons=polygons,
        labels=labels,
        tree=shapely.STRtree(polygons),
        aoi=aoi,
    )


def class_indices(
    frame: GeoDataFrame,
    column: str | None,
    class_map: Mapping[str, str | None],
    classes: Sequence[str],
    *,
    name: str,
) -> NDArray[np.int64]:
    """(n,) class index of each row of a layer, or `LEFT_OUT`.

    Args:
        frame: The layer.
        column: Column with the class; None: all are of the first class.
        class_map: Its values to class names, or to None.
        classes: Class names, in the order of the indices.
        name: What messages call the layer.

    Raises:
        LayerError: The column is missing, names an unknown class, or leaves out every row.
    """
    if column is None:
        return np.zeros(len(frame), dtype=np.int64)
    found = read_classes(frame, column, class_map, name=name)
    index: dict[str | None, int] = {class_: i for i, class_ in enumerate(classes)}
    unknown = [class_ for class_ in found if class_ is not None and class_ not in index]
    if unknown:
        raise LayerError(
            f"{name} has unknown classes {count_values(unknown)} in column {column!r}; known are: "
            f"{', '.join(classes)}; map others in class_map, to null what is not to be learnt"
        )
    labels = np.array([index.get(class_, LEFT_OUT) for class_ in found], dtype=np.int64)
    if (labels == LEFT_OUT).all():
        raise LayerError(
            f"none of the {len(labels)} polygons of {name} has a class in column {column!r}; check "
            f"the column and class_map"
        )
    return labels


def check_areas(images: Sequence[LabelledImage], areas: ReprojectedLayer | None) -> None:
    """Raise LayerError where an area of interest lies beside every image."""
    if areas is not None and all(image.aoi is None or image.aoi.is_empty for image in images):
        raise LayerError(
            f"area of interest {areas.name} lies beside {images[0].path}"
            f"{' and all other images' if len(images) > 1 else ''}; check both"
        )


def _check_overlap(
    images: list[LabelledImage], frame: GeoDataFrame, name: str, used: NDArray[np.bool_]
) -> None:
    """Labels that lie on no image are an error if they all do, a warning if most do."""
    if not used.any():
        first = images[0]
        assert first.crs is not None, "the labels were placed on it"
        others = f" or the {len(images) - 1} other images" if len(images) > 1 else ""
        raise LayerError(
            f"no label of {name} lies on {first.path}{others}: in {first.crs.name}, labels cover "
            f"{_extent(frame.to_crs(first.crs).total_bounds)}, "
            f"the image {_extent(first.footprint.bounds)}; check the CRS of both"
        )
    if used.mean() < 0.5:
        warnings.warn(
            f"{np.count_nonzero(~used)} of {len(used)} labels of {name} lie on no image and are "
            f"left out; check that imagery and labels show the same place",
            LabelWarning,
            stacklevel=3,
        )


def _extent(bounds: Sequence[float]) -> str:
    x_min, y_min, x_max, y_max = bounds
    return f"x {x_min:.6g} to {x_max:.6g}, y {y_min:.6g} to {y_max:.6g}"
