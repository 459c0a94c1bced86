# SPDX-License-Identifier: MIT
"""Textual inversions: new words for the prompt, each a file of embeddings named by ``options: textual_inversion:``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import artifacts, headers
from localai_diffusers.errors import LoadError
from localai_diffusers.patches import inversion_words
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

    Raises LoadError for embeddings that do not fit the text encoder, and for a word that two files have.
    """
    words: list[str] = []
    for inversion in inversions:
        try:
            word = _load(pipeline, inversion)
        except (ValueError, KeyError, RuntimeError, AttributeError, IndexError) as error:
            reason = str(error)[:400]
            raise LoadError(
                f"{_FIELD} {inversion.file.name!r} does not fit {type(pipeline).__name__}: {reason}"
            ) from error
        if word.lower() in (known.lower() for known in words):
            raise LoadError(f"{_FIELD}: two files have the word {word!r}: rename one of them")
        words.append(word)
    return [f"textual inversion: {', '.join(words)} may be used in prompts"] if words else []


def _load(pipeline: Any, inversion: Inversion) -> str:
    """Every embedding gets a token of its own that nobody writes; the word stands for all of them."""
    named, tensors = _embeddings(_state(inversion.file))
    word = inversion.word if named in ("", "emb_params", "*") else named
    for key, tensor in tensors.items():
        rows = tensor.reshape(-1, tensor.shape[-1])
        encoder, tokenizer = _reader(pipeline, key, rows.shape[-1])
        tokens = [f"zq{len(inversion_words.words_of(tokenizer))}x{row}qz" for row in range(len(rows))]
        pipeline.load_textual_inversion(list(rows), token=tokens, text_encoder=encoder, tokenizer=tokenizer)
        inversion_words.add(tokenizer, word, tokens)
    return word


def _embeddings(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name in a file ("" for none) and its tensors, by text encoder where it says so. ValueError for any other."""
    if state.keys() & _ENCODERS.keys():
        _refuse(state.keys() - _ENCODERS.keys())
        return "", dict(state)
    if "string_to_param" in state:  # the first form, a pickle
        return str(state.get("name") or ""), {"": state["string_to_param"]["*"]}
    _refuse(sorted(state)[1:])
    name, tensor = next(iter(state.items()))
    return str(name), {"": tensor}


def _refuse(keys: Iterable[str]) -> None:
    if others := ", ".join(sorted(keys)[:3]):
        raise ValueError(f"{others} is nothing of a textual inversion: a file has one word's embeddings")


def _reader(pipeline: Any, key: str, width: int) -> tuple[Any, Any]:
    """The text encoder and tokenizer that embeddings are for: by the file's name for it, else by their width."""
    pairs = [_ENCODERS[key]] if key else list(_ENCODERS.values())
    found = [tuple(getattr(pipeline, name, None) for name in pair) for pair in pairs]
    present = [(encoder, tokenizer) for encoder, tokenizer in found if encoder is not None and tokenizer is not None]
    widths = [encoder.get_input_embeddings().weight.shape[-1] for encoder, _tokenizer in present]
    if width in widths:
        return present[widths.index(width)]
    raise ValueError(
        f"its embeddings are {width} wide, the text encoder's {' or '.join(map(str, widths)) or 'missing'}"
    )


def _state(file: Path) -> Mapping[str, Any]:
    if headers.form_of(file) == headers.SAFETENSORS:
        from safetensors.torch import load_file

        return load_file(file)
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)
