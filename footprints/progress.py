"""How far a long step is: a bar on a terminal or in a notebook, lines of the log elsewhere.

A bar in a file or in another program's window is a heap of fragments, so where there is no terminal
every whole percent is one message of level INFO: ``town.tif: 42 %, 5 of 12 chips``.
"""

from __future__ import annotations

import logging
import sys
import warnings
from types import TracebackType
from typing import Self

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook without ipywidgets the bar is text, and nobody needs to be told.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["Progress", "is_hidden", "tqdm"]

logger = logging.getLogger(__name__)


class Progress:
    """Counts the parts of a step that are done.

    Args:
        total: Parts of the step.
        name: What is worked on.
        unit: What a part is.
        shown: Show a bar, where it can be drawn.
    """

    def __init__(self, total: int, name: str, unit: str, *, shown: bool) -> None:
        self._bar = tqdm(total=total, desc=name, unit=unit, disable=is_hidden(progress=shown))
        self._total, self._name, self._unit = total, name, unit
        self._done = self._percent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def rename(self, name: str) -> None:
        """Say that something else of the same step is worked on."""
        self._name = name
        self._bar.set_description(name)

    def note(self, **figures: int) -> None:
        """Show figures behind the bar from the next update on."""
        self._bar.set_postfix(figures, refresh=False)

    def update(self, count: int = 1) -> None:
        """Count parts that are done."""
        self._bar.update(count)
        self._done += count
        percent = 100 * self._done // max(self._total, 1)
        if self._bar.disable and percent > self._percent:
            self._percent = percent
            logger.info(
                "%s: %d %%, %d of %d %ss", self._name, percent, self._done, self._total, self._unit
            )


def is_hidden(*, progress: bool) -> bool | None:
    """What tqdm is to be told as ``disable``: no bar unasked, and none into a file of logs."""
    if not progress:
        return True
    # The output of a notebook is no terminal, but somebody looks at it.
    return False if "ipykernel.zmqshell" in sys.modules else None
