# SPDX-License-Identifier: MIT
"""Texts of a model's YAML and of a request's params -> typed values."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from localai_diffusers.errors import InvalidRequest

_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def parse_value(text: str, name: str = "option value") -> Any:
    """int, float (1e-4 too), true/false/null, a quoted string, a JSON list or object, else the text itself.

    Not YAML, which reads ``off`` as False and ``1:30`` as 90; not ``float()``, which takes ``nan`` and ``1_000``.
    Raises InvalidRequest for a list or object that is not JSON.
    """
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= 20 else text
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if is_quoted(text):
        return text[1:-1]
    if text[:1] in ("[", "{") and text[-1:] in ("]", "}"):
        return parse_json(name, text)
    return text


def is_quoted(text: str) -> bool:
    """Whether the text stands in quotes, which say that it is text whatever it looks like."""
    return len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""


def parse_json(field_name: str, text: str) -> Any:
    """The JSON value. Raises InvalidRequest naming the field for what is none, NaN and Infinity too."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field_name} {text[:80]!r} is not valid JSON: {error}") from None


def _no_number(text: str) -> float:
    """NaN and Infinity, which Python's reader takes though they are no JSON."""
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)
