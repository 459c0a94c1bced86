# SPDX-License-Identifier: MIT
"""Stands in for NVIDIA's guard, without which diffusers builds no Cosmos pipeline and whose models are gigabytes."""

from __future__ import annotations

from typing import Any

import torch


class CosmosSafetyChecker(torch.nn.Module):
    """The calls that the pipelines make of it; what says "unsafe" is refused."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return "unsafe" not in prompt

    def check_video_safety(self, frames: Any) -> Any:
        return frames
