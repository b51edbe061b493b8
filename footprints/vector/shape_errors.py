"""How far the outline of a footprint is from the true one: pairs of polygons, many at once.

Shapes: k pairs. Everything is measured in metres, in a plane around each pair (`in_metres`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from footprints.vector.metric import MetricFrame, metres_per_unit
from footprints.vector.outlines import Indices, Polygons

Floats = NDArray[np.float64]

SAMPLE_M = 0.5
"""Metres between the points at which tangents are compared."""
MOST_STRETCH = 2.0
"""A piece of outline that projection makes so much longer or shorter runs around a corner."""
AT_ONCE = 50_000
"""Pairs of point and edge that are worked on together: they stay in the processor's cache."""
_QUARTER_DEG = 90.0


@dataclass(frozen=True, slots=True, eq=False)
class ShapeErrors:
    """Of k pairs, one array of (k,) for each error."""

    polis_m: Floats
    """PoLiS distance (Avbelj, Mueller, Bamler 2015): mean distance of the vertices of each outline
    from the other outline, averaged over both directions."""
    tangent_deg: Floats
    """Maximum tangent angle error (Girard et al., arXiv 2004.14875): the footprint's outline is
    sampled and projected onto the true one; the largest angle between a piece and the true wall.
    Where a piece projects around a corner, the wall it is more alike counts: the paper's chord
    across the corner would add up to 45 degrees to every building."""
    rotation_deg: Floats
    """Angle between the minimum rotated rectangles, modulo a quarter turn: up to 45."""
    centroid_m: Floats
    """Distance of the centroids."""
    c_iou: Floats
    """Complexity-aware IoU (Zorzi et al., PolyWorld, arXiv 2111.15491): IoU times
    1 - abs(N - M) / (N + M) for N and M vertices."""
    vertices: Indices
    """Vertices of the footprint, each once, holes included."""
    true_vertices: Indices
    """Vertices of the true outline."""


def in_metres(found: Polygons, truth: Polygons, crs: CRS | None) -> tuple[Polygons, Polygons]:
    """Both polygons of each pair in a plane of their own, in metres around the true one's middle.

    Raises:
        LayerError: Coordinates lie where ``crs`` is not defined.
    """
    if not len(truth):
        return found, truth
    bounds = shapely.bounds(truth)
    centre = (bounds[:, :2] + bounds[:, 2:]) / 2
    frame = MetricFrame(
        np.arange(len(truth)), centre, metres_per_unit(centre, crs), np.zeros_like(centre)
    )
    return frame.to_metres(found), frame.to_metres(truth)


def shape_errors(found: Polygons, truth: Polygons, ious: Floats) -> ShapeErrors:
    """Measure pairs of polygons.

    Args:
        found: (k,) valid polygons in metres.
        truth: (k,) theirs in the same plane.
        ious: (k,) their IoU.
    """
    vertices, true_vertices = _count_vertices(found), _count_vertices(truth)
    total = np.maximum(vertices + true_vertices, 1)
    return ShapeErrors(
        polis_m=(_mean_distance(found, truth) + _mean_distance(truth, found)) / 2,
        tangent_deg=_tangent_errors(found, truth),
        rotation_deg=_rotation_errors(found, truth),
        centroid_m=np.asarray(shapely.distance(shapely.centroid(found), shapely.centroid(truth))),
        c_iou=ious * (1 - np.abs(vertices - true_vertices) / total),
        vertices=vertices,
        true_vertices=true_vertices,
    )


def _count_vertices(polygons: Polygons) -> Indices:
    rings = shapely.get_num_interior_rings(polygons) + 1
    return np.asarray(shapely.get_num_coordinates(polygons) - rings, dtype=np.intp)


def _mean_distance(polygons: Polygons, others: Polygons) -> Floats:
    """(k,) mean distance of the vertices of each polygon from the outline of its other one."""
    points, ring, owner = _outlines(polygons)
    begins = np.flatnonzero(ring[1:] == ring[:-1])  # the last point of a ring is its first
    points, owner = points[begins], owner[begins]
    distance = np.linalg.norm(points - _project(points, owner, others)[0], axis=1)
    count = np.maximum(np.bincount(owner, minlength=len(polygons)), 1)
    return np.asarray(np.bincount(owner, distance, len(polygons)) / count)


def _tangent_errors(found: Polygons, truth: Polygons) -> Floats:
    """(k,) degrees, up to 90; 0 where no piece of the outline can be compared."""
    points, ring, owner = _outlines(shapely.segmentize(found, SAMPLE_M))
    projected, wall = _project(points, owner, truth)
    begins = np.flatnonzero(ring[1:] == ring[:-1])
    piece = points[begins + 1] - points[begins]
    length = np.linalg.norm(piece, axis=1)
    image_length = np.linalg.norm(projected[begins + 1] - projected[begins], axis=1)
    comparable = (image_length * MOST_STRETCH > length) & (length * MOST_STRETCH > image_length)
    piece, begins = piece[comparable], begins[comparable]
    angle = np.minimum(*(_angles_deg(piece, wall[ends]) for ends in (begins, begins + 1)))
    largest = np.zeros(len(found))
    np.maximum.at(largest, owner[begins], angle)
    return largest


def _angles_deg(one: Floats, other: Floats) -> Floats:
    """(p,) angles between lines, up to 90, from vectors (p, 2)."""
    dot, cross = (one * other).sum(axis=1), one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    return np.asarray(np.degrees(np.arctan2(np.abs(cross), np.abs(dot))))


def _rotation_errors(found: Polygons, truth: Polygons) -> Floats:
    one, other = _directions_deg(found), _directions_deg(truth)
    apart = np.abs(one - other) % _QUARTER_DEG
    return np.asarray(np.minimum(apart, _QUARTER_DEG - apart))


def _directions_deg(polygons: Polygons) -> Floats:
    """(k,) direction of a side of the minimum rotated rectangle."""
    boxes = shapely.minimum_rotated_rectangle(polygons)
    corners = shapely.get_coordinates(boxes).reshape(-1, 5, 2)
    side = corners[:, 1] - corners[:, 0]
    return np.asarray(np.degrees(np.arctan2(side[:, 1], side[:, 0])))


def _outlines(polygons: Polygons) -> tuple[Floats, Indices, Indices]:
    """(p, 2) points of all rings, closed; (p,) number of their ring; (p,) polygon."""
    rings, owner = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    return points, ring, owner[ring]


def _project(points: Floats, owner: Indices, polygons: Polygons) -> tuple[Floats, Floats]:
    """The nearest point on an outline, and the edge it lies on.

    Args:
        points: (p, 2).
        owner: (p,) polygon onto whose outline each goes.
        polygons: (k,).

    Returns:
        (p, 2) points, and (p, 2) edges as vectors.
    """
    corners, ring, corner_owner = _outlines(polygons)
    inner = ring[1:] == ring[:-1]
    start = np.asfortranarray(corners[:-1][inner])
    step = np.asfortranarray(np.diff(corners, axis=0)[inner])
    first = np.searchsorted(corner_owner[:-1][inner], np.arange(len(polygons) + 1))
    edges = np.diff(first)[owner]
    done = np.cumsum(edges) // AT_ONCE
    nearest = [
        _project_portion(points[rows], edges[rows], first[owner[rows]], start, step)
        for rows in np.split(np.arange(len(points)), np.flatnonzero(np.diff(done)) + 1)
    ]
    feet, edge = (np.concatenate(each) for each in zip(*nearest, strict=True))
    return feet, step[edge]


def _project_portion(
    points: Floats, edges: Indices, first: Indices, start: Floats, step: Floats
) -> tuple[Floats, Indices]:
    """The nearest point on a run of edges, and its edge.

    Args:
        points: (p, 2).
        edges: (p,) number of edges to compare each with.
        first: (p,) the first of them.
        start: (e, 2) where each edge begins.
        step: (e, 2) from there to its end.
    """
    if not len(points):
        return points, first
    before = np.cumsum(edges) - edges
    row = np.repeat(np.arange(len(points)), edges)
    edge = np.arange(len(row)) - np.repeat(before - first, edges)
    (way_x, way_y), (from_x, from_y) = step.T[:, edge], start.T[:, edge]
    x, y = points.T[:, row]
    square = np.maximum(way_x * way_x + way_y * way_y, 1e-18)
    share = np.clip((way_x * (x - from_x) + way_y * (y - from_y)) / square, 0, 1)
    foot_x, foot_y = from_x + share * way_x, from_y + share * way_y
    distance = (foot_x - x) ** 2 + (foot_y - y) ** 2
    least = np.flatnonzero(distance == np.minimum.reduceat(distance, before)[row])
    best = np.empty(len(points), dtype=np.intp)
    best[row[least[::-1]]] = least[::-1]  # of equal ones the first stays
    return np.column_stack((foot_x[best], foot_y[best])), edge[best]
