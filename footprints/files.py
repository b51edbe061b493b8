"""Small files, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from footprints.errors import OutputError


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


def write_whole(path: Path, content: bytes, what: str) -> None:
    """Write a file beside its place and rename it; what was there stays until then.

    Args:
        path: File to write; an existing one is replaced.
        content: All of it.
        what: What it is, for the message.

    Raises:
        OutputError: It cannot be written; nothing is left of it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as err:
        beside.unlink(missing_ok=True)
        raise OutputError(f"cannot write {what} {path}: {err.strerror}") from err
