# SPDX-License-Identifier: MIT
"""ControlNets: found by the YAML's ``control_net``, of the class that their own config names, in the pipeline that
takes it.

No family is known here: which pipeline takes a net is read from the types in its constructor's signature, and whether
it fits the model from the model's other components.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint import artifacts, component_file, fitting, model_files, net_files
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.discovery.index import INDEX_FILE
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import components
from localai_diffusers.loading.components import Replacement
from localai_diffusers.pipeline.controls import MODE
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

COMPONENT, _ADAPTER = "controlnet", "adapter"
# The component of nets that are no ControlNets and stand in their place, by the class's name (T2I-Adapters).
_OTHER_COMPONENTS = {"T2IAdapter": _ADAPTER, "MultiAdapter": _ADAPTER}
_FIELD = "ControlNet"
_PATTERNS = ("config.json", "*.safetensors", "*.safetensors.index.json")
# The text width that a U-Net attends to tells its family; for the error message alone.
_FAMILY_BY_WIDTH = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}


@dataclass(frozen=True)
class Net:
    """One ControlNet on this machine. ``root`` is the folder of its config; a lone file may have none, and then its
    ``class_name`` is "" until it is fitted to a model (:func:`settled`). ``found`` is what a lone file holds."""

    label: str
    path: Path
    class_name: str
    config: Mapping[str, Any]
    root: Path | None = None
    found: Contents | None = None
    fit: Fit | None = None


def find(spec: LoadSpec, settings: Settings) -> tuple[Net, ...]:
    """The ControlNets of ``spec``, downloaded where they are on the Hub, their files intact. Nothing is loaded.

    Raises LoadError naming what is missing, broken or no ControlNet.
    """
    return tuple(_net(spec, name, settings) for name in spec.controlnets)


def _net(spec: LoadSpec, name: str, settings: Settings) -> Net:
    path = artifacts.fetch(spec, artifacts.find(spec, name, _FIELD), _FIELD, _PATTERNS)
    root = path if path.is_dir() else _config_root(spec, path)
    config = components.config_of(root) if root else {}
    class_name = str(config.get("_class_name") or "")
    if path.is_dir() and not class_name:
        raise LoadError(
            f"{_FIELD} {name!r} has no config.json that names its class: give the folder or repo of a diffusers "
            "ControlNet, or a single .safetensors file"
        )
    if (path / INDEX_FILE).is_file():
        raise LoadError(f"{_FIELD} {name!r} is a whole pipeline ({class_name}): give its controlnet folder")
    artifacts.check_weights(path, spec, settings)
    if path.is_dir():
        return Net(name, path, class_name, config, root)
    found = component_file.contents_of([path], artifacts.allows_pickle(spec, settings))
    return Net(name, path, class_name, config, root, found, _by_config(name, class_name, found, root))


def _by_config(name: str, class_name: str, found: Contents, root: Path | None) -> Fit | None:
    """How a lone file fills the class that its config names; None without a config."""
    cls = components.component_class("diffusers", class_name) if root else None
    if root is None or cls is None:
        return None
    wanted = fitting.target(COMPONENT, cls, str(root), "")
    return component_file.fitted(wanted, found, f"{_FIELD} {name!r}")


def settled(nets: tuple[Net, ...], facts: ModelFacts) -> tuple[Net, ...]:
    """The nets with lone files fitted to the model, where its denoiser's config is known: their class follows their
    keys.

    Raises LoadError for a file that is no ControlNet of this model's family.
    """
    config = facts.config(facts.denoiser) if facts.denoiser else {}
    return tuple(_settled(net, config) if config and net.found and not net.fit else net for net in nets)


def _settled(net: Net, denoiser: Mapping[str, Any]) -> Net:
    assert net.found is not None
    best = net_files.fit(COMPONENT, net.found, denoiser)
    if best is None or not best.is_complete:
        says = "no weight of one is in it" if best is None else f"as a {best.target.cls.__name__} it lacks {best.says}"
        raise LoadError(
            f"{_FIELD} {net.label!r} is no ControlNet or T2I-Adapter for this model by its weights ({says}). If it is "
            "one of another shape, name the folder or repo with its config.json by options: controlnet_config:"
        )
    name = best.target.cls.__name__
    best = replace(best, target=replace(best.target, component=_OTHER_COMPONENTS.get(name, COMPONENT)))
    return replace(net, class_name=name, config=best.target.config, fit=best)


def _config_root(spec: LoadSpec, file: Path) -> Path | None:
    """The folder with a lone file's config.json: the option's, else its own. LoadError for one of no ControlNet."""
    option = spec.options.controlnet_config
    if not option:
        named = str(components.config_of(file.parent).get("_class_name") or "")
        return file.parent if "ControlNet" in named else None
    field = "option controlnet_config"
    root = artifacts.fetch(spec, artifacts.find(spec, option, field), field, ("config.json",))
    if not root.is_dir() or not (root / "config.json").is_file():
        raise LoadError(f"{field} {option!r} has no config.json: give the folder or repo of such a ControlNet")
    return root


def component_of(nets: tuple[Net, ...]) -> str:
    """Which of a pipeline's components the nets are."""
    return _OTHER_COMPONENTS.get(nets[0].class_name, COMPONENT) if nets else COMPONENT


def with_controlnet(facts: ModelFacts, nets: tuple[Net, ...]) -> ModelFacts:
    """The facts with a ControlNet of no particular class among the components,
    so that classes that need one may fit."""
    part = Replacement(component_of(nets), ("diffusers", ""), (), lambda _dtype: None)
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
    judged, component = with_controlnet(facts, nets), component_of(nets)
    taken: set[str] = set()
    for candidate in _candidates(cls, facts, component):
        if misfit(candidate, cls, judged):
            continue
        accepted = _accepted(candidate, component)
        if all(_is_accepted(net, accepted) for net in nets):
            return candidate
        taken |= {kind.__name__ for kind in accepted if "Multi" not in kind.__name__}
    wrong = next((net for net in nets if net.class_name not in taken), nets[0])
    if taken and not wrong.class_name:
        raise _of_no_class(wrong)
    raise LoadError(
        f"{_FIELD} {wrong.label!r} is a {wrong.class_name or 'lone file'}; pipelines of this model ({cls.__name__}) "
        f"take {' or '.join(sorted(taken)) or 'no ControlNet'}: it was made for another model family"
    )


def _of_no_class(net: Net) -> LoadError:
    return LoadError(
        f"{_FIELD} {net.label!r} is a lone file, which does not say its class: name the folder or repo with its "
        "config.json by options: controlnet_config:"
    )


def _candidates(cls: type, facts: ModelFacts, component: str) -> Iterator[type]:
    """Classes with a ControlNet: ``cls`` first if it is one, then those of its main task, its sibling before others.

    Where the model's components are unknown (a checkpoint, a repo not yet here) only names of the same beginning.
    """
    if component in components.expected(cls):
        yield cls
    every = loader.get_task_aliases()[COMPONENT] if component == COMPONENT else _with_adapters()
    names = [name for name in every if facts.components or _stem(name) == _stem(cls.__name__)]
    with contextlib.suppress(ValueError):
        names.insert(0, loader.find_sibling_name(cls.__name__, COMPONENT))
    tasks = loader.pipeline_tasks(cls.__name__)[:1]
    for name in sorted(dict.fromkeys(names), key=lambda name: loader.pipeline_tasks(name)[:1] != tasks):
        yield loader.get_pipeline_registry()[name]


def _with_adapters() -> list[str]:
    """Names of the classes that take T2I-Adapters."""
    return [name for name in loader.get_available_pipelines() if _ADAPTER in loader.pipeline_traits(name).components]


def _stem(name: str) -> str:
    """What a class's name begins with, before the words of its tasks."""
    return re.split(r"Control[Nn]et|Adapter|Img2Img|Inpaint|PAG|Pipeline", name)[0]


def _accepted(cls: type[Any], component: str = COMPONENT) -> set[type]:
    return {kind for kind in cls._get_signature_types().get(component, ()) if isinstance(kind, type)}


def _is_accepted(net: Net, accepted: Iterable[type]) -> bool:
    if not net.class_name:
        return any(hasattr(kind, "from_single_file") for kind in accepted)
    return net.class_name in {kind.__name__ for kind in accepted}


def prepare(
    spec: LoadSpec,
    facts: ModelFacts,
    cls: type,
    nets: tuple[Net, ...],
    settings: Settings,
    joined: Callable[[list[Any]], Any] | None = None,
) -> tuple[Replacement, ...]:
    """The ``controlnet`` component for ``cls``: one net, or several ``joined`` to one (a list, of which a classic
    pipeline makes diffusers' Multi form); nothing without nets.

    Raises LoadError for a net whose widths are not the model's.
    """
    if not nets:
        return ()
    component = component_of(nets)
    for net in nets:
        _check_widths(net, facts)
    files = tuple(file for net in nets for file in _weights(net, component))
    is_several = isinstance(spec.call_arguments.get(MODE), list)
    readers = [_reader(spec, net, settings) for net in nets]

    def read(dtype: Any, **how: Any) -> Any:
        loaded = [reader(dtype, **how) for reader in readers]
        together = joined or (list if component == COMPONENT else _multi)
        if len(loaded) == 1 and is_several and "num_mode" in loaded[0].config:
            return _multi(loaded)  # Flux's union takes several pictures in this form alone, and keeps one net
        return together(loaded) if len(loaded) > 1 else loaded[0]

    notes = [fitting.account_of(net.found, [net.fit]).note(net.label) for net in nets if net.found and net.fit]
    kind = ("diffusers", nets[0].class_name or "ControlNetModel")
    return (Replacement(component, kind, files, read, tuple(filter(None, notes))),)


def prepare_modular(
    spec: LoadSpec, facts: ModelFacts, cls: type, nets: tuple[Net, ...], settings: Settings
) -> tuple[Replacement, ...]:
    """As :func:`prepare` for a modular class, which is its own sibling.
    Raises LoadError where its blocks take no such net."""
    accepted = _accepted(cls)
    for net in nets:
        if not _is_accepted(net, accepted):
            if accepted and not net.class_name:
                raise _of_no_class(net)
            taken = " or ".join(sorted(kind.__name__ for kind in accepted)) or "no ControlNet"
            raise LoadError(
                f"{_FIELD} {net.label!r} is a {net.class_name or 'lone file'}; {cls.__name__} takes {taken}"
            )
    return prepare(spec, facts, cls, nets, settings, _multi)


def _multi(nets: list[Any]) -> Any:
    """The nets as one of diffusers' Multi form, which is beside the class of the nets, or the general one."""
    import importlib

    from diffusers import MultiControlNetModel

    known = vars(importlib.import_module(type(nets[0]).__module__)).items()
    own = next((kind for name, kind in known if "Multi" in name and isinstance(kind, type)), None)
    return (own or MultiControlNetModel)(nets)


def _check_widths(net: Net, facts: ModelFacts) -> None:
    own = facts.config(facts.denoiser) if facts.denoiser else {}
    family = _FAMILY_BY_WIDTH.get(net.config.get("cross_attention_dim") or 0)
    what = f"{_FIELD} {net.label!r} ({net.class_name}{f' for {family}' if family else ''})"
    components.check_agreement(net.config, own, what, f"this model's {facts.denoiser}")


def _weights(net: Net, component: str) -> tuple[model_files.WeightFile, ...]:
    if net.path.is_file():
        return (model_files.weight_file(component, net.path),)
    return components.weight_files(component, net.path)


def _reader(spec: LoadSpec, net: Net, settings: Settings) -> Callable[..., Any]:
    if net.fit is not None:
        return partial(component_file.load, net.fit)
    if not net.class_name:
        raise _of_no_class(net)
    found = components.component_class("diffusers", net.class_name)
    if found is None:
        raise LoadError(f"{_FIELD} {net.label!r} is a {net.class_name}, which this diffusers does not have")
    return components.folder_loader(found, net.path, spec, settings)
