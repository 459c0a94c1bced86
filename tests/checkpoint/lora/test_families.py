# SPDX-License-Identifier: MIT
"""The names of other tools against diffusers' converters of checkpoints: each row goes to the module that they say."""

from __future__ import annotations

import unittest
from typing import Any

import torch

from localai_diffusers.checkpoint.lora import families, names
from localai_diffusers.checkpoint.lora.families import Family

# Of each family: a class and a config of it with few layers; rows are as many as in the published model where the
# converter splits at fixed numbers.
MODELS: dict[str, tuple[Family, str, dict[str, Any]]] = {
    "Flux": (
        families.BFL,
        "FluxTransformer2DModel",
        {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True},
    ),
    "Flux 2": (families.BFL, "Flux2Transformer2DModel", {"num_layers": 2, "num_single_layers": 2}),
    "Chroma": (families.BFL, "ChromaTransformer2DModel", {"num_layers": 2, "num_single_layers": 2}),
    "SD3.5": (
        families.MMDIT,
        "SD3Transformer2DModel",
        {"num_layers": 3, "dual_attention_layers": (0,), "qk_norm": "rms_norm", "caption_projection_dim": 1152},
    ),
    "Wan": (families.WAN, "WanTransformer3DModel", {"num_layers": 2, "image_dim": 8, "added_kv_proj_dim": 8}),
    "Wan VACE": (families.WAN, "WanVACETransformer3DModel", {"num_layers": 2, "vace_layers": [0, 1]}),
    "LTX": (families.LTX, "LTXVideoTransformer3DModel", {"num_layers": 2}),
    "LTX 2": (families.LTX, "LTX2VideoTransformer3DModel", {"num_layers": 2}),
    "HunyuanVideo": (families.HUNYUAN, "HunyuanVideoTransformer3DModel", {"num_layers": 2, "num_single_layers": 2}),
    "Lumina 2": (families.LUMINA, "Lumina2Transformer2DModel", {"num_layers": 2}),
    "Z-Image": (families.LUMINA, "ZImageTransformer2DModel", {"n_layers": 2}),
    "Cosmos": (families.COSMOS, "CosmosTransformer3DModel", {"num_layers": 2}),
    "Mochi": (families.MOCHI, "MochiTransformer3DModel", {"num_layers": 48}),
    "AuraFlow": (families.AURA, "AuraFlowTransformer2DModel", {"num_mmdit_layers": 2, "num_single_dit_layers": 2}),
    "Sana": (families.SANA, "SanaTransformer2DModel", {"num_layers": 2}),
    "Flux 3": (families.FLUX3, "Flux3Transformer2DModel", {}),
    "Krea 2": (families.KREA, "Krea2Transformer2DModel", {}),
    "Qwen-Image 2.1": (families.QWEN21, "QwenImage21Transformer2DModel", {}),
    "MiniMax H3": (families.MINIMAX, "MiniMaxH3Transformer3DModel", {}),
    "SD": (families.UNET, "UNet2DConditionModel", {}),
    "SDXL": (
        families.UNET,
        "UNet2DConditionModel",
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 3),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
}

# What a converter asks for beside the weights of modules.
MORE = {
    "SD3.5": {"pos_embed": torch.zeros(1)},
    "Sana": {"pos_embed": torch.zeros(1), "y_embedder.y_embedding": torch.zeros(1)},
}


def described(class_name: str, config: dict[str, Any]) -> Any:
    """The model on the meta device."""
    import diffusers
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=True):
        return getattr(diffusers, class_name).from_config(config)


def original_checkpoint(places: dict[str, names.Place], layers: Any) -> dict[str, torch.Tensor]:
    """A checkpoint in the original names whose rows are numbered: row r of tensor n is n * 2**20 + r. Two columns stand
    for all, so that the converters of published sizes can run."""
    found = {}
    for number, (name, place) in enumerate(places.items()):
        kinds = [layers[target] for target in place.targets]
        if kinds[0].kind == "parameter":
            found[name] = torch.full(kinds[0].shape, float(number * 2**20), dtype=torch.float64)
            continue
        rows = torch.arange(sum(kind.shape[0] for kind in kinds), dtype=torch.float64) + number * 2**20
        found[f"{name}.weight"] = rows.reshape(-1, *[1] * (len(kinds[0].shape) - 1)).expand(
            -1, *([2] * (len(kinds[0].shape) > 1)), *[1] * (len(kinds[0].shape) - 2)
        )
        if kinds[0].has_bias:
            found[f"{name}.bias"] = rows.clone()
    return found


class FamiliesTest(unittest.TestCase):
    def check(self, name: str) -> None:
        from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

        family, class_name, config = MODELS[name]
        model = described(class_name, config)
        layers = names.layers_of(model)
        places = {
            alias: names.Place("", targets, any(layers[target].swaps for target in targets))
            for alias, targets in families.aliases(family, layers).items()
        }
        known = {target for place in places.values() for target in place.targets}
        places |= {own: names.Place("", (own,)) for own in layers if own not in known}
        checkpoint = original_checkpoint(places, layers)
        convert = SINGLE_FILE_LOADABLE_CLASSES[class_name]["checkpoint_mapping_fn"]
        prefix = "model.diffusion_model." if family is families.UNET else ""
        given = {prefix + key: value for key, value in checkpoint.items()} | MORE.get(name, {})
        norms = ("norm", "txtmlp.0.")  # whose weight the original code calls a scale
        given |= {k.replace(".weight", ".scale"): v for k, v in given.items() if any(norm in k for norm in norms)}
        made = convert(given, config=dict(model.config))
        for original, place in places.items():
            self.compare(original, place, checkpoint, made, layers)

    def compare(self, original: str, place: names.Place, checkpoint: Any, made: Any, layers: Any) -> None:
        if layers[place.targets[0]].kind == "parameter":
            self.assertTrue(torch.equal(made[place.targets[0]], checkpoint[original]), original)
            return
        rows = checkpoint[f"{original}.weight"].flatten(1)[:, 0] if checkpoint[f"{original}.weight"].ndim > 1 else None
        rows = checkpoint[f"{original}.weight"] if rows is None else rows
        rows = torch.cat(rows.chunk(2)[::-1]) if place.swapped else rows
        parts = rows.split([layers[target].shape[0] for target in place.targets])
        for target, part in zip(place.targets, parts, strict=True):
            got = made[f"{target}.weight"]
            self.assertTrue(torch.equal(got.flatten(1)[:, 0] if got.ndim > 1 else got, part), f"{original} -> {target}")


def _case(name: str) -> Any:
    return lambda self: self.check(name)


for _name in MODELS:
    setattr(FamiliesTest, f"test_{_name.lower().replace(' ', '_').replace('.', '_').replace('-', '_')}", _case(_name))


if __name__ == "__main__":
    unittest.main()
