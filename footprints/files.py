"""Small files, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from footprints.errors import OutputError


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
