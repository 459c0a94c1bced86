"""A Stable Diffusion pipeline's folder -> one file with the names of the original release, as model sites offer it.

The other direction is diffusers' own `from_single_file`; the names are those of CompVis/latent-diffusion.
"""
from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Rules = Iterable[tuple[str, str]]

_RESNET: Rules = (("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
                  ("norm2", "out_layers.0"),
                  ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"))
_UNET: Rules = (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
                ("conv_in", "input_blocks.0.0"),
                ("conv_norm_out", "out.0"), ("conv_out", "out.2"), ("mid_block.resnets.0", "middle_block.0"),
                ("mid_block.attentions.0", "middle_block.1"), ("mid_block.resnets.1", "middle_block.2"))
_VAE: Rules = (("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"),
               ("mid_block.resnets.0", "mid.block_1"),
               ("mid_block.resnets.1", "mid.block_2"), ("mid_block.attentions.0", "mid.attn_1"),
               ("downsamplers.0", "downsample"),
               ("upsamplers.0", "upsample"), ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"),
               ("to_v", "v"), ("to_out.0", "proj_out"))


def _renamed(name: str, rules: Rules) -> str:
    for ours, theirs in rules:
        name = re.sub(rf"(^|\.){re.escape(ours)}(?=\.)", rf"\g<1>{theirs}", name)
    return name


def _unet_name(name: str, layers: int) -> str:
    """Blocks are numbered through there: one for each layer, and one for a downsampler."""
    block = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)",
                     name)
    if not block:
        return _renamed(_renamed(name, _UNET), _RESNET if "mid_block.resnets" in name else ())
    side, index, kind, layer, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    if kind == "downsamplers":
        return f"input_blocks.{(index + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
    number = 1 + index * (layers + 1) + layer if side == "down" else index * (layers + 1) + (layers if kind == "upsamplers" else layer)
    part = {"resnets": 0, "attentions": 1, "upsamplers": 2}[kind]
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{part}.{_renamed(rest, _RESNET if part == 0 else ())}"


def _vae_name(name: str, blocks: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{blocks - 1 - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda found: f"up.{blocks - 1 - int(found[1])}.", name)
    return _renamed(name.replace("down_blocks.", "down."), _VAE)


def write(folder: Path, file: Path) -> Path:
    """Write the UNet (with attention in every block), VAE and CLIP text encoder of ``folder`` into ``file``; its path."""
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    layers, blocks = pipeline.unet.config.layers_per_block, len(pipeline.vae.config.block_out_channels)
    found: dict[str, Any] = {f"model.diffusion_model.{_unet_name(name, layers)}": value for name,
                             value in pipeline.unet.state_dict().items()}
    for name, value in pipeline.vae.state_dict().items():
        is_linear = "attentions" in name and value.ndim == 2  # convolutions of one pixel there
        found[f"first_stage_model.{_vae_name(name, blocks)}"] = value[:, :, None,
                                                                      None] if is_linear else value
    for name, value in pipeline.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous() for name, value in found.items()}, file)
    return file
