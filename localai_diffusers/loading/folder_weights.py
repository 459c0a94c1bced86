"""The weights in a pipeline's folder, checked against what each component is made of before anything is loaded.

Mostly they have the library's own names, and the library reads them. Under other names (a prefix, attention as it was
called in 2022), or in a file that is not what its name says, they are fitted and read here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import component_file, fitting, headers
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit, Target
from localai_diffusers.checkpoint.model_files import PICKLE_SUFFIXES, ModelFacts
from localai_diffusers.errors import LoadError, is_out_of_memory
from localai_diffusers.loading import components
from localai_diffusers.loading.components import Replacement

log = logging.getLogger(__name__)


def checked(
    facts: ModelFacts, cls: type, replaced: Collection[str], variant: str | None, allow_pickle: bool
) -> tuple[tuple[Replacement, ...], list[str]]:
    """The components of a pipeline's folder that are read here, and notes on keys that no component has a use for.

    Not of those that are ``replaced``. Raises LoadError for a component whose files lack some of its tensors.
    """
    parts: list[Replacement] = []
    notes: list[str] = []
    for name in _with_weights(facts, cls, replaced) if facts.path.is_dir() and facts.index else ():
        files = [weights.path for weights in facts.chosen_files(variant) if weights.component == name]
        part, note = _component(facts, name, files, allow_pickle)
        parts += [part] if part is not None else []
        notes += [note] if note else []
    return tuple(parts), notes


def _with_weights(facts: ModelFacts, cls: type, replaced: Collection[str]) -> Iterator[str]:
    """Components of the two libraries that have files of weights which are not packed."""
    named = {weights.component for weights in facts.files}
    for name in sorted(facts.components.keys() & named & components.expected(cls) - {*replaced, "safety_checker"}):
        if facts.components[name][0] in ("diffusers", "transformers") and not facts.config(name).get(
            "quantization_config"
        ):
            yield name


def _component(facts: ModelFacts, name: str, files: list[Path], allow_pickle: bool) -> tuple[Replacement | None, str]:
    wanted = _target(facts, name)
    if wanted is None:
        return None, ""
    found = component_file.contents_of(files, allow_pickle)
    if not wanted.is_transformers and _are_its_own(found, wanted):
        fit = fitting.fit(wanted, found)
        assert fit is not None
        return None, _note(found, fit, name)
    fit = fitting.fit(wanted, found)
    if fit is not None and fit.is_complete:
        by_library = wanted.is_transformers and fit.is_known_to_library and _is_named_as_it_is(files)
        return None if by_library else components.of_fit(fit), _note(found, fit, name)
    if wanted.is_transformers:  # it may know names that are not known here, and tells what it made up
        return Replacement(name, facts.components[name], tuple(_files(facts, name)), _told(wanted, facts, name)), ""
    raise _lacking(wanted, fit, facts.path / name)


def _target(facts: ModelFacts, name: str) -> Target | None:
    """What the component is made of, None for one that cannot be described without its weights."""
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    cls = components.component_class(*facts.components[name])
    if cls is None or not issubclass(cls, (ModelMixin, PreTrainedModel)):
        return None
    try:
        return fitting.target(name, cls, str(facts.configs or facts.path), name)
    except Exception as error:  # a class may need what only a real load has; that tells what is wrong
        log.info("%s of %s cannot be described before it is loaded: %s", name, facts.path, error)
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


def _files(facts: ModelFacts, name: str) -> Iterator[Any]:
    return (weights for weights in facts.files if weights.component == name)


def _lacking(wanted: Target, fit: Fit | None, folder: Path) -> LoadError:
    missing = sorted(wanted.shapes) if fit is None else [*fit.missing, *fit.wrong]
    said = f"; {fit.says}" if fit is not None and fit.wrong else ""
    return LoadError(
        f"the weights of {wanted.component} lack {len(missing)} of its tensors ({', '.join(missing[:3])}{said}): they "
        f"are not whole, or of another kind of model than the config beside them says ({folder})"
    )


def _told(wanted: Target, facts: ModelFacts, name: str) -> Callable[[Any], Any]:
    """What loads a model of transformers, which makes up what its files lack: asked what that was, and refused."""

    def read(dtype: Any) -> Any:
        folder = str(facts.path / name)
        try:
            model, said = wanted.cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        except (ValueError, RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise LoadError(f"{folder} is no {wanted.cls.__name__} ({str(error)[:300]})") from error
        missing = sorted(said["missing_keys"])
        if missing:
            raise LoadError(
                f"the weights of {name} lack {len(missing)} of its tensors ({', '.join(missing[:3])}): they are not "
                f"whole, or of another kind of model than the config beside them says ({folder})"
            )
        return model

    return read
