# SPDX-License-Identifier: MIT
"""Modular pipelines: a row of blocks in the place of a class's ``__call__``, served by the same rules.

One class does all of its tasks: the inputs decide. Its components come from its own folder, or from repos that it
names.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import artifacts, model_files
from localai_diffusers.checkpoint.model_files import Location, ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import components, quantization, schedulers, words
from localai_diffusers.loading.adapters import adapters, controlnets, ip_adapter
from localai_diffusers.loading.files import folder_weights, sources
from localai_diffusers.loading.files.skeletons import Skeletons
from localai_diffusers.loading.loaded_model import LoadedModel, Prepared, finish, model_defaults
from localai_diffusers.loading.modular_pipelines import modular_call
from localai_diffusers.loading.placing import heap, placement, precision, prompt_cache, quantizers
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec
from localai_diffusers.work import progress
from localai_diffusers.work.jobs import Job

_ROOT = "ModularPipeline"
# Libraries whose classes a model may name; importing any other by a name in a model's file would run its code.
_LIBRARIES = ("diffusers", "transformers")


def is_modular(spec: LoadSpec, facts: ModelFacts) -> bool:
    """Whether the model is modular, or a modular class is asked for by its name."""
    return facts.is_modular or _ROOT in spec.pipeline_type


def prepare(spec: LoadSpec, location: Location, facts: ModelFacts, settings: Settings, job: Job[Any]) -> Prepared:
    """As :func:`pipelines.prepare`. Raises LoadError for code without trust and for what the blocks do not take."""
    _check_code(spec, facts)  # before anything of such a repo is downloaded
    facts = _on_disk(spec, location, facts, settings)
    _check_code(spec, facts)
    pipeline = _of_blocks(spec, facts)
    cls = modular_call.described(pipeline)
    early = words.sort(spec, cls, facts, settings)
    facts, places, parts = _found(spec, facts, pipeline, cls, settings, job)
    allows_pickle = artifacts.allows_pickle(spec, settings)
    model_files.check_weights(facts, precision.preferred_variant(spec, facts), allows_pickle)
    fitted, told = _checked_weights(pipeline, places, allows_pickle)
    parts += fitted
    places = {name: place for name, place in places.items() if name not in {part.component for part in fitted}}
    if spec.scheduler:
        schedulers.check(spec.scheduler, facts.scheduler_config)
    quantized, kept = quantization.chosen(spec, facts, Skeletons(cls, facts, parts), components.left_out(spec, cls))
    told += kept
    planned = adapters.plan(spec, cls, settings, Skeletons(cls, facts, parts, quantized))
    where = _with_manager(placement.plan(spec, facts, settings, quantized, frozenset({"none", "model"})))
    quantization.check(facts, where, spec)
    prompt_cache.check(spec.options, facts)
    asked = "" if _ROOT in spec.pipeline_type else spec.pipeline_type
    job.check()

    def build() -> LoadedModel:
        with progress.watched_loading(job), heap.freed_at_once(bool(where.quantized)):
            own = {name: _read(spec, pipeline, place, where, settings, job) for name, place in places.items()}
            pipeline.update_components(**own, **components.load(parts, where), **early.constructor)
            pipeline.register_components(**_made(pipeline))
        modular_call.served(pipeline)
        said = words.sort(spec, type(pipeline), facts, settings)
        defaults = model_defaults(spec, type(pipeline), facts, settings, said)
        notes = [f"PipelineType {asked} is ignored: the model is a {type(pipeline).__name__}"] if asked else []
        notes += quantization.notes(pipeline, where)
        return finish(
            spec, pipeline, where, defaults, settings, planned, [*spec.notes, *notes, *told, *where.notes, *said.notes]
        )

    size = precision.weight_bytes(facts, spec, where.dtype, where.quantized)
    return Prepared(build, cls.__name__, where, size, (*spec.notes, *told, *where.notes, *early.notes))


def _on_disk(spec: LoadSpec, location: Location, facts: ModelFacts, settings: Settings) -> ModelFacts:
    """A Hub repo as the folder of its snapshot, without pickles unless they are trusted."""
    if location.kind != "repo":
        return facts
    pickles = (
        [] if artifacts.allows_pickle(spec, settings) else [f"*{suffix}" for suffix in model_files.PICKLE_SUFFIXES]
    )
    folder = sources.snapshot(spec, location, pickles)
    return model_files.folder_facts(folder, spec.options.subfolder)


def _check_code(spec: LoadSpec, facts: ModelFacts) -> None:
    """Raise LoadError where the model brings code, or names a class of a library that diffusers would import for it."""
    named = {library for library, _class in facts.components.values()} | set(_type_hints(facts))
    foreign = sorted(library for library in named if not _is_known(library))
    if (facts.remote_code or foreign) and not spec.trust_remote_code:
        raise LoadError(
            f"{facts.path} brings its own code ({', '.join(foreign) or facts.class_name}), which is run only with "
            "trust_remote_code: true"
        )


def _type_hints(facts: ModelFacts) -> Iterator[str]:
    """The libraries in the third part of a modular index's entries: diffusers imports those,
    whatever the first part says."""
    for value in facts.index.values():
        hint = value[2].get("type_hint") if isinstance(value, list) and len(value) > 2 else None
        if isinstance(hint, (list, tuple)) and hint and hint[0]:
            yield str(hint[0])


def _is_known(library: str) -> bool:
    """One of the two libraries, or the folder of a pipeline in diffusers, as an index names it."""
    packaged = library.isidentifier() and importlib.util.find_spec(f"diffusers.pipelines.{library}") is not None
    return library.partition(".")[0] in _LIBRARIES or packaged


def _with_manager(where: DevicePlan) -> DevicePlan:
    """Of the ways to offload there is one for modular pipelines, their manager's, which is like ``model``."""
    if where.offload in ("none", "model") and not where.device_map:
        return where
    wanted = "device_map" if where.device_map else f"offload:{where.offload}"
    note = f"a modular pipeline knows no {wanted}: offload:model is used"
    return replace(where, offload="model", device_map=None, notes=(*where.notes, note))


# --- blocks and components -----------------------------------------------------------------------------------------


def _of_blocks(spec: LoadSpec, facts: ModelFacts) -> Any:
    """The pipeline without its components: of its own blocks where it brings some, else of its class's."""
    import diffusers

    manager = diffusers.ComponentsManager()  # which offloads, where it is told to, what is registered with it
    name = spec.pipeline_type if _ROOT in spec.pipeline_type else facts.class_name
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise LoadError(f"this diffusers has no modular pipeline class {name}")
    if cls is not diffusers.ModularPipeline and not facts.remote_code:
        return cls(pretrained_model_name_or_path=str(facts.path), components_manager=manager)
    if not facts.index:  # blocks alone: their own specs say where their components are
        blocks = diffusers.ModularPipelineBlocks.from_pretrained(
            str(facts.path), trust_remote_code=spec.trust_remote_code
        )
        return blocks.init_pipeline(components_manager=manager)
    return diffusers.ModularPipeline.from_pretrained(
        str(facts.path), components_manager=manager, trust_remote_code=spec.trust_remote_code
    )


def _found(
    spec: LoadSpec, facts: ModelFacts, pipeline: Any, cls: type, settings: Settings, job: Job[Any]
) -> tuple[ModelFacts, dict[str, Place], tuple[components.Replacement, ...]]:
    """Every component on this machine: where each of the model's own is, and the parts that the YAML names instead.

    The facts with the files of both.
    """
    nets = controlnets.find(spec, settings)
    wanted = ip_adapter.wishes(spec, cls, settings) | components.wishes(spec, cls)
    places: dict[str, Place] = {}
    for name in pipeline.pretrained_component_names:
        job.check()
        part = pipeline.get_component_spec(name)
        if name not in {*wanted, *components.left_out(spec, cls)} and not (nets and name == controlnets.COMPONENT):
            place = _place(spec, facts, name, part, settings)
            places |= {name: place} if place is not None else {}
    facts = _with_places(facts, places)
    parts = components.prepare(spec, facts, cls, wanted, settings)
    parts += controlnets.prepare_modular(spec, facts, cls, nets, settings)
    return components.amended(facts, parts), places, tuple(parts)


def _checked_weights(
    pipeline: Any, places: Mapping[str, Place], allows_pickle: bool
) -> tuple[tuple[components.Replacement, ...], list[str]]:
    """The components whose files go by other names than the library's, read here, and notes on keys without a use.

    Raises LoadError for a component whose files lack some of its tensors: from headers, before the earlier model goes.
    """
    parts, notes = [], []
    for place in places.values():
        kind = pipeline.get_component_spec(place.name).type_hint
        library = getattr(kind, "__module__", "").partition(".")[0]
        if library not in ("diffusers", "transformers") or not place.root.is_dir() or not place.files():
            continue
        found = folder_weights.Place(place.name, (library, kind.__name__), place.files(), place.root, place.subfolder)
        part, note = folder_weights.component(found, allows_pickle)
        parts += [part] if part is not None else []
        notes += [note] if note else []
    return tuple(parts), notes


@dataclass(frozen=True)
class Place:
    """Where a component is on this machine: a subfolder of ``root`` (or ``root``, a lone file), of which variant."""

    name: str
    root: Path
    subfolder: str
    variant: str | None

    def files(self) -> tuple[model_files.WeightFile, ...]:
        """Its files of weights, those of its variant alone."""
        if self.root.is_file():
            return (model_files.weight_file(self.name, self.root),)
        every = components.weight_files(self.name, self.root / self.subfolder)
        return tuple(file for file in every if (model_files.variant_of(file.path.name) or None) == self.variant)


def _place(spec: LoadSpec, facts: ModelFacts, name: str, part: Any, settings: Settings) -> Place | None:
    """In the model's own folder where it has the component, else downloaded from the repo named for it, else None."""
    source = part.pretrained_model_name_or_path
    own = next((sub for sub in _subfolders(facts, name, part) if (facts.path / sub).is_dir()), None)
    if own is not None:
        known = {model_files.variant_of(file.path.name) for file in components.weight_files(name, facts.path / own)}
        return Place(name, facts.path, own, next((one for one in _variants(spec, part) if one in known), None))
    location = _elsewhere(name, source, facts)
    if location is None:
        return None  # a task's that this model does not have, say a ControlNet
    field = f"component {name}"
    if location.kind == "repo_file":
        return Place(name, artifacts.fetch(spec, location, field), part.subfolder or "", part.variant)
    return _downloaded(spec, replace(location, revision=part.revision or location.revision), name, part, settings)


def _subfolders(facts: ModelFacts, name: str, part: Any) -> Iterator[str]:
    """Where in the model's own folder the component may be: where its index says, else by its name."""
    if part.subfolder and part.pretrained_model_name_or_path == str(facts.path):
        yield part.subfolder
    yield name


def _variants(spec: LoadSpec, part: Any) -> list[str | None]:
    """Variants of a component's weights, the best first: what the YAML or the model asks for, fp16 for f16,
    else plain."""
    wanted = [spec.options.variant or part.variant, "fp16" if spec.f16 else None]
    return [*dict.fromkeys(one for one in wanted if one), None]


def _downloaded(spec: LoadSpec, location: Location, name: str, part: Any, settings: Settings) -> Place:
    """The component of a Hub repo, with the files of one variant of its weights."""
    subfolder = part.subfolder or ""
    prefix = f"{subfolder}/" if subfolder else ""
    suffixes = [".json", ".txt", ".model", ".jinja", *([".py"] if spec.trust_remote_code else [])]
    texts = [f"{prefix}*{suffix}" for suffix in suffixes]
    kinds = [".safetensors", *(model_files.PICKLE_SUFFIXES if artifacts.allows_pickle(spec, settings) else ())]
    for variant, kind in itertools.product(_variants(spec, part), kinds) if _is_module(part) else ():
        ignored = [] if variant else [f"{prefix}*.*{kind}"]
        weights = f"{prefix}*.{variant}*{kind}" if variant else f"{prefix}*{kind}"
        folder = artifacts.fetch(spec, location, f"component {name}", [*texts, weights], ignored)
        place = Place(name, folder, subfolder, variant)
        if place.files():
            return place
    return Place(name, artifacts.fetch(spec, location, f"component {name}", texts), subfolder, None)


def _elsewhere(name: str, source: str | None, facts: ModelFacts) -> Location | None:
    """The Hub repo (or file of one) that ``source`` is. LoadError for a folder of whoever saved the model, if the
    component was there then."""
    if not source or Path(source) == facts.path:
        return None
    try:
        return model_files.hub_location(source)
    except LoadError:
        if (facts.index.get(name) or [None])[0] is None:
            return None
        raise


def _with_places(facts: ModelFacts, places: Mapping[str, Place]) -> ModelFacts:
    """The facts with the files of all components, and the configs of the repo that the scheduler comes from."""
    scheduler = places.get("scheduler")
    elsewhere = scheduler is not None and scheduler.root != facts.path and scheduler.subfolder == "scheduler"
    return replace(
        facts,
        files=tuple(file for place in places.values() for file in place.files()),
        configs=scheduler.root if scheduler is not None and elsewhere else None,
    )


def _read(spec: LoadSpec, pipeline: Any, place: Place, where: DevicePlan, settings: Settings, job: Job[Any]) -> Any:
    """The component, loaded: one by one, for ``load_components`` only warns of one that fails."""
    job.check()
    part = pipeline.get_component_spec(place.name)
    options = _weight_keywords(place, part.type_hint or object, where, settings, spec) if _is_module(part) else {}
    if part.type_hint is None and spec.trust_remote_code:
        options["trust_remote_code"] = True
    return part.load(
        pretrained_model_name_or_path=str(place.root),
        subfolder=place.subfolder,
        revision=None,
        **{"variant": place.variant, **options},
    )


def _made(pipeline: Any) -> dict[str, Any]:
    """Components that the blocks can make of nothing but a config, where the model's index has null for them."""
    known = {part.name: part for part in pipeline.blocks.expected_components}
    absent = [part for name, part in known.items() if getattr(pipeline, name, None) is None]
    return {part.name: part.create() for part in absent if part.default_creation_method == "from_config"}


def _is_module(part: Any) -> bool:
    import torch

    return part.type_hint is None or issubclass(part.type_hint, torch.nn.Module)


def _weight_keywords(place: Place, kind: type, where: DevicePlan, settings: Settings, spec: LoadSpec) -> dict[str, Any]:
    dtype = where.torch_dtype_of(place.name)
    packed = quantizers.keywords(where.quantized.get(place.name), kind, dtype)
    return artifacts.weight_keywords(spec, settings, kind, dtype, place.variant) | packed
