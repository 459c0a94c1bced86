# SPDX-License-Identifier: MIT
"""Where a pipeline computes and in what form: the plan of device, dtype and offload, and the plan carried out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.placing import (
    devices,
    encoder_offload,
    group_offload,
    memory_plan,
    precision,
    quantizers,
)
from localai_diffusers.loading.placing.memory_plan import Choice, Weights
from localai_diffusers.pipeline import quirks
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec


@dataclass(frozen=True)
class DevicePlan:
    """Where and how: ``device`` as torch names it, ``dtype`` by torch name, ``component_dtypes`` that differ from it,
    the words by which components are ``quantized``, whether the VAE decodes in tiles (``tiling``), what the YAML says
    of the offload by ``group``, and whether fp32 matrices are multiplied in TF32 (``tf32``)."""

    device: str
    dtype: str
    component_dtypes: Mapping[str, str] = field(default_factory=dict)
    offload: str = "none"
    device_map: str | None = None
    notes: tuple[str, ...] = ()
    quantized: Mapping[str, str] = field(default_factory=dict)
    tiling: bool = False
    group: Mapping[str, Any] = field(default_factory=dict)
    tf32: bool = False

    @property
    def kind(self) -> str:
        """The device's type: cpu, cuda, xpu or mps."""
        return self.device.partition(":")[0]

    def torch_dtype_of(self, component: str) -> Any:
        """The torch dtype of one component."""
        import torch

        return getattr(torch, self.component_dtypes.get(component, self.dtype))

    def torch_dtype(self) -> Any:
        """For from_pretrained: one torch dtype, or a dict by component where some differ."""
        import torch

        default = getattr(torch, self.dtype)
        if not self.component_dtypes:
            return default
        return {"default": default} | {name: getattr(torch, dtype) for name, dtype in self.component_dtypes.items()}


# Ways to offload that a model may take where nothing says otherwise.
ALL_WAYS = frozenset(memory_plan.LADDER)


def plan(
    spec: LoadSpec,
    facts: ModelFacts,
    settings: Settings,
    quantized: Mapping[str, str] | None = None,
    ways: frozenset[str] = ALL_WAYS,
) -> DevicePlan:
    """The device, dtype and offload of this load, with components ``quantized`` by these words.

    ``ways``: those to offload that the pipeline can take, of which one is chosen where the YAML names none. Raises
    LoadError naming the option or field for a device that is not there, an unknown dtype or offload mode.
    """
    notes: list[str] = []
    words = quantized or {}
    fit = _Fit(spec, facts, settings, words, ways)
    device = devices.choose_device(spec, settings, fit.least_bytes, notes)
    _check_names(spec)
    chosen = fit.choice(device)
    notes += [chosen.why] if chosen.why else []
    dtype = precision.half_dtype(facts) if chosen.halved else precision.choose_dtype(spec, facts, device, settings)
    differing = {
        name: numbers.dtype
        for name, numbers in precision.numbers_of(facts).items()
        if numbers.dtype and numbers.dtype != dtype and not spec.dtype
    }
    offload = _offload(spec, device, fit, notes) or chosen.offload
    device_map = _device_map(spec, device, notes)
    mode = "none" if device_map else offload
    tiling = chosen.tiling and spec.options.vae_tiling is None
    group = group_offload.checked(spec.options.group_offload or {}, spec.model_path)
    tf32 = _tf32(spec, device, notes)
    return DevicePlan(device, dtype, differing, mode, device_map, tuple(notes), words, tiling, group, tf32)


def ways_of(cls: type, denoiser: type | None = None) -> frozenset[str]:
    """The ways to offload that a pipeline class can take: whole components wait where it says in which order they
    work, or brings a method of its own for it; layers where its denoiser's can."""
    is_told = bool(getattr(cls, "model_cpu_offload_seq", None))
    can = {
        "none": True,
        "text_encoders": is_told,
        "model": is_told or _offloads_itself(cls),
        "group": group_offload.can_wait(denoiser),
    }
    return frozenset(way for way in ALL_WAYS if can[way])


def _offloads_itself(cls: type) -> bool:
    """Whether the class has a method of its own, which takes the device (MusicLDM's takes a number of CUDA's alone)."""
    method = getattr(cls, "enable_model_cpu_offload", None)
    is_own = getattr(method, "__module__", "").rpartition(".")[2] not in ("", "pipeline_utils")
    return is_own and "device" in inspect.signature(method).parameters  # type: ignore[arg-type]


def check_way(offload: str, cls: type, denoiser: type | None) -> None:
    """Raise LoadError for a way to offload that the pipeline class, or what denoises in it, cannot take."""
    ways = ways_of(cls, denoiser) | {"sequential"}
    if offload in ways:
        return
    others = f"use offload:{' or offload:'.join(sorted(ways - {'none'}))}"
    if offload == "group":
        layers = f"the layers of a {getattr(denoiser, '__name__', denoiser)}"
        raise LoadError(f"offload:group: {layers} cannot wait by themselves: {others}")
    raise LoadError(f"offload:{offload}: {cls.__name__} does not say in which order its components work: {others}")


@dataclass(frozen=True)
class _Fit:
    """How a model's weights fit into a device."""

    spec: LoadSpec
    facts: ModelFacts
    settings: Settings
    quantized: Mapping[str, str]
    pipeline_ways: frozenset[str]

    @property
    def is_open(self) -> bool:
        """Whether the way to offload is ours to choose."""
        spec, options = self.spec, self.spec.options
        said = options.offload or options.text_encoder_offload or options.device_map or options.parallel
        by_group = options.group_offload is not None
        return precision.is_automatic(spec, self.settings) and not (said or by_group or spec.low_vram or spec.gpus > 1)

    @property
    def ways(self) -> frozenset[str]:
        if self.settings.disable_cpu_offload:
            return frozenset({"none"})
        known = [quantizers.SCHEMES[word].backend.offloads for word in self.quantized.values()]
        # A graph of a block does not know that the block's layers wait elsewhere.
        compiled = [ALL_WAYS - {"group"}] if self.spec.options.compile is not None else []
        return self.pipeline_ways.intersection(*known, *compiled)

    def weights(self, dtype: str) -> Weights:
        parts = self.facts.components.items()
        encoders = frozenset(name for name, kind in parts if encoder_offload.is_text_encoder(name, kind))
        return Weights(precision.component_bytes(self.facts, self.spec, dtype, self.quantized), encoders)

    def least_bytes(self) -> float:
        """What an accelerator must have free for this model to run there, with room for what it computes."""
        stored = precision.stored_dtype(self.facts)
        dtype = precision.DTYPES.get(self.spec.dtype) or ("float16" if self.spec.f16 or self._can_halve else stored)
        weights = self.weights(dtype)
        ways = self.ways if self.is_open else {"none"}
        return min(memory_plan.LADDER[way](weights) for way in ways)

    @property
    def _can_halve(self) -> bool:
        return (
            self.is_open
            and not self.spec.dtype
            and not self.spec.f16
            and precision.stored_dtype(self.facts) == "float32"
        )

    def choice(self, device: str) -> Choice:
        """What the sizes decide on ``device``: nothing on a CPU, and where the YAML said it."""
        free = devices.free_memory(device) if self.is_open and device != "cpu" else None
        if free is None:
            return Choice()
        weights = self.weights(precision.choose_dtype(self.spec, self.facts, device, self.settings))
        return memory_plan.choose(weights, free, device, self.ways, self._can_halve)


def _check_names(spec: LoadSpec) -> None:
    """Raise LoadError for a generator's device that is not there and an attention backend that diffusers does not
    have."""
    asked, backend = spec.options.generator_device, spec.options.attention_backend
    if asked:
        try:
            devices.checked_device(asked, spec.main_gpu)
        except LoadError as error:
            raise LoadError(f"option generator_device: {error}") from None
    if backend:
        from diffusers.models.attention_dispatch import AttentionBackendName

        names = sorted(known.value for known in AttentionBackendName)
        if backend not in names:
            raise LoadError(f"option attention_backend:{backend} is unknown: use one of {', '.join(names)}")


def as_the_code_casts(where: DevicePlan, cls: type, facts: ModelFacts) -> DevicePlan:
    """The plan with the components' dtypes that the pipeline's own code can work with."""
    subject = precision.subject_of(facts, cls)
    dtypes: Mapping[str, str] = where.component_dtypes
    for amended in quirks.effects_of(quirks.CASTS, subject):
        dtypes = amended(dtypes, subject)
    return replace(where, component_dtypes=dtypes)


# --- offload and several GPUs ------------------------------------------------------------------------------------


def _offload(spec: LoadSpec, device: str, fit: _Fit, notes: list[str]) -> str:
    """What the YAML says of it, "" where it says nothing."""
    options = spec.options
    if options.text_encoder_offload:
        _check_encoders(spec, fit)
    if options.group_offload is not None and options.offload not in ("", "group"):
        raise LoadError(f"option group_offload and offload:{options.offload} exclude each other: leave one out")
    said, mode = _said(spec)
    if mode not in ("", "none") and device == "cpu":
        notes.append(f"option {said} has nothing to do on a CPU and is ignored")
        return "none"
    if mode or not spec.low_vram:
        return mode
    if device == "cpu" or fit.settings.disable_cpu_offload:
        return "none"
    if not precision.is_automatic(spec, fit.settings):
        return "model"
    return memory_plan.sparing(fit.weights(precision.choose_dtype(spec, fit.facts, device, fit.settings)), fit.ways)


def _said(spec: LoadSpec) -> tuple[str, str]:
    """The option that says how to offload, and the way; "" where none does."""
    options = spec.options
    if options.group_offload is not None:
        return "group_offload", "group"
    if options.text_encoder_offload:
        return "text_encoder_offload", "text_encoders"
    return f"offload:{options.offload}", options.offload


def _check_encoders(spec: LoadSpec, fit: _Fit) -> None:
    """Raise LoadError where text encoders cannot wait on the host by themselves."""
    option, more = "option text_encoder_offload", spec.options.offload or ("low_vram" if spec.low_vram else "")
    more = more or ("group_offload" if spec.options.group_offload is not None else "")
    if more not in ("", "none"):
        raise LoadError(f"{option} is part of what {more} does: leave it out")
    if spec.options.device_map or spec.gpus > 1:
        raise LoadError(f"{option} and several GPUs exclude each other: leave it out")
    if not fit.weights("float32").encoders or "text_encoders" not in fit.pipeline_ways:
        raise LoadError(f"{option}: this model has no text encoder that could wait by itself: leave the option out")


def _device_map(spec: LoadSpec, device: str, notes: list[str]) -> str | None:
    """ "balanced" over several GPUs, where asked for and where there are several; diffusers takes no other spread."""
    if not (spec.options.device_map or spec.gpus > 1):
        return None
    count = devices.device_count(device)
    if count < 2:
        notes.append(
            f"several GPUs are asked for (TensorParallelSize or device_map) and there are {count}: {device} is used"
        )
        return None
    return "balanced"


def _tf32(spec: LoadSpec, device: str, notes: list[str]) -> bool:
    if spec.options.tf32 and not device.startswith("cuda"):
        notes.append(f"option tf32 has nothing to do on {device}: NVIDIA GPUs have it; it is ignored")
        return False
    return spec.options.tf32


# --- applying the plan -------------------------------------------------------------------------------------------


def place(pipeline: Any, where: DevicePlan) -> list[str]:
    """Move the pipeline to its device, or set its offload up; notes on what of it cannot be done. Nothing may call
    ``.to()`` after an offload."""
    if where.tf32:
        import torch

        torch.set_float32_matmul_precision("high")
    if where.device_map:
        return []
    if where.tiling and hasattr(getattr(pipeline, "vae", None), "enable_tiling"):
        pipeline.vae.enable_tiling()
    if where.offload == "none":
        if where.device != "cpu":  # where all has been read to
            pipeline.to(where.device)
    elif where.offload == "text_encoders":
        pipeline.to(where.device)
        encoder_offload.put_on(pipeline, where.device)
    elif where.offload == "model":
        pipeline.enable_model_cpu_offload(device=where.device)
    elif where.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=where.device)
    else:
        return group_offload.put_on(pipeline, where.device, where.group)
    return []
