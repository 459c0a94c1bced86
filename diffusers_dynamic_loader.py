# SPDX-License-Identifier: MIT
"""Find, choose and load any diffusers pipeline, by class name, by task, or from the model itself.

Usable alone; knows nothing of gRPC::

    import diffusers_dynamic_loader as loader

    pipe = loader.load_diffusers_pipeline(model_id="./my-model", device="auto")
    pipe = loader.load_diffusers_pipeline(task="image-to-image", model_id="owner/name")
    loader.get_available_pipelines()     # no import of torch or diffusers

This file is the public face of ``localai_diffusers/discovery``. How it works, for a maintainer, by its rooms:

1. **source**: the names come from the source text. `pkgutil.iter_modules` lists the modules of `diffusers.pipelines`
   without importing them, a regular expression reads `class Name(bases):`, and the bases are followed by name up to
   `DiffusionPipeline`. A pipeline that a new diffusers brings appears by itself.
2. **registry**: a read-only mapping name -> class; looking one up imports its defining module.
3. **traits**, **tasks**: what a class takes and gives, read from the source of its `__call__` and `__init__`. From
   them, the class name and diffusers' own AutoPipeline mappings follow the tasks that it does.
4. **aliases**: every spelling of a task or a family, and who wins it.
5. **siblings**: the class for another task on the same weights.
6. **hub**: the class that a folder, a Hub repo or a checkpoint names.
7. **resolve**, **load**: from these to the class, and to the pipeline.
"""

from __future__ import annotations

from typing import Any

from localai_diffusers.discovery.aliases import canonical_task, get_available_tasks, get_task_aliases
from localai_diffusers.discovery.aliases import extract_task_keywords as _extract_task_keywords
from localai_diffusers.discovery.errors import (
    GatedModelError,
    HubError,
    MissingModelError,
    NoSiblingError,
    PipelineImportError,
    UnknownPipelineError,
    UnknownTaskError,
    UnreachableHubError,
)
from localai_diffusers.discovery.hub import NamedPipeline, inspect_model
from localai_diffusers.discovery.load import load_diffusers_pipeline, pick_device
from localai_diffusers.discovery.registry import (
    PipelineRegistry,
    discover_diffusers_classes,
    get_available_classes,
    get_available_pipelines,
    get_pipeline_info,
    get_pipeline_registry,
)
from localai_diffusers.discovery.resolve import (
    resolve_checkpoint_class,
    resolve_pipeline_class,
    resolve_pipeline_type,
)
from localai_diffusers.discovery.siblings import find_sibling, find_sibling_name
from localai_diffusers.discovery.tasks import camel_to_kebab as _camel_to_kebab
from localai_diffusers.discovery.tasks import pipeline_tasks
from localai_diffusers.discovery.traits import Traits, pipeline_traits
from localai_diffusers.discovery.words import TASKS, Task

__all__ = [
    "GatedModelError",
    "HubError",
    "MissingModelError",
    "NamedPipeline",
    "TASKS",
    "Task",
    "Traits",
    "pipeline_traits",
    "_camel_to_kebab",
    "_extract_task_keywords",
    "NoSiblingError",
    "PipelineImportError",
    "PipelineRegistry",
    "UnknownPipelineError",
    "UnknownTaskError",
    "UnreachableHubError",
    "canonical_task",
    "discover_diffusers_classes",
    "find_sibling",
    "find_sibling_name",
    "get_available_classes",
    "get_available_pipelines",
    "get_available_tasks",
    "get_pipeline_info",
    "get_pipeline_registry",
    "get_task_aliases",
    "inspect_model",
    "load_diffusers_pipeline",
    "pick_device",
    "pipeline_tasks",
    "resolve_checkpoint_class",
    "resolve_pipeline_class",
    "resolve_pipeline_type",
]

# LocalAI's own test.py sets both to None, to have them made anew: what they are made from is read once a process.
_pipeline_registry: PipelineRegistry | None
_task_aliases: dict[str, list[str]] | None


def __getattr__(name: str) -> Any:
    """The two caches by the names that they have in the incumbent's loader."""
    caches = {"_pipeline_registry": get_pipeline_registry, "_task_aliases": get_task_aliases}
    if name in caches:
        return caches[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
