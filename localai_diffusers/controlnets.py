"""ControlNets: found by the YAML's ``control_net``, of the class that their own config names, in the pipeline that takes it.

No family is known here: which pipeline takes a net is read from the types in its constructor's signature, and whether
it fits the model from the model's other components.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers_dynamic_loader as loader

from . import artifacts, components, model_files, transformer_file
from .components import Replacement
from .errors import LoadError
from .load_spec import LoadSpec
from .model_files import ModelFacts
from .settings import Settings

log = logging.getLogger(__name__)

COMPONENT = "controlnet"
_FIELD = "ControlNet"
_PATTERNS = ("config.json", "*.safetensors", "*.safetensors.index.json")
# The text width that a U-Net attends to tells its family; for the error message alone.
_FAMILY_BY_WIDTH = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}


@dataclass(frozen=True)
class Net:
    """One ControlNet on this machine. ``class_name`` is "" for a lone file, which does not say it."""

    label: str
    path: Path
    class_name: str
    config: Mapping[str, Any]


def find(spec: LoadSpec, settings: Settings) -> tuple[Net, ...]:
    """The ControlNets of ``spec``, downloaded where they are on the Hub, their files intact. Nothing is loaded.

    Raises LoadError naming what is missing, broken or no ControlNet.
    """
    return tuple(_net(spec, name, settings) for name in spec.controlnets)


def _net(spec: LoadSpec, name: str, settings: Settings) -> Net:
    path = artifacts.fetch(spec, artifacts.find(spec, name, _FIELD), _FIELD, _PATTERNS)
    config = components.config_of(path)
    class_name = str(config.get("_class_name") or "")
    if path.is_dir() and not class_name:
        raise LoadError(
            f"{_FIELD} {name!r} has no config.json that names its class: give the folder or repo of a diffusers "
            "ControlNet, or a single .safetensors file"
        )
    if (path / model_files.INDEX_FILE).is_file():
        raise LoadError(f"{_FIELD} {name!r} is a whole pipeline ({class_name}): give its controlnet folder")
    artifacts.check_weights(path, spec, settings)
    return Net(name, path, class_name, config)


def with_controlnet(facts: ModelFacts, nets: tuple[Net, ...]) -> ModelFacts:
    """The facts with a ControlNet of no particular class among the components, so that classes that need one may fit."""
    part = Replacement(COMPONENT, ("diffusers", ""), (), lambda _dtype: None)
    return components.amended(facts, [part] if nets else [])


def pipeline_class(
    cls: type, facts: ModelFacts, nets: tuple[Net, ...], misfit: Callable[[type, type, ModelFacts], str]
) -> type:
    """The class that runs ``cls``'s model with these ControlNets: itself, or a sibling that takes them.

    ``misfit`` says why a class does not fit a model ("" if it does). Raises LoadError naming the ControlNet's class and
    those that this model's pipelines take.
    """
    if not nets:
        return cls
    if not components.expected(cls):
        raise LoadError(
            f"{_FIELD} {nets[0].label!r}: say what the model is, e.g. pipeline_type: StableDiffusionPipeline"
        )
    judged = with_controlnet(facts, nets)
    taken: set[str] = set()
    for candidate in _candidates(cls, facts):
        if misfit(candidate, cls, judged):
            continue
        accepted = _accepted(candidate)
        if all(_is_accepted(net, accepted) for net in nets):
            return candidate
        taken |= {kind.__name__ for kind in accepted if "Multi" not in kind.__name__}
    wrong = next((net for net in nets if net.class_name not in taken), nets[0])
    raise LoadError(
        f"{_FIELD} {wrong.label!r} is a {wrong.class_name or 'lone file'}; pipelines of this model ({cls.__name__}) "
        f"take {' or '.join(sorted(taken)) or 'no ControlNet'}: it was made for another model family"
    )


def _candidates(cls: type, facts: ModelFacts) -> Iterator[type]:
    """Classes with a ControlNet: ``cls`` first if it is one, then those of its main task, its sibling before others.

    Where the model's components are unknown (a checkpoint, a repo not yet here) only names of the same beginning.
    """
    if COMPONENT in components.expected(cls):
        yield cls
    names = [
        name for name in loader.get_task_aliases()[COMPONENT] if facts.components or _stem(name) == _stem(cls.__name__)
    ]
    with contextlib.suppress(ValueError):
        names.insert(0, loader.find_sibling_name(cls.__name__, COMPONENT))
    tasks = loader.pipeline_tasks(cls.__name__)[:1]
    for name in sorted(dict.fromkeys(names), key=lambda name: loader.pipeline_tasks(name)[:1] != tasks):
        yield loader.get_pipeline_registry()[name]


def _stem(name: str) -> str:
    """What a class's name begins with, before the words of its tasks."""
    return re.split(r"Control[Nn]et|Img2Img|Inpaint|PAG|Pipeline", name)[0]


def _accepted(cls: type) -> set[type]:
    return {kind for kind in cls._get_signature_types().get(COMPONENT, ()) if isinstance(kind, type)}


def _is_accepted(net: Net, accepted: Iterable[type]) -> bool:
    if not net.class_name:
        return any(hasattr(kind, "from_single_file") for kind in accepted)
    return net.class_name in {kind.__name__ for kind in accepted}


def prepare(
    spec: LoadSpec, facts: ModelFacts, cls: type, nets: tuple[Net, ...], settings: Settings
) -> tuple[Replacement, ...]:
    """The ``controlnet`` component for ``cls``: one net, or a list for diffusers' Multi form; nothing without nets.

    Raises LoadError for a net whose widths are not the model's.
    """
    if not nets:
        return ()
    for net in nets:
        _check_widths(net, facts)
    files = tuple(file for net in nets for file in _weights(net))
    readers = [_reader(spec, cls, net, settings) for net in nets]

    def read(dtype: Any) -> Any:
        loaded = [reader(dtype) for reader in readers]
        return loaded if len(loaded) > 1 else loaded[0]

    return (Replacement(COMPONENT, ("diffusers", nets[0].class_name or "ControlNetModel"), files, read),)


def _check_widths(net: Net, facts: ModelFacts) -> None:
    own = facts.config(facts.denoiser) if facts.denoiser else {}
    family = _FAMILY_BY_WIDTH.get(net.config.get("cross_attention_dim"))
    what = f"{_FIELD} {net.label!r} ({net.class_name}{f' for {family}' if family else ''})"
    components.check_agreement(net.config, own, what, f"this model's {facts.denoiser}")


def _weights(net: Net) -> tuple[model_files.WeightFile, ...]:
    if net.path.is_file():
        return (model_files.weight_file(COMPONENT, net.path),)
    return components.weight_files(COMPONENT, net.path)


def _reader(spec: LoadSpec, cls: type, net: Net, settings: Settings) -> Callable[[Any], Any]:
    if net.class_name:
        found = components.component_class("diffusers", net.class_name)
        if found is None:
            raise LoadError(f"{_FIELD} {net.label!r} is a {net.class_name}, which this diffusers does not have")
        return components.folder_loader(found, net.path, spec, settings)
    kind = next(
        kind for kind in sorted(_accepted(cls), key=lambda kind: kind.__name__) if hasattr(kind, "from_single_file")
    )
    config = spec.load_options.get("controlnet_config")
    root = (
        str(
            artifacts.fetch(
                spec,
                artifacts.find(spec, str(config), "option controlnet_config"),
                "option controlnet_config",
                _PATTERNS,
            )
        )
        if config
        else None
    )
    return lambda dtype: transformer_file.load(kind, net.path, root, "", dtype)
