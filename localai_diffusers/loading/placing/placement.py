# SPDX-License-Identifier: MIT
"""Where a pipeline computes and in what form: device, dtype, offload, and the switches that trade memory for speed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.placing import encoder_offload, memory_plan, quantizers
from localai_diffusers.loading.placing.memory_plan import Choice, Weights
from localai_diffusers.pipeline import quirks
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

DTYPES: Mapping[str, str] = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "float16": "float16",
    "half": "float16",
    "fp32": "float32",
    "f32": "float32",
    "float32": "float32",
    "float": "float32",
}
# The safetensors dtype of stored weights -> the dtype that they compute in. 8-bit floats are storage only.
_STORED: Mapping[str, str] = {
    "F64": "float32",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "bfloat16",
    "F8_E5M2": "bfloat16",
}
_ITEM_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
}


@dataclass(frozen=True)
class DevicePlan:
    """Where and how: ``device`` as torch names it, ``dtype`` by torch name, ``component_dtypes`` that differ from it,
    the words by which components are ``quantized``, whether the VAE decodes in tiles (``tiling``), and what the YAML
    says of the offload by ``group``."""

    device: str
    dtype: str
    component_dtypes: Mapping[str, str] = field(default_factory=dict)
    offload: str = "none"
    device_map: str | None = None
    notes: tuple[str, ...] = ()
    quantized: Mapping[str, str] = field(default_factory=dict)
    tiling: bool = False
    group: Mapping[str, Any] = field(default_factory=dict)

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
    device = choose_device(spec, settings, fit.least_bytes, notes)
    _check_names(spec)
    chosen = fit.choice(device)
    notes += [chosen.why] if chosen.why else []
    dtype = _half_dtype(facts) if chosen.halved else choose_dtype(spec, facts, device, settings)
    differing = {
        name: numbers.dtype
        for name, numbers in _numbers(facts).items()
        if numbers.dtype and numbers.dtype != dtype and not spec.dtype
    }
    offload = _offload(spec, device, fit, notes) or chosen.offload
    device_map = _device_map(spec, device, notes)
    mode = "none" if device_map else offload
    tiling = chosen.tiling and spec.options.vae_tiling is None
    group = spec.options.group_offload or {}
    return DevicePlan(device, dtype, differing, mode, device_map, tuple(notes), words, tiling, group)


def ways_of(cls: type) -> frozenset[str]:
    """The ways to offload that a pipeline class can take: whole components wait where it says in which order they
    work."""
    in_order = getattr(cls, "model_cpu_offload_seq", None)
    return ALL_WAYS if in_order else ALL_WAYS - {"model", "text_encoders"}


def is_automatic(spec: LoadSpec, settings: Settings) -> bool:
    """Whether what the YAML leaves open follows from the model's size and this machine."""
    return settings.auto if spec.options.auto is None else spec.options.auto


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
        return is_automatic(spec, self.settings) and not (said or by_group or spec.low_vram or spec.gpus > 1)

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
        return Weights(component_bytes(self.facts, self.spec, dtype, self.quantized), encoders)

    def least_bytes(self) -> float:
        """What an accelerator must have free for this model to run there, with room for what it computes."""
        stored = stored_dtype(self.facts)
        dtype = DTYPES.get(self.spec.dtype) or ("float16" if self.spec.f16 or self._can_halve else stored)
        weights = self.weights(dtype)
        ways = self.ways if self.is_open else {"none"}
        return min(memory_plan.LADDER[way](weights) for way in ways)

    @property
    def _can_halve(self) -> bool:
        return self.is_open and not self.spec.dtype and not self.spec.f16 and stored_dtype(self.facts) == "float32"

    def choice(self, device: str) -> Choice:
        """What the sizes decide on ``device``: nothing on a CPU, and where the YAML said it."""
        free = free_memory(device) if self.is_open and device != "cpu" else None
        if free is None:
            return Choice()
        weights = self.weights(choose_dtype(self.spec, self.facts, device, self.settings))
        return memory_plan.choose(weights, free, device, self.ways, self._can_halve)


def _check_names(spec: LoadSpec) -> None:
    """Raise LoadError for a generator's device that is not there and an attention backend that diffusers does not
    have."""
    asked, backend = spec.options.generator_device, spec.options.attention_backend
    if asked:
        try:
            _checked_device(asked, spec.main_gpu)
        except LoadError as error:
            raise LoadError(f"option generator_device: {error}") from None
    if backend:
        from diffusers.models.attention_dispatch import AttentionBackendName

        names = sorted(known.value for known in AttentionBackendName)
        if backend not in names:
            raise LoadError(f"option attention_backend:{backend} is unknown: use one of {', '.join(names)}")


def _numbers(facts: ModelFacts) -> dict[str, quirks.Numbers]:
    """What the rows of quirks want of the model's components, by component."""
    return quirks.numbers_of(_subject(facts))


def _subject(facts: ModelFacts, cls: type = object) -> quirks.Subject:
    return quirks.Subject(cls, {name: kind for name, (_library, kind) in facts.components.items()})


def as_the_code_casts(where: DevicePlan, cls: type, facts: ModelFacts) -> DevicePlan:
    """The plan with the components' dtypes that the pipeline's own code can work with."""
    subject = _subject(facts, cls)
    dtypes: Mapping[str, str] = where.component_dtypes
    for amended in quirks.effects_of(quirks.CASTS, subject):
        dtypes = amended(dtypes, subject)
    return replace(where, component_dtypes=dtypes)


def preferred_variant(spec: LoadSpec, facts: ModelFacts) -> str | None:
    """The weight variant to load: the option's (which must exist), else one that suits and exists, else none.

    A model that was published in one variant alone is loaded from that.
    """
    asked = spec.options.variant
    if asked:
        if asked not in facts.variants:
            have = ", ".join(sorted(facts.variants)) or "none"
            raise LoadError(f"option variant:{asked} has no weight files in {facts.path}: there are variants {have}")
        return asked
    wanted = [numbers.variant for numbers in _numbers(facts).values() if numbers.variant]
    wanted += ["fp16"] if spec.f16 else []
    wanted += sorted(facts.only_variants)
    return next((variant for variant in wanted if variant in facts.variants), None)


# --- device ----------------------------------------------------------------------------------------------------


def choose_device(spec: LoadSpec, settings: Settings, least_bytes: Callable[[], float], notes: list[str]) -> str:
    """``options: device:``, else the environment, else what CUDA says, else the accelerator if it has ``least_bytes``
    free."""
    asked = spec.options.device or settings.device
    if asked:
        return _checked_device(asked, spec.main_gpu)
    accelerator = _accelerator(settings)
    if spec.cuda:
        if accelerator == "cpu":
            raise LoadError(
                "CUDA is true (cuda: in the model's YAML) but this machine has no accelerator that torch can use "
                "(CUDA, ROCm, XPU or MPS): drop cuda: true, set options: device:cpu or LOCALAI_DIFFUSERS_DEVICE=cpu, "
                "or install the requirements of your accelerator"
            )
        return _checked_device(accelerator, spec.main_gpu)
    if accelerator == "cpu":
        return "cpu"
    device = _checked_device(accelerator, spec.main_gpu)
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


def _checked_device(name: str, main_gpu: int | None) -> str:
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


def component_bytes(facts: ModelFacts, spec: LoadSpec, dtype: str, quantized: Mapping[str, str]) -> dict[str, int]:
    """Bytes of the model's own weights in ``dtype``, a torch name, by component; of a quantized one about what it will
    be."""
    sizes: dict[str, int] = {}
    for weights in facts.chosen_files(preferred_variant(spec, facts)):
        word = quantized.get(weights.component)
        size = quantizers.SCHEMES[word].size if word else _ITEM_SIZES[dtype]
        bytes_then = int(weights.size * size / _ITEM_SIZES.get(weights.dtype, _ITEM_SIZES[dtype]))
        sizes[weights.component] = sizes.get(weights.component, 0) + bytes_then
    return sizes


def weight_bytes(facts: ModelFacts, spec: LoadSpec, dtype: str, quantized: Mapping[str, str]) -> int:
    """The sum of :func:`component_bytes`."""
    return sum(component_bytes(facts, spec, dtype, quantized).values())


# --- dtype ---------------------------------------------------------------------------------------------------------


def choose_dtype(spec: LoadSpec, facts: ModelFacts, device: str, settings: Settings) -> str:
    """The torch name of the dtype: what is asked for, else by F16Memory, else the weights' own on an accelerator.

    fp16 on a CPU is ten times slower than fp32, so there half precision is bf16 where the CPU has it, which is twice as
    fast and takes half the memory, and else fp32. Weights that are stored in half precision have none to lose.
    """
    stored = stored_dtype(facts)
    if spec.dtype:
        if spec.dtype not in DTYPES:
            raise LoadError(f"torch_dtype (or DType) {spec.dtype!r} is unknown: use one of {', '.join(DTYPES)} or auto")
        return DTYPES[spec.dtype]
    if device == "cpu":
        in_half = spec.f16 or (is_automatic(spec, settings) and stored != "float32")
        return "bfloat16" if in_half and _cpu_has_bf16() else "float32"
    return _half_dtype(facts) if spec.f16 else stored


def _half_dtype(facts: ModelFacts) -> str:
    half = next((numbers.half for numbers in _numbers(facts).values() if numbers.half), "")
    return half or ("bfloat16" if facts.is_flow_matching else "float16")


def stored_dtype(facts: ModelFacts) -> str:
    """The dtype of the denoiser's stored weights (else of the largest file), by torch name; fp32 if unknown."""
    denoiser = [weights for weights in facts.files if weights.component == facts.denoiser and weights.dtype]
    known = denoiser or [weights for weights in facts.files if weights.dtype]
    largest = max(known, key=lambda weights: weights.size, default=None)
    return _STORED.get(largest.dtype, "float32") if largest else "float32"


def _cpu_has_bf16() -> bool:
    """Whether the CPU computes in bf16 itself (AVX512-BF16 or AMX, or Arm's bf16 through oneDNN)."""
    import platform

    import torch

    if platform.machine() in ("arm64", "aarch64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


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
    if not is_automatic(spec, fit.settings):
        return "model"
    return memory_plan.sparing(fit.weights(choose_dtype(spec, fit.facts, device, fit.settings)), fit.ways)


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
    count = device_count(device)
    if count < 2:
        notes.append(
            f"several GPUs are asked for (TensorParallelSize or device_map) and there are {count}: {device} is used"
        )
        return None
    return "balanced"


def device_count(device: str) -> int:
    """How many accelerators of the kind of ``device`` there are; 0 for a CPU and where torch cannot tell."""
    import torch

    module = getattr(torch, device.partition(":")[0], None)
    return module.device_count() if device != "cpu" and module is not None and hasattr(module, "device_count") else 0


# --- applying the plan -------------------------------------------------------------------------------------------


def place(pipeline: Any, where: DevicePlan) -> None:
    """Move the pipeline to its device, or set its offload up. Nothing may call ``.to()`` after an offload."""
    if where.device_map:
        return
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
        _offload_by_group(pipeline, where)


def _offload_by_group(pipeline: Any, where: DevicePlan) -> None:
    usual: dict[str, Any] = {"offload_type": "leaf_level", "use_stream": where.kind == "cuda"}
    try:
        pipeline.enable_group_offload(onload_device=where.device, **{**usual, **where.group})
    except (TypeError, ValueError) as error:
        raise LoadError(f"option group_offload: diffusers refuses it: {error}") from None
