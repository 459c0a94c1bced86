# SPDX-License-Identifier: MIT
"""A model that is one file of weights: which components of a pipeline it gives, and where the rest is.

A denoiser alone, a whole checkpoint, or anything between: the file's weights are fitted to each component of the
pipeline that ``options: base_model:`` or ``config:`` names (or the file's metadata, or diffusers' table of families),
and what it does not hold comes from there. All of it is judged from the header.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers import paths
from localai_diffusers.checkpoint import artifacts, component_file, fitting, marks, model_files
from localai_diffusers.checkpoint.artifacts import Wish
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit, Target
from localai_diffusers.checkpoint.model_files import Location, ModelFacts
from localai_diffusers.discovery.index import INDEX_FILE
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import components, pipeline_class
from localai_diffusers.loading.files import sources
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

# Keys of checkpoints that bring more than a denoiser begin with one of these somewhere.
_WHOLE = re.compile(
    r"^(first_stage_model|cond_stage_model|conditioner|vae|text_encoders?|text_encoder_\d|text_model|"
    r"decoder|encoder|audio_vae|vocoder)\."
)
# Where a checkpoint's metadata may name the repo it was made from (GGUF: "General metadata" of the specification).
_BASE_KEYS = (
    "general.base_model.0.repo_url",
    "general.source.repo_url",
    "general.source.huggingface.repository",
    "base_model",
    "modelspec.base_model",
)
_REPO_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/?$")
_FIELD, _CONFIG = "option base_model", "option config"
# Never part of a checkpoint, and loaded only where they are asked for.
_BESIDE = ("safety_checker", "image_encoder")


@dataclass(frozen=True)
class Parts:
    """The file as parts of a pipeline: where everything else is, and what the file gives.

    ``absent`` are components that are nowhere and that the class can do without; ``marks`` is what the file
    says of its training.
    """

    location: Location
    wanted: Mapping[str, Wish] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    marks: marks.Marks = field(default_factory=marks.Marks)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Rest:
    """Where everything else is: a base with weights, or configs alone (``has_weights`` False)."""

    location: Location
    root: Path
    facts: ModelFacts
    has_weights: bool


def parts_of(spec: LoadSpec, path: Path, allow_pickle: bool) -> Parts | None:
    """What the file gives to which pipeline; None where no configs are to be had and diffusers has to guess.

    Raises LoadError for a file that cannot be read, that lacks weights of a component, or without which a component is
    nowhere, each with the ways out.
    """
    found = component_file.contents_of([path], allow_pickle, not spec.options.disable_mmap)
    rest = _rest(spec, path, found)
    if rest is None:
        return None
    fits = _fits(spec, found, rest)
    missing = [name for name in _missing(spec, rest, fits)]
    needed = [name for name in missing if name not in _dispensable(rest.facts)]
    if needed:
        raise _nowhere(path, needed, rest)
    header = found.headers[0]
    told = fitting.account_of(found, fits.values())
    notes = filter(None, [told.note(path.name), *_said(path, fits, rest)])
    log.info("%s gives %s; the rest is %s", path, ", ".join(fits), rest.root)
    return Parts(
        rest.location,
        {name: Wish("Model", str(path), fit=fit) for name, fit in fits.items()},
        tuple(missing),
        marks.of_header(header),
        tuple(notes),
    )


# --- where the rest is -----------------------------------------------------------------------------------------------


def _rest(spec: LoadSpec, path: Path, found: Contents) -> _Rest | None:
    is_whole = any(_WHOLE.match(name) for name in found.entries)
    named = spec.options.base_model or ("" if is_whole or spec.options.config else _base_in_metadata(path, found))
    if named:
        return _base(spec, named)
    if spec.options.config:
        return _configs(spec, spec.options.config)
    if not is_whole:
        raise LoadError(
            f"{path} holds a transformer alone: name the folder or repo with the rest of its pipeline, e.g. "
            "options: base_model:owner/name"
        )
    repo = _family(spec, path, found)
    return _configs(spec, repo) if repo else None


def _base(spec: LoadSpec, named: str) -> _Rest:
    location = artifacts.find(spec, named, _FIELD)
    if location.kind not in ("folder", "repo"):
        raise LoadError(f"{_FIELD} {named!r} must be a pipeline's folder or a Hub repo, not a file")
    root = artifacts.fetch(spec, location, _FIELD, [INDEX_FILE, *artifacts.CONFIG_PATTERNS])
    root = root / spec.options.subfolder if spec.options.subfolder else root
    facts = model_files.indexed_facts(root)
    if not facts.denoiser:
        raise LoadError(f"{_FIELD} {named!r} has no transformer, unet or prior that a file could replace")
    return _Rest(location, root, facts, has_weights=True)


def _configs(spec: LoadSpec, named: str) -> _Rest | None:
    """The folder of configs that ``named`` means, None for one without an index, which says too little."""
    location = artifacts.find(spec, named, _CONFIG)
    if location.kind not in ("folder", "repo"):
        raise LoadError(f"{_CONFIG} {named!r} must be a folder of configs or a Hub repo, not a file")
    root = artifacts.fetch(spec, location, _CONFIG, artifacts.CONFIG_PATTERNS)
    if not (root / INDEX_FILE).is_file():
        return None
    return _Rest(Location("folder", path=root), root, model_files.indexed_facts(root), has_weights=False)


def _base_in_metadata(path: Path, found: Contents) -> str:
    for key in _BASE_KEYS:
        text = found.headers[0].metadata.get(key, "")
        url = _REPO_URL.match(text)
        if url or re.fullmatch(r"[\w.-]+/[\w.-]+", text):
            log.info("%s names its base %s in its metadata", path, text)
            return url[1] if url else text
    return ""


def _family(spec: LoadSpec, path: Path, found: Contents) -> str:
    """The Hub repo whose configs fit such weights, by diffusers' own table.

    "" where the Hub does not give them and the YAML names a class; LoadError where it names none.
    """
    from diffusers.loaders import single_file_utils

    if sources.class_of_weights(spec, path) is None:
        return ""
    kind = single_file_utils.infer_diffusers_model_type(
        {name: SimpleNamespace(shape=entry.shape) for name, entry in found.entries.items()}
    )
    return str(single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"])


# --- what the file gives ---------------------------------------------------------------------------------------------


def _fits(spec: LoadSpec, found: Contents, rest: _Rest) -> dict[str, Fit]:
    """Component -> how the file fills it, for those that it holds. Raises LoadError for one that it holds in part, and
    for a file without a denoiser."""
    fits: dict[str, Fit] = {}
    for name in _order(rest.facts):
        wanted = _target(spec, found, rest, name)
        best = fitting.fit(wanted, found, frozenset().union(*(fit.used for fit in fits.values())))
        if best is not None and best.is_complete:
            fits[name] = best
        elif name == rest.facts.denoiser or (best is not None and _is_most(best) and name not in _replaced(spec)):
            raise component_file.refused(wanted, best, found.label)
    return fits


def _is_most(best: Fit) -> bool:
    """Whether the file has the component, if not whole: half of its tensors or more, by their names."""
    return 2 * (len(best.filled) + len(best.wrong)) >= len(best.target.shapes)


def _order(facts: ModelFacts) -> list[str]:
    """The components with weights, the denoiser first, and text encoders in the order of their numbers."""
    import torch

    classes = {name: components.component_class(*kind) for name, kind in facts.components.items()}
    names = [name for name, cls in classes.items() if cls is not None and issubclass(cls, torch.nn.Module)]
    return sorted((name for name in names if name not in _BESIDE), key=lambda name: (name != facts.denoiser, name))


def _target(spec: LoadSpec, found: Contents, rest: _Rest, name: str) -> Target:
    cls: Any = components.component_class(*rest.facts.components[name])
    config = _by_original_config(spec, found, cls)
    if config is not None:
        return fitting.of_config(name, cls, config)
    return fitting.target(name, cls, str(rest.root), name)


def _by_original_config(spec: LoadSpec, found: Contents, cls: Any) -> dict[str, Any] | None:
    """A component's config as diffusers makes it of the original YAML, None without one or for a class that has
    none."""
    from diffusers.loaders import single_file_model

    known = single_file_model._get_single_file_loadable_mapping_class(cls) if spec.options.original_config else None
    convert = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[known].get("config_mapping_fn") if known else None
    if convert is None:
        return None
    shapes = {name: SimpleNamespace(shape=entry.shape) for name, entry in found.entries.items()}
    return convert(original_config=original_config(spec), checkpoint=shapes)


def original_config(spec: LoadSpec) -> dict[str, Any]:
    """The YAML that ``options: original_config:`` names: a file under ModelPath, or a URL where the Hub may be asked.

    Raises LoadError for one that is not there or is no YAML, and for a URL offline.
    """
    import huggingface_hub
    import yaml
    from diffusers.loaders.single_file_utils import fetch_original_config

    named, field = spec.options.original_config, "option original_config"
    is_url = named.startswith(("http://", "https://"))
    offline = spec.options.local_files_only or huggingface_hub.constants.HF_HUB_OFFLINE
    if is_url and offline:
        raise LoadError(f"{field} {named!r} is a URL, and nothing is fetched offline: give a file under ModelPath")
    path = named if is_url else paths.resolve(named, spec.model_path, field)
    if not is_url and not Path(path).is_file():
        raise LoadError(f"{field} {named!r} is no file under ModelPath {spec.model_path!r}")
    try:
        read = fetch_original_config(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LoadError(f"{field} {named!r} cannot be read ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(read, dict):
        raise LoadError(f"{field} {named!r} is no YAML of a model")
    return read


# --- what is in neither ----------------------------------------------------------------------------------------------


def _replaced(spec: LoadSpec) -> set[str]:
    """Components that the YAML's options bring."""
    named = {name for name, value in spec.call_arguments.items() if isinstance(value, str)}
    named |= {"vae"} if spec.options.vae else set()
    return named | ({"text_encoder"} if spec.options.clip_model or spec.clip_model else set())


def _missing(spec: LoadSpec, rest: _Rest, fits: Collection[str]) -> Iterator[str]:
    """Components with weights that neither the file nor an option brings, and that are not in the folder of configs."""
    for name in (*_order(rest.facts), *(name for name in _BESIDE if name in rest.facts.components)):
        is_there = rest.has_weights or bool(model_files.weights_in(rest.root / name))
        if name not in fits and name not in _replaced(spec) and not is_there:
            yield name


def _dispensable(facts: ModelFacts) -> set[str]:
    """Components that the model's class can be built without."""
    try:
        cls = loader.resolve_pipeline_class(class_name=facts.class_name)
    except ValueError:
        return set(_BESIDE)
    return {*_BESIDE, *facts.components.keys() - pipeline_class.required_components(cls)} - _of_every_prompt(facts)


def _of_every_prompt(facts: ModelFacts) -> set[str]:
    """What a class may call optional and a model that was trained with it needs all the same."""
    return {name for name in facts.components if name.startswith(("text_encoder", "vae")) or name == facts.denoiser}


def _nowhere(path: Path, needed: list[str], rest: _Rest) -> LoadError:
    options = ", ".join(f"{name}:folder-or-file" for name in needed)
    return LoadError(
        f"{path} holds no {' and no '.join(needed)}, and neither does {rest.root}: name what is missing by options: "
        f"{options}, or by options: base_model:folder-or-repo a pipeline that has it"
    )


def _said(path: Path, fits: Mapping[str, Fit], rest: _Rest) -> Iterator[str]:
    """Notes on what the file gives where that is not everything or could be meant otherwise."""
    for name, fit in fits.items():
        twins = [other for other in rest.facts.components if other != name and _is_twin(rest.facts, name, other)]
        if name == rest.facts.denoiser and twins and not any(twin in fits for twin in twins):
            yield f"{path.name} is taken as {name}; for {' or '.join(twins)} say options: {twins[0]}:{path.name}"
        if fit.contents.is_scaled:
            count = sum(bool(fit.contents.entries[key].scale) for key in fit.used)
            yield f"{path.name}: {count} scaled 8-bit weights of {name} are multiplied out" if count else ""
    if not rest.has_weights:
        others = [name for name in _order(rest.facts) if name not in fits]
        held = [name for name in others if model_files.weights_in(rest.root / name)]
        if held:
            yield f"{path.name} holds no {' and no '.join(held)}: taken from {rest.root}"


def _is_twin(facts: ModelFacts, one: str, other: str) -> bool:
    return facts.components[one] == facts.components[other] and one.rpartition("_")[0] in ("", other.rpartition("_")[0])
