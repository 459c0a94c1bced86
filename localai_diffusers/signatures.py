"""What a pipeline's ``__call__`` takes: its parameters, which of them take media, and which values fit them.

The catalogue's 306 classes share names and annotations, not a base method, so both are read here and nowhere else.
"""
from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .errors import InvalidRequest

Parameters = Mapping[str, inspect.Parameter]
EMPTY = inspect.Parameter.empty


@lru_cache(maxsize=512)
def _parameters(call: Callable[..., Any]) -> Parameters:
    try:
        signature = inspect.signature(call, eval_str=True)
    except (NameError, TypeError, SyntaxError, AttributeError):  # an annotation that only a type checker can read
        signature = inspect.signature(call)
    skip = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return types.MappingProxyType({name: parameter for name, parameter in signature.parameters.items()
                                   if name != "self" and parameter.kind not in skip})


def parameters_of(pipeline: Any) -> Parameters:
    """Named parameters of a pipeline's (or pipeline class's) ``__call__``, in order, without ``self`` and ``**kwargs``."""
    cls = pipeline if isinstance(pipeline, type) else type(pipeline)
    return _parameters(cls.__call__)


# --- media ---------------------------------------------------------------------------------------------------------

# The last word of a media parameter's name, digits aside.
_IMAGE_WORDS = ("image", "images", "reference", "hint", "controls")
_VIDEO_WORDS = ("video", "frames")
_AUDIO_WORDS = ("audio", "waveforms")
_MASK_WORDS = ("mask",)
# Names with these words are about media but take none, or belong to an adapter that the request does not feed.
_NOT_MEDIA = frozenset({"num", "embeds", "latents", "attention", "padding", "prompt", "adapter", "negative", "guidance", "gligen",
                        "phrases", "strength", "fake", "text", "masked", "user", "render", "pixel", "camera", "keep", "freeze",
                        "sample", "atom37", "attn"})
_MEDIA_TYPES = ("Image", "Tensor", "ndarray", "Any")


def image_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take pictures, in the signature's order: the main image first, as diffusers has it."""
    return [name for name in _media(parameters, _IMAGE_WORDS) if name != LAST_IMAGE and not name.startswith("mask")]


def mask_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take a mask, in the signature's order."""
    return [name for name, parameter in parameters.items() if _takes_media(parameter)
            and (name == "mask_image" or name in _media(parameters, _MASK_WORDS))]


def video_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take a video's frames, in the signature's order."""
    return _media(parameters, _VIDEO_WORDS)


def audio_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take sound, in the signature's order."""
    return _media(parameters, _AUDIO_WORDS)


LAST_IMAGE = "last_image"


def takes_media(name: str, parameters: Parameters) -> bool:
    """Whether the parameter ``name`` takes media of any kind."""
    every = (image_parameters, mask_parameters, video_parameters, audio_parameters)
    return name == LAST_IMAGE or any(name in kind(parameters) for kind in every)


def _media(parameters: Parameters, words: tuple[str, ...]) -> list[str]:
    return [name for name, parameter in parameters.items() if _ends_in(name, words) and _takes_media(parameter)]


def _ends_in(name: str, words: tuple[str, ...]) -> bool:
    parts = re.sub(r"_?\d+$", "", name).split("_")
    return parts[-1] in words and not _NOT_MEDIA & set(parts)


def _takes_media(parameter: inspect.Parameter) -> bool:
    """By annotation: a parameter without one may, one of plain numbers or text may not."""
    return parameter.annotation is EMPTY or any(kind in str(parameter.annotation) for kind in _MEDIA_TYPES)


def takes_list(parameter: inspect.Parameter) -> bool:
    """Whether a picture parameter takes several pictures: by its plural name or an annotation of a list of pictures."""
    return parameter.name.endswith("s") or "list[" in str(parameter.annotation).lower()


# --- values from options and params ------------------------------------------------------------------------------

_SIMPLE = (bool, int, float, str, list, tuple, dict)


def accepted_types(parameter: inspect.Parameter) -> tuple[type, ...]:
    """The plain Python types that the annotation names (a float takes an int too); () where anything may go."""
    if parameter.annotation is EMPTY:
        kind = type(parameter.default)
        return (kind,) if kind in _SIMPLE else ()
    union = typing.get_origin(parameter.annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(parameter.annotation) if union else (parameter.annotation,)
    plain = {typing.get_origin(member) or member for member in members}
    if not plain <= {*_SIMPLE, type(None)}:
        return ()
    return tuple(kind for kind in plain if kind is not type(None))


def fits_type(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether ``value`` (from an option) is of a type that the parameter is annotated with."""
    accepted = accepted_types(parameter)
    if value is None or not accepted:
        return True
    if isinstance(value, bool):
        return bool in accepted
    if isinstance(value, int):
        return bool({int, float} & set(accepted))
    return isinstance(value, accepted) or (isinstance(value, list) and tuple in accepted)


@dataclass(frozen=True)
class CheckedOptions:
    """Call arguments from options that the pipeline takes, and a note for each that it does not."""

    accepted: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_options(options: Mapping[str, Any], parameters: Parameters, class_name: str) -> CheckedOptions:
    """Sort out the options that are call arguments.

    One that the signature lacks is noted with its closest match and dropped, since the core also sends options of
    other backends. Raises InvalidRequest for a value of the wrong type.
    """
    result = CheckedOptions()
    for name, value in options.items():
        if name not in parameters:
            result.notes.append(f"option {name!r} is no argument of {class_name} and is ignored{did_you_mean(name, parameters)}")
            continue
        _check_type(f"option {name}:{value!r}", value, parameters[name], class_name)
        result.accepted[name] = value
    return result


def check_params(params: Mapping[str, Any], parameters: Parameters, class_name: str) -> dict[str, Any]:
    """The request's ``params``, all of which must be arguments of the pipeline. Raises InvalidRequest otherwise."""
    for name, value in params.items():
        if name not in parameters:
            raise InvalidRequest(f"params[{name!r}] is no argument of {class_name}{did_you_mean(name, parameters)}")
        if not (isinstance(value, str) and takes_media(name, parameters)):  # there text is a path, read later
            _check_type(f"params[{name!r}]={value!r}", value, parameters[name], class_name)
    return dict(params)


def check_complete(arguments: Mapping[str, Any], parameters: Parameters, class_name: str) -> None:
    """Raise InvalidRequest naming the required parameters that nothing fills."""
    missing = [name for name, parameter in parameters.items() if parameter.default is EMPTY and name not in arguments]
    if missing:
        raise InvalidRequest(f"{class_name} needs {', '.join(missing)}, which the request does not bring: set it in the model's "
                             f"options (e.g. options: {missing[0]}:...) or, in a video request, in params")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """" (did you mean 'x'?)" for the closest of the known names, "" if none is close."""
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check_type(what: str, value: Any, parameter: inspect.Parameter, class_name: str) -> None:
    if not fits_type(value, parameter):
        kinds = " or ".join(sorted(kind.__name__ for kind in accepted_types(parameter)))
        raise InvalidRequest(f"{what} is of the wrong type: {class_name} takes {kinds}")
