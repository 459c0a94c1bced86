# SPDX-License-Identifier: MIT
"""A Stable Diffusion folder as the one .safetensors file that the community trades: the original (LDM) layout.

The inverse of what diffusers.loaders.single_file_utils does, for the first versions' layout: UNet, VAE and CLIP text
encoder under their original names. Beside it the folder's configs, since no test asks the Hub for them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.text_model.",
}
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_UNET_PLACES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_checkpoint(folder: Path, file: Path) -> Path:
    """The pipeline in ``folder`` as the single file ``file``. Returns ``file``."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(_tensors(folder)), file)
    return file


def write_configs(folder: Path, target: Path) -> Path:
    """Everything of the pipeline in ``folder`` but its weights: what ``options: config:`` may name.
    Returns ``target``."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    return target


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    from safetensors.torch import load_file

    for component, prefix in _PREFIXES.items():
        config = json.loads((folder / component / "config.json").read_text(encoding="utf-8"))
        rename = _RENAMES[component](config)
        for key, tensor in load_file(folder / component / f"{_WEIGHTS[component]}.safetensors").items():
            name = rename(key)
            is_attention = component == "vae" and ".attn_1." in name and name.endswith("weight") and tensor.ndim == 2
            yield prefix + name, tensor[:, :, None, None].clone() if is_attention else tensor


def _swapped(key: str, names: Mapping[str, str]) -> str:
    """``key`` with the part of it (whole words between dots) that ``names`` knows replaced."""
    found = next((old for old in names if f".{old}." in f".{key}."), None)
    return f".{key}.".replace(f".{found}.", f".{names[found]}.").strip(".") if found else key


def _unet(config: Mapping[str, Any]) -> Callable[[str], str]:
    """Blocks in one row: each of the way down has its layers and then its downsampler,
    up layers + 1 and the upsampler."""
    row = config["layers_per_block"] + 1

    def rename(key: str) -> str:
        found = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+?)\.(\d+)\.(.+)", key)
        if not found:
            return _swapped(key, _UNET_PLACES)
        way, block, kind, layer, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
        rest = _swapped(rest, _UNET_RESNET) if kind == "resnets" else rest
        if way == "mid":
            return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{rest}"
        if kind == "downsamplers":
            return f"input_blocks.{row * (block + 1)}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            has_attention = config["up_block_types"][block].startswith("CrossAttn")
            return f"output_blocks.{row * (block + 1) - 1}.{2 if has_attention else 1}.{rest}"
        place = f"input_blocks.{1 + row * block + layer}" if way == "down" else f"output_blocks.{row * block + layer}"
        return f"{place}.{int(kind == 'attentions')}.{rest}"

    return rename


def _vae(config: Mapping[str, Any]) -> Callable[[str], str]:
    """The decoder's blocks are numbered from the picture inward, as the encoder's are."""
    last = len(config["block_out_channels"]) - 1

    def rename(key: str) -> str:
        key = re.sub(r"mid_block\.attentions\.0\.(.+)", lambda m: f"mid.attn_1.{_swapped(m[1], _VAE_ATTENTION)}", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = re.sub(r"down_blocks\.(\d)", r"down.\1", key)
        key = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{last - int(m[1])}", key)
        key = (
            key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample").replace("resnets", "block")
        )
        return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")

    return rename


def _text_encoder(_config: Mapping[str, Any]) -> Callable[[str], str]:
    return lambda key: key.removeprefix("text_model.")


_RENAMES: Mapping[str, Callable[[Mapping[str, Any]], Callable[[str], str]]] = {
    "unet": _unet,
    "vae": _vae,
    "text_encoder": _text_encoder,
}
