# SPDX-License-Identifier: MIT
"""What a loaded model adds to every call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localai_diffusers.wire.options import Options


@dataclass(frozen=True)
class ModelDefaults:
    """What the loaded model adds to every call: its options by argument name (``options``), those of the table
    (``said``), guidance, and how it makes noise."""

    options: Mapping[str, Any] = field(default_factory=dict)
    guidance: float | None = None
    distilled: bool = False
    clip_skip: int = 0
    use_clip_skip: bool = True
    chunk_size: int = 8
    generator_device: str = "cpu"
    said: Options = field(default_factory=Options)
