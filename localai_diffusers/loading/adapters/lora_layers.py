# SPDX-License-Identifier: MIT
"""A fitted LoRA on the modules of a loaded pipeline: PEFT's layers, or differences added to the weights.

PEFT takes the plain pairs of linear layers and convolutions, whose scale can change from call to call. All else is
added to the model's own weights once, in float32, at its scale; a scale of 0 leaves them as they are. A pipeline is
dropped whole with what was added to it: nothing is taken off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localai_diffusers.checkpoint.lora import differences
from localai_diffusers.checkpoint.lora.file import LoraFile
from localai_diffusers.checkpoint.lora.fit import Change, Fit
from localai_diffusers.checkpoint.lora.names import Layers
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.placing import quantizers


@dataclass(frozen=True)
class Piecemeal:
    """A layer of the file with its tensors by piece, and what its low-rank difference is multiplied by."""

    change: Change
    tensors: Mapping[str, Any]
    factor: float


_PLAIN_PAIR = {"down", "up", "alpha", *differences.BIASES}
_PACKABLE = ("linear", "conv")


def put_on(pipeline: Any, name: str, label: str, scale: float, file: LoraFile, fit: Fit) -> None:
    """Put one LoRA on under PEFT's ``name``; :func:`activate` sets the scales. Raises LoadError naming it by ``label``
    where its differences cannot be added: weights that are packed or not here."""
    read = file.tensors({key for change in fit.changes for key in change.pieces.values()})
    for component in dict.fromkeys(change.place.component for change in fit.changes):
        model = getattr(pipeline, component)
        mine = [
            Piecemeal(change, {piece: read[key] for piece, key in change.pieces.items()}, file.factor(change))
            for change in fit.changes
            if change.place.component == component
        ]
        _widen(pipeline, model, mine)
        for one in mine:
            _add(model, one, scale, f"LoraAdapter {label!r}")
        pairs = [one for one in mine if takes_peft(one.change, _kinds(model, one.change))]
        if pairs:
            _inject(model, name, pairs)


def activate(pipeline: Any, scales: Mapping[str, float]) -> None:
    """Set all of PEFT's layers to these scales, by name."""
    import torch
    from diffusers.utils.peft_utils import set_weights_and_activate_adapters

    for part in pipeline.components.values():
        mine = getattr(part, "peft_config", {}) if isinstance(part, torch.nn.Module) else {}
        known = [name for name in scales if name in mine]
        if known:
            set_weights_and_activate_adapters(part, known, [scales[name] for name in known])


def takes_peft(change: Change, kinds: Sequence[str]) -> bool:
    """Whether PEFT can take the layer's weights: a plain pair on modules of kinds that it wraps."""
    return {"down", "up"} <= change.pieces.keys() <= _PLAIN_PAIR and all(kind in _PACKABLE for kind in kinds)


def check_plain(label: str, component: str, fit: Fit, layers: Layers) -> None:
    """Raise LoadError where the LoRA has differences for weights that a quantized component keeps packed."""
    for change in fit.changes:
        kinds = [layers[target].kind for target in change.place.targets]
        if change.place.component == component and "linear" in kinds and not takes_peft(change, kinds):
            if differences.kinds(change.pieces):
                raise _packed(f"LoraAdapter {label!r}", change, component)


def _packed(what: str, change: Change, component: str) -> LoadError:
    kind = differences.kinds(change.pieces)[0].name
    kind = f"DoRA ({kind})" if {"dora_scale", "magnitude"} & change.pieces.keys() else kind
    return LoadError(
        f"{what}: {change.layer} is a {kind}, which is added to the weights, and those of {component} are quantized: "
        "load the model unquantized, or use a LoRA of plain pairs"
    )


def _kinds(model: Any, change: Change) -> list[str]:
    from localai_diffusers.checkpoint.lora.names import kind_of

    return [kind_of(model, target) for target in change.place.targets]


# --- PEFT --------------------------------------------------------------------------------------------------------


def _inject(model: Any, name: str, layers: Sequence[Piecemeal]) -> None:
    """PEFT's layers around the modules, with the file's pairs in the modules' own dtype."""
    from peft import LoraConfig, inject_adapter_in_model

    ranks = {target: one.tensors["down"].shape[0] for one in layers for target in one.change.place.targets}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    config = LoraConfig(
        r=usual,
        lora_alpha=usual,
        target_modules=list(ranks),
        # PEFT looks for a pattern at the end of a name unless it says where the name begins.
        rank_pattern={f"^{target}": rank for target, rank in ranks.items() if rank != usual},
        alpha_pattern={f"^{target}": rank for target, rank in ranks.items() if rank != usual},
        inference_mode=True,
    )
    keys = {f"{target}.lora_A.weight": None for target in ranks}  # which modules, to the letter
    inject_adapter_in_model(config, model, adapter_name=name, state_dict=keys)
    model._hf_peft_config_loaded = True
    for one in layers:
        _fill(model, name, one)


def _fill(model: Any, name: str, one: Piecemeal) -> None:
    down, up = one.tensors["down"], one.tensors["up"]
    up = _swapped(up) if one.change.place.swapped else up
    first = 0
    for target in one.change.place.targets:
        layer = model.get_submodule(target)
        rows = layer.lora_B[name].weight.shape[0]
        _copy(layer.lora_A[name].weight, down)
        _copy(layer.lora_B[name].weight, up[first : first + rows])
        layer.lora_alpha[name] = one.factor * layer.r[name]
        layer.set_scale(name, 1.0)
        first += rows


def _copy(parameter: Any, tensor: Any) -> None:
    """The numbers in the parameter's shape and dtype; inputs that the tensor lacks count nothing."""
    columns = tensor.flatten(1).to(parameter.dtype)
    data = parameter.data.flatten(1)
    data.zero_()
    data[:, : columns.shape[1]] = columns.to(data.device)
    parameter.data = data.view(parameter.shape)


def _widen(pipeline: Any, model: Any, layers: Sequence[Piecemeal]) -> None:
    """Widen the layer that takes the latents for a Control LoRA, by diffusers' own rule."""
    for one in layers:
        if one.change.place.targets == ("x_embedder",) and "down" in one.tensors:
            pair = {"lora_A": one.tensors["down"], "lora_B": one.tensors["up"]}
            if pair["lora_A"].shape[1] > getattr(_module(model, "x_embedder"), "in_features", math.inf):
                state = {f"x_embedder.{half}.weight": tensor for half, tensor in pair.items()}
                pipeline._maybe_expand_transformer_param_shape_or_error_(model, state, None)


# --- differences -------------------------------------------------------------------------------------------------


def _add(model: Any, one: Piecemeal, scale: float, what: str) -> None:
    """Add to the modules' weights and biases what PEFT does not take of the layer."""
    if scale == 0:
        return
    if differences.kinds(one.tensors) and not takes_peft(one.change, _kinds(model, one.change)):
        _add_to_weights(model, one, scale, what)
    if differences.BIASES & one.tensors.keys():
        _add_to_biases(model, one, scale)


def _add_to_weights(model: Any, one: Piecemeal, scale: float, what: str) -> None:
    import torch

    change = one.change
    weights = [_weight(model, target) for target in change.place.targets]
    if any(not quantizers.is_plain(weight) for weight in weights):
        raise _packed(what, change, change.place.component)
    if any(weight.is_meta for weight in weights):
        raise LoadError(
            f"{what}: the weights of {change.place.targets[0]} are not in memory: load without offload_folder"
        )
    before = torch.cat([_as_matrix(weight) for weight in weights])
    before = _swapped(before) if change.place.swapped else before
    shape = (before.shape[0], *weights[0].shape[1:])
    after = _changed(before, shape, one, scale)
    after = _swapped(after) if change.place.swapped else after
    counts = [_as_matrix(weight).shape[0] for weight in weights]
    for weight, rows in zip(weights, after.split(counts), strict=True):
        weight.data = rows.reshape(weight.shape).to(weight.dtype)


def _changed(before: Any, shape: tuple[int, ...], one: Piecemeal, scale: float) -> Any:
    """The weight (rows by columns) at this scale. A DoRA of kohya's form goes the part ``scale`` of the way to what it
    makes of the weight; of PEFT's form the pair is scaled before the norms."""
    tensors = {piece: tensor.to(before.device) for piece, tensor in one.tensors.items()}
    moved = tensors["set"].float().reshape(before.shape) if "set" in tensors else before
    added = differences.weight_difference(tensors, one.factor)
    if added is not None:
        moved = moved + _as_wide(added, before)
    if "magnitude" in tensors and added is not None:
        return differences.decomposed(shape, before + scale * (moved - before), tensors["magnitude"].flatten())
    if "dora_scale" in tensors:
        moved = differences.decomposed(shape, moved, tensors["dora_scale"])
    return before + scale * (moved - before)


def _as_wide(added: Any, weight: Any) -> Any:
    """The difference with as many columns as the weight: inputs that the file does not know are left alone."""
    import torch

    if added.numel() == weight.numel():
        return added.reshape(weight.shape)
    return torch.nn.functional.pad(added, (0, weight.shape[1] - added.shape[1]))


def _add_to_biases(model: Any, one: Piecemeal, scale: float) -> None:
    """``diff_b`` as it is, PEFT's bias of the upper half by the pair's factor, ``set_b`` in the bias' place."""
    import torch

    first = 0
    for target in one.change.place.targets:
        module = _module(model, target)
        rows = module.out_features if hasattr(module, "out_features") else module.weight.shape[0]
        own = getattr(module, "bias", None)
        bias = own.float() if own is not None else torch.zeros(rows, device=module.weight.device)
        moved = bias
        for piece, by in (("set_b", None), ("diff_b", 1.0), ("up_bias", one.factor)):
            if piece in one.tensors:
                part = _rows_of(one.tensors[piece], one.change, first, rows).to(bias.device)
                moved = part if by is None else moved + by * part
        dtype = own.dtype if own is not None else module.weight.dtype
        module.bias = torch.nn.Parameter((bias + scale * (moved - bias)).to(dtype), requires_grad=False)
        first += rows


def _rows_of(tensor: Any, change: Change, first: int, rows: int) -> Any:
    whole = tensor.float().flatten()
    whole = _swapped(whole) if change.place.swapped else whole
    return whole[first : first + rows]


def _module(model: Any, target: str) -> Any:
    """The model's own module of this name, whatever PEFT has put around it."""
    module = model.get_submodule(target)
    return getattr(module, "base_layer", module)


def _weight(model: Any, target: str) -> Any:
    """The module's weight, or the parameter of this name."""
    import torch

    owner, _, name = target.rpartition(".")
    found = getattr(model.get_submodule(owner), name)
    return _module(model, target).weight if isinstance(found, torch.nn.Module) else found


def _as_matrix(weight: Any) -> Any:
    return weight.detach().float().reshape(weight.shape[0] if weight.ndim else 1, -1)


def _swapped(rows: Any) -> Any:
    """The second half of the rows before the first."""
    import torch

    return torch.cat(list(reversed(rows.chunk(2))))
