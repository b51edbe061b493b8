"""Join the pieces of buildings that seams cut, over as many chips as it takes.

Frame: grid pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.outlines import Footprints, Indices, Mask, Outlines, Polygons
from footprints.vector.seams import (
    Sides,
    compared_zone,
    extents,
    foreign_ground,
)

MATCH_IOU = 0.4
"""Two pieces may be of one building from this IoU in the zone their chips compare."""
GAP_PX = 2.0
"""Pieces in chips that share next to nothing may be this far apart; gaps up to here are closed."""
PRECISION_PX = 2.0**-10
"""Pieces are cut and united on a lattice this fine, so that they meet without hairline gaps."""


def join(outlines: Outlines, sides: Sides, windows: NDArray[np.float64]) -> tuple[Footprints, Mask]:
    """Make one footprint of every set of pieces that belong together, and of everything else.

    Geometry alone decides: pieces whose classes differ join as well, and the class with the most
    evidence (confidence times area) wins.

    Args:
        outlines: n outlines, whole and cut, duplicates removed.
        sides: How they lie in their chips.
        windows: (chips, 4) windows of the chips as boxes.

    Returns:
        The footprints, Polygon or MultiPolygon, which may still overlap, and the mask of those a
        seam cuts without a counterpart.
    """
    pieces = np.flatnonzero(np.any(sides.cut, axis=1))
    first, second = _matches(outlines.take(pieces), windows)
    group = _components(len(outlines), pieces[first], pieces[second])
    polygons = _own_ground(outlines.polygons, group, windows[outlines.chips])
    unanswered = _unanswered(outlines, sides, group, windows)
    return _unite(outlines, polygons, group, unanswered, sides.at_border | outlines.at_nodata)


def _matches(pieces: Outlines, windows: NDArray[np.float64]) -> tuple[Indices, Indices]:
    """Pairs of pieces that are each other's best match where their two chips compare.

    What a piece shows there may fall into parts (the two arms of a U); each part has its own
    match, so that a chip that sees only the arms joins both to the whole.
    """
    first, second = _candidates(pieces)
    own, other = windows[pieces.chips[first]], windows[pieces.chips[second]]
    zone, narrow = compared_zone(own, other)
    views = (
        _view(pieces.polygons[first], zone, narrow),
        _view(pieces.polygons[second], zone, narrow),
    )
    pair, left, right = _all_combinations(views[0].pair, views[1].pair, len(first))
    iou = _iou(views[0].parts[left], views[1].parts[right])
    likely = iou >= MATCH_IOU
    pair, left, right, iou = pair[likely], left[likely], right[likely], iou[likely]
    # A part is known by its piece, the chip it is compared with and its number.
    a, b = first[pair], second[pair]
    chip_a, chip_b = pieces.chips[a], pieces.chips[b]
    mutual = _is_best(iou, a, chip_b, views[0].number[left]) & _is_best(
        iou, b, chip_a, views[1].number[right]
    )
    return a[mutual], b[mutual]


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
class _View:
    """The parts of pieces seen in the zones of p pairs."""

    parts: Polygons
    """(k,) polygons."""
    pair: Indices
    """(k,) the pair they were seen for, ascending."""
    number: Indices
    """(k,) count from 0 among the parts of the same pair."""


def _view(polygons: Polygons, zone: NDArray[np.float64], narrow: NDArray[np.bool_]) -> _View:
    """What (p,) pieces show in (p, 4) zones."""
    clipped = shapely.intersection(polygons, shapely.box(*zone.T))
    parts, pair = shapely.get_parts(clipped, return_index=True)
    is_ground = shapely.area(parts) > 0
    parts, pair = parts[is_ground], pair[is_ground]
    _, starts, counts = np.unique(pair, return_index=True, return_counts=True)
    number = np.arange(len(pair)) - np.repeat(starts, counts)
    stretched = np.any(narrow[pair], axis=1)
    # Neither chip sees the whole zone: compare extents along the seam.
    bounds = shapely.bounds(parts[stretched])
    across = np.hstack([narrow, narrow])[pair[stretched]]
    parts[stretched] = shapely.box(*np.where(across, zone[pair[stretched]], bounds).T)
    return _View(parts, pair, number)


def _all_combinations(
    left: Indices, right: Indices, pairs: int
) -> tuple[Indices, Indices, Indices]:
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


def _iou(first: Polygons, second: Polygons) -> NDArray[np.float64]:
    """(n,) IoU of polygons with area, pair by pair."""
    shared = shapely.area(shapely.intersection(first, second))
    return np.asarray(shared / (shapely.area(first) + shapely.area(second) - shared))


def _is_best(score: NDArray[np.float64], *key: Indices) -> Mask:
    """(n,) whether a row has the highest score of those with its key; of equals, the first."""
    order = np.lexsort((-score, *key))
    columns = np.stack(key)[:, order]
    best = np.zeros(len(score), dtype=np.bool_)
    starts_key = np.ones(len(score), dtype=np.bool_)
    starts_key[1:] = np.any(columns[:, 1:] != columns[:, :-1], axis=0)
    best[order[starts_key]] = True
    return best


def _components(n: int, first: Indices, second: Indices) -> Indices:
    """(n,) for each node the lowest node it is connected with, itself included."""
    group = np.arange(n)
    while True:
        lower = group.copy()
        np.minimum.at(lower, first, group[second])
        np.minimum.at(lower, second, group[first])
        lower = lower[lower]
        if np.array_equal(lower, group):
            return group
        group = lower


def _companions(group: Indices) -> tuple[Indices, Indices]:
    """All ordered pairs of different members of the same group."""
    order = np.argsort(group, kind="stable")
    _, sizes = np.unique(group, return_counts=True)
    number = np.repeat(np.arange(len(sizes)), sizes)
    _, left, right = _all_combinations(number, number, len(sizes))
    different = left != right
    return order[left[different]], order[right[different]]


def _own_ground(polygons: Polygons, group: Indices, windows: NDArray[np.float64]) -> Polygons:
    """Take from each piece the ground that belongs to the chips of its companions.

    Only companions count: where a neighbouring chip missed the building, nothing is lost.
    """
    own, other = _companions(group)
    foreign = foreign_ground(windows[own], windows[other])
    shared = np.all(foreign[:, 2:] > foreign[:, :2], axis=1)
    shared &= np.any(windows[own] != windows[other], axis=1)
    # Several companions may come from the same chip.
    claims = np.unique(np.column_stack([own[shared], foreign[shared]]), axis=0)
    owners, starts, counts = np.unique(claims[:, 0], return_index=True, return_counts=True)
    targets = owners.astype(np.intp)
    polygons = polygons.copy()
    for turn in range(counts.max(initial=0)):
        which = counts > turn
        ground = shapely.box(*claims[starts[which] + turn, 1:].T)
        polygons[targets[which]] = shapely.difference(
            polygons[targets[which]], ground, grid_size=PRECISION_PX
        )
    return polygons


def _unanswered(
    outlines: Outlines, sides: Sides, group: Indices, windows: NDArray[np.float64]
) -> Mask:
    """(n,) whether a seam cuts an outline at a place that no companion's chip sees beyond."""
    bounds = extents(outlines)
    own_windows = windows[outlines.chips]
    centre = (bounds[:, :2] + bounds[:, 2:]) / 2
    own, other = _companions(group)
    foreign = windows[outlines.chips[other]]
    answered = np.zeros((len(outlines), 4), dtype=np.bool_)
    for side in range(4):
        axis, outwards = side % 2, (-0.5 if side < 2 else 0.5)
        beyond = centre[own].copy()
        beyond[:, axis] = own_windows[own, side] + outwards
        seen = np.all((foreign[:, :2] <= beyond) & (beyond <= foreign[:, 2:]), axis=1)
        answered[own[seen], side] = True
    return np.asarray(np.any(sides.cut & ~answered, axis=1))


def _unite(
    outlines: Outlines, polygons: Polygons, group: Indices, unanswered: Mask, at_border: Mask
) -> tuple[Footprints, Mask]:
    """Unite the pieces of each group."""
    groups, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    united = polygons[groups]
    order = np.argsort(member, kind="stable")
    starts = np.cumsum(sizes) - sizes
    for number in np.flatnonzero(sizes > 1):
        pieces = polygons[order[starts[number] : starts[number] + sizes[number]]]
        united[number] = _close_gaps(shapely.union_all(pieces, grid_size=PRECISION_PX))
    area = np.maximum(shapely.area(polygons), PRECISION_PX)
    scores = np.bincount(member, area * outlines.scores) / np.bincount(member, area)
    heaviest = np.lexsort((outlines.labels, -area * outlines.scores, member))[starts]
    open_ = np.bincount(member, unanswered) > 0
    cut = open_ | (np.bincount(member, at_border) > 0)
    return Footprints(united, scores.astype(np.float32), outlines.labels[heaviest], cut), open_


def _close_gaps(polygon: shapely.Geometry) -> shapely.Geometry:
    """Bridge gaps of up to `GAP_PX` between the parts of a joined building."""
    if polygon.geom_type == "Polygon":
        return polygon
    grown = shapely.buffer(polygon, GAP_PX / 2, join_style="mitre")
    closed = shapely.buffer(grown, -GAP_PX / 2, join_style="mitre")
    return closed if shapely.get_num_geometries(closed) < len(polygon.geoms) else polygon
