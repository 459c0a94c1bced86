# SPDX-License-Identifier: MIT
"""Which modules of the model a LoRA's layer is for, found by what fits: prefixes, flattened names, other tools' names.

A layer's name is looked up with its dots as underscores (kohya's flattened names are the same text), with and without
the words that tools put before it, among the names that the model's modules have in diffusers and in the tables of
:mod:`families`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from localai_diffusers.checkpoint.lora import families
from localai_diffusers.checkpoint.lora.families import Family


@dataclass(frozen=True)
class Layer:
    """A module with a weight, or a parameter of its own (kind "parameter"). ``shape`` is the weight's, unpacked.

    ``kind`` is "linear", "conv" (of two dimensions, ungrouped), "parameter" or "other". ``swaps``: the original code
    has the two halves of its rows the other way round.
    """

    shape: tuple[int, ...]
    kind: str = "linear"
    has_bias: bool = True
    swaps: bool = False


Layers = Mapping[str, Layer]
# Modules whose linear layer has, in diffusers, scale before shift and value before gate.
_SWAPPING = ("AdaLayerNormContinuous", "AuraFlowPreFinalBlock", "Flux3AdaLayerNorm", "SwiGLU")


def layers_of(model: Any) -> dict[str, Layer]:
    """Every module of a torch model (on the meta device too) that has a weight, and every parameter that is no weight
    or bias, by name."""
    modules = dict(model.named_modules())
    found = {}
    for name, module in modules.items():
        own = dict(module.named_parameters(recurse=False))
        parent = type(modules.get(name.rpartition(".")[0])).__name__
        for part, tensor in own.items():
            full = f"{name}.{part}" if name else part
            if part == "weight":
                shape, kind = _weight(module, tensor)
                found[name] = Layer(shape, kind, "bias" in own, parent in _SWAPPING)
            elif part != "bias":
                found[full] = Layer(tuple(tensor.shape), "parameter", False)
    return found


def kind_of(model: Any, name: str) -> str:
    """The kind of one module of a torch model by name, whatever an adapter library has put around it."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return "parameter"
    module = getattr(module, "base_layer", module)
    return _weight(module, module.weight)[1]


def _weight(module: Any, tensor: Any) -> tuple[tuple[int, ...], str]:
    import torch

    if isinstance(module, torch.nn.Linear):
        return (module.out_features, module.in_features), "linear"
    plain = isinstance(module, torch.nn.Conv2d) and module.groups == 1
    return tuple(tensor.shape), "conv" if plain else "other"


# --- prefixes ----------------------------------------------------------------------------------------------------

DENOISER, ANY_TEXT = "denoiser", "any text encoder"
# What tools write before a module's name, and the part of the pipeline that it means; "" means none in particular.
_PREFIXES = tuple(
    (re.compile(pattern), role)
    for pattern, role in (
        (r"(?:unet|transformer|diffusion_model|dit|denoiser|conditional_transformer)\.", DENOISER),
        (r"(?:text_encoders\.)?clip_l\.(?:transformer\.)?", "text_encoder"),
        (r"(?:text_encoders\.)?clip_g\.(?:transformer\.)?", "text_encoder_2"),
        (r"(?:text_encoders\.)?t5xxl\.(?:transformer\.)?", "text_encoder_3"),
        (r"text_encoders\.[^.]+\.(?:transformer\.)?", ANY_TEXT),
        (r"cond_stage_model\.(?:transformer\.|model\.)?", "text_encoder"),
        (r"conditioner\.embedders\.0\.(?:transformer\.|model\.)?", "text_encoder"),
        (r"conditioner\.embedders\.1\.(?:transformer\.|model\.)?", "text_encoder_2"),
        (r"(?:lora_)?te1?\.", "text_encoder"),
        (r"(?:lora_)?te2\.", "text_encoder_2"),
        (r"(?:lora_)?te3\.", "text_encoder_3"),
        (r"llm_adapter\.", "text_conditioner"),
        (r"text_embedding_projection\.", "connectors"),
        (r"(?:base_model\.model|base_model|model|module|net|pipe|pipeline|lora|default|orig_mod|_orig_mod)\.", ""),
        (r"(?:text_model|language_model)\.", ANY_TEXT),
        # kohya's, LyCORIS' and OneTrainer's flattened names
        (r"lora_(?:unet|transformer|prior_unet|prior)_+", DENOISER),
        (r"lora_te1?_", "text_encoder"),
        (r"lora_te2_", "text_encoder_2"),
        (r"lora_te3_", "text_encoder_3"),
        (r"lora_llm_adapter_", "text_conditioner"),
        (r"lycoris_(?:unet_)?", ""),
        (r"text_model_", ANY_TEXT),
    )
)
# What stands between the text encoders and the denoiser in some pipelines, and is trained with it.
_BETWEEN = ("connectors", "text_conditioner")
# A third text encoder is T5's place; pipelines with fewer have T5 where they have it.
_OTHER_PLACES = {"text_encoder_3": ("text_encoder_3", "text_encoder_2", "text_encoder")}


class Spelling(NamedTuple):
    """A layer's name without some prefix, flattened, and the component or role that the prefix means ("" for any)."""

    role: str
    flat: str


def spellings(layer: str, components: Sequence[str]) -> list[Spelling]:
    """The layer's name with ever fewer prefixes, those first that have more."""
    found, role, rest = [Spelling("", _flat(layer))], "", layer
    while True:
        length, means = _prefix(rest, components)
        if not length:
            return found
        role, rest = role or means, rest[length:]
        found.append(Spelling(role, _flat(rest)))


def _prefix(name: str, components: Sequence[str]) -> tuple[int, str]:
    """Length and meaning of the prefix that ``name`` begins with, (0, "") for none. ``transformer`` and ``unet`` are
    what trainers call any denoiser, so that only other names of components mean themselves."""
    for component in components:
        if component not in ("transformer", "unet") and name.startswith(f"{component}."):
            return len(component) + 1, component
    own = re.match(r"(text_encoder(?:_\d)?|transformer_\d|connectors|text_conditioner)\.", name)
    if own:
        return own.end(), own[1]
    for pattern, role in _PREFIXES:
        found = pattern.match(name)
        if found and found.end() < len(name):
            return found.end(), role
    return 0, ""


def _flat(name: str) -> str:
    return name.replace(".", "_")


# --- resolving ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The modules of one component that a layer is for: its rows are theirs, one after the other; ``swapped`` where
    those rows' halves are the other way round in the model."""

    component: str
    targets: tuple[str, ...]
    swapped: bool = False


@dataclass(frozen=True)
class Nowhere:
    """A layer that is for none of the model's modules; ``role`` is the component that its name means, "" for any."""

    role: str


def resolve(
    layers: Iterable[str], components: Mapping[str, Layers], denoisers: Sequence[str]
) -> dict[str, tuple[Place, ...] | Nowhere]:
    """Where each layer of a file belongs in the model. ``denoisers`` are those that the file is for: a layer of the
    denoiser has a place in each.

    ``components`` may build its values when they are asked for: those of no use to the file are not.
    """
    names = list(components)
    spelled = {layer: spellings(layer, names) for layer in layers}
    indices: dict[str, dict[str, Place]] = {}
    found = {layer: _places(ways, components, denoisers, indices) for layer, ways in spelled.items()}
    missing = {layer: spelled[layer] for layer, places in found.items() if not places}
    if missing:
        for component in _wanted(missing.values(), names, denoisers):
            indices[component] = _with_family(component, components[component], missing.values(), indices)
        found |= {layer: _places(ways, components, denoisers, indices) for layer, ways in missing.items()}
    return {layer: places or Nowhere(_role(spelled[layer])) for layer, places in found.items()}


def _wanted(spelled: Iterable[list[Spelling]], names: Sequence[str], denoisers: Sequence[str]) -> list[str]:
    """The components that these layers may be of."""
    roles = {way.role for ways in spelled for way in ways[-1:]}
    return [name for name in names if any(name in _candidates(role, names, denoisers) for role in roles)]


def _candidates(role: str, names: Sequence[str], denoisers: Sequence[str]) -> list[str]:
    """Names of the components that a role may be, the likelier first."""
    texts = [name for name in names if name.startswith("text_encoder")]
    if role == DENOISER:
        return list(denoisers)
    if role == ANY_TEXT:
        return texts
    if role:
        return [name for name in _OTHER_PLACES.get(role, (role,)) if name in names]
    return [*denoisers, *texts, *(name for name in names if name in _BETWEEN)]


def _places(
    ways: list[Spelling],
    components: Mapping[str, Layers],
    denoisers: Sequence[str],
    indices: dict[str, dict[str, Place]],
) -> tuple[Place, ...]:
    role = _role(ways)
    for way in ways:
        for component in _candidates(role, list(components), denoisers):
            if component not in indices:
                indices[component] = _index(component, components[component], families.DIFFUSERS)
            place = indices[component].get(way.flat)
            if place and component in denoisers:
                return _in_each(place, way.flat, components, denoisers, indices)
            if place:
                return (place,)
    return ()


def _in_each(
    place: Place,
    flat: str,
    components: Mapping[str, Layers],
    denoisers: Sequence[str],
    indices: dict[str, dict[str, Place]],
) -> tuple[Place, ...]:
    """The place in each of the denoisers that the file is for."""
    found = [place]
    for other in denoisers:
        if other != place.component:
            indices.setdefault(other, _index(other, components[other], families.DIFFUSERS))
            found += [same] if (same := indices[other].get(flat)) else []
    return tuple(found)


def _role(ways: list[Spelling]) -> str:
    return next((way.role for way in reversed(ways) if way.role), "")


def _index(component: str, layers: Layers, family: Family) -> dict[str, Place]:
    """Flattened name -> place: the modules' own names first, then the family's."""
    index: dict[str, Place] = {}
    for alias, targets in families.aliases(family, layers).items():
        swapped = any(layers[target].swaps for target in targets) and alias not in layers
        index[_flat(alias)] = Place(component, targets, swapped)
    for written, name in _own_names(component, layers):
        index[_flat(written)] = Place(component, (name,))
    return index


def _own_names(component: str, layers: Layers) -> Iterator[tuple[str, str]]:
    """Every way to write a module's own name: with and without the words that wrap a text encoder, a projection's list
    left out; the plain name last, so that it counts."""
    for name in layers:
        if component.startswith("text_encoder"):
            yield f"text_model.{name}", name
        if name.endswith(".to_out.0") and name.removesuffix(".0") not in layers:
            yield name.removesuffix(".0"), name
        short = name
        while found := re.match(r"(text_model|language_model|model)\.", short):
            short = short[found.end() :]
            yield short, name
    for name in layers:
        yield name, name


def _with_family(
    component: str, layers: Layers, missing: Iterable[list[Spelling]], indices: Mapping[str, dict[str, Place]]
) -> dict[str, Place]:
    """The component's index with the names of the one family that most of the missing layers are named by."""
    own = indices.get(component) or _index(component, layers, families.DIFFUSERS)
    flats = [{way.flat for way in ways} for ways in missing]
    best, most = own, 0
    for family in families.FAMILIES[1:]:
        index = _index(component, layers, family)
        new = index.keys() - own.keys()
        count = sum(not flat.isdisjoint(new) for flat in flats)
        if count > most:
            best, most = {**index, **own}, count
    return best
