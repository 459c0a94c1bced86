"""Textual inversions: new words for the prompt, each a file of embeddings named by ``options: textual_inversion:``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import artifacts, headers
from localai_diffusers.errors import LoadError
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

_FIELD = "option textual_inversion"
_USUAL_NAMES = ("learned_embeds.safetensors", "learned_embeds.bin")
# A file for two text encoders has a tensor for each, by these names.
_ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}


@dataclass(frozen=True)
class Inversion:
    """One file of embeddings, and the word for those that the file itself does not name."""

    file: Path
    word: str


def plan(spec: LoadSpec, cls: type, settings: Settings) -> tuple[Inversion, ...]:
    """The textual inversions of ``spec``: a name, a comma-separated list or a JSON list of files, folders or Hub repos.

    Raises LoadError for a missing or broken file, and for a pipeline class that takes none.
    """
    names = [name for name in spec.options.textual_inversion if name]
    if names and not hasattr(cls, "load_textual_inversion"):
        raise LoadError(f"{_FIELD} {', '.join(names)}: {cls.__name__} takes no textual inversion")
    return tuple(_inversion(spec, name, settings) for name in names)


def _inversion(spec: LoadSpec, name: str, settings: Settings) -> Inversion:
    location = artifacts.find(spec, name, _FIELD)
    file = artifacts.weight_in(spec, location, _FIELD, "", _USUAL_NAMES)
    artifacts.check_weights(file, spec, settings)
    usual = file.name in _USUAL_NAMES
    return Inversion(file, Path(name).name if usual else file.stem)


def apply(pipeline: Any, inversions: tuple[Inversion, ...]) -> list[str]:
    """Add the words to the tokenizers and text encoders; one note that lists them.

    Raises LoadError for embeddings that do not fit the text encoder.
    """
    words = []
    for inversion in inversions:
        try:
            words.append(_load(pipeline, inversion))
        except (ValueError, KeyError, RuntimeError, AttributeError) as error:
            reason = str(error)[:400]
            raise LoadError(
                f"{_FIELD} {inversion.file.name!r} does not fit {type(pipeline).__name__}: {reason}"
            ) from error
    return [f"textual inversion: {', '.join(words)} may be used in prompts"] if words else []


def _load(pipeline: Any, inversion: Inversion) -> str:
    state = _state(inversion.file)
    if any(key in state for key in _ENCODERS):
        for key in _ENCODERS.keys() & state.keys():
            encoder, tokenizer = (getattr(pipeline, name) for name in _ENCODERS[key])
            pipeline.load_textual_inversion(state[key], token=inversion.word, text_encoder=encoder, tokenizer=tokenizer)
        return inversion.word
    named = next(iter(state)) if len(state) == 1 else state.get("name")
    word = inversion.word if named in (None, "emb_params", "*") else str(named)
    pipeline.load_textual_inversion(dict(state), token=word)
    return word


def _state(file: Path) -> Mapping[str, Any]:
    if headers.form_of(file) == headers.SAFETENSORS:
        from safetensors.torch import load_file

        return load_file(file)
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)
