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

import numpy as np
import shapely
from numpy.typing import NDArray

from footprints.chip import Chip, ChipGrid, Detector, Instances, Scaling, Window
from footprints.errors import BatchSizeWarning, DetectionCapWarning, DeviceError, RasterError
from footprints.raster.reader import SceneGrid, read_chip
from footprints.stages import result, stage, submit
from footprints.vector.detected import ChipRow, Fault
from footprints.vector.outlines import Outlines
from footprints.vector.scenes import seen_ground
from footprints.vector.trace import trace

READ_AHEAD = 2
"""Batches that are read, or wait to be seen, at most; a batch of 512 px chips takes a few MB."""
_TRACED_LATER = 4
"""Batches whose outlines are traced, or wait for it, at most."""


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
    shrunk: Callable[[int], object] = int,
) -> Generator[ChipRow]:
    """What some rows of chips show, in the order asked for, as soon as their outlines are traced.

    While the detector looks at a batch, the next ones are read in one thread and what the last ones
    showed is traced in another.

    Args:
        cover: The scene, open, and its chips.
        detector: What looks at them.
        scaling: Of the scene's values to the detector's.
        rows: Which rows of the cover.
        batch_size: Chips that go through together.
        heard_from: Instances below this confidence are left out.
        count: Is told how many more chips have been seen.
        shrunk: Is told the new batch size after a row in which memory ran out.

    Raises:
        DeviceError: A single chip is too much for the memory.

    Warns:
        BatchSizeWarning: Memory ran out, and smaller batches go through from here on.
    """
    looker = _Looker(detector, batch_size, cover)
    coming: deque[Future[ChipRow]] = deque()
    with (
        ThreadPoolExecutor(max_workers=1) as tracer,
        contextlib.closing(_read_ahead(cover, scaling, rows, batch_size)) as ahead,
    ):
        try:
            for batches in ahead:
                traced: list[Future[list[Outlines]]] = []
                seen: list[tuple[int, shapely.Geometry]] = []
                before = looker.batch_size
                for batch in batches:
                    chips = [(number, chip) for number, chip in batch if chip.valid.any()]
                    shown = looker([chip for _, chip in chips])
                    seen += _seen(cover, chips)
                    traced.append(submit(tracer, _trace, cover, chips, shown, heard_from))
                    count(len(batch))
                    if len(traced) > _TRACED_LATER:
                        result(traced[-_TRACED_LATER - 1], "outlines")
                    while coming and coming[0].done():
                        yield coming.popleft().result()
                if looker.batch_size < before:
                    shrunk(looker.batch_size)
                empty = Outlines.empty(keypoints=len(detector.keypoints))
                coming.append(submit(tracer, _gather, cover, empty, traced, seen))
        except (Exception, KeyboardInterrupt):
            # Rows that were seen to their end are not lost with the one that was not.
            while coming:
                yield coming.popleft().result()
            raise
        while coming:
            yield result(coming.popleft(), "outlines")


class _Looker:
    """Shows chips to a detector, in smaller batches from where its memory runs out.

    The smaller size divides the larger one, so that batches are those of a run that began with it.
    """

    def __init__(self, detector: Detector, batch_size: int, cover: Cover) -> None:
        self.batch_size = batch_size
        self._detector = detector
        self._cover = cover

    def __call__(self, chips: Sequence[Chip]) -> list[Instances]:
        shown: list[Instances] = []
        while len(shown) < len(chips):
            batch = chips[len(shown) : len(shown) + self.batch_size]
            try:
                shown += self._show(batch)
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
            self._shrink()
        return shown

    def _show(self, chips: Sequence[Chip]) -> list[Instances]:
        is_coarse = self._cover.is_coarse
        with (
            stage("network, wide roofs" if is_coarse else "network"),
            warnings.catch_warnings() if is_coarse else contextlib.nullcontext(),
        ):
            if is_coarse:
                # At the cap the coarse pass misses small roofs, which it is not asked for.
                warnings.simplefilter("ignore", DetectionCapWarning)
            return self._detector(chips)

    def _shrink(self) -> None:
        smaller = 1 if self.batch_size % 2 else self.batch_size // 2
        warnings.warn(
            f"{self.batch_size} chips at once are too much for the memory; {smaller} go through "
            f"together from here on, as with --batch-size {smaller}",
            BatchSizeWarning,
            stacklevel=3,
        )
        self.batch_size = smaller


def _is_out_of_memory(err: Exception) -> bool:
    """Whether Python, a GPU or torch's allocator on the CPU is out of memory; loads no torch."""
    names = {base.__name__ for base in type(err).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "allocate memory" in str(err)


def _seen(
    cover: Cover, chips: Sequence[tuple[int, Chip]]
) -> Iterator[tuple[int, shapely.Geometry]]:
    """The column of each chip and its ground with data.

    Not in another thread: rasterio changes the process's warning filters for a moment.
    """
    for number, chip in chips:
        yield cover.chips.row_column(number)[1], seen_ground(chip.valid, cover.chips.window(number))


def _trace(
    cover: Cover,
    chips: Sequence[tuple[int, Chip]],
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


def _read_ahead(
    cover: Cover, scaling: Scaling, rows: Sequence[int], batch_size: int
) -> Generator[Iterator[list[tuple[int, Chip]]]]:
    """Of each row, its batches of numbered chips.

    Batches never cross rows: what a network makes of a chip can depend, in the last digit, on the
    chips beside it, and a run that goes on must meet the same ones.
    """
    columns = len(cover.chips.column_starts)
    batches = [
        range(start, min(start + batch_size, (row + 1) * columns))
        for row in rows
        for start in range(row * columns, (row + 1) * columns, batch_size)
    ]
    # Closed here: left to the garbage collector, its thread might be the one to wait for itself.
    with contextlib.closing(_some_ahead(cover, scaling, batches)) as coming:
        for _ in rows:
            yield itertools.islice(coming, -(-columns // batch_size))


def _some_ahead(
    cover: Cover, scaling: Scaling, batches: Sequence[range]
) -> Generator[list[tuple[int, Chip]]]:
    def read(numbers: range) -> list[tuple[int, Chip]]:
        with stage("reading"):
            chips = [(number, cover.read(number, scaling)) for number in numbers]
        return [(number, chip) for number, chip in chips if chip is not None]

    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: deque[Future[list[tuple[int, Chip]]]] = deque()
        for numbers in batches:
            waiting.append(submit(reader, read, numbers))
            if len(waiting) > READ_AHEAD:
                yield result(waiting.popleft(), "pixels")
        while waiting:
            yield result(waiting.popleft(), "pixels")
