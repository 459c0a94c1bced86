# SPDX-License-Identifier: MIT
"""The sampling rate and the frame rate of what a pipeline makes, which no output of diffusers carries."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

# The last stage that touches the waveform tells its rate: LTX2's audio VAE says 16000, its vocoder puts out
# 24000.
_RATE_COMPONENTS = ("vocoder", "audio_vae", "sound", "audio", "melgan", "vae", "")
_RATE_KEYS = (
    "output_sampling_rate",
    "sampling_rate",
    "audio_sampling_rate",
    "sample_rate",
    "audio_sample_rate",
)
_FRAME_RATE_KEYS = ("fps", "frame_rate", "frames_per_second", "target_fps", "video_fps", "base_fps")


def sampling_rate_of(pipeline: Any) -> int | None:
    """The rate, in Hz, of the sound that ``pipeline`` makes, from its components' configs; None if none
    tells.
    """
    components = getattr(pipeline, "components", None) or {}
    for part in _RATE_COMPONENTS:
        for name, component in components.items():
            rate = _configured(component, _RATE_KEYS) if part in name else None
            if rate:
                return int(rate)
    own = (getattr(pipeline, key, None) for key in ("audio_sampling_rate", "audio_sample_rate", *_RATE_KEYS))
    return next((int(value) for value in own if value is not None and is_rate(value)), None)


def frame_rate_of(pipeline: Any) -> float | None:
    """Frames a second of ``pipeline``'s videos: its call's own default, else a component's config, else what
    the example of its class saves at; else None.
    """
    try:
        parameters = dict(inspect.signature(pipeline).parameters)
    except (TypeError, ValueError):  # not callable, or no signature to read
        parameters = {}
    for key in _FRAME_RATE_KEYS:
        if key in parameters and is_rate(parameters[key].default):
            return float(parameters[key].default)
    components = (getattr(pipeline, "components", None) or {}).values()
    rates = (_configured(component, _FRAME_RATE_KEYS) for component in components)
    return next((float(rate) for rate in rates if rate), None) or _rate_of_example(pipeline)


def _rate_of_example(pipeline: Any) -> float | None:
    """The rate that the example in the call's documentation saves its video at: no config has Wan's 16."""
    found = re.findall(
        r"export_to_\w+\([^\n]*?fps\s*=\s*(\d+)", getattr(type(pipeline).__call__, "__doc__", None) or ""
    )
    return float(found[-1]) if found else None


def _configured(component: Any, keys: Sequence[str]) -> float | None:
    """The first of ``keys`` that the component's config (a mapping or an object) sets to a rate."""
    config = getattr(component, "config", None)
    for key in keys if config is not None else ():
        value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
        if is_rate(value):
            return value
    return None


def is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
