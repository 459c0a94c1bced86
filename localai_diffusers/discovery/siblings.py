# SPDX-License-Identifier: MIT
"""The class for another task on the same weights: the class itself, diffusers' mapping, or the same name family."""

from __future__ import annotations

from localai_diffusers.discovery.aliases import canonical_task, get_task_aliases, rank
from localai_diffusers.discovery.errors import NoSiblingError
from localai_diffusers.discovery.names import known_name
from localai_diffusers.discovery.registry import get_pipeline_registry
from localai_diffusers.discovery.source import AUTO_PREFIX, auto_mappings, catalog
from localai_diffusers.discovery.spelling import first_of
from localai_diffusers.discovery.tasks import base_family_of, family_of, mapping_of, pipeline_tasks
from localai_diffusers.discovery.traits import traits_of
from localai_diffusers.discovery.words import BROUGHT, OWN_WEIGHTS


def _sibling_by_mapping(name: str, task: str) -> str | None:
    """diffusers' own answer: the class of the same family key in the task's AutoPipeline table."""
    key = next((key for rows in auto_mappings().values() for key, own in rows.items() if own == name), None)
    return mapping_of(task).get(key) if key is not None else None


def sibling_by_rule(name: str, task: str) -> str | None:
    """The class of the same name family that does the task with the components that the model's class has."""
    if task in OWN_WEIGHTS:
        return None
    own, traits = catalog()[name], traits_of(name)
    # A ControlNet form is a family of its own; asked for one, it counts as a form of its base.
    family = base_family_of if task == "controlnet" else family_of
    fits = []
    for other, record in catalog().items():
        if other.startswith(AUTO_PREFIX) or family(other) != family(name):
            continue
        theirs = traits_of(other)
        missing = {part for part, needed in theirs.components.items() if needed} - traits.components.keys()
        same = theirs.onnx == traits.onnx and task in pipeline_tasks(other)
        if same and missing <= BROUGHT.get(task, frozenset()):
            fits.append((len(missing), record.package != own.package, len(other), rank(other, task), other))
    return min(fits)[-1] if fits else None


def find_sibling_name(class_name: str, task: str) -> str:
    """Name of the class that does `task` on the weights of `class_name`; nothing is imported.

    The class itself when it does the task, else diffusers' AutoPipeline mapping, else the same name family
    with no component missing (a task's own, such as `controlnet`, may be). Raises NoSiblingError, which
    lists the candidates, UnknownPipelineError, UnknownTaskError.
    """
    name, wanted = known_name(class_name), canonical_task(task)
    if wanted in pipeline_tasks(name) or wanted == "any-to-any":  # a tag that leaves the choice to the model
        return name
    found = _sibling_by_mapping(name, wanted) or sibling_by_rule(name, wanted)
    if found is None:
        others = get_task_aliases().get(wanted, [])
        raise NoSiblingError(
            f"{name} does {', '.join(pipeline_tasks(name)) or 'no task of its own'} and has no sibling for "
            f"'{wanted}' on the same weights. Classes for it: {first_of(others, 'see get_task_aliases()', 10)}"
        )
    return found


def find_sibling(pipeline: str | type, task: str) -> type:
    """The class, imported, that does `task` on the weights of a pipeline class (or its name).

    See find_sibling_name for the order and the errors.
    """
    name = pipeline if isinstance(pipeline, str) else pipeline.__name__
    return get_pipeline_registry()[find_sibling_name(name, task)]
