# SPDX-License-Identifier: MIT
"""Small random files that go onto or into a tiny model: LoRA, ControlNet, IP-Adapter, components, GGUF."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.zoo import checkpoint

Weights = dict[str, Any]


def weights_of(folder: Path) -> Weights:
    """All tensors of a component's folder."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def save(weights: Weights, path: Path) -> Path:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata={"format": "pt"})
    return path


def lora(model: Path, path: Path, part: str = "unet", size: float = 2.0) -> Path:
    """A LoRA for the denoiser of a pipeline folder, as diffusers saves one.

    At ``size`` 2 it is seen and the network stays steady: at 5 a difference in the last digits of a UNet's layer grows
    to a level of the picture."""
    import diffusers
    import torch
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = diffusers.DiffusionPipeline.from_pretrained(model)
    denoiser = getattr(pipeline, part)
    torch.manual_seed(0)
    denoiser.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]))
    layers = {name: tensor * size for name, tensor in get_peft_model_state_dict(denoiser).items()}
    type(pipeline).save_lora_weights(path.parent, weight_name=path.name, **{f"{part}_lora_layers": layers})
    return path


def weights_of_file(file: Path) -> Weights:
    from safetensors.torch import load_file

    return load_file(file)


def kohya(source: Path, path: Path) -> Path:
    """A LoRA of diffusers under the names that kohya's trainer gives, alpha as large as the rank."""
    import torch

    found: Weights = {}
    for key, tensor in weights_of_file(source).items():
        layer, _, kind = key.removeprefix("unet.").rpartition(".lora_")
        name = "lora_unet_" + layer.replace(".", "_")
        found[f"{name}.lora_{'down' if kind.startswith('A') else 'up'}.weight"] = tensor
        found[f"{name}.alpha"] = torch.tensor(4.0)
    return save(found, path)


def text_lora(model: Path, path: Path, size: float = 5.0) -> Path:
    """A LoRA for the text encoder of a pipeline folder alone."""
    import diffusers
    import torch
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = diffusers.DiffusionPipeline.from_pretrained(model)
    torch.manual_seed(0)
    pipeline.text_encoder.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    layers = {name: tensor * size for name, tensor in get_peft_model_state_dict(pipeline.text_encoder).items()}
    type(pipeline).save_lora_weights(path.parent, weight_name=path.name, text_encoder_lora_layers=layers)
    return path


def component(name: str, part: str, folder: Path, scale: float = 1.5) -> Path:
    """A copy of a zoo model's component with its weights scaled."""
    shutil.copytree(checkpoint(name) / part, folder)
    file = next(folder.glob("*.safetensors"))
    save({key: tensor * scale for key, tensor in weights_of(folder).items()}, file)
    return folder


def controlnet(name: str, folder: Path) -> Path:
    """A copy of a zoo model's ControlNet that has an effect: its outputs begin as zeros."""
    import torch

    shutil.copytree(checkpoint(name) / "controlnet", folder)
    torch.manual_seed(0)
    moved = {key: tensor if tensor.any() else torch.randn_like(tensor) for key, tensor in weights_of(folder).items()}
    save(moved, next(folder.glob("*.safetensors")))
    return folder


def ip_adapter(path: Path, width: int = 32, name: str = "StableDiffusionPipeline") -> Path:
    """An IP-Adapter for the zoo's pipeline ``name``, and the image encoder with its preprocessor beside it."""
    import torch
    import transformers
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(checkpoint(name), subfolder="unet")
    torch.manual_seed(0)
    text = unet.config.cross_attention_dim
    found = {
        "image_proj.proj.weight": torch.randn(text * 4, width),
        "image_proj.proj.bias": torch.randn(text * 4),
        "image_proj.norm.weight": torch.ones(text),
        "image_proj.norm.bias": torch.zeros(text),
    }
    modules = [key.removesuffix(".processor") for key in unet.attn_processors if key.endswith("attn2.processor")]
    for number, module in enumerate(modules):
        keys = unet.get_submodule(module).to_k.out_features
        found |= {f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight": torch.randn(keys, text) for kind in "kv"}
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=width,
    )
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(path.parent / "image_encoder")
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**sides).save_pretrained(path.parent / "image_encoder")
    return save(found, path)


def gguf(weights: Weights, path: Path, architecture: str = "test", **texts: str) -> Path:
    """The weights as a GGUF: what is wide enough in blocks of 8 bits, the rest in fp32;
    ``texts`` are general.* metadata."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    writer, blocks = GGUFWriter(str(path), architecture), GGMLQuantizationType.Q8_0
    for key, text in texts.items():
        writer.add_string(f"general.{key.replace('__', '.')}", text)
    for name, tensor in weights.items():
        array = tensor.float().numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(name, quantize(array, blocks), raw_dtype=blocks)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def difference(one: Any, other: Any) -> float:
    """Mean absolute difference of two pictures, 0 to 255, to a hundredth: what the same sums in another order make of
    networks that are steady is less."""
    import numpy

    return round(float(numpy.abs(numpy.asarray(one, dtype=float) - numpy.asarray(other, dtype=float)).mean()), 2)
