"""A fitted LoRA on the modules of a loaded pipeline: PEFT's layers, or differences added to the weights.

PEFT takes the plain pairs of linear layers and convolutions, whose scale can change from call to call. All else is
added to the model's own weights once, in float32, at its scale; a scale of 0 leaves them as they are. A pipeline is
dropped whole with what was added to it: nothing is taken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from localai_diffusers.checkpoint.lora import differences
from localai_diffusers.checkpoint.lora.file import LoraFile
from localai_diffusers.checkpoint.lora.fit import Change, Fit
from localai_diffusers.checkpoint.lora.names import Layers
from localai_diffusers.errors import LoadError

_PLAIN_PAIR = {"down", "up", "alpha", *differences.BIASES}
_PACKABLE = ("linear", "conv")


def put_on(pipeline: Any, name: str, label: str, scale: float, file: LoraFile, fit: Fit) -> None:
    """Put one LoRA on under PEFT's ``name``; :func:`activate` sets the scales. Raises LoadError naming it by ``label``
    where its differences cannot be added: weights that are packed or not here."""
    for component in dict.fromkeys(change.place.component for change in fit.changes):
        model = getattr(pipeline, component)
        mine = [change for change in fit.changes if change.place.component == component]
        _widen(pipeline, model, mine, file)
        for change in mine:
            _add(model, change, file, scale, f"LoraAdapter {label!r}", component)
        pairs = [change for change in mine if takes_peft(change, _kinds(model, change))]
        if pairs:
            _inject(model, name, pairs, file)


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


def _inject(model: Any, name: str, changes: Sequence[Change], file: LoraFile) -> None:
    """PEFT's layers around the modules, with the file's pairs in the modules' own dtype."""
    from peft import LoraConfig, inject_adapter_in_model

    ranks = {target: file.shapes[change.pieces["down"]][0] for change in changes for target in change.place.targets}
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
    for change in changes:
        _fill(model, name, change, file)


def _fill(model: Any, name: str, change: Change, file: LoraFile) -> None:
    tensors = file.tensors([change.pieces["down"], change.pieces["up"]])
    down, up = tensors[change.pieces["down"]], tensors[change.pieces["up"]]
    up = _swapped(up) if change.place.swapped else up
    first = 0
    for target in change.place.targets:
        layer = model.get_submodule(target)
        rows = layer.lora_B[name].weight.shape[0]
        _copy(layer.lora_A[name].weight, down)
        _copy(layer.lora_B[name].weight, up[first : first + rows])
        layer.lora_alpha[name] = file.factor(change) * layer.r[name]
        layer.set_scale(name, 1.0)
        first += rows


def _copy(parameter: Any, tensor: Any) -> None:
    """The numbers in the parameter's shape and dtype; inputs that the tensor lacks count nothing."""
    columns = tensor.flatten(1).to(parameter.dtype)
    data = parameter.data.flatten(1)
    data.zero_()
    data[:, : columns.shape[1]] = columns.to(data.device)
    parameter.data = data.view(parameter.shape)


def _widen(pipeline: Any, model: Any, changes: Sequence[Change], file: LoraFile) -> None:
    """Widen the layer that takes the latents for a Control LoRA, by diffusers' own rule."""
    for change in changes:
        module = _module(model, "x_embedder") if change.place.targets == ("x_embedder",) else None
        if module is None or "down" not in change.pieces:
            continue
        wide = file.shapes[change.pieces["down"]][1]
        if wide > getattr(module, "in_features", wide):
            pair = file.tensors([change.pieces["down"], change.pieces["up"]])
            state = {
                "x_embedder.lora_A.weight": pair[change.pieces["down"]],
                "x_embedder.lora_B.weight": pair[change.pieces["up"]],
            }
            pipeline._maybe_expand_transformer_param_shape_or_error_(model, state, None)


# --- differences -------------------------------------------------------------------------------------------------


def _add(model: Any, change: Change, file: LoraFile, scale: float, what: str, component: str) -> None:
    """Add to the modules' weights and biases what PEFT does not take of the layer."""
    if scale == 0:
        return
    low_rank = takes_peft(change, _kinds(model, change))
    wanted = {piece: key for piece, key in change.pieces.items() if piece != "alpha"}
    if low_rank:
        wanted = {piece: key for piece, key in wanted.items() if piece in differences.BIASES}
    if not wanted:
        return
    read = file.tensors(list(wanted.values()))
    tensors = {piece: read[key] for piece, key in wanted.items()}
    if differences.kinds(tensors):
        _add_to_weights(model, change, tensors, file.factor(change), scale, what, component)
    _add_to_biases(model, change, tensors, file.factor(change), scale)


def _add_to_weights(
    model: Any,
    change: Change,
    tensors: Mapping[str, Any],
    factor: float,
    scale: float,
    what: str,
    component: str,
) -> None:
    import torch

    weights = [_weight(model, target) for target in change.place.targets]
    if any(not _is_plain(weight) for weight in weights):
        raise _packed(what, change, component)
    if any(weight.is_meta for weight in weights):
        raise LoadError(
            f"{what}: the weights of {change.place.targets[0]} are not in memory: load without offload_folder"
        )
    before = torch.cat([_as_matrix(weight) for weight in weights])
    before = _swapped(before) if change.place.swapped else before
    shape = (before.shape[0], *weights[0].shape[1:])
    after = _changed(before, shape, {name: tensor.to(before.device) for name, tensor in tensors.items()}, factor, scale)
    after = _swapped(after) if change.place.swapped else after
    counts = [_as_matrix(weight).shape[0] for weight in weights]
    for weight, rows in zip(weights, after.split(counts), strict=True):
        weight.data = rows.reshape(weight.shape).to(weight.dtype)


def _changed(before: Any, shape: tuple[int, ...], tensors: Mapping[str, Any], factor: float, scale: float) -> Any:
    """The weight (rows by columns) at this scale. A DoRA of kohya's form goes the part ``scale`` of the way to what it
    makes of the weight; of PEFT's form the pair is scaled before the norms."""
    moved = before
    if "set" in tensors:
        moved = tensors["set"].float().reshape(before.shape)
    added = differences.weight_difference({name: part for name, part in tensors.items() if name != "set"}, factor)
    if added is not None:
        moved = moved + _as_wide(added, before)
    if "magnitude" in tensors and added is not None:
        return differences.decomposed(shape, before + scale * (moved - before), tensors["magnitude"])
    if "dora_scale" in tensors:
        moved = differences.decomposed(shape, moved, tensors["dora_scale"])
    return before + scale * (moved - before)


def _as_wide(added: Any, weight: Any) -> Any:
    """The difference with as many columns as the weight: inputs that the file does not know are left alone."""
    import torch

    if added.numel() == weight.numel():
        return added.reshape(weight.shape)
    return torch.nn.functional.pad(added, (0, weight.shape[1] - added.shape[1]))


def _add_to_biases(model: Any, change: Change, tensors: Mapping[str, Any], factor: float, scale: float) -> None:
    """``diff_b`` as it is, PEFT's bias of the upper half by the pair's factor, ``set_b`` in the bias' place."""
    import torch

    modules = [_module(model, target) for target in change.place.targets if differences.BIASES & tensors.keys()]
    first = 0
    for module in modules:
        rows = module.weight.shape[0] if not hasattr(module, "out_features") else module.out_features
        own = getattr(module, "bias", None)
        bias = own.float() if own is not None else torch.zeros(rows, device=module.weight.device)
        moved = bias
        for piece, by in (("set_b", None), ("diff_b", 1.0), ("up_bias", factor)):
            if piece in tensors:
                part = _rows_of(tensors[piece], change, first, rows).to(bias.device)
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


def _is_plain(weight: Any) -> bool:
    """Whether the numbers of a weight are its own: not blocks, nor a wrapper of a quantized tensor."""
    import torch

    return type(weight) in (torch.nn.Parameter, torch.Tensor) and weight.dtype.is_floating_point
