# SPDX-License-Identifier: MIT
"""Width, height and frame counts that a model can make, from its components' configs."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from localai_diffusers.discovery.words import DENOISERS
from localai_diffusers.pipeline.kept import kept

_SPATIAL_FACTORS = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_spatial_scale_factor",
)
_TEMPORAL_FACTORS = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
# What the signatures call the number of frames.
FRAME_COUNTS = ("num_frames", "video_length", "frames")
# What they call the sides of the output (VisualCloze enlarges its answer to these).
OUTPUT_SIDES = (("width", "height"), ("upsampling_width", "upsampling_height"))
_TERM = r"(?:\d+|self\.[\w.]+)"
_CHECKED = re.compile(rf"\b(?:height|width) % \(?({_TERM}(?: \* {_TERM})*)[^:]*:\s+(?:#.*\s+)*raise ")
_PROCESSORS = ("image_processor", "video_processor", "vae_image_processor", "mask_processor")


def config_value(component: Any, name: str) -> Any:
    """``component.config.name``, None where there is no such component or entry."""
    return getattr(getattr(component, "config", None), name, None)


def size_multiple(pipeline: Any) -> int:
    """What width and height must be multiples of, in pixels.

    The VAE's factor times the denoiser's patch, what the pipeline's own image processor rounds to (Flux packs 2x2
    latents without saying so in a config; its processor knows), and what its code takes no other size than.
    """
    return math.lcm(*_multiples(pipeline), *_stated_multiples(pipeline), 1)


def _stated_multiples(pipeline: Any) -> Iterator[int]:
    """What the class's code refuses all but multiples of: "height % 32 != 0", "width % (self.patch_size * 2)"."""
    for terms in _checked_by(type(pipeline)):
        with contextlib.suppress(AttributeError, TypeError):  # of a component that this model does not have
            yield int(math.prod(int(term) if term.isdigit() else attrgetter(term)(pipeline) for term in terms))


@kept(64)
def _checked_by(cls: type) -> frozenset[tuple[str, ...]]:
    """The factors of each: numbers, and paths of the pipeline's attributes."""
    try:
        found = _CHECKED.findall(inspect.getsource(cls))
    except (OSError, TypeError):  # no source to read
        return frozenset()
    return frozenset(tuple(term.removeprefix("self.") for term in one.split(" * ")) for one in found)


def latent_cell(pipeline: Any) -> int:
    """The side in pixels of what one latent stands for, 1 in pixel space; a VAE that packs its latents into patches
    (FLUX.2's, whose config says (2, 2)) counts those."""
    factors = [factor for name in _SPATIAL_FACTORS if isinstance(factor := getattr(pipeline, name, None), int)]
    if blocks := config_value(getattr(pipeline, "movq", None), "block_out_channels"):  # Kandinsky's autoencoder
        factors.append(2 ** (len(blocks) - 1))
    patch = config_value(getattr(pipeline, "vae", None), "patch_size")
    return max(factors, default=1) * (patch[-1] if isinstance(patch, (tuple, list)) and patch else 1)


def enlargement(pipeline: Any) -> float:
    """What a model that upscales a video's latents multiplies its sides by: LTX-Video's doubles them, LTX-2's config
    says so or another ratio, and one that adds frames alone leaves them."""
    upsampler = getattr(pipeline, "latent_upsampler", None)
    scale = config_value(upsampler, "rational_spatial_scale") or 2.0
    return float(scale) if config_value(upsampler, "spatial_upsample") is not False else 1.0


def _multiples(pipeline: Any) -> Iterator[int]:
    adapted = getattr(
        getattr(pipeline, "adapter", None), "total_downscale_factor", None
    )  # T2I-Adapter unshuffles pixels
    if isinstance(adapted, int):
        yield adapted
    factors = [factor for name in _SPATIAL_FACTORS if isinstance(factor := getattr(pipeline, name, None), int)]
    patch = max((_patch(getattr(pipeline, name, None)) for name in DENOISERS), default=1)
    patch *= 2 if config_value(getattr(pipeline, "transformer", None), "downsample") is True else 1  # U-ViT (Amused)
    for factor in factors:
        yield factor * patch
    for name in _PROCESSORS:
        factor = config_value(getattr(pipeline, name, None), "vae_scale_factor")
        if isinstance(factor, int) and factor > 0:
            yield factor
    unet = getattr(pipeline, "unet", None)
    if getattr(pipeline, "vae", None) is None and not factors:
        yield _downsampling(unet)
    elif unet is not None and not _restores_odd_sides(type(unet)):
        yield max(factors, default=1) * _downsampling(unet)


def _patch(denoiser: Any) -> int:
    """Side of the denoiser's spatial patch; a video model's patch_size is (frames, height, width)."""
    patch = config_value(denoiser, "patch_size")
    if isinstance(patch, (tuple, list)) and patch:
        patch = patch[-1]
    return patch if isinstance(patch, int) and patch > 0 else 1


def _downsampling(unet: Any) -> int:
    """What a UNet in pixel space halves its sides by in all."""
    blocks = config_value(unet, "block_out_channels")
    return 2 ** (len(blocks) - 1) if blocks else 1


@kept(64)
def _restores_odd_sides(unet: type) -> bool:
    """Whether the UNet brings a side that it halved to an odd number back to what it was: those of diffusers that do
    tell their upsamplers a size, and to the others (ControlNet-XS, Kandinsky 3) only sides that stay even can be
    given."""
    try:
        return "upsample_size" in inspect.getsource(unet.forward)  # type: ignore[attr-defined]
    except (OSError, TypeError, AttributeError):  # no source to read
        return True


def round_size(width: float, height: float, multiple: int) -> tuple[int, int]:
    """Each side to the nearest multiple, at least one multiple."""
    return _nearest(width, multiple), _nearest(height, multiple)


def round_up(width: int, height: int, multiple: int) -> tuple[int, int]:
    """Each side to the next multiple that is no smaller."""
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple


def fit_into(size: tuple[int, int], bound: tuple[int | None, int | None], multiple: int) -> tuple[int, int] | None:
    """The largest size of the same aspect within the bound, each side to the nearest multiple; None without a bound."""
    ratios = [limit / side for limit, side in zip(bound, size, strict=True) if limit]
    if not ratios:
        return None
    width, height = (round(side * min(ratios)) for side in size)
    return round_size(width, height, multiple)


def fit_within(size: tuple[int, int], bound: tuple[int | None, int | None], multiple: int) -> tuple[int, int]:
    """``size`` shrunk to the bound with its aspect kept, each side to the nearest multiple; never enlarged."""
    width, height = size
    ratio = min([1.0, *(limit / side for limit, side in zip(bound, size, strict=True) if limit)])
    return round_size(round(width * ratio), round(height * ratio), multiple)


def _nearest(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


def frame_multiple(pipeline: Any) -> int | None:
    """The temporal factor f of a video VAE that takes f*n + 1 frames, None where the pipeline has none."""
    for name in _TEMPORAL_FACTORS:
        factor = getattr(pipeline, name, None)
        if isinstance(factor, int) and factor > 1:
            return factor
    return None


def causal_frames(frames: int, factor: int | None) -> int:
    """The number of frames nearest to ``frames`` that a causal video VAE of factor f takes; who asks for a video gets
    no still."""
    least = 1 if frames == 1 or factor is None else factor + 1
    return max(least, round_frames(frames, factor))


def round_frames(frames: int, factor: int | None) -> int:
    """The nearest f*n + 1 for a causal video VAE of factor f; ``frames`` itself without one."""
    return frames if factor is None else max(1, round((frames - 1) / factor) * factor + 1)
