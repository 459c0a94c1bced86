# SPDX-License-Identifier: MIT
"""A model as a person names it: a LocalAI YAML, or a bare folder, file or Hub repo -> the fields of ModelOptions.

What LocalAI's core does with each key is in its core/backend/options.go and core/config/model_config.go.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localai_diffusers.cli.terminal import WRONG, Fault
from localai_diffusers.discovery.spelling import did_you_mean
from localai_diffusers.wire.options import OPTIONS

_SUFFIXES = (".yaml", ".yml")
_WEIGHTS = (".safetensors", ".ckpt", ".gguf", ".bin", ".pt", ".pth", ".sft")
_SCHEMES = ("huggingface://", "hf://", "https://", "http://")


# --- kinds of values: what is wrong with one, "" if nothing is -------------------------------------------------------


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "a text"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _number(value: Any) -> str:
    return "" if isinstance(value, (int, float)) and not isinstance(value, bool) else "a number"


def _whole(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"


def _texts(value: Any) -> str:
    return "" if isinstance(value, list) and all(isinstance(item, str) for item in value) else "a list of texts"


def _numbers(value: Any) -> str:
    return "" if isinstance(value, list) and not any(map(_number, value)) else "a list of numbers"


def _mapping(value: Any) -> str:
    return "" if isinstance(value, dict) else "a block of keys"


Kind = Callable[[Any], str]
# Keys of the YAML -> the field of ModelOptions ("" for what is no field) and what its value is.
TOP: Mapping[str, tuple[str, Kind]] = {
    "cuda": ("CUDA", _flag),
    "f16": ("F16Memory", _flag),
    "low_vram": ("LowVRAM", _flag),
    "cfg_scale": ("CFGScale", _number),
    "step": ("", _whole),
    "threads": ("Threads", _whole),
    "type": ("Type", _text),
    "dtype": ("DType", _text),
    "quantization": ("Quantization", _text),
    "trust_remote_code": ("TrustRemoteCode", _flag),
    "tensor_parallel_size": ("TensorParallelSize", _whole),
    "main_gpu": ("MainGPU", _text),
    "lora_adapter": ("LoraAdapter", _text),
    "lora_scale": ("LoraScale", _number),
    "lora_base": ("LoraBase", _text),
    "lora_adapters": ("LoraAdapters", _texts),
    "lora_scales": ("LoraScales", _numbers),
    "options": ("Options", _texts),
    "engine_args": ("EngineArgs", _mapping),
    "parameters": ("", _mapping),
    "diffusers": ("", _mapping),
}
DIFFUSERS: Mapping[str, tuple[str, Kind]] = {
    "cuda": ("CUDA", _flag),
    "pipeline_type": ("PipelineType", _text),
    "scheduler_type": ("SchedulerType", _text),
    "img2img": ("IMG2IMG", _flag),
    "clip_model": ("CLIPModel", _text),
    "clip_subfolder": ("CLIPSubfolder", _text),
    "clip_skip": ("CLIPSkip", _whole),
    "control_net": ("ControlNet", _text),
    "original_config_file": ("OriginalConfigFile", _text),
    "enable_parameters": ("", _text),
}
PARAMETERS: Mapping[str, tuple[str, Kind]] = {"model": ("Model", _text), "seed": ("", _whole)}
# LocalAI's own: it reads them itself, and a backend of pictures never hears of them.
CORES = frozenset(
    "name alias description usage backend known_usecases known_input_modalities known_output_modalities download_files "
    "files artifacts icon license urls tags disabled pinned debug grpc env concurrency_groups group proxy".split()
)
# Of language models, speech and the like: they stand in many a YAML that was copied, and mean nothing here.
OTHERS = frozenset(
    "template function feature_flags context_size roles embeddings overrides system_prompt stopwords cutstrings "
    "extract_regex trimspace trimsuffix rms_norm_eps ngqa prompt_cache_path prompt_cache_all prompt_cache_ro mirostat "
    "mirostat_eta mirostat_tau gpu_layers mmap mmlock grammar draft_model n_draft load_format gpu_memory_utilization "
    "enforce_eager swap_space max_model_len disable_log_stats limit_mm_per_prompt mmproj rope_scaling "
    "yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow flash_attention no_kv_offloading cache_type_k "
    "cache_type_v tts pipeline mcp agent tensor_split numa batch n_keep no_mulmatq reranking reasoning "
    "rope_freq_base rope_freq_scale vocab_only".split()
)


@dataclass(frozen=True)
class NamedModel:
    """``fields`` of ModelOptions, and what the core keeps for each request: ``step`` and ``seed``, None where the YAML
    has none. ``faults`` are what is wrong with the YAML, ``notes`` what means nothing in it. ``is_there``: the model
    may be of the Hub, or is a file or folder that is there."""

    fields: Mapping[str, Any]
    step: int | None = None
    seed: int | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_there: bool = True

    @property
    def name(self) -> str:
        return self.fields.get("Model", "")


def read(text: str) -> NamedModel:
    """What ``text`` names. Raises Fault for a path with nothing there: what is meant, without asking the Hub."""
    path = Path(text).expanduser()
    if path.suffix.lower() in _SUFFIXES:
        if not path.is_file():
            raise Fault(f"there is no file {text}. {nearest(path)}".rstrip(), WRONG)
        return of_yaml(path)
    return NamedModel(_with_place(text, Path.cwd()))


def _with_place(model: str, folder: Path) -> dict[str, Any]:
    """Model, ModelPath and, where something is there, ModelFile. Raises Fault as :func:`read`."""
    path = folder / Path(model).expanduser()
    if path.exists():
        return {"Model": model, "ModelFile": str(path.resolve()), "ModelPath": str(folder.resolve())}
    _refuse_typo(model, path)
    return {"Model": model, "ModelPath": str(folder.resolve())}


def _refuse_typo(model: str, path: Path) -> None:
    if model.startswith(_SCHEMES):
        return
    hint = nearest(path)
    is_path = model.startswith((".", "/", "~")) or model.count("/") != 1 or path.suffix.lower() in _WEIGHTS
    if is_path or hint:
        repo = f"A repo of the Hub by that name is huggingface://{model}" if not is_path else ""
        raise Fault(f"there is no file or folder {model}. {hint}{repo}".rstrip(), WRONG)


def nearest(path: Path) -> str:
    """`Did you mean …?` with what lies where the path leads as far as it leads, or nothing."""
    parent = path.parent
    if not parent.is_dir():
        return ""
    names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    inside = parent.resolve() == Path.cwd()
    near = did_you_mean(path.name, names, 3) if names else ""
    if inside or not near:
        return near
    shown = [os.path.relpath(parent / name) for name in names if name in near]
    return did_you_mean(os.path.relpath(path), shown, 3)


# --- a YAML ----------------------------------------------------------------------------------------------------------


@dataclass
class _Reading:
    fields: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def take(self, block: Any, known: Mapping[str, tuple[str, Kind]], place: str) -> None:
        """The fields of a block's known keys; a fault for each value of another kind."""
        for key, value in (block if isinstance(block, dict) else {}).items():
            if key not in known or value is None:
                continue
            name, kind = known[key]
            if wrong := kind(value):
                self.faults.append(f"{place}{key}: {value!r} must be {wrong}")
            elif name == "CUDA":
                self.fields[name] = value or self.fields.get(name, False)
            elif name:
                self.fields[name] = json.dumps(value) if name == "EngineArgs" else value


def of_yaml(path: Path) -> NamedModel:
    """A model's YAML in the folder of the models. Raises Fault for a file that is no YAML of keys."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise Fault(f"{path} cannot be read as YAML: {' '.join(str(error).split())}", WRONG) from None
    if not isinstance(config, dict):
        raise Fault(f"{path} holds no keys: it must be a model's YAML with parameters: model:", WRONG)
    return of_config(config, path.parent)


def of_config(config: Mapping[str, Any], folder: Path) -> NamedModel:
    """The model of a YAML's keys, whose files lie in ``folder``; its faults are listed, not raised."""
    reading = _Reading()
    reading.take(config, TOP, "")
    parameters, own = (config.get(name) or {} for name in ("parameters", "diffusers"))
    reading.take(parameters, PARAMETERS, "parameters: ")
    reading.take(own, DIFFUSERS, "diffusers: ")
    faults = [*reading.faults, *_strange_keys(config, parameters, own)]
    model = reading.fields.get("Model", "")
    if not model:
        faults.append("parameters: model: is missing: a Hub repo id, a path or a URL")
    try:
        reading.fields |= _with_place(model, folder) if model else {}
        is_there = True
    except Fault as fault:
        is_there = False
        faults.append(f"parameters: model: {fault}")
        reading.fields["ModelPath"] = str(folder.resolve())
    if config.get("backend", "diffusers") != "diffusers":
        faults.append(f"backend: {config['backend']} is another backend than diffusers")
    idle = sorted(key for key in config if key in OTHERS)
    notes = [f"{', '.join(idle)}: LocalAI's own, without a meaning for this backend"] if idle else []
    step, seed = config.get("step"), parameters.get("seed") if isinstance(parameters, dict) else None
    return NamedModel(
        reading.fields,
        step if not _whole(step) else None,
        seed if not _whole(seed) else None,
        tuple(faults),
        tuple(notes),
        is_there,
    )


def _strange_keys(config: Mapping[str, Any], parameters: Any, own: Any) -> Iterator[str]:
    """A fault for each key that nobody reads where it stands."""
    for key in config.keys() - TOP.keys() - CORES - OTHERS:
        yield _place_of(str(key), "", (*TOP, *CORES))
    for key in (own if isinstance(own, dict) else {}).keys() - DIFFUSERS.keys():
        yield _place_of(str(key), "diffusers: ", DIFFUSERS)
    for key in {"options", "diffusers", "cuda", "f16", "step", "pipeline_type", "cfg_scale"} & set(parameters or ()):
        yield _place_of(key, "parameters: ", PARAMETERS)


def _place_of(key: str, place: str, near: Iterable[str]) -> str:
    """Where ``key``, which stands at ``place``, belongs; the nearest names where nowhere."""
    homes = {"diffusers:": DIFFUSERS, "parameters:": PARAMETERS, "the top level": {**TOP, **dict.fromkeys(CORES)}}
    for home, known in homes.items():
        if key in known and home != place.strip():
            return f"{place}{key} belongs {'at' if home.startswith('the') else 'under'} {home}"
    if key in OPTIONS:
        return f"{place}{key} belongs under options: as a text, - {key}:VALUE"
    return f"{place}{key} is no key that LocalAI or this backend knows. {did_you_mean(key, near, 3)}".rstrip()
