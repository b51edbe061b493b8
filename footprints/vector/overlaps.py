"""Which outlines share ground, and which of them go: pairs from a tree, rules on whole arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import GeometryType

from footprints.vector.agreement import common_area
from footprints.vector.outlines import Indices, Mask, Polygons

SAME_IOU = 0.5
"""Two outlines with this IoU show the same building."""
INSIDE_SHARE = 0.7
"""An outline lies inside another with this share of its area."""
MOST_SHARE = 0.8
"""An outline that covers this share of a larger one explains it alone."""
EXPLAINED_SHARE = 0.6
"""A blob is an outline of which this share is covered by outlines inside it..."""
SECOND_SHARE = 0.15
"""...and of which this share is left to others by the largest of them. Both shares and
`MOST_SHARE` leave room for the gardens and gaps that a blob covers besides the houses."""

HARDLY_SHARED = 1e-6
"""Up to this share of the smaller outline a sum of areas may be nothing but rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Pairs of polygons that share ground, each pair once."""

    first: Indices
    """(p,) index of one polygon."""
    second: Indices
    """(p,) index of the other, always the greater."""
    area: NDArray[np.float64]
    """(p,) area they share."""

    def where(self, which: Mask) -> Overlaps:
        """Some of the pairs."""
        return Overlaps(self.first[which], self.second[which], self.area[which])

    def among(self, members: Mask) -> Overlaps:
        """The pairs of which both polygons are members, given as (n,) mask over the polygons."""
        return self.where(members[self.first] & members[self.second])

    def both_ways(self) -> Overlaps:
        """Each pair twice, once in either order."""
        return Overlaps(
            np.concatenate([self.first, self.second]),
            np.concatenate([self.second, self.first]),
            np.concatenate([self.area, self.area]),
        )


def find_overlaps(polygons: Polygons) -> Overlaps:
    """All pairs of (n,) polygons that share ground."""
    first, second = shapely.STRtree(polygons).query(polygons)
    ordered = first < second
    order = np.lexsort((second[ordered], first[ordered]))
    first, second = first[ordered][order], second[ordered][order]
    # Half of the pairs share a box only, and telling so is eight times as fast as the overlay.
    meet = shapely.intersects(polygons[first], polygons[second])
    first, second = first[meet], second[meet]
    pairs = Overlaps(first, second, _shared_areas(polygons, first, second))
    return pairs.where(pairs.area > 0)


def _shared_areas(polygons: Polygons, first: Indices, second: Indices) -> NDArray[np.float64]:
    """(p,) area that pairs of (n,) polygons share, exactly 0 where they only touch."""
    is_plain = shapely.get_type_id(polygons) == GeometryType.POLYGON
    plain = np.flatnonzero(is_plain[first] & is_plain[second])
    area = np.zeros(len(first))
    area[plain] = common_area(polygons[first[plain]], polygons[second[plain]])
    # Sums are several times as fast as overlays, but only these say that nothing is shared.
    areas = shapely.area(polygons)
    rest = np.flatnonzero(area <= HARDLY_SHARED * np.minimum(areas[first], areas[second]))
    overlay = shapely.intersection(polygons[first[rest]], polygons[second[rest]])
    area[rest] = shapely.area(overlay)
    return area


def find_blobs(polygons: Polygons, overlaps: Overlaps) -> Mask:
    """Outlines over several buildings that were found one by one as well.

    A blob is covered by two or more outlines inside it, none of which covers most of it alone.
    Confidence has no say: a network is never surer than of a whole row of houses.

    Args:
        polygons: (n,) outlines.
        overlaps: The pairs of them to look at.

    Returns:
        (n,) True for blobs.
    """
    areas = shapely.area(polygons)
    pairs = overlaps.both_ways()
    pairs = pairs.where(
        (pairs.area >= INSIDE_SHARE * areas[pairs.first])
        & (pairs.area <= MOST_SHARE * areas[pairs.second])
        & (areas[pairs.first] < areas[pairs.second])
    )
    # The sum is an upper bound of the union: few outlines are left for the costly test.
    covered = np.bincount(pairs.second, pairs.area, minlength=len(polygons))
    pairs = pairs.where(covered[pairs.second] >= EXPLAINED_SHARE * areas[pairs.second])
    order = np.argsort(pairs.second, kind="stable")
    inner, outer, area = pairs.first[order], pairs.second[order], pairs.area[order]
    blobs = np.zeros(len(polygons), dtype=np.bool_)
    candidates, starts = np.unique(outer, return_index=True)
    for blob, members, shares in zip(
        candidates, np.split(inner, starts[1:]), np.split(area, starts[1:]), strict=False
    ):
        together = shapely.union_all(polygons[members])
        explained = shapely.area(shapely.intersection(polygons[blob], together))
        blobs[blob] = (
            explained >= EXPLAINED_SHARE * areas[blob]
            and explained - shares.max() >= SECOND_SHARE * areas[blob]
        )
    return blobs


def find_doubles(polygons: Polygons, overlaps: Overlaps) -> Overlaps:
    """The pairs of (n,) outlines that show the same building."""
    areas = shapely.area(polygons)
    union = areas[overlaps.first] + areas[overlaps.second] - overlaps.area
    return overlaps.where(overlaps.area >= SAME_IOU * union)


def surest(polygons: Polygons, scores: NDArray[np.float32], doubles: Overlaps) -> Mask:
    """(n,) False for all but the surest outline of one building; of equals, the largest stays."""
    rank = ranks(-scores, -shapely.area(polygons))
    return best_of_rivals(rank, doubles.first, doubles.second)


def best_of_rivals(rank: NDArray[np.int64], first: Indices, second: Indices) -> Mask:
    """Greedy choice, as in NMS: the best stays and its rivals go, then the best of the rest.

    Choosing one per connected component instead would let a chain of rivals swallow a street.

    Args:
        rank: (n,) the lowest wins; all different.
        first: (p,) index of one of two rivals.
        second: (p,) index of the other.

    Returns:
        (n,) True for those that stay.
    """
    better = np.where(rank[first] < rank[second], first, second)
    worse = first + second - better
    stays = np.ones(len(rank), dtype=np.bool_)
    while len(better):
        waits = np.zeros(len(rank), dtype=np.bool_)
        waits[worse] = True
        stays[worse[~waits[better]]] = False
        # Who is out has no rivals any more, and who was waiting for nobody is settled.
        open_ = stays[worse] & stays[better] & waits[better]
        better, worse = better[open_], worse[open_]
    return stays


def ranks(*keys: NDArray[np.generic]) -> NDArray[np.int64]:
    """(n,) rank by the first key, ties by the next ones, then by position in the array."""
    order = np.lexsort(keys[::-1])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank
