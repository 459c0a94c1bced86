# SPDX-License-Identifier: MIT
"""Components that a model's YAML replaces: VAE, text encoder, and any other by ``options: <component>:<path>``.

LocalAI also sends its companion artifacts in that form. Each is found and checked before the load (:func:`prepare`),
then read in the load's dtype and passed to the pipeline instead of the model's own, which is never read.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import artifacts, component_file, fitting, model_files
from localai_diffusers.checkpoint.artifacts import Wish
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit
from localai_diffusers.checkpoint.model_files import ModelFacts, WeightFile
from localai_diffusers.discovery.index import INDEX_FILE
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.placing import quantizers
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

_ROOT = "DiffusionPipeline"
# The kind of a component that an option brings, before it is looked at.
BROUGHT = ("options", "")
_CONFIG_FILES = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
# Numbers in two components' configs that must be the same, or the model cannot compute.
_MUST_AGREE = (
    "hidden_size",
    "d_model",
    "latent_channels",
    "cross_attention_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
    "caption_channels",
)


@dataclass(frozen=True)
class Replacement:
    """A component from a place of its own. ``load`` takes a torch dtype, and the keywords of
    :func:`quantizers.keywords` where it is quantized, and returns the object."""

    component: str
    kind: tuple[str, str]
    files: tuple[WeightFile, ...]
    load: Callable[..., Any]
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    folder: Path | None = None


def expected(cls: type) -> set[str]:
    """Names of the components that the pipeline class is made of; empty for a class that stands for others."""
    return set(cls._get_signature_keys(cls)[0]) - {"self"} if hasattr(cls, "_get_signature_keys") else set()


def wishes(spec: LoadSpec, cls: type) -> dict[str, Wish]:
    """Component name -> what is to be loaded for it instead of the model's own.

    Raises LoadError for a VAE or text encoder on a pipeline that has none.
    """
    names = expected(cls)
    found = {
        name: Wish(f"option {name}", value)
        for name, value in spec.call_arguments.items()
        if name in names and isinstance(value, str)
    }
    vae, clip = spec.options.vae, spec.options.clip_model or spec.clip_model
    if vae:
        found["vae"] = Wish("option vae", vae)
    if clip:
        found["text_encoder"] = Wish("CLIPModel", clip, spec.clip_subfolder)
    for name, wish in found.items():
        if names and name not in names:
            raise LoadError(
                f"{wish.field} {wish.name!r}: {cls.__name__} has no component {name}. It has {', '.join(sorted(names))}"
            )
    return found


def brought(spec: LoadSpec, cls: type) -> set[str]:
    """Components of ``cls`` that the options bring, each by its name and place."""
    return {name for name, value in spec.call_arguments.items() if name in expected(cls) and isinstance(value, str)}


def with_brought(spec: LoadSpec, facts: ModelFacts, cls: type | None) -> ModelFacts:
    """The facts as they are with the components in place that the options bring to ``cls``, of no particular class."""
    names = brought(spec, cls) - facts.components.keys() if cls is not None and facts.components else set()
    return amended(facts, [Replacement(name, BROUGHT, (), lambda _dtype: None) for name in names])


def left_out(spec: LoadSpec, cls: type) -> dict[str, None]:
    """Components of ``cls`` that the options leave out (``text_encoder_3:null``), as keywords of from_pretrained."""
    return {name: None for name, value in spec.call_arguments.items() if name in expected(cls) and value is None}


def without(facts: ModelFacts, names: Iterable[str]) -> ModelFacts:
    """The facts of a model that was published without these components."""
    names = set(names)
    return replace(
        facts,
        components={name: kind for name, kind in facts.components.items() if name not in names},
        index={**facts.index, **{name: [None, None] for name in facts.components.keys() & names}},
        files=tuple(weights for weights in facts.files if weights.component not in names),
    )


def prepare(
    spec: LoadSpec, facts: ModelFacts, cls: type, wanted: Mapping[str, Wish], settings: Settings
) -> tuple[Replacement, ...]:
    """A replacement for each wish (and the tokenizer beside a text encoder), its files on this machine and intact.

    Raises LoadError naming the field for what is missing, broken, or made for another model.
    """
    found: dict[str, Replacement] = {}
    for name, wish in wanted.items():
        if wish.fit is not None:
            found[name] = of_fit(wish.fit)
            continue
        place, beside = _place(spec, name, wish)
        found[name] = _replacement(spec, facts, cls, name, wish, place, settings)
        tokenizer = name.replace("text_encoder", "tokenizer")
        if (
            beside is not None
            and tokenizer not in wanted
            and tokenizer in (expected(cls) or facts.components or (tokenizer,))
        ):
            found[tokenizer] = _replacement(spec, facts, cls, tokenizer, wish, beside, settings)
    return tuple(found.values())


def amended(facts: ModelFacts, replacements: Iterable[Replacement]) -> ModelFacts:
    """The facts as they are with the replacements in place: their classes, sizes and dtypes."""
    replacements = tuple(replacements)
    names = {part.component for part in replacements}
    files = [weights for weights in facts.files if weights.component not in names]
    if facts.components:
        facts = replace(facts, components={**facts.components, **{part.component: part.kind for part in replacements}})
    return replace(facts, files=(*files, *(file for part in replacements for file in part.files)))


def load(replacements: Iterable[Replacement], where: DevicePlan) -> dict[str, Any]:
    """Component name -> the loaded object, for from_pretrained."""
    loaded = {}
    for part in replacements:
        dtype = where.torch_dtype_of(part.component)
        word, kind = where.quantized.get(part.component), component_class(*part.kind)
        loaded[part.component] = part.load(dtype, **quantizers.keywords(word, kind or object, dtype))
        log.info("component %s is a %s of its own place", part.component, part.kind[1])
    return loaded


# --- where it is -------------------------------------------------------------------------------------------------


def _place(spec: LoadSpec, name: str, wish: Wish) -> tuple[Path, Path | None]:
    """The component's folder or file, and the folder of the tokenizer that belongs to it, if there is one.

    A wish may name the component's own folder, a whole pipeline (whose component of that name is meant), or a file.
    """
    location = artifacts.find(spec, wish.name, wish.field)
    wanted = [
        f"{wish.subfolder or name}/*",
        f"{(wish.subfolder or name).replace('text_encoder', 'tokenizer')}/*",
        *artifacts.CONFIG_PATTERNS,
        "*.safetensors",
    ]
    path = artifacts.fetch(spec, location, wish.field, wanted)
    if path.is_file():
        return path, None
    is_pipeline = (path / INDEX_FILE).is_file()
    subfolder = wish.subfolder or (name if is_pipeline else "")
    folder = path / subfolder
    if not folder.is_dir() or not folder.resolve().is_relative_to(path.resolve()):
        raise LoadError(f"{wish.field} {wish.name!r} has no folder {subfolder!r}")
    return folder, _tokenizer_beside(path, subfolder) if name.startswith("text_encoder") else None


def _tokenizer_beside(path: Path, subfolder: str) -> Path | None:
    folder = path / subfolder.replace("text_encoder", "tokenizer")
    named = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    return folder if any((folder / name).is_file() for name in named) else None


# --- what it is --------------------------------------------------------------------------------------------------


def _replacement(
    spec: LoadSpec, facts: ModelFacts, cls: type, name: str, wish: Wish, place: Path, settings: Settings
) -> Replacement:
    if place.is_dir() and not any((place / file).is_file() for file in _CONFIG_FILES):
        return _replacement(spec, facts, cls, name, wish, _lone_file(place, wish), settings)
    artifacts.check_weights(place, spec, settings)
    config = config_of(place)
    own = facts.config(name) if facts.path.is_dir() else {}
    check_agreement(config, own, f"{wish.field} {wish.name!r}", f"this model's {name}")
    library, class_name = _kind(facts, cls, name, config)
    component = component_class(library, class_name)
    if component is None:
        raise LoadError(f"{wish.field} {wish.name!r} is a {class_name}, which {library} does not have")
    _check_sort(component, facts.components.get(name), wish)
    if place.is_file():
        return _of_file(spec, facts, name, wish, place, component, settings)
    loader = folder_loader(component, place, spec, settings)
    return Replacement(name, (library, class_name), weight_files(name, place), loader, config=config, folder=place)


def _of_file(
    spec: LoadSpec, facts: ModelFacts, name: str, wish: Wish, place: Path, component: type, settings: Settings
) -> Replacement:
    """A component out of a lone file, its shape from the model's own config of it."""
    found = component_file.contents_of([place], artifacts.allows_pickle(spec, settings), not spec.options.disable_mmap)
    root = _config_root(spec, facts)
    if root is None:
        raise LoadError(
            f"{wish.field} {wish.name!r} has no config.json beside it: give the folder of the component {name}"
        )
    wanted, what = fitting.target(name, component, root, name), f"{wish.field} {wish.name!r}"
    fit = fitting.fit(wanted, found)
    if fit is None or not fit.is_complete:
        tiny = _tiny_autoencoder(name, found) if name == "vae" else None
        if tiny is None:
            raise component_file.refused(wanted, fit, what)
        return of_fit(tiny, f"{what} is a tiny autoencoder (AutoencoderTiny): it stands for the {component.__name__}")
    return of_fit(fit, fitting.account_of(found, [fit], one_part=True).note(place.name))


def _tiny_autoencoder(name: str, found: Contents) -> Fit | None:
    """A TAESD, whose class follows its keys: its latents have the channels that its decoder reads. None for another."""
    import diffusers

    first = next((entry.shape for key, entry in found.entries.items() if key.endswith("decoder.layers.0.weight")), ())
    config = {"latent_channels": first[1]} if len(first) == 4 else {}
    fit = fitting.fit(fitting.of_config(name, diffusers.AutoencoderTiny, config), found)
    return fit if fit is not None and fit.is_complete else None


def of_fit(fit: Fit, *notes: str) -> Replacement:
    """The component that a file fills."""
    library = fit.target.cls.__module__.partition(".")[0]
    files = [component_file.share_of(fit)]
    kind = (library, fit.target.cls.__name__)
    return Replacement(
        fit.target.component,
        kind,
        tuple(files),
        partial(component_file.load, fit),
        tuple(filter(None, notes)),
    )


def _lone_file(folder: Path, wish: Wish) -> Path:
    """A snapshot of a repo that is nothing but one file of weights."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix in model_files.SAFE_SUFFIXES]
    if len(files) != 1:
        raise LoadError(
            f"{wish.field} {wish.name!r}: {folder} has no config.json, and {len(files)} files of weights: name the file"
        )
    return files[0]


def config_of(place: Path) -> dict[str, Any]:
    """The config beside a component's weights, {} for a lone file."""
    file = place / "config.json"
    if place.is_dir() and not file.is_file():
        file = next((place / name for name in _CONFIG_FILES if (place / name).is_file()), file)
    return model_files.read_json(file) if file.is_file() else {}


def check_agreement(config: Mapping[str, Any], own: Mapping[str, Any], what: str, whose: str) -> None:
    """Raise LoadError where a width (or a transformers model's type) in ``config`` is another than the model's own."""
    theirs, ours = (str(part.get("model_type") or "").partition("_")[0] for part in (config, own))
    if theirs and ours and theirs != ours:
        raise LoadError(f"{what} is of type {theirs}, and {whose} of type {ours}: it was made for another model family")
    config = (
        {**config, **(config.get("text_config") or {})} if ours else config
    )  # a whole CLIP holds the text encoder's
    for key in _MUST_AGREE:
        width, own_width = config.get(key), own.get(key)
        if isinstance(width, int) and isinstance(own_width, int) and width != own_width:
            raise LoadError(f"{what} has {key} {width}, and {whose} {own_width}: it was made for another model family")


def _check_sort(component: type, own: tuple[str, str] | None, wish: Wish) -> None:
    """Raise LoadError for a class of another sort than the model's own: a U-Net for a VAE,
    by where the classes live."""
    replaced = component_class(*own) if own else None
    if replaced is not None and _sort(replaced) and _sort(component) and _sort(component) != _sort(replaced):
        raise LoadError(
            f"{wish.field} {wish.name!r} is a {component.__name__}, which cannot stand for a {replaced.__name__}"
        )


def _sort(cls: type) -> tuple[str, ...]:
    """("diffusers", "models", "autoencoders"), ("diffusers", "schedulers"), ("transformers",); ()
    for a pipeline's own part."""
    parts = cls.__module__.split(".")
    if parts[0] != "diffusers":
        return (parts[0],)
    return () if parts[1] == "pipelines" else tuple(parts[:3] if parts[1] == "models" else parts[:2])


def _kind(facts: ModelFacts, cls: type, name: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """Library and class: what a diffusers config says itself, else what the model's index has, else the signature."""
    types = [kind for kind in _signature_types(cls, name) if kind is not inspect.Signature.empty]
    named = config.get("_class_name")
    if isinstance(named, str):
        own = [kind.__module__ for kind in types if kind.__name__ == named]
        at_top = component_class("diffusers", named) is not None
        return ("diffusers" if at_top or not own else own[0]), named  # a pipeline's own part is in its module alone
    if name in facts.components:
        return facts.components[name]
    if types:
        return types[0].__module__.partition(".")[0], types[0].__name__
    architecture = (config.get("architectures") or [""])[0]
    return ("transformers", architecture) if architecture else ("diffusers", "AutoencoderKL")


def _signature_types(cls: type[Any], name: str) -> list[type]:
    found = cls._get_signature_types().get(name, ()) if expected(cls) else ()
    return [kind for kind in found if isinstance(kind, type)]


def component_class(library: str, class_name: str) -> type | None:
    """The class that model_index.json's (library, class) stands for; ``library`` may be a pipeline package's name."""
    for module in (library, f"diffusers.pipelines.{library}"):
        try:
            found = getattr(importlib.import_module(module), class_name, None)
        except ImportError:
            continue
        if isinstance(found, type):
            return found
    return None


def _config_root(spec: LoadSpec, facts: ModelFacts) -> str | None:
    """The pipeline folder (or repo) whose config of that component a lone file goes with,
    None where diffusers knows."""
    if facts.path.is_dir():
        return str(facts.path)
    config = spec.options.config
    return (
        str(
            artifacts.fetch(
                spec, artifacts.find(spec, config, "option config"), "option config", artifacts.CONFIG_PATTERNS
            )
        )
        if config
        else None
    )


# --- reading it ------------------------------------------------------------------------------------------------


def weight_files(name: str, folder: Path) -> tuple[WeightFile, ...]:
    """The files of weights in a component's folder, as the component ``name``'s."""
    return tuple(model_files.weight_file(name, file) for file in model_files.weights_in(folder))


def folder_loader(component: type[Any], folder: Path, spec: LoadSpec, settings: Settings) -> Callable[..., Any]:
    """What reads a component from its folder: modules in the given dtype, tokenizers and schedulers as they are."""

    def read(dtype: Any, **how: Any) -> Any:
        import torch

        if not issubclass(component, torch.nn.Module):
            return component.from_pretrained(str(folder))
        keywords = artifacts.weight_keywords(spec, settings, component, dtype, _only_variant(folder))
        return component.from_pretrained(str(folder), **keywords, **how)

    return read


def _only_variant(folder: Path) -> str | None:
    """The variant of a folder that has no plain weights."""
    variants = {model_files.variant_of(file.name) for file in model_files.weights_in(folder)}
    return None if "" in variants else next(iter(sorted(variants)), None)
