"""Files and folders that are whole or not there: made beside their place and then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from footprints.errors import OutputError

_MAKING = ".making"
"""Ending of the hidden folders that things are made in."""
_LOCK = "lock"


def check_name(path: object) -> None:
    """Refuse what cannot name an output.

    Raises:
        OutputError: It is neither a text nor a path.
    """
    if not isinstance(path, str | Path):
        raise OutputError(f"an output is named by a text or a path, got {path!r}")


def check_place(path: Path, what: str, *, overwrite: bool, plural: bool = False) -> None:
    """Find out before the work starts whether a file can be written.

    Args:
        path: File to write.
        what: What it is, for the messages.
        overwrite: Accept that it exists.
        plural: Whether ``what`` is several.

    Raises:
        OutputError: Its folder is missing or not writable, it is a folder itself, or it exists.
    """
    is_, exists, it = ("are", "exist", "them") if plural else ("is", "exists", "it")
    if not path.parent.is_dir():
        raise OutputError(f"folder of the {what} does not exist: {path.parent}; create it first")
    if path.is_dir():
        raise OutputError(f"{what} {is_} a folder: {path}; give the name of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{what} {exists}: {path}; replace {it} with --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"folder of the {what} is not writable: {path.parent}")


def make_folder(folder: Path, what: str) -> None:
    """Make a folder and those above it, if they are missing.

    Args:
        folder: Folder to make.
        what: What goes into it, for the message.

    Raises:
        OutputError: It cannot be made, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        reason = "a file has that name" if folder.is_file() else err.strerror
        raise OutputError(f"cannot make the folder of the {what}, {folder}: {reason}") from err


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Write a file beside its place and rename it; what was there stays until then.

    Args:
        path: File to write; an existing one is replaced.
        content: All of it.
        what: What it is, for the message.

    Raises:
        OutputError: It cannot be written; nothing is left of it.
    """
    try:
        with making_beside(path) as folder:
            unfinished = folder / path.name
            unfinished.write_bytes(content)
            unfinished.replace(path)
    except OSError as err:
        raise OutputError(f"cannot write {what} {path}: {err.strerror}") from err


@contextmanager
def making_beside(path: Path) -> Iterator[Path]:
    """A folder on the disk of a place, in which to make what is to be put there; gone afterwards.

    A process that is killed leaves its folder behind. The next one to make the same thing removes
    it: a lock, which the system lets go of when a process ends, tells whether it is still in use.

    Args:
        path: Place of the file or folder to make; its parent exists.

    Raises:
        OSError: The folder cannot be made.
    """
    folder = path.with_name(f".{path.name}{_MAKING}")
    _remove_left_behind(folder)
    try:
        folder.mkdir()
    except FileExistsError:
        # Another process is making the same; the last to end wins, as with any file.
        folder = Path(tempfile.mkdtemp(_MAKING, f".{path.name}-", path.parent))
    try:
        unfinished, unlocked = folder / "new", folder / "unlocked"
        unfinished.mkdir()
        with unlocked.open("wb") as lock:
            # Some network drives have no locks; there, nobody takes what is in use for left.
            with suppress(OSError):
                lock_file(lock)
                # Only now, so that nobody finds a lock that is not held yet.
                unlocked.rename(folder / _LOCK)
            yield unfinished
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_folder(unfinished: Path, folder: Path) -> None:
    """Move what was made in `making_beside` to its place; a folder that is there goes."""
    if folder.exists():
        folder.rename(unfinished.with_name("old"))
    unfinished.rename(folder)


def lock_file(file: IO[bytes]) -> bool:
    """Whether the file is ours now; the system lets go of it when the process ends, however."""
    if os.name != "posix":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_left_behind(folder: Path) -> None:
    if os.name != "posix":
        return
    # Not there, or gone already, or somebody else's.
    with suppress(OSError), (folder / _LOCK).open("rb") as lock:
        # Who held the lock before may have begun anew under the same name.
        if lock_file(lock) and os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK).stat()):
            shutil.rmtree(folder)
