"""Scenes and a detector in, outlines in grid pixels out: the costly half of `predict`.

raster -> grid -> chips -> instances -> outlines
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from shapely import Geometry, MultiPolygon

from footprints.addresses import redact
from footprints.chip import ChipGrid, Detector, InputSpec, Prepares, Scaling, SizesBatches
from footprints.cluster import Crew, Order
from footprints.errors import ChipSizeError, FootprintsWarning, RasterError
from footprints.progress import Progress
from footprints.raster.reader import SceneGrid, resample_scene, resize_picture
from footprints.raster.scaling import fit_scaling
from footprints.raster.source import Scene
from footprints.rows import Cover, look_at_rows
from footprints.vector.affine import apply_affine
from footprints.vector.area import chips_near
from footprints.vector.detected import ChipRow, DetectedScene, Pass
from footprints.vector.journal import Journal
from footprints.vector.outlines import Outlines

logger = logging.getLogger(__name__)

_BATCH_SIZE = 2
"""Chips that go through a detector together that does not know how many it can hold."""
COARSE_FACTOR = 4
"""Fine pixels per coarse pixel: in the coarse pass a chip shows sixteen times the ground, so that
a roof as wide as three chips is seen with everything around it."""


@dataclass(slots=True)
class Looking:
    """How a detector is put to work."""

    detector: Detector
    batch_size: int
    """Chips that go through together; fewer from where memory runs out."""
    lanes: int
    """Batches that go through side by side; 0 for one by one, in the calling thread."""
    confidence: float
    """From which on the progress bar counts a building."""
    heard_from: float
    """Instances below this confidence are left out."""
    progress: bool
    """Show a progress bar, on a terminal or in a notebook."""
    journal: Journal | None = None
    """Rows of chips that are done, and where to note those that get done; None notes nothing."""
    crew: Crew | None = None
    """Workers that look; None looks here."""
    coarse_first: bool = False
    """Passes of a scene come in the other order."""

    def shrink(self, batch_size: int) -> None:
        """Go on with smaller batches, here and in a run that goes on from the journal."""
        self.batch_size = batch_size
        if self.journal is not None:
            self.journal.batch_size = batch_size


def cover_scene(
    scene: Scene, spec: InputSpec, *, chip_size: int | None = None, overlap: int | None = None
) -> Cover:
    """See a scene at a detector's resolution, and cover it with chips.

    Args:
        scene: The raster.
        spec: What the detector wants to be shown.
        chip_size: Side of a chip in grid pixels; None takes the detector's own, or all of a
            picture that is seen whole.
        overlap: Pixels shared by neighbouring chips; None takes a quarter of the chip.

    Raises:
        ChipSizeError: Both do not fit together, or an overlap is given for a picture seen whole.
        RasterError: The scene's pixels are too coarse for the detector.
    """
    if spec.short_side is not None and chip_size is None:
        if overlap is not None:
            raise ChipSizeError(
                f"overlap {overlap} is of neighbouring chips, but this detector sees pictures "
                "whole; cut them with --chip-size, or leave out --overlap"
            )
        grid = resize_picture(scene, spec.short_side, spec.long_side)
        side = -(-max(grid.height, grid.width) // spec.multiple) * spec.multiple
        return Cover(grid, ChipGrid(grid.height, grid.width, side, 0, spec.multiple))
    grid = resample_scene(scene, spec.gsd_m)
    size = spec.chip_size if chip_size is None else chip_size
    shared = size // 4 if overlap is None else overlap
    return Cover(grid, ChipGrid(grid.height, grid.width, size, shared, spec.multiple))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A scene that was opened, measured and closed again."""

    number: int
    """Its place among all scenes of the run, from 0."""
    source: str
    """What the ``source`` column says."""
    cover: Cover
    """Its chips; the scene is closed."""
    area: Geometry | None = None
    """Ground that was asked for, in grid pixels; None asks for all."""


def fitting_batch(detector: Detector, measured: Sequence[Measured]) -> int:
    """How many chips go through a detector together where nobody says so."""
    if not measured or not isinstance(detector, SizesBatches):
        return _BATCH_SIZE
    return detector.fitting_batch(
        max(each.cover.chips.chip_height for each in measured),
        max(each.cover.chips.chip_width for each in measured),
    )


def prepare(detector: Detector, measured: Sequence[Measured], batch_size: int) -> None:
    """Tell a detector what a run is to show it, done before or not, if it wants to know.

    The same for a run that goes on: what the detector makes of that, it makes again.
    """
    if not measured or not isinstance(detector, Prepares):
        return
    covers = [each.cover for each in measured]
    sizes = Counter((cover.chips.chip_height, cover.chips.chip_width) for cover in covers)
    ((size, _),) = sizes.most_common(1)
    detector.expect(sum(map(_count, covers)), (batch_size, *size))


def detect(measured: Sequence[Measured], looking: Looking) -> Generator[DetectedScene]:
    """Show scenes to a detector, one after the other.

    A scene is opened when its first row is asked for, and closed when the next scene is: thousands
    of scenes do not need thousands of open files. It is looked at while its rows are gone through,
    and what fails then fails there; the next one can be asked for all the same.

    Args:
        measured: The scenes.
        looking: The detector, and how to use it.
    """
    sources = [_Opened(each.cover.grid.scene, looking.detector.input_spec) for each in measured]
    if looking.crew is not None:
        looking.crew.take(_orders(measured, sources, looking))
    for each, opened in zip(measured, sources, strict=True):
        cover, scene = each.cover, each.cover.grid.scene
        looks = _looks(each, looking)
        total = sum(_count(look) for look in looks)
        logger.info("%s: %s", scene.name, _plan(cover))
        with (
            closing(scene),
            Progress(total, scene.name, "chip", shown=looking.progress) as bar,
        ):
            passes = []
            for number, look in enumerate(looks):
                rows = _look(
                    look, looking, opened, bar, _PassJournal(looking.journal, each.number, number)
                )
                passes.append(Pass(look.chips, look.grid.transform, rows))
            passes[-1] = replace(
                passes[-1], rows=_unchanged(passes[-1].rows, each, looking.journal)
            )
            yield DetectedScene(
                each.number,
                each.source,
                redact(scene.path),
                scene.crs,
                _pixel_m(cover),
                scene.bands,
                tuple(passes),
                () if cover.faults is None else cover.faults,
            )


@dataclass(eq=False)
class _Opened:
    """A scene that is opened when somebody needs it."""

    scene: Scene
    spec: InputSpec

    @cached_property
    def scaling(self) -> Scaling:
        self.scene.reopen()
        return fit_scaling(self.scene, self.spec)


def _unchanged(
    rows: Iterable[ChipRow], measured: Measured, journal: Journal | None
) -> Iterator[ChipRow]:
    """The last rows of a scene, if the file is still the same after them."""
    yield from rows
    try:
        measured.cover.grid.scene.check_same()
    except RasterError:
        # Nobody knows which rows are of which file.
        if journal is not None:
            journal.forget(measured.number)
        raise


def _count(cover: Cover) -> int:
    return len(cover.chips) if cover.wanted is None else int(cover.wanted.sum())


def _orders(
    measured: Sequence[Measured], sources: Sequence[_Opened], looking: Looking
) -> Iterator[Order]:
    """What workers are to look at, scene by scene."""
    for each, opened in zip(measured, sources, strict=True):
        looks = _looks(each, looking)
        rows = [
            _PassJournal(looking.journal, each.number, number).missing(rows_wanted(look))
            for number, look in enumerate(looks)
        ]
        if not any(rows):
            continue
        # A scene that fails does so again when its rows are asked for, where it can be left out.
        with closing(opened.scene), suppress(RasterError):
            yield Order(each.number, looks, opened.scaling, rows)


def _plan(cover: Cover) -> str:
    """How a scene is looked at, for the log."""
    grid, chips, own = cover.grid, cover.chips, cover.grid.scene.gsd_m()
    size = f"{grid.scene.width} x {grid.scene.height} px"
    if own is not None:
        size += f" of {own[0]:.3g} x {own[1]:.3g} m"
    rows, columns = len(chips.row_starts), len(chips.column_starts)
    return (
        f"{size}, read as {grid.width} x {grid.height} px, {rows} x {columns} chips of "
        f"{chips.size} px that share {chips.overlap} px"
    )


def _pixel_m(cover: Cover) -> float | None:
    """The longer side of a grid pixel on the ground."""
    own = cover.grid.scene.gsd_m()
    return None if own is None else max(np.multiply(own, cover.grid.factor).tolist())


def _looks(measured: Measured, looking: Looking) -> list[Cover]:
    """The passes over a scene: a coarse one, too, where it takes several chips."""
    fine = measured.cover
    looks = [fine, _coarse(measured)] if len(fine.chips) > 1 else [fine]
    return looks[::-1] if looking.coarse_first else looks


def _coarse(measured: Measured) -> Cover:
    """A second look at the same scene, with larger pixels."""
    fine = measured.cover
    grid = SceneGrid(
        fine.grid.scene,
        width=max(1, round(fine.grid.width / COARSE_FACTOR)),
        height=max(1, round(fine.grid.height / COARSE_FACTOR)),
    )
    chips = replace(fine.chips, height=grid.height, width=grid.width)
    wanted = None
    if measured.area is not None:
        shrink = Affine.scale(grid.width / fine.grid.width, grid.height / fine.grid.height)
        wanted = chips_near(chips, apply_affine(np.array([measured.area]), shrink)[0])
    return Cover(grid, chips, is_coarse=True, wanted=wanted, faults=fine.faults)


@dataclass(frozen=True, slots=True)
class _PassJournal:
    """What the journal, if there is one, says of one pass over one scene."""

    journal: Journal | None
    scene: int
    look: int

    def read(self, row: int) -> ChipRow | None:
        if self.journal is None or not self.journal.has(self.scene, self.look, row):
            return None
        return self.journal.read(self.scene, self.look, row)

    def missing(self, rows: Sequence[int]) -> list[int]:
        journal = self.journal
        return [
            row for row in rows if journal is None or not journal.has(self.scene, self.look, row)
        ]

    def write(self, row: int, chips: ChipRow) -> None:
        if self.journal is not None:
            self.journal.write(self.scene, self.look, row, chips)


def _look(
    cover: Cover, looking: Looking, opened: _Opened, bar: Progress, done: _PassJournal
) -> Iterator[ChipRow]:
    """What each row of chips shows, as soon as its last chip is seen."""
    name = cover.grid.scene.name
    bar.rename(f"{name}, wide roofs" if cover.is_coarse else name)
    wanted = _wanted_in_rows(cover)
    missing = done.missing(rows_wanted(cover))
    looked: Iterator[ChipRow] = iter(())
    if missing:
        looked = _show(cover, missing, looking, opened, bar, done)
    buildings, rows_read = 0, 0
    for row in range(len(wanted)):
        chips = _empty_row(cover, looking.detector) if not wanted[row] else done.read(row)
        if chips is None:
            chips = next(looked)
            if row not in _faulty_rows(cover):
                done.write(row, chips)
        else:
            bar.update(int(wanted[row]))
        rows_read += bool(chips.read.any())
        if not cover.is_coarse:
            buildings += int((chips.outlines.scores >= looking.confidence).sum())
            bar.note(buildings=buildings)
        yield chips
    if not rows_read and not cover.is_coarse:
        _warn_of_nothing(cover)


def _show(
    cover: Cover,
    rows: Sequence[int],
    looking: Looking,
    opened: _Opened,
    bar: Progress,
    done: _PassJournal,
) -> Iterator[ChipRow]:
    """What rows of chips show, seen by workers or here."""
    scaling = opened.scaling
    if looking.crew is not None:
        return looking.crew.rows(done.scene, done.look, faults=cover.faults, count=bar.update)
    return look_at_rows(
        cover,
        looking.detector,
        scaling,
        rows,
        batch_size=looking.batch_size,
        lanes=looking.lanes,
        heard_from=looking.heard_from,
        count=bar.update,
        shrunk=looking.shrink,
    )


def rows_wanted(cover: Cover) -> list[int]:
    """The rows with chips that are looked at."""
    rows: list[int] = np.flatnonzero(_wanted_in_rows(cover)).tolist()
    return rows


def _wanted_in_rows(cover: Cover) -> NDArray[np.int64]:
    """(rows,) how many chips of each row are looked at."""
    rows, columns = len(cover.chips.row_starts), len(cover.chips.column_starts)
    if cover.wanted is None:
        return np.full(rows, columns)
    wanted: NDArray[np.int64] = cover.wanted.reshape(rows, columns).sum(axis=1)
    return wanted


def _empty_row(cover: Cover, detector: Detector) -> ChipRow:
    """A row that nobody asked for."""
    read = np.zeros(len(cover.chips.column_starts), dtype=np.bool_)
    return ChipRow(Outlines.empty(keypoints=len(detector.keypoints)), read, MultiPolygon())


def _faulty_rows(cover: Cover) -> set[int]:
    """Rows of which a chip could not be read; complete for those that have come."""
    return {
        cover.chips.row_column(fault.chip)[0]
        for fault in cover.faults or ()
        if fault.is_coarse == cover.is_coarse
    }


def _warn_of_nothing(cover: Cover) -> None:
    """A scene that showed nothing: unreadable all over, or without data."""
    if cover.faults:
        raise RasterError(cover.faults[0].reason)
    if cover.wanted is None:
        warnings.warn(
            f"{cover.grid.scene.name} has no pixel with data; check --nodata and --bands",
            FootprintsWarning,
            stacklevel=2,
        )
