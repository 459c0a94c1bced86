# SPDX-License-Identifier: MIT
"""Gates inside a backend process, so that a test can hold it at a chosen moment.

Python imports this module by itself when its folder is on PYTHONPATH (see tests/gated.py); nothing of the
product knows of it. A gate is shut while the file ``hold-<phase>`` lies in the folder that TEST_GATES
names; who stands before it leaves the file ``at-<phase>`` and waits. Where ``crash-<phase>`` lies, the
process dies in native code instead, where ``lost-<phase>`` does, the accelerator is lost, and where
``fail-<phase>`` does, it raises. Where ``short-<phase>`` lies, memory is short for more samples at once than
the number in it: torch's allocator fails. The file ``submitted`` has one byte for each job that the engine
has put into its queue.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

# Module -> (function or Class.method in it, phase). The function waits at the gate of its phase before it
# runs.
GATES: dict[str, tuple[tuple[str, str], ...]] = {
    "diffusers.pipelines.pipeline_loading_utils": (("load_sub_model", "load"),),
    "diffusers.models.unets.unet_2d_condition": (("UNet2DConditionModel.forward", "step"),),
    "localai_diffusers.media.images": (("save_image", "encode"),),
    "localai_diffusers.media.videos": (("frame_pixels", "frame"),),
    "localai_diffusers.wire.intake": (("Intake.picture_file", "read"), ("Intake.moving_picture_file", "read")),
    "localai_diffusers.media.payloads": (("write_payload", "write"),),
    "localai_diffusers.loading.pipelines": (("prepare", "prepare"),),
    "localai_diffusers.generation.generation": (("generate", "generate"),),
}
# Of every class in these modules that has a method of its own by this name, the name is the phase.
AUTOENCODERS, DECODE = "diffusers.models.autoencoders.", "decode"
ENGINE = "localai_diffusers.work.engine"
LONGEST_HOLD = 30.0


def gated(function: Callable, phase: str, folder: Path) -> Callable:
    """``function`` behind the gate of ``phase``."""
    hold, mark, crash = folder / f"hold-{phase}", folder / f"at-{phase}", folder / f"crash-{phase}"
    short, lost, fail = folder / f"short-{phase}", folder / f"lost-{phase}", folder / f"fail-{phase}"

    @functools.wraps(function)
    def waiting(*args: Any, **kwargs: Any) -> Any:
        if crash.exists():
            ctypes.string_at(0)  # native code that reads what is not there
        if lost.exists():
            raise lost_accelerator()
        if fail.exists():
            mark.touch()
            raise RuntimeError(f"the {phase} fails here, because a test wants it")
        if short.exists() and len(args[1]) > int(short.read_text()):
            args[1].new_empty(2**58)
        if hold.exists():
            mark.touch()
            until = time.monotonic() + LONGEST_HOLD
            while hold.exists() and time.monotonic() < until:
                time.sleep(0.01)
        return function(*args, **kwargs)

    return waiting


def lost_accelerator() -> BaseException:
    """What torch raises where a kernel's assertion failed."""
    import torch

    error = torch.AcceleratorError("CUDA error: device-side assert triggered")
    error.error_code = 710
    return error


def put_gates(module: ModuleType, folder: Path) -> None:
    """Put the gates of GATES into a freshly imported module."""
    for path, phase in GATES.get(module.__name__, ()):
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, module)
        setattr(owner, name, gated(getattr(owner, name), phase, folder))
    for owner in vars(module).values() if module.__name__.startswith(AUTOENCODERS) else ():
        if isinstance(owner, type) and owner.__module__ == module.__name__ and DECODE in vars(owner):
            setattr(owner, DECODE, gated(vars(owner)[DECODE], DECODE, folder))
    if module.__name__ == ENGINE:
        module.Engine.submit = counted(module.Engine.submit, folder / "submitted")  # type: ignore[attr-defined]


def counted(submit: Callable, count: Path) -> Callable:
    """``submit`` that tells of each job that has its place."""

    @functools.wraps(submit)
    def telling(*args: Any, **kwargs: Any) -> Any:
        job = submit(*args, **kwargs)
        with count.open("ab") as file:
            file.write(b".")
        return job

    return telling


class GateFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of GATES and the engine as Python would, and puts the gates in once they ran."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name not in GATES and name != ENGINE and not name.startswith(AUTOENCODERS):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                put_gates(module, self._folder)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("TEST_GATES"):
    sys.meta_path.insert(0, GateFinder(Path(os.environ["TEST_GATES"])))
