"""Runs the footprints command as a process of its own: progress, cancelling, errors.

QGIS's Python has no torch, so the command has its own environment; all that passes between the two
are arguments, files and lines. With ``-v`` and without a terminal the command says every whole
percent in a line.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import QgsProcessingException, QgsProcessingFeedback

COMMAND = "FOOTPRINTS_COMMAND"
"""Name of the setting."""

_PERCENT = re.compile(r" s  .*: (\d+) %, \d+ of \d+ ")
_SHARE_OF_LOOKING = 0.95
"""Of the progress bar; the rest is for writing the layer."""
_GRACE_S = 15
"""How long a command that is told to stop may take to tidy up."""
_POLL_S = 0.2

# QGIS's own libraries: a command in another environment would find a PROJ database or Python
# modules of other versions there.
_OF_QGIS = ("PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA")


def find_command() -> str:
    """The command as set in Processing's options, or on the PATH.

    Raises:
        QgsProcessingException: It is not there.
    """
    wanted = ProcessingConfig.getSetting(COMMAND) or "footprints"
    found = shutil.which(wanted)
    if found is None:
        raise QgsProcessingException(
            f"there is no command {wanted}; install building-footprints in an environment of its "
            "own, and name its command bin/footprints under Settings > Options > Processing > "
            "Providers > Footprints"
        )
    return found


def run_command(
    arguments: Sequence[str], feedback: QgsProcessingFeedback, *, unfinished: Iterable[Path] = ()
) -> None:
    """Run the command until it ends or is cancelled.

    Args:
        arguments: Behind the command's name.
        feedback: Is told of progress and of every line; may cancel.
        unfinished: Outputs whose unfinished work is thrown away if the command does not complete.

    Raises:
        QgsProcessingException: The command failed; the message is its own line.
    """
    command = [find_command(), *arguments]
    feedback.pushCommandInfo(subprocess.list2cmdline(command))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={name: value for name, value in os.environ.items() if name not in _OF_QGIS},
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    said = _listen(process, feedback)
    if process.returncode == 0 and not feedback.isCanceled():
        return
    for output in unfinished:
        shutil.rmtree(output.with_name(f".{output.name}.unfinished"), ignore_errors=True)
    if not feedback.isCanceled():
        raise QgsProcessingException(_error(said, process.returncode))


def _listen(process: subprocess.Popen, feedback: QgsProcessingFeedback) -> list[str]:
    """Pass on what the process says until it ends, and end it when the user cancels."""
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    said: list[str] = []
    while True:
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=_POLL_S)
            if line is None:
                break
            said.append(line)
            _pass_on(line, feedback)
        if feedback.isCanceled():
            _end(process)
            break
    process.wait()
    reader.join(_GRACE_S)
    process.stdout.close()
    return said


def _read(process: subprocess.Popen, lines: queue.Queue[str | None]) -> None:
    for line in process.stdout:
        lines.put(line.rstrip())
    lines.put(None)


def _pass_on(line: str, feedback: QgsProcessingFeedback) -> None:
    percent = _PERCENT.search(line)
    if percent is not None:
        feedback.setProgress(_SHARE_OF_LOOKING * int(percent[1]))
        feedback.setProgressText(line)
    elif line.startswith("warning: "):
        feedback.pushWarning(line)
    elif line:
        feedback.pushInfo(line)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _error(said: Sequence[str], status: int) -> str:
    """The command's own error line."""
    own = [line for line in said if line.startswith("footprints: ")]
    last = [line for line in said if line]
    return (own or last or [f"footprints ended with status {status}"])[-1]
