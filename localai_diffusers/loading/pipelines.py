# SPDX-License-Identifier: MIT
"""LoadSpec -> a ready pipeline: find it, check it, build it, place it.

:func:`prepare` does everything that can fail without touching the model that serves now, and returns the second half,
which allocates.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint import artifacts, marks, model_files
from localai_diffusers.checkpoint.model_files import Location, ModelFacts
from localai_diffusers.errors import BackendError, LoadError, is_of_accelerator, is_out_of_memory, missing_package
from localai_diffusers.loading import (
    components,
    flux_quantized,
    parallel,
    pipeline_class,
    quantization,
    schedulers,
    words,
)
from localai_diffusers.loading.adapters import adapters, controlnets, ip_adapter
from localai_diffusers.loading.files import folder_weights, keywords, single_file, sources
from localai_diffusers.loading.files.single_file import Parts
from localai_diffusers.loading.files.skeletons import Skeletons
from localai_diffusers.loading.loaded_model import LoadedModel, Prepared, finish, model_defaults
from localai_diffusers.loading.modular_pipelines import modular
from localai_diffusers.loading.placing import caches, heap, placement, precision, prompt_cache
from localai_diffusers.patches import late_transformers, named_variants
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec
from localai_diffusers.work.jobs import Job
from localai_diffusers.work.progress import watched_loading
from localai_diffusers.work.ranks.peer import Peer

log = logging.getLogger(__name__)


def prepare(spec: LoadSpec, settings: Settings, job: Job[Any]) -> Prepared:
    """Check all that can be checked (downloading what must be) and return what builds the model.

    Raises LoadError or InvalidRequest; nothing is allocated on a device before the returned half runs.
    """
    late_transformers.settle()
    _require_prompt_libraries(settings)
    if spec.pipeline_type == flux_quantized.PIPELINE_TYPE:
        parallel.refuse(spec, "a quantized transformer")
        return _guarded(spec, lambda: flux_quantized.prepare(spec, settings, job))
    return _guarded(spec, lambda: _prepare(spec, settings, job))


def load_as_peer(peer: Peer, _control: Any, spec: LoadSpec, settings: Settings) -> None:
    """The whole model on the device of a peer, by the spec that rank 0 has."""
    job: Job[Any] = Job(lambda _job: None, "load of a peer")
    peer.model = prepare(parallel.alone(spec, peer.place.device), settings, job)()


def _require_prompt_libraries(settings: Settings) -> None:
    """Raise LoadError where the environment asks for a library of prompts that is not here: without it weights and
    length of a prompt would be lost without a word."""
    wanted = (
        (settings.compel, "COMPEL", "compel", "pip install compel"),
        (settings.sd_embed, "SD_EMBED", "sd_embed", "pip install --no-deps -r requirements-sd-embed.txt"),
    )
    for asked, variable, package, way_out in wanted:
        if asked and package not in sys.modules and importlib.util.find_spec(package) is None:
            raise LoadError(f"{variable}=1 needs the Python package {package}: {way_out}, or unset {variable}")


def refuse_early(spec: LoadSpec) -> None:
    """Raise LoadError for what cannot be a diffusion model at all, from its files' headers alone.

    The core probes backends in turn and waits, so this must not wait for the libraries' import, nor for a running job.
    """
    location = model_files.locate(spec.identity, spec.model_file, spec.model_path)
    if location.kind == "file":
        model_files.file_facts(location.place)
    elif location.kind == "folder" and spec.pipeline_type != flux_quantized.PIPELINE_TYPE:
        model_files.folder_facts(location.place, spec.options.subfolder)


def _guarded(spec: LoadSpec, first: Callable[[], Prepared]) -> Prepared:
    """Both halves with foreign errors told as LoadError: what is wrong with which model. The number of threads is the
    second's: a load that is refused changes nothing of the model that serves."""
    second: Prepared = _as_load_error(spec, first)

    def build() -> LoadedModel:
        if spec.threads:
            import torch

            torch.set_num_threads(spec.threads)
        return _as_load_error(spec, second)

    return replace(second, build=build)


def _as_load_error(spec: LoadSpec, half: Callable[[], Any]) -> Any:
    try:
        return half()
    except (BackendError, MemoryError):
        raise
    except (ImportError, ValueError, OSError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error) or is_of_accelerator(error):
            raise
        raise LoadError(f"{spec.identity}: {error}") from error
    except NameError as error:  # what a module imports only where a package is installed (OmniGen: torchvision)
        raise LoadError(f"{spec.identity}: {missing_package(error) or error}") from error


def _prepare(spec: LoadSpec, settings: Settings, job: Job[Any]) -> Prepared:
    location = model_files.locate(spec.identity, spec.model_file, spec.model_path)
    if spec.scheduler:
        schedulers.parse_name(spec.scheduler)
    parts = _parts_of_file(spec, location, settings)
    location = parts.location if parts else location
    facts = sources.facts_of(spec, location, brought=parts is not None)
    if modular.is_modular(spec, facts):
        parallel.refuse(spec, "a modular pipeline")
        return modular.prepare(spec, location, facts, settings, job)
    return _checked(spec, _chosen(spec, location, facts, parts or Parts(location), settings, job), settings, job)


@dataclass(frozen=True)
class _Choice:
    """What is to be loaded: the class, what is known of its model, and the parts that come from elsewhere."""

    cls: type
    facts: ModelFacts
    parts: tuple[components.Replacement, ...]
    is_file: bool
    absent: tuple[str, ...]
    marks: marks.Marks
    notes: tuple[str, ...]


def _chosen(
    spec: LoadSpec, location: Location, facts: ModelFacts, own: Parts, settings: Settings, job: Job[Any]
) -> _Choice:
    """The class, with everything on this machine that it needs."""
    nets = controlnets.find(spec, settings)
    nets = controlnets.settled(nets, facts)
    cls, notes = _choose(spec, facts, nets)
    job.check()
    wanted = {**own.wanted} | ip_adapter.wishes(spec, cls, settings) | components.wishes(spec, cls)
    left_out = components.left_out(spec, cls)
    facts = sources.with_weights(spec, location, facts, cls, settings, {*wanted, *left_out})
    is_file = location.kind.endswith("file")
    if is_file and spec.options.custom_pipeline:
        raise LoadError("option custom_pipeline: its code reads folders and repos, and this model is a single file")
    if location.kind == "repo":
        nets = controlnets.settled(nets, facts)
        cls, notes = _choose(spec, facts, nets)  # once more, now that the components are known
    facts = components.without(facts, left_out)
    if is_file:
        facts = replace(facts, scheduler_class=pipeline_class.scheduler_of(cls))
    parts = components.prepare(spec, facts, cls, wanted, settings) + controlnets.prepare(
        spec, facts, cls, nets, settings
    )
    facts = components.amended(facts, parts)
    pipeline_class.check_components(cls, facts, {*wanted, *left_out, *(part.component for part in parts)})
    notes = [*own.notes, *notes, *(note for part in parts for note in part.notes)]
    return _Choice(cls, facts, tuple(parts), is_file, own.absent, own.marks, tuple(notes))


def _checked(spec: LoadSpec, choice: _Choice, settings: Settings, job: Job[Any]) -> Prepared:
    """Check the rest that can be, and return what builds the model."""
    variant = precision.preferred_variant(spec, choice.facts)
    choice = _with_checked_weights(spec, choice, variant, settings)
    cls, facts = choice.cls, choice.facts
    if spec.scheduler:
        schedulers.check(spec.scheduler, facts.scheduler_config, cls)
    absent = {**components.left_out(spec, cls), **keywords.absent(spec, facts, cls), **dict.fromkeys(choice.absent)}
    quantized, told = quantization.chosen(spec, facts, Skeletons(cls, facts, choice.parts), absent)
    planned = adapters.plan(spec, cls, settings, Skeletons(cls, facts, choice.parts, quantized))
    ip_adapter.check_encoder(spec, facts, planned.ip_adapter, _config_of("image_encoder", choice))
    where = _placed(spec, cls, facts, quantized, settings)
    quantization.check(facts, where, spec)
    _check_cache(spec, cls, facts)
    prompt_cache.check(spec.options, facts)
    size = precision.weight_bytes(facts, spec, where.dtype, where.quantized)
    shares = parallel.plan(spec, facts, where, size)
    if shares:
        where = replace(where, device_map=None, notes=(*where.notes, shares.note))
    said = words.sort(spec, cls, facts, settings)
    defaults = model_defaults(spec, cls, facts, settings, said)
    notes = [*spec.notes, *choice.notes, *told, *where.notes]
    arguments = keywords.of_pipeline(spec, facts, cls, where, variant, settings) | components.left_out(spec, cls)
    job.check()

    def build() -> LoadedModel:
        sparing = heap.freed_at_once(bool(where.quantized))
        with watched_loading(job), named_variants.applied(model_files.variant_of), sparing:
            pipeline = loader.load_diffusers_pipeline(
                class_name="DiffusionPipeline" if spec.options.custom_pipeline else cls.__name__,
                model_id=str(facts.path),
                from_single_file=choice.is_file,
                **{
                    **arguments,
                    **said.constructor,
                    **dict.fromkeys(choice.absent),
                    **components.load(choice.parts, where),
                },
            )
            marked = [*marks.applied(pipeline, choice.marks), *quantization.notes(pipeline, where)]
        if not where.device_map:  # which may leave weights on the disk
            _check_whole(pipeline)
        if type(pipeline) is cls:
            return finish(spec, pipeline, where, defaults, settings, planned, [*notes, *said.notes, *marked])
        # A class that stands for others (a file of no named class): only now its arguments are known.
        late = words.sort(spec, type(pipeline), facts, settings)
        known = model_defaults(spec, type(pipeline), facts, settings, late)
        return finish(spec, pipeline, where, known, settings, planned, [*notes, *late.notes, *marked])

    if shares:
        build = parallel.on_every_rank(
            build, shares, where, load_as_peer, spec, settings, log_format=settings.log_format, check=job.check
        )
    return Prepared(build, cls.__name__, where, size, (*notes, *said.notes))


def _placed(
    spec: LoadSpec, cls: type, facts: ModelFacts, quantized: Mapping[str, str], settings: Settings
) -> placement.DevicePlan:
    """Where and in what form it computes, of what the class and its denoiser can."""
    denoiser = components.component_class(*facts.components[facts.denoiser]) if facts.denoiser else None
    where = placement.plan(spec, facts, settings, quantized, placement.ways_of(cls, denoiser))
    placement.check_way(where.offload, cls, denoiser)
    return placement.as_the_code_casts(where, cls, facts)


def _check_cache(spec: LoadSpec, cls: type, facts: ModelFacts) -> None:
    """Raise LoadError for a cache that the class or its components cannot have; a class that stands for others is
    judged when it is known."""
    own = {name: kind for name, (library, kind) in facts.components.items() if library == "diffusers"}
    known = {name: components.component_class("diffusers", kind) for name, kind in own.items()}
    if "__call__" in dir(cls):
        caches.check(spec.options, cls, {name: kind for name, kind in known.items() if kind is not None})


def _with_checked_weights(spec: LoadSpec, choice: _Choice, variant: str | None, settings: Settings) -> _Choice:
    """The choice with those components of a folder that are read here, their files intact and whole."""
    allow_pickle = artifacts.allows_pickle(spec, settings)
    model_files.check_weights(choice.facts, variant, allow_pickle, components.expected(choice.cls))
    parts, said = folder_weights.checked(choice.facts, choice.cls, choice.parts, variant, allow_pickle)
    facts = components.amended(choice.facts, parts)
    return replace(choice, facts=facts, parts=parts, notes=(*choice.notes, *said))


def _config_of(component: str, choice: _Choice) -> Mapping[str, Any]:
    """The config of a component as it will be: of what stands for it, else the model's own."""
    brought = next((part.config for part in choice.parts if part.component == component), None)
    return brought if brought is not None else choice.facts.config(component)


def _check_whole(pipeline: Any) -> None:
    """Raise LoadError for a component whose files lacked some of its tensors: diffusers leaves those without data."""
    import torch

    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            absent = [key for key, tensor in (*part.named_parameters(), *part.named_buffers()) if tensor.is_meta]
            if absent:
                raise LoadError(
                    f"the weights of {name} lack {len(absent)} of its tensors ({', '.join(absent[:3])}): they are not "
                    "whole, or of another kind of model than the config beside them says"
                )


def _parts_of_file(spec: LoadSpec, location: Location, settings: Settings) -> Parts | None:
    """What a model of one file gives to which pipeline; None for a folder or repo, and where diffusers has to guess."""
    if not location.kind.endswith("file"):
        return None
    path = location.path or sources.download_file(spec, location)
    return single_file.parts_of(spec, path, artifacts.allows_pickle(spec, settings))


def _choose(spec: LoadSpec, facts: ModelFacts, nets: tuple[controlnets.Net, ...]) -> tuple[type, list[str]]:
    """The class for the model, with its ControlNets and the components that its options bring."""
    judged = components.with_brought(spec, controlnets.with_controlnet(facts, nets), pipeline_class.asked_for(spec))
    cls, notes = pipeline_class.choose(spec, judged)
    return controlnets.pipeline_class(cls, facts, nets, pipeline_class.misfit), notes
