"""Lanes: threads in which a detector sees batches side by side, one batch in each.

Where products run on all cores of a CPU, every layer ends when the slowest core is done, and is
held up by whatever else that core does, reading and tracing among it. In lanes with few threads
each, a core that is done with its batch takes the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from footprints.chip import Detector


@runtime_checkable
class RunsInLanes(Protocol):
    """A detector that may be called in several threads at the same time."""

    @property
    def lanes(self) -> int:
        """How many lanes make the most of the device."""

    def open_lanes(self, count: int) -> AbstractContextManager[Executor]:
        """So many threads, which share the cores that the detector may use."""


def count_lanes(detector: Detector) -> int:
    """How many lanes a detector is given; one unless it says otherwise."""
    return detector.lanes if isinstance(detector, RunsInLanes) else 1


@contextmanager
def open_lanes(detector: Detector, count: int) -> Iterator[Executor]:
    """Threads to call a detector in; what waits for one is dropped at the end."""
    if isinstance(detector, RunsInLanes):
        with detector.open_lanes(count) as lanes:
            yield lanes
        return
    lanes = ThreadPoolExecutor(count)
    try:
        yield lanes
    finally:
        lanes.shutdown(cancel_futures=True)
