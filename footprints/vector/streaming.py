"""Merging row by row: what no row of chips that is still to come can change is merged and let go.

Merging is decided between outlines that share ground or nearly touch. So outlines that are linked
with none of those still to come, over any number of others, give the footprints they would give if
the whole scene were merged at once. Held are the last rows of chips and what is linked with them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import ChipGrid
from footprints.stages import result, submit
from footprints.vector.detected import Pass
from footprints.vector.disjoint import BESIDE_PX, by_position
from footprints.vector.matching import GAP_PX
from footprints.vector.merge import EVIDENCE_SHARE, SHORT_PX, merge
from footprints.vector.outlines import Footprints, Mask, Outlines
from footprints.vector.seams import extents, windows_of

REACH_PX = BESIDE_PX + GAP_PX
"""Pieces that a seam may cut have to do with outlines this near: they join across `GAP_PX`, which
closes a gap of that width, and are stumps up to `BESIDE_PX` from another footprint."""

_WORKERS = 2
"""Sets of outlines that are merged at a time."""
_WAITING = 4
"""Sets that are merged or wait for it at most, while the next rows are looked at."""


def merge_rows(look: Pass, *, confidence: float, overlaps: bool) -> Footprints:
    """Merge what one look at a scene found, while its rows come in.

    Args:
        look: Its rows are gone through.
        confidence: As for `merge`.
        overlaps: As for `merge`.

    Returns:
        What `merge` gives for all outlines at once.
    """
    done = [part for part, _ in merge_in_parts(look, confidence=confidence, overlaps=overlaps)]
    return by_position(Footprints.concatenate(done))


def merge_in_parts(
    look: Pass, *, confidence: float, overlaps: bool
) -> Generator[tuple[Footprints, float]]:
    """Merge what one look at a scene found, and give what is final with each row of chips.

    Args:
        look: Its rows are gone through.
        confidence: As for `merge`.
        overlaps: As for `merge`.

    Yields:
        Footprints that nothing to come changes, and the grid pixel row from which on there are
        more to come. All together are what `merge_rows` gives, in another order.
    """
    # GEOS lets other threads run while it works, and most of merging is GEOS.
    with ThreadPoolExecutor(_WORKERS) as worker:
        waiting: deque[tuple[Future[Footprints], float]] = deque()
        for outlines, read, more_from in _settled(look, EVIDENCE_SHARE * confidence):
            merged = submit(
                worker, merge, outlines, look.chips, read, confidence=confidence, overlaps=overlaps
            )
            waiting.append((merged, more_from))
            if len(waiting) == _WAITING:
                merged, more_from = waiting.popleft()
                yield result(merged, "merging"), more_from
        for merged, more_from in waiting:
            yield result(merged, "merging"), more_from


def _settled(look: Pass, heard_from: float) -> Iterator[tuple[Outlines, NDArray[np.bool_], float]]:
    """Sets of outlines that have nothing to do with each other, and the chips read by then.

    With each set comes the pixel row from which on outlines are held or still to come.
    """
    read = np.zeros(len(look.chips), dtype=np.bool_)
    held = Outlines.empty()
    columns = len(look.chips.column_starts)
    for number, row in enumerate(look.rows):
        read[number * columns : (number + 1) * columns] = row.read
        heard = row.outlines.take(row.outlines.scores >= heard_from)
        held = Outlines.concatenate([held, heard]) if number else heard
        is_open = find_open(held, look.chips, number + 1)
        settled, held = held.take(~is_open), held.take(is_open)
        to_come = look.chips.row_starts[number + 1 :]
        more_from = min([*to_come[:1], *extents(held)[:, 1].tolist()], default=math.inf)
        yield settled, read.copy(), more_from


def find_open(outlines: Outlines, grid: ChipGrid, rows: int) -> Mask:
    """Which outlines chips that are still to come may have to do with.

    Args:
        outlines: n outlines.
        grid: The chips.
        rows: How many rows of them have come.

    Returns:
        (n,) True for those in chips that have a neighbour below to come, for those that reach the
        ground to come, and for all that are linked with them.
    """
    if rows == len(grid.row_starts) or not len(outlines):
        return np.zeros(len(outlines), dtype=np.bool_)
    to_come = grid.row_starts[rows]
    windows = windows_of(grid)[outlines.chips]
    bounds = extents(outlines)
    is_open = (windows[:, 3] >= to_come) | (bounds[:, 3] >= to_come - REACH_PX)
    gaps = np.abs(bounds - windows)
    is_piece = np.any(gaps <= np.maximum(SHORT_PX, outlines.cells)[:, None], axis=1)

    near = shapely.box(*(bounds + REACH_PX * np.array([-1, -1, 1, 1])).T)
    rest = np.flatnonzero(~is_open)
    tree = shapely.STRtree(outlines.polygons[rest])
    new = np.flatnonzero(is_open)
    while len(new):
        first, second = tree.query(near[new])
        first, second = new[first], rest[second]
        first, second = first[~is_open[second]], second[~is_open[second]]
        # Whole outlines have to do with each other only where they share ground.
        linked: Mask = np.logical_or(is_piece[first], is_piece[second])
        whole = np.flatnonzero(~linked)
        linked[whole] = shapely.intersects(
            outlines.polygons[first[whole]], outlines.polygons[second[whole]]
        )
        new = np.unique(second[linked])
        is_open[new] = True
    return is_open
