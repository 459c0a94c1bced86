# SPDX-License-Identifier: MIT
"""LoRA files of every kind, written as trainers name them, with the weights that they should make, computed by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.adapter_files import save
from tests.zoo import checkpoint

Tensor = torch.Tensor
RANK = 2


class Made(NamedTuple):
    """A layer's pieces by kohya's endings, and its weight (in its own shape) at a scale."""

    pieces: dict[str, Tensor]
    weight: Callable[[float], Tensor]


def _pair(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Low-rank factors of a weight's shape whose product is about as large as the weight."""
    down = torch.randn(RANK, *weight.shape[1:]) / weight[0].numel() ** 0.5
    up = torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2))
    return down, up


def _product(down: Tensor, up: Tensor) -> Tensor:
    """Summed rank by rank."""
    total = torch.zeros(up.shape[0], *down.shape[1:])
    for one in range(down.shape[0]):
        total += up[:, one].reshape(-1, *[1] * (down.ndim - 1)) * down[one]
    return total


def lora(weight: Tensor) -> Made:
    down, up = _pair(weight)
    made = _product(down, up) * (3.0 / RANK)
    return Made(
        {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(3.0)},
        lambda scale: weight + scale * made,
    )


def lora_without_alpha(weight: Tensor) -> Made:
    down, up = _pair(weight)
    return Made({"lora_down.weight": down, "lora_up.weight": up}, lambda scale: weight + scale * _product(down, up))


def lora_of_fp8(weight: Tensor) -> Made:
    down, up = (tensor.to(torch.float8_e4m3fn) for tensor in _pair(weight))
    made = _product(down.float(), up.float()) * (1.0 / RANK)
    pieces = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0, dtype=torch.float16)}
    return Made(pieces, lambda scale: weight + scale * made)


def full(weight: Tensor) -> Made:
    added = torch.randn_like(weight) * weight.std()
    return Made({"diff": added}, lambda scale: weight + scale * added)


def replaced(weight: Tensor) -> Made:
    new = torch.randn_like(weight)
    return Made({"set_weight": new}, lambda scale: weight + scale * (new - weight))


def loha(weight: Tensor) -> Made:
    flat = weight.flatten(1)
    left = [torch.randn(flat.shape[0], RANK) for _half in range(2)]
    right = [torch.randn(RANK, flat.shape[1]) / RANK for _half in range(2)]
    made = torch.stack([left[0] @ right[0], left[1] @ right[1]]).prod(0).reshape(weight.shape) * (1.0 / RANK)
    pieces = {"hada_w1_a": left[0], "hada_w1_b": right[0], "hada_w2_a": left[1], "hada_w2_b": right[1]}
    return Made({**pieces, "alpha": torch.tensor(1.0)}, lambda scale: weight + scale * made)


def _halves(size: int) -> tuple[int, int]:
    small = next(count for count in (4, 3, 2, 1) if size % count == 0)
    return small, size // small


def _blocks(first: Tensor, second: Tensor) -> Tensor:
    """The Kronecker product, block by block."""
    rows = [torch.cat([first[i, j] * second for j in range(first.shape[1])], dim=1) for i in range(first.shape[0])]
    return torch.cat(rows, dim=0)


def lokr_whole(weight: Tensor) -> Made:
    """Two whole factors: the alpha counts nothing."""
    (a, c), (b, d) = _halves(weight.shape[0]), _halves(weight.shape[1])
    first, second = torch.randn(a, b), torch.randn(c, d, *weight.shape[2:]) * weight.std()
    pieces = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(1e6)}
    return Made(pieces, lambda scale: weight + scale * _blocks(first, second))


def lokr(weight: Tensor) -> Made:
    (a, c), (b, d) = _halves(weight.shape[0]), _halves(weight.shape[1])
    first, left = torch.randn(a, b), torch.randn(c, RANK)
    right = torch.randn(RANK, d, *weight.shape[2:]) * weight.std()
    second = torch.tensordot(left, right, dims=1)
    pieces = {"lokr_w1": first, "lokr_w2_a": left, "lokr_w2_b": right, "alpha": torch.tensor(1.0)}
    return Made(pieces, lambda scale: weight + scale * _blocks(first, second) / RANK)


def _dora(weight: Tensor, axis: int) -> Made:
    down, up = _pair(weight)
    moved = weight + _product(down, up)
    others = [dim for dim in range(weight.ndim) if dim != axis]
    norm = moved.square().sum(dim=others, keepdim=True).sqrt()
    magnitude = norm * (1.5 + torch.rand_like(norm))
    made = magnitude * moved / norm
    shape = [1] * weight.ndim
    shape[axis] = weight.shape[axis]
    pieces = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(float(RANK))}
    return Made({**pieces, "dora_scale": magnitude.reshape(shape)}, lambda scale: weight + scale * (made - weight))


def dora_of_lokr(weight: Tensor) -> Made:
    inner = lokr(weight)
    moved = inner.weight(1.0)
    norm = moved.square().sum(dim=list(range(1, weight.ndim)), keepdim=True).sqrt()
    magnitude = 2 * torch.rand_like(norm)
    made = magnitude * moved / norm
    pieces = {**inner.pieces, "dora_scale": magnitude}
    return Made(pieces, lambda scale: weight + scale * (made - weight))


def dora_of_rows(weight: Tensor) -> Made:
    return _dora(weight, 0)


def dora_of_inputs(weight: Tensor) -> Made:
    return _dora(weight, 1)


def locon_with_a_middle(weight: Tensor) -> Made:
    """A convolution in three: its weight is what the three make of single pixels."""
    down = torch.randn(RANK, weight.shape[1], 1, 1)
    mid = torch.randn(RANK, RANK, *weight.shape[2:]) / weight[0].numel() ** 0.5
    up = torch.randn(weight.shape[0], RANK, 1, 1)
    size = weight.shape[-1]
    pixels = torch.zeros(weight.shape[1], weight.shape[1], 2 * size - 1, 2 * size - 1)
    pixels[range(weight.shape[1]), range(weight.shape[1]), size - 1, size - 1] = 1
    drawn = torch.conv2d(torch.conv2d(torch.conv2d(pixels, down), mid), up)  # the kernel, upside down and mirrored
    made = drawn.flip(-1, -2).transpose(0, 1) * (1.0 / RANK)
    pieces = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(1.0)}
    return Made(pieces, lambda scale: weight + scale * made)


KINDS: Mapping[str, Callable[[Tensor], Made]] = {
    kind.__name__: kind
    for kind in (
        lora,
        lora_without_alpha,
        lora_of_fp8,
        full,
        replaced,
        loha,
        lokr_whole,
        lokr,
        dora_of_rows,
        dora_of_inputs,
        dora_of_lokr,
    )
}


class Layer(NamedTuple):
    """A layer as a trainer sees it: its dotted name in their code, and the modules of the component whose rows it has;
    ``swapped`` where the two halves of its rows are the other way round in diffusers."""

    name: str
    component: str
    targets: tuple[str, ...]
    swapped: bool = False


Container = Callable[[Layer, str], str]
_PEFT = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
_KOHYA = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3"}
_COMFY = {
    "text_encoder": "text_encoders.clip_l.transformer",
    "text_encoder_2": "text_encoders.clip_g.transformer",
    "text_encoder_3": "text_encoders.t5xxl.transformer",
}


def kohya(layer: Layer, ending: str) -> str:
    return f"{_KOHYA.get(layer.component, 'lora_unet')}_{layer.name.replace('.', '_')}.{ending}"


def comfy(layer: Layer, ending: str) -> str:
    return f"{_COMFY.get(layer.component, 'diffusion_model')}.{layer.name}.{ending}"


def of_diffusers(layer: Layer, ending: str) -> str:
    return f"{layer.component}.{layer.name}.{_PEFT.get(ending, ending)}"


def of_peft(layer: Layer, ending: str) -> str:
    """get_peft_model's, with the adapter's name left in."""
    form = {"lora_down.weight": "lora_A.style.weight", "lora_up.weight": "lora_B.style.weight"}
    return f"base_model.model.{layer.name}.{form.get(ending, ending)}"


def bare(layer: Layer, ending: str) -> str:
    return f"{layer.name}.{_PEFT.get(ending, ending)}"


def one_of(model: Path | str, cls: str = "DiffusionPipeline") -> Any:
    """The pipeline in fp32."""
    import diffusers

    folder = model if isinstance(model, Path) else checkpoint(model)
    return getattr(diffusers, cls).from_pretrained(folder, dtype=torch.float32)


def twin(pipeline: Any) -> Any:
    """The same pipeline with weights of its own."""
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items()}
    keys = type(pipeline)._get_signature_keys(type(pipeline))[0]
    return type(pipeline)(**{name: part for name, part in parts.items() if name in keys})


def weight_of(pipeline: Any, component: str, target: str) -> Tensor:
    """A module's weight with all that is on it: its own, and PEFT's layers as PEFT would merge them."""
    module = getattr(pipeline, component).get_submodule(target)
    own = getattr(module, "base_layer", module).weight.detach().clone()
    for name in getattr(module, "active_adapters", ()):
        own += module.get_delta_weight(name) if name in module.lora_A else 0
    return own


def write(
    path: Path, pipeline: Any, layers: Sequence[Layer], kind: Callable[[Tensor], Made], container: Container
) -> Callable[[float], dict[tuple[str, str], Tensor]]:
    """The file; and the weights that it should make at a scale, by component and module."""
    torch.manual_seed(0)
    made: dict[Layer, Made] = {}
    for layer in layers:
        weights = [weight_of(pipeline, layer.component, target) for target in layer.targets]
        whole = torch.cat(weights)
        made[layer] = kind(_other_way_round(whole) if layer.swapped else whole)
    save({container(layer, ending): piece for layer in layers for ending, piece in made[layer].pieces.items()}, path)

    def right(scale: float) -> dict[tuple[str, str], Tensor]:
        found = {}
        for layer, one in made.items():
            rows = _other_way_round(one.weight(scale)) if layer.swapped else one.weight(scale)
            counts = [weight_of(pipeline, layer.component, target).shape[0] for target in layer.targets]
            for target, part in zip(layer.targets, rows.split(counts), strict=True):
                found[layer.component, target] = part
        return found

    return right


def _other_way_round(rows: Tensor) -> Tensor:
    half = rows.shape[0] // 2
    return torch.cat([rows[half:], rows[:half]])
