"""Lanes: threads in which a detector sees batches side by side, one batch in each.

Where products run on all cores of a CPU, every layer ends when the slowest core is done, and is
held up by whatever else that core does, reading and tracing among it. In lanes with few threads
each, a core that is done with its batch takes the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from footprints.chip import Detector

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class RunsInLanes(Protocol):
    """A detector that may be called in several threads at the same time."""

    @property
    def lanes(self) -> int:
        """How many lanes make the most of the device."""

    def open_lanes(self, count: int) -> AbstractContextManager[Executor]:
        """So many threads, which share the cores that the detector may use."""


def count_lanes(detector: Detector) -> int:
    """How many lanes a detector is given; none if it does not say that it stands threads."""
    return detector.lanes if isinstance(detector, RunsInLanes) else 0


def open_lanes(detector: Detector, count: int) -> AbstractContextManager[Executor]:
    """Where to call a detector: in so many threads, or with no lanes in the calling one."""
    return detector.open_lanes(count) if isinstance(detector, RunsInLanes) else _Here()


class _Here(Executor):
    """Does at once, in the same thread, what it is given."""

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do it; what goes wrong is told with the result."""
        done: Future[T] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as err:  # noqa: BLE001  # whoever asks for the result is told
            done.set_exception(err)
        return done
