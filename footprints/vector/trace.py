"""Tracing: from grids of mask logits to sub-pixel outlines, all instances of a group together.

Marching squares over cells between four neighbouring grid values. Each cell that the outline passes
holds one segment (a saddle two), entered across one side and left across another, so that every
crossed side starts exactly one segment and rings follow from successors alone.

A grid of side S is padded twice: once with its own border, so that outlines reach the border of the
mask box straight on, and once with outside values, so that every ring closes. Whatever is then
found beyond the mask box is clipped onto its border, which makes a full mask exactly its box.

Frames: *samples* are the values of the padded grid, numbered through all instances, rows and
columns; *cell units* have the mask box at [0, S] x [0, S]; the result is in chip pixels. Rings run
with the inside on their left as seen in the picture, where y points down: shells counter-clockwise,
holes clockwise, as they still are once placed in a CRS whose y points up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import LOGIT_STEPS, Instances

_PAD = 2
_MIN_AREA = 1.0
"""Parts and holes smaller than this many cells are noise."""
_STRAIGHT = 1e-9
"""A corner turns by more than this cross product, in cells squared. Far below what quantised logits
can express, so that dropping whole runs of straight points cannot add up to a shift."""
_SAMPLES_AT_ONCE = 1 << 19
"""Few enough for temporary arrays to stay in the processor's cache."""

_TOP, _RIGHT, _BOTTOM, _LEFT = range(4)
# The side by which the outline enters a cell and the one by which it leaves, by the sum of the
# corners inside: 1 upper left, 2 upper right, 4 lower right, 8 lower left.
_ROUTES = {
    1: (_LEFT, _TOP),
    2: (_TOP, _RIGHT),
    3: (_LEFT, _RIGHT),
    4: (_RIGHT, _BOTTOM),
    6: (_TOP, _BOTTOM),
    7: (_LEFT, _BOTTOM),
    8: (_BOTTOM, _LEFT),
    9: (_BOTTOM, _TOP),
    11: (_BOTTOM, _RIGHT),
    12: (_RIGHT, _LEFT),
    13: (_RIGHT, _TOP),
    14: (_TOP, _LEFT),
}
# A saddle is two plain cells in one: its inside corners apart, or joined and its outside corners
# apart.
_SADDLES = ((5, (1, 4), (7, 13)), (10, (2, 8), (14, 11)))


def _heights() -> NDArray[np.float64]:
    """(256,) what to interpolate, by the bits of the int8 logit.

    Where the outline passes straight through a cell, ``d`` cells off its centre, the cell is
    covered to one half plus or minus ``d``, and its neighbour across the outline wholly or not at
    all. Linear interpolation finds ``d`` again if it is given ``d / (1 - d)``; given logits or
    coverage it does not. Up to logits of about 3 this is all but linear in the logit, as smooth
    masks want it.
    """
    logits = np.arange(256, dtype=np.uint8).view(np.int8) / LOGIT_STEPS
    logits[0] = -0.5 / LOGIT_STEPS  # outside, yet off the sample: rings never meet in a point
    off_half = 1 / (1 + np.exp(-logits)) - 0.5
    heights: NDArray[np.float64] = off_half / (1 - np.abs(off_half))
    return heights


_HEIGHTS = _heights()


class _Rings(NamedTuple):
    """Rings without their closing point."""

    points: NDArray[np.float64]
    """(p, 2) x, y, ring after ring."""
    lengths: NDArray[np.int64]
    """(r,) points in each ring."""
    owner: NDArray[np.int64]
    """(r,) instance, ascending."""

    @property
    def ends(self) -> NDArray[np.int64]:
        """(r,) one past the last point of each ring."""
        return np.cumsum(self.lengths)


def trace(instances: Instances) -> NDArray[np.object_]:
    """Trace every mask where its probability is one half.

    Args:
        instances: Detections of one chip.

    Returns:
        (n,) valid shapely Polygons with their holes, MultiPolygons where a mask has several parts,
        None where nothing of at least a cell's area is inside or the mask box has no area; in chip
        pixels, in the order of the instances, never beyond the mask box.
    """
    outlines = np.full(len(instances), None, dtype=object)
    for group in instances.masks:
        at_once = max(1, _SAMPLES_AT_ONCE // (group.logits.shape[1] + 2 * _PAD) ** 2)
        for start in range(0, len(group.members), at_once):
            index = group.members[start : start + at_once]
            logits = group.logits[start : start + at_once]
            outlines[index] = _trace_together(logits, instances.mask_boxes[index])
    return outlines


def _trace_together(
    logits: NDArray[np.int8], mask_boxes: NDArray[np.float32]
) -> NDArray[np.object_]:
    """(k,) outlines in chip pixels from (k, S, S) logits over (k, 4) boxes."""
    low, high = np.split(mask_boxes.astype(np.float64), 2, axis=1)
    has_area = np.all((low < high) & np.isfinite(high - low), axis=1)

    rings = _drop_straight(_drop_noise(_find_rings(logits), has_area))
    box = np.repeat(rings.owner, rings.lengths)
    share = rings.points / logits.shape[1]
    # Weighted, not low + share * (high - low), which can miss the far edge by a rounding.
    points = high.take(box, axis=0)
    points *= share
    points += low.take(box, axis=0) * (1 - share)
    return _outlines(rings._replace(points=points), len(logits))


def _find_rings(logits: NDArray[np.int8]) -> _Rings:
    """All rings at height 0, in cell units."""
    padded = _pad(logits)
    entered, left = _segments(padded)
    successor = _successors(entered, left, 2 * padded.size)
    order, lengths = _rings_in_order(successor)
    crossings = entered.take(order)
    first = crossings[np.cumsum(lengths) - lengths]
    # Cells are numbered through the instances, and rings with them: the second segments of saddles
    # come last, but are entered from the right or from below, so that a ring of them alone could
    # only lead left and up and never close.
    return _Rings(_points(padded, crossings), lengths, first // (2 * padded[0].size))


def _pad(logits: NDArray[np.int8]) -> NDArray[np.int8]:
    """(k, S + 4, S + 4): the border once more, then a border of outside."""
    count, side, _ = logits.shape
    padded = np.full((count, side + 2 * _PAD, side + 2 * _PAD), -1, dtype=np.int8)
    padded[:, 2:-2, 2:-2] = logits
    padded[:, 1, 2:-2], padded[:, -2, 2:-2] = logits[:, 0], logits[:, -1]
    padded[:, 1:-1, 1], padded[:, 1:-1, -2] = padded[:, 1:-1, 2], padded[:, 1:-1, -3]
    return padded


def _segments(padded: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The crossings (m,) by which each segment enters its cell and leaves it.

    The crossing between a sample and the next in its row has twice the sample's number, the one
    between a sample and the next in its column one more. Segments are in the order of their cells,
    then the second ones of saddles.
    """
    row = padded.shape[2]
    flat = padded.reshape(-1)
    inside = (flat > 0).view(np.uint8)
    # Rows end outside, so a cell that wraps into the next row or instance holds nothing.
    codes = inside[: -row - 1] | inside[1:-row] << 1 | inside[row + 1 :] << 2 | inside[row:-1] << 3
    cells = np.flatnonzero((codes + 1 & 15) > 1)
    codes = codes.take(cells)

    second_cells, second_codes = [], []
    for saddle, apart, joined in _SADDLES:
        at = np.flatnonzero(codes == saddle)
        corners = cells[at, None] + np.array([0, 1, row, row + 1])
        is_joined = flat[corners].sum(axis=1, dtype=np.int64) > 0
        codes[at] = np.where(is_joined, joined[0], apart[0])
        second_cells.append(cells[at])
        second_codes.append(np.where(is_joined, joined[1], apart[1]))
    cells = np.concatenate([cells, *second_cells])
    codes = np.concatenate([codes, *second_codes])

    sides = np.array([0, 3, 2 * row, 1])  # crossings at the top, right, bottom, left of cell 0
    enter, leave = np.zeros((2, 16), dtype=np.int64)
    for code, (from_, to) in _ROUTES.items():
        enter[code], leave[code] = sides[from_], sides[to]
    return 2 * cells + enter.take(codes), 2 * cells + leave.take(codes)


def _successors(
    entered: NDArray[np.int64], left: NDArray[np.int64], crossings: int
) -> NDArray[np.int64]:
    """(m,) the segment that goes on where each segment leaves its cell."""
    segment_at = np.empty(crossings, dtype=np.int32)
    segment_at[entered] = np.arange(len(entered), dtype=np.int32)
    return segment_at.take(left).astype(np.int64)


def _rings_in_order(
    successor: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Take a permutation apart into its cycles, by pointer doubling.

    Args:
        successor: (m,) a permutation.

    Returns:
        The elements (m,), cycle after cycle, and the length (r,) of each cycle. A cycle starts at
        its smallest element, and cycles are in the order of these.
    """
    count = len(successor)
    number = np.arange(count)
    # The smallest element within reach and the steps to it, in one integer: the smaller element
    # wins, then fewer steps. Reach doubles until nothing changes, then it spans every cycle.
    shift = max(count.bit_length(), 1)
    nearest = number << shift
    reach, jump = 1, successor
    while True:
        farther = nearest.take(jump)
        farther += reach
        np.minimum(farther, nearest, out=farther)
        if np.array_equal(farther, nearest):
            break
        nearest, jump, reach = farther, jump.take(jump), 2 * reach
    head, steps = nearest >> shift, nearest & ((1 << shift) - 1)

    is_head = head == number
    lengths = np.bincount(head, minlength=count)[is_head]
    ring = (np.cumsum(is_head) - 1).take(head)
    order = np.empty(count, dtype=np.int64)
    end = np.cumsum(lengths)
    place = end.take(ring) - steps
    place[is_head] -= lengths
    order[place] = number
    return order, lengths


def _points(padded: NDArray[np.int8], crossings: NDArray[np.int64]) -> NDArray[np.float64]:
    """(m, 2) where crossings lie, in cell units."""
    _, side, row = padded.shape
    heights = padded.reshape(-1).view(np.uint8)
    sample, is_vertical = crossings >> 1, crossings & 1
    here = _HEIGHTS.take(heights.take(sample))
    there = _HEIGHTS.take(heights.take(sample + 1 + is_vertical * (row - 1)))
    along = here / (here - there)
    down = sample // row
    points = np.empty((len(crossings), 2))
    points[:, 0] = sample - down * row + along * (1 - is_vertical)
    points[:, 1] = down % side + along * is_vertical
    points -= _PAD - 0.5
    return np.clip(points, 0, side - 2 * _PAD, out=points)


def _steps(rings: _Rings) -> NDArray[np.float64]:
    """(p, 2) from every point to the next of its ring."""
    steps = np.empty_like(rings.points)
    np.subtract(rings.points[1:], rings.points[:-1], out=steps[:-1])
    end = rings.ends
    steps[end - 1] = rings.points[end - rings.lengths] - rings.points[end - 1]
    return steps


def _areas(rings: _Rings, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r,) area inside each ring, negative for holes."""
    twice = rings.points[:, 1] * steps[:, 0] - rings.points[:, 0] * steps[:, 1]
    return np.add.reduceat(twice, rings.ends - rings.lengths) / 2


def _keep(rings: _Rings, points: NDArray[np.bool_]) -> _Rings:
    """The rings with some of their points (p,) only, without those that lose all."""
    starts = rings.ends - rings.lengths
    lengths = np.add.reduceat(points, starts, dtype=np.int64)
    kept = np.flatnonzero(points)
    return _Rings(rings.points.take(kept, axis=0), lengths[lengths > 0], rings.owner[lengths > 0])


def _drop_noise(rings: _Rings, has_area: NDArray[np.bool_]) -> _Rings:
    """Drop rings of less than a cell, rings in a box without area, points on top of the next."""
    steps = _steps(rings)
    keep = (np.abs(_areas(rings, steps)) >= _MIN_AREA) & has_area[rings.owner]
    moves = (steps[:, 0] != 0) | (steps[:, 1] != 0)
    return _keep(rings, np.repeat(keep, rings.lengths) & moves)


def _drop_straight(rings: _Rings) -> _Rings:
    """Drop points on the straight line between their neighbours."""
    after = _steps(rings)
    before = np.roll(after, 1, axis=0)
    end = rings.ends
    before[end - rings.lengths] = after[end - 1]
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return _keep(rings, np.abs(turn) > _STRAIGHT)


def _outlines(rings: _Rings, count: int) -> NDArray[np.object_]:
    """(count,) a Polygon, MultiPolygon or None for each instance."""
    areas = _areas(rings, _steps(rings))
    part = _part_of_each(rings, areas)
    # A ring starts at its uppermost cell, so that a shell comes before its holes.
    parts = _polygons(rings, np.argsort(part, kind="stable"), np.bincount(part))
    owner = rings.owner[areas > 0]

    parts_of = np.bincount(owner, minlength=count)
    outlines = np.full(count, None, dtype=object)
    is_single = parts_of[owner] == 1
    outlines[owner[is_single]] = parts[is_single]
    several = np.flatnonzero(parts_of > 1)
    outlines[several] = shapely.multipolygons(
        parts[~is_single], indices=np.searchsorted(several, owner[~is_single])
    )
    return outlines


def _part_of_each(rings: _Rings, areas: NDArray[np.float64]) -> NDArray[np.int64]:
    """(r,) number of the shell that each ring is or lies in; shells count in their order."""
    is_shell = areas > 0
    part = np.cumsum(is_shell) - 1  # right but for holes of instances with several shells
    shells = np.flatnonzero(is_shell)
    shells_of = np.bincount(rings.owner[shells])
    holes = np.flatnonzero(~is_shell & (shells_of[rings.owner] > 1))
    if not len(holes):
        return part

    # Pair each hole with every shell of its instance; the smallest one around it is its own.
    choices = shells_of[rings.owner[holes]]
    hole = np.repeat(holes, choices)
    choice = np.arange(len(hole)) - np.repeat(np.cumsum(choices) - choices, choices)
    candidate = (np.cumsum(shells_of) - shells_of)[rings.owner[hole]] + choice
    around = _polygons(rings, shells[candidate], np.ones_like(candidate))
    is_around = shapely.contains_xy(around, rings.points[rings.ends[hole] - 1])
    hole, candidate = hole[is_around], candidate[is_around]
    smallest_first = np.lexsort((areas[shells[candidate]], hole))
    _, nearest = np.unique(hole[smallest_first], return_index=True)
    part[holes] = candidate[smallest_first][nearest]
    return part


def _polygons(
    rings: _Rings, ring: NDArray[np.int64], rings_of: NDArray[np.int64]
) -> NDArray[np.object_]:
    """Build polygons.

    Args:
        rings: All rings.
        ring: (s,) which of them to take, polygon after polygon, each shell before its holes.
        rings_of: (q,) how many each polygon takes.

    Returns:
        (q,) shapely Polygons.
    """
    closed = rings.lengths[ring] + 1
    ends = np.cumsum(closed)
    first = rings.ends[ring] - rings.lengths[ring]
    point = np.arange(closed.sum()) + np.repeat(first - (ends - closed), closed)
    point[ends - 1] = first
    offsets = np.append(0, ends), np.append(0, np.cumsum(rings_of))
    polygons: NDArray[np.object_] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, rings.points.take(point, axis=0), offsets
    )
    return polygons
