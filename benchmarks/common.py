# SPDX-License-Identifier: MIT
"""What the benchmarks share: the machine in words, a figure with its bar, the table, and the file that keeps both."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
RESULTS = HOME / "benchmarks" / "results"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "grpcio")


@dataclass(frozen=True)
class Figure:
    """One row: what was measured, the bar (``least`` or ``most``, either may be missing), and the value; None is "not
    measured", and ``note`` says why. ``cpu``: the same by processor time, which other work on the machine disturbs
    less."""

    name: str
    value: float | None
    unit: str = ""
    most: float | None = None
    least: float | None = None
    cpu: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none, or no figure."""
        if self.value is None or (self.most is None and self.least is None):
            return None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    @property
    def bar(self) -> str:
        signs = ((">=", self.least), ("<=", self.most))
        return " and ".join(f"{sign} {shown(value)} {self.unit}".strip() for sign, value in signs if value is not None)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "bar": self.bar, "met": self.met}


def shown(value: float | None) -> str:
    """Three digits that count."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def table(figures: list[Figure]) -> str:
    """Columns of text: figure, bar, measured, by processor time, whether it is met, and why where there is none."""
    words = {True: "yes", False: "NO", None: "-"}
    rows = [("figure", "bar", "measured", "by cpu", "met", "")]
    for row in figures:
        measured = f"{shown(row.value)} {row.unit}".strip() if row.value is not None else "not measured"
        rows.append((row.name, row.bar, measured, shown(row.cpu), words[row.met], row.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    """Processor, cores, load, versions and commit; no name of the host."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "accelerator": accelerator(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": commit(),
    }


def accelerator() -> str:
    """The card's name; empty without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def commit() -> str:
    """The checkout's commit, with a + where files differ from it; empty outside of git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+"],
            cwd=HOME,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def keep(name: str, content: dict[str, Any]) -> Path:
    """Write results/``name``.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
