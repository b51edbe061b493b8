"""Outlines as somebody would have digitised them: straight walls, right angles, shared walls.

1. Every outline is laid out in metres and gets a main direction, from its long edges and, where
   those say little, from its neighbours (`facing`).
2. It is cut into walls along that direction and across it, with diagonals, or of any direction
   (`cutting`). A wall costs a price, so that there are as few as the tolerance allows; a circle
   competes on the same scale (`candidates`).
3. Walls that two touching buildings share, or continue, become one line (`shared_walls`).
4. What is not valid or leaves the tolerance is cut again in more detail, and stays as it was if
   that does not help. In the end touching buildings are fitted together (`touching`).

Frame: metres on the ground (`metric`), angles counter-clockwise from east.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from footprints.errors import ConfigError
from footprints.vector.agreement import intersection_over_union
from footprints.vector.candidates import Candidates
from footprints.vector.facing import Facing
from footprints.vector.holes import close_small_holes
from footprints.vector.metric import MetricFrame
from footprints.vector.orientation import QUARTER, leaning
from footprints.vector.outlines import Indices, Mask, Polygons
from footprints.vector.parts import largest_parts
from footprints.vector.read import open_polygons
from footprints.vector.result import UNCHANGED, check_metres, described
from footprints.vector.shared_walls import share_walls
from footprints.vector.touching import TOUCH_M, find_touching, fit_together, settle_overlaps
from footprints.vector.walls import Floats, only_rings

Method = Literal["right-angles", "diagonals", "any-angle", "circle", "auto"]
"""Right angles only; those and 45 degrees; walls of any direction; circles; what describes a
building best."""
METHODS: tuple[str, ...] = get_args(Method)

DEFAULT_TOLERANCE_M = 1.0
"""Metres; about how far outlines from imagery of 0.3 m are off."""

FINE = 0.4
"""Second attempts have walls of this share of the length, and of its cube in price."""
EXTRA_WALLS = 4.0
"""What diagonals, and directions of its own, have to save before a building gets them."""
FEWEST_WALLS = 4
"""Of what is cheaper than right angles."""
RIGHT_ANGLES = QUARTER * np.array([0.0, 1.0])
EIGHTHS = QUARTER * np.array([0.0, 0.5, 1.0, 1.5])
"""Directions of walls at right angles and of diagonals."""


def regularize(
    layer: GeoDataFrame | str | Path, method: str = "auto", tolerance_m: float = DEFAULT_TOLERANCE_M
) -> GeoDataFrame:
    """Give buildings straight walls.

    No building is lost: where no fit is valid and within the tolerance, its outline stays as it
    was. Touching buildings share their walls, without gap or overlap, and buildings that had no
    ground in common still have none.

    Args:
        layer: Polygons and multipolygons in any CRS, or a file of them; without CRS, the tolerance
            is in the layer's units.
        method: One of `METHODS`; "auto" chooses for each building.
        tolerance_m: Metres on the ground, in any CRS. No outline moves farther (as a Hausdorff
            distance at the vertices), and details smaller than it go; holes nowhere wider than it
            close.

    Returns:
        The layer as `footprints.vector.read.clean_polygons` has it, with all its columns; before
        the geometry stand two new ones. ``regularized`` says what came out: the narrowest method
        that all walls obey, or "source"; ``iou`` how much the result agrees with its source.
        ``area_m2`` is of the new outlines.

    Raises:
        ConfigError: The method is unknown, or the tolerance not a positive number.
        LayerError: A file is missing or has no CRS, or geometries are no polygons or lie where the
            CRS is not defined.

    Warns:
        LabelWarning: Invalid polygons were repaired, or had no area and were left out; or columns
            of the names of the new ones are kept under others.
    """
    check_method(method)
    check_metres(tolerance_m, "tolerance")
    layer = open_polygons(layer)
    original = layer.geometry.to_numpy()
    if not len(original):
        return described(layer, original, regularized=pd.Series(dtype=str), iou=np.empty(0))
    frame = MetricFrame.around(original, layer.crs, reach_m=4 * tolerance_m)
    source = frame.to_metres(original)
    touching = find_touching(source)
    closed, holes = close_small_holes(source, tolerance_m)
    best = _fit(closed, touching, method, tolerance_m)
    fitted, back = fit_together(closed, best.polygons, best.reach, touching, tolerance_m)
    iou = intersection_over_union(source, fitted)
    settled, back = settle_overlaps(closed, fitted, back, iou, tolerance_m)
    reopen = back & ~shapely.is_missing(holes)
    settled[reopen] = largest_parts(shapely.difference(settled[reopen], holes[reopen]))
    changed = settled != fitted
    iou[changed] = intersection_over_union(source[changed], settled[changed])
    done = _named(settled, np.where(back, UNCHANGED, best.done))
    polygons = _placed(original, settled, frame, back, touching)
    return described(layer, polygons, regularized=pd.Series(done, dtype=str), iou=np.round(iou, 4))


def check_method(method: str, known: Sequence[str] = METHODS) -> None:
    """Refuse what is no method.

    Raises:
        ConfigError: It is none of those known.
    """
    if method not in known:
        raise ConfigError(f"method must be one of {', '.join(known)}, got {method!r}")


def _named(polygons: Polygons, done: NDArray[np.object_]) -> NDArray[np.object_]:
    """(n,) methods, narrower ones where walls came out so: worn corners may be all that was not."""
    named = done.copy()
    index = np.flatnonzero(np.isin(done, ["diagonals", "any-angle"]))
    square, eighth = leaning(polygons[index])
    named[index[eighth <= TOUCH_M]] = "diagonals"
    named[index[square <= TOUCH_M]] = "right-angles"
    return named


def _placed(
    original: Polygons, fitted: Polygons, frame: MetricFrame, back: Mask, touching: Indices
) -> Polygons:
    """(n,) results in CRS units, shells counter-clockwise; untouched sources to the last digit."""
    polygons: Polygons = shapely.orient_polygons(frame.to_crs(fitted), exterior_cw=False)
    # Neighbours of a footprint need its vertices as the way there and back left them.
    alone = back.copy()
    alone[np.unique(touching)] = False
    polygons[alone] = original[alone]
    # Rounding to CRS units can spoil what is barely valid.
    spoiled = ~shapely.is_valid(polygons)
    polygons[spoiled] = original[spoiled]
    return polygons


def _fit(source: Polygons, touching: Indices, method: str, tolerance_m: float) -> Candidates:
    """The best drawings before touching buildings are fitted together."""
    best = Candidates(source, tolerance_m)
    if method == "circle":
        best.offer_circles(np.ones(len(source), dtype=bool))
    else:
        _try_walls(best, touching, method)
        best.rebuild_corners()
    if len(touching) and best.walls:
        members = np.zeros(len(source), dtype=bool)
        members[touching] = True
        walls, offset = best.chosen_walls(members)
        shared, place = share_walls(best.rings, walls, offset, best.owner, touching, tolerance_m)
        best.redraw(shared, place, (shared.angle != walls.angle) | (place != offset))
    return best


def _try_walls(best: Candidates, touching: Indices, method: str) -> None:
    everything = np.ones(len(best.source), dtype=bool)
    if method == "any-angle":
        best.offer(everything, best.cut(everything, None, 1.0), method, 0.0, anyhow=True)
        _try_finer(best, None, ["any-angle"])
        return
    facing = Facing.of(best, touching)
    walls = facing.cut(best, everything, RIGHT_ANGLES)
    best.offer(everything, walls, "right-angles", 0.0, anyhow=False)
    if method == "right-angles":
        _try_finer(best, facing.angle[:, None] + RIGHT_ANGLES, ["right-angles"])
        return
    if method == "diagonals":
        best.offer(everything, facing.cut(best, everything, EIGHTHS), method, 0.0, anyhow=False)
        _try_finer(best, facing.angle[:, None] + EIGHTHS, ["diagonals"])
        return
    best.offer_circles(everything)
    left = best.cost > (FEWEST_WALLS + EXTRA_WALLS) * best.price
    free = best.cut(left, None, 1.0)
    # Walls of any direction at the price of given ones: nothing with diagonals costs less.
    bound = best.per_building(free.cost)
    left &= best.cost > bound + EXTRA_WALLS * best.price
    squares = facing.angle[:, None] + RIGHT_ANGLES
    best.offer(left, facing.cut(best, left, EIGHTHS), "diagonals", EXTRA_WALLS, anyhow=False)
    best.offer(left, only_rings(free, left[best.owner]), "any-angle", EXTRA_WALLS, anyhow=False)
    _try_finer(best, squares, ["right-angles", "any-angle"])


def _try_finer(best: Candidates, angles: Floats | None, kinds: Sequence[str]) -> None:
    """Cut in more detail what no attempt fits."""
    for kind in kinds:
        missing = shapely.is_missing(best.polygons)
        if missing.any():
            walls = best.cut(missing, None if kind == "any-angle" else angles, FINE)
            best.offer(missing, walls, kind, 0.0, anyhow=True)
            missing &= shapely.is_missing(best.polygons)
            if kind == "any-angle" and missing.any():
                best.offer_vertices(missing, walls, kind)
