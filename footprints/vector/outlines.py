"""What merging takes and gives: outlines of single chips, footprints of a whole scene.

Frame: grid pixels throughout (see `footprints.chip`), the raster as it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import Instances, Window

Polygons = NDArray[np.object_]
"""An array of shapely Polygons or MultiPolygons."""
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

STRAIGHT_PX = 0.05
"""Vertices this close to the line between others are dropped. Tracing leaves one for every mask
cell that an outline passes; merging takes time in proportion."""
NODATA_REACH_PX = 2
"""A box this close to pixels without data counts as touching them."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Traced instances of the chips of one scene, as they came: doubled, nested, cut at seams."""

    polygons: NDArray[np.object_]
    """(n,) valid shapely Polygon or MultiPolygon."""
    boxes: NDArray[np.float64]
    """(n, 4) detected boxes, x_min y_min x_max y_max."""
    scores: NDArray[np.float32]
    """(n,) confidence, 0 to 1."""
    labels: NDArray[np.int64]
    """(n,) index into the detector's ``classes``."""
    chips: NDArray[np.int64]
    """(n,) number of the chip in its `ChipGrid`."""
    cells: NDArray[np.float32]
    """(n,) side of a mask cell in pixels, along the longer axis."""
    at_nodata: NDArray[np.bool_]
    """(n,) whether the box comes within `NODATA_REACH_PX` of pixels without data in its chip."""
    keypoints: NDArray[np.float32]
    """(n, J, 3) x, y and confidence; J is 0 for detectors without."""

    def __len__(self) -> int:
        return len(self.polygons)

    @classmethod
    def from_instances(
        cls,
        instances: Instances,
        polygons: NDArray[np.object_],
        window: Window,
        chip: int,
        valid: NDArray[np.bool_],
    ) -> Outlines:
        """Move the traced instances of one chip into the scene, and thin out their vertices.

        Args:
            instances: Detections of the chip, n of them, in chip pixels.
            polygons: (n,) their traced outlines in chip pixels; those that are None are dropped.
            window: The chip's place in grid pixels.
            chip: The chip's number in its grid.
            valid: (height, width) True where the chip has data.
        """
        corner = np.array([window.x, window.y])
        outlines = cls(
            polygons=polygons,
            boxes=instances.boxes + np.tile(corner, 2),
            scores=instances.scores.astype(np.float32),
            labels=instances.labels.astype(np.int64),
            chips=np.full(len(instances), chip, dtype=np.int64),
            cells=_cell_sides(instances),
            at_nodata=_near_invalid(instances.boxes, valid),
            keypoints=_moved(instances, corner),
        ).take(~shapely.is_missing(polygons))
        thinned = _thin_out(outlines.polygons)
        return replace(outlines, polygons=shapely.transform(thinned, lambda xy: xy + corner))

    @classmethod
    def concatenate(cls, outlines: Iterable[Outlines]) -> Outlines:
        """Put the outlines of several chips of one detector behind one another."""
        listed = list(outlines) or [cls.empty()]
        return cls(*(np.concatenate([getattr(o, f.name) for o in listed]) for f in fields(cls)))

    @classmethod
    def empty(cls, *, keypoints: int = 0) -> Outlines:
        """No outlines, of a detector that finds some number of keypoints."""
        return cls(
            polygons=np.empty(0, dtype=object),
            boxes=np.empty((0, 4)),
            scores=np.empty(0, dtype=np.float32),
            labels=np.empty(0, dtype=np.int64),
            chips=np.empty(0, dtype=np.int64),
            cells=np.empty(0, dtype=np.float32),
            at_nodata=np.empty(0, dtype=np.bool_),
            keypoints=np.empty((0, keypoints, 3), dtype=np.float32),
        )

    def take(self, which: NDArray[np.integer | np.bool_]) -> Outlines:
        """Some of the outlines, by index or mask."""
        return Outlines(*(getattr(self, f.name)[which] for f in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Footprints:
    """The buildings of one scene: each once, whole, in order of position."""

    polygons: NDArray[np.object_]
    """(n,) valid shapely Polygon."""
    scores: NDArray[np.float32]
    """(n,) confidence, 0 to 1."""
    labels: NDArray[np.int64]
    """(n,) index into the detector's ``classes``."""
    cut: NDArray[np.bool_]
    """(n,) whether the building may go on where nothing was seen: it touches the raster's edge,
    pixels without data or the edge of a chip that failed, or its other part was not found."""
    keypoints: NDArray[np.float64]
    """(n, J, 3) x, y and confidence, NaN where not found; J is 0 for detectors without."""

    def __len__(self) -> int:
        return len(self.polygons)

    @classmethod
    def concatenate(cls, footprints: Iterable[Footprints]) -> Footprints:
        """Put footprints behind one another, as they are."""
        listed = list(footprints)
        return cls(*(np.concatenate([getattr(f, d.name) for f in listed]) for d in fields(cls)))

    def take(self, which: NDArray[np.integer | np.bool_]) -> Footprints:
        """Some of the footprints, by index or mask."""
        return Footprints(*(getattr(self, f.name)[which] for f in fields(self)))

    def with_polygons(self, polygons: NDArray[np.object_]) -> Footprints:
        """The same footprints with other (n,) outlines."""
        return replace(self, polygons=polygons)

    def scaled(self, x_factor: float, y_factor: float) -> Footprints:
        """The same footprints on a grid of finer (factor > 1) or coarser pixels."""
        factors = np.array([x_factor, y_factor])
        return replace(
            self.with_polygons(shapely.transform(self.polygons, lambda xy: xy * factors)),
            keypoints=self.keypoints * np.append(factors, 1.0),
        )


def _moved(instances: Instances, corner: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, J, 3) the keypoints of a chip, with its place added."""
    if instances.keypoints is None:
        return np.empty((len(instances), 0, 3), dtype=np.float32)
    shift = np.append(corner, 0.0).astype(np.float32)
    return instances.keypoints + shift


def _thin_out(polygons: Polygons) -> Polygons:
    """Drop vertices that hardly matter; (n,) valid outlines stay valid."""
    # Ten times as fast as keeping the topology, which is hardly ever at stake.
    thinned = shapely.simplify(polygons, STRAIGHT_PX, preserve_topology=False)
    sound = shapely.is_valid(thinned) & ~shapely.is_empty(thinned)
    return np.where(sound, thinned, polygons)


def _cell_sides(instances: Instances) -> NDArray[np.float32]:
    """(n,) side of a mask cell in pixels, along the longer axis."""
    boxes = instances.mask_boxes
    sides = np.ones(len(boxes), dtype=np.float32)
    for group in instances.masks:
        sides[group.members] = group.logits.shape[-1]
    longer = np.max(boxes[:, 2:] - boxes[:, :2], axis=1, initial=0)
    return np.asarray(longer / sides, dtype=np.float32)


def _near_invalid(boxes: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) whether boxes in chip pixels come within reach of pixels without data."""
    if valid.all():
        return np.zeros(len(boxes), dtype=np.bool_)
    # Invalid pixels above and left of each pixel corner: any rectangle's count is four look-ups.
    invalid = np.pad(np.cumsum(np.cumsum(~valid, axis=0), axis=1), ((1, 0), (1, 0)))
    height, width = valid.shape
    low = np.ceil(boxes[:, :2] - NODATA_REACH_PX).astype(np.int64) - 1
    high = np.floor(boxes[:, 2:] + NODATA_REACH_PX).astype(np.int64) + 1
    x_min, y_min = np.clip(low, 0, (width, height)).T
    x_max, y_max = np.clip(high, 0, (width, height)).T
    count = (
        invalid[y_max, x_max]
        - invalid[y_min, x_max]
        - invalid[y_max, x_min]
        + invalid[y_min, x_min]
    )
    return np.asarray(count > 0)
