"""Which pieces of cut buildings belong together: each other's best match where two chips compare.

Frame: grid pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.outlines import Indices, Mask, Outlines, Polygons
from footprints.vector.seams import compared_zone, extents

MATCH_IOU = 0.4
"""Two pieces may be of one building from this IoU in the zone their chips compare."""
GAP_PX = 2.0
"""Pieces in chips that share next to nothing may be this far apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Pairs of pieces from different chips."""

    first: Indices
    """(m,) index of one piece."""
    second: Indices
    """(m,) index of the other."""
    shared: NDArray[np.float64]
    """(m,) area on which they agree."""


def find_matches(pieces: Outlines, windows: NDArray[np.float64]) -> Matches:
    """Pairs of pieces that are each other's best match where their two chips compare.

    What a piece shows there may fall into parts (the two arms of a U); each part has its own
    match, so that a chip that sees only the arms joins both to the whole.

    Args:
        pieces: Outlines that seams cut.
        windows: (chips, 4) windows of all chips as boxes.
    """
    first, second = _candidates(pieces)
    own, other = windows[pieces.chips[first]], windows[pieces.chips[second]]
    zone, narrow = compared_zone(own, other)
    views = (
        _view(pieces.polygons[first], zone, narrow),
        _view(pieces.polygons[second], zone, narrow),
    )
    return match_views(pieces.chips, first, second, views)


def match_views(
    chips: NDArray[np.int64], first: Indices, second: Indices, views: tuple[View, View]
) -> Matches:
    """Pairs of pieces of which a part is the best match of a part of the other, and the other way.

    Args:
        chips: (n,) chip of each piece.
        first: (p,) one piece of each pair to look at.
        second: (p,) the other.
        views: What the first and the second pieces show where their chips compare.
    """
    pair, left, right = all_combinations(views[0].pair, views[1].pair, len(first))
    shared, iou = _agreement(views[0].parts[left], views[1].parts[right])
    likely = iou >= MATCH_IOU
    pair, left, right = pair[likely], left[likely], right[likely]
    shared, iou = shared[likely], iou[likely]
    # A part is known by its piece, the chip it is compared with and its number.
    a, b = first[pair], second[pair]
    chip_a, chip_b = chips[a], chips[b]
    mutual = _is_best(iou, a, chip_b, views[0].number[left]) & _is_best(
        iou, b, chip_a, views[1].number[right]
    )
    return Matches(a[mutual], b[mutual], shared[mutual])


def _candidates(pieces: Outlines) -> tuple[Indices, Indices]:
    """Pairs of pieces from different chips that share ground or nearly touch."""
    low_high = extents(pieces) + np.array([-1, -1, 1, 1]) * GAP_PX / 2
    boxes = shapely.box(*low_high.T)
    first, second = shapely.STRtree(boxes).query(boxes)
    pairs = (first < second) & (pieces.chips[first] != pieces.chips[second])
    first, second = first[pairs], second[pairs]
    close = shapely.dwithin(pieces.polygons[first], pieces.polygons[second], GAP_PX)
    first, second = first[close], second[close]
    order = np.lexsort((second, first))
    return first[order], second[order]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The parts of pieces seen in the zones of p pairs."""

    parts: Polygons
    """(k,) polygons."""
    pair: Indices
    """(k,) the pair they were seen for, ascending."""
    number: Indices
    """(k,) count from 0 among the parts of the same pair."""

    @classmethod
    def of(cls, parts: Polygons, pair: Indices) -> View:
        """Number the parts of each pair."""
        _, starts, counts = np.unique(pair, return_index=True, return_counts=True)
        return cls(parts, pair, np.arange(len(pair)) - np.repeat(starts, counts))


def _view(polygons: Polygons, zone: NDArray[np.float64], narrow: NDArray[np.bool_]) -> View:
    """What (p,) pieces show in (p, 4) zones."""
    clipped = shapely.intersection(polygons, shapely.box(*zone.T))
    parts, pair = shapely.get_parts(clipped, return_index=True)
    is_ground = shapely.area(parts) > 0
    parts, pair = parts[is_ground], pair[is_ground]
    stretched = np.any(narrow[pair], axis=1)
    # Neither chip sees the whole zone: compare extents along the seam.
    bounds = shapely.bounds(parts[stretched])
    across = np.hstack([narrow, narrow])[pair[stretched]]
    parts[stretched] = shapely.box(*np.where(across, zone[pair[stretched]], bounds).T)
    return View.of(parts, pair)


def all_combinations(left: Indices, right: Indices, pairs: int) -> tuple[Indices, Indices, Indices]:
    """Every left with every right element of the same pair.

    Args:
        left: (k,) pair of each left element, ascending.
        right: (m,) pair of each right element, ascending.
        pairs: Number of pairs.

    Returns:
        (c,) pair, left element, right element.
    """
    rights = np.bincount(right, minlength=pairs)
    starts = np.cumsum(rights) - rights
    repeats = rights[left]
    index = np.repeat(np.arange(len(left)), repeats)
    turn = np.arange(len(index)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    pair = left[index]
    return pair, index, starts[pair] + turn


def _agreement(
    first: Polygons, second: Polygons
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) shared area and IoU of polygons with area, pair by pair."""
    shared = shapely.area(shapely.intersection(first, second))
    return shared, shared / (shapely.area(first) + shapely.area(second) - shared)


def _is_best(score: NDArray[np.float64], *key: Indices) -> Mask:
    """(n,) whether a row has the highest score of those with its key; of equals, the first."""
    order = np.lexsort((-score, *key))
    columns = np.stack(key)[:, order]
    best = np.zeros(len(score), dtype=np.bool_)
    starts_key = np.ones(len(score), dtype=np.bool_)
    starts_key[1:] = np.any(columns[:, 1:] != columns[:, :-1], axis=0)
    best[order[starts_key]] = True
    return best
