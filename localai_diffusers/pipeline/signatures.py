# SPDX-License-Identifier: MIT
"""What a pipeline's ``__call__`` takes: its parameters, which of them take media, and which values fit them.

The catalogue's 306 classes share names and annotations, not a base method, so both are read here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.pipeline.kept import kept

Parameters = Mapping[str, inspect.Parameter]
EMPTY = inspect.Parameter.empty


@kept(512)
def _parameters(call: Callable[..., Any]) -> Parameters:
    signature = inspect.signature(call)
    skip = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return types.MappingProxyType(
        {
            name: parameter.replace(annotation=_evaluated(parameter.annotation, call))
            for name, parameter in signature.parameters.items()
            if name != "self" and parameter.kind not in skip
        }
    )


def _evaluated(annotation: Any, call: Callable[..., Any]) -> Any:
    """An annotation that stands as text, evaluated; itself where only a type checker can read it."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(inspect.unwrap(call), "__globals__", {}))  # what inspect's eval_str does
    except (NameError, TypeError, SyntaxError, AttributeError):
        return annotation


def parameters_of(pipeline: Any) -> Parameters:
    """Named parameters of a pipeline's (or pipeline class's) ``__call__``, in order, without ``self`` and ``**kwargs``.

    Of a class that has a method for each task and no ``__call__``: those of all of them.
    """
    cls = pipeline if isinstance(pipeline, type) else type(pipeline)
    if not has_call(cls):
        every = (_parameters(method) for method in task_methods(cls))
        return types.MappingProxyType({name: value for known in every for name, value in known.items()})
    return _parameters(cls.__call__)


def inversion_parameters(cls: type[Any]) -> Parameters:
    """Named parameters of the class's ``invert``, none where it has none."""
    return _parameters(cls.invert) if callable(getattr(cls, "invert", None)) else types.MappingProxyType({})


@kept(512)
def constructor_parameters(cls: type) -> Parameters:
    """What the class's constructor takes beside components: numbers and switches that are kept in its config. A modular
    pipeline's class states those of its blocks."""
    if (stated := getattr(cls, "plain_parameters", None)) is not None:
        return types.MappingProxyType(stated)
    if not hasattr(cls, "_get_signature_keys"):
        return types.MappingProxyType({})
    _, plain = cls._get_signature_keys(cls)
    known = _parameters(cls.__init__)  # type: ignore[misc]
    return types.MappingProxyType({name: known[name] for name in known if name in plain})


def has_call(cls: type) -> bool:
    """Whether the class can be called, or leaves that to its methods (VersatileDiffusionPipeline)."""
    return any("__call__" in vars(base) for base in cls.__mro__)


@kept(64)
def task_methods(cls: type) -> tuple[Callable[..., Any], ...]:
    """The methods of a class without ``__call__`` that generate: those that are told a number of steps."""
    methods = (value for value in vars(cls).values() if inspect.isfunction(value))
    return tuple(method for method in methods if "num_inference_steps" in inspect.signature(method).parameters)


# --- media ---------------------------------------------------------------------------------------------------------

# The last word of a media parameter's name, digits aside.
_IMAGE_WORDS = ("image", "images", "reference", "hint")
_VIDEO_WORDS = ("video", "frames", "controls")
_AUDIO_WORDS = ("audio", "waveforms")
_MASK_WORDS = ("mask",)
# Names with these words are about media but take none, or belong to an adapter that the request does not feed.
_NOT_MEDIA = frozenset(
    {
        "num",
        "embeds",
        "latents",
        "attention",
        "padding",
        "prompt",
        "adapter",
        "negative",
        "guidance",
        "inpaint",
        "phrases",
        "strength",
        "fake",
        "text",
        "masked",
        "user",
        "render",
        "pixel",
        "camera",
        "keep",
        "freeze",
        "sample",
        "atom37",
        "attn",
        "resized",
        "processed",
    }
)
_MEDIA_TYPES = ("Image", "Tensor", "ndarray", "Any")


def image_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take pictures: the main image, which is called so, then the signature's order."""
    names = [name for name in _media(parameters, _IMAGE_WORDS) if name != LAST_IMAGE and not name.startswith("mask")]
    return sorted(names, key=lambda name: name not in _MAIN)


def mask_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take a mask, in the signature's order."""
    return [
        name
        for name, parameter in parameters.items()
        if _takes_media(parameter) and (name == "mask_image" or name in _media(parameters, _MASK_WORDS))
    ]


def video_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take a video's frames, in the signature's order."""
    return _media(parameters, _VIDEO_WORDS)


def audio_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take sound, in the signature's order."""
    return _media(parameters, _AUDIO_WORDS)


LAST_IMAGE = "last_image"
# What diffusers calls the picture that a pipeline works on; one annotates it as text (Versatile Diffusion's guide).
_MAIN = ("image", "images")


@dataclass(frozen=True)
class Condition:
    """A dataclass of diffusers that puts a picture or a clip at a place in time, and the names of its fields."""

    kind: type
    image: str
    video: str
    place: str | None


def condition_parameters(parameters: Parameters) -> dict[str, Condition]:
    """Parameters that take pictures and clips inside such objects (LTX-Video's ``conditions``),
    in the signature's order."""
    found = {name: _condition(parameter.annotation) for name, parameter in parameters.items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _condition(annotation: Any) -> Condition | None:
    members = (annotation, *typing.get_args(annotation))
    inner = (part for member in members for part in (member, *typing.get_args(member)))
    kind = next((part for part in inner if isinstance(part, type) and dataclasses.is_dataclass(part)), None)
    names = [known.name for known in dataclasses.fields(kind)] if kind else []
    image, video = (
        next((name for name in known if name in names), "") for known in (("image", "frames"), ("video", "frames"))
    )
    place = next((name for name in ("frame_index", "index") if name in names), None)
    return (
        Condition(kind, image, video, place)
        if kind and image and video and not _needs_more(kind, (image, video))
        else None
    )


def _needs_more(kind: Any, media: tuple[str, ...]) -> bool:
    """Whether the dataclass asks for more than the media (a robot's actions)."""
    absent = dataclasses.MISSING
    return any(
        known.default is absent and known.default_factory is absent and known.name not in media
        for known in dataclasses.fields(kind)
    )


def video_masks(parameters: Parameters) -> list[str]:
    """Names of the parameters that say which frames' parts of ``video`` are to be made anew: a mask a frame."""
    names = [
        name for name in (*mask_parameters(parameters), *video_parameters(parameters)) if "mask" in name.split("_")
    ]
    return names if VIDEO in video_parameters(parameters) else []


VIDEO = "video"


def takes_media(name: str, parameters: Parameters) -> bool:
    """Whether the parameter ``name`` takes media of any kind."""
    every = (image_parameters, mask_parameters, video_parameters, audio_parameters)
    return name == LAST_IMAGE or any(name in kind(parameters) for kind in every)


def without_media(values: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """Those of ``values`` that the call takes, and not as media: a text there is meant as a text."""
    return {name: value for name, value in values.items() if name in parameters and not takes_media(name, parameters)}


def _media(parameters: Parameters, words: tuple[str, ...]) -> list[str]:
    return [name for name, parameter in parameters.items() if _ends_in(name, words) and _takes_media(parameter)]


def _ends_in(name: str, words: tuple[str, ...]) -> bool:
    parts = re.sub(r"_?\d+$", "", name).split("_")
    return parts[-1] in words and not _NOT_MEDIA & set(parts)


def _takes_media(parameter: inspect.Parameter) -> bool:
    """By annotation: a parameter without one may, one of plain numbers or text may not."""
    text = str(parameter.annotation)
    return parameter.annotation is EMPTY or parameter.name in _MAIN or any(kind in text for kind in _MEDIA_TYPES)


def takes_list(parameter: inspect.Parameter) -> bool:
    """Whether a picture parameter takes several pictures: by its plural name or an annotation of a list of pictures."""
    return parameter.name.endswith("s") or "list[" in str(parameter.annotation).lower()


def takes_only_list(parameter: inspect.Parameter) -> bool:
    """Whether the annotation names lists alone, so that one picture must come in a list."""
    kinds = [kind for kind in members(parameter.annotation) if kind is not type(None)]
    return bool(kinds) and all(typing.get_origin(kind) is list for kind in kinds)


def takes_a_picture(parameter: inspect.Parameter) -> bool:
    """Whether the annotation names a picture by itself, outside of any list."""
    return any(
        "Image.Image" in str(kind) for kind in members(parameter.annotation) if typing.get_origin(kind) is not list
    )


def is_optional(parameter: inspect.Parameter) -> bool:
    """Whether the annotation admits None: diffusers leaves that out where None is only there to be told from a
    value."""
    return type(None) in members(parameter.annotation)


def members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )


def takes_only_tensor(parameter: inspect.Parameter) -> bool:
    """Whether the annotation names a tensor and neither a picture nor a list."""
    text = str(parameter.annotation)
    return "Tensor" in text and not any(kind in text.lower() for kind in ("image.image", "list[", "ndarray"))


@kept(512)
def unpacked_shape(call: Callable[..., Any], name: str) -> tuple[str, ...]:
    """What ``call`` names the sides of its argument ``name`` where it takes its shape apart, else ()
    ("batch_size, channels, ...")."""
    try:
        found = re.search(rf"([\w, ]+?) = {name}\.shape\b", inspect.getsource(call))
    except (OSError, TypeError):  # no source to read
        return ()
    return tuple(side.strip() for side in found[1].split(",")) if found else ()


# Ends of the names of arguments that only another model can make: no request carries a tensor.
TENSOR_WORDS = ("embeds", "embeddings", "latents", "hint")


def check_complete(arguments: Mapping[str, Any], parameters: Parameters, class_name: str, hint: str = "") -> None:
    """Raise InvalidRequest naming the required parameters that nothing fills;
    ``hint`` says which class makes tensors itself."""
    missing = [name for name, parameter in parameters.items() if parameter.default is EMPTY and name not in arguments]
    tensors = [name for name in missing if name.endswith(TENSOR_WORDS)]
    if tensors:
        raise InvalidRequest(f"{class_name} needs {', '.join(tensors)}, which only another pipeline makes{hint}")
    if missing:
        media = [name for name in missing if takes_media(name, parameters)]
        how = [f"send {', '.join(media)} (src, ref_images; a video request's start_image, params)"] if media else []
        rest = [name for name in missing if name not in media]
        how += [f"set {rest[0]} in the model's options ({rest[0]}:...) or a video request's params"] if rest else []
        raise InvalidRequest(
            f"{class_name} needs {', '.join(missing)}, which the request does not bring: {'; '.join(how)}"
        )
