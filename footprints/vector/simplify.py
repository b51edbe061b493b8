"""Fewer vertices, no farther than a distance from where the outline was, shared walls included.

Outlines are cut into arcs where three walls meet, so that a wall between two buildings is the same
arc in both. Each arc is thinned by Douglas and Peucker's rule ("Algorithms for the reduction of the
number of points required to represent a digitized line", 1973), which bounds the Hausdorff
distance; the tolerance of GEOS's coverage simplification is the root of an area and bounds nothing.
Where the result would be invalid or overlap a neighbour, the arcs of those buildings are thinned
less; in the end they stay as they were, so nothing can fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from geopandas import GeoDataFrame
from shapely import GeometryType

from footprints.vector.metric import MetricFrame
from footprints.vector.outlines import Indices, Mask, Polygons
from footprints.vector.read import open_polygons
from footprints.vector.result import check_metres, described
from footprints.vector.touching import find_touching, match_edges, new_overlaps
from footprints.vector.walls import Floats

ATTEMPTS = 6
"""Times the tolerance of arcs in trouble is halved before they stay as they were."""
RING_POINTS = 4
"""A triangle, its first vertex repeated."""


def simplify(layer: GeoDataFrame | str | Path, tolerance_m: float) -> GeoDataFrame:
    """Drop vertices that matter less than a distance.

    No building is lost, all stay valid and keep their holes, touching buildings keep one shared
    wall, and buildings that had no ground in common still have none.

    Args:
        layer: Polygons and multipolygons in any CRS, or a file of them; without CRS, the tolerance
            is in the layer's units.
        tolerance_m: Metres on the ground, in any CRS: the Hausdorff distance between an outline and
            what becomes of it is no more.

    Returns:
        The layer as `footprints.vector.read.clean_polygons` has it, with all its columns;
        ``area_m2`` is of the new outlines.

    Raises:
        ConfigError: The tolerance is not a positive number.
        LayerError: A file is missing or has no CRS, or geometries are no polygons or lie where the
            CRS is not defined.

    Warns:
        LabelWarning: Invalid polygons were repaired, or had no area and were left out.
    """
    check_metres(tolerance_m, "simplify")
    layer = open_polygons(layer)
    original = layer.geometry.to_numpy()
    if not len(original):
        return layer
    frame = MetricFrame.around(original, layer.crs, reach_m=2 * tolerance_m)
    source = frame.to_metres(original)
    matched, touching = match_edges(source, find_touching(source))
    # Matching itself moves vertices by the width of rounding; what it costs is saved here.
    moved = np.zeros(len(source))
    members = np.unique(touching)
    moved[members] = shapely.hausdorff_distance(source[members], matched[members])
    thinned = _thin(matched, np.maximum(tolerance_m - moved, 0.0))
    polygons = shapely.orient_polygons(frame.to_crs(thinned), exterior_cw=False)
    same = shapely.get_num_coordinates(thinned) == shapely.get_num_coordinates(source)
    same[members] = False
    spoiled = same | ~shapely.is_valid(polygons)
    polygons[spoiled] = original[spoiled]
    return described(layer, polygons)


@dataclass(frozen=True, slots=True, eq=False)
class _Arcs:
    """Rings cut where walls of several buildings meet."""

    points: Floats
    """(N, 2) vertices in arc order; an arc's last vertex is repeated as the next one's first."""
    first: Indices
    """(A + 1,) first vertex of each arc."""
    backwards: Mask
    """(A,) whether an arc is stored against the direction of its ring."""
    number: Indices
    """(A,) equal for the two sides of a shared wall."""
    ring: Indices
    """(A,) ring of each arc, in order."""
    owner: Indices
    """(R,) polygon of each ring."""


def _thin(polygons: Polygons, tolerance: Floats) -> Polygons:
    """(n,) polygons with fewer vertices, each within its (n,) tolerance."""
    arcs = _cut_into_arcs(polygons)
    polygon = arcs.owner[arcs.ring]
    limit = np.full(int(arcs.number.max()) + 1, np.inf)
    np.minimum.at(limit, arcs.number, tolerance[polygon])
    lines = shapely.linestrings(
        arcs.points, indices=np.repeat(np.arange(len(arcs.ring)), np.diff(arcs.first))
    )
    attempt = 0
    while True:
        result = _join(arcs, shapely.simplify(lines, limit[arcs.number], preserve_topology=False))
        bad = _in_trouble(polygons, result)
        again = np.unique(arcs.number[bad[polygon]])
        again = again[limit[again] > 0]
        if not len(again):
            return np.where(bad, polygons, result)
        attempt += 1
        limit[again] = limit[again] / 2 if attempt < ATTEMPTS else 0.0


def _in_trouble(source: Polygons, thinned: Polygons) -> Mask:
    """(n,) polygons that collapsed, are invalid, or overlap others more than their sources did."""
    bad = shapely.is_missing(thinned) | ~shapely.is_valid(thinned)
    index = np.flatnonzero(~bad)
    # Vertices only go: as many of them are the same outline.
    changed = shapely.get_num_coordinates(thinned) != shapely.get_num_coordinates(source)
    bad[index[new_overlaps(source[index], thinned[index], changed[index])]] = True
    return np.asarray(bad)


def _cut_into_arcs(polygons: Polygons) -> _Arcs:
    _, points, (first, parts) = shapely.to_ragged_array(polygons)
    first = np.asarray(first, dtype=np.intp)
    owner = np.repeat(np.arange(len(polygons)), np.diff(np.asarray(parts)))
    count = np.diff(first) - 1
    ring = np.repeat(np.arange(len(count)), count)
    start = np.cumsum(count) - count
    place = np.arange(len(ring)) - start[ring]
    open_points = points[first[ring] + place]
    vertex = _number_vertices(open_points)
    node = _find_nodes(vertex, ring, place, start, count, open_points)

    # Rotate rings to start at their first node, and close them.
    begin = np.full(len(count), len(ring))
    np.minimum.at(begin, ring[node], place[node])
    closed_ring = np.repeat(np.arange(len(count)), count + 1)
    closed_start = np.cumsum(count + 1) - (count + 1)
    step = np.arange(len(closed_ring)) - closed_start[closed_ring]
    at = start[closed_ring] + (begin[closed_ring] + step) % count[closed_ring]
    # An arc ends at every node but the first of its ring, which is also its last.
    ends = np.flatnonzero(node[at] & (step > 0))
    arc_ring = closed_ring[ends]
    is_first = np.diff(arc_ring, prepend=-1) > 0
    begins = np.where(is_first, closed_start[arc_ring], np.roll(ends, 1))
    size = ends - begins + 1
    arc = np.repeat(np.arange(len(size)), size)
    arc_first = np.concatenate([[0], np.cumsum(size)])
    inner = np.arange(len(arc)) - arc_first[arc]
    key_ends = vertex[at[begins]], vertex[at[ends]]
    seconds = vertex[at[begins + 1]], vertex[at[ends - 1]]
    same_ends = key_ends[0] == key_ends[1]
    backwards = np.where(same_ends, seconds[0] > seconds[1], key_ends[0] > key_ends[1])
    inner = np.where(backwards[arc], size[arc] - 1 - inner, inner)
    stored = at[begins[arc] + inner]
    low = np.where(backwards, key_ends[1], key_ends[0])
    high = np.where(backwards, key_ends[0], key_ends[1])
    second = np.where(backwards, seconds[1], seconds[0])
    keys = np.column_stack([low, high, second])
    number = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    return _Arcs(open_points[stored], arc_first, backwards, number, arc_ring, owner)


def _number_vertices(points: Floats) -> Indices:
    """(N,) equal numbers for equal points."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    new = np.append(True, (np.diff(points[order], axis=0) != 0).any(axis=1))[: len(order)]
    number = np.empty(len(points), dtype=np.intp)
    number[order] = np.cumsum(new) - 1
    return number


def _find_nodes(
    vertex: Indices, ring: Indices, place: Indices, start: Indices, count: Indices, points: Floats
) -> Mask:
    """(N,) whether an arc ends at a vertex.

    That is where walls of several buildings meet, and two far corners of every ring that would have
    fewer: its lowest vertex, and the one farthest from the first of its nodes.
    """
    after = vertex[start[ring] + (place + 1) % count[ring]]
    low, high = np.minimum(vertex, after), np.maximum(vertex, after)
    edges = np.unique(np.column_stack([low, high]), axis=0)
    degree = np.bincount(edges.ravel(), minlength=int(vertex.max()) + 1)
    node = degree[vertex] > 2
    # Rings round a courtyard that another building fills agree about their lowest vertex.
    lowest = np.full(len(count), np.iinfo(np.intp).max)
    np.minimum.at(lowest, ring, vertex)
    bare = np.bincount(ring, node, len(count)) == 0
    node |= bare[ring] & (vertex == lowest[ring])
    lonely = np.bincount(ring, node, len(count)) == 1
    anchor = np.zeros((len(count), 2))
    anchor[ring[node]] = points[node]
    away = np.where(lonely[ring], np.hypot(*(points - anchor[ring]).T), -1.0)
    # Of vertices equally far, the lowest; a neighbour goes round the other way.
    order = np.lexsort((vertex, -away, ring))
    node[order[start[lonely]]] = True
    return np.asarray(node)


def _join(arcs: _Arcs, lines: Polygons) -> Polygons:
    """(n,) polygons of thinned arcs; None for those with a ring of fewer than three corners."""
    points, arc = shapely.get_coordinates(lines, return_index=True)
    size = np.bincount(arc, minlength=len(lines))
    first = np.cumsum(size) - size
    inner = np.arange(len(arc)) - first[arc]
    inner = np.where(arcs.backwards[arc], size[arc] - 1 - inner, inner)
    points = points[first[arc] + inner]
    # Arcs overlap by a vertex; the last one of a ring closes it.
    is_last = np.append(np.diff(arcs.ring) > 0, True)
    keep = np.ones(len(points), dtype=bool)
    keep[(first + size - 1)[~is_last]] = False
    points, ring = points[keep], arcs.ring[arc[keep]]
    rings = len(arcs.owner)
    count = np.bincount(ring, minlength=rings)
    polygons = int(arcs.owner.max()) + 1
    whole = np.bincount(arcs.owner, count < RING_POINTS, polygons) == 0
    result = np.full(polygons, None, dtype=object)
    if whole.any():
        inside = whole[arcs.owner]
        offsets = np.concatenate([[0], np.cumsum(count[inside])])
        parts = np.concatenate([[0], np.cumsum(np.bincount(arcs.owner, minlength=polygons)[whole])])
        result[whole] = shapely.from_ragged_array(
            GeometryType.POLYGON, points[inside[ring]], (offsets, parts)
        )
    return result
