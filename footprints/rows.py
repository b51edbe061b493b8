"""Rows of chips through a detector: the unit of a run's work.

What a row shows depends on the scene, its cover, the detector and the batch size alone, not on the
rows before it: a run that goes on after a crash, and workers on other machines, make the same one.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import Chip, ChipGrid, Detector, Instances, Scaling
from footprints.errors import BatchSizeWarning, DetectionCapWarning, DeviceError, RasterError
from footprints.lanes import open_lanes
from footprints.raster.reader import SceneGrid, read_chip
from footprints.stages import result, stage, submit
from footprints.vector.detected import ChipRow, Fault
from footprints.vector.outlines import Outlines
from footprints.vector.scenes import seen_ground
from footprints.vector.trace import trace

READ_AHEAD = 2
"""Batches that are read, or wait for it, before one is looked at; one of 512 px chips takes a few
MB."""
_TRACED_LATER = 4
"""Batches whose outlines are traced, or wait for it, at most."""


_Chips: TypeAlias = list[tuple[int, Chip]]
"""Numbered chips."""


class _Batch(NamedTuple):
    """Chips that go through together; those that nobody wants, or can read, are left out."""

    read: int
    """How many there are."""
    chips: _Chips
    """Those with data."""


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
            place = self.grid.on_raster(window)
            self.faults.append(Fault(number, place, str(err), self.is_coarse))
            return None


def look_at_rows(
    cover: Cover,
    detector: Detector,
    scaling: Scaling,
    rows: Sequence[int],
    *,
    batch_size: int,
    lanes: int,
    heard_from: float,
    count: Callable[[int], object],
    shrunk: Callable[[int], object] = int,
) -> Generator[ChipRow]:
    """What some rows of chips show, in the order asked for, as soon as their outlines are traced.

    While the detector looks at batches, the next ones are read in one thread and what the last ones
    showed is traced in another.

    Args:
        cover: The scene, open, and its chips.
        detector: What looks at them.
        scaling: Of the scene's values to the detector's.
        rows: Which rows of the cover.
        batch_size: Chips that go through together.
        lanes: Batches that go through side by side; 0 for one by one, in this thread.
        heard_from: Instances below this confidence are left out.
        count: Is told how many more chips have been seen.
        shrunk: Is told the new batch size after a row in which memory ran out.

    Raises:
        DeviceError: A single chip is too much for the memory.

    Warns:
        BatchSizeWarning: Memory ran out, and smaller batches go through from here on.
        DetectionCapWarning: A chip has more buildings than are kept; names the chip.
    """
    looker = _Looker(detector, batch_size, cover)
    batches = _batches(cover, rows, batch_size)
    coming: deque[Future[ChipRow]] = deque()
    with (
        ThreadPoolExecutor(max_workers=1) as tracer,
        contextlib.closing(_look_ahead(looker, scaling, batches, lanes)) as looks,
    ):
        try:
            for _ in rows:
                traced: list[Future[list[Outlines]]] = []
                seen: list[tuple[int, shapely.Geometry]] = []
                for batch, shown in itertools.islice(looks, len(batches) // len(rows)):
                    seen += _seen(cover, batch.chips)
                    if not cover.is_coarse:
                        _warn_of_caps(batch.chips, shown)
                    traced.append(submit(tracer, _trace, cover, batch.chips, shown, heard_from))
                    count(batch.read)
                    if len(traced) > _TRACED_LATER:
                        result(traced[-_TRACED_LATER - 1], "outlines")
                    while coming and coming[0].done():
                        yield coming.popleft().result()
                if looker.batch_size < batch_size:
                    batch_size = looker.batch_size
                    shrunk(batch_size)
                empty = Outlines.empty(keypoints=len(detector.keypoints))
                coming.append(submit(tracer, _gather, cover, empty, traced, seen))
        except (Exception, KeyboardInterrupt):
            # Rows that were seen to their end are not lost with the one that was not.
            while coming:
                yield coming.popleft().result()
            raise
        while coming:
            yield result(coming.popleft(), "outlines")


def _batches(cover: Cover, rows: Sequence[int], batch_size: int) -> list[range]:
    """Numbers of the chips that go through together.

    Batches never cross rows: what a network makes of a chip can depend, in the last digit, on the
    chips beside it, and a run that goes on must meet the same ones.
    """
    columns = len(cover.chips.column_starts)
    return [
        range(start, min(start + batch_size, (row + 1) * columns))
        for row in rows
        for start in range(row * columns, (row + 1) * columns, batch_size)
    ]


def _look_ahead(
    looker: _Looker, scaling: Scaling, batches: Sequence[range], lanes: int
) -> Generator[tuple[_Batch, list[Instances]]]:
    """Batches in order, each with what its chips with data show."""

    def read(numbers: range) -> _Batch:
        with stage("reading"):
            chips = [(number, looker.cover.read(number, scaling)) for number in numbers]
        there = [(number, chip) for number, chip in chips if chip is not None]
        return _Batch(len(there), [each for each in there if each[1].valid.any()])

    # Closed here: left to the garbage collector, its thread might be the one to wait for itself.
    with (
        ThreadPoolExecutor(max_workers=1) as reader,
        open_lanes(looker.detector, lanes) as pool,
    ):
        reading: deque[Future[_Batch]] = deque()
        looking: deque[tuple[Future[_Batch], Future[list[Instances]]]] = deque()

        def look() -> None:
            batch = reading.popleft()
            looking.append((batch, submit(pool, looker, batch)))

        def first() -> tuple[_Batch, list[Instances]]:
            batch, shown = looking.popleft()
            return result(batch, "pixels"), result(shown, "the network")

        for numbers in batches:
            reading.append(submit(reader, read, numbers))
            if len(reading) > READ_AHEAD:
                look()
            if len(looking) > lanes:
                yield first()
        while reading:
            look()
            if len(looking) > lanes:
                yield first()
        while looking:
            yield first()


class _Looker:
    """Shows chips to a detector, in smaller batches from where its memory runs out.

    The smaller size divides the larger one, so that batches are those of a run that began with it.
    May be called in several threads at the same time.
    """

    def __init__(self, detector: Detector, batch_size: int, cover: Cover) -> None:
        self.detector = detector
        self.batch_size = batch_size
        self.cover = cover
        self._stage = "network, wide roofs" if cover.is_coarse else "network"
        self._shrinking = Lock()

    def __call__(self, coming: Future[_Batch]) -> list[Instances]:
        """What the chips with data of a batch show, when it is read."""
        chips = [chip for _, chip in result(coming, "pixels").chips]
        shown: list[Instances] = []
        while len(shown) < len(chips):
            batch = chips[len(shown) : len(shown) + self.batch_size]
            try:
                with stage(self._stage):
                    shown += self.detector(batch)
                continue
            except (MemoryError, RuntimeError) as err:
                if not _is_out_of_memory(err):
                    raise
                if len(batch) == 1:
                    height, width = batch[0].valid.shape
                    raise DeviceError(
                        f"not enough memory for a single chip of {width} x {height} px; use a "
                        "smaller --chip-size"
                    ) from err
            # The error is gone by now, and the tensors that its traceback held with it.
            self._shrink(len(batch))
        return shown

    def _shrink(self, too_many: int) -> None:
        with self._shrinking:
            if self.batch_size < too_many:
                # Another lane was here first.
                return
            smaller = 1 if self.batch_size % 2 else self.batch_size // 2
            warnings.warn(
                f"{self.batch_size} chips at once are too much for the memory; {smaller} go "
                f"through together from here on, as with --batch-size {smaller}",
                BatchSizeWarning,
                stacklevel=3,
            )
            self.batch_size = smaller


def _is_out_of_memory(err: Exception) -> bool:
    """Whether Python, a GPU or torch's allocator on the CPU is out of memory; loads no torch."""
    names = {base.__name__ for base in type(err).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "allocate memory" in str(err)


def _warn_of_caps(chips: _Chips, shown: Sequence[Instances]) -> None:
    for (_, chip), instances in zip(chips, shown, strict=True):
        if instances.capped:
            warnings.warn(
                f"{chip.source}: the chip at column {chip.window.x:.0f}, row "
                f"{chip.window.y:.0f} reached the cap of {len(instances)} detections; buildings "
                "may be missing there, use a smaller --chip-size",
                DetectionCapWarning,
                stacklevel=2,
            )


def _seen(cover: Cover, chips: _Chips) -> Iterator[tuple[int, shapely.Geometry]]:
    """The column of each chip and its ground with data.

    Not in another thread: rasterio changes the process's warning filters for a moment.
    """
    for number, chip in chips:
        yield cover.chips.row_column(number)[1], seen_ground(chip.valid, cover.chips.window(number))


def _trace(
    cover: Cover,
    chips: _Chips,
    shown: Sequence[Instances],
    heard_from: float,
) -> list[Outlines]:
    """What each chip of a batch showed."""
    traced = []
    with stage("tracing"):
        for (number, chip), instances in zip(chips, shown, strict=True):
            heard = instances.take(np.flatnonzero(instances.scores >= heard_from))
            window = cover.chips.window(number)
            traced.append(Outlines.from_instances(heard, trace(heard), window, number, chip.valid))
    return traced


def _gather(
    cover: Cover,
    empty: Outlines,
    traced: Sequence[Future[list[Outlines]]],
    seen: Sequence[tuple[int, shapely.Geometry]],
) -> ChipRow:
    """A row from its batches, which this thread has traced before."""
    with stage("tracing"):
        found = itertools.chain.from_iterable(batch.result() for batch in traced)
        read: NDArray[np.bool_] = np.zeros(len(cover.chips.column_starts), dtype=np.bool_)
        read[[column for column, _ in seen]] = True
        ground = shapely.union_all([shape for _, shape in seen])
        return ChipRow(Outlines.concatenate([empty, *found]), read, ground)
