"""How the C library hands out memory to a network on a CPU."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEPT_BYTES = 2**31 - 1
_STEP_BYTES = 2**26


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next layer; elsewhere this does nothing.

    A network allocates and frees tensors of tens of megabytes many times a second. glibc maps each
    from the kernel and gives it back at once, and the kernel clears every page anew. Settings made
    by environment variables (``MALLOC_*_``, ``GLIBC_TUNABLES``) are left as they are.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _STEP_BYTES)
