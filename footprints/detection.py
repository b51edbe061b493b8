"""Scenes and a detector in, outlines in grid pixels out: the costly half of `predict`.

raster -> grid -> chips -> instances -> outlines
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import shapely
from tqdm.auto import tqdm

from footprints.chip import Chip, ChipGrid, Detector, InputSpec, Instances, Scaling
from footprints.errors import ChipSizeError, DetectionCapWarning, FootprintsWarning
from footprints.raster.reader import SceneGrid, read_chip, resample_scene, resize_picture
from footprints.raster.scaling import fit_scaling
from footprints.raster.source import Scene
from footprints.vector.detected import ChipRow, DetectedScene, Pass
from footprints.vector.journal import Journal
from footprints.vector.outlines import Outlines
from footprints.vector.scenes import seen_ground
from footprints.vector.trace import trace

COARSE_FACTOR = 4
"""Fine pixels per coarse pixel: in the coarse pass a chip shows sixteen times the ground, so that
a roof as wide as three chips is seen with everything around it."""


@dataclass(frozen=True, slots=True)
class Cover:
    """A scene at one resolution, and the chips that cover it."""

    grid: SceneGrid
    chips: ChipGrid
    is_coarse: bool = False
    """Whether it only looks for roofs wider than a chip."""


@dataclass(frozen=True, slots=True)
class Looking:
    """How a detector is put to work."""

    detector: Detector
    batch_size: int
    """Chips that go through together."""
    confidence: float
    """From which on the progress bar counts a building."""
    heard_from: float
    """Instances below this confidence are left out."""
    progress: bool
    """Show a progress bar, on a terminal or in a notebook."""
    journal: Journal | None = None
    """Rows of chips that are done, and where to note those that get done; None notes nothing."""


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


def detect(covers: Sequence[Cover], looking: Looking) -> Generator[DetectedScene]:
    """Show scenes to a detector, one after the other.

    A scene is looked at while its rows are gone through, and has to be gone through before the next
    one is asked for.

    Args:
        covers: One per scene; the scenes must be open.
        looking: The detector, and how to use it.
    """
    sources = _source_names([cover.grid.scene for cover in covers])
    for number, (cover, source) in enumerate(zip(covers, sources, strict=True)):
        scene = cover.grid.scene
        looks = [cover, _coarse(cover)] if len(cover.chips) > 1 else [cover]
        total = sum(len(each.chips) for each in looks)
        scaling = fit_scaling(scene, looking.detector.input_spec)
        with tqdm(
            total=total, desc=scene.name, unit="chip", disable=None if looking.progress else True
        ) as bar:
            passes = [
                Pass(
                    each.chips,
                    each.grid.transform,
                    _look(each, looking, scaling, bar, _PassJournal(looking.journal, number, look)),
                )
                for look, each in enumerate(looks)
            ]
            yield DetectedScene(
                source, scene.path, scene.crs, _pixel_m(cover), scene.bands, tuple(passes)
            )


def _pixel_m(cover: Cover) -> float | None:
    """The longer side of a grid pixel on the ground."""
    own = cover.grid.scene.gsd_m()
    return None if own is None else max(np.multiply(own, cover.grid.factor).tolist())


def _source_names(scenes: Sequence[Scene]) -> list[str]:
    """What the ``source`` column says: file names, or whole paths where two would be the same."""
    count = Counter(scene.name for scene in scenes)
    return [scene.name if count[scene.name] == 1 else scene.path for scene in scenes]


def _coarse(fine: Cover) -> Cover:
    """A second look at the same scene, with larger pixels."""
    grid = SceneGrid(
        fine.grid.scene,
        width=max(1, round(fine.grid.width / COARSE_FACTOR)),
        height=max(1, round(fine.grid.height / COARSE_FACTOR)),
    )
    return Cover(grid, replace(fine.chips, height=grid.height, width=grid.width), is_coarse=True)


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

    def missing(self, rows: range) -> list[int]:
        journal = self.journal
        return [
            row for row in rows if journal is None or not journal.has(self.scene, self.look, row)
        ]

    def write(self, row: int, chips: ChipRow) -> None:
        if self.journal is not None:
            self.journal.write(self.scene, self.look, row, chips)


def _look(
    cover: Cover, looking: Looking, scaling: Scaling, bar: tqdm[NoReturn], done: _PassJournal
) -> Iterator[ChipRow]:
    """What each row of chips shows, as soon as its last chip is seen."""
    name = cover.grid.scene.name
    bar.set_description(f"{name}, wide roofs" if cover.is_coarse else name)
    columns = len(cover.chips.column_starts)
    rows = range(len(cover.chips.row_starts))
    batches = _read_ahead(cover, scaling, done.missing(rows), looking.batch_size)
    buildings, rows_read = 0, 0
    for row in rows:
        chips = done.read(row)
        if chips is None:
            chips = _look_at_row(cover, looking, next(batches), bar)
            done.write(row, chips)
        else:
            bar.update(columns)
        rows_read += bool(chips.read.any())
        if not cover.is_coarse:
            buildings += int((chips.outlines.scores >= looking.confidence).sum())
            bar.set_postfix(buildings=buildings, refresh=False)
        yield chips
    if not rows_read and not cover.is_coarse:
        warnings.warn(
            f"{name} has no pixel with data; check --nodata and --bands",
            FootprintsWarning,
            stacklevel=2,
        )


def _look_at_row(
    cover: Cover,
    looking: Looking,
    batches: Iterable[Sequence[tuple[int, Chip]]],
    bar: tqdm[NoReturn],
) -> ChipRow:
    found, seen = [Outlines.empty(keypoints=len(looking.detector.keypoints))], []
    read = np.zeros(len(cover.chips.column_starts), dtype=np.bool_)
    for batch in batches:
        chips = [(number, chip) for number, chip in batch if chip.valid.any()]
        shown = _show([chip for _, chip in chips], cover, looking)
        for (number, chip), instances in zip(chips, shown, strict=True):
            window = cover.chips.window(number)
            heard = instances.take(np.flatnonzero(instances.scores >= looking.heard_from))
            found.append(Outlines.from_instances(heard, trace(heard), window, number, chip.valid))
            seen.append(seen_ground(chip.valid, window))
            read[cover.chips.row_column(number)[1]] = True
        bar.update(len(batch))
    return ChipRow(Outlines.concatenate(found), read, shapely.union_all(seen))


def _show(chips: Sequence[Chip], cover: Cover, looking: Looking) -> list[Instances]:
    if not chips:
        return []
    with warnings.catch_warnings() if cover.is_coarse else contextlib.nullcontext():
        if cover.is_coarse:
            # At the cap the coarse pass misses small roofs, which it is not asked for.
            warnings.simplefilter("ignore", DetectionCapWarning)
        return looking.detector(chips)


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
        return [(n, read_chip(cover.grid, cover.chips.window(n), scaling)) for n in numbers]

    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = None
        for numbers in batches:
            coming = reader.submit(read, numbers)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()
