# SPDX-License-Identifier: MIT
"""Which pipeline class a load uses: the one that is asked for where it fits the model, else the model's own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Collection
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.discovery.index import INDEX_FILE
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.components import BROUGHT
from localai_diffusers.loading.files import custom_code
from localai_diffusers.wire.load_spec import LoadSpec

_ROOT = "DiffusionPipeline"
# Components that never make a class unfit: a pipeline runs without them.
_DISPENSABLE = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")


def choose(spec: LoadSpec, facts: ModelFacts) -> tuple[type, list[str]]:
    """The pipeline class to load, and what was decided.

    An explicit class that fits the model's components wins; one that does not gives way to the model's own class (or
    its sibling for the same task): LocalAI's importer writes StableDiffusionPipeline for everything. A task picks the
    sibling of the model's own class. Raises LoadError for an unknown name, remote code without trust, or no class.
    """
    if facts.remote_code and not spec.trust_remote_code:
        raise LoadError(
            f"{facts.path} brings its own code ({facts.class_name}), which is run only with trust_remote_code: true"
        )
    if (custom := custom_code.class_of(spec)) is not None:
        return custom, []
    asked = spec.pipeline_type
    own = _own_class(facts, is_named=is_class_name(asked))
    if own is None and facts.remote_code:
        return _default_class(facts), [
            f"PipelineType {asked} gives way to {facts.class_name}, the repo's own code"
        ] if asked else []
    if not asked:
        return _for_task("image-to-image", own, facts) if spec.img2img else (own or _default_class(facts), [])
    if is_class_name(asked):
        return _explicit(asked, own, facts)
    return _for_task(asked, own, facts)


def asked_for(spec: LoadSpec) -> type | None:
    """The class that PipelineType names, None for a task, a family or nothing."""
    return loader.resolve_pipeline_class(class_name=spec.pipeline_type) if is_class_name(spec.pipeline_type) else None


def is_class_name(text: str) -> bool:
    return text.lower() in {name.lower() for name in loader.get_available_pipelines()}


def _own_class(facts: ModelFacts, is_named: bool) -> type | None:
    """The class that the model names, None for one of its own code or where it names none.

    LoadError for one that diffusers does not have, unless the model's YAML names the class (``is_named``).
    """
    if not facts.class_name:
        return None
    try:
        return loader.resolve_pipeline_class(class_name=facts.class_name)
    except ValueError as error:
        if facts.remote_code or is_named:
            return None
        raise LoadError(
            f"{facts.path / INDEX_FILE} names a class that this diffusers does not have (pipeline_type: "
            f"can name one that it has): {error}"
        ) from None


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


def _refines(own: type[Any], asked: type[Any]) -> bool:
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


def misfit(cls: type[Any], own: type[Any], facts: ModelFacts) -> str:
    """Why ``cls`` cannot run this model, "" if it can.

    It needs a component that the model lacks or has of another type, or it leaves one unused that the model has and its
    own class uses (SDXL's second text encoder).
    """
    if not facts.components:
        return ""
    expected, _ = cls._get_signature_keys(cls)
    absent = declared_absent(cls, facts) & set(own._get_signature_keys(own)[0])
    missing = sorted(required_components(cls) - facts.components.keys() - absent | _unheard_of(cls, facts))
    if missing:
        return f"it needs {', '.join(missing)}"
    # Not only what its constructor insists on: SDXL lists both of its text encoders as optional.
    own_expected, _ = own._get_signature_keys(own)
    if _is_for_what_is_brought(cls, facts):
        own_expected = ()
    unused = sorted(set(own_expected) & facts.components.keys() - {*expected, *_DISPENSABLE})
    if unused:
        return f"it has no use for {', '.join(unused)}"
    wrong = sorted(name for name in expected if not _type_fits(cls, name, facts))
    return f"{wrong[0]} is a {facts.components[wrong[0]][1]}" if wrong else _channel_misfit(cls, facts)


def _is_for_what_is_brought(cls: type, facts: ModelFacts) -> bool:
    """Whether the class takes a component that the options bring in the place of the model's denoiser: LTX's latent
    upsampler needs nothing else of the model but its VAE."""
    needed = required_components(cls)
    return facts.denoiser not in needed and any(facts.components.get(name) == BROUGHT for name in needed)


def _channel_misfit(cls: type, facts: ModelFacts) -> str:
    """Text alone fills a UNet that takes the VAE's latents and nothing beside them: an inpainting, pix2pix or Marigold
    repo has Stable Diffusion's components and a UNet of more channels."""
    if "text-to-image" not in loader.pipeline_tasks(cls.__name__)[:1]:
        return ""
    takes, gives = facts.config("unet").get("in_channels"), facts.config("vae").get("latent_channels")
    return f"its unet takes {takes} channels and its vae gives {gives}" if takes and gives and takes != gives else ""


def required_components(cls: type[Any]) -> set[str]:
    """Components that the class cannot be built without."""
    expected, _ = cls._get_signature_keys(cls)
    parameters = inspect.signature(cls.__init__).parameters
    return {
        name
        for name in expected
        if name not in cls._optional_components
        and parameters[name].default is inspect.Parameter.empty
        and parameters[name].kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    } - {"self"}


def declared_absent(cls: type, facts: ModelFacts) -> set[str]:
    """Components that the class requires and the model's index has as null: SD3 published without its T5.

    diffusers takes the null of a component that the class calls optional, and wants to be told None for the others.
    """
    if not hasattr(cls, "_get_signature_keys"):
        return set()
    return {name for name in required_components(cls) if _is_null(facts.index.get(name, ()))}


def _is_null(entry: Any) -> bool:
    return entry is None or (isinstance(entry, list) and entry[:2] == [None, None])


def _unheard_of(cls: type[Any], facts: ModelFacts) -> set[str]:
    """Components that the class calls optional and yet has no default for, and that the model's index does not even
    name: SDXL's second text encoder in an SD 1.5 repo, where an SDXL refiner's index has null for its first."""
    parameters = inspect.signature(cls.__init__).parameters
    named = {*facts.components, *facts.index, *_DISPENSABLE}
    return {
        name
        for name in cls._optional_components
        if name in parameters and name not in named and parameters[name].default is inspect.Parameter.empty
    }


def _type_fits(cls: type[Any], name: str, facts: ModelFacts) -> bool:
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
    """The class, None for one that is not of the two libraries: importing what a model names would run its code."""
    if library not in ("diffusers", "transformers"):
        return None
    try:
        found = getattr(importlib.import_module(library), class_name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


# What a tokenizer's folder holds beside its vocabulary.
_TOKENIZER_CONFIGS = frozenset(
    {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json", "chat_template.jinja"}
)
# Configs that a component's own loader reads.
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")


def check_components(cls: type, facts: ModelFacts, replaced: Collection[str]) -> None:
    """Raise LoadError for a component that cannot be built: a broken config, or a class of no library that serves here.

    Asked before the earlier model is dropped. Not of those that are ``replaced``, or that ``cls`` has no use for.
    """
    if not facts.index or not facts.path.is_dir() or not hasattr(cls, "_get_signature_keys"):
        return
    expected, _ = cls._get_signature_keys(cls)
    _check_complete(cls, facts, replaced)
    for name in sorted(facts.components.keys() & set(expected) - {*replaced, "safety_checker"}):
        for file in _CONFIGS:
            facts.config(name, file)
        library, class_name = facts.components[name]
        if not _has_own_module(facts, name, library) and not _is_known(library, class_name):
            raise LoadError(
                f"{facts.path / INDEX_FILE} names the class {class_name} of {library!r} for {name}, which "
                "is none of the installed diffusers or transformers: upgrade them, or correct the entry"
            )
        _check_files(facts, name)


def _check_files(facts: ModelFacts, name: str) -> None:
    """Raise LoadError for a component that came in part: weights without their config, a tokenizer without its words.

    transformers 5 makes an empty tokenizer of a folder without a vocabulary, and says nothing.
    """
    folder = facts.path / name
    files = {file.name for file in folder.iterdir() if file.is_file()} if folder.is_dir() else set()
    missing = "" if files else "files"
    if any(weights.component == name for weights in facts.files) and "config.json" not in files:
        missing = "config.json beside its weights"
    kind: Any = _component_class(*facts.components[name])
    if files and files <= _TOKENIZER_CONFIGS and getattr(kind, "vocab_files_names", None):
        missing = f"vocabulary ({', '.join(sorted(set(kind.vocab_files_names.values())))})"
    if missing:
        raise LoadError(f"{folder} holds no {missing}: download the model again, whole")


def _check_complete(cls: type, facts: ModelFacts, replaced: Collection[str]) -> None:
    """Raise LoadError for a component that ``cls`` requires and the model's index does not name."""
    missing = required_components(cls) - {*facts.components, *facts.index, *replaced, *_DISPENSABLE}
    if missing and not getattr(cls, "_load_connected_pipes", False):
        raise LoadError(
            f"{facts.path} lacks {', '.join(sorted(missing))}, which {cls.__name__} needs: its "
            f"{INDEX_FILE} names {', '.join(sorted(facts.components))}"
        )


def _has_own_module(facts: ModelFacts, name: str, library: str) -> bool:
    """Whether the class comes with the model as code, which was asked about before."""
    return (facts.path / name / f"{library}.py").is_file()


def _is_known(library: str, class_name: str) -> bool:
    """Whether diffusers would find the class, without importing anything but its own parts and transformers."""
    from diffusers import pipelines
    from diffusers.pipelines import pipeline_loading_utils

    if library in ("diffusers", "transformers"):
        renamed = getattr(pipeline_loading_utils, "_maybe_remap_transformers_class", lambda _name: None)(class_name)
        names = (class_name, class_name.removeprefix("FlashPack"), renamed or class_name)
        try:
            return any(hasattr(importlib.import_module(library), name) for name in names)
        except (ImportError, RuntimeError):  # it is there and lacks a package: the load tells which
            return True
    return library in pipeline_loading_utils.LOADABLE_CLASSES or (
        library.isidentifier()
        and (
            hasattr(pipelines, library)
            or importlib.util.find_spec(f"diffusers.pipelines.deprecated.{library}") is not None
        )
    )


def scheduler_of(cls: type) -> str:
    """Name of the scheduler class that the pipeline class is annotated with, "" where it names several or none."""
    if not hasattr(cls, "_get_signature_types"):
        return ""
    kinds = [kind for kind in cls._get_signature_types().get("scheduler", ()) if isinstance(kind, type)]
    named = [
        kind.__name__
        for kind in kinds
        if kind is not inspect.Signature.empty and kind.__name__ != "KarrasDiffusionSchedulers"
    ]
    return named[0] if len(named) == 1 else ""
