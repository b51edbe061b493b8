"""From cuts of labelled images to one chip with its targets.

A cut is a window of one image: pixels are read straight to chip resolution, polygons follow by one
affine, and masks are rasterised from the polygons last, over their own boxes.

Shapes: n buildings on a chip, M = `MASK_SIDE`, 4 keypoints a building: its corners. Boxes are
x_min, y_min, x_max, y_max in chip pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask

from footprints.chip import ChipGrid, Window
from footprints.data.augment import LEVEL, UPRIGHT, Orientation, Tilt
from footprints.data.labels import LEFT_OUT, LabelledImage, window_box
from footprints.vector.affine import apply_affine
from footprints.vector.coverage import rasterize_coverage

MASK_SIDE = 112
"""Cells along each side of a mask target."""
MIN_VISIBLE_SHARE = 0.1
"""A building of which less is on the chip is no target, but no background either."""
MIN_SIDE_PX = 3.0
"""Nor is one whose visible part is narrower than this many chip pixels."""
MIN_LABELLED_SHARE = 0.5
"""Nor is one with less of its box on ground that has both data and complete labels."""
_SAME_PX = 1e-3
"""A vertex of a visible part this close to one of the building is that vertex."""
_WHOLE = 0.999
"""Of a pixel, this much must have data; less than all of it, for rounding."""

Pixels = NDArray[np.generic]
Read = Callable[[LabelledImage, Window, tuple[int, int]], tuple[Pixels, NDArray[np.bool_]]]
"""(image, window in raster pixels, (height, width)) -> (bands, height, width) pixels and
(height, width) valid."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One chip with its targets."""

    pixels: NDArray[np.float32]
    """(bands, height, width) in the values of the imagery, 0 where there is no data."""
    valid: NDArray[np.bool_]
    """(height, width), True where there is data."""
    labelled: NDArray[np.bool_]
    """(height, width), True where labels are complete; elsewhere nothing counts as background."""
    boxes: NDArray[np.float32]
    """(n, 4), around the visible part of each building."""
    labels: NDArray[np.int64]
    """(n,) 0-based class."""
    masks: NDArray[np.uint8]
    """(n, M, M) share of each cell of the mask box that is visible building, 0 to 255."""
    mask_boxes: NDArray[np.float32]
    """(n, 4), the box with a margin of one mask cell on each side."""
    keypoints: NDArray[np.float32]
    """(n, 4, 3) x and y of each corner in chip pixels, in the order of `footprints.config.CORNERS`,
    and 1 where it is one of the building, 0 where an edge of chip or raster cuts it off."""
    origin: str
    """Where it was cut from, for messages."""


class Cut(NamedTuple):
    """A window of one image and its place on a chip."""

    image: LabelledImage
    window: Window
    """In raster pixels; it may reach beyond the raster."""
    height: int
    """Chip pixels along y that it shows, before it is turned."""
    width: int
    """Chip pixels along x that it shows, before it is turned."""
    orientation: Orientation = UPRIGHT
    x: int = 0
    """Left edge on the chip."""
    y: int = 0
    """Upper edge on the chip."""
    tilt: Tilt = LEVEL
    """Where there is one, the window is larger than what is shown."""
    thinned: bool = False
    """Of finer imagery, the nearest pixels are taken, not averages: sharp and jagged."""

    @property
    def to_chip(self) -> Affine:
        """Raster pixels to chip pixels."""
        height, width = self.read_shape
        return (
            Affine.translation(self.x, self.y)
            @ self.orientation.affine(self.height, self.width)
            @ self.tilt.affine(self.height, self.width)
            @ Affine.scale(width / self.window.width, height / self.window.height)
            @ Affine.translation(-self.window.x, -self.window.y)
        )

    @property
    def read_shape(self) -> tuple[int, int]:
        """Height and width that the window is read to, in chip pixels."""
        return self.tilt.shape_under(self.height, self.width)

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the chip that it fills."""
        height, width = self.height, self.width
        if self.orientation.swaps_sides:
            height, width = width, height
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


class Visible(NamedTuple):
    """What a cut shows of the buildings that meet it."""

    parts: NDArray[np.object_]
    """(n,) polygons in chip pixels."""
    own: NDArray[np.object_]
    """(n,) MultiPoints in chip pixels: the buildings' vertices. Those on the raster's edge are left
    out: many labels were cut off there, and what is a corner cannot be told."""
    shares: NDArray[np.float64]
    """(n,) area of the part over that of the building."""
    labels: NDArray[np.int64]
    """(n,)."""


def tile_window(
    image: LabelledImage, window: Window, chip_size: int, gsd_m: float | None, overlap: int = 0
) -> list[Cut]:
    """Cover a window with cuts that stay inside it; the last row and column move inwards.

    Args:
        image: The image.
        window: In raster pixels.
        chip_size: Largest side of a cut in chip pixels.
        gsd_m: Metres per chip pixel; None: as the raster.
        overlap: Chip pixels that neighbours share, at least.

    Raises:
        ChipSizeError: Chip size and overlap do not fit together.
    """
    scale_x, scale_y = image.scale(gsd_m)
    grid = ChipGrid(
        height=max(1, int(window.height / scale_y)),
        width=max(1, int(window.width / scale_x)),
        size=chip_size,
        overlap=overlap,
    )
    return [
        Cut(
            image,
            Window(
                window.x + x * scale_x, window.y + y * scale_y, width * scale_x, height * scale_y
            ),
            int(height),
            int(width),
        )
        for x, y, width, height in grid
    ]


class Layout(NamedTuple):
    """A chip before its targets are rasterised."""

    pixels: NDArray[np.float32]
    """(bands, height, width)."""
    valid: NDArray[np.bool_]
    """(height, width)."""
    labelled: NDArray[np.bool_]
    """(height, width)."""
    visible: Visible
    """The labels of all its cuts."""
    origin: str


def make_sample(cuts: Sequence[Cut], read: Read, height: int, width: int) -> Sample:
    """Read the cuts of one chip and make its targets: `lay_out`, then `finish_sample`."""
    return finish_sample(lay_out(cuts, read, height, width))


def lay_out(cuts: Sequence[Cut], read: Read, height: int, width: int) -> Layout:
    """Read the cuts of one chip.

    Args:
        cuts: Side by side on the chip; ground that no cut fills has no data and no labels.
        read: Reads a window of an image.
        height: Chip height in pixels.
        width: Chip width in pixels.
    """
    bands = cuts[0].image.count
    pixels = np.zeros((bands, height, width), dtype=np.float32)
    valid = np.zeros((height, width), dtype=bool)
    labelled = np.zeros((height, width), dtype=bool)
    for cut in cuts:
        rows, columns = cut.place
        pixels[:, rows, columns], valid[rows, columns] = _show(cut, read)
        labelled[rows, columns] = True
        if cut.image.aoi is not None:
            labelled[rows, columns] = _covered(cut.image.aoi, cut, (height, width))[rows, columns]
    labelled &= valid
    pixels *= valid
    visible = [visible_parts(cut) for cut in cuts]
    origin = ", ".join(
        f"{cut.image.path} at column {cut.window.x:.0f}, row {cut.window.y:.0f}" for cut in cuts
    )
    whole = Visible(*(np.concatenate(column) for column in zip(*visible, strict=True)))
    return Layout(pixels, valid, labelled, whole, origin)


def finish_sample(layout: Layout) -> Sample:
    """Rasterise the targets of a chip.

    Returns:
        The chip. Buildings that are left out, or of which too little is visible, are no targets,
        and the ground they stand on is not labelled.
    """
    parts, own, shares, labels = layout.visible
    labelled = layout.labelled.copy()
    boxes = shapely.bounds(parts).reshape(-1, 4)
    narrow = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) < MIN_SIDE_PX
    hidden = share_inside(labelled, boxes) < MIN_LABELLED_SHARE
    kept = (shares >= MIN_VISIBLE_SHARE) & ~narrow & ~hidden & (labels != LEFT_OUT)
    for x_min, y_min, x_max, y_max in boxes[~kept]:
        rows, columns = _pixels_touched(y_min, y_max), _pixels_touched(x_min, x_max)
        labelled[rows, columns] = False
    masks, mask_boxes = rasterize_targets(parts[kept], boxes[kept])
    return Sample(
        pixels=layout.pixels,
        valid=layout.valid,
        labelled=labelled,
        boxes=boxes[kept].astype(np.float32),
        labels=labels[kept],
        masks=masks,
        mask_boxes=mask_boxes,
        keypoints=find_corners(parts[kept], own[kept], boxes[kept]),
        origin=layout.origin,
    )


def rasterize_targets(
    parts: NDArray[np.object_], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Masks (n, M, M) of polygons, and the boxes (n, 4) with a margin of one cell they lie over."""
    margin = (boxes[:, 2:] - boxes[:, :2]) / (MASK_SIDE - 2)
    mask_boxes = np.hstack([boxes[:, :2] - margin, boxes[:, 2:] + margin]).astype(np.float32)
    masks = np.empty((len(parts), MASK_SIDE, MASK_SIDE), dtype=np.uint8)
    # A few at a time, which keeps the work in the processor's cache.
    for start in range(0, len(parts), 16):
        some = slice(start, start + 16)
        coverage = rasterize_coverage(parts[some], mask_boxes[some], MASK_SIDE)
        masks[some] = coverage * np.float32(255) + np.float32(0.5)
    return masks, mask_boxes


def find_corners(
    parts: NDArray[np.object_], own: NDArray[np.object_], boxes: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Corners (n, 4, 3) of the visible parts (n,) of buildings in boxes (n, 4).

    ``own`` (n,) is any geometries with the buildings' own vertices.
    """
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    found = np.zeros((len(parts), 4, 3), dtype=np.float32)
    for part, building, wanted, keypoints in zip(parts, own, corners, found, strict=True):
        vertices = shapely.get_coordinates(part)
        apart = np.linalg.norm(vertices - wanted[:, None], axis=2)
        keypoints[:, :2] = vertices[apart.argmin(axis=1)]
        off = np.linalg.norm(shapely.get_coordinates(building) - keypoints[:, None, :2], axis=2)
        keypoints[:, 2] = off.min(axis=1, initial=np.inf) <= _SAME_PX
    return found


def _show(cut: Cut, read: Read) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pixels (bands, ...) and validity of a cut, as they stand on the chip."""
    raw, has_data = _read(cut, read)
    pixels = cut.tilt.pixels(raw.astype(np.float32), cut.height, cut.width)
    whole = cut.tilt.pixels(has_data[np.newaxis].astype(np.float32), cut.height, cut.width)
    turn = cut.orientation.turn_pixels
    # A pixel mixed with one without data is none.
    return turn(pixels), turn(whole[0] > _WHOLE)


def _read(cut: Cut, read: Read) -> tuple[Pixels, NDArray[np.bool_]]:
    """Pixels (bands, *read_shape) and validity of a cut's window."""
    (height, width), window = cut.read_shape, cut.window
    if not cut.thinned or window.height < height or window.width < width:
        return read(cut.image, window, (height, width))
    y, rows = _nearest(window.y, window.height, height)
    x, columns = _nearest(window.x, window.width, width)
    shape = (int(rows[-1]) + 1, int(columns[-1]) + 1)
    pixels, has_data = read(cut.image, Window(x, y, shape[1], shape[0]), shape)
    return pixels[:, rows[:, np.newaxis], columns], has_data[rows[:, np.newaxis], columns]


def _nearest(start: float, length: float, count: int) -> tuple[int, NDArray[np.intp]]:
    """First whole pixel of a span, and the (count,) pixels after it under evenly spaced points."""
    first = int(np.floor(start))
    points = start - first + (np.arange(count) + 0.5) * length / count
    return first, points.astype(np.intp)


def visible_parts(cut: Cut) -> Visible:
    """The labels that a cut shows, clipped at the raster's edge and at that of the cut."""
    image, rows = cut.image, np.sort(cut.image.tree.query(window_box(cut.window)))
    whole = image.polygons[rows]
    on_raster = shapely.clip_by_rect(whole, 0, 0, image.width, image.height)
    down, across = cut.place
    parts = shapely.clip_by_rect(
        apply_affine(on_raster, cut.to_chip), across.start, down.start, across.stop, down.stop
    )
    on_chip = apply_affine(whole, cut.to_chip)
    area = shapely.area(parts)
    seen = area > 0
    return Visible(
        parts[seen],
        apply_affine(_vertices_inside(whole[seen], image), cut.to_chip),
        area[seen] / shapely.area(on_chip[seen]),
        image.labels[rows[seen]],
    )


def _vertices_inside(polygons: NDArray[np.object_], image: LabelledImage) -> NDArray[np.object_]:
    """(n,) MultiPoints of the vertices that lie inside an image, not on its edge."""
    points, owner = shapely.get_coordinates(polygons, return_index=True)
    size = np.array([image.width, image.height])
    inside = ((points > _SAME_PX) & (points < size - _SAME_PX)).all(axis=1)
    vertices = np.full(len(polygons), shapely.MultiPoint(), dtype=object)
    found: NDArray[np.object_] = shapely.multipoints(
        shapely.points(points[inside]), indices=owner[inside], out=vertices
    )
    return found


def _covered(area: shapely.Geometry, cut: Cut, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of the chip whose centre lies in an area given in raster pixels."""
    on_chip = apply_affine(np.array([area]), cut.to_chip)[0]
    on_chip = shapely.intersection(on_chip, shapely.box(0, 0, shape[1], shape[0]))
    if shapely.area(on_chip) == 0:
        return np.zeros(shape, dtype=bool)
    inside: NDArray[np.bool_] = geometry_mask([on_chip], shape, Affine.identity(), invert=True)
    return inside


def share_inside(mask: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) share of the pixels that each box (n, 4) touches for which a mask holds."""
    if mask.all():
        return np.ones(len(boxes))
    sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    limits = (mask.shape[1], mask.shape[0]) * 2
    x0, y0, x1, y1 = (
        np.hstack([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])]).clip(0, limits).T.astype(int)
    )
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    share: NDArray[np.float64] = inside / np.maximum((x1 - x0) * (y1 - y0), 1)
    return share


def _pixels_touched(low: float, high: float) -> slice:
    return slice(max(int(np.floor(low)), 0), int(np.ceil(high)))
