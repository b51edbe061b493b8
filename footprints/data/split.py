"""Validation split by place: ground that validates or is held out never shows in training.

Large rasters are split into blocks, collections of small images into cells of a coarse grid on the
ground, so that neighbouring chips never sit on both sides. What is kept from one image is kept from
every other image that shows the same ground.

Kept ground grows by a buffer before training windows are tested against it, because resampling
looks a little beyond a window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import geopandas as gpd
import numpy as np
import shapely

from footprints.chip import Window
from footprints.data.labels import (
    LEFT_OUT,
    LabelledImage,
    to_crs_units,
    window_box,
)
from footprints.errors import TrainingError
from footprints.vector.affine import apply_affine

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pyproj import CRS


class Block(NamedTuple):
    """A part of an image that validates."""

    image: LabelledImage
    window: Window
    """In raster pixels, whole numbers, inside the raster."""

    @property
    def outline(self) -> shapely.Polygon:
        """In CRS units, or raster pixels of an image without CRS."""
        return to_crs_units(self.window, self.image.transform)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImage:
    """An image and the part of it that training must not see."""

    image: LabelledImage
    kept: shapely.Geometry | None
    """Ground kept from training, in raster pixels, buffered and prepared; None: all is free."""

    def is_free(self, window: Window) -> bool:
        """Whether a window in raster pixels shows no ground that is kept from training."""
        return self.kept is None or not self.kept.intersects(window_box(window))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """What trains and what validates."""

    training: list[list[TrainingImage]]
    """By scene; images that are kept from training whole are left out."""
    validation: list[Block]


def split_by_place(
    scenes: Sequence[Sequence[LabelledImage]],
    *,
    chip_size: int,
    gsd_m: float | None,
    holdout: GeoDataFrame | None = None,
    validation: GeoDataFrame | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    buffer_px: float = 8.0,
    cell_m: float = 500.0,
) -> Split:
    """Divide the ground of all scenes into training, validation and what nothing may look at.

    Args:
        scenes: The images of each scene.
        chip_size: Side of a chip in pixels.
        gsd_m: Metres per chip pixel; None: every image at its own.
        holdout: Polygons in any CRS that neither train nor validate.
        validation: Polygons in any CRS that validate; of a rotated raster, the box of pixels around
            each. A small image that meets one validates whole.
        validation_share: Share of each scene's buildings that validate, where no polygons say so.
        seed: Chooses the ground where a share is asked for.
        buffer_px: Width in chip pixels of the strip around kept ground that is not used at all:
            more than resampling reaches beyond a window.
        cell_m: Side of the cells that keep small images together.

    Raises:
        TrainingError: The share is out of range or leaves nothing, or ``validation`` lies beside
            all images or meets ``holdout``.
    """

    def buffer(image: LabelledImage) -> float:
        return buffer_px * max(image.scale(gsd_m))

    held_out = _Ground.of_layer(holdout)
    groups_by_scene = [_cut_into_groups(images, chip_size, gsd_m, cell_m) for images in scenes]
    if validation is not None:
        blocks = _blocks_on(validation, groups_by_scene)
        if any(held_out.on(*block, buffer(block.image)) is not None for block in blocks):
            raise TrainingError(
                f"validation polygons come within {buffer_px:g} chip pixels of the holdout; "
                f"keep them apart"
            )
    else:
        blocks = []
        for groups in groups_by_scene:
            free = [
                group
                for group in groups
                if all(held_out.on(*block, buffer(block.image)) is None for block in group)
                and any(block.image.is_labelled(block.window) for block in group)
            ]
            blocks += choose_by_share(free, validation_share, seed)
        if validation_share and not blocks:
            raise TrainingError(
                f"too little ground to validate on a share of {validation_share}: that takes an "
                f"image two chips of {chip_size} px wide and high, or several images apart, with "
                f"complete labels (aoi) in two such places beside the holdout; name polygons to "
                f"validate on (data.validation), or set a smaller chip size, or the validation "
                f"share to 0"
            )
    kept = _Ground(
        [*held_out.shapes, *(block.outline for block in blocks)],
        [*held_out.frames, *(block.image.crs or block.image.path for block in blocks)],
    )
    training = [
        [part for image in images if (part := _free_part(image, kept, buffer(image))) is not None]
        for images in scenes
    ]
    return Split(training, blocks)


def choose_by_share(groups: Sequence[list[Block]], share: float, seed: int) -> list[Block]:
    """Choose groups that hold about a share of a scene's buildings.

    Groups come in random order, and each is chosen that brings the sum nearer to the share. Of two
    or more, at least one is chosen and at least one is left; a single one is left.

    Args:
        groups: Blocks that stay together.
        share: From 0 (nothing is chosen) to below 1.
        seed: Of the order.

    Raises:
        TrainingError: The share is out of range.
    """
    if not 0 <= share < 1:
        raise TrainingError(f"the validation share must be in [0, 1), got {share}")
    if share == 0 or len(groups) < 2:
        return []
    # Every block counts as one building more, so that ground without any has its part too.
    sizes = [_count_buildings(group) + len(group) for group in groups]
    order = np.random.default_rng(seed).permutation(len(groups))
    missing = share * sum(sizes)
    chosen: list[int] = []
    for index in order:
        if abs(missing - sizes[index]) < abs(missing) and len(chosen) < len(groups) - 1:
            chosen.append(int(index))
            missing -= sizes[index]
    return [block for index in chosen or [int(np.argmin(sizes))] for block in groups[index]]


def _cut_into_groups(
    images: Sequence[LabelledImage], chip_size: int, gsd_m: float | None, cell_m: float
) -> list[list[Block]]:
    """All the ground of a scene, in groups of blocks that validate together or not at all.

    An image less than two chips wide or high is one block, and shares a group with its neighbours.
    """
    groups: dict[tuple[object, ...], list[Block]] = {}
    for number, image in enumerate(images):
        scale_x, scale_y = image.scale(gsd_m)
        columns = int(image.width / (chip_size * scale_x))
        rows = int(image.height / (chip_size * scale_y))
        if min(columns, rows) < 2:
            block = Block(image, Window(0, 0, image.width, image.height))
            groups.setdefault(_cell(image, cell_m), []).append(block)
            continue
        for window in _tile(image, rows, columns):
            groups[number, window] = [Block(image, window)]
    return list(groups.values())


def _tile(image: LabelledImage, rows: int, columns: int) -> list[Window]:
    """Cut a raster into equal windows, to the pixel."""
    xs = np.linspace(0, image.width, columns + 1).astype(int).tolist()
    ys = np.linspace(0, image.height, rows + 1).astype(int).tolist()
    return [
        Window(x0, y0, x1 - x0, y1 - y0)
        for y0, y1 in itertools.pairwise(ys)
        for x0, x1 in itertools.pairwise(xs)
    ]


def _cell(image: LabelledImage, cell_m: float) -> tuple[object, ...]:
    """The cell of a coarse grid over the CRS in which an image's centre lies.

    An image that does not say where it lies has one to itself.
    """
    if image.crs is None:
        return (image.path,)
    per_metre = 1.0
    if image.gsd_m is not None:
        # CRS units per metre: what a raster pixel measures in either. Rounded, because it differs
        # a little from image to image and the grid must not.
        ratio = abs(image.transform.determinant) / (image.gsd_m[0] * image.gsd_m[1])
        per_metre = float(f"{ratio**0.5:.1e}")
    centre = image.footprint.centroid
    side = cell_m * per_metre
    return image.crs.to_wkt(), int(centre.x // side), int(centre.y // side)


def _blocks_on(layer: GeoDataFrame, groups_by_scene: Sequence[list[list[Block]]]) -> list[Block]:
    """The parts of the images under each polygon: whole if small, else the box of pixels in it."""
    ground = _Ground.of_layer(layer)
    blocks = [block for groups in groups_by_scene for group in groups for block in group]
    whole: list[Block] = []
    large: dict[int, LabelledImage] = {}
    for image, window in blocks:
        if (window.width, window.height) != (image.width, image.height):
            large[id(image)] = image
        elif ground.on(image, window) is not None:
            whole.append(Block(image, window))
    boxes = [Block(i, w) for i in large.values() for w in ground.windows_on(i)]
    if not whole and not boxes:
        raise TrainingError("the validation polygons lie beside every image")
    return whole + boxes


def _free_part(image: LabelledImage, kept: _Ground, buffer: float) -> TrainingImage | None:
    """An image less the ground kept from training; None if nothing remains."""
    whole = Window(0, 0, image.width, image.height)
    shape = kept.on(image, whole, buffer)
    if shape is None:
        return TrainingImage(image, None)
    if shape.covers(window_box(whole)):
        return None
    shapely.prepare(shape)
    return TrainingImage(image, shape)


def _count_buildings(group: Sequence[Block]) -> int:
    """How many labels meet the ground of a group on which labels are complete."""
    count = 0
    for image, window in group:
        ground = window_box(window)
        if image.aoi is not None:
            ground = shapely.intersection(ground, image.aoi)
        count += int((image.labels[image.tree.query(ground)] != LEFT_OUT).sum())
    return count


class _Ground:
    """Areas on the ground, each in its own CRS, to be found on any image.

    Those of an image without CRS are in its pixels, have its path for a CRS, and are on it alone.
    """

    def __init__(self, shapes: Sequence[shapely.Geometry], frames: Sequence[CRS | str]) -> None:
        self.shapes = shapes
        self.frames = frames
        self._placed = [
            (shape, frame)
            for shape, frame in zip(shapes, frames, strict=True)
            if not isinstance(frame, str)
        ]
        self._tree = shapely.STRtree([_on_globe(shape, crs) for shape, crs in self._placed])

    @classmethod
    def of_layer(cls, layer: GeoDataFrame | None) -> _Ground:
        """The polygons of a layer; none for no layer."""
        if layer is None:
            return cls([], [])
        return cls(list(layer.geometry), [layer.crs] * len(layer))

    def windows_on(self, image: LabelledImage) -> list[Window]:
        """The box of whole raster pixels inside each area's bounds, where an image has any."""
        windows = []
        for shape in self._parts(image):
            x0, y0 = np.maximum(np.ceil(np.round(shape.bounds[:2], 3)), 0).astype(int).tolist()
            x1, y1 = np.floor(np.round(shape.bounds[2:], 3)).astype(int).tolist()
            x1, y1 = min(x1, image.width), min(y1, image.height)
            if x1 > x0 and y1 > y0:
                windows.append(Window(x0, y0, x1 - x0, y1 - y0))
        return windows

    def on(
        self, image: LabelledImage, window: Window, buffer: float = 0.0
    ) -> shapely.Geometry | None:
        """What lies on a window of an image.

        Args:
            image: The image.
            window: In raster pixels.
            buffer: Raster pixels by which the areas grow.

        Returns:
            The union of all areas near the image, in raster pixels; None if they share no ground
            with the window.
        """
        parts = self._parts(image)
        if not parts:
            return None
        union = shapely.union_all(parts)
        if buffer:
            union = union.buffer(buffer, join_style="mitre")
        # An edge in common is no ground in common; rounding may make a sliver of it.
        shared = union.intersection(window_box(window)).area
        return union if shared > 1e-3 else None

    def _parts(self, image: LabelledImage) -> list[shapely.Geometry]:
        """The areas near an image, in raster pixels."""
        if image.crs is None:
            return [
                shape
                for shape, frame in zip(self.shapes, self.frames, strict=True)
                if isinstance(frame, str) and frame == image.path
            ]
        near = np.sort(self._tree.query(_on_globe(image.footprint, image.crs)))
        parts = []
        for index in near:
            shape, crs = self._placed[index]
            if crs != image.crs:
                # An edge that is straight in one CRS bends in another.
                dense = shapely.segmentize(shape, shape.length / 64)
                shape = gpd.GeoSeries([dense], crs=crs).to_crs(image.crs).iloc[0]
            parts.append(apply_affine(np.array([shape]), ~image.transform)[0])
        return parts


def _on_globe(shape: shapely.Geometry, crs: CRS) -> shapely.Polygon:
    """A box in degrees around a shape, to find what shows the same ground."""
    dense = gpd.GeoSeries([shapely.segmentize(shape, shape.length / 16)], crs=crs)
    # About 100 m, more than a buffer grows it by.
    return shapely.box(*dense.to_crs(4326).total_bounds).buffer(1e-3)
