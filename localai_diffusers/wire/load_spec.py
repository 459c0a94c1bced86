"""ModelOptions -> LoadSpec: what to load, how, and where. Options are typed and sorted here, once.

Below this room nothing knows protobuf. ``ModelOptions`` is read by attribute only, so any object with its fields does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from localai_diffusers.errors import InvalidRequest

# Options that say what to load and how; every other name that is no placement option is a call argument.
LOAD_OPTIONS: dict[str, str] = {
    "torch_dtype": "dtype of the weights: bf16, fp16, fp32 (or auto)",
    "variant": "weight variant, e.g. fp16",
    "revision": "branch, tag or commit of a Hub repo",
    "subfolder": "folder inside the model that holds the pipeline",
    "use_safetensors": "true insists on safetensors, false allows pickles (with trust_remote_code)",
    "local_files_only": "true never asks the Hub",
    "config": "folder or repo with the configs of a single-file checkpoint",
    "original_config": "original YAML config of a single-file checkpoint",
    "custom_pipeline": "community pipeline (needs trust_remote_code: true)",
    "base_model": "folder or repo with everything but the transformer of a transformer-only file",
    "safety_checker": "true loads the pipeline's safety checker; false also switches off a built-in guard (Cosmos 3)",
    "clip_model": "text encoder that replaces the model's own",
    "vae": "VAE that replaces the model's own",
    "controlnet_config": "folder or repo with the config.json of a single-file ControlNet",
    "ip_adapter": "IP-Adapter weights: file, folder, or owner/repo/path/to/file, or a list",
    "ip_adapter_scale": "how much the IP-Adapter's picture counts (1), or a JSON object by blocks; a list for several",
    "ip_adapter_weight_name": "file in an IP-Adapter's folder or repo (one for all, or a comma-separated list)",
    "textual_inversion": "embeddings for new words of the prompt: file, folder or repo, or a list",
    "lora_weight_name": "file in a LoRA's folder or repo (one for all, or a comma-separated list)",
    "low_cpu_mem_usage": "passed to from_pretrained",
    "disable_mmap": "passed to from_pretrained",
    "max_memory": "JSON object, passed to from_pretrained with device_map",
    "offload_folder": "passed to from_pretrained with device_map",
}

# Options that say where and in what form the loaded weights compute.
PLACEMENT_OPTIONS: dict[str, str] = {
    "device": "cpu, cuda, cuda:1, xpu, mps",
    "offload": "none, model, sequential or group",
    "device_map": "balanced spreads the components over several GPUs",
    "vae_tiling": "decode in tiles: less memory",
    "vae_slicing": "decode one picture at a time: less memory",
    "attention_slicing": "attention in slices: less memory, slower",
    "attention_backend": "diffusers attention backend, e.g. native, flash, sage",
    "compile": "torch.compile of the denoiser's repeated blocks",
    "channels_last": "channels-last memory format for UNets",
    "fuse_qkv": "fuse the attention projections",
    "max_batch": "queued requests of equal shape that may run as one call (1)",
    "generator_device": "device of the random generator: cpu (default) or the model's",
}

# Those of both kinds that are on or off. ``vae_tiling:off`` is text, which would count as true.
_SWITCHES = (
    "use_safetensors",
    "local_files_only",
    "safety_checker",
    "low_cpu_mem_usage",
    "disable_mmap",
    "vae_tiling",
    "vae_slicing",
    "channels_last",
    "fuse_qkv",
    "attention_slicing",
    "compile",
)

# Other spellings of the same option.
_SYNONYMS = {
    "cfg_scale": "guidance_scale",
    "dtype": "torch_dtype",
    "cpu_offload": "offload",
    "steps": "num_inference_steps",
    "step": "num_inference_steps",
}

_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None, "none": None}


class LegacyType(NamedTuple):
    """A pipeline_type of the incumbent that is no class of diffusers: what it stands for,
    and its default frame count."""

    class_name: str
    frames: int | None = None


LEGACY_TYPES: Mapping[str, LegacyType] = {
    # The incumbent's name for text-to-video through /v1/images/generations; its default was FRAMES=64.
    "VideoDiffusionPipeline": LegacyType("DiffusionPipeline", frames=64),
}


@dataclass(frozen=True)
class LoadSpec:
    """Everything that a load needs to know, in plain types. ``identity`` is the Model string as the core sent it."""

    identity: str
    model_file: str = ""
    model_path: str = ""
    pipeline_type: str = ""
    img2img: bool = False
    scheduler: str = ""
    cuda: bool = False
    f16: bool = False
    low_vram: bool = False
    dtype: str = ""
    guidance: float | None = None
    clip_model: str = ""
    clip_subfolder: str = ""
    clip_skip: int = 0
    controlnets: tuple[str, ...] = ()
    loras: tuple[tuple[str, float], ...] = ()
    main_gpu: int | None = None
    multi_gpu: bool = False
    threads: int = 0
    trust_remote_code: bool = False
    load_options: Mapping[str, Any] = field(default_factory=dict)
    placement_options: Mapping[str, Any] = field(default_factory=dict)
    call_arguments: Mapping[str, Any] = field(default_factory=dict)
    default_frames: int | None = None
    notes: tuple[str, ...] = ()


def from_model_options(request: Any) -> LoadSpec:
    """The LoadSpec of a ModelOptions message.

    Raises InvalidRequest naming the field (or option), its value, and what it may be.
    """
    _check_text("Model", request.Model, required=True)
    for name in ("ModelFile", "ModelPath", "PipelineType", "SchedulerType", "CLIPModel", "ControlNet", "LoraAdapter"):
        _check_text(name, getattr(request, name))
    options, notes = _sorted_options(request.Options, request.EngineArgs)
    _check_switches(options.load | options.placement)
    if request.Quantization.strip():
        notes += (
            f"Quantization {request.Quantization.strip()!r} has no effect here: load a .gguf with base_model, or a "
            "Flux transformer with pipeline_type FluxTransformer2DModel",
        )
    pipeline_type = request.PipelineType.strip()
    legacy = LEGACY_TYPES.get(pipeline_type, LegacyType(pipeline_type))
    return LoadSpec(
        identity=request.Model,
        model_file=request.ModelFile,
        model_path=request.ModelPath,
        pipeline_type=legacy.class_name,
        img2img=request.IMG2IMG,
        scheduler=request.SchedulerType.strip(),
        cuda=request.CUDA,
        f16=request.F16Memory,
        low_vram=request.LowVRAM,
        dtype=_dtype(options.load, request.DType),
        guidance=_guidance(request.CFGScale),
        clip_model=request.CLIPModel,
        clip_subfolder=request.CLIPSubfolder,
        clip_skip=_at_least("CLIPSkip", request.CLIPSkip, 0),
        controlnets=tuple(part.strip() for part in request.ControlNet.split(",") if part.strip()),
        loras=_loras(request),
        main_gpu=_main_gpu(request.MainGPU),
        multi_gpu=request.TensorParallelSize > 1,
        threads=_at_least("Threads", request.Threads, 0),
        trust_remote_code=request.TrustRemoteCode,
        load_options=options.load,
        placement_options=_checked(options.placement),
        call_arguments=options.call,
        default_frames=legacy.frames,
        notes=notes,
    )


# --- options -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SortedOptions:
    """Options by where they go, names to typed values."""

    load: dict[str, Any] = field(default_factory=dict)
    placement: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:
        """File the option under its group by name."""
        name = _SYNONYMS.get(name, name)
        group = self.load if name in LOAD_OPTIONS else self.placement if name in PLACEMENT_OPTIONS else self.call
        group[name] = value


def parse_option(text: str) -> tuple[str, Any] | None:
    """``key:value`` split at the first colon, the value typed by :func:`parse_value`; None where there is no colon."""
    name, colon, value = text.partition(":")
    name = name.strip()
    if not colon or not name:
        return None
    return name, parse_value(value.strip())


def parse_value(text: str, name: str = "option value") -> Any:
    """int, float (1e-4 too), true/false/null, a quoted string, a JSON list or object, else the text itself.

    Not YAML, which reads ``off`` as False and ``1:30`` as 90; not ``float()``, which takes ``nan`` and ``1_000``.
    Raises InvalidRequest for a list or object that is not JSON.
    """
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= 20 else text
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text[:1] in ("[", "{") and text[-1:] in ("]", "}"):
        return _json(name, text)
    return text


def _sorted_options(options: Iterable[str], engine_args: str) -> tuple[SortedOptions, tuple[str, ...]]:
    """EngineArgs first, then Options, which win. A text without a colon is a flag: true."""
    result, notes = SortedOptions(), []
    for name, value in _engine_args(engine_args).items():
        result.put(str(name), value)
    for text in options:
        _check_text("Options", text)
        pair = parse_option(text)
        if pair is None:
            flag = text.strip()
            if flag:
                result.put(flag, True)
                notes.append(f"option {flag!r} has no value: taken as true")
            continue
        result.put(*pair)
    return result, tuple(notes)


def _engine_args(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    value = _json("EngineArgs", text)
    if not isinstance(value, dict):
        raise InvalidRequest(f"EngineArgs must be a JSON object of option names and values, not {text[:80]!r}")
    return value


def _json(field_name: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field_name} {text[:80]!r} is not valid JSON: {error}") from None


def _no_number(text: str) -> float:
    """NaN and Infinity, which Python's reader takes though they are no JSON."""
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


# --- single fields -----------------------------------------------------------------------------------------------


def _check_text(name: str, text: str, required: bool = False) -> None:
    if required and not text.strip():
        raise InvalidRequest(f"{name} is empty: it must be a Hub repo id, a path or a URL")
    if "\0" in text:
        raise InvalidRequest(f"{name} {text[:80]!r} holds a NUL character: remove it")
    if len(text) > 65536:
        raise InvalidRequest(f"{name} is {len(text)} characters long: at most 65536 are taken")


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise InvalidRequest(f"{name}={value} must be at least {least}")
    return value


def _dtype(load_options: dict[str, Any], dtype_field: str) -> str:
    """``options: torch_dtype:`` before the DType field; "auto" means unset."""
    chosen = load_options.pop("torch_dtype", None) or dtype_field.strip()
    text = str(chosen or "").removeprefix("torch.")
    return "" if text == "auto" else text


def _check_switches(options: Mapping[str, Any]) -> None:
    for name in _SWITCHES:
        if options.get(name) not in (None, True, False):  # 1 and 0 too
            raise InvalidRequest(f"option {name}:{options[name]} must be true or false")


def _checked(placement: dict[str, Any]) -> dict[str, Any]:
    """The placement options that are counts; those of devices and modes are checked where the device is known."""
    batch = placement.get("max_batch", 1)
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 64:
        raise InvalidRequest(f"option max_batch:{batch} must be a whole number between 1 and 64")
    return placement


def _guidance(cfg_scale: float) -> float | None:
    """CFGScale, where the wire's 0 means unset. float32 on the wire: 3.5 stays 3.5, 1.1 is brought back."""
    if not math.isfinite(cfg_scale) or cfg_scale < 0:
        raise InvalidRequest(f"CFGScale={cfg_scale} must be a number of at least 0")
    return round(float(cfg_scale), 6) if cfg_scale else None


def _main_gpu(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not text.isdecimal():
        raise InvalidRequest(f"MainGPU={text!r} must be the index of a card, e.g. 0")
    return int(text)


def _loras(request: Any) -> tuple[tuple[str, float], ...]:
    """LoraAdapter with LoraScale, then LoraAdapters with LoraScales; a scale that is not given is 1."""
    names, scales = list(request.LoraAdapters), [float(scale) for scale in request.LoraScales]
    for scale in (*scales, float(request.LoraScale)):
        if not math.isfinite(scale):
            raise InvalidRequest(f"LoraScale(s) {scale} must be a finite number")
    if len(scales) > len(names):
        raise InvalidRequest(f"LoraScales has {len(scales)} scales for {len(names)} LoraAdapters: one each at most")
    scales += [1.0] * (len(names) - len(scales))
    single = [(request.LoraAdapter, float(request.LoraScale) or 1.0)] if request.LoraAdapter else []
    return tuple(single + list(zip(names, scales, strict=True)))
