# SPDX-License-Identifier: MIT
"""ModelOptions -> LoadSpec: what to load, how, and where.

Below this room nothing knows protobuf. ``ModelOptions`` is read by attribute only, so any object with its fields does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.wire.options import Options, option_of
from localai_diffusers.wire.proto import as_text, value_of
from localai_diffusers.wire.quantization import quantization
from localai_diffusers.wire.values import parse_json, parse_value


class LegacyType(NamedTuple):
    """A pipeline_type that the incumbent treated in a way of its own: the class that it stands for, its default frame
    count, and whether its call was handed the options (unknown ones in such a YAML have done no harm)."""

    class_name: str
    frames: int | None = None
    hands_options: bool = True


LEGACY_TYPES: Mapping[str, LegacyType] = {
    # The incumbent's name for text-to-video through /v1/images/generations; its default was FRAMES=64.
    "VideoDiffusionPipeline": LegacyType("DiffusionPipeline", frames=64, hands_options=False),
    "StableVideoDiffusionPipeline": LegacyType("StableVideoDiffusionPipeline", hands_options=False),
}


@dataclass(frozen=True)
class LoadSpec:
    """Everything that a load needs to know, in plain types. ``identity`` is the Model string as the core sent it.

    ``options``: those of the table. ``call_arguments``: the others, typed by what they look like, and
    ``argument_texts`` what was written for them (a prompt of 007 is no number). ``lenient``: those that are only noted
    where nothing takes them, as all are with ``hands_no_options``. ``asked``: the message as JSON, to load the same
    again, without the environment, which may hold secrets.
    """

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
    gpus: int = 1
    threads: int = 0
    trust_remote_code: bool = False
    options: Options = field(default_factory=Options)
    call_arguments: Mapping[str, Any] = field(default_factory=dict)
    argument_texts: Mapping[str, str] = field(default_factory=dict)
    lenient: frozenset[str] = frozenset()
    hands_no_options: bool = False
    default_frames: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked: str = field(default="", compare=False, repr=False)


def from_model_options(request: Any) -> LoadSpec:
    """The LoadSpec of a ModelOptions message.

    Raises InvalidRequest naming the field (or option), its value, and what it may be.
    """
    _check_text("Model", request.Model, required=True)
    for name in ("ModelFile", "ModelPath", "PipelineType", "SchedulerType", "CLIPModel", "ControlNet", "LoraAdapter"):
        _check_text(name, getattr(request, name))
    said = _said(request.Options, request.EngineArgs)
    said.rows.setdefault("original_config", value_of(request, "OriginalConfigFile", "").strip())
    said.rows.setdefault("quantization", _quantization(request.Quantization.strip()))
    options, notes = Options(**said.rows), tuple(said.notes)
    notes += tuple(
        f"option {side}: the core sends a size with every request for a picture, which wins: options: "
        "default_size:WxH says what its 512x512 means"
        for side in ("width", "height")
        if side in said.arguments
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
        dtype=_dtype(options.torch_dtype or request.DType.strip()),
        guidance=_guidance(request.CFGScale),
        clip_model=request.CLIPModel,
        clip_subfolder=request.CLIPSubfolder,
        clip_skip=_at_least("CLIPSkip", request.CLIPSkip, 0),
        controlnets=tuple(part.strip() for part in request.ControlNet.split(",") if part.strip()),
        loras=_loras(request),
        main_gpu=_main_gpu(request.MainGPU),
        gpus=max(1, request.TensorParallelSize),
        threads=_at_least("Threads", request.Threads, 0),
        trust_remote_code=request.TrustRemoteCode,
        options=options,
        call_arguments=said.arguments,
        argument_texts=said.texts,
        lenient=frozenset(said.lenient),
        hands_no_options=not legacy.hands_options,
        default_frames=legacy.frames,
        environment=dict(value_of(request, "EnvVars", {})),
        notes=notes,
        asked=as_text(request, without=("EnvVars",)),
    )


# --- options -----------------------------------------------------------------------------------------------------


@dataclass
class _Said:
    """What is said in ``options:`` and ``engine_args:`` while it is read, the last word of each name."""

    rows: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    lenient: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any, lenient: bool = False) -> None:
        """``value``: the text as it was written, or what JSON or a flag says."""
        row = option_of(name)
        if row is not None:
            self.rows[row.name] = row.read(value, name)
            return
        self.texts.pop(name, None)
        if isinstance(value, str) and not lenient:
            self.texts[name] = value
            value = parse_value(value)
        self.arguments[name] = value
        (self.lenient.add if lenient else self.lenient.discard)(name)


def split_option(text: str) -> tuple[str, str] | None:
    """``name:value`` split at the first colon; None where there is no colon."""
    name, colon, value = text.partition(":")
    return (name.strip(), value.strip()) if colon and name.strip() else None


def _said(options: Iterable[str], engine_args: str) -> _Said:
    """EngineArgs first, then Options, which win. A text without a colon is a flag: true."""
    said = _Said()
    for name, value in _engine_args(engine_args).items():
        said.put(str(name), value, lenient=True)
    for text in options:
        _check_text("Options", text)
        pair = split_option(text)
        if pair is not None:
            said.put(*pair)
        elif flag := text.strip():
            said.put(flag, True, lenient=True)
            said.notes.append(f"option {flag!r} has no value: taken as true")
    return said


def _engine_args(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    value = parse_json("EngineArgs", text)
    if not isinstance(value, dict):
        raise InvalidRequest(f"EngineArgs must be a JSON object of option names and values, not {text[:80]!r}")
    return value


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


def _dtype(said: str) -> str:
    """Without torch's prefix; "auto" means unset."""
    text = said.removeprefix("torch.")
    return "" if text == "auto" else text


def _quantization(text: str) -> Mapping[str, str]:
    """The YAML's own key, which other backends give words of their own (awq, gptq): those are refused."""
    try:
        return quantization(text) if text and text.lower() not in ("none", "null") else {}
    except ValueError as error:
        raise InvalidRequest(f"Quantization {text!r} must be {error}") from None


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
