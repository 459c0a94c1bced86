# SPDX-License-Identifier: MIT
"""Which components of a model ``quantization:`` means, checked before the earlier model is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.discovery.words import DENOISERS
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import components
from localai_diffusers.loading.files.skeletons import Skeletons, Unknown
from localai_diffusers.loading.placing import quantizers
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.wire.load_spec import LoadSpec
from localai_diffusers.wire.quantization import LARGE

_OPTION = "option quantization"
# Large is what denoises, and what has at least this part of the model's weights.
_LARGE_SHARE = 0.1
# Options that work on the numbers of the denoiser's weights.
_EXCLUDED = ("layerwise_casting", "fuse_qkv")


def chosen(
    spec: LoadSpec, facts: ModelFacts, model: Skeletons, absent: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Component -> word; a note on large ones that are quantized already. ``absent``: components that are not loaded.

    Raises LoadError for a component that is not there, has no linear layers, or is quantized already.
    """
    asked = spec.options.quantization
    if not asked:
        return {}, []
    if spec.options.low_cpu_mem_usage is False:
        raise LoadError(f"{_OPTION} reads weights one by one, which option low_cpu_mem_usage:false forbids")
    if not facts.components:
        raise LoadError(
            f"{_OPTION}: {facts.path} names no components, so diffusers reads it whole: options: config: (a folder of "
            "configs or a repo) or base_model: says what its parts are"
        )
    found = {name: word for name, word in asked.items() if name != LARGE}
    for name in found:
        _check(name, facts, model, absent)
    if LARGE not in asked:
        return found, []
    packed = [name for name in model if name not in found and model.is_quantized(name)]
    found = {name: asked[LARGE] for name in _large(facts, model, absent)} | found
    return found, [f"{_OPTION}: {name} is quantized already and stays as it is" for name in packed]


def check(facts: ModelFacts, where: DevicePlan, spec: LoadSpec) -> None:
    """Raise LoadError for what cannot be quantized where ``where`` says, and for an option that excludes it."""
    words = where.quantized
    classes = {name: kind for name in words if (kind := components.component_class(*facts.components[name]))}
    quantizers.check(words, classes, where.device, where.offload)
    for name in _EXCLUDED:
        if getattr(spec.options, name) and facts.denoiser in words:
            raise LoadError(
                f"{_OPTION} and option {name} exclude each other: {facts.denoiser} is quantized, and {name} works on "
                "the plain numbers of its weights: leave one out"
            )


def notes(pipeline: Any, where: DevicePlan) -> list[str]:
    """What of the quantized components kept its numbers. Raises LoadError for one that kept all."""
    said = []
    for name, word in where.quantized.items():
        layers = list(_linears(getattr(pipeline, name)))
        plain = sum(quantizers.is_plain(layer.weight) for layer in layers)
        if plain == len(layers):
            raise LoadError(f"{_OPTION}:{name}:{word}: none of its {plain} linear layers could be quantized")
        if plain:
            said.append(f"{_OPTION}:{name}:{word}: {plain} of {len(layers)} linear layers stay as they are")
    return said


def _linears(model: Any) -> Iterator[Any]:
    import torch

    return (module for module in model.modules() if isinstance(module, torch.nn.Linear))


# --- which ---------------------------------------------------------------------------------------------------------


def _large(facts: ModelFacts, model: Skeletons, absent: Mapping[str, Any]) -> list[str]:
    """Components that a word alone means. LoadError where there are none, or all are quantized already."""
    sizes = {name: sum(file.size for file in facts.files if file.component == name) for name in facts.components}
    least = _LARGE_SHARE * sum(sizes.values())
    main = [name for name in model if name in DENOISERS or sizes[name] >= least]
    large = [name for name in main if not _obstacle(name, facts, model, absent)]
    if not large:
        reasons = {f"{name} {reason}" for name in model if (reason := _obstacle(name, facts, model, absent))}
        raise LoadError(f"{_OPTION}: nothing of this model can be quantized ({'; '.join(sorted(reasons))})")
    return large


def _check(name: str, facts: ModelFacts, model: Skeletons, absent: Mapping[str, Any]) -> None:
    reason = _obstacle(name, facts, model, absent) if name in facts.components else "is no component of this model"
    if reason:
        can = [other for other in model if not _obstacle(other, facts, model, absent)]
        raise LoadError(f"{_OPTION}: {name} {reason}. What can be quantized: {', '.join(sorted(can)) or 'nothing'}")


def _obstacle(name: str, facts: ModelFacts, model: Skeletons, absent: Mapping[str, Any]) -> str:
    """Why a component cannot be quantized, "" where it can."""
    cls = components.component_class(*facts.components[name])
    if absent.get(name, name) is None:
        return "is not loaded"
    if name not in model or cls is None or not quantizers.library_of(cls):
        return "has no weights that diffusers or transformers would quantize"
    if "autoencoders" in cls.__module__:
        return "is an autoencoder: of convolutions, which no backend quantizes, and cast by the pipelines"
    if model.is_quantized(name):
        return "is quantized already"
    if model.is_consumed(name):
        return "is made into another model by the pipeline, of plain weights"
    return "" if _has_linears(name, model) else "has no linear layers"


def _has_linears(name: str, model: Skeletons) -> bool:
    try:
        return any(layer.kind == "linear" for layer in model[name].values())
    except Unknown:
        return True  # what it is made of is known when it is loaded, and asked then
