# SPDX-License-Identifier: MIT
"""How the value of an option is read: the text as it was written, or a JSON value, to what a row of the table says.

A parser raises ValueError saying what is taken.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.wire.argument_limits import MAX_SIDE
from localai_diffusers.wire.values import is_quoted, parse_value


def typed(value: Any) -> Any:
    """A text by what it looks like; a JSON value is typed already."""
    return parse_value(value) if isinstance(value, str) else value


def text(value: Any) -> str:
    """The text as it is: a revision of 0012 or 1e5 is no number."""
    if isinstance(value, (list, dict)) or (isinstance(value, str) and isinstance(typed(value), (list, dict))):
        raise ValueError("a text")
    return value[1:-1] if isinstance(value, str) and is_quoted(value) else str(value)


def switch(value: Any) -> bool:
    """``off`` and ``no`` are texts, which would count as true."""
    said = typed(value)
    if said not in (True, False):  # 1 and 0 too
        raise ValueError("true or false")
    return bool(said)


def switch_with(*names: str) -> Callable[[Any], Mapping[str, Any] | None]:
    """A switch that a JSON object of ``names`` turns on as well, with these arguments; None is off."""

    def parse(value: Any) -> Mapping[str, Any] | None:
        said = typed(value)
        if said in (True, False):
            return {} if said else None
        if not isinstance(said, dict) or said.keys() - set(names):
            raise ValueError(f"true or false, or a JSON object of {', '.join(names)}")
        return said

    return parse


_UNITS = {"": 1, "B": 1} | {
    name + end: size for name, size in (("K", 2**10), ("M", 2**20), ("G", 2**30)) for end in ("", "B")
}


def byte_count(usual: int) -> Callable[[Any], int]:
    """``64MB``, a number of bytes, or ``true`` for the ``usual`` number; 0 is off."""

    def parse(value: Any) -> int:
        said = typed(value)
        if isinstance(said, bool):
            return usual if said else 0
        found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMG]?B?)", str(said).strip().upper())
        unit = found and _UNITS.get(found[2])
        if not found or unit is None:
            raise ValueError("true, or a number of bytes, KB, MB or GB: 64MB")
        return int(float(found[1]) * unit)

    return parse


@dataclass(frozen=True)
class Named:
    """One of several ways to do something, by its name, with its own parameters."""

    name: str
    arguments: Mapping[str, Any]


def named(*names: str) -> Callable[[Any], Named | None]:
    """One of ``names``, alone, with parameters in parentheses, or as the one key of a JSON object that holds them."""

    def parse(value: Any) -> Named | None:
        said = typed(value)
        if said is False:
            return None
        if isinstance(said, dict) and len(said) == 1:
            name, arguments = next(iter(said.items()))
        else:
            name, arguments = _called(said) if isinstance(said, str) else ("", None)
        if name not in names or not isinstance(arguments, dict):
            raise ValueError(
                f"one of {', '.join(names)}, with parameters if need be: {names[0]}(name=value), or a JSON object "
                f'{{"{names[0]}": {{"name": value}}}}'
            )
        return Named(name, arguments)

    return parse


def _called(text: str) -> tuple[str, dict[str, Any] | None]:
    """``name(a=1, b=[2, 3])`` as name and arguments; None for what is not written so."""
    name, opened, rest = text.strip().partition("(")
    if not opened:
        return name.lower(), {}
    words = {"true": True, "false": False, "null": None}
    try:
        call = ast.parse(f"_({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return name, None
        found = {
            str(given.arg): words[given.value.id]
            if isinstance(given.value, ast.Name)
            else ast.literal_eval(given.value)
            for given in call.keywords
        }
    except (SyntaxError, ValueError, KeyError):
        return name, None
    return name.strip().lower(), found


def whole(least: int, most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        said = typed(value)
        if isinstance(said, bool) or not isinstance(said, int) or not least <= said <= most:
            raise ValueError(f"a whole number between {least} and {most}")
        return said

    return parse


def number(least: float, most: float) -> Callable[[Any], float]:
    """An int stays one."""

    def parse(value: Any) -> float:
        said = typed(value)
        if isinstance(said, bool) or not isinstance(said, (int, float)) or not least <= said <= most:
            raise ValueError(f"a number between {least:g} and {most:g}")
        return said

    return parse


def one_of(*names: str, **words: str) -> Callable[[Any], str]:
    """One of ``names``, in any case; ``words`` are what true and false mean, where they mean something."""

    def parse(value: Any) -> str:
        said = words.get(str(value).strip().lower(), str(value).strip().lower())
        if said not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return said

    parse.choices = names  # type: ignore[attr-defined]
    return parse


def texts(value: Any) -> tuple[str, ...]:
    """One text, several with commas, or a JSON list of them."""
    said = typed(value)
    if isinstance(said, dict):
        raise ValueError("a text, several with commas between, or a JSON list of texts")
    return tuple(str(part).strip() for part in (said if isinstance(said, list) else text(value).split(",")))


def size(value: Any) -> tuple[int, int]:
    """WxH, in pixels."""
    sides = [side for side in str(value).lower().split("x") if side.strip().isdecimal()]
    if len(sides) != 2 or not all(0 < int(side) <= MAX_SIDE for side in sides):
        raise ValueError(f"a size such as 1024x1024, of sides up to {MAX_SIDE}")
    return int(sides[0]), int(sides[1])


def mapping(value: Any) -> Mapping[str, Any]:
    said = typed(value)
    if not isinstance(said, dict):
        raise ValueError("a JSON object")
    return said


def ranks(value: Any) -> Mapping[str, int]:
    """``context=2``, or a JSON object of the same: one way to share a denoiser, and among how many."""
    said = typed(value)
    if isinstance(said, str):
        pairs = (part.partition("=") for part in said.split(","))
        said = {name.strip(): typed(count.strip()) for name, _equals, count in pairs}
    known = isinstance(said, dict) and len(said) == 1 and not said.keys() - {"context", "ring", "tensor"}
    if not known or type(count := next(iter(said.values()))) is not int or not 2 <= count <= 64:
        raise ValueError("one of context=N, ring=N and tensor=N, with N GPUs, 2 or more (no two of them together)")
    return said


def choices_of(parse: Callable[[Any], Any]) -> tuple[str, ...]:
    return getattr(parse, "choices", ())
