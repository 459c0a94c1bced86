# SPDX-License-Identifier: MIT
"""Options that switch something on in a loaded pipeline: a function each, found by the option's name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from localai_diffusers.discovery.words import DENOISERS
from localai_diffusers.errors import LoadError
from localai_diffusers.pipeline import quirks
from localai_diffusers.wire.options import OPTIONS, Options

SWITCHES: dict[str, Callable[[Any, Any], None]] = {}


def switch(function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Enter ``function(pipeline, value)`` under its own name, which is the option's."""
    SWITCHES[function.__name__] = function
    return function


def switch_on(pipeline: Any, options: Options) -> list[str]:
    """Apply the switches that ``options`` say; a note for each that this pipeline does not support.

    Raises LoadError for a value that diffusers refuses.
    """
    notes = []
    if any(numbers.tiling for numbers in quirks.numbers_of(quirks.subject_of(pipeline)).values()):
        pipeline.vae.enable_tiling()
    for name, function in SWITCHES.items():
        value = getattr(options, name)
        if value == OPTIONS[name].default:
            continue
        try:
            function(pipeline, value)
        except (AttributeError, NotImplementedError) as error:
            notes.append(f"option {name} is not supported by {type(pipeline).__name__} ({error}) and is ignored")
        except ValueError as error:
            raise LoadError(f"option {name}:{value} is refused: {error}") from None
    return notes


def keep_compiled(model_path: str) -> None:
    """Let what inductor compiles lie in the cache of the models' folder, where the next process finds it: by default it
    goes with the machine's temporary files. TORCHINDUCTOR_CACHE_DIR from outside is left alone."""
    if model_path and os.access(model_path, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(model_path, ".cache", "torchinductor"))


def denoisers(pipeline: Any) -> list[Any]:
    """The models that denoise, of which a pipeline may have several."""
    return [module for name in DENOISERS if (module := getattr(pipeline, name, None)) is not None]


def _with_channels_last(model: Any) -> None:
    """Not ``model.to(memory_format=)``, which refuses a model with convolutions over time (Wan's)."""
    import torch

    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.to(memory_format=formats[parameter.dim()])


@switch
def vae_tiling(pipeline: Any, value: bool) -> None:
    if value:
        pipeline.vae.enable_tiling()
    else:
        pipeline.vae.disable_tiling()


@switch
def vae_slicing(pipeline: Any, _value: bool) -> None:
    pipeline.vae.enable_slicing()


def _check_replaceable(models: Iterable[Any], kind: str) -> None:
    """Raise NotImplementedError for attention that is computed by another processor than diffusers would replace with
    one of ``kind`` ("Sliced", "Fused"): an IP-Adapter's, or a model's own, is lost, or fails in every request."""
    from diffusers.models import attention_processor

    layers = [part for model in models for part in model.modules() if isinstance(part, attention_processor.Attention)]
    for name in sorted({type(layer.processor).__name__ for layer in layers}):
        if not any(hasattr(attention_processor, kind + twin) for twin in (name, name.removesuffix("2_0"))):
            raise NotImplementedError(f"its attention is computed by {name}, which would be lost")


@switch
def attention_slicing(pipeline: Any, _value: bool) -> None:
    models = [model for model in pipeline.components.values() if hasattr(model, "set_attention_slice")]
    if not models:
        raise NotImplementedError("none of its models computes attention in slices")
    _check_replaceable(models, "Sliced")
    pipeline.enable_attention_slicing()


@switch
def attention_backend(pipeline: Any, value: str) -> None:
    for denoiser in denoisers(pipeline):
        denoiser.set_attention_backend(value)


@switch
def channels_last(pipeline: Any, _value: bool) -> None:
    for denoiser in denoisers(pipeline):
        _with_channels_last(denoiser)


@switch
def vae_channels_last(pipeline: Any, _value: bool) -> None:
    _with_channels_last(pipeline.vae)


@switch
def fuse_qkv(pipeline: Any, _value: bool) -> None:
    """diffusers joins the layers' own weights, and a LoRA beside them would be lost without a word."""
    if any(getattr(denoiser, "peft_config", None) for denoiser in denoisers(pipeline)):
        raise NotImplementedError("its attention carries a LoRA")
    models = denoisers(pipeline)
    _check_replaceable(models, "Fused")
    if any(_reads_itself(model) for model in models):
        raise NotImplementedError("its attention to a text is given none, and reads what it asks with")
    owners = [pipeline] if hasattr(pipeline, "fuse_qkv_projections") else models  # newer ones leave it to their models
    for owner in owners:
        try:
            owner.fuse_qkv_projections()
        except ValueError as error:
            raise NotImplementedError(error) from None
    if not any(getattr(layer, "fused_projections", False) for model in models for layer in model.modules()):
        raise NotImplementedError("none of its attention layers can be fused")


def _reads_itself(model: Any) -> bool:
    """Whether the layers that attend to a text have a width of their own in each block: a text has one (AudioLDM)."""
    widths = getattr(getattr(model, "config", None), "cross_attention_dim", None)
    return isinstance(widths, (list, tuple)) and len(set(widths)) > 1


@switch
def layerwise_casting(pipeline: Any, value: str) -> None:
    """Without the projection of a picture, which brings what it reads to the dtype that its weights lie in."""
    import torch
    from diffusers.models.embeddings import ImageProjection

    storage = {"fp8": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[value]
    for denoiser in denoisers(pipeline):
        denoiser.enable_layerwise_casting(
            storage_dtype=storage, compute_dtype=denoiser.dtype, skip_modules_classes=(ImageProjection,)
        )


@switch
def compile(pipeline: Any, value: Mapping[str, Any]) -> None:
    """The blocks that a model repeats, so that one graph serves all; the whole where it names none."""
    for denoiser in denoisers(pipeline):
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks(**value)
        else:
            denoiser.compile(**value)
