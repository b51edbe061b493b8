"""How the C library hands out memory to a network on a CPU."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEPT_BYTES = 2**31 - 1
_STEP_BYTES = 2**26


def share_heap() -> None:
    """Let all threads that glibc has not given a heap yet share one; elsewhere this does nothing.

    Each heap keeps what its threads free, and nobody else gets it: with one for each, two lanes of
    a network held 0.8 GB more than they needed. Libraries start threads when they are loaded, so
    this is for before.
    """
    _set(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next layer; elsewhere this does nothing.

    A network allocates and frees tensors of tens of megabytes many times a second. glibc maps each
    from the kernel and gives it back at once, and the kernel clears every page anew.
    """
    share_heap()
    _set(_M_MMAP_MAX, 0)
    _set(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    _set(_M_TOP_PAD, _STEP_BYTES)


def _set(name: int, value: int) -> None:
    """Settings that the user made by environment variables are left as they are."""
    if any(key.startswith("MALLOC_") or key == "GLIBC_TUNABLES" for key in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(name, value)
