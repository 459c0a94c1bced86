# SPDX-License-Identifier: MIT
"""Keywords of a pipeline's ``from_pretrained`` or ``from_single_file``, on those that every reader of weights gets."""

from __future__ import annotations

from typing import Any

from localai_diffusers import paths
from localai_diffusers.checkpoint.artifacts import said, weight_keywords
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.loading import components, pipeline_class
from localai_diffusers.loading.files import custom_code, single_file
from localai_diffusers.loading.placing import quantizers
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.pipeline import quirks
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec


def of_pipeline(
    spec: LoadSpec, facts: ModelFacts, cls: type, where: DevicePlan, variant: str | None, settings: Settings
) -> dict[str, Any]:
    """For the pipeline of ``facts``, a folder or a single file."""
    options, is_folder = spec.options, facts.path.is_dir()
    offload = options.offload_folder
    shared = said(
        revision=options.revision or None,
        local_files_only=options.local_files_only or None,
        max_memory=options.max_memory or None,
        offload_folder=str(paths.destination(offload, spec.model_path, "option offload_folder")) if offload else None,
    )
    own = _of_folder(spec, facts, cls, where, variant, settings) if is_folder else _of_file(spec, cls, where, settings)
    return shared | own | absent(spec, facts, cls)


def absent(spec: LoadSpec, facts: ModelFacts, cls: type) -> dict[str, Any]:
    """Components that are not loaded, as None: those that the model's index leaves out, and the safety checker."""
    return {**dict.fromkeys(pipeline_class.declared_absent(cls, facts)), **_without_safety_checker(spec, cls)}


def _of_folder(
    spec: LoadSpec, facts: ModelFacts, cls: type, where: DevicePlan, variant: str | None, settings: Settings
) -> dict[str, Any]:
    return weight_keywords(spec, settings, cls, where.torch_dtype(), variant) | said(
        quantization_config=_quantization(where, facts),
        trust_remote_code=spec.trust_remote_code,
        custom_pipeline=custom_code.place_of(spec) or None,
        device_map=where.device_map,
    )


def _quantization(where: DevicePlan, facts: ModelFacts) -> Any:
    """diffusers' config of a whole pipeline, which takes one for each component; None where none is quantized."""
    from diffusers import PipelineQuantizationConfig

    configs: dict[str, Any] = {}
    for name, word in where.quantized.items():
        kind, dtype = components.component_class(*facts.components[name]), where.torch_dtype_of(name)
        configs |= {name: quantizers.keywords(word, kind or object, dtype)["quantization_config"]}
    return PipelineQuantizationConfig(quant_mapping=configs) if configs else None


def _of_file(spec: LoadSpec, cls: type, where: DevicePlan, settings: Settings) -> dict[str, Any]:
    """A single file is read in one dtype, and has neither variants nor pickles beside it."""
    dtype, options = where.torch_dtype(), spec.options
    read = weight_keywords(spec, settings, cls, dtype["default"] if isinstance(dtype, dict) else dtype)
    read.pop("use_safetensors", None)
    config = paths.resolve(options.config, spec.model_path, "option config") if options.config else None
    original = single_file.original_config(spec) if options.original_config else None
    return read | said(config=config, original_config=original)


def _without_safety_checker(spec: LoadSpec, cls: type) -> dict[str, Any]:
    """The checker is not loaded unless ``options: safety_checker:true`` asks for it: the incumbent switches it off too,
    but loads its 1.2 GB first."""
    asked = spec.options.safety_checker
    if asked or not hasattr(cls, "_get_signature_keys"):
        return {}
    expected, optional = cls._get_signature_keys(cls)
    if asked is False and (guards := quirks.effects_of(quirks.GUARDS, quirks.Subject(cls))):
        return dict(guards[0])
    switches = {"safety_checker": None} if "safety_checker" in expected else {}
    return switches | ({"requires_safety_checker": False} if "requires_safety_checker" in optional else {})
