"""LoadSpec -> a ready pipeline: find it, check it, build it, place it.

:func:`prepare` does everything that can fail without touching the model that serves now, and returns the second half,
which allocates.
"""
from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers_dynamic_loader as loader

from . import (adapters, components, controlnets, flux_quantized, ip_adapter, model_files, paths, placement, schedulers,
               transformer_file)
from .artifacts import Wish
from .engine import Job
from .errors import BackendError, LoadError
from .load_spec import LoadSpec
from .loaded_model import LoadedModel, finish, model_defaults
from .model_files import Location, ModelFacts
from .placement import DevicePlan
from .progress import watched_loading
from .settings import Settings

log = logging.getLogger(__name__)


_ROOT = "DiffusionPipeline"
# Passed to from_pretrained or from_single_file as they are.
_PASSED_ON = ("revision", "local_files_only", "custom_pipeline", "low_cpu_mem_usage", "disable_mmap", "max_memory",
              "offload_folder", "original_config")
# Components that never make a class unfit: a pipeline runs without them.
_DISPENSABLE = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")


def prepare(spec: LoadSpec, settings: Settings, job: Job) -> Callable[[], LoadedModel]:
    """Check all that can be checked (downloading what must be) and return what builds the model.

    Raises LoadError or InvalidRequest; nothing is allocated on a device before the returned half runs.
    """
    if spec.threads:
        import torch

        torch.set_num_threads(spec.threads)
    if spec.pipeline_type == flux_quantized.PIPELINE_TYPE:
        return _guarded(spec, lambda: flux_quantized.prepare(spec, settings, job))
    return _guarded(spec, lambda: _prepare(spec, settings, job))


def _guarded(spec: LoadSpec, first: Callable[[], Callable[[], LoadedModel]]) -> Callable[[], LoadedModel]:
    """Both halves with foreign errors told as LoadError: what is wrong with which model."""
    second = _as_load_error(spec, first)
    return lambda: _as_load_error(spec, second)


def _as_load_error(spec: LoadSpec, half: Callable[[], Any]) -> Any:
    try:
        return half()
    except (BackendError, MemoryError):
        raise
    except (ImportError, ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        log.debug("load of %s failed", spec.identity, exc_info=error)
        raise LoadError(f"{spec.identity}: {error}") from error


def _prepare(spec: LoadSpec, settings: Settings, job: Job) -> Callable[[], LoadedModel]:
    location = model_files.locate(spec.identity, spec.model_file, spec.model_path)
    if location.kind == "file":
        model_files.file_facts(location.path)  # a language model's file is refused before anything is imported
    if spec.scheduler:
        schedulers.parse_name(spec.scheduler)
    location, wanted = _with_base(spec, location)
    nets = controlnets.find(spec, settings)
    facts = _facts(spec, location, settings)
    cls, notes = _choose(spec, facts, nets)
    job.check()
    wanted |= ip_adapter.wishes(spec, cls, settings) | components.wishes(spec, cls)
    facts = _with_weights(spec, location, facts, cls, settings, wanted)
    if location.kind == "repo":
        cls, notes = _choose(spec, facts, nets)  # once more, now that the components are known
    parts = components.prepare(spec, facts, cls, wanted, settings) + controlnets.prepare(spec, facts, cls, nets, settings)
    facts = components.amended(facts, parts)
    variant = placement.preferred_variant(spec, facts)
    model_files.check_weights(facts, variant, _allows_pickle(spec, settings))
    if spec.scheduler:
        schedulers.check(spec.scheduler, facts.scheduler_config)
    adapters.plan(spec, cls, settings)
    ip_adapter.check_encoder(spec, facts)
    where = placement.plan(spec, facts, settings)
    options, more = model_defaults(spec, cls, facts, settings)
    notes = [*spec.notes, *notes, *where.notes, *more]
    job.check()

    def build() -> LoadedModel:
        with watched_loading(job):
            pipeline = loader.load_diffusers_pipeline(
                class_name=cls.__name__, model_id=str(facts.path), from_single_file=location.kind.endswith("file"),
                **{**_arguments(spec, facts, cls, where, variant, settings), **components.load(parts, where)})
        if type(pipeline) is cls:
            return finish(spec, pipeline, where, options, settings, notes)
        # A class that stands for others (a file of no named class): only now its arguments are known.
        known, said = model_defaults(spec, type(pipeline), facts, settings)
        return finish(spec, pipeline, where, known, settings, [note for note in notes if note not in more] + said)

    return build


def _with_base(spec: LoadSpec, location: Location) -> tuple[Location, dict[str, Wish]]:
    """For a file that holds a transformer alone: its base, and the file as a component of it. Else ``location``."""
    if not location.kind.endswith("file"):
        return location, {}
    return transformer_file.base_of(spec, location.path or _download_file(spec, location)) or (location, {})


def _choose(spec: LoadSpec, facts: ModelFacts, nets: tuple[controlnets.Net, ...]) -> tuple[type, list[str]]:
    """The class for the model, with its ControlNets where there are any."""
    cls, notes = choose_class(spec, controlnets.with_controlnet(facts, nets))
    return controlnets.pipeline_class(cls, facts, nets, misfit), notes


# --- what the model is -------------------------------------------------------------------------------------------


def _facts(spec: LoadSpec, location: Location, settings: Settings) -> ModelFacts:
    """What is known of the model before its weights are here: for a repo, its own index."""
    subfolder = str(spec.load_options.get("subfolder") or "")
    if location.kind == "folder":
        return model_files.folder_facts(location.path, subfolder)
    if location.kind == "file":
        return _file_facts(spec, location.path)
    if location.kind == "repo_file":
        return _file_facts(spec, _download_file(spec, location))
    known = loader.inspect_model(location.repo, revision=_revision(spec, location),
                                 local_files_only=bool(spec.load_options.get("local_files_only")))
    return ModelFacts(Path(location.repo), known.class_name, known.modular, known.custom)


def _file_facts(spec: LoadSpec, path: Path) -> ModelFacts:
    """A checkpoint's facts with those of the folder that ``options: config:`` names, where it names one."""
    facts = model_files.file_facts(path)
    config = spec.load_options.get("config")
    folder = Path(paths.resolve(str(config), spec.model_path, "option config")) if config else None
    if folder is None or not (folder / model_files.INDEX_FILE).is_file():
        return facts
    index = model_files.indexed_facts(folder)
    return replace(facts, class_name=index.class_name, components=index.components, index=index.index)


def _with_weights(spec: LoadSpec, location: Location, facts: ModelFacts, cls: type, settings: Settings,
                  replaced: Iterable[str] = ()) -> ModelFacts:
    """For a repo: its files downloaded as diffusers does it (resumable, only what ``cls`` needs), as a folder's facts.

    Of the ``replaced`` components only the configs.
    """
    if location.kind != "repo":
        return facts
    import diffusers

    options = {"revision": _revision(spec, location), "local_files_only": spec.load_options.get("local_files_only"),
               "use_safetensors": _use_safetensors(spec, settings), "trust_remote_code": spec.trust_remote_code}
    options = {name: value for name, value in options.items() if value is not None} | dict.fromkeys(replaced)
    download = diffusers.DiffusionPipeline.download
    wanted = spec.load_options.get("variant") or ("fp16" if spec.f16 else None)
    try:
        folder = download(location.repo, variant=wanted, **options)
    except ValueError:
        if wanted is None or spec.load_options.get("variant"):
            raise
        folder = download(location.repo, **options)  # f16 asks for fp16 files, it does not need them
    _download_configs(spec, location, replaced)
    return model_files.folder_facts(Path(folder), str(spec.load_options.get("subfolder") or ""))


def _download_configs(spec: LoadSpec, location: Location, names: Iterable[str]) -> None:
    """The configs of components whose weights come from elsewhere; a component may have none."""
    import huggingface_hub

    for name in names:
        with contextlib.suppress(OSError, ValueError):
            huggingface_hub.hf_hub_download(location.repo, f"{name}/config.json", revision=_revision(spec, location),
                                            local_files_only=bool(spec.load_options.get("local_files_only")))


def _download_file(spec: LoadSpec, location: Location) -> Path:
    import huggingface_hub

    only_local = bool(spec.load_options.get("local_files_only"))
    return Path(huggingface_hub.hf_hub_download(location.repo, location.file, revision=_revision(spec, location),
                                                local_files_only=only_local))


def _revision(spec: LoadSpec, location: Location) -> str | None:
    asked = spec.load_options.get("revision")
    return str(asked) if asked else location.revision


# --- the class -----------------------------------------------------------------------------------------------------


def choose_class(spec: LoadSpec, facts: ModelFacts) -> tuple[type, list[str]]:
    """The pipeline class to load, and what was decided.

    An explicit class that fits the model's components wins; one that does not gives way to the model's own class (or
    its sibling for the same task): LocalAI's importer writes StableDiffusionPipeline for everything. A task picks the
    sibling of the model's own class. Raises LoadError for an unknown name, remote code without trust, or no class.
    """
    if facts.remote_code and not spec.trust_remote_code:
        raise LoadError(f"{facts.path} brings its own code ({facts.class_name}), which is run only with trust_remote_code: true")
    asked = spec.pipeline_type
    own = _own_class(facts)
    if not asked:
        return _for_task("image-to-image", own, facts) if spec.img2img else (own or _default_class(facts), [])
    if _is_class_name(asked):
        return _explicit(asked, own, facts)
    return _for_task(asked, own, facts)


def _is_class_name(text: str) -> bool:
    return text.lower() in {name.lower() for name in loader.get_available_pipelines()}


def _own_class(facts: ModelFacts) -> type | None:
    if not facts.class_name:
        return None
    try:
        return loader.resolve_pipeline_class(class_name=facts.class_name)
    except ValueError as error:
        raise LoadError(f"{facts.path / model_files.INDEX_FILE} names a class that this diffusers does not have: {error}") from None


def _default_class(facts: ModelFacts) -> type:
    """DiffusionPipeline, which for a checkpoint means the family that its weights show."""
    return loader.resolve_pipeline_class(class_name=_ROOT)


def _for_task(task: str, own: type | None, facts: ModelFacts) -> tuple[type, list[str]]:
    """The class that ``task`` (or a family's name) means for this model."""
    if own is None:
        return loader.resolve_pipeline_type(task), []
    if own.__name__ in loader.get_task_aliases().get(task.lower(), ()):
        return own, []
    try:
        found = loader.find_sibling(own, task)
    except loader.UnknownTaskError:
        return _explicit(loader.resolve_pipeline_type(task).__name__, own, facts)
    return found, [] if found is own else [f"loaded as {found.__name__} for {task}"]


def _explicit(name: str, own: type | None, facts: ModelFacts) -> tuple[type, list[str]]:
    cls = loader.resolve_pipeline_class(class_name=name)
    if own is None or cls is own:
        return cls, []
    if cls.__name__ == _ROOT:
        return own, []
    if not hasattr(cls, "_get_signature_keys"):  # an AutoPipeline class stands for a task
        return _for_task(loader.pipeline_tasks(cls.__name__)[0], own, facts)
    if _refines(own, cls):
        return own, [f"PipelineType {cls.__name__} is taken as {own.__name__}, its own kind in this model"]
    reason = misfit(cls, own, facts)
    if not reason:
        return cls, []
    fitting = _same_task(cls, own, facts)
    return fitting, [f"PipelineType {cls.__name__} does not fit this model ({reason}): loaded as {fitting.__name__}"]


def _refines(own: type, asked: type) -> bool:
    """Whether the model's class is a kind of the one asked for: its name with more in it, the same components and task.

    LocalAI's gallery asks for QwenImageEditPipeline where the repo is a QwenImageEditPlusPipeline.
    """
    if not own.__name__.startswith(asked.__name__.removesuffix("Pipeline")):
        return False
    same_parts = set(own._get_signature_keys(own)[0]) == set(asked._get_signature_keys(asked)[0])
    return same_parts and loader.pipeline_tasks(own.__name__)[:1] == loader.pipeline_tasks(asked.__name__)[:1]


def _same_task(asked: type, own: type, facts: ModelFacts) -> type:
    """The model's own class, or its sibling for the main task of the class that was asked for, where that fits."""
    for task in loader.pipeline_tasks(asked.__name__)[:1]:
        try:
            sibling = loader.find_sibling(own, task)
        except ValueError:
            continue
        if sibling is own or _connects(sibling, facts) or not misfit(sibling, own, facts):
            return sibling
    return own


def _connects(cls: type, facts: ModelFacts) -> bool:
    """Whether the class fetches what it lacks from the repos that the model's card names (Kandinsky's prior)."""
    return bool(getattr(cls, "_load_connected_pipes", False)) and (facts.path / "README.md").is_file()


def misfit(cls: type, own: type, facts: ModelFacts) -> str:
    """Why ``cls`` cannot run this model, "" if it can.

    It needs a component that the model lacks or has of another type, or it leaves one unused that the model has and its
    own class uses (SDXL's second text encoder).
    """
    if not facts.components:
        return ""
    expected, _ = cls._get_signature_keys(cls)
    needed = _required(cls)
    missing = sorted(needed - facts.components.keys())
    if missing:
        return f"it needs {', '.join(missing)}"
    # Not only what its constructor insists on: SDXL lists both of its text encoders as optional.
    own_expected, _ = own._get_signature_keys(own)
    unused = sorted(set(own_expected) & facts.components.keys() - {*expected, *_DISPENSABLE})
    if unused:
        return f"it has no use for {', '.join(unused)}"
    wrong = sorted(name for name in expected if not _type_fits(cls, name, facts))
    return f"{wrong[0]} is a {facts.components[wrong[0]][1]}" if wrong else _channel_misfit(cls, facts)


def _channel_misfit(cls: type, facts: ModelFacts) -> str:
    """Text alone fills a UNet that takes the VAE's latents and nothing beside them: an inpainting, pix2pix or Marigold
    repo has Stable Diffusion's components and a UNet of more channels."""
    if "text-to-image" not in loader.pipeline_tasks(cls.__name__)[:1]:
        return ""
    takes, gives = facts.config("unet").get("in_channels"), facts.config("vae").get("latent_channels")
    return f"its unet takes {takes} channels and its vae gives {gives}" if takes and gives and takes != gives else ""


def _required(cls: type) -> set[str]:
    """Components that the class cannot be built without."""
    expected, _ = cls._get_signature_keys(cls)
    parameters = inspect.signature(cls.__init__).parameters
    return {name for name in expected if name not in cls._optional_components
            and parameters[name].default is inspect.Parameter.empty} - {"self"}


def _type_fits(cls: type, name: str, facts: ModelFacts) -> bool:
    """Whether the model's component is of a type that the class's signature names.

    Schedulers and tokenizers are not judged: their annotations name one of many that work.
    """
    if name not in facts.components or "scheduler" in name or "tokenizer" in name:
        return True
    accepted = {kind for kind in cls._get_signature_types().get(name, ()) if isinstance(kind, type)}
    accepted.discard(inspect.Signature.empty)
    library, class_name = facts.components[name]
    actual = _component_class(library, class_name)
    return not accepted or actual is None or issubclass(actual, tuple(accepted))


def _component_class(library: str, class_name: str) -> type | None:
    try:
        found = getattr(importlib.import_module(library), class_name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


# --- arguments of the load ---------------------------------------------------------------------------------------


def _arguments(spec: LoadSpec, facts: ModelFacts, cls: type, where: DevicePlan, variant: str | None,
               settings: Settings) -> dict[str, Any]:
    """Keyword arguments for from_pretrained or from_single_file."""
    import torch

    options = spec.load_options
    arguments: dict[str, Any] = {name: options[name] for name in _PASSED_ON if options.get(name) is not None}
    dtype = where.torch_dtype()
    if facts.path.is_dir():
        arguments |= {"dtype": dtype, "variant": variant, "use_safetensors": _use_safetensors(spec, settings),
                      "trust_remote_code": spec.trust_remote_code}
        if where.device_map:
            arguments["device_map"] = where.device_map
    else:
        arguments["dtype"] = dtype if isinstance(dtype, torch.dtype) else dtype["default"]
        if options.get("config"):
            arguments["config"] = paths.resolve(str(options["config"]), spec.model_path, "option config")
    arguments |= _without_safety_checker(spec, cls)
    return {name: value for name, value in arguments.items() if value is not None or name == "safety_checker"}


def _without_safety_checker(spec: LoadSpec, cls: type) -> dict[str, Any]:
    """The checker is not loaded unless ``options: safety_checker:true`` asks for it: the incumbent switches it off too,
    but loads its 1.2 GB first."""
    if spec.load_options.get("safety_checker") or not hasattr(cls, "_get_signature_keys"):
        return {}
    expected, optional = cls._get_signature_keys(cls)
    switches = {"safety_checker": None} if "safety_checker" in expected else {}
    return switches | ({"requires_safety_checker": False} if "requires_safety_checker" in optional else {})


def _allows_pickle(spec: LoadSpec, settings: Settings) -> bool:
    return not settings.safetensors or spec.trust_remote_code or spec.load_options.get("use_safetensors") is False


def _use_safetensors(spec: LoadSpec, settings: Settings) -> bool | None:
    """True insists on safetensors; None takes them where they are and falls back to pickles where those are trusted."""
    return None if _allows_pickle(spec, settings) else True
