"""Footprints that touch: found, given the same vertices, and fitted together again.

Frame: metres (`footprints.vector.metric`).
"""

from __future__ import annotations

import numpy as np
import shapely

from footprints.vector.agreement import common_area
from footprints.vector.metric import components
from footprints.vector.outlines import Indices, Mask, Polygons
from footprints.vector.parts import largest_parts
from footprints.vector.walls import Floats

TOUCH_M = 0.02
"""Metres; footprints this near to each other touch. Rounding of coordinates in degrees and of
outlines that were cut to fit stays well below."""
SHARED_SHARE = 0.02
"""Footprints that share more than this of the smaller one's ground overlap on purpose, as the
objects of a photograph do, and do not share a wall."""
GAP_SHARE = 0.5
"""Gaps between touching footprints up to this share of the tolerance are closed."""
ROUNDS = 6
"""Times that the neighbours of what went back to its source are fitted anew; then all go back."""
NO_AREA_M2 = 1e-6
"""Common ground that is rounding."""


def find_touching(polygons: Polygons) -> Indices:
    """Which footprints stand wall to wall.

    Args:
        polygons: (n,) valid polygons in metres.

    Returns:
        (p, 2) pairs, each once, the lower index first. A footprint that overlaps another touches
        none.
    """
    bounds = shapely.bounds(polygons)
    grown = shapely.box(*(bounds + TOUCH_M * np.array([-1, -1, 1, 1])).T)
    pairs: Indices = shapely.STRtree(polygons).query(grown).T
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    # Each polygon is asked about all its neighbours, so it pays to index it.
    shapely.prepare(polygons[np.unique(pairs[:, 0])])
    pairs = pairs[shapely.dwithin(polygons[pairs[:, 0]], polygons[pairs[:, 1]], TOUCH_M)]
    if not len(pairs):
        return pairs
    one, other = polygons[pairs[:, 0]], polygons[pairs[:, 1]]
    common = common_area(one, other)
    overlaps = common > SHARED_SHARE * np.minimum(shapely.area(one), shapely.area(other))
    spoiled = np.zeros(len(polygons), dtype=bool)
    spoiled[pairs[overlaps]] = True
    kept: Indices = pairs[~spoiled[pairs].any(axis=1)]
    return kept


def match_edges(polygons: Polygons, touching: Indices) -> tuple[Polygons, Indices]:
    """Give touching footprints the same vertices along the walls they share.

    Args:
        polygons: (n,) valid polygons in metres.
        touching: (p, 2) pairs, as `find_touching` gives them.

    Returns:
        (n,) polygons without gap or overlap where they touch; and the pairs less those of polygons
        that would not survive it, which stay as they are.
    """
    members = np.unique(touching)
    if not len(members):
        return polygons, touching
    cleaned = clean_coverage(polygons[members], TOUCH_M)
    sound = ~shapely.is_missing(cleaned) & shapely.is_valid(cleaned)
    before = shapely.area(polygons[members])
    sound &= np.abs(shapely.area(cleaned) - before) <= 2 * SHARED_SHARE * before
    matched = polygons.copy()
    matched[members[sound]] = cleaned[sound]
    return matched, touching[~np.isin(touching, members[~sound]).any(axis=1)]


def clean_coverage(polygons: Polygons, gap_m: float) -> Polygons:
    """Edge-matched (n,) polygons without overlap; None for what vanishes.

    Ground of several goes to the first; gaps narrower than ``gap_m`` metres are filled.
    """
    cleaned = shapely.coverage_clean(
        polygons, gap_width=gap_m, snapping_distance=TOUCH_M / 10, merge_strategy="min_index"
    )
    cleaned[shapely.is_empty(cleaned)] = None
    return largest_parts(cleaned)


def outline_distance(source: Polygons, fitted: Polygons) -> Floats:
    """(n,) Hausdorff distance of outlines in metres, infinite for None."""
    there = ~shapely.is_missing(fitted)
    distance = np.full(len(source), np.inf)
    distance[there] = shapely.hausdorff_distance(source[there], fitted[there])
    return distance


def fit_together(
    source: Polygons, fitted: Polygons, reach: Floats, touching: Indices, tolerance_m: float
) -> tuple[Polygons, Mask]:
    """Close the gaps and settle the overlaps that are left between touching footprints.

    Args:
        source: (n,) polygons in metres.
        fitted: (n,) what became of each; None where nothing fits.
        reach: (n,) no less than the Hausdorff distance of both.
        touching: (p, 2) pairs of the source.
        tolerance_m: Metres; what leaves the source farther goes back to it.

    Returns:
        (n,) polygons, edge-matched where they touch, and (n,) True for those that went back to
        their source, or as near to it as their neighbours let them.
    """
    back = shapely.is_missing(fitted)
    result, reach = np.where(back, source, fitted), np.where(back, 0.0, reach)
    group = components(len(source), touching)
    members = np.unique(touching)
    for _ in range(ROUNDS):
        # A group that is back as a whole fits together as it is.
        members = members[np.isin(group[members], group[members[~back[members]]])]
        if not len(members):
            break
        # Sources come first: they keep their ground, and neighbours adapt to them.
        order = members[np.argsort(~back[members], kind="stable")]
        together = clean_coverage(result[order], GAP_SHARE * tolerance_m)
        # Of two outlines of few vertices it is found sooner than of either and its source.
        distance = reach[order] + outline_distance(result[order], together)
        unclear = np.flatnonzero(distance > tolerance_m)
        distance[unclear] = outline_distance(source[order[unclear]], together[unclear])
        lost = order[~((distance <= tolerance_m) & shapely.is_valid(together))]
        in_trouble = np.isin(group[order], group[lost])
        result[order[~in_trouble]] = together[~in_trouble]
        members = order[in_trouble]
        again = members[np.isin(group[members], group[lost[back[lost]]])]
        for newly in (lost, again):
            back[newly] = True
            result[newly], reach[newly] = source[newly], 0.0
    trouble = members[np.isin(group[members], group[members[~back[members]]])]
    back[trouble] = True
    result[trouble] = source[trouble]
    return result, back


def settle_overlaps(
    source: Polygons, fitted: Polygons, back: Mask, iou: Floats, tolerance_m: float
) -> tuple[Polygons, Mask]:
    """Take common ground from the worse of two footprints, where their sources had none.

    Args:
        source: (n,) polygons in metres.
        fitted: (n,) what became of each.
        back: (n,) True for those that are as their source.
        iou: (n,) agreement of both.
        tolerance_m: Metres; what leaves the source farther goes back to it.

    Returns:
        (n,) polygons and (n,) True for those that are as their source.
    """
    fitted, back = fitted.copy(), back.copy()
    changed = ~back
    for _ in range(ROUNDS):
        pairs = new_overlaps(source, fitted, changed)
        if not len(pairs):
            return fitted, back
        rank = np.lexsort((np.arange(len(iou)), iou, back))
        place = np.empty(len(rank), dtype=np.intp)
        place[rank] = np.arange(len(rank))
        first_loses = place[pairs[:, 0]] < place[pairs[:, 1]]
        loser = np.where(first_loses, pairs[:, 0], pairs[:, 1])
        winner = np.where(first_loses, pairs[:, 1], pairs[:, 0])
        loser, at = np.unique(loser, return_index=True)
        rest = largest_parts(shapely.difference(fitted[loser], fitted[winner[at]]))
        distance = outline_distance(source[loser], rest)
        sound = (distance <= tolerance_m) & ~shapely.is_missing(rest)
        fitted[loser[sound]] = rest[sound]
        fitted[loser[~sound]] = source[loser[~sound]]
        back[loser[~sound]] = True
        changed = np.isin(np.arange(len(fitted)), loser)
    while len(pairs := new_overlaps(source, fitted, ~back)):
        fitted[pairs.ravel()], back[pairs.ravel()] = source[pairs.ravel()], True
    return fitted, back


def new_overlaps(source: Polygons, fitted: Polygons, changed: Mask) -> Indices:
    """(p, 2) pairs, one of them changed, that share ground though their sources had none."""
    index = np.flatnonzero(changed)
    row, other = shapely.STRtree(fitted).query(fitted[index], predicate="intersects")
    once = (index[row] < other) | ~changed[other]
    pairs: Indices = np.sort(np.column_stack([index[row], other])[once], axis=1)
    common = common_area(fitted[pairs[:, 0]], fitted[pairs[:, 1]])
    pairs, common = pairs[common > NO_AREA_M2], common[common > NO_AREA_M2]
    one, other = source[pairs[:, 0]], source[pairs[:, 1]]
    before = common_area(one, other)
    on_purpose = before > SHARED_SHARE * np.minimum(shapely.area(one), shapely.area(other))
    found: Indices = pairs[(common > before + NO_AREA_M2) & ~on_purpose]
    return found
