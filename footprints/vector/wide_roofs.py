"""Roofs wider than a chip: settled by a second, coarse pass over the scene.

A network that sees nothing but roof sees no building. Of a roof wider than a chip the fine pass
finds the rim, in pieces that reach the blind chips and stop there; a pass at a few times the ground
size of a pixel finds it whole.

Frame: grid pixels of the fine pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import ChipGrid
from footprints.vector.courtyards import open_courtyards
from footprints.vector.disjoint import by_position, in_order
from footprints.vector.outlines import Footprints, Indices, Mask, Polygons
from footprints.vector.parts import is_sliver, largest_parts
from footprints.vector.seams import EDGE_PX

FRAGMENT_SHARE = 0.5
"""A fine footprint with this share inside a coarse one is a fragment of it."""
COMPLETE_SHARE = 0.3
"""A coarse footprint of which complete fine ones cover this share is a blob over buildings that the
fine pass found one by one."""
SAME_WALL_PX = 2.0
"""Two outlines are the same where they lie no farther apart than this, in coarse pixels."""


def settle_wide_roofs(
    fine: Footprints,
    coarse: Footprints,
    grid: ChipGrid,
    *,
    coarse_px: float,
    overlaps: bool = False,
) -> Footprints:
    """Take from a coarse pass the roofs that no chip of the fine pass can see whole.

    A coarse footprint replaces the fragments that lie in it; the courtyards that those show stay
    open (`footprints.vector.courtyards`). It is not used where a chip shows the roof whole, where
    the pieces already joined to the same outline, where complete buildings were found instead, or
    where a seam cuts it in the coarse pass too.

    Args:
        fine: Merged footprints of the fine pass.
        coarse: Merged footprints of the coarse pass over the same scene, scaled to fine pixels.
        grid: The chips of the fine pass.
        coarse_px: Side of a coarse pixel in fine pixels.
        overlaps: Footprints may have common ground; only those of one class know of each other.

    Returns:
        Footprints in order of position, without common ground unless ``overlaps``.
    """
    wide = _only_wide(coarse, grid, coarse_px)
    first, second = shapely.STRtree(fine.polygons).query(wide.polygons, predicate="intersects")
    if overlaps:
        same_class = wide.labels[first] == fine.labels[second]
        first, second = first[same_class], second[same_class]
    wide, roof, piece = _only_needed(fine, wide, first, second, coarse_px * SAME_WALL_PX)

    shared = shapely.area(shapely.intersection(wide.polygons[roof], fine.polygons[piece]))
    inside = np.bincount(piece, shared, minlength=len(fine))
    is_fragment = inside >= FRAGMENT_SHARE * shapely.area(fine.polygons)
    own = is_fragment[piece]
    wide = wide.with_polygons(
        open_courtyards(wide.polygons, fine, roof[own], piece[own], grid, coarse_px * SAME_WALL_PX)
    )
    if not overlaps:
        is_neighbour = ~is_fragment[piece]
        neighbours = fine.polygons[piece[is_neighbour]]
        wide = wide.with_polygons(
            _without_neighbours(wide.polygons, roof[is_neighbour], neighbours)
        )
    return in_order(Footprints.concatenate([fine.take(~is_fragment), wide]))


def settle_in_parts(
    parts: Iterable[tuple[Footprints, float]],
    coarse: Footprints,
    grid: ChipGrid,
    *,
    coarse_px: float,
    overlaps: bool = False,
) -> Iterator[Footprints]:
    """As `settle_wide_roofs`, while the footprints of the fine pass come in.

    A roof waits until all fine footprints that it meets are there, and so do they.

    Args:
        parts: As `footprints.vector.streaming.merge_in_parts` has them.
        coarse: As for `settle_wide_roofs`; so are the others.
        grid: Likewise.
        coarse_px: Likewise.
        overlaps: Likewise.

    Yields:
        Footprints, each once; all together are what `settle_wide_roofs` gives for all parts.
    """
    roofs, held = _only_wide(coarse, grid, coarse_px), None
    for part, more_from in parts:
        held = part if held is None else Footprints.concatenate([held, part])
        roof_waits = shapely.bounds(roofs.polygons).reshape(-1, 4)[:, 3] + EDGE_PX >= more_from
        roof, piece = shapely.STRtree(held.polygons).query(roofs.polygons, predicate="intersects")
        piece_waits = np.zeros(len(held), dtype=np.bool_)
        while not piece_waits[piece[roof_waits[roof]]].all():
            piece_waits[piece[roof_waits[roof]]] = True
            roof_waits[roof[piece_waits[piece]]] = True
        yield settle_wide_roofs(
            by_position(held.take(~piece_waits)),
            roofs.take(~roof_waits),
            grid,
            coarse_px=coarse_px,
            overlaps=overlaps,
        )
        held, roofs = held.take(piece_waits), roofs.take(roof_waits)


def _only_wide(coarse: Footprints, grid: ChipGrid, coarse_px: float) -> Footprints:
    """What the coarse pass sees whole and no chip of the fine one can."""
    complete = _is_complete(coarse, grid, EDGE_PX * coarse_px)
    return coarse.take(complete & ~_fits_a_chip(coarse.polygons, grid))


def _is_complete(footprints: Footprints, grid: ChipGrid, reach: float) -> Mask:
    """(n,) whether footprints end nowhere but at their walls or so near to the raster's edge."""
    bounds = shapely.bounds(footprints.polygons).reshape(-1, 4)
    inside = np.all(bounds[:, :2] > reach, axis=1)
    inside &= np.all(bounds[:, 2:] < np.array([grid.width, grid.height]) - reach, axis=1)
    return np.asarray(~(footprints.cut & inside))


def _fits_a_chip(polygons: Polygons, grid: ChipGrid) -> Mask:
    """(n,) whether some chip shows polygons whole, clear of its edges within the raster."""
    x_min, y_min, x_max, y_max = shapely.bounds(polygons).reshape(-1, 4).T
    return _fits(x_min, x_max, grid.column_starts, grid.chip_width) & _fits(
        y_min, y_max, grid.row_starts, grid.chip_height
    )


def _fits(
    low: NDArray[np.float64], high: NDArray[np.float64], starts: tuple[int, ...], length: int
) -> Mask:
    """(n,) whether [low, high] lies within one of the spans along one axis."""
    first = np.array(starts, dtype=np.float64)
    last = first + length
    first[1:] += EDGE_PX
    last[:-1] -= EDGE_PX
    first[0], last[-1] = -np.inf, np.inf
    # Of the spans that start early enough the last one reaches farthest.
    span = np.searchsorted(first, low, side="right") - 1
    return np.asarray(high <= last[span])


def _only_needed(
    fine: Footprints,
    wide: Footprints,
    roof: Indices,
    piece: Indices,
    tolerance: float,
) -> tuple[Footprints, Indices, Indices]:
    """Leave out roofs the fine pass has no need of, and their pairs (p,) with fine footprints."""
    roofs, pieces = wide.polygons[roof], fine.polygons[piece]
    shared = shapely.area(shapely.intersection(roofs, pieces))
    complete = np.bincount(roof, shared * ~fine.cut[piece], minlength=len(wide))
    needed = complete < COMPLETE_SHARE * shapely.area(wide.polygons)
    same = is_sliver(shapely.difference(roofs, pieces), 2 * tolerance)
    same &= is_sliver(shapely.difference(pieces, roofs), 2 * tolerance)
    needed[roof[same]] = False
    number = np.cumsum(needed) - 1
    stays = needed[roof]
    return wide.take(needed), number[roof[stays]], piece[stays]


def _without_neighbours(roofs: Polygons, roof: Indices, neighbours: Polygons) -> Polygons:
    """Take from each roof the ground of its neighbours, whose outlines are finer than its own."""
    left = roofs.copy()
    for number in np.unique(roof):
        ground = shapely.union_all(neighbours[roof == number])
        left[number] = shapely.difference(left[number], ground)
    return largest_parts(left)
