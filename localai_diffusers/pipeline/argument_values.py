# SPDX-License-Identifier: MIT
"""A value from the YAML's options or a request's params, in the type that a parameter's annotation names.

JSON has lists where Python has tuples, and a text may look like a number: what is said arrives as plain diffusers would
take it, or it is refused by name.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from localai_diffusers.discovery.spelling import nearest
from localai_diffusers.errors import InvalidRequest
from localai_diffusers.pipeline.signatures import EMPTY, Parameters, members, takes_media

_SIMPLE = (bool, int, float, str, list, tuple, dict)
# Where the types come from that no text can stand for.
_FOREIGN = frozenset({"torch", "numpy", "PIL", "diffusers", "transformers"})


class _Misfit(Exception):
    """A value is none of the annotation's."""


def accepted_types(parameter: inspect.Parameter) -> tuple[type, ...]:
    """The plain Python types that the annotation names (a float takes an int too); () where anything may go."""
    if parameter.annotation is EMPTY:
        kind = type(parameter.default)
        return (kind,) if kind in _SIMPLE else ()
    plain = {typing.get_origin(member) or member for member in members(parameter.annotation)}
    if not plain <= {*_SIMPLE, type(None)}:
        return ()
    return tuple(kind for kind in plain if kind is not type(None))


def fitted(what: str, value: Any, text: str | None, parameter: inspect.Parameter, class_name: str) -> Any:
    """``value`` as the parameter takes it: a JSON list for a tuple, a whole number for a float, ``text`` (what was
    written) for a text. None stays None.

    ``what`` names it in the error. Raises InvalidRequest for a value of another type, and where only tensors or objects
    of the libraries fit.
    """
    kinds = [kind for kind in members(parameter.annotation) if kind is not type(None)]
    if value is None or (kinds == [EMPTY] and parameter.default in (None, EMPTY)):
        return value
    if all(map(_is_foreign, kinds)):
        name = getattr(kinds[0], "__name__", kinds[0])
        raise InvalidRequest(f"{what} cannot be said in text: {class_name} takes a {name} there")
    if isinstance(parameter.default, dict) and parameter.default:  # a plain dict's keys are like those of the default
        key: Any = type(next(iter(parameter.default)))
        kinds = [dict[key, Any] if kind is dict else kind for kind in kinds]
    kinds = kinds if kinds != [EMPTY] else [type(parameter.default)]
    try:
        return _fit(value, text, kinds)
    except _Misfit:
        names = " or ".join(dict.fromkeys(_shown(kind) for kind in kinds if not _is_foreign(kind)))
        raise InvalidRequest(f"{what} is of the wrong type: {class_name} takes {names}") from None


def check_params(
    params: Mapping[str, Any], texts: Mapping[str, str], parameters: Parameters, class_name: str
) -> dict[str, Any]:
    """The request's ``params``, all of which must be arguments of the pipeline. Raises InvalidRequest otherwise."""
    checked = dict(params)
    for name, value in params.items():
        if name not in parameters:
            raise InvalidRequest(f"params[{name!r}] is no argument of {class_name}{did_you_mean(name, parameters)}")
        if is_ours(name):
            raise InvalidRequest(f"params[{name!r}] is set by the server itself: leave it out")
        if not (_is_paths(value) and takes_media(name, parameters)):  # there texts are paths, read later
            checked[name] = fitted(f"params[{name!r}]={value!r}", value, texts.get(name), parameters[name], class_name)
    return checked


def _is_paths(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return bool(parts) and all(isinstance(part, str) for part in parts)


def is_ours(name: str) -> bool:
    """Whether an argument is the server's own: how a call is stopped and seeded, and what form its answer has."""
    return name in ("generator", "output_type", "return_dict") or name.startswith("callback")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the closest of the known names, "" if none is close."""
    close = nearest(name, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# --- by annotation -------------------------------------------------------------------------------------------------


def _fit(value: Any, text: str | None, kinds: Iterable[Any]) -> Any:
    """``value`` as the first of ``kinds`` that it is already, else as the first that it can be made to be."""
    kinds = list(kinds)
    for exactly in (True, False):
        for kind in kinds:
            try:
                return _as(value, text, kind, exactly)
            except _Misfit:
                continue
    raise _Misfit


def _as(value: Any, text: str | None, kind: Any, exactly: bool) -> Any:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (Any, EMPTY):
        return value
    if origin is typing.Literal:
        return _known(value in inner, value)
    if origin in (list, tuple, collections.abc.Iterable, collections.abc.Sequence):
        return _sequence(value, text, origin, inner, exactly)
    if origin is dict and isinstance(value, dict):
        return {_key(key, inner[0] if inner else str): _element(part, inner[1:]) for key, part in value.items()}
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return _member(value, origin)
    if type(value) is kind and not isinstance(value, (list, dict)):
        return value
    if exactly:
        raise _Misfit
    return _scalar(value, text, kind)


def _scalar(value: Any, text: str | None, kind: Any) -> Any:
    """A number as one of another type where it is the same, and what was written where a text is wanted."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind is bool and type(value) is int and value in (0, 1):
        return bool(value)
    if kind is str and type(value) in (bool, int, float):
        return str(value) if text is None else text
    raise _Misfit


def _sequence(value: Any, text: str | None, origin: Any, inner: tuple[Any, ...], exactly: bool) -> Any:
    """A JSON list as a list or tuple of such elements; one text for a list of texts alone as a list of it."""
    if not exactly and isinstance(value, str) and origin is list and inner == (str,):
        return [value]
    if not isinstance(value, list) or (exactly and origin is tuple):
        raise _Misfit
    if origin is not tuple:
        return [_element(part, inner) for part in value]
    if len(inner) > 1 and inner[-1] is not Ellipsis:
        return tuple(_element(part, (kind,)) for part, kind in _paired(value, inner))
    return tuple(_element(part, inner[:1]) for part in value)  # tuple[int] is meant as one of any length


def _paired(value: list[Any], inner: tuple[Any, ...]) -> Iterable[tuple[Any, Any]]:
    if len(value) != len(inner):
        raise _Misfit
    return zip(value, inner, strict=True)


def _element(value: Any, inner: tuple[Any, ...]) -> Any:
    kinds = [kind for part in inner for kind in members(part)]
    if value is None and (not kinds or type(None) in kinds):
        return None
    return _fit(value, None, kinds) if kinds else value


def _key(key: str, kind: Any) -> Any:
    """JSON's keys are texts: a number for a dictionary by numbers."""
    if kind is not int:
        return key
    try:
        return int(key)
    except ValueError:
        raise _Misfit from None


def _member(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    """By value or name."""
    found = next((one for one in kind if value in (one.value, one.name)), None)
    return _known(found is not None, found)


def _known(fits: bool, value: Any) -> Any:
    if not fits:
        raise _Misfit
    return value


def _is_foreign(kind: Any) -> bool:
    """Whether an annotation's member is a tensor, a picture or an object of the libraries, or a list of such alone."""
    if typing.get_origin(kind) in (list, tuple, typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(kind) if part not in (Ellipsis, type(None))]
        return bool(inner) and all(_is_foreign(part) for part in inner)
    if typing.get_origin(kind) is collections.abc.Callable:
        return True
    is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
    return isinstance(kind, type) and not is_enum and kind.__module__.partition(".")[0] in _FOREIGN


def _shown(kind: Any) -> str:
    """ "tuple[int, int]", "float", "'first' or 'last'"."""
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " or ".join(repr(one.value) for one in kind)
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")
