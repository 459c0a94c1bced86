# SPDX-License-Identifier: MIT
"""``env``: versions, devices and free memory, for a bug report."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

from localai_diffusers.cli.terminal import columns, say

_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "huggingface_hub",
    "safetensors",
    "grpcio",
    "protobuf",
    "pillow",
    "av",
    "numpy",
    "gguf",
    "compel",
    "sd_embed",
)


def add(commands: Any) -> None:
    parser = commands.add_parser("env", help="versions, devices and free memory, for a bug report")
    parser.set_defaults(run=run)


def run(_options: argparse.Namespace) -> int:
    say(columns([*_versions(), *_memory()]))
    return 0


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "system", platform.platform()
    for package in _PACKAGES:
        yield package, version_of(package)


def free_host_memory() -> int:
    """Bytes that a process may still have: on Linux what the kernel would give up too, elsewhere what lies idle."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(found) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory() -> Iterator[tuple[str, str]]:
    """The host and each accelerator that torch can use: its name, and what is free of how much."""
    import torch

    free, total = free_host_memory(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield "cpu", f"{os.cpu_count()} cores, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    for kind in ("cuda", "xpu"):
        module: Any = getattr(torch, kind, None)
        for index in range(module.device_count() if module is not None and module.is_available() else 0):
            free, total = module.mem_get_info(index)
            name = module.get_device_name(index)
            yield f"{kind}:{index}", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if torch.backends.mps.is_available():
        yield "mps", "shares the host's memory"
