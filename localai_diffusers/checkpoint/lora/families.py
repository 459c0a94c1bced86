# SPDX-License-Identifier: MIT
"""How other tools name the modules of a model that diffusers names its own way: tables, a family each.

A family says, of a module's name in diffusers, the name in the original code (renames, in order, each a regular
expression of the name) and which original modules were split (splits: their rows, in this order, are those of several
modules). A row counts wherever the model has such modules, whatever its class: no pipeline is known here. Sources: the
converters of checkpoints and LoRAs in ``diffusers.loaders`` (single_file_utils, lora_conversion_utils) of 0.42.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# The other name of a module -> the modules whose rows, one after the other, it has.
Aliases = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """A module of the original code whose rows diffusers gave to several: ``parts`` of ``parent``; {} is a number."""

    original: str
    parent: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A way to name modules. ``whole`` makes aliases of all the names at once, where a row does not say it."""

    name: str
    renames: tuple[tuple[str, str], ...] = ()
    splits: tuple[Split, ...] = ()
    whole: Callable[[Iterable[str]], Aliases] | None = None


def aliases(family: Family, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every name that the family has for the modules ``names``."""
    names = set(names)
    found: dict[str, tuple[str, ...]] = dict(family.whole(names)) if family.whole else {}
    for split in family.splits:
        found.update(_split_aliases(split, names))
    parts = {name for targets in found.values() if len(targets) > 1 for name in targets}
    compiled = [(re.compile(pattern), other) for pattern, other in family.renames]
    for name in names - parts:
        original = name
        for pattern, other in compiled:
            original = pattern.sub(other, original)
        if original != name:
            found.setdefault(original, (name,))
    return found


def _split_aliases(split: Split, names: set[str]) -> dict[str, tuple[str, ...]]:
    first = re.compile(re.escape(split.parent + split.parts[0]).replace(r"\{\}", r"(\d+)"))
    found = {}
    for name in names:
        numbers = first.fullmatch(name)
        if numbers:
            targets = tuple(split.parent.format(*numbers.groups()) + part for part in split.parts)
            if names.issuperset(targets):
                found[split.original.format(*numbers.groups())] = targets
    return found


# --- U-Nets ------------------------------------------------------------------------------------------------------

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.(.+))?")
_IN_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)(?:\.(.+))?")


def _unet_aliases(names: Iterable[str]) -> Aliases:
    """The original code's numbers of a U-Net's blocks: every resnet and sampler is an entry of one list."""
    names = list(names)
    resnets = _count(names, r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\..+")
    samplers = {found[0] for name in names if (found := re.match(r"(down|up)_blocks\.\d+\.(?:down|up)samplers", name))}
    attended = {found[0] for name in names if (found := re.match(r"(?:down|up)_blocks\.\d+\.attentions", name))}
    starts = _starts(resnets, samplers)
    made: dict[str, tuple[str, ...]] = {}
    for name in names:
        original = _UNET_ENDS.get(name) or _middle_name(name) or _block_name(name, resnets, starts, attended)
        if original:
            made[original] = (name,)
    return made


def _count(names: Iterable[str], pattern: str) -> dict[tuple[str, int], int]:
    """Of each block (its side and number) how many resnets it has."""
    most: dict[tuple[str, int], int] = {}
    for name in names:
        found = re.fullmatch(pattern, name)
        if found:
            block = found[1], int(found[2])
            most[block] = max(most.get(block, 0), int(found[3]) + 1)
    return most


def _starts(resnets: Mapping[tuple[str, int], int], samplers: set[str]) -> dict[tuple[str, int], int]:
    """The number of each block's first entry: down blocks count from 1, and their samplers are entries; up from 0."""
    starts, down, up = {}, 1, 0
    for side, block in sorted(resnets):
        if side == "down":
            starts[side, block] = down
            down += resnets[side, block] + (f"down_blocks.{block}.downsamplers" in samplers)
        else:
            starts[side, block] = up
            up += resnets[side, block]
    return starts


def _middle_name(name: str) -> str:
    found = _IN_MIDDLE.fullmatch(name)
    if not found:
        return ""
    kind, number, inner = found.groups()
    if kind == "attentions":
        return f"middle_block.{2 * int(number) + 1}.{inner}" if inner else ""
    return f"middle_block.{2 * int(number)}.{_RESNET[inner]}" if inner in _RESNET else ""


def _block_name(
    name: str, resnets: Mapping[tuple[str, int], int], starts: Mapping[tuple[str, int], int], attended: set[str]
) -> str:
    found = _IN_BLOCK.fullmatch(name)
    if not found:
        return ""
    side, block, kind, number, inner = found[1], int(found[2]), found[3], int(found[4]), found[5] or ""
    if (side, block) not in starts:
        return ""
    where, first = "input_blocks" if side == "down" else "output_blocks", starts[side, block]
    if kind == "resnets":
        return f"{where}.{first + number}.0.{_RESNET[inner]}" if inner in _RESNET else ""
    if kind == "attentions":
        return f"{where}.{first + number}.1.{inner}" if inner else ""
    last = first + resnets[side, block]
    if kind == "downsamplers":
        return f"{where}.{last}.0.op"
    return f"{where}.{last - 1}.{1 + (f'up_blocks.{block}.attentions' in attended)}.conv"


UNET = Family("LDM", whole=_unet_aliases)

# --- Flux, Flux 2, Chroma ----------------------------------------------------------------------------------------

_QKV, _ADDED = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_DOUBLE, _SINGLE = r"^transformer_blocks\.(\d+)\.", r"^single_transformer_blocks\.(\d+)\."

BFL = Family(
    "BFL",
    renames=(
        (r"^proj_out$", "final_layer.linear"),
        (r"^norm_out\.linear$", "final_layer.adaLN_modulation.1"),
        (r"^x_embedder$", "img_in"),
        (r"^context_embedder$", "txt_in"),
        (r"^time_(?:text|guidance)_embed\.timestep_embedder\.linear_1$", "time_in.in_layer"),
        (r"^time_(?:text|guidance)_embed\.timestep_embedder\.linear_2$", "time_in.out_layer"),
        (r"^time_(?:text|guidance)_embed\.guidance_embedder\.linear_1$", "guidance_in.in_layer"),
        (r"^time_(?:text|guidance)_embed\.guidance_embedder\.linear_2$", "guidance_in.out_layer"),
        (r"^time_text_embed\.text_embedder\.linear_1$", "vector_in.in_layer"),
        (r"^time_text_embed\.text_embedder\.linear_2$", "vector_in.out_layer"),
        (r"^((?:single|double)_stream_modulation(?:_img|_txt)?)\.linear$", r"\1.lin"),
        (_DOUBLE + r"attn\.to_out\.0$", r"double_blocks.\1.img_attn.proj"),
        (_DOUBLE + r"attn\.to_add_out$", r"double_blocks.\1.txt_attn.proj"),
        (_DOUBLE + r"attn\.norm_q$", r"double_blocks.\1.img_attn.norm.query_norm"),
        (_DOUBLE + r"attn\.norm_k$", r"double_blocks.\1.img_attn.norm.key_norm"),
        (_DOUBLE + r"attn\.norm_added_q$", r"double_blocks.\1.txt_attn.norm.query_norm"),
        (_DOUBLE + r"attn\.norm_added_k$", r"double_blocks.\1.txt_attn.norm.key_norm"),
        (_DOUBLE + r"ff\.(?:net\.0\.proj|linear_in)$", r"double_blocks.\1.img_mlp.0"),
        (_DOUBLE + r"ff\.(?:net\.2|linear_out)$", r"double_blocks.\1.img_mlp.2"),
        (_DOUBLE + r"ff_context\.(?:net\.0\.proj|linear_in)$", r"double_blocks.\1.txt_mlp.0"),
        (_DOUBLE + r"ff_context\.(?:net\.2|linear_out)$", r"double_blocks.\1.txt_mlp.2"),
        (_DOUBLE + r"norm1\.linear$", r"double_blocks.\1.img_mod.lin"),
        (_DOUBLE + r"norm1_context\.linear$", r"double_blocks.\1.txt_mod.lin"),
        (_SINGLE + r"(?:proj_out|attn\.to_out)$", r"single_blocks.\1.linear2"),
        (_SINGLE + r"attn\.to_qkv_mlp_proj$", r"single_blocks.\1.linear1"),
        (_SINGLE + r"norm\.linear$", r"single_blocks.\1.modulation.lin"),
        (_SINGLE + r"attn\.norm_q$", r"single_blocks.\1.norm.query_norm"),
        (_SINGLE + r"attn\.norm_k$", r"single_blocks.\1.norm.key_norm"),
        (r"^(distilled_guidance_layer\.layers\.\d+)\.linear_1$", r"\1.in_layer"),
        (r"^(distilled_guidance_layer\.layers\.\d+)\.linear_2$", r"\1.out_layer"),
    ),
    splits=(
        Split("double_blocks.{}.img_attn.qkv", "transformer_blocks.{}.attn.", _QKV),
        Split("double_blocks.{}.txt_attn.qkv", "transformer_blocks.{}.attn.", _ADDED),
        Split("single_blocks.{}.linear1", "single_transformer_blocks.{}.", (*(f"attn.{q}" for q in _QKV), "proj_mlp")),
    ),
)
# XLabs' processors: what they wrap of Flux, by number of the stream.
XLABS = Family(
    "XLabs",
    renames=(
        (_DOUBLE + r"attn\.to_out\.0$", r"double_blocks.\1.proj_lora1"),
        (_DOUBLE + r"attn\.to_add_out$", r"double_blocks.\1.proj_lora2"),
        (_SINGLE + r"proj_out$", r"single_blocks.\1.proj"),
    ),
    splits=(
        Split("double_blocks.{}.qkv_lora1", "transformer_blocks.{}.attn.", _QKV),
        Split("double_blocks.{}.qkv_lora2", "transformer_blocks.{}.attn.", _ADDED),
        Split("single_blocks.{}.qkv", "single_transformer_blocks.{}.attn.", _QKV),
    ),
)

# --- Stable Diffusion 3 ------------------------------------------------------------------------------------------

MMDIT = Family(
    "SD3",
    renames=(
        (r"^proj_out$", "final_layer.linear"),
        (r"^norm_out\.linear$", "final_layer.adaLN_modulation.1"),
        (r"^pos_embed\.proj$", "x_embedder.proj"),
        (r"^time_text_embed\.timestep_embedder\.linear_1$", "t_embedder.mlp.0"),
        (r"^time_text_embed\.timestep_embedder\.linear_2$", "t_embedder.mlp.2"),
        (r"^time_text_embed\.text_embedder\.linear_1$", "y_embedder.mlp.0"),
        (r"^time_text_embed\.text_embedder\.linear_2$", "y_embedder.mlp.2"),
        (_DOUBLE + r"attn\.to_add_out$", r"joint_blocks.\1.context_block.attn.proj"),
        (_DOUBLE + r"(attn2?)\.to_out\.0$", r"joint_blocks.\1.x_block.\2.proj"),
        (_DOUBLE + r"(attn2?)\.norm_([qk])$", r"joint_blocks.\1.x_block.\2.ln_\3"),
        (_DOUBLE + r"attn\.norm_added_([qk])$", r"joint_blocks.\1.context_block.attn.ln_\2"),
        (_DOUBLE + r"norm1\.linear$", r"joint_blocks.\1.x_block.adaLN_modulation.1"),
        (_DOUBLE + r"norm1_context\.linear$", r"joint_blocks.\1.context_block.adaLN_modulation.1"),
        (_DOUBLE + r"ff\.net\.0\.proj$", r"joint_blocks.\1.x_block.mlp.fc1"),
        (_DOUBLE + r"ff\.net\.2$", r"joint_blocks.\1.x_block.mlp.fc2"),
        (_DOUBLE + r"ff_context\.net\.0\.proj$", r"joint_blocks.\1.context_block.mlp.fc1"),
        (_DOUBLE + r"ff_context\.net\.2$", r"joint_blocks.\1.context_block.mlp.fc2"),
    ),
    splits=(
        Split("joint_blocks.{}.x_block.attn.qkv", "transformer_blocks.{}.attn.", _QKV),
        Split("joint_blocks.{}.x_block.attn2.qkv", "transformer_blocks.{}.attn2.", _QKV),
        Split("joint_blocks.{}.context_block.attn.qkv", "transformer_blocks.{}.attn.", _ADDED),
    ),
)

# --- video -------------------------------------------------------------------------------------------------------

WAN = Family(
    "Wan",
    renames=(
        (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
        (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
        (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
        (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
        (r"^condition_embedder\.time_proj$", "time_projection.1"),
        (r"^condition_embedder\.image_embedder\.norm1$", "img_emb.proj.0"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj$", "img_emb.proj.1"),
        (r"^condition_embedder\.image_embedder\.ff\.net\.2$", "img_emb.proj.3"),
        (r"^condition_embedder\.image_embedder\.norm2$", "img_emb.proj.4"),
        (r"^scale_shift_table$", "head.modulation"),
        (r"^proj_out$", "head.head"),
        (r"^((?:vace_)?blocks\.\d+)\.norm2$", r"\1.norm3"),
        (r"^((?:vace_)?blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
        (r"^(vace_blocks\.\d+)\.proj_in$", r"\1.before_proj"),
        (r"^(vace_blocks\.\d+)\.proj_out$", r"\1.after_proj"),
        (r"^((?:vace_)?blocks\.\d+)\.attn1\.", r"\1.self_attn."),
        (r"^((?:vace_)?blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
        (r"^((?:vace_)?blocks\.\d+)\.ffn\.net\.0\.proj$", r"\1.ffn.0"),
        (r"^((?:vace_)?blocks\.\d+)\.ffn\.net\.2$", r"\1.ffn.2"),
        (r"_attn\.to_out\.0$", "_attn.o"),
        (r"_attn\.to_([qkv])$", r"_attn.\1"),
        (r"_attn\.add_([kv])_proj$", r"_attn.\1_img"),
        (r"_attn\.norm_added_k$", "_attn.norm_k_img"),
    ),
)
LTX = Family(
    "LTX",
    renames=(
        (r"^(audio_)?proj_in$", r"\1patchify_proj"),
        (r"^(audio_)?time_embed\.", r"\1adaln_single."),
        (r"^av_cross_attn_(video|audio)_scale_shift\.", r"av_ca_\1_scale_shift_adaln_single."),
        (r"^av_cross_attn_video_a2v_gate\.", "av_ca_a2v_gate_adaln_single."),
        (r"^av_cross_attn_audio_v2a_gate\.", "av_ca_v2a_gate_adaln_single."),
        (r"^(audio_)?prompt_adaln\.", r"\1prompt_adaln_single."),
        (r"\b(video|audio)_a2v_cross_attn_scale_shift_table$", r"scale_shift_table_a2v_ca_\1"),
        (r"\.norm_([qk])$", r".\1_norm"),
        (r"^text_proj_in$", "aggregate_embed"),
    ),
)
HUNYUAN = Family(
    "HunyuanVideo",
    renames=(
        (r"^x_embedder\.proj$", "img_in.proj"),
        (r"^time_text_embed\.timestep_embedder\.linear_1$", "time_in.mlp.0"),
        (r"^time_text_embed\.timestep_embedder\.linear_2$", "time_in.mlp.2"),
        (r"^time_text_embed\.guidance_embedder\.linear_1$", "guidance_in.mlp.0"),
        (r"^time_text_embed\.guidance_embedder\.linear_2$", "guidance_in.mlp.2"),
        (r"^time_text_embed\.text_embedder\.linear_1$", "vector_in.in_layer"),
        (r"^time_text_embed\.text_embedder\.linear_2$", "vector_in.out_layer"),
        (r"^proj_out$", "final_layer.linear"),
        (r"^norm_out\.linear$", "final_layer.adaLN_modulation.1"),
        (r"^context_embedder\.proj_in$", "txt_in.input_embedder"),
        (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_1$", "txt_in.t_embedder.mlp.0"),
        (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_2$", "txt_in.t_embedder.mlp.2"),
        (r"^context_embedder\.time_text_embed\.text_embedder\.", "txt_in.c_embedder."),
        (r"^context_embedder\.token_refiner\.refiner_blocks\.", "txt_in.individual_token_refiner.blocks."),
        (r"^(txt_in\..+)\.attn\.to_out\.0$", r"\1.self_attn_proj"),
        (r"^(txt_in\..+)\.ff\.net\.0\.proj$", r"\1.mlp.fc1"),
        (r"^(txt_in\..+)\.ff\.net\.2$", r"\1.mlp.fc2"),
        (r"^(txt_in\..+)\.norm_out\.linear$", r"\1.adaLN_modulation.1"),
        (_DOUBLE + r"attn\.to_out\.0$", r"double_blocks.\1.img_attn_proj"),
        (_DOUBLE + r"attn\.to_add_out$", r"double_blocks.\1.txt_attn_proj"),
        (_DOUBLE + r"attn\.norm_([qk])$", r"double_blocks.\1.img_attn_\2_norm"),
        (_DOUBLE + r"attn\.norm_added_([qk])$", r"double_blocks.\1.txt_attn_\2_norm"),
        (_DOUBLE + r"ff\.net\.0\.proj$", r"double_blocks.\1.img_mlp.fc1"),
        (_DOUBLE + r"ff\.net\.2$", r"double_blocks.\1.img_mlp.fc2"),
        (_DOUBLE + r"ff_context\.net\.0\.proj$", r"double_blocks.\1.txt_mlp.fc1"),
        (_DOUBLE + r"ff_context\.net\.2$", r"double_blocks.\1.txt_mlp.fc2"),
        (_DOUBLE + r"norm1\.linear$", r"double_blocks.\1.img_mod.linear"),
        (_DOUBLE + r"norm1_context\.linear$", r"double_blocks.\1.txt_mod.linear"),
        (_SINGLE + r"proj_out$", r"single_blocks.\1.linear2"),
        (_SINGLE + r"norm\.linear$", r"single_blocks.\1.modulation.linear"),
        (_SINGLE + r"attn\.norm_([qk])$", r"single_blocks.\1.\2_norm"),
    ),
    splits=(
        Split("double_blocks.{}.img_attn_qkv", "transformer_blocks.{}.attn.", _QKV),
        Split("double_blocks.{}.txt_attn_qkv", "transformer_blocks.{}.attn.", _ADDED),
        Split("single_blocks.{}.linear1", "single_transformer_blocks.{}.", (*(f"attn.{q}" for q in _QKV), "proj_mlp")),
        Split(
            "txt_in.individual_token_refiner.blocks.{}.self_attn_qkv",
            "context_embedder.token_refiner.refiner_blocks.{}.attn.",
            _QKV,
        ),
    ),
)
MOCHI = Family(
    "Mochi",
    renames=(
        (r"^patch_embed\.proj$", "x_embedder.proj"),
        (r"^time_embed\.timestep_embedder\.linear_1$", "t_embedder.mlp.0"),
        (r"^time_embed\.timestep_embedder\.linear_2$", "t_embedder.mlp.2"),
        (r"^time_embed\.pooler\.", "t5_y_embedder."),
        (r"^time_embed\.caption_proj$", "t5_yproj"),
        (r"^norm_out\.linear$", "final_layer.mod"),
        (r"^proj_out$", "final_layer.linear"),
        (_DOUBLE + r"norm1\.linear$", r"blocks.\1.mod_x"),
        (_DOUBLE + r"norm1_context\.linear(?:_1)?$", r"blocks.\1.mod_y"),
        (_DOUBLE + r"attn1\.norm_([qk])$", r"blocks.\1.attn.\2_norm_x"),
        (_DOUBLE + r"attn1\.norm_added_([qk])$", r"blocks.\1.attn.\2_norm_y"),
        (_DOUBLE + r"attn1\.to_out\.0$", r"blocks.\1.attn.proj_x"),
        (_DOUBLE + r"attn1\.to_add_out$", r"blocks.\1.attn.proj_y"),
        (_DOUBLE + r"ff\.net\.0\.proj$", r"blocks.\1.mlp_x.w1"),
        (_DOUBLE + r"ff\.net\.2$", r"blocks.\1.mlp_x.w2"),
        (_DOUBLE + r"ff_context\.net\.0\.proj$", r"blocks.\1.mlp_y.w1"),
        (_DOUBLE + r"ff_context\.net\.2$", r"blocks.\1.mlp_y.w2"),
    ),
    splits=(
        Split("blocks.{}.attn.qkv_x", "transformer_blocks.{}.attn1.", _QKV),
        Split("blocks.{}.attn.qkv_y", "transformer_blocks.{}.attn1.", _ADDED),
    ),
)
MINIMAX = Family(
    "MiniMax H3",
    renames=(
        (r"^transformer_blocks\.", "blocks."),
        (r"^token_refiner\.refiner_blocks\.", "token_refiner.blocks."),
        (r"^time_embedder\.linear_1$", "time_embedder.proj_in"),
        (r"^time_embedder\.linear_2$", "time_embedder.proj_out"),
        (r"^proj_in$", "video_patch_proj"),
        (r"^audio_proj_in$", "audio_patch_proj"),
        (r"^context_embedder$", "condition_proj"),
        (r"^norm_out\.norm$", "final_layer.norm"),
        (r"^norm_out\.linear$", "final_layer.adaln_proj.linear"),
        (r"^proj_out$", "final_layer.video_out"),
        (r"^audio_proj_out$", "final_layer.audio_out"),
        (r"\.attn\.norm_([qk])$", r".attn.\1_norm"),
        (r"\.attn\.to_out\.0$", ".attn.out_proj"),
        (r"\.ff\.net\.0\.proj$", ".mlp.fc1"),
        (r"\.ff\.net\.2$", ".mlp.fc2"),
    ),
    splits=(
        Split("blocks.{}.attn.qkv_proj", "transformer_blocks.{}.attn.", _QKV),
        Split("token_refiner.blocks.{}.attn.qkv_proj", "token_refiner.refiner_blocks.{}.attn.", _QKV),
    ),
)

# --- others ------------------------------------------------------------------------------------------------------

AURA = Family(
    "AuraFlow",
    renames=(
        (r"^time_step_proj\.linear_1$", "t_embedder.mlp.0"),
        (r"^time_step_proj\.linear_2$", "t_embedder.mlp.2"),
        (r"^context_embedder$", "cond_seq_linear"),
        (r"^pos_embed\.proj$", "init_x_linear"),
        (r"^pos_embed\.pos_embed$", "positional_encoding"),
        (r"^proj_out$", "final_linear"),
        (r"^norm_out\.linear$", "modF.1"),
        (r"^joint_transformer_blocks\.", "double_layers."),
        (r"^single_transformer_blocks\.", "single_layers."),
        (r"^(double_layers\.\d+)\.norm1\.linear$", r"\1.modX.1"),
        (r"^(double_layers\.\d+)\.norm1_context\.linear$", r"\1.modC.1"),
        (r"^(single_layers\.\d+)\.norm1\.linear$", r"\1.modCX.1"),
        (r"^(double_layers\.\d+)\.ff\.", r"\1.mlpX."),
        (r"^(double_layers\.\d+)\.ff_context\.", r"\1.mlpC."),
        (r"^(single_layers\.\d+)\.ff\.", r"\1.mlp."),
        (r"(\.mlp[XC]?)\.linear_([12])$", r"\1.c_fc\2"),
        (r"(\.mlp[XC]?)\.out_projection$", r"\1.c_proj"),
        (r"^(double_layers\.\d+\.attn)\.to_([qkv])$", r"\1.w2\2"),
        (r"^(double_layers\.\d+\.attn)\.to_out\.0$", r"\1.w2o"),
        (r"^(double_layers\.\d+\.attn)\.add_([qkv])_proj$", r"\1.w1\2"),
        (r"^(double_layers\.\d+\.attn)\.to_add_out$", r"\1.w1o"),
        (r"^(single_layers\.\d+\.attn)\.to_([qkv])$", r"\1.w1\2"),
        (r"^(single_layers\.\d+\.attn)\.to_out\.0$", r"\1.w1o"),
    ),
)
SANA = Family(
    "Sana",
    renames=(
        (r"^patch_embed\.proj$", "x_embedder.proj"),
        (r"^time_embed\.emb\.timestep_embedder\.linear_1$", "t_embedder.mlp.0"),
        (r"^time_embed\.emb\.timestep_embedder\.linear_2$", "t_embedder.mlp.2"),
        (r"^time_embed\.linear$", "t_block.1"),
        (r"^caption_projection\.linear_([12])$", r"y_embedder.y_proj.fc\1"),
        (r"^caption_norm$", "attention_y_norm"),
        (r"^scale_shift_table$", "final_layer.scale_shift_table"),
        (r"^proj_out$", "final_layer.linear"),
        (r"^transformer_blocks\.", "blocks."),
        (r"\.attn1\.to_out\.0$", ".attn.proj"),
        (r"\.attn2\.to_q$", ".cross_attn.q_linear"),
        (r"\.attn2\.to_out\.0$", ".cross_attn.proj"),
        (r"\.ff\.conv_inverted$", ".mlp.inverted_conv.conv"),
        (r"\.ff\.conv_depth$", ".mlp.depth_conv.conv"),
        (r"\.ff\.conv_point$", ".mlp.point_conv.conv"),
    ),
    splits=(
        Split("blocks.{}.attn.qkv", "transformer_blocks.{}.attn1.", _QKV),
        Split("blocks.{}.cross_attn.kv_linear", "transformer_blocks.{}.attn2.", ("to_k", "to_v")),
    ),
)
FLUX3 = Family(
    "Flux 3",
    renames=(
        (r"^timestep_embedder\.linear_1$", "time_in.in_layer"),
        (r"^timestep_embedder\.linear_2$", "time_in.out_layer"),
        (r"^target_timestep_embedder\.linear_1$", "ref_time_in.in_layer"),
        (r"^target_timestep_embedder\.linear_2$", "ref_time_in.out_layer"),
        (r"^proj_out$", "final_layer.image.linear"),
        (r"^norm_out\.linear$", "final_layer.image.adaLN_modulation.1"),
        (r"^x_embedders\.", "emb_in."),
        (r"^context_embedder\.", "txt_in."),
        (r"^mode_blocks\.", "content_mode_blocks."),
        (r"^single_transformer_blocks\.", "single_blocks."),
        (r"\.attn\.to_([qkv])$", r".\1_proj"),
        (r"\.attn\.to_out\.0$", ".attn_out"),
        (r"\.attn\.norm_q$", ".norm.query_norm"),
        (r"\.attn\.norm_k$", ".norm.key_norm"),
        (r"\.ff\.linear_in$", ".mlp_in"),
        (r"\.ff\.linear_out$", ".mlp_out"),
        (r"(modulation\w*)\.linear$", r"\1.lin"),
    ),
)
KREA = Family(
    "Krea 2",
    renames=(
        (r"^img_in$", "first"),
        (r"^time_embed\.linear_1$", "tmlp.0"),
        (r"^time_embed\.linear_2$", "tmlp.2"),
        (r"^time_mod_proj$", "tproj.1"),
        (r"^txt_in\.norm$", "txtmlp.0"),
        (r"^txt_in\.linear_1$", "txtmlp.1"),
        (r"^txt_in\.linear_2$", "txtmlp.3"),
        (r"^text_fusion\.", "txtfusion."),
        (r"^transformer_blocks\.", "blocks."),
        (r"^final_layer\.linear$", "last.linear"),
        (r"^final_layer\.norm$", "last.norm"),
        (r"^final_layer\.scale_shift_table$", "last.modulation.lin"),
        (r"\.attn\.to_([qkv])$", r".attn.w\1"),
        (r"\.attn\.to_out\.0$", ".attn.wo"),
        (r"\.attn\.to_gate$", ".attn.gate"),
        (r"\.attn\.norm_q$", ".attn.qknorm.qnorm"),
        (r"\.attn\.norm_k$", ".attn.qknorm.knorm"),
        (r"\.ff\.", ".mlp."),
        (r"\.norm1$", ".prenorm"),
        (r"\.norm2$", ".postnorm"),
        (r"\.scale_shift_table$", ".mod.lin"),
    ),
)
QWEN21 = Family(
    "Qwen-Image 2.1 of ComfyUI",
    splits=(Split("transformer_blocks.{}.img_mlp.gate_up", "transformer_blocks.{}.img_mlp.", ("gate_layer", "proj")),),
)
LUMINA = Family(
    "Lumina 2 and Z-Image",
    renames=(
        (r"^all_(x_embedder|final_layer)\.[\d-]+", r"\1"),
        (r"^norm_out\.linear_1$", "final_layer.adaLN_modulation.1"),
        (r"^norm_out\.linear_2$", "final_layer.linear"),
        (r"^time_caption_embed\.timestep_embedder\.linear_1$", "t_embedder.mlp.0"),
        (r"^time_caption_embed\.timestep_embedder\.linear_2$", "t_embedder.mlp.2"),
        (r"^time_caption_embed\.caption_embedder\.", "cap_embedder."),
        (r"\.norm1\.linear$", ".adaLN_modulation.1"),
        (r"\.attn\.to_out\.0$", ".attention.out"),
        (r"\.attention\.to_out\.0$", ".attention.out"),
        (r"\.attn(?:ention)?\.norm_([qk])$", r".attention.\1_norm"),
        (r"\.feed_forward\.linear_([123])$", r".feed_forward.w\1"),
    ),
    splits=tuple(
        Split(f"{blocks}.{{}}.attention.qkv", f"{blocks}.{{}}.{attention}.", _QKV)
        for blocks in ("layers", "noise_refiner", "context_refiner")
        for attention in ("attn", "attention")
    ),
)
# Another name of the same output projection (Ideogram 4).
IDEOGRAM = Family("Ideogram", renames=((r"\.attention\.to_out\.0$", ".attention.o"),), splits=LUMINA.splits)
COSMOS = Family(
    "Cosmos",
    renames=(
        (r"^transformer_blocks\.(\d+)\.", r"blocks.\1."),
        (r"\.norm1\.linear_([12])$", r".adaln_modulation_self_attn.\1"),
        (r"\.norm2\.linear_([12])$", r".adaln_modulation_cross_attn.\1"),
        (r"\.norm3\.linear_([12])$", r".adaln_modulation_mlp.\1"),
        (r"\.attn1\.", ".self_attn."),
        (r"\.attn2\.", ".cross_attn."),
        (r"_attn\.to_([qkv])$", r"_attn.\1_proj"),
        (r"_attn\.to_out\.0$", "_attn.output_proj"),
        (r"_attn\.norm_([qk])$", r"_attn.\1_norm"),
        (r"\.ff\.net\.0\.proj$", ".mlp.layer1"),
        (r"\.ff\.net\.2$", ".mlp.layer2"),
        (r"^norm_out\.linear_([12])$", r"final_layer.adaln_modulation.\1"),
        (r"^proj_out$", "final_layer.linear"),
        (r"^time_embed\.t_embedder\.", "t_embedder.1."),
        (r"^patch_embed\.proj$", "x_embedder.proj.1"),
    ),
)
ACE = Family("ACE-Step", renames=((r"_attn\.to_([qkv])$", r"_attn.\1_proj"), (r"_attn\.to_out\.0$", "_attn.o_proj")))

# --- text encoders -----------------------------------------------------------------------------------------------

# With or without the wrapper of older transformers, under the names of diffusers' first LoRAs, and OpenCLIP's.
_CLIP_SIMPLE = (
    (r"^text_model\.", ""),
    (r"self_attn\.([qkv])_proj$", r"self_attn.to_\1"),
    (r"self_attn\.out_proj$", "self_attn.to_out"),
)
TEXT_OLD = Family("diffusers' first text encoders", renames=_CLIP_SIMPLE)
OPENCLIP = Family(
    "OpenCLIP",
    renames=(
        (r"^(?:text_model\.)?encoder\.layers\.(\d+)\.self_attn\.out_proj$", r"transformer.resblocks.\1.attn.out_proj"),
        (r"^(?:text_model\.)?encoder\.layers\.(\d+)\.mlp\.fc1$", r"transformer.resblocks.\1.mlp.c_fc"),
        (r"^(?:text_model\.)?encoder\.layers\.(\d+)\.mlp\.fc2$", r"transformer.resblocks.\1.mlp.c_proj"),
    ),
    splits=tuple(
        Split(
            "transformer.resblocks.{}.attn.in_proj",
            f"{root}encoder.layers.{{}}.self_attn.",
            ("q_proj", "k_proj", "v_proj"),
        )
        for root in ("", "text_model.")
    ),
)

DIFFUSERS = Family("diffusers")
FAMILIES = (
    DIFFUSERS,
    UNET,
    BFL,
    XLABS,
    MMDIT,
    WAN,
    LTX,
    HUNYUAN,
    LUMINA,
    IDEOGRAM,
    COSMOS,
    MOCHI,
    MINIMAX,
    AURA,
    SANA,
    FLUX3,
    KREA,
    QWEN21,
    ACE,
    TEXT_OLD,
    OPENCLIP,
)
