"""Progress bars: text on a terminal, widgets in a notebook."""

from __future__ import annotations

import sys
import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook without ipywidgets the bar is text, and nobody needs to be told.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["is_hidden", "tqdm"]


def is_hidden(*, progress: bool) -> bool | None:
    """What tqdm is to be told as ``disable``: no bar unasked, and none into a file of logs."""
    if not progress:
        return True
    # The output of a notebook is no terminal, but somebody looks at it.
    return False if "ipykernel.zmqshell" in sys.modules else None
