"""Join the pieces of buildings that seams cut, over as many chips as it takes.

Frame: grid pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.matching import GAP_PX, Matches, all_combinations, find_matches
from footprints.vector.outlines import Footprints, Indices, Mask, Outlines, Polygons
from footprints.vector.seams import Sides, extents, foreign_ground

PRECISION_PX = 2.0**-10
"""Pieces are cut and united on a lattice this fine, so that they meet without hairline gaps."""


def join(
    outlines: Outlines,
    votes: NDArray[np.float64],
    sides: Sides,
    windows: NDArray[np.float64],
) -> tuple[Footprints, Mask]:
    """Make one footprint of every set of pieces that belong together, and of everything else.

    Geometry alone decides: pieces whose classes differ join as well. The class with the most
    evidence (votes times area) wins; of equals, the first.

    Args:
        outlines: n outlines, whole and cut, duplicates removed.
        votes: (n, classes) how sure the chips are of each class.
        sides: How they lie in their chips.
        windows: (chips, 4) windows of the chips as boxes.

    Returns:
        The footprints, Polygon or MultiPolygon, which may still overlap, and the mask of those a
        seam cuts without a counterpart.
    """
    pieces = np.flatnonzero(np.any(sides.cut, axis=1))
    group = np.arange(len(outlines))
    found = find_matches(outlines.take(pieces), windows)
    group[pieces] = pieces[group_pieces(outlines.chips[pieces], found)]
    polygons = _own_ground(outlines.polygons, group, windows[outlines.chips])
    unanswered = _unanswered(outlines, sides, group, windows)
    at_border = sides.at_border | outlines.at_nodata
    return _unite(polygons, outlines.scores, votes, group, unanswered, at_border)


def group_pieces(chips: Indices, matches: Matches) -> Indices:
    """(n,) for each of n pieces the lowest piece of its building.

    Pieces that one chip shows apart do not become one building over a chain of matches. Only a
    piece that matches both of them at once says that they are, as the body of a U does of its arms.
    """
    group = _components(len(chips), matches.first, matches.second)
    order = np.lexsort((chips, group))
    same = (np.diff(group[order]) == 0) & (np.diff(chips[order]) == 0)
    doubtful = np.zeros(len(chips), dtype=np.bool_)
    doubtful[group[order[1:][same]]] = True
    inside = np.flatnonzero(doubtful[group[matches.first]])
    strongest_first = inside[np.argsort(-matches.shared[inside], kind="stable")]
    split = _join_without_conflict(
        chips, matches.first[strongest_first].tolist(), matches.second[strongest_first].tolist()
    )
    for members in split:
        group[list(members)] = min(members)
    return group


def _join_without_conflict(
    chips: Indices, first: list[int], second: list[int]
) -> Iterable[frozenset[int]]:
    """Groups of pieces by matches in order, leaving out those that contradict earlier ones."""
    mates: dict[int, set[int]] = defaultdict(set)
    for a, b in zip(first, second, strict=True):
        mates[a].add(b)
        mates[b].add(a)
    group = {piece: frozenset([piece]) for piece in mates}
    for a, b in zip(first, second, strict=True):
        conflict = any(
            p != q and chips[p] == chips[q] and mates[p].isdisjoint(mates[q])
            for p in group[a]
            for q in group[b]
        )
        if not conflict:
            joined = group[a] | group[b]
            group.update(dict.fromkeys(joined, joined))
    return set(group.values())


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
    _, left, right = all_combinations(number, number, len(sizes))
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
    polygons: Polygons,
    scores: NDArray[np.float32],
    votes: NDArray[np.float64],
    group: Indices,
    unanswered: Mask,
    at_border: Mask,
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
    confidence = np.bincount(member, area * scores) / np.bincount(member, area)
    evidence = np.zeros((len(groups), votes.shape[1]))
    np.add.at(evidence, member, area[:, None] * votes)
    labels = evidence.argmax(axis=1)
    open_ = np.bincount(member, unanswered) > 0
    cut = open_ | (np.bincount(member, at_border) > 0)
    # Where they are is settled once no outline changes any more.
    keypoints = np.empty((len(united), 0, 3))
    return Footprints(united, confidence.astype(np.float32), labels, cut, keypoints), open_


def _close_gaps(polygon: shapely.Geometry) -> shapely.Geometry:
    """Bridge gaps of up to `GAP_PX` between the parts of a joined building."""
    if polygon.geom_type == "Polygon":
        return polygon
    grown = shapely.buffer(polygon, GAP_PX / 2, join_style="mitre")
    closed = shapely.buffer(grown, -GAP_PX / 2, join_style="mitre")
    return closed if shapely.get_num_geometries(closed) < len(polygon.geoms) else polygon
