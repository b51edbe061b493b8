"""Where the time of a run goes, stage by stage.

    with measure_stages() as stages:
        fp.predict("town.tif", output="town.gpkg")
    print(stages.table())

Nothing is measured outside such a block. A stage within another counts for itself alone.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from functools import partial, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

WAITING = "waiting for "
"""How stages are called in which the main line stands still."""


class Stages:
    """Seconds by stage: of the main line, where they add up, and of the threads beside it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        """Of the thread that measures; the rest of its time is in no stage."""
        self.beside: Counter[str] = Counter()
        """Of all other threads, while the main line goes on."""
        self._thread = threading.get_ident()
        self._begun = time.perf_counter()
        self._inner = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Count what happens inside towards a stage."""
        before = getattr(self._inner, "seconds", 0.0)
        self._inner.seconds = 0.0
        begun = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - begun
            own = took - self._inner.seconds
            self._inner.seconds = before + took
            is_line = threading.get_ident() == self._thread
            with self._lock:
                (self.seconds if is_line else self.beside)[name] += own

    def table(self) -> str:
        """The main line's stages in the order they first ended, its rest, then those beside it."""
        whole = time.perf_counter() - self._begun
        line = {**self.seconds, "all else": whole - self.seconds.total()}
        rows = [f"{'stage':24}{'seconds':>10}{'share':>8}"]
        rows += [f"{name:24}{s:10.2f}{s / whole:8.1%}" for name, s in line.items()]
        rows.append(f"{'in all':24}{whole:10.2f}{1:8.1%}")
        rows += [f"{f'{name}, meanwhile':24}{s:10.2f}" for name, s in self.beside.items()]
        return "\n".join(rows)


_measuring: ContextVar[Stages | None] = ContextVar("_measuring", default=None)


@contextmanager
def measure_stages() -> Iterator[Stages]:
    """Measure the stages of what happens inside, in this thread and those that it starts."""
    stages = Stages()
    token = _measuring.set(stages)
    try:
        yield stages
    finally:
        _measuring.reset(token)


def stage(name: str) -> AbstractContextManager[None]:
    """What happens inside is this stage, if anybody measures."""
    stages = _measuring.get()
    return nullcontext() if stages is None else stages.time(name)


def staged(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """What a function does is this stage."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            with stage(name):
                return function(*args, **kwargs)

        return measured

    return decorate


def submit(
    executor: Executor, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    """Hand work to another thread, whose stages count like this one's."""
    return executor.submit(copy_context().run, partial(function, *args, **kwargs))


def result(future: Future[T], what: str) -> T:
    """What another thread made; time until it is there is waiting for ``what``."""
    with stage(WAITING + what):
        return future.result()
