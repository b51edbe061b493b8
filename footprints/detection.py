"""Scenes and a detector in, outlines in grid pixels out: the costly half of `predict`.

raster -> grid -> chips -> instances -> outlines
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from tqdm.auto import tqdm

from footprints.chip import ChipGrid, Detector, InputSpec
from footprints.cluster import Crew, Order
from footprints.errors import ChipSizeError, FootprintsWarning
from footprints.raster.reader import SceneGrid, resample_scene, resize_picture
from footprints.raster.scaling import fit_scaling
from footprints.raster.source import Scene
from footprints.rows import Cover, look_at_rows
from footprints.vector.detected import ChipRow, DetectedScene, Pass
from footprints.vector.journal import Journal

COARSE_FACTOR = 4
"""Fine pixels per coarse pixel: in the coarse pass a chip shows sixteen times the ground, so that
a roof as wide as three chips is seen with everything around it."""


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
    crew: Crew | None = None
    """Workers that look; None looks here."""
    coarse_first: bool = False
    """Passes of a scene come in the other order."""


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
    if looking.crew is not None:
        looking.crew.take(_orders(covers, looking))
    sources = _source_names([cover.grid.scene for cover in covers])
    for number, (cover, source) in enumerate(zip(covers, sources, strict=True)):
        scene = cover.grid.scene
        looks = _looks(cover, looking)
        journals = [_PassJournal(looking.journal, number, look) for look in range(len(looks))]
        total = sum(len(each.chips) for each in looks)
        with tqdm(
            total=total, desc=scene.name, unit="chip", disable=None if looking.progress else True
        ) as bar:
            shown = _show(looks, looking, journals, bar)
            passes = [
                Pass(each.chips, each.grid.transform, _look(each, looking, rows, bar, journal))
                for each, rows, journal in zip(looks, shown, journals, strict=True)
            ]
            yield DetectedScene(
                source, scene.path, scene.crs, _pixel_m(cover), scene.bands, tuple(passes)
            )


def _show(
    looks: Sequence[Cover], looking: Looking, journals: Sequence[_PassJournal], bar: tqdm[NoReturn]
) -> list[Generator[ChipRow]]:
    """For each pass over a scene, what the rows show that its journal lacks."""
    if looking.crew is not None:
        return [looking.crew.rows(each.scene, each.look, count=bar.update) for each in journals]
    scaling = fit_scaling(looks[0].grid.scene, looking.detector.input_spec)
    return [
        look_at_rows(
            cover,
            looking.detector,
            scaling,
            journal.missing(cover),
            batch_size=looking.batch_size,
            heard_from=looking.heard_from,
            count=bar.update,
        )
        for cover, journal in zip(looks, journals, strict=True)
    ]


def _orders(covers: Sequence[Cover], looking: Looking) -> Iterator[Order]:
    """What workers are to look at, scene by scene."""
    for number, cover in enumerate(covers):
        looks = _looks(cover, looking)
        scaling = fit_scaling(cover.grid.scene, looking.detector.input_spec)
        rows = [
            _PassJournal(looking.journal, number, look).missing(each)
            for look, each in enumerate(looks)
        ]
        yield Order(number, looks, scaling, rows)


def _pixel_m(cover: Cover) -> float | None:
    """The longer side of a grid pixel on the ground."""
    own = cover.grid.scene.gsd_m()
    return None if own is None else max(np.multiply(own, cover.grid.factor).tolist())


def _source_names(scenes: Sequence[Scene]) -> list[str]:
    """What the ``source`` column says: file names, or whole paths where two would be the same."""
    count = Counter(scene.name for scene in scenes)
    return [scene.name if count[scene.name] == 1 else scene.path for scene in scenes]


def _looks(cover: Cover, looking: Looking) -> list[Cover]:
    """The passes over a scene: a coarse one, too, where it takes several chips."""
    looks = [cover, _coarse(cover)] if len(cover.chips) > 1 else [cover]
    return looks[::-1] if looking.coarse_first else looks


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

    def missing(self, cover: Cover) -> list[int]:
        journal, rows = self.journal, range(len(cover.chips.row_starts))
        return [
            row for row in rows if journal is None or not journal.has(self.scene, self.look, row)
        ]

    def write(self, row: int, chips: ChipRow) -> None:
        if self.journal is not None:
            self.journal.write(self.scene, self.look, row, chips)


def _look(
    cover: Cover,
    looking: Looking,
    shown: Iterator[ChipRow],
    bar: tqdm[NoReturn],
    done: _PassJournal,
) -> Iterator[ChipRow]:
    """What each row of chips shows, as soon as its last chip is seen."""
    name = cover.grid.scene.name
    bar.set_description(f"{name}, wide roofs" if cover.is_coarse else name)
    columns = len(cover.chips.column_starts)
    buildings, rows_read = 0, 0
    for row in range(len(cover.chips.row_starts)):
        chips = done.read(row)
        if chips is None:
            chips = next(shown)
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
