# SPDX-License-Identifier: MIT
"""Ways to bring the names of a file to those that a component has: its libraries' own, and its authors'.

Each is a function of tensors by name (under the component's prefix, which is off), real or without data.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from localai_diffusers.checkpoint import headers
from localai_diffusers.checkpoint.contents import Contents

if TYPE_CHECKING:
    from localai_diffusers.checkpoint.fitting import Target

Names = Callable[[dict[str, Any]], Mapping[str, Any]]
# Levels of a name that one version of transformers has and another has not.
LEVELS = frozenset({"text_model", "model", "language_model"})
LAST_LEVELS = re.compile(rf"(?:(?<=\.)|^)(?:(?:{'|'.join(sorted(LEVELS))})\.)+$")
# What diffusers' converters expect before the names, where they do.
_EXPECTED = ("", "model.diffusion_model.", "net.")
# VAE attention as diffusers called it until 2022.
_OLD_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))

# Architectures of llama.cpp whose tensors are those of transformers but for their names.
_LLAMA_CPP = ("t5", "t5encoder", "qwen2", "qwen2vl", "qwen3", "qwen3vl")


def ways(wanted: Target, found: Contents) -> Iterator[Names]:
    """The ways for a component, those that fit most files first."""
    yield functools.partial(_own, wanted=wanted)
    if wanted.is_transformers:
        architecture = found.headers[0].metadata.get("general.architecture", "")
        if found.headers[0].form == headers.GGUF and architecture in _LLAMA_CPP:
            yield functools.partial(_llama_cpp, wanted=wanted, architecture=architecture)
        if wanted.cls.__name__.startswith("CLIPText"):
            yield functools.partial(_open_clip, wanted=wanted)
        return
    if wanted.cls.__name__ == "T2IAdapter":
        yield functools.partial(_t2i_adapter, wanted=wanted)
    convert = _converter(wanted.cls)
    if convert is None:
        return
    for expected in _EXPECTED:
        yield functools.partial(_converted, wanted=wanted, convert=convert, expected=expected)


def _own(tensors: Mapping[str, Any], wanted: Target) -> dict[str, Any]:
    """The library's own names: as they are, as they were, or with other levels in them."""
    by_core = {core(name): name for name in wanted.shapes} if wanted.is_transformers else {}
    made: dict[str, Any] = {}
    for name, tensor in tensors.items():
        own = name if name in wanted.shapes else _new_attention(name)
        own = own if own in wanted.shapes else by_core.get(core(name), own)
        made.setdefault(own, tensor)
    return made | _identity(made, wanted)


def core(name: str) -> str:
    """The name without the levels that versions of transformers add or drop."""
    return ".".join(part for part in name.split(".") if part not in LEVELS)


def _new_attention(name: str) -> str:
    for old, new in _OLD_ATTENTION:
        name = name.replace(f".{old}.", f".{new}.")
    return name


def _identity(made: Mapping[str, Any], wanted: Target) -> dict[str, Any]:
    """CLIP's projection where the file has none: SD3's first encoder is published so, and diffusers takes the
    identity."""
    import torch

    name = "text_projection.weight"
    shape = wanted.shapes.get(name, ())
    if wanted.cls.__name__ != "CLIPTextModelWithProjection" or name in made or len(set(shape)) != 1:
        return {}
    return {name: torch.eye(shape[0])}


def _open_clip(tensors: Mapping[str, Any], wanted: Target) -> dict[str, Any]:
    """OpenCLIP's layout, which Stable Diffusion 2 and XL have in their original files."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    model = SimpleNamespace(config=wanted.config)
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return _own(convert_open_clip_checkpoint(model, bare, prefix=""), wanted)


def _t2i_adapter(tensors: Mapping[str, Any], wanted: Target) -> dict[str, Any]:
    """The names of T2I-Adapter's authors, who count residual blocks in one row (the light kind has them nested)."""
    row = wanted.config["num_res_blocks"]
    made = {}
    for own in wanted.shapes:
        name = own.removeprefix("adapter.")
        found = re.fullmatch(r"body\.(\d+)\.resnets\.(\d+)\.(.+)", name)
        if found:
            place = int(found[1]) * row + int(found[2])
            nested = f"body.{found[1]}.body.{found[2]}.{found[3]}"
            name = nested if nested in tensors else f"body.{place}.{found[3]}"
        elif "light" not in wanted.config["adapter_type"]:
            name = re.sub(r"body\.(\d+)\.in_conv", lambda at: f"body.{int(at[1]) * row}.in_conv", name)
        if name in tensors:
            made[own] = tensors[name]
    return made


def _llama_cpp(tensors: Mapping[str, Any], wanted: Target, architecture: str) -> dict[str, Any]:
    """The names that llama.cpp gives to text models, by the gguf package's own table."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(kind, getattr(wanted.config, "num_hidden_layers", 128))
    made = {}
    for own in wanted.shapes:
        stem, _, end = own.rpartition(".")
        known = table.get_name(stem) or table.get_name(f"model.{core(stem)}") or table.get_name(core(stem))
        if known and f"{known}.{end}" in tensors:
            made[own] = tensors[f"{known}.{end}"]
    return made


def _converter(cls: type) -> Callable[..., Any] | None:
    """What diffusers converts original files of such a model with, None where it has nothing."""
    from diffusers.loaders import single_file_model

    known = single_file_model._get_single_file_loadable_mapping_class(cls)
    return single_file_model.SINGLE_FILE_LOADABLE_CLASSES[known]["checkpoint_mapping_fn"] if known else None


def _converted(
    tensors: Mapping[str, Any], wanted: Target, convert: Callable[..., Any], expected: str
) -> Mapping[str, Any]:
    return convert(checkpoint={expected + name: tensor for name, tensor in tensors.items()}, config=dict(wanted.config))
