"""How glibc keeps the memory of this process; another C library goes without."""

from __future__ import annotations

import ctypes
from typing import Final

LARGE_BYTES: Final = 1 << 17
"""Blocks from this size on glibc gives back to the system when they are freed, unless told otherwise."""

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""Options of mallopt(3)."""


def keep() -> None:
    """Have glibc keep freed memory for the next round: else each large frame or matrix is page-faulted in anew.

    A third of the processor time of an exchange at p = 1e6 goes there otherwise; a fifth of that of a round where J is
    a few megabytes.
    """
    _call("mallopt", M_MMAP_THRESHOLD, 32 << 20)  # the largest that it takes
    _call("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)


def trim() -> None:
    """Give back to the system what is free: processes that are forked now do not share it."""
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    try:
        found = getattr(ctypes.CDLL(None), function)
    except (AttributeError, OSError, TypeError):
        return
    found(*arguments)
