"""How each scene of a run went, and the list of those that failed.

The list, `NAME.failures.csv`, lies beside the output while anything is missing in it. It has one
line for each scene that could not be looked at, and one for each chip that could not be read:

| column                     | meaning                                                      |
|----------------------------|--------------------------------------------------------------|
| `number`                   | of the scene, from 1, as the run was given them              |
| `scene`                    | its file or address, without secrets                         |
| `x`, `y`, `width`, `height`| of the chip in raster pixels; empty where all of it failed   |
| `reason`                   | what the error said                                          |
"""

from __future__ import annotations

import csv
import io
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from geopandas import GeoDataFrame

from footprints.addresses import file_name, redact
from footprints.chip import Window
from footprints.errors import FailureWarning, LayerError, RasterError, RunError
from footprints.files import write_whole
from footprints.vector.detected import DetectedScene

ENDING = ".failures.csv"
COLUMNS = ("number", "scene", "x", "y", "width", "height", "reason")

DONE, IN_PART, FAILED, BESIDE = "done", "in part", "failed", "beside the area"


@dataclass(frozen=True, slots=True)
class SceneOutcome:
    """How one scene went."""

    source: str
    """What the ``source`` column says."""
    state: str
    """``done``; ``in part``, where some chips could not be read; ``failed``; ``beside the area``
    of interest."""
    chips: int = 0
    """Chips with data that were looked at, or had been by an earlier run."""
    buildings: int = 0
    """Found in this scene; what several scenes show is counted in each."""
    area_m2: float = 0.0
    """Of those."""
    seconds: float = 0.0
    """From its first chip to its last building."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A scene that failed, or a chip of it."""

    number: int
    """Of the scene, from 0."""
    scene: str
    reason: str
    window: Window | None = None
    """Of the chip in raster pixels; None where the whole scene failed."""


class Tally:
    """Notes how each scene of a run goes, and lets the run go on where one fails.

    Args:
        scenes: Files and addresses of all scenes.
        beside: Output beside which failures are listed; None lists none.
        keep_going: A scene that fails does not end the run.
        told: Is told of each scene when it is through.
    """

    def __init__(
        self,
        scenes: Sequence[str],
        *,
        beside: Path | None = None,
        keep_going: bool = False,
        told: Callable[[SceneOutcome], object] | None = None,
    ) -> None:
        self.keep_going = keep_going
        self.failures: list[Failure] = []
        self._scenes = [redact(scene) for scene in scenes]
        self._beside = beside
        self._told = told

    @contextmanager
    def watch(self, number: int, source: str) -> Iterator[None]:
        """Work on a scene in here; what goes wrong with it is noted, or ends the run.

        Raises:
            RasterError, LayerError: It failed, and the run is not to go on.
        """
        try:
            yield
        except (RasterError, LayerError) as err:
            if not self.keep_going:
                raise
            reason = redact(str(err))
            self.failures.append(Failure(number, self._scenes[number], reason))
            self._say(SceneOutcome(source, FAILED, reason=reason))
            warnings.warn(f"failed: {_named(reason, source)}", FailureWarning, stacklevel=4)

    def beside(self, source: str) -> None:
        """Note a scene that the area of interest does not touch."""
        self._say(SceneOutcome(source, BESIDE))

    def through(
        self, scene: DetectedScene, layer: GeoDataFrame, *, chips: int, began: float
    ) -> None:
        """Note a scene that was gone through.

        Args:
            scene: The scene.
            layer: Its footprints, those of the area of interest if there is one.
            chips: How many chips were looked at.
            began: When, by `time.perf_counter`.
        """
        faults = scene.faults
        name = self._scenes[scene.number]
        self.failures += [
            Failure(scene.number, name, redact(fault.reason), fault.window) for fault in faults
        ]
        state = IN_PART if faults else DONE
        area_m2 = float(layer["area_m2"].sum())
        seconds = time.perf_counter() - began
        reason = redact(faults[0].reason) if faults else ""
        self._say(SceneOutcome(scene.source, state, chips, len(layer), area_m2, seconds, reason))
        if faults:
            warnings.warn(
                f"{len(faults)} {'chip' if len(faults) == 1 else 'chips'} could not be read, "
                f"first: {_named(reason, scene.source)}",
                FailureWarning,
                stacklevel=3,
            )

    def write(self) -> None:
        """Write the list beside the output, or remove the one that is there if nothing failed.

        Raises:
            OutputError: It cannot be written.
        """
        if self._beside is not None:
            _write_failures(self.failures, failures_of(self._beside))

    def all_failed(self) -> str:
        """What is wrong where no scene is left, in one line."""
        first = self.failures[0]
        said = _named(first.reason, first.scene)
        several = len(self._scenes) > 1
        return f"all {len(self._scenes)} scenes failed, first: {said}" if several else said

    def _say(self, outcome: SceneOutcome) -> None:
        if self._told is not None:
            self._told(outcome)


def outcome_table(outcomes: Sequence[SceneOutcome], things: str, unit: str) -> str:
    """A line for each scene: chips, buildings, area, seconds, state.

    Args:
        outcomes: Of the scenes.
        things: What was looked for.
        unit: Of the area.
    """
    rows = [("scene", "chips", things, unit, "seconds", "state")]
    rows += [
        (
            outcome.source,
            f"{outcome.chips:,}",
            f"{outcome.buildings:,}",
            f"{outcome.area_m2:,.0f}",
            f"{outcome.seconds:.1f}",
            f"{outcome.state}: {_unnamed(outcome)}" if outcome.reason else outcome.state,
        )
        for outcome in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:5], widths[1:], strict=True)]
            + [row[5]]
        )
        for row in rows
    )


def _named(reason: str, scene: str) -> str:
    """A reason that says which scene it is about, once."""
    return reason if file_name(scene) in reason else f"{scene}: {reason}"


def _unnamed(outcome: SceneOutcome) -> str:
    """A reason in the line of its scene, without the name that many begin with."""
    first, _, rest = outcome.reason.partition(" ")
    return rest if file_name(first.rstrip(":")) == file_name(outcome.source) else outcome.reason


def failures_of(output: Path) -> Path:
    """Where the list lies of what failed when this output was made."""
    return output.with_name(output.name + ENDING)


def _write_failures(failures: Sequence[Failure], path: Path) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for failure in sorted(failures, key=lambda failure: failure.number):
        place = ("",) * 4 if failure.window is None else [f"{part:g}" for part in failure.window]
        writer.writerow([failure.number + 1, failure.scene, *place, failure.reason])
    write_whole(path, text.getvalue().encode(), "list of failures")


def failed_before(output: Path) -> set[int]:
    """Numbers of the scenes, from 0, that the list names.

    Raises:
        RunError: There is no list, or it is damaged.
    """
    path = failures_of(output)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {int(line["number"]) - 1 for line in csv.DictReader(file)}
    except FileNotFoundError as err:
        raise RunError(
            f"nothing to try again: there is no {path}; it comes with a run with --keep-going of "
            "which some scenes failed"
        ) from err
    except (OSError, ValueError, KeyError) as err:
        raise RunError(f"{path} is damaged ({err}); start anew with --overwrite") from err
