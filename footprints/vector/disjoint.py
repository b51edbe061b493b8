"""In the end no ground belongs to two footprints: greedy by confidence, whole before cut.

What is mostly covered by better footprints goes; otherwise it loses the ground they cover. The
objects of a photograph are no ground: `keep_overlaps` leaves them whole.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.outlines import Footprints, Indices, Mask, Polygons
from footprints.vector.overlaps import (
    INSIDE_SHARE,
    Overlaps,
    find_blobs,
    find_overlaps,
    ranks,
)
from footprints.vector.parts import is_sliver, without_slivers

COVERED_SHARE = 0.5
"""A footprint of which better ones cover this share is dropped."""
ROOF_PART_SHARE = 0.2
"""What lies within a footprint and is smaller than this share of it is a part of its roof: a
chimney, a dormer, a dome."""
LEFTOVER_SHARE = 0.7
"""What has less than this share of its ground left, and that a sliver, is dropped."""
BESIDE_PX = 4.0
"""A piece without counterpart at a seam that goes no farther than this from other footprints is a
stump of one of them, seen a little differently: it is dropped."""


def make_disjoint(footprints: Footprints, unmatched: Mask) -> Footprints:
    """Settle every overlap that is left.

    Args:
        footprints: n buildings that may still overlap, Polygon or MultiPolygon.
        unmatched: (n,) True for those a seam cuts without a counterpart: they give way to all
            others.

    Returns:
        Footprints without common ground, in order of position. A footprint that falls into parts
        gives one for each part that is no sliver.
    """
    footprints = footprints.with_polygons(without_slivers(footprints.polygons))
    overlaps = find_overlaps(footprints.polygons)
    solid = ~find_blobs(footprints.polygons, overlaps)
    rank = _ranks(footprints, unmatched, overlaps.among(solid))
    polygons = _subtract_better(footprints.polygons, rank, overlaps.among(solid))
    polygons[~solid] = None
    return _without_stumps(footprints.with_polygons(polygons), unmatched)


def keep_overlaps(footprints: Footprints, unmatched: Mask) -> Footprints:
    """Leave every overlap as it is: in a photograph, objects stand before one another.

    Args:
        footprints: n objects, Polygon or MultiPolygon.
        unmatched: As for `make_disjoint`.

    Returns:
        Footprints in order of position, parts as `make_disjoint` has them.
    """
    polygons = without_slivers(footprints.polygons)
    return _without_stumps(footprints.with_polygons(polygons), unmatched)


def in_order(footprints: Footprints) -> Footprints:
    """Footprints from top to bottom, then left to right, each with its vertices in normal form."""
    return by_position(footprints.with_polygons(shapely.normalize(footprints.polygons)))


def by_position(footprints: Footprints) -> Footprints:
    """Footprints from top to bottom, then left to right."""
    x_min, y_min, x_max, y_max = shapely.bounds(footprints.polygons).reshape(-1, 4).T
    return footprints.take(np.lexsort((footprints.scores, y_max, x_max, x_min, y_min)))


def _without_stumps(footprints: Footprints, unmatched: Mask) -> Footprints:
    """One footprint per part that is left, in order; those without polygon go, and stumps."""
    polygons = footprints.polygons.copy()
    polygons[_find_stumps(polygons, unmatched)] = None
    return in_order(_split_parts(footprints.with_polygons(polygons)))


def _find_stumps(polygons: Polygons, unmatched: Mask) -> Mask:
    """(n,) True for unmatched pieces of which nothing lies farther out than beside others."""
    matched = np.flatnonzero(~unmatched & ~shapely.is_missing(polygons))
    pieces = np.flatnonzero(unmatched & ~shapely.is_missing(polygons))
    near, other = shapely.STRtree(polygons[matched]).query(
        polygons[pieces], predicate="dwithin", distance=BESIDE_PX
    )
    pieces, starts = pieces[np.unique(near)], np.unique(near, return_index=True)[1]
    surroundings = [
        shapely.buffer(shapely.union_all(polygons[matched[others]]), BESIDE_PX)
        for others in np.split(other, starts)[1:]
    ]
    stumps = np.zeros(len(polygons), dtype=np.bool_)
    stumps[pieces] = shapely.covers(np.array(surroundings, dtype=object), polygons[pieces])
    return stumps


def _ranks(footprints: Footprints, unmatched: Mask, overlaps: Overlaps) -> NDArray[np.int64]:
    """(n,) who is served first: complete ones, then by confidence, size and position."""
    areas = shapely.area(footprints.polygons)
    pairs = overlaps.both_ways()
    pairs = pairs.where(
        (pairs.area >= INSIDE_SHARE * areas[pairs.first])
        & (areas[pairs.first] < ROOF_PART_SHARE * areas[pairs.second])
    )
    # A part of a roof never comes before the roof, however sure the detector is of it.
    confidence = footprints.scores.astype(np.float64)
    np.minimum.at(confidence, pairs.first, footprints.scores[pairs.second])
    x_min, y_min, x_max, y_max = shapely.bounds(footprints.polygons).T
    return ranks(unmatched, -confidence, -areas, y_min, x_min, y_max, x_max)


def _subtract_better(polygons: Polygons, rank: NDArray[np.int64], overlaps: Overlaps) -> Polygons:
    """Take from each polygon, in order of rank, the ground of those before it.

    All polygons whose better neighbours are settled are treated at once.

    Args:
        polygons: (n,) outlines.
        rank: (n,) the lowest keeps all its ground.
        overlaps: The pairs that share ground.

    Returns:
        (n,) what is left, None for polygons that go.
    """
    left = polygons.copy()
    is_first = rank[overlaps.first] < rank[overlaps.second]
    better = np.where(is_first, overlaps.first, overlaps.second)
    worse = np.where(is_first, overlaps.second, overlaps.first)
    while len(better):
        waits = np.zeros(len(polygons), dtype=np.bool_)
        waits[worse] = True
        # A polygon is ready when none of the better ones it overlaps is waiting itself.
        blocked = np.zeros(len(polygons), dtype=np.bool_)
        blocked[worse[waits[better]]] = True
        now = ~blocked[worse]
        _subtract(left, better[now], worse[now])
        better, worse = better[~now], worse[~now]
    return left


def _subtract(left: Polygons, better: Indices, worse: Indices) -> None:
    """Take settled polygons from others, in place; those that are mostly covered become None."""
    order = np.lexsort((better, worse))
    better, worse = better[order], worse[order]
    targets, starts, counts = np.unique(worse, return_index=True, return_counts=True)
    before = left[targets]
    rest = before.copy()
    for turn in range(counts.max()):
        has_more = counts > turn
        rivals = left[better[starts[has_more] + turn]]
        there = ~shapely.is_missing(rivals)
        which = np.flatnonzero(has_more)[there]
        rest[which] = shapely.difference(rest[which], rivals[there])
    share = shapely.area(rest) / shapely.area(before)
    # A better one in the middle would leave a ring: no building looks like that.
    gone = (share <= 1 - COVERED_SHARE) | (_holes(rest) > _holes(before))
    leftover = np.flatnonzero(share < LEFTOVER_SHARE)
    gone[leftover] |= is_sliver(rest[leftover])
    rest[~gone] = without_slivers(rest[~gone])
    rest[gone] = None
    left[targets] = rest


def _holes(polygons: Polygons) -> NDArray[np.int64]:
    """(n,) number of interior rings over all parts."""
    parts, owner = shapely.get_parts(polygons, return_index=True)
    holes = np.bincount(owner, shapely.get_num_interior_rings(parts), minlength=len(polygons))
    return holes.astype(np.int64)


def _split_parts(footprints: Footprints) -> Footprints:
    """One footprint per part; none for those that are gone."""
    parts, owner = shapely.get_parts(footprints.polygons, return_index=True)
    return footprints.take(owner).with_polygons(parts)
