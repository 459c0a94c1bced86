"""Modular pipelines: a row of blocks in the place of a class's ``__call__``, served by the same rules.

One class does all of its tasks: the inputs decide. Its components come from its own folder, or from repos that it names.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import model_files, modular_call, placement, progress, schedulers, sources
from .engine import Job
from .errors import LoadError
from .load_spec import LoadSpec
from .loaded_model import LoadedModel, finish, model_defaults
from .model_files import Location, ModelFacts
from .placement import DevicePlan
from .settings import Settings

_ROOT = "ModularPipeline"
# Libraries whose classes a model may name; importing any other by a name in a model's file would run its code.
_LIBRARIES = ("diffusers", "transformers")


def is_modular(spec: LoadSpec, facts: ModelFacts) -> bool:
    """Whether the model is modular, or a modular class is asked for by its name."""
    return facts.is_modular or _ROOT in spec.pipeline_type


def prepare(
    spec: LoadSpec, location: Location, facts: ModelFacts, settings: Settings, job: Job
) -> Callable[[], LoadedModel]:
    """As :func:`pipelines.prepare`. Raises LoadError for code without trust and for what only classic pipelines take."""
    facts = _on_disk(spec, location, facts, settings)
    _check(spec, facts)
    variant = placement.preferred_variant(spec, facts)
    model_files.check_weights(facts, variant, sources.allows_pickle(spec, settings))
    if spec.scheduler:
        schedulers.check(spec.scheduler, facts.scheduler_config)
    where = _with_manager(placement.plan(spec, facts, settings))
    asked = "" if _ROOT in spec.pipeline_type else spec.pipeline_type
    job.check()

    def build() -> LoadedModel:
        with progress.watched_loading(job):
            pipeline = _of_blocks(spec, facts, where)
            pipeline.update_components(**dict(_components(spec, facts, where, variant, settings, pipeline, job)))
        modular_call.served(pipeline)
        defaults, said = model_defaults(spec, type(pipeline), facts, settings)
        notes = [f"PipelineType {asked} is ignored: the model is a {type(pipeline).__name__}"] if asked else []
        return finish(spec, pipeline, where, defaults, settings, [*spec.notes, *notes, *where.notes, *said])

    return build


def _on_disk(spec: LoadSpec, location: Location, facts: ModelFacts, settings: Settings) -> ModelFacts:
    """A Hub repo as the folder of its snapshot, without pickles unless they are trusted."""
    if location.kind != "repo":
        return facts
    pickles = [] if sources.allows_pickle(spec, settings) else [f"*{suffix}" for suffix in model_files.PICKLE_SUFFIXES]
    folder = sources.snapshot(spec, location, pickles)
    return model_files.folder_facts(folder, str(spec.load_options.get("subfolder") or ""))


def _check(spec: LoadSpec, facts: ModelFacts) -> None:
    foreign = sorted({library for library, _class in facts.components.values() if not _is_known(library)})
    if (facts.remote_code or foreign) and not spec.trust_remote_code:
        raise LoadError(
            f"{facts.path} brings its own code ({', '.join(foreign) or facts.class_name}), which is run only with "
            "trust_remote_code: true"
        )
    replaced = {
        "ControlNet": spec.controlnets,
        "CLIPModel": spec.clip_model,
        "option vae": spec.load_options.get("vae"),
    }
    for field, value in replaced.items():
        if value:
            raise LoadError(
                f"{field}: a modular pipeline takes its components from its own {model_files.MODULAR_INDEX_FILE}"
            )


def _is_known(library: str) -> bool:
    """One of the two libraries, or the folder of a pipeline in diffusers, as an index names it."""
    packaged = library.isidentifier() and importlib.util.find_spec(f"diffusers.pipelines.{library}") is not None
    return library.partition(".")[0] in _LIBRARIES or packaged


def _with_manager(where: DevicePlan) -> DevicePlan:
    """Of the ways to offload there is one for modular pipelines, their manager's, which is like ``model``."""
    if where.offload in ("none", "model") and not where.device_map:
        return where
    note = f"a modular pipeline knows no {'device_map' if where.device_map else f'offload:{where.offload}'}: offload:model is used"
    return replace(where, offload="model", device_map=None, notes=(*where.notes, note))


# --- blocks and components -----------------------------------------------------------------------------------------


def _of_blocks(spec: LoadSpec, facts: ModelFacts, where: DevicePlan) -> Any:
    """The pipeline without its components: of its own blocks where it brings some, else of its class's."""
    import diffusers

    # It logs the traceback of one error three times, a cancellation's too; ours is logged where it is caught.
    logging.getLogger("diffusers.modular_pipelines.modular_pipeline").setLevel(logging.CRITICAL)
    manager = diffusers.ComponentsManager() if where.offload != "none" else None
    name = spec.pipeline_type if _ROOT in spec.pipeline_type else facts.class_name
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise LoadError(f"this diffusers has no modular pipeline class {name}")
    if cls is diffusers.ModularPipeline or facts.remote_code:
        return diffusers.ModularPipeline.from_pretrained(
            str(facts.path), components_manager=manager, trust_remote_code=spec.trust_remote_code
        )
    return cls(pretrained_model_name_or_path=str(facts.path), components_manager=manager)


def _components(
    spec: LoadSpec,
    facts: ModelFacts,
    where: DevicePlan,
    variant: str | None,
    settings: Settings,
    pipeline: Any,
    job: Job,
) -> Iterator[tuple[str, Any]]:
    """(name, component) of all that is loaded, from the model's own folder where it has it, else from the repo named for it.

    One by one, for ``load_components`` only warns of one that fails.
    """
    for name in pipeline.pretrained_component_names:
        job.check()
        part = pipeline.get_component_spec(name)
        options = _module_options(name, where, settings, spec) if _is_module(part) else {}
        if (facts.path / name).is_dir():
            options |= {"pretrained_model_name_or_path": str(facts.path), "subfolder": name, "revision": None}
            options["variant"] = (
                variant
                if any(w.component == name and model_files.variant_of(w.path.name) == variant for w in facts.files)
                else None
            )
        elif not _is_elsewhere(name, part.pretrained_model_name_or_path, facts):
            continue  # a task's that this model does not have, say a ControlNet
        yield name, part.load(**options)


def _is_elsewhere(name: str, source: str | None, facts: ModelFacts) -> bool:
    """Whether ``source`` is a Hub repo. LoadError for a folder of whoever saved the model, if the component was there then."""
    if not source or Path(source) == facts.path:
        return False
    try:
        return model_files.hub_location(source).kind == "repo"
    except LoadError:
        if (facts.index.get(name) or [None])[0] is None:
            return False
        raise


def _is_module(part: Any) -> bool:
    import torch

    return part.type_hint is None or issubclass(part.type_hint, torch.nn.Module)


def _module_options(name: str, where: DevicePlan, settings: Settings, spec: LoadSpec) -> dict[str, Any]:
    import torch

    options = {"dtype": getattr(torch, where.component_dtypes.get(name, where.dtype))}
    return options if sources.allows_pickle(spec, settings) else {**options, "use_safetensors": True}
