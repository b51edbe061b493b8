"""Where scenes meet: the rules of chip seams (`footprints.vector.merge`), for ground of any shape.

A scene is to its layer what a chip is to its scene, but its ground is no rectangle, what it showed
is settled already, and a footprint's column `cut` says whether the imagery ends inside it.

1. What two scenes show of one building counts once, judged where both looked: whole beats cut, then
   the one farthest inside its scene stays.
2. Pieces that both scenes cut join when each is the other's best match. Where scenes overlap they
   are compared in the ground that both saw; where they abut, by the stretch of seam they stop at.
3. Complete neighbours never join, and in the end no ground belongs to two.

Frame: a plane of pixels of the coarsest scene, anywhere on the ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.vector.disjoint import make_disjoint
from footprints.vector.joining import PRECISION_PX, group_pieces
from footprints.vector.matching import GAP_PX, View, match_views
from footprints.vector.merge import SHORT_PX
from footprints.vector.outlines import Footprints, Indices, Mask, Polygons
from footprints.vector.overlaps import (
    INSIDE_SHARE,
    SAME_IOU,
    Overlaps,
    best_of_rivals,
    find_overlaps,
    ranks,
)
from footprints.vector.parts import largest_parts
from footprints.vector.seams import EDGE_PX, NARROW_PX

FACING_PX = 2 * EDGE_PX
"""Pieces on either side of a seam stop this far apart at most, each short of its scene's edge."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The footprints of several scenes, doubled and cut where scenes meet."""

    polygons: NDArray[np.object_]
    """(n,) valid shapely Polygon."""
    scores: NDArray[np.float64]
    """(n,) confidence, 0 to 1."""
    cut: NDArray[np.bool_]
    """(n,) whether the imagery ends inside the building, or may."""
    scene: NDArray[np.intp]
    """(n,) index of the scene."""

    def take(self, which: NDArray[np.integer | np.bool_]) -> Seen:
        """Some of the footprints, by index or mask."""
        return Seen(self.polygons[which], self.scores[which], self.cut[which], self.scene[which])


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The buildings that are left, m of them, and what of n footprints went into each."""

    polygons: NDArray[np.object_]
    """(m,) valid shapely Polygon."""
    cut: NDArray[np.bool_]
    """(m,) whether the building may go on where no scene looked."""
    members: Sequence[Indices]
    """(m,) the footprints that made it, the largest first."""


@dataclass(frozen=True, slots=True, eq=False)
class _Grounds:
    """What is asked of the scenes' outlines again and again, one of each per scene."""

    seen: Polygons
    edge: Polygons
    """Boundary."""
    seam: Polygons
    """The part of the boundary behind which another scene looked."""
    inner: Polygons
    """What lies farther than `EDGE_PX` from the boundary: masks fade there."""
    coast: shapely.Geometry
    """Where no scene goes on."""


def merge_scenes(seen: Seen, grounds: Polygons) -> Merged:
    """Merge the footprints of several scenes.

    Args:
        seen: n footprints.
        grounds: (k,) outline of each scene, Polygon or MultiPolygon.

    Returns:
        Every building once, in the order of the footprints.
    """
    scenes = _prepare(grounds)
    near = _near_others(seen, grounds)
    others = np.setdiff1d(np.arange(len(seen.polygons)), near)
    some = seen.take(near)
    overlaps = find_overlaps(some.polygons)
    overlaps = overlaps.where(some.scene[overlaps.first] != some.scene[overlaps.second])
    iou = _iou_where_both_saw(some, overlaps, scenes)
    some = _reveal_cuts(some, overlaps.where(iou >= SAME_IOU), scenes)
    keep = _settle_doubles(some, overlaps.where(iou >= SAME_IOU), scenes)
    keep &= ~_inside_whole(some, overlaps.among(keep))

    near, some = near[keep], some.take(keep)
    at_seam = some.cut & shapely.dwithin(some.polygons, scenes.seam[some.scene], SHORT_PX)
    group = _match(some, at_seam, scenes)
    polygons, cut, members = _unite(some, group, scenes)
    unmatched = np.array([len(m) == 1 and at_seam[m[0]] for m in members], dtype=np.bool_)
    settled = _without_common_ground(polygons, cut, some, members, unmatched)
    joined = [near[members[label]] for label in settled.labels]

    merged = Merged(
        np.concatenate([seen.polygons[others], settled.polygons]),
        np.concatenate([seen.cut[others], settled.cut]),
        [*others[:, None], *joined],
    )
    return _in_order(merged)


def _prepare(grounds: Polygons) -> _Grounds:
    edge = shapely.boundary(grounds)
    seam = edge.copy()
    own, other = shapely.STRtree(grounds).query(grounds, predicate="dwithin", distance=GAP_PX)
    beside = np.split(other, np.searchsorted(own, np.arange(1, len(grounds))))
    for number, line in enumerate(edge):
        others = grounds[beside[number][beside[number] != number]]
        seam[number] = shapely.intersection(line, shapely.buffer(shapely.union_all(others), GAP_PX))
    inner = shapely.buffer(grounds, -EDGE_PX, join_style="mitre")
    # Scenes that abut may leave a hair's breadth between them.
    together = shapely.union_all(shapely.buffer(grounds, GAP_PX / 2, join_style="mitre"))
    for shapes in (grounds, edge, seam):
        shapely.prepare(shapes)
    return _Grounds(grounds, edge, seam, inner, shapely.boundary(together))


def _near_others(seen: Seen, grounds: Polygons) -> Indices:
    """Footprints that another scene than their own may have something to say of."""
    scene, index = shapely.STRtree(seen.polygons).query(
        grounds, predicate="dwithin", distance=FACING_PX
    )
    return np.unique(index[scene != seen.scene[index]])


def _iou_where_both_saw(seen: Seen, overlaps: Overlaps, scenes: _Grounds) -> NDArray[np.float64]:
    """(p,) IoU of overlapping footprints in the ground that both their scenes saw."""
    first, second = overlaps.first, overlaps.second
    union = -overlaps.area
    for own, other in ((first, second), (second, first)):
        ground = scenes.seen[seen.scene[other]]
        area = shapely.area(seen.polygons[own])
        beyond = ~shapely.covers(ground, seen.polygons[own])
        clipped = shapely.intersection(seen.polygons[own[beyond]], ground[beyond])
        area[beyond] = shapely.area(clipped)
        union = union + area
    return np.asarray(overlaps.area / np.maximum(union, overlaps.area))


def _reveal_cuts(seen: Seen, same: Overlaps, scenes: _Grounds) -> Seen:
    """Call cut what stops short of its scene's edge where another scene shows that it goes on."""
    pairs = same.both_ways()
    own = seen.scene[pairs.first]
    close = shapely.dwithin(seen.polygons[pairs.first], scenes.edge[own], SHORT_PX)
    piece, other, own = pairs.first[close], pairs.second[close], own[close]
    beyond = shapely.difference(seen.polygons[other], scenes.seen[own])
    goes_on = ~shapely.is_empty(shapely.buffer(beyond, -EDGE_PX / 2))
    cut = seen.cut.copy()
    cut[piece[goes_on]] = True
    return replace(seen, cut=cut)


def _settle_doubles(seen: Seen, same: Overlaps, scenes: _Grounds) -> Mask:
    """(n,) False for what another scene shows better: whole, or farther inside."""
    same = same.where(~(seen.cut[same.first] & seen.cut[same.second]))
    depth = np.zeros(len(seen.polygons))
    asked = np.union1d(same.first, same.second)
    depth[asked] = shapely.distance(seen.polygons[asked], scenes.edge[seen.scene[asked]])
    rank = ranks(seen.cut, -depth, -seen.scores)
    return best_of_rivals(rank, same.first, same.second)


def _inside_whole(seen: Seen, overlaps: Overlaps) -> Mask:
    """(n,) True for cut pieces that lie inside a whole footprint of another scene."""
    pairs = overlaps.both_ways()
    inside = seen.cut[pairs.first] & ~seen.cut[pairs.second]
    inside &= pairs.area >= INSIDE_SHARE * shapely.area(seen.polygons)[pairs.first]
    result = np.zeros(len(seen.polygons), dtype=np.bool_)
    result[pairs.first[inside]] = True
    return result


def _match(seen: Seen, at_seam: Mask, scenes: _Grounds) -> Indices:
    """(n,) for each footprint the lowest one of its building."""
    pieces = np.flatnonzero(at_seam)
    polygons, scene = seen.polygons[pieces], seen.scene[pieces]
    first, second = shapely.STRtree(polygons).query(
        polygons, predicate="dwithin", distance=FACING_PX
    )
    pairs = (first < second) & (scene[first] != scene[second])
    first, second = first[pairs], second[pairs]
    parts: tuple[list[object], list[object]] = ([], [])
    owner: tuple[list[int], list[int]] = ([], [])
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        views = _compare(polygons[a], polygons[b], scene[a], scene[b], scenes)
        for side in (0, 1):
            found = [part for part in shapely.get_parts(views[side]) if part.area > 0]
            parts[side].extend(found)
            owner[side].extend([pair] * len(found))
    left, right = (
        View.of(np.array(parts[side], dtype=object), np.array(owner[side], dtype=np.intp))
        for side in (0, 1)
    )
    group = np.arange(len(seen.polygons))
    group[pieces] = pieces[group_pieces(scene, match_views(scene, first, second, (left, right)))]
    return group


def _compare(
    first: shapely.Geometry,
    second: shapely.Geometry,
    a: int,
    b: int,
    scenes: _Grounds,
) -> tuple[shapely.Geometry, shapely.Geometry]:
    """What two pieces, of scenes ``a`` and ``b``, show where these compare."""
    around = shapely.box(*shapely.total_bounds([first, second]) + FACING_PX * _OUTWARDS)
    zone = around
    for number in (a, b):
        zone = shapely.intersection(zone, _clip(scenes.inner[number], around))
    views = shapely.intersection(first, zone), shapely.intersection(second, zone)
    if views[0].area > 0 and views[1].area > 0:
        return views
    # They share next to nothing: compare the shadows they cast on the seam.
    line = _clip(scenes.seam[a], around).intersection(
        shapely.buffer(_clip(scenes.seen[b], around), GAP_PX)
    )
    return _shadow(first, line), _shadow(second, line)


def _shadow(piece: shapely.Geometry, line: shapely.Geometry) -> shapely.Geometry:
    """The stretch of seam where a piece stops, as wide as is needed to have an area."""
    # A pixel more than what it stops short by, so that the shadow has its length.
    reach = shapely.distance(piece, line) + 1
    stretch = shapely.intersection(line, shapely.buffer(piece, reach))
    return shapely.buffer(stretch, NARROW_PX / 2, cap_style="flat")


def _unite(seen: Seen, group: Indices, scenes: _Grounds) -> tuple[Polygons, Mask, list[Indices]]:
    """Polygon, column `cut` and members of every building, which may still overlap."""
    order = np.lexsort((-shapely.area(seen.polygons), group))
    starts = np.flatnonzero(np.diff(group[order], prepend=-1) != 0)
    members = np.split(order, starts[1:]) if len(order) else []
    polygons = np.empty(len(members), dtype=object)
    cut = np.zeros(len(members), dtype=np.bool_)
    for number, pieces in enumerate(members):
        polygons[number], cut[number] = seen.polygons[pieces[0]], seen.cut[pieces[0]]
        if len(pieces) > 1:
            polygons[number] = _join(seen.polygons[pieces], seen.scene[pieces], scenes)
            cut[number] = shapely.dwithin(polygons[number], scenes.coast, EDGE_PX + GAP_PX)
    return polygons, cut, members


def _join(pieces: Polygons, scene: Indices, scenes: _Grounds) -> shapely.Geometry:
    """One polygon of pieces, the largest first.

    Each piece counts on the ground of its scene, less what an earlier one has, and less the rim of
    its scene where another one looked as well: outlines are not inflated and courtyards stay open.
    """
    around = shapely.box(*shapely.total_bounds(pieces) + FACING_PX * _OUTWARDS)
    seen = [_clip(scenes.seen[number], around) for number in scene]
    taken = shapely.Polygon()
    counted = []
    for turn, piece in enumerate(pieces):
        later = shapely.union_all(seen[turn + 1 :])
        rim = shapely.difference(seen[turn], _clip(scenes.inner[scene[turn]], around))
        foreign = _ground([taken, shapely.intersection(rim, later)])
        counted.append(shapely.difference(piece, foreign, grid_size=PRECISION_PX))
        taken = _ground([taken, shapely.difference(seen[turn], foreign)])
    united = shapely.union_all(counted, grid_size=PRECISION_PX)
    if united.geom_type == "Polygon":
        return united
    grown = shapely.buffer(united, FACING_PX / 2, join_style="mitre")
    closed = shapely.buffer(grown, -FACING_PX / 2, join_style="mitre")
    seam = shapely.union_all([_clip(scenes.seam[number], around) for number in scene])
    bridge = shapely.intersection(closed, shapely.buffer(seam, FACING_PX))
    bridged = _ground([united, bridge])
    return largest_parts(np.array([bridged], dtype=object))[0]


def _ground(geometries: Sequence[shapely.Geometry]) -> shapely.Geometry:
    """The union, without the points and lines left by intersections where ground only touches."""
    parts = shapely.get_parts(shapely.get_parts(geometries))
    return shapely.union_all(parts[shapely.area(parts) > 0], grid_size=PRECISION_PX)


def _without_common_ground(
    polygons: Polygons, cut: Mask, seen: Seen, members: Sequence[Indices], unmatched: Mask
) -> Footprints:
    """Settle what overlaps; labels say which of (m,) buildings each footprint is of."""
    scores = np.array([seen.scores[pieces].max() for pieces in members], dtype=np.float32)
    footprints = Footprints(
        polygons, scores, np.arange(len(members)), cut, np.empty((len(members), 0, 3))
    )
    return make_disjoint(footprints, unmatched)


def _in_order(merged: Merged) -> Merged:
    """Buildings in the order of their largest members."""
    order = np.argsort([pieces[0] for pieces in merged.members], kind="stable")
    return Merged(
        merged.polygons[order], merged.cut[order], [merged.members[number] for number in order]
    )


def _clip(geometry: shapely.Geometry, box: shapely.Geometry) -> shapely.Geometry:
    return shapely.intersection(geometry, box)


_OUTWARDS = np.array([-1, -1, 1, 1])
