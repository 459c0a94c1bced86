# SPDX-License-Identifier: MIT
"""What the system says of a process (Linux): processor time, memory, and its highest mark."""

from __future__ import annotations

import contextlib
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Processor time that the living threads have had, to the nanosecond."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


def resident(pid: int) -> int:
    """Bytes in memory now."""
    return _bytes_of(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most bytes in memory since the start or :func:`forget_peak`."""
    return _bytes_of(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """The highest mark starts anew from what is in memory now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _bytes_of(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
