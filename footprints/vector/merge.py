"""From the outlines of single chips to the footprints of the scene: doubles out, seams closed.

Everything is decided between outlines whose boxes meet, never from the scene as a whole, in grid
pixels, before any CRS. An outline is *cut* where it comes close to an edge of its chip behind which
another chip read data; otherwise it is *whole*.

Ground has one building, whatever its class: shape alone decides which outlines stay and which join.
So a roof whose halves were taken for different kinds is whole, and one that a network lets out once
for each kind comes once. The classes are votes on its name: in a chip the surest outline speaks for
each class, chips that show the building whole add up, and pieces count by their area.

Where overlaps are wanted, as in photographs, each class is merged as if there were no other, and
nothing is made disjoint.

1. Within a chip, blobs over several buildings go, then doubles.
2. Whole outlines of one building from several chips: the one farthest from its chip's edges stays.
3. A cut piece inside a whole outline goes: whole beats cut, never their union.
4. Cut pieces that are each other's best match join, over as many chips as it takes.
5. Whole outlines are never joined: row houses share a wall. Anything unmatched stays.
6. What remains is made disjoint (`footprints.vector.disjoint`). Roofs wider than a chip need a
   second look from farther away (`footprints.vector.wide_roofs`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import ChipGrid
from footprints.stages import staged
from footprints.vector.disjoint import in_order, keep_overlaps, make_disjoint
from footprints.vector.joining import join
from footprints.vector.keypoints import find_keypoints
from footprints.vector.outlines import Footprints, Mask, Outlines
from footprints.vector.overlaps import (
    INSIDE_SHARE,
    SAME_IOU,
    Overlaps,
    best_of_rivals,
    find_blobs,
    find_doubles,
    find_overlaps,
    ranks,
    surest,
)
from footprints.vector.parts import largest_parts
from footprints.vector.seams import EDGE_PX, Sides, extents, find_sides, windows_of

SHORT_PX = 3 * EDGE_PX
"""An outline that stops this far from its chip's edge is still taken for cut where a neighbouring
chip's outline of the same building goes on behind that edge."""

EVIDENCE_SHARE = 0.4
"""Outlines down to this share of the confidence asked for are heard as evidence. A detector is
often surer of a stump at a chip's edge than of the whole building that the next chip shows: the
whole one counts, with its own confidence, as it would if the seam were elsewhere."""


@staged("merging")
def merge(
    outlines: Outlines,
    grid: ChipGrid,
    read: NDArray[np.bool_],
    *,
    confidence: float = 0.0,
    overlaps: bool = False,
) -> Footprints:
    """Merge the outlines of all chips of a scene.

    The result depends neither on the order of the outlines nor on how chips are numbered.

    Args:
        outlines: Traced instances of the chips that were read.
        grid: The chips.
        read: (chips,) whether a chip was read and gave a result; False for chips without data and
            for those that failed.
        confidence: Footprints below it are left out, once seams are settled. Outlines below it are
            heard down to `EVIDENCE_SHARE` of it.
        overlaps: Footprints may have common ground.

    Returns:
        Footprints in order of position, without common ground unless ``overlaps``.
    """
    outlines = outlines.take(outlines.scores >= EVIDENCE_SHARE * confidence)
    outlines = _within_raster(outlines, grid)
    if overlaps:
        labels = np.unique(outlines.labels)
        classes = [outlines.take(outlines.labels == label) for label in labels] or [outlines]
        merged = [keep_overlaps(*_merge_chips(each, grid, read, confidence)) for each in classes]
        footprints = in_order(Footprints.concatenate(merged))
    else:
        footprints = make_disjoint(*_merge_chips(outlines, grid, read, confidence))
    keypoints = find_keypoints(footprints.polygons, outlines, grid, read)
    return replace(footprints, keypoints=keypoints)


def _merge_chips(
    outlines: Outlines, grid: ChipGrid, read: NDArray[np.bool_], confidence: float
) -> tuple[Footprints, Mask]:
    """Footprints that may still overlap, and which of them a seam cuts without a counterpart."""
    windows = windows_of(grid)
    outlines = outlines.take(_order(outlines, windows))
    outlines = _without_stray_parts(outlines, find_sides(outlines, grid, read))
    overlaps = find_overlaps(outlines.polygons)

    keep, doubles = _single_in_chip(outlines, overlaps, outlines.scores >= confidence)
    votes = _votes_in_chip(outlines, doubles)
    overlaps = overlaps.among(keep)
    iou = _iou_where_both_saw(outlines, overlaps, windows)
    sides = _reveal_cuts(outlines, find_sides(outlines, grid, read), overlaps, iou, windows)
    same = overlaps.where(iou >= SAME_IOU).among(~np.any(sides.cut, axis=1))
    votes = _votes_of_chips(votes, same)
    keep &= _deepest(outlines, sides, same)
    keep &= ~_inside_whole(outlines, sides, overlaps.among(keep))
    footprints, unmatched = join(outlines.take(keep), votes[keep], sides.take(keep), windows)
    sure = footprints.scores >= confidence
    return footprints.take(sure), unmatched[sure]


def _within_raster(outlines: Outlines, grid: ChipGrid) -> Outlines:
    """Outlines end where the raster does; a chip, and what a network sees in it, may go on."""
    beyond = np.any(shapely.bounds(outlines.polygons)[:, 2:] > (grid.width, grid.height), axis=1)
    polygons = outlines.polygons.copy()
    raster = shapely.box(0, 0, grid.width, grid.height)
    polygons[beyond] = largest_parts(shapely.intersection(polygons[beyond], raster))
    return replace(outlines, polygons=polygons).take(shapely.area(polygons) > 0)


def _order(outlines: Outlines, windows: NDArray[np.float64]) -> NDArray[np.intp]:
    """An order of the outlines that their own order and the chips' numbers do not change."""
    chips = windows[outlines.chips]
    keys = (outlines.labels, outlines.scores, shapely.area(outlines.polygons))
    return np.lexsort((*keys, *chips[:, :2].T, *outlines.boxes.T[::-1]))


def _without_stray_parts(outlines: Outlines, sides: Sides) -> Outlines:
    """Keep of whole outlines the largest part; the parts of cut ones may be joined elsewhere."""
    whole = ~np.any(sides.cut, axis=1)
    polygons = outlines.polygons.copy()
    polygons[whole] = largest_parts(polygons[whole])
    return replace(outlines, polygons=polygons)


def _single_in_chip(outlines: Outlines, overlaps: Overlaps, sure: Mask) -> tuple[Mask, Overlaps]:
    """(n,) False for blobs, and for all but the surest outline of one building in one chip.

    Only sure outlines make a sure one a blob: there are always unsure ones inside a large roof.

    Returns:
        The mask, and the pairs that show the same building in the same chip.
    """
    overlaps = overlaps.where(outlines.chips[overlaps.first] == outlines.chips[overlaps.second])
    single = ~find_blobs(outlines.polygons, overlaps.among(sure))
    doubles = find_doubles(outlines.polygons, overlaps.among(single))
    return single & surest(outlines.polygons, outlines.scores, doubles), doubles


def _votes_in_chip(outlines: Outlines, doubles: Overlaps) -> NDArray[np.float64]:
    """(n, classes) how sure a chip is that the building of each outline is of each class.

    That is the best confidence of any of its doubles of the class, not their sum: a network lets
    out a box for each class, but how many of a class get through is chance.
    """
    votes = np.zeros((len(outlines), int(outlines.labels.max(initial=0)) + 1))
    votes[np.arange(len(outlines)), outlines.labels] = outlines.scores
    pairs = doubles.both_ways()
    voter = pairs.second
    np.maximum.at(votes, (pairs.first, outlines.labels[voter]), outlines.scores[voter])
    return votes


def _votes_of_chips(votes: NDArray[np.float64], same: Overlaps) -> NDArray[np.float64]:
    """(n, classes) votes of an outline's chip and of all others that show the building whole."""
    pairs = same.both_ways()
    total = votes.copy()
    np.add.at(total, pairs.first, votes[pairs.second])
    return total


def _iou_where_both_saw(
    outlines: Outlines, overlaps: Overlaps, windows: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(p,) IoU of overlapping outlines in the ground that both their chips see."""
    first, second = (windows[outlines.chips[i]] for i in (overlaps.first, overlaps.second))
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, 2:], second[:, 2:])
    areas = shapely.area(outlines.polygons)
    bounds = shapely.bounds(outlines.polygons)
    union = -overlaps.area
    for index in (overlaps.first, overlaps.second):
        seen = areas[index]
        beyond = np.any((bounds[index, :2] < low) | (bounds[index, 2:] > high), axis=1)
        shared = shapely.box(*low[beyond].T, *high[beyond].T)
        clipped = shapely.intersection(outlines.polygons[index[beyond]], shared)
        seen[beyond] = shapely.area(clipped)
        union = union + seen
    return np.asarray(overlaps.area / union)


def _reveal_cuts(
    outlines: Outlines,
    sides: Sides,
    overlaps: Overlaps,
    iou: NDArray[np.float64],
    windows: NDArray[np.float64],
) -> Sides:
    """Mark edges as cutting where a neighbour shows that the building goes on behind them."""
    same = overlaps.where(iou >= SAME_IOU).both_ways()
    bounds = extents(outlines)
    edges = windows[outlines.chips[same.first]]
    outwards = np.array([-1, -1, 1, 1])
    goes_on = (bounds[same.second] - edges) * outwards > EDGE_PX
    stops_short = sides.gaps[same.first] <= SHORT_PX
    near = sides.near.copy()
    pair, side = np.nonzero(goes_on & stops_short)
    near[same.first[pair], side] = True
    return replace(sides, near=near)


def _deepest(outlines: Outlines, sides: Sides, same: Overlaps) -> Mask:
    """(n,) False for outlines of a building that another chip shows whole, farther inside."""
    rank = ranks(-sides.depth, -outlines.scores)
    return best_of_rivals(rank, same.first, same.second)


def _inside_whole(outlines: Outlines, sides: Sides, overlaps: Overlaps) -> Mask:
    """(n,) True for cut pieces that lie inside a whole outline from another chip."""
    cut = np.any(sides.cut, axis=1)
    pairs = overlaps.both_ways()
    piece, whole = pairs.first, pairs.second
    inside = (
        cut[piece]
        & ~cut[whole]
        & (outlines.chips[piece] != outlines.chips[whole])
        & (pairs.area >= INSIDE_SHARE * shapely.area(outlines.polygons)[piece])
    )
    result = np.zeros(len(outlines), dtype=np.bool_)
    result[piece[inside]] = True
    return result
