# SPDX-License-Identifier: MIT
"""The options that are no row of the table, by who takes them: a component, the constructor, the call, or nobody.

Taken by the call is what the class's own call names, or a sibling's on the same weights, or its inversion; a
``**kwargs`` takes nothing by itself. What nobody takes is refused with the near names, before the model that serves is
let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import components
from localai_diffusers.pipeline import tasks
from localai_diffusers.pipeline.argument_values import did_you_mean, fitted, is_ours
from localai_diffusers.pipeline.signatures import (
    Parameters,
    constructor_parameters,
    has_call,
    inversion_parameters,
    parameters_of,
    takes_media,
    task_methods,
    without_media,
)
from localai_diffusers.settings import Settings
from localai_diffusers.wire import argument_limits
from localai_diffusers.wire.load_spec import LoadSpec
from localai_diffusers.wire.options import OPTIONS

# What the core calls the folder of a companion artifact, whose name need be nobody's.
_ARTIFACTS = ".artifacts/"


@dataclass(frozen=True)
class Words:
    """Typed arguments of the constructor and of every call, and a note for each option that is let pass."""

    constructor: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def sort(spec: LoadSpec, cls: type, facts: ModelFacts, settings: Settings) -> Words:
    """The words of ``spec`` for a pipeline of ``cls``.

    Raises LoadError for an option that nothing takes, and InvalidRequest for a value of a wrong type or size.
    """
    if _stands_for_others(cls):
        return Words()
    said = {name: value for name, value in spec.call_arguments.items() if name not in _parts(spec, cls, facts)}
    constructor = constructor_parameters(cls)
    call = _family_parameters(cls, said.keys() - constructor.keys())
    notes = tuple(_let_pass(spec, name, cls, {**call, **constructor}) for name in said.keys() - {*call, *constructor})
    taken = {name: value for name, value in said.items() if name in call and not _is_empty(spec, name)}
    argument_limits.check(taken, settings, "option {}")
    argument_limits.check_texts(without_media(taken, call), settings, "option {}")
    return Words(
        {name: _typed(spec, name, constructor, cls) for name in said if name in constructor},
        {name: _for_call(spec, name, call, cls) for name in taken},
        notes,
    )


def _stands_for_others(cls: type) -> bool:
    """Whether the class itself generates nothing (DiffusionPipeline): what is loaded has a call of its own."""
    return not has_call(cls) and not task_methods(cls)


def _parts(spec: LoadSpec, cls: type, facts: ModelFacts) -> set[str]:
    """Options that name a component: its place, or null to leave it out. LoadError for another value."""
    names = (components.expected(cls) or set(facts.components)) & spec.call_arguments.keys()
    for name in names:
        value = spec.call_arguments[name]
        if value is not None and not isinstance(value, str):
            raise LoadError(f"option {name}:{value} names a component: give its folder, file or repo, or null for none")
    return names


def _is_empty(spec: LoadSpec, name: str) -> bool:
    """An empty text, which is no text; two quotes are the empty text itself."""
    return spec.argument_texts.get(name) == ""


def _for_call(spec: LoadSpec, name: str, parameters: Parameters, cls: type) -> Any:
    value = spec.call_arguments[name]
    if is_ours(name):
        raise LoadError(f"option {name}:{value} is set by the server itself: take it out")
    if takes_media(name, parameters) and value is not None:
        raise LoadError(f"option {name}:{value} is media of {cls.__name__}, which come with a request: take it out")
    return _typed(spec, name, parameters, cls)


def _typed(spec: LoadSpec, name: str, parameters: Parameters, cls: type) -> Any:
    value, text = spec.call_arguments[name], spec.argument_texts.get(name)
    return fitted(f"option {name}:{value!r}", value, text, parameters[name], cls.__name__)


def _let_pass(spec: LoadSpec, name: str, cls: type, known: Mapping[str, Any]) -> str:
    """The note on an option that nothing takes and that YAMLs in use have all the same; LoadError for any other."""
    value = spec.call_arguments[name]
    near = did_you_mean(name, [*known, *OPTIONS, *components.expected(cls)])
    if name in spec.lenient or spec.hands_no_options or (isinstance(value, str) and value.startswith(_ARTIFACTS)):
        return f"option {name!r} is no argument of {cls.__name__} and is ignored{near}"
    raise LoadError(
        f"option {name}:{spec.argument_texts.get(name, value)} is taken by nothing{near}: it is no option of this "
        f"backend, no argument of the call or constructor of {cls.__name__}, and none of its components. Correct it or "
        "take it out"
    )


def _family_parameters(cls: type, wanted: set[str]) -> Parameters:
    """Parameters of the class, and where one that is wanted is not among them those of the siblings that a request may
    call for (``strength`` of a text-to-image model is its image-to-image sibling's), or those of its inversion."""
    found = {**(inversion_parameters(cls) if tasks.inverts(cls) else {}), **parameters_of(cls)}
    if found.keys() >= wanted:
        return found
    for task in tasks.SIBLING_TASKS:
        try:
            found = {**parameters_of(loader.find_sibling(cls, task)), **found}
        except (ValueError, ImportError):
            continue
    return found
