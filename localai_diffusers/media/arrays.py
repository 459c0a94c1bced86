# SPDX-License-Identifier: MIT
"""Arrays and tensors of any layout and range as pixels, depth and waveforms; torch is never imported for
it.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from localai_diffusers.errors import GenerationFailed

logger = logging.getLogger(__name__)

BATCHED_AUDIO_FIELDS = frozenset({"audios", "waveforms"})
_CHANNELS = (1, 3, 4)


def to_numpy(value: Any) -> np.ndarray:
    """A numpy array, or a torch tensor of any device and dtype, as numpy: float16 and bfloat16 become
    float32.
    """
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).cpu().numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def channels_last(array: np.ndarray, channels_first: bool, video: bool) -> np.ndarray | None:
    """``array`` with its channels as the last axis and, for a video, frames before height; None if no axis
    fits.

    Layouts: (…, H, W, C) of np, (…, C, H, W) of pt, (…, C, F, H, W) of raw video tensors, and gray without C.
    """
    rank = array.ndim
    if rank == 2:
        return array[..., np.newaxis]
    outer = [axis for axis in ((rank - 3, rank - 4) if video else (rank - 3,)) if axis >= 0]
    axes = [*outer, rank - 1] if channels_first else [rank - 1, *outer]
    fitting = [axis for axis in axes if array.shape[axis] in _CHANNELS]
    if channels_first:  # a clip of one frame, (N, 3, 1, H, W): three is likelier to count colors than frames
        fitting.sort(key=lambda axis: array.shape[axis] != 3)
    if fitting:
        return np.moveaxis(array, fitting[0], -1)
    return array[..., np.newaxis] if rank == 3 or (rank == 4 and video) else None


def to_pixels(array: np.ndarray) -> np.ndarray:
    """``array`` as uint8, 0..255. Floats: 0..1 as diffusers' post-processing gives them, or -1..1 of raw
    tensors.

    NaN becomes black, with a warning; nothing but NaN is a failed generation (fp16 overflow as a rule).
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        return np.clip(array.astype(np.int64) * (255 if array.dtype.kind == "b" else 1), 0, 255).astype(np.uint8)
    array = without_nan(array, np.isfinite(array))
    if array.size and array.min() < -0.05:
        array = array * 0.5 + 0.5
    scale = 1.0 if array.size and array.max() > 2.0 else 255.0
    pixels = np.empty(array.shape, np.uint8)
    for index in range(len(array)):  # by frame: a float copy of a whole video would double the memory
        pixels[index] = np.clip(np.rint(array[index] * scale), 0, 255)
    return pixels


def without_nan(array: np.ndarray, finite: np.ndarray, floor: float | None = 0.0) -> np.ndarray:
    """``array`` with its least value (black) in place of what isn't ``finite``, 0 where that is a
    picture's.
    """
    if finite.all():
        return array
    if not finite.any():
        raise GenerationFailed(
            "the pipeline returned only NaN: its weights overflow in this dtype; "
            "load the model with options: torch_dtype:bf16 or torch_dtype:fp32"
        )
    logger.warning("the pipeline's output has %d NaN or infinite values; they are black now", int((~finite).sum()))
    least = array[finite].min()
    return np.where(finite, array, np.float32(floor if floor is not None and least >= -0.05 else least))


def waveforms(name: str, value: Any) -> list[np.ndarray]:
    """Every waveform in ``value`` as float32 (channels, n); layouts (B, C, n), (B, n), (C, n), (n, C), (n)."""
    if isinstance(value, (list, tuple)) and value:
        return [found for part in value for found in waveforms("sound", part)]
    array = to_numpy(value)
    is_batch = array.ndim == 3 or (array.ndim == 2 and name in BATCHED_AUDIO_FIELDS)
    return [_waveform(part) for part in (array if is_batch and len(array) else [array])]


def _waveform(array: np.ndarray) -> np.ndarray:
    """One waveform (C, n), (n, C) or (n) as float32 (channels, n)."""
    if array.dtype.kind in "iu":
        array = array / np.float32(np.iinfo(array.dtype).max)
    shape = array.shape
    array = np.atleast_2d(array)
    if array.ndim != 2 or not array.size:
        raise GenerationFailed(f"the pipeline returned a sound of shape {shape}, which isn't a waveform")
    if array.shape[1] <= 8 < array.shape[0]:
        array = array.T
    if array.shape[0] > 8:
        array = array[:1]
    if not np.isfinite(array).any():
        raise GenerationFailed("the pipeline returned only NaN: load the model with options: torch_dtype:fp32")
    return np.ascontiguousarray(np.nan_to_num(array, posinf=1.0, neginf=-1.0), dtype=np.float32)
