# SPDX-License-Identifier: MIT
"""A class name, a task, a model, or any of them together -> the class."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from localai_diffusers.discovery.aliases import alias_index, get_task_aliases, known_alias
from localai_diffusers.discovery.errors import HubError
from localai_diffusers.discovery.hub import NamedPipeline, hub_options, inspect_model
from localai_diffusers.discovery.names import known_name, lower_names, unknown_pipeline
from localai_diffusers.discovery.registry import get_available_pipelines, get_pipeline_registry, import_class
from localai_diffusers.discovery.siblings import find_sibling
from localai_diffusers.discovery.source import ROOT_CLASS, all_records, import_lock
from localai_diffusers.discovery.spelling import first_of, squeeze
from localai_diffusers.discovery.tasks import task_index
from localai_diffusers.discovery.words import TASKS

log = logging.getLogger(__name__)


def resolve_pipeline_class(class_name: str | None = None, task: str | None = None, model_id: str | None = None) -> type:
    """The pipeline class for a class name, else for a task (fitted to the model if given), else for a model.

    Class names are case-insensitive; a task is any alias of `get_task_aliases()`. With a model alone that
    nothing is known of, DiffusionPipeline is the answer, and a warning tells why. Raises
    UnknownPipelineError, UnknownTaskError, NoSiblingError, PipelineImportError, and ValueError when nothing
    was given.
    """
    if not (class_name or task or model_id):
        listed = first_of(get_available_pipelines(), "get_available_pipelines() lists them")
        raise ValueError(
            "Must provide at least one of: class_name, task, or model_id. "
            f"Available pipelines: {listed}. Available tasks: {', '.join(TASKS)}"
        )
    if class_name:
        return get_pipeline_registry()[known_name(class_name)]
    alias = known_alias(task) if task else ""
    facts = None
    if model_id:
        try:
            facts = inspect_model(model_id)
        except HubError as error:
            facts = NamedPipeline(model_id, "unknown", note=str(error))
    return class_for(alias, facts)


def resolve_pipeline_type(text: str, model_id: str | None = None) -> type:
    """The class for a text that may be a class name or any alias: what LocalAI's `pipeline_type` holds.

    Raises UnknownPipelineError when it is neither.
    """
    if text.strip().lower() in lower_names():
        return resolve_pipeline_class(class_name=text)
    if squeeze(text) in alias_index():
        return resolve_pipeline_class(task=text, model_id=model_id)
    raise unknown_pipeline(text)


def class_for(alias: str, facts: NamedPipeline | None) -> type:
    """The class for an alias of `get_task_aliases()` ("": none), a model, or both."""
    registry = get_pipeline_registry()
    if facts is None:
        return registry[get_task_aliases()[alias][0]]
    own = facts.class_name
    if alias and own in registry and not facts.custom:
        names = get_task_aliases()[alias]
        if own in names:
            return registry[own]
        return find_sibling(own, alias) if squeeze(alias) in task_index() else registry[names[0]]
    if alias:
        return registry[get_task_aliases()[alias][0]]
    if own and not facts.custom:
        return _class_named_by(facts)
    tag = alias_index().get(squeeze(facts.pipeline_tag)) if facts.pipeline_tag else None
    if tag:
        return registry[get_task_aliases()[tag][0]]
    if not facts.custom:
        log.warning("%s: falling back to %s: %s", facts.model_id, ROOT_CLASS, facts.note)
    return registry[ROOT_CLASS]


def _class_named_by(facts: NamedPipeline) -> type:
    """The class that a model names, modular ones included."""
    registry = get_pipeline_registry()
    if facts.class_name in registry:
        return registry[facts.class_name]
    record = next((record for record in all_records() if record.name == facts.class_name), None)
    if record is None:
        start = f"Unknown pipeline class '{{}}', named by {facts.model_id}: is diffusers here older? "
        raise unknown_pipeline(facts.class_name, start)
    return import_class(record)


def resolve_checkpoint_class(model_id: str, task: str | None = None, **kwargs: Any) -> type:
    """The class for a single checkpoint file, fitted to a task.

    It is the class that `config=` (a folder or repo id) names, else the one of the Hub repo that diffusers
    gives for such weights; of a .safetensors file only the header is read. Raises ValueError for weights of
    no known family, UnknownTaskError, and HubError, which says what to pass instead.
    """
    alias = known_alias(task) if task else ""
    config = kwargs.get("config") or _config_repo(model_id, kwargs)
    try:
        facts = inspect_model(str(config), **hub_options(kwargs))
    except HubError as error:
        said = (
            f"'{model_id}' names no pipeline class, and its family's can't be looked up: {error}. "
            "Offline, pass config= a local folder with a model_index.json, or class_name="
        )
        raise type(error)(said) from error
    if not facts.class_name:
        raise ValueError(
            f"'{model_id}' names no pipeline class, and neither does '{config}' ({facts.note}): "
            "pass config= a local folder whose model_index.json names the class, or class_name="
        )
    return class_for(alias, facts)


def _config_repo(model_id: str, kwargs: Mapping[str, Any]) -> str:
    """The Hub repo whose configuration fits a checkpoint's weights, by diffusers' own table."""
    with import_lock:
        utils = importlib.import_module("diffusers.loaders.single_file_utils")
    weights = (
        _shapes(model_id)
        if model_id.endswith(".safetensors") and os.path.isfile(model_id)
        else utils.load_single_file_checkpoint(model_id, **hub_options(kwargs))
    )
    kind = utils.infer_diffusers_model_type(weights)
    # diffusers answers "v1" for whatever it doesn't know, a language model's weights included
    known = ("model.diffusion_model.", "cond_stage_model.")
    if kind == "v1" and not any(key.startswith(known) for key in weights):
        raise ValueError(f"'{model_id}' is no checkpoint that diffusers knows: its weights fit no family")
    return utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]


def _shapes(path: str) -> dict[str, SimpleNamespace]:
    """Tensor name -> an object with its `shape`, from a .safetensors header: no weights are read."""
    hub = importlib.import_module("huggingface_hub")
    try:
        tensors = hub.parse_local_safetensors_file_metadata(path).tensors
    except (hub.errors.SafetensorsParsingError, ValueError) as error:
        raise ValueError(f"'{path}' is no .safetensors file: its header is broken") from error
    return {name: SimpleNamespace(shape=tuple(tensor.shape)) for name, tensor in tensors.items()}
