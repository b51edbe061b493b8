"""Test-time augmentation: every chip is shown several times, mirrored, turned or resized.

A wrapper around any `Detector`, which is one itself: what the views show of a building becomes one
instance before seams are decided. Frames: *view pixels* are those of a mirrored, turned and resized
chip; everything that leaves is in chip pixels again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import shapely
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray

from footprints.chip import LOGIT_STEPS, Chip, Detector, InputSpec, Instances, MaskGroup, Prepares
from footprints.data.augment import UPRIGHT, Orientation
from footprints.errors import ConfigError
from footprints.lanes import count_lanes, open_lanes
from footprints.vector.overlaps import find_overlaps, surest
from footprints.vector.trace import trace

_SAME_IOU = 0.5
"""Two outlines of different views with this IoU show the same building."""


@dataclass(frozen=True, slots=True)
class View:
    """One way to show a chip."""

    orientation: Orientation = UPRIGHT
    scale: float = 1.0
    """View pixels per chip pixel, before sides are rounded to what the detector takes."""


_FLIPS = (View(), View(Orientation(0, mirrored=True)), View(Orientation(2, mirrored=True)))
VIEWS = {
    "flips": _FLIPS,
    "all": (
        *(View(Orientation(turns, mirrored)) for mirrored in (False, True) for turns in range(4)),
        View(scale=0.8),
        View(scale=1.25),
    ),
}
"""What can be asked for: both mirror images; or the eight symmetries of a square and two sizes."""


class AugmentedDetector:
    """A detector that looks at every chip several times.

    The confidence of a building is the mean over the views, with 0 where one does not show it; its
    mask is the mean of the probabilities, and its box that of the boxes by their confidence.

    Args:
        detector: What looks.
        views: A key of `VIEWS`.

    Raises:
        ConfigError: The views are unknown, or the detector finds keypoints.
    """

    def __init__(self, detector: Detector, views: str) -> None:
        if views not in VIEWS:
            raise ConfigError(f"--tta must be one of {', '.join(VIEWS)}, got {views!r}")
        if detector.keypoints:
            # The upper left corner of a mirror image is the upper right one.
            raise ConfigError(
                f"tta {views} turns chips, and {detector.name} finds keypoints that have a side "
                f"({', '.join(detector.keypoints)}); predict without one of them"
            )
        self.views = views
        self._detector = detector

    @property
    def name(self) -> str:
        """As the detector's."""
        return self._detector.name

    @property
    def digest(self) -> str:
        """The detector's, and the views."""
        return f"{self._detector.digest} {self.views}"

    @property
    def keypoints(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def classes(self) -> tuple[str, ...]:
        """As the detector's."""
        return self._detector.classes

    @property
    def input_spec(self) -> InputSpec:
        """As the detector's."""
        return self._detector.input_spec

    @property
    def confidence(self) -> float:
        """As the detector's."""
        return self._detector.confidence

    @property
    def lanes(self) -> int:
        """As the detector's."""
        return count_lanes(self._detector)

    def open_lanes(self, count: int) -> AbstractContextManager[Executor]:
        """As the detector's."""
        return open_lanes(self._detector, count)

    def expect(self, chips: int, batch: tuple[int, int, int]) -> None:
        """As the detector; other sizes than the chips' own go through it unprepared."""
        if isinstance(self._detector, Prepares):
            self._detector.expect(len(VIEWS[self.views]) * chips, batch)

    def __call__(self, chips: Sequence[Chip]) -> list[Instances]:
        """Detect in every view of a batch of chips of equal shape, and merge chip by chip."""
        seen = []
        for view in VIEWS[self.views]:
            shown = [_show(chip, view, self.input_spec.multiple) for chip in chips]
            found = self._detector([each.chip for each in shown])
            seen.append([_bring_back(f, s) for f, s in zip(found, shown, strict=True)])
        return [
            merge_views(list(views), chip.valid.shape)
            for chip, views in zip(chips, zip(*seen, strict=True), strict=True)
        ]


class _Shown(NamedTuple):
    """A view of a chip and the way back."""

    chip: Chip
    orientation: Orientation
    to_chip: Affine
    """View pixels to chip pixels."""


def _show(chip: Chip, view: View, multiple: int) -> _Shown:
    pixels, valid = view.orientation.turn_pixels(chip.pixels), chip.valid
    valid = view.orientation.turn_pixels(valid)
    to_view = view.orientation.affine(*chip.valid.shape)
    if view.scale != 1:
        height, width = (
            max(1, round(side * view.scale / multiple)) * multiple for side in valid.shape
        )
        to_view = Affine.scale(width / valid.shape[1], height / valid.shape[0]) @ to_view
        pixels, valid = _resize(pixels, valid, (height, width))
    to_chip = ~to_view
    shown = replace(
        chip,
        pixels=np.ascontiguousarray(pixels),
        valid=np.ascontiguousarray(valid),
        transform=chip.transform @ to_chip,
    )
    return _Shown(shown, view.orientation, to_chip)


def _resize(
    pixels: NDArray[np.generic], valid: NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Averages of pixels (bands, height, width) with data, and where there are some."""

    def averaged(image: NDArray[np.float32]) -> NDArray[np.float32]:
        resized: NDArray[np.float32] = F.interpolate(
            torch.from_numpy(image).unsqueeze(0), shape, mode="bilinear", antialias=True
        )[0].numpy()
        return resized

    share = averaged(valid[np.newaxis].astype(np.float32))
    sums = averaged((pixels * valid).astype(np.float32))
    has_data = share[0] > 1 / 2
    return np.where(has_data, sums / np.maximum(share, 1 / 2), np.float32(0)), has_data


def _bring_back(found: Instances, shown: _Shown) -> Instances:
    """Instances of a view in chip pixels."""
    turns, mirrored = shown.orientation
    masks = []
    for members, logits in found.masks:
        upright = np.rot90(logits, -turns, axes=(1, 2))
        masks.append(MaskGroup(members, upright[..., ::-1] if mirrored else upright))
    return replace(
        found,
        boxes=_move(found.boxes, shown.to_chip),
        mask_boxes=_move(found.mask_boxes, shown.to_chip),
        masks=tuple(masks),
        keypoints=None,
    )


def _move(boxes: NDArray[np.float32], affine: Affine) -> NDArray[np.float32]:
    matrix = np.array([[affine.a, affine.b], [affine.d, affine.e]])
    corners = boxes.reshape(-1, 2, 2) @ matrix.T + (affine.c, affine.f)
    return np.hstack([corners.min(axis=1), corners.max(axis=1)]).astype(np.float32)


def merge_views(views: Sequence[Instances], shape: tuple[int, ...]) -> Instances:
    """One instance for each building that any view shows.

    The surest outlines lead; each takes from every other view the outline of its class that is most
    alike.

    Args:
        views: Instances of the views of one chip, in chip pixels.
        shape: Height and width of the chip.
    """
    outlines = np.concatenate([trace(view) for view in views])
    traced = np.flatnonzero(outlines != None)  # noqa: E711  # element by element
    view_of = np.repeat(np.arange(len(views)), [len(view) for view in views])[traced]
    boxes, scores, labels, frames = (
        np.concatenate([getattr(view, name) for view in views])[traced]
        for name in ("boxes", "scores", "labels", "mask_boxes")
    )
    grids = [grid for view in views for grid in _grids(view)]
    grids = [grids[row] for row in traced]
    leaders, members = _match(outlines[traced], scores, labels, view_of)
    merged_boxes, merged_scores, masks = [], [], []
    for leader, others in zip(leaders, members, strict=True):
        own = np.array([leader, *others])
        merged_boxes.append(np.average(boxes[own], axis=0, weights=scores[own]))
        merged_scores.append(scores[own].sum() / len(views))
        masks.append(_mean_mask([grids[i] for i in own], frames[own]))
    limit = np.array([shape[1], shape[0]] * 2)
    return Instances(
        boxes=np.array(merged_boxes, np.float32).reshape(-1, 4).clip(0, limit).astype(np.float32),
        scores=np.array(merged_scores, np.float32),
        labels=labels[leaders],
        mask_boxes=frames[leaders],
        masks=tuple(
            MaskGroup(
                np.array([i for i, mask in enumerate(masks) if len(mask) == side]),
                np.stack([mask for mask in masks if len(mask) == side]),
            )
            for side in sorted({len(mask) for mask in masks})
        ),
        capped=any(view.capped for view in views),
    )


def _grids(instances: Instances) -> list[NDArray[np.int8]]:
    """The grid of each instance."""
    grids: list[NDArray[np.int8]] = [np.empty((0, 0), np.int8)] * len(instances)
    for members, logits in instances.masks:
        for member, grid in zip(members, logits, strict=True):
            grids[member] = grid
    return grids


def _match(
    outlines: NDArray[np.object_],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    view_of: NDArray[np.int64],
) -> tuple[NDArray[np.int64], list[list[int]]]:
    """Outlines that lead, the surest first, and those of other views that go with each."""
    areas = shapely.area(outlines)
    pairs = find_overlaps(outlines)
    union = areas[pairs.first] + areas[pairs.second] - pairs.area
    pairs = pairs.where(
        (pairs.area >= _SAME_IOU * union)
        & (labels[pairs.first] == labels[pairs.second])
        & (view_of[pairs.first] != view_of[pairs.second])
    )
    leads = surest(outlines, scores, pairs)
    order = np.flatnonzero(leads)
    order = order[np.argsort(-scores[order], kind="stable")]
    members: dict[int, list[int]] = {int(leader): [] for leader in order}
    both = pairs.both_ways()
    both = both.where(leads[both.first] & ~leads[both.second])
    iou = both.area / (areas[both.first] + areas[both.second] - both.area)
    taken: set[int] = set()
    filled: set[tuple[int, int]] = set()
    for row in np.argsort(-iou, kind="stable"):
        leader, other = int(both.first[row]), int(both.second[row])
        place = (leader, int(view_of[other]))
        if other not in taken and place not in filled:
            taken.add(other)
            filled.add(place)
            members[leader].append(other)
    return order, list(members.values())


def _mean_mask(grids: Sequence[NDArray[np.int8]], frames: NDArray[np.float32]) -> NDArray[np.int8]:
    """Mean probability of grids over their frames (m, 4), on the grid and frame of the first."""
    side = len(grids[0])
    centres = (np.arange(side) + 0.5) / side
    x = frames[0, 0] + centres * (frames[0, 2] - frames[0, 0])
    y = frames[0, 1] + centres * (frames[0, 3] - frames[0, 1])
    total = np.zeros((side, side))
    for grid, (x_min, y_min, x_max, y_max) in zip(grids, frames, strict=True):
        chances = 1 / (1 + np.exp(-grid.astype(np.float64) / LOGIT_STEPS))
        down = _between((y - y_min) / max(y_max - y_min, 1e-6), len(grid))
        across = _between((x - x_min) / max(x_max - x_min, 1e-6), len(grid))
        total += down @ chances @ across.T
    mean = np.clip(total / len(grids), 1e-6, 1 - 1e-6)
    logits = np.log(mean / (1 - mean)) * LOGIT_STEPS
    steps: NDArray[np.int8] = np.clip(np.rint(logits), -127, 127).astype(np.int8)
    return steps


def _between(places: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(n, side) weights of cells at places in [0, 1] of a grid; none beyond it."""
    inside = (places >= 0) & (places <= 1)
    at = np.clip(places * side - 0.5, 0, side - 1)
    low = np.minimum(at.astype(int), max(side - 2, 0))
    weights = np.zeros((len(places), side))
    rows = np.arange(len(places))
    weights[rows, low] = 1 - (at - low)
    weights[rows, np.minimum(low + 1, side - 1)] += at - low
    return weights * inside[:, np.newaxis]
