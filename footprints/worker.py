"""A worker of a dask cluster: one detector a process, and blocks of rows of chips to look at.

The only module that needs dask.distributed to be imported; `footprints.cluster` does so when a
cluster is asked for.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from threading import Lock
from typing import Any

import cloudpickle
from distributed import Worker, WorkerPlugin, get_worker

from footprints.chip import Detector, Scaling
from footprints.errors import ClusterError, FootprintsError, FootprintsWarning, RasterError
from footprints.lanes import count_lanes
from footprints.rows import Cover, look_at_rows
from footprints.vector.detected import ChipRow, Fault

_SCENES = 2
"""Scenes that a worker keeps open; blocks come scene by scene."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of chips of one pass over one scene: what a worker does at a time."""

    place: tuple[int, int]
    """Number of the scene, and of the pass over it."""
    rows: Sequence[int]
    """Which rows of the pass."""
    scene: bytes
    """Pickled: the `Cover` of each pass over the scene, and the `Scaling` of its values."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a block of rows shows."""

    rows: Sequence[ChipRow]
    chips: int
    """How many were seen."""
    faults: Sequence[Fault]
    """Chips that could not be read, where the run goes on nevertheless."""
    warnings: Sequence[FootprintsWarning] = ()
    """What there was to be warned of."""


def look_at_block(station: str, block: Block) -> Shown:
    """What the rows of a block show.

    Args:
        station: Name of the `Station` on this worker.
        block: What to look at.

    Raises:
        FootprintsError: As `look_at_rows`; the message names the worker.
    """
    worker = get_worker()
    try:
        found: Station = worker.plugins[station]
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            shown = found.look(block)
    except FootprintsError as err:
        failure = type(err)(f"worker {worker.address}: {err}")
    else:
        ours = [w.message for w in heard if isinstance(w.message, FootprintsWarning)]
        return replace(shown, warnings=ours)
    # Not from within, because what hangs on an error is pickled with it, and GDAL's cannot be.
    raise failure


class Station(WorkerPlugin):  # type: ignore[misc]
    """What a run sets up on every worker, on those that come later or start anew as well.

    Args:
        name: Tells it from the stations of other runs.
        detector: Pickled.
        batch_size: Chips that go through the detector together.
        heard_from: Instances below this confidence are left out.
    """

    def __init__(self, name: str, detector: bytes, *, batch_size: int, heard_from: float) -> None:
        self.name = name
        self._pickled = detector
        self._batch_size = batch_size
        self._heard_from = heard_from
        self._version = version("building-footprints")

    def setup(self, worker: Worker) -> None:
        """Called by dask where the station arrives."""
        self._cores = worker.state.nthreads
        self._lock = Lock()
        self._scenes: OrderedDict[int, tuple[list[Cover], Scaling]] = OrderedDict()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  # dask's signature
        """Called by dask at the end of the run."""
        while self._scenes:
            self._close_oldest()

    def look(self, block: Block) -> Shown:
        """What the rows of a block show.

        Raises:
            ClusterError: The detector cannot be loaded here, or this is another version of ours.
            RasterError: The scene cannot be read here.
        """
        here = version("building-footprints")
        if here != self._version:
            raise ClusterError(
                f"has version {here} of building-footprints, the run has {self._version}; install "
                "the same everywhere"
            )
        # A scene is for one thread at a time; the detector uses all cores of a worker that has
        # several.
        with self._lock:
            looks, scaling = self._open(block)
            cover, seen = looks[block.place[1]], list[int]()
            if cover.faults is not None:
                cover.faults.clear()
            rows = look_at_rows(
                cover,
                self._detector,
                scaling,
                block.rows,
                batch_size=self._batch_size,
                lanes=count_lanes(self._detector),
                heard_from=self._heard_from,
                count=seen.append,
                shrunk=self._shrink,
            )
            return Shown(list(rows), sum(seen), tuple(cover.faults or ()))

    def _shrink(self, batch_size: int) -> None:
        """What was too much for this worker's memory once would be again."""
        self._batch_size = batch_size

    @cached_property
    def _detector(self) -> Detector:
        try:
            detector: Detector = cloudpickle.loads(self._pickled)
        except (ImportError, AttributeError) as err:
            raise ClusterError(
                f"cannot load the detector: {err}; install what it needs on every worker"
            ) from err
        if "torch" in sys.modules:
            # Nannies tell OpenMP to keep to one thread, however many a worker is given.
            sys.modules["torch"].set_num_threads(self._cores)
        return detector

    def _open(self, block: Block) -> tuple[list[Cover], Scaling]:
        number = block.place[0]
        if number not in self._scenes:
            if len(self._scenes) == _SCENES:
                self._close_oldest()
            try:
                self._scenes[number] = pickle.loads(block.scene)
            except RasterError as err:
                raise RasterError(
                    f"{err}; every worker has to reach the scenes under the same path"
                ) from err
        self._scenes.move_to_end(number)
        return self._scenes[number]

    def _close_oldest(self) -> None:
        _, (looks, _) = self._scenes.popitem(last=False)
        looks[0].grid.scene.close()

    def __getstate__(self) -> dict[str, Any]:
        """What travels: dask pickles a station again where it has been set up."""
        kept = ("name", "_pickled", "_batch_size", "_heard_from", "_version")
        return {key: self.__dict__[key] for key in kept}
