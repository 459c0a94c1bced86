# SPDX-License-Identifier: MIT
"""What a model's files say of its numbers: in which dtype they are stored, are to be, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Mapping

from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.placing import quantizers
from localai_diffusers.pipeline import quirks
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

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


def numbers_of(facts: ModelFacts) -> dict[str, quirks.Numbers]:
    """What the rows of quirks want of the model's components, by component."""
    return quirks.numbers_of(subject_of(facts))


def subject_of(facts: ModelFacts, cls: type = object) -> quirks.Subject:
    return quirks.Subject(cls, {name: kind for name, (_library, kind) in facts.components.items()})


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
    wanted = [numbers.variant for numbers in numbers_of(facts).values() if numbers.variant]
    wanted += ["fp16"] if spec.f16 else []
    wanted += sorted(facts.only_variants)
    return next((variant for variant in wanted if variant in facts.variants), None)


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


def is_automatic(spec: LoadSpec, settings: Settings) -> bool:
    """Whether what the YAML leaves open follows from the model's size and this machine."""
    return settings.auto if spec.options.auto is None else spec.options.auto


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
    return half_dtype(facts) if spec.f16 else stored


def half_dtype(facts: ModelFacts) -> str:
    half = next((numbers.half for numbers in numbers_of(facts).values() if numbers.half), "")
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
