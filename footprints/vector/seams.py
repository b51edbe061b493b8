"""Where chips meet: which edges cut, where two chips compare, who owns which ground.

Frame: grid pixels. Boxes and windows are (n, 4) arrays x_min, y_min, x_max, y_max; arrays over the
sides of a box are (n, 4) in the same order: left, top, right, bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import ChipGrid
from footprints.vector.outlines import Outlines

EDGE_PX = 4.0
"""An instance that comes this close to its chip's edge, or within one mask cell of it, may go on
behind it. Boxes of networks stop one to three pixels short; taking a complete building for a cut
one costs nothing, since a neighbour that shows it complete or agrees with it settles the matter."""

NARROW_PX = 4.0
"""Chips that share less than this compare what they show on either side of the seam instead."""


def windows_of(grid: ChipGrid) -> NDArray[np.float64]:
    """(chips, 4) windows of a grid's chips as boxes."""
    rows, columns = len(grid.row_starts), len(grid.column_starts)
    x = np.tile(np.array(grid.column_starts, dtype=np.float64), rows)
    y = np.repeat(np.array(grid.row_starts, dtype=np.float64), columns)
    return np.column_stack([x, y, x + grid.chip_width, y + grid.chip_height])


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """How n outlines lie in their chips."""

    gaps: NDArray[np.float64]
    """(n, 4) distance to the chip's edge."""
    behind: NDArray[np.bool_]
    """(n, 4) whether another chip read data behind that edge, beside the outline."""
    near: NDArray[np.bool_]
    """(n, 4) whether the outline comes so close to the edge that it may go on behind it."""

    @property
    def cut(self) -> NDArray[np.bool_]:
        """(n, 4) where a seam cuts the outline."""
        return self.near & self.behind

    @property
    def at_border(self) -> NDArray[np.bool_]:
        """(n,) whether the outline may go on where no chip read data."""
        return np.asarray(np.any(self.near & ~self.behind, axis=1))

    @property
    def depth(self) -> NDArray[np.float64]:
        """(n,) distance to the nearest edge behind which another chip read data."""
        return np.asarray(np.min(np.where(self.behind, self.gaps, np.inf), axis=1))

    def take(self, which: NDArray[np.integer | np.bool_]) -> Sides:
        """Those of some of the outlines, by index or mask."""
        return Sides(self.gaps[which], self.behind[which], self.near[which])


def find_sides(outlines: Outlines, grid: ChipGrid, read: NDArray[np.bool_]) -> Sides:
    """Relate outlines to the edges of their chips.

    Args:
        outlines: n outlines of the scene.
        grid: The chips.
        read: (chips,) whether the chip was read and gave a result.
    """
    windows = windows_of(grid)[outlines.chips]
    bounds = extents(outlines)
    gaps = np.abs(bounds - windows)
    reach = np.maximum(EDGE_PX, outlines.cells)[:, None]
    return Sides(gaps, _read_behind(bounds, windows, grid, read), gaps <= reach)


def extents(outlines: Outlines) -> NDArray[np.float64]:
    """(n, 4) what box and outline together cover: either may stop short of a chip's edge."""
    traced = shapely.bounds(outlines.polygons)
    low = np.fmin(outlines.boxes[:, :2], traced[:, :2])
    high = np.fmax(outlines.boxes[:, 2:], traced[:, 2:])
    return np.hstack([low, high])


def _read_behind(
    bounds: NDArray[np.float64],
    windows: NDArray[np.float64],
    grid: ChipGrid,
    read: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """(n, 4) whether a chip that was read sees the ground just behind each edge of the window."""
    columns, rows = np.array(grid.column_starts), np.array(grid.row_starts)
    width, height = grid.chip_width, grid.chip_height
    seen = read.reshape(len(rows), len(columns))
    # Counts of read chips above and left of each place in the grid of chips.
    counts = np.pad(seen.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    beside_x = _span(columns, width, bounds[:, 0], bounds[:, 2])
    beside_y = _span(rows, height, bounds[:, 1], bounds[:, 3])
    reaching = (
        (_span(columns, width, windows[:, 0] - 0.5, windows[:, 0]), beside_y),
        (beside_x, _span(rows, height, windows[:, 1] - 0.5, windows[:, 1])),
        (_span(columns, width, windows[:, 2], windows[:, 2] + 0.5), beside_y),
        (beside_x, _span(rows, height, windows[:, 3], windows[:, 3] + 0.5)),
    )
    behind = np.empty((len(bounds), 4), dtype=np.bool_)
    for side, ((left, right), (top, bottom)) in enumerate(reaching):
        behind[:, side] = (
            counts[bottom, right] - counts[top, right] - counts[bottom, left] + counts[top, left]
        ) > 0
    return behind


def _span(
    starts: NDArray[np.int64], length: int, low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and behind-last row (or column) of chips that overlaps [low, high]."""
    first = np.searchsorted(starts + length, low, side="right")
    last = np.searchsorted(starts, high, side="left")
    return first, np.maximum(first, last)


def compared_zone(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where two chips compare what they show.

    That is the ground both see, less `EDGE_PX` along the edges where only one of them ends: masks
    fade there. Where they share less, it is a band about the middle of the seam.

    Args:
        first: (n, 4) windows.
        second: (n, 4) windows.

    Returns:
        (n, 4) zones, and (n, 2) whether the chips share less than `NARROW_PX` across x and y, so
        that neither of them sees the whole zone.
    """
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, 2:], second[:, 2:])
    shifted = first[:, :2] != second[:, :2]
    middle = (low + high) / 2
    half = np.maximum((high - low) / 2 - np.where(shifted, EDGE_PX, 0), NARROW_PX / 2)
    zone = np.hstack([middle - half, middle + half])
    return zone, shifted & (high - low < NARROW_PX)


def foreign_ground(own: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ground that belongs to the other one of two chips that see it.

    Each chip owns its side of the strip's middle; where two chips differ in column and in row, the
    column decides. That orders any number of chips at every place, nearest column first, nearest
    row next: all ground they see belongs to exactly one of them.

    Args:
        own: (n, 4) windows.
        other: (n, 4) windows.

    Returns:
        (n, 4) boxes inside ``own``; without area (x_max <= x_min) where the two share nothing.
    """
    ground = np.hstack([np.maximum(own[:, :2], other[:, :2]), np.minimum(own[:, 2:], other[:, 2:])])
    middle = (ground[:, :2] + ground[:, 2:]) / 2
    axis = np.where(own[:, 0] != other[:, 0], 0, 1)
    each = np.arange(len(own))
    other_is_after = other[each, axis] > own[each, axis]
    side = np.where(other_is_after, axis, axis + 2)
    ground[each, side] = middle[each, axis]
    return ground
