# SPDX-License-Identifier: MIT
"""What a model's YAML says of quantization: which component is kept in which form, by word.

Here: the words and how they are written. What each does, and where it can run, is loading/placing/quantizers.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from localai_diffusers.discovery.spelling import did_you_mean
from localai_diffusers.wire.values import is_quoted, parse_value

# The word alone, without a component, is for the large ones.
LARGE = ""
WORDS = ("int8", "fp8", "int4", "nf4", "bnb_int8", "qfloat8", "qint8", "qint4")


def quantization(value: Any) -> Mapping[str, str]:
    """Component -> word (:data:`LARGE` for a word alone), of ``nf4``, ``transformer:nf4,text_encoder:int8`` or a JSON
    object. Raises ValueError saying what is taken."""
    said = parse_value(value) if isinstance(value, str) and not is_quoted(value) else value
    if isinstance(said, dict):
        return _checked((str(name), str(word)) for name, word in said.items())
    parts = [part.rpartition(":") for part in str(said).strip("'\"").split(",")]
    return _checked((name.strip(), word) for name, _colon, word in parts)


def _checked(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, text in pairs:
        word = text.strip().lower()
        if word not in WORDS:
            raise ValueError(_taken(did_you_mean(word, WORDS, 2)))
        if name in found:
            raise ValueError(f"one word for {name or 'the large components'}, which is said twice")
        found[name] = word
    return found


def _taken(hint: str) -> str:
    forms = "for the large components, component:word with commas between, or a JSON object of them"
    return f"one of {', '.join(WORDS)} {forms}" + (f". {hint.strip()}" if hint else "")
