# SPDX-License-Identifier: MIT
"""The C library's heap while weights are exchanged for smaller ones, one by one."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Of glibc's malloc.h: blocks of at least this size are the system's own, and go back to it as soon as they are freed.
_MMAP_THRESHOLD = -3
# What glibc raises its threshold to by itself, block by block: freed weights then stay in the process as its holes.
_SMALL, _USUAL = 64 * 2**10, 32 * 2**20


@contextlib.contextmanager
def freed_at_once(wanted: bool = True) -> Iterator[None]:
    """Inside the block, a freed tensor is no longer the process's memory (with glibc; elsewhere nothing changes)."""
    libc = ctypes.CDLL(None) if wanted and sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _USUAL)
