"""Rows of chips through a detector: the unit of a run's work.

What a row shows depends on the scene, its cover, the detector and the batch size alone, not on the
rows before it: a run that goes on after a crash, and workers on other machines, make the same one.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import Chip, ChipGrid, Detector, Instances, Scaling, Window
from footprints.errors import DetectionCapWarning, RasterError
from footprints.raster.reader import SceneGrid, read_chip
from footprints.vector.detected import ChipRow, Fault
from footprints.vector.outlines import Outlines
from footprints.vector.scenes import seen_ground
from footprints.vector.trace import trace


@dataclass(frozen=True, slots=True)
class Cover:
    """A scene at one resolution, and the chips that cover it."""

    grid: SceneGrid
    chips: ChipGrid
    is_coarse: bool = False
    """Whether it only looks for roofs wider than a chip."""
    wanted: NDArray[np.bool_] | None = None
    """Which chips are looked at; None looks at all."""
    faults: list[Fault] | None = None
    """Where chips that cannot be read are noted; None lets the first one end the work."""

    def read(self, number: int, scaling: Scaling) -> Chip | None:
        """Read a chip; None where it is not wanted, or cannot be read and that was noted.

        Raises:
            RasterError: It cannot be read, and there is no place to note it.
        """
        if self.wanted is not None and not self.wanted[number]:
            return None
        window = self.chips.window(number)
        try:
            return read_chip(self.grid, window, scaling)
        except RasterError as err:
            if self.faults is None:
                raise
            x_factor, y_factor = self.grid.factor
            place = Window(
                window.x * x_factor,
                window.y * y_factor,
                window.width * x_factor,
                window.height * y_factor,
            )
            self.faults.append(Fault(number, place, str(err), self.is_coarse))
            return None


def look_at_rows(
    cover: Cover,
    detector: Detector,
    scaling: Scaling,
    rows: Sequence[int],
    *,
    batch_size: int,
    heard_from: float,
    count: Callable[[int], object],
) -> Generator[ChipRow]:
    """What some rows of chips show, in the order asked for, each as soon as its last chip is seen.

    Args:
        cover: The scene, open, and its chips.
        detector: What looks at them.
        scaling: Of the scene's values to the detector's.
        rows: Which rows of the cover.
        batch_size: Chips that go through together.
        heard_from: Instances below this confidence are left out.
        count: Is told how many more chips have been seen.
    """
    for batches in _read_ahead(cover, scaling, rows, batch_size):
        yield _look_at_row(cover, detector, batches, heard_from, count)


def _look_at_row(
    cover: Cover,
    detector: Detector,
    batches: Iterable[Sequence[tuple[int, Chip]]],
    heard_from: float,
    count: Callable[[int], object],
) -> ChipRow:
    found, seen = [Outlines.empty(keypoints=len(detector.keypoints))], []
    read = np.zeros(len(cover.chips.column_starts), dtype=np.bool_)
    for batch in batches:
        chips = [(number, chip) for number, chip in batch if chip.valid.any()]
        shown = _show([chip for _, chip in chips], cover, detector)
        for (number, chip), instances in zip(chips, shown, strict=True):
            window = cover.chips.window(number)
            heard = instances.take(np.flatnonzero(instances.scores >= heard_from))
            found.append(Outlines.from_instances(heard, trace(heard), window, number, chip.valid))
            seen.append(seen_ground(chip.valid, window))
            read[cover.chips.row_column(number)[1]] = True
        count(len(batch))
    return ChipRow(Outlines.concatenate(found), read, shapely.union_all(seen))


def _show(chips: Sequence[Chip], cover: Cover, detector: Detector) -> list[Instances]:
    if not chips:
        return []
    with warnings.catch_warnings() if cover.is_coarse else contextlib.nullcontext():
        if cover.is_coarse:
            # At the cap the coarse pass misses small roofs, which it is not asked for.
            warnings.simplefilter("ignore", DetectionCapWarning)
        return detector(chips)


def _read_ahead(
    cover: Cover, scaling: Scaling, rows: Sequence[int], batch_size: int
) -> Iterator[Iterator[list[tuple[int, Chip]]]]:
    """Of each row, its batches of numbered chips.

    The next batch is read while the last one is in the network. Batches never cross rows: what a
    network makes of a chip can depend, in the last digit, on the chips beside it, and a run that
    goes on must meet the same ones.
    """
    columns = len(cover.chips.column_starts)
    batches = [
        range(start, min(start + batch_size, (row + 1) * columns))
        for row in rows
        for start in range(row * columns, (row + 1) * columns, batch_size)
    ]
    coming = _one_ahead(cover, scaling, batches)
    for _ in rows:
        yield itertools.islice(coming, -(-columns // batch_size))


def _one_ahead(
    cover: Cover, scaling: Scaling, batches: Sequence[range]
) -> Iterator[list[tuple[int, Chip]]]:
    def read(numbers: range) -> list[tuple[int, Chip]]:
        chips = [(number, cover.read(number, scaling)) for number in numbers]
        return [(number, chip) for number, chip in chips if chip is not None]

    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = None
        for numbers in batches:
            coming = reader.submit(read, numbers)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()
