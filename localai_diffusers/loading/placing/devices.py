# SPDX-License-Identifier: MIT
"""Which device a model runs on, and what torch knows of it."""

from __future__ import annotations

from collections.abc import Callable

import diffusers_dynamic_loader as loader
from localai_diffusers.errors import LoadError
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec


def choose_device(spec: LoadSpec, settings: Settings, least_bytes: Callable[[], float], notes: list[str]) -> str:
    """``options: device:``, else the environment, else what CUDA says, else the accelerator if it has ``least_bytes``
    free."""
    asked = spec.options.device or settings.device
    if asked:
        return checked_device(asked, spec.main_gpu)
    accelerator = _accelerator(settings)
    if spec.cuda:
        if accelerator == "cpu":
            raise LoadError(
                "CUDA is true (cuda: in the model's YAML) but this machine has no accelerator that torch can use "
                "(CUDA, ROCm, XPU or MPS): drop cuda: true, set options: device:cpu or LOCALAI_DIFFUSERS_DEVICE=cpu, "
                "or install the requirements of your accelerator"
            )
        return checked_device(accelerator, spec.main_gpu)
    if accelerator == "cpu":
        return "cpu"
    device = checked_device(accelerator, spec.main_gpu)
    needed, free = least_bytes(), free_memory(device)
    if free is None or needed <= free or spec.low_vram:
        return device
    notes.append(
        f"the weights need about {needed / 2**30:.1f} GiB with room to work and {device} has {free / 2**30:.1f} GiB "
        "free: this model runs on the CPU (cuda: true or low_vram: true would use the accelerator)"
    )
    return "cpu"


def _accelerator(settings: Settings) -> str:
    """The first accelerator that torch can use; XPU=1 prefers an Intel one where there is one."""
    import torch

    if settings.xpu and getattr(torch, "xpu", None) is not None and torch.xpu.is_available():
        return "xpu"
    return loader.pick_device()


def checked_device(name: str, main_gpu: int | None) -> str:
    """``name`` with MainGPU's index where it has none. LoadError if torch cannot use it here."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise LoadError(f"device {name!r} is unknown: use cpu, cuda, cuda:1, xpu or mps") from None
    if device.type == "cpu":
        return "cpu"
    module = torch.backends.mps if device.type == "mps" else getattr(torch, device.type, None)
    if module is None or not hasattr(module, "is_available") or not module.is_available():
        raise LoadError(
            f"device {name!r} is not available to torch on this machine: set options: device:cpu, or install the "
            "requirements of that accelerator"
        )
    if device.type == "mps":
        return "mps"
    index = device.index if device.index is not None else main_gpu or 0
    if index >= module.device_count():
        raise LoadError(
            f"device {device.type}:{index} (MainGPU or option device) does not exist: there are {module.device_count()}"
        )
    return f"{device.type}:{index}"


def free_memory(device: str) -> int | None:
    """Free bytes of an accelerator, None where torch cannot tell (MPS shares the host's memory)."""
    import torch

    module = getattr(torch, device.partition(":")[0], None)
    if module is None or not hasattr(module, "mem_get_info"):
        return None
    return module.mem_get_info(torch.device(device))[0]


def device_count(device: str) -> int:
    """How many accelerators of the kind of ``device`` there are; 0 for a CPU and where torch cannot tell."""
    import torch

    module = getattr(torch, device.partition(":")[0], None)
    return module.device_count() if device != "cpu" and module is not None and hasattr(module, "device_count") else 0
