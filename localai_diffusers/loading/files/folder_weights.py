# SPDX-License-Identifier: MIT
"""The weights in a pipeline's folder, checked against what each component is made of before anything is loaded.

Mostly they have the library's own names, and the library reads them. Under other names (a prefix, attention as it was
called in 2022), or in a file that is not what its name says, they are fitted and read here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import component_file, fitting, headers
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit, Target
from localai_diffusers.checkpoint.model_files import PICKLE_SUFFIXES, ModelFacts, WeightFile, read_json, variant_of
from localai_diffusers.errors import LoadError, is_out_of_memory
from localai_diffusers.loading import components
from localai_diffusers.loading.components import Replacement

log = logging.getLogger(__name__)


def checked(
    facts: ModelFacts, cls: type, parts: Iterable[Replacement], variant: str | None, allow_pickle: bool
) -> tuple[tuple[Replacement, ...], list[str]]:
    """``parts``, and beside them the components of the pipeline's own folder that are read here; notes on keys that no
    component has a use for.

    Raises LoadError for a component whose files lack some of its tensors.
    """
    found = {part.component: part for part in parts}
    notes: list[str] = []
    for place in [*_brought(found.values()), *_own(facts, cls, found, variant)]:
        part, note = component(place, allow_pickle)
        found |= {place.name: part} if part is not None else {}
        notes += [note] if note else []
    return tuple(found.values()), notes


@dataclass(frozen=True)
class Place:
    """A component in a folder: its files, and where its config is."""

    name: str
    kind: tuple[str, str]
    files: tuple[WeightFile, ...]
    root: Path
    subfolder: str = ""


def _brought(parts: Iterable[Replacement]) -> Iterator[Place]:
    """Those that an option brings as a folder of their own."""
    for part in parts:
        if part.folder is not None and part.files and not _is_packed(part.config or {}):
            yield Place(part.component, part.kind, _one_variant(part.files), part.folder)


def _one_variant(files: tuple[WeightFile, ...]) -> tuple[WeightFile, ...]:
    plain = tuple(weights for weights in files if not variant_of(weights.path.name))
    first = variant_of(files[0].path.name)
    return plain or tuple(weights for weights in files if variant_of(weights.path.name) == first)


def _is_packed(config: Mapping[str, Any]) -> bool:
    return bool(config.get("quantization_config"))


def is_packed(place: Place) -> bool:
    """Whether its library unpacks it, by what its config says of quantization."""
    file = place.root / place.subfolder / "config.json"
    return file.is_file() and _is_packed(read_json(file))


def _own(facts: ModelFacts, cls: type, replaced: Collection[str], variant: str | None) -> Iterator[Place]:
    if not facts.path.is_dir() or not facts.index:
        return
    chosen = facts.chosen_files(variant)
    for name in _with_weights(facts, cls, replaced):
        files = tuple(weights for weights in chosen if weights.component == name)
        yield Place(name, facts.components[name], files, facts.configs or facts.path, name)


def _with_weights(facts: ModelFacts, cls: type, replaced: Collection[str]) -> Iterator[str]:
    """Components of the two libraries that have files of weights which are not packed."""
    named = {weights.component for weights in facts.files}
    for name in sorted(facts.components.keys() & named & components.expected(cls) - {*replaced, "safety_checker"}):
        if facts.components[name][0] in ("diffusers", "transformers") and not _is_packed(facts.config(name)):
            yield name


def component(place: Place, allow_pickle: bool) -> tuple[Replacement | None, str]:
    """What reads the component where its library would not, None where it does; and a note on keys without a use.

    Raises LoadError where its files lack some of its tensors.
    """
    if is_packed(place):
        return None, ""
    wanted = _target(place)
    if wanted is None:
        return None, ""
    paths = [weights.path for weights in place.files]
    found = component_file.contents_of(paths, allow_pickle)
    own = not wanted.is_transformers and _are_its_own(found, wanted)
    if own and len(found.keys) == len(wanted.shapes):
        return None, ""
    fit = fitting.fit(wanted, found)
    if own:
        assert fit is not None
        return None, _note(found, fit, place.name)
    by_library = _is_named_as_it_is(paths)
    if fit is not None and fit.is_complete:
        by_library = by_library and wanted.is_transformers and fit.is_known_to_library
        return None if by_library else components.of_fit(fit), _note(found, fit, place.name)
    if wanted.is_transformers:  # it may know names that are not known here, and tells what it made up
        return Replacement(place.name, place.kind, place.files, _told(wanted, place)), ""
    raise _lacking(wanted, fit, place)


def _target(place: Place) -> Target | None:
    """What the component is made of, None for one that cannot be described without its weights."""
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    cls = components.component_class(*place.kind)
    if cls is None or not issubclass(cls, (ModelMixin, PreTrainedModel)):
        return None
    try:
        return fitting.target(place.name, cls, str(place.root), place.subfolder)
    except Exception as error:  # a class may need what only a real load has; that tells what is wrong
        log.info("%s of %s cannot be described before it is loaded: %s", place.name, place.root, error)
        return None


def _are_its_own(found: Contents, wanted: Target) -> bool:
    """Whether the library finds every tensor by its own name, in files that are what their names say."""
    names = found.entries
    same = all(name in names and names[name].shape == shape for name, shape in wanted.shapes.items())
    scaled = any(entry.scale for entry in names.values())
    return same and not scaled and _is_named_as_it_is([header.path for header in found.headers])


def _is_named_as_it_is(files: Iterable[Path]) -> bool:
    return all((headers.form_of(file) == headers.PICKLE) == (file.suffix in PICKLE_SUFFIXES) for file in files)


def _note(found: Contents, fit: Fit, name: str) -> str:
    return fitting.account_of(found, [fit]).note(f"{name} of this model")


def _lacking(wanted: Target, fit: Fit | None, place: Place) -> LoadError:
    missing = sorted(wanted.shapes) if fit is None else [*fit.missing, *fit.wrong]
    said = f"; {fit.says}" if fit is not None and fit.wrong else ""
    return _not_whole(place, missing, said)


def _not_whole(place: Place, missing: list[str], said: str = "") -> LoadError:
    return LoadError(
        f"the weights of {place.name} lack {len(missing)} of its tensors ({', '.join(missing[:3])}{said}): they are "
        "not whole, or of another kind of model than the config beside them says "
        f"({place.root / place.subfolder})"
    )


def _told(wanted: Target, place: Place) -> Callable[..., Any]:
    """What loads a model of transformers, which makes up what its files lack: asked what that was, and refused."""
    folder, variant = place.root / place.subfolder, variant_of(place.files[0].path.name) or None

    def read(dtype: Any, **how: Any) -> Any:
        try:
            model, said = wanted.cls.from_pretrained(
                str(folder), dtype=dtype, variant=variant, output_loading_info=True, **how
            )
        except (ValueError, RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise LoadError(
                f"{folder} cannot be read as a {wanted.cls.__name__} ({str(error)[:300]}): its config.json and its "
                "weights are not of one kind"
            ) from error
        if said["missing_keys"]:
            raise _not_whole(place, sorted(said["missing_keys"]))
        return model

    return read
