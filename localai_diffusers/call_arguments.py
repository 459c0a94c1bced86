"""A request + a pipeline's signature -> the keyword arguments of the call.

Nothing is passed that the signature does not take, nothing is made up that the pipeline has a default for. Order of
who speaks: the request's fields, then the model's options, then the pipeline's own defaults.
"""
from __future__ import annotations

import difflib
import inspect
import logging
import re
import secrets
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from . import sizes
from .errors import InvalidRequest
from .requests import GenerationRequest

log = logging.getLogger(__name__)

Parameters = Mapping[str, inspect.Parameter]

# What the parameters of the catalogue's 306 classes call their pictures: the last word of the name (digits aside).
_IMAGE_WORDS = ("image", "images", "reference", "hint", "controls")
_MASK_WORDS = ("mask",)
# Names with these words are about pictures but take none, or belong to an adapter that the request does not feed.
_NOT_MEDIA = ("num", "embeds", "latents", "attention", "padding", "prompt", "adapter", "negative", "guidance", "gligen",
              "phrases", "strength", "fake", "text", "masked", "user", "render", "pixel")
_PICTURE_TYPES = ("Image", "Tensor", "ndarray", "Any")
_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")


@lru_cache(maxsize=256)
def _parameters(call: Callable[..., Any]) -> Parameters:
    try:
        signature = inspect.signature(call, eval_str=True)
    except (NameError, TypeError, SyntaxError):  # an annotation that only a type checker can read
        signature = inspect.signature(call)
    skip = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return types.MappingProxyType({name: parameter for name, parameter in signature.parameters.items()
                                   if name != "self" and parameter.kind not in skip})


def parameters_of(pipeline: Any) -> Parameters:
    """Named parameters of a pipeline's (or pipeline class's) ``__call__``, in order, without ``self`` and ``**kwargs``."""
    cls = pipeline if isinstance(pipeline, type) else type(pipeline)
    return _parameters(cls.__call__)


# --- which parameters take pictures ------------------------------------------------------------------------------


def _words(name: str) -> list[str]:
    return re.sub(r"\d+$", "", name).rstrip("_").split("_")


def _takes_pictures(parameter: inspect.Parameter) -> bool:
    """By annotation: a parameter without one may, one of plain numbers or text may not."""
    text = "" if parameter.annotation is inspect.Parameter.empty else str(parameter.annotation)
    return not text or any(kind in text for kind in _PICTURE_TYPES)


def image_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take pictures, in the signature's order: the main image first, as diffusers has it."""
    return [name for name, parameter in parameters.items() if _is_media(name, _IMAGE_WORDS) and _takes_pictures(parameter)
            and name != "last_image" and not name.startswith("mask")]


def mask_parameters(parameters: Parameters) -> list[str]:
    """Names of the parameters that take a mask, in the signature's order."""
    return [name for name, parameter in parameters.items() if _takes_pictures(parameter)
            and (name == "mask_image" or _is_media(name, _MASK_WORDS))]


def _is_media(name: str, words: tuple[str, ...]) -> bool:
    parts = _words(name)
    return parts[-1] in words and not set(parts) & set(_NOT_MEDIA)


def takes_list(parameter: inspect.Parameter) -> bool:
    """Whether a picture parameter takes several pictures: its annotation names a list of pictures."""
    text = str(parameter.annotation)
    return parameter.name.endswith("s") or "list[" in text.lower() or "PipelineImageInput" in text


# --- the arguments that an option or a param may set ---------------------------------------------------------------

_SIMPLE = (bool, int, float, str, list, tuple, dict)


def _accepted_types(parameter: inspect.Parameter) -> tuple[type, ...]:
    """The plain Python types that the annotation names (a float takes an int too); () where anything may go."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        kind = type(parameter.default)
        return (kind,) if kind in _SIMPLE else ()
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    plain = {typing.get_origin(member) or member for member in members}
    if not plain <= {*_SIMPLE, type(None)}:
        return ()
    return tuple(kind for kind in plain if kind is not type(None))


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def fits_type(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether ``value`` (from an option) is of a type that the parameter is annotated with."""
    accepted = _accepted_types(parameter)
    if value is None or not accepted:
        return True
    if isinstance(value, bool):
        return bool in accepted
    if isinstance(value, int):
        return bool({int, float} & set(accepted))
    return isinstance(value, accepted) or (isinstance(value, list) and tuple in accepted)


@dataclass(frozen=True)
class CheckedArguments:
    """Call arguments from options that the pipeline takes, and a note for each that it does not."""

    accepted: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_options(options: Mapping[str, Any], parameters: Parameters, class_name: str) -> CheckedArguments:
    """Sort out the options that are call arguments.

    One that the signature lacks is noted with its closest match and dropped, since the core also sends options of
    other backends. Raises InvalidRequest for a value of the wrong type.
    """
    result = CheckedArguments()
    for name, value in options.items():
        if name == "guidance_scale" and name not in parameters:
            continue  # goes to true_cfg_scale, or the guidance rule notes it
        if name not in parameters:
            result.notes.append(f"option {name!r} is no argument of {class_name} and is ignored{_did_you_mean(name, parameters)}")
        elif not fits_type(value, parameters[name]):
            raise InvalidRequest(f"option {name}:{value!r} is of the wrong type: {class_name} takes "
                                 f"{_type_text(parameters[name])}")
        else:
            result.accepted[name] = value
    return result


def check_params(params: Mapping[str, Any], parameters: Parameters, class_name: str) -> dict[str, Any]:
    """The request's ``params``, all of which must be arguments of the pipeline. Raises InvalidRequest otherwise."""
    for name, value in params.items():
        if name not in parameters:
            raise InvalidRequest(f"params[{name!r}] is no argument of {class_name}{_did_you_mean(name, parameters)}")
        if not fits_type(value, parameters[name]):
            raise InvalidRequest(f"params[{name!r}]={value!r} is of the wrong type: {class_name} takes "
                                 f"{_type_text(parameters[name])}")
    return dict(params)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _type_text(parameter: inspect.Parameter) -> str:
    return " or ".join(sorted(kind.__name__ for kind in _accepted_types(parameter)))


# --- guidance ------------------------------------------------------------------------------------------------------

DISTILLED_TOKENS = frozenset({"turbo", "lightning", "schnell", "lcm", "hyper"})
# Classes made for distilled models bring the right default of their own.
_DISTILLED_CLASS_WORDS = ("Turbo", "Lightning", "Schnell", "LCM", "Hyper", "Consistency", "Sprint", "Distilled")
_DISTILLED_FLAGS = ("is_distilled", "distilled")


def is_distilled(names: Iterable[str], index: Mapping[str, Any]) -> bool:
    """Whether a name of the model has a whole distillation token, or its model_index.json a flag."""
    tokens = {token for name in names for token in re.split(r"[^a-z0-9]+", name.lower())}
    return bool(tokens & DISTILLED_TOKENS) or any(index.get(flag) is True for flag in _DISTILLED_FLAGS)


def embeds_guidance(pipeline: Any) -> bool:
    """Whether the denoiser takes the guidance scale as an input (Flux dev, LCM), so that it costs no second pass."""
    transformer, unet = getattr(pipeline, "transformer", None), getattr(pipeline, "unet", None)
    return bool(sizes.config_value(transformer, "guidance_embeds")) or sizes.config_value(unet, "time_cond_proj_dim") is not None


def guidance_arguments(pipeline: Any, chosen: float | None, distilled: bool) -> dict[str, float]:
    """Where the guidance scale goes. ``chosen`` is what the request or the model's options say, None if neither does.

    Without a choice a distilled model gets 0, unless its guidance is embedded or its class was made for such models;
    any other gets the pipeline's own default. ``true_cfg_scale`` is classifier-free guidance where it is not embedded.
    """
    parameters = parameters_of(pipeline)
    embedded = embeds_guidance(pipeline)
    if chosen is None:
        own_class = any(word in type(pipeline).__name__ for word in _DISTILLED_CLASS_WORDS)
        if not distilled or embedded or own_class:
            return {}
        chosen = 0.0
    is_true_cfg = "true_cfg_scale" in parameters and not embedded
    arguments = {"true_cfg_scale": chosen} if is_true_cfg else {}
    if "guidance_scale" in parameters and not (is_true_cfg and parameters["guidance_scale"].default is None):
        arguments["guidance_scale"] = chosen
    return arguments


# --- the whole call ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """Keyword arguments for a pipeline, what there is to say of them, and the seed that they hold."""

    arguments: dict[str, Any]
    seed: int
    notes: list[str]


@dataclass(frozen=True)
class ModelDefaults:
    """What the loaded model adds to every call: its options by argument name, guidance, and how it makes noise."""

    options: Mapping[str, Any] = field(default_factory=dict)
    guidance: float | None = None
    distilled: bool = False
    clip_skip: int = 0
    use_clip_skip: bool = True
    chunk_size: int = 8
    generator_device: str = "cpu"


def build(request: GenerationRequest, pipeline: Any, defaults: ModelDefaults) -> Call:
    """The arguments of ``pipeline(**arguments)`` for ``request``.

    Raises InvalidRequest naming the field when the request asks for what the pipeline does not take.
    """
    parameters = parameters_of(pipeline)
    notes: list[str] = []
    arguments: dict[str, Any] = {name: value for name, value in defaults.options.items() if name in parameters}
    arguments |= check_params(request.params, parameters, type(pipeline).__name__)
    arguments |= _guidance(request, pipeline, defaults, arguments)
    arguments |= _text(request, parameters, arguments, notes)
    arguments |= _pictures(request, pipeline, notes)
    arguments |= _numbers(request, parameters, defaults)
    arguments |= _output_size(request, pipeline, arguments, notes)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    if "generator" in parameters:
        arguments["generator"] = _generator(seed, defaults.generator_device)
    return Call(arguments, seed, notes)


def _guidance(request: GenerationRequest, pipeline: Any, defaults: ModelDefaults, arguments: Mapping[str, Any]) -> dict[str, float]:
    """An explicit true_cfg_scale among the options or params stays as it is."""
    chosen = request.guidance
    if chosen is None:
        chosen = defaults.options.get("guidance_scale", defaults.guidance)
    if "guidance_scale" in request.params:
        chosen = request.params["guidance_scale"]
    found = guidance_arguments(pipeline, chosen, defaults.distilled)
    return {name: value for name, value in found.items() if name == "guidance_scale" or name not in arguments}


def _text(request: GenerationRequest, parameters: Parameters, arguments: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Prompt and negative prompt.

    An empty negative prompt is passed only where true CFG is on: there None would switch it off (Qwen-Image, Flux).
    """
    found: dict[str, Any] = {}
    if "prompt" in parameters:
        required = parameters["prompt"].default is inspect.Parameter.empty
        if request.prompt or required or not request.images:
            found["prompt"] = request.prompt
    elif request.prompt:
        notes.append("this pipeline takes no prompt: it is ignored")
    if "negative_prompt" in parameters:
        default = parameters["true_cfg_scale"].default if "true_cfg_scale" in parameters else None
        true_cfg = arguments.get("true_cfg_scale", default)
        if request.negative_prompt or (isinstance(true_cfg, (int, float)) and true_cfg > 1):
            found["negative_prompt"] = request.negative_prompt
    elif request.negative_prompt:
        notes.append("this pipeline takes no negative prompt: it is ignored")
    return found


def _numbers(request: GenerationRequest, parameters: Parameters, defaults: ModelDefaults) -> dict[str, Any]:
    clip_skip = (request.clip_skip or defaults.clip_skip) if defaults.use_clip_skip else 0
    wanted: dict[str, Any] = {
        "num_inference_steps": request.steps,
        "clip_skip": clip_skip or None,
        "decode_chunk_size": defaults.chunk_size,
        **dict.fromkeys(_COUNTS, 1),
    }
    return {name: value for name, value in wanted.items() if value is not None and name in parameters}


def _generator(seed: int, device: str) -> Any:
    """A CPU generator gives the same noise on every device; the incumbent's was the model's device."""
    import torch

    return torch.Generator(device).manual_seed(seed)


# --- pictures and sizes --------------------------------------------------------------------------------------------


def _pictures(request: GenerationRequest, pipeline: Any, notes: list[str]) -> dict[str, Any]:
    """Fill the picture parameters in the signature's order: the main image, the mask, then the others.

    A parameter that takes a list takes what is left. Raises InvalidRequest when there are more than it takes.
    """
    parameters = parameters_of(pipeline)
    names, masks = image_parameters(parameters), mask_parameters(parameters)
    images, mask = list(request.images), request.mask
    if mask is None and masks and len(images) > len(names[:1]):
        mask = images.pop(1).convert("L")
    found: dict[str, Any] = {}
    if mask is not None and masks:
        found[masks[0]] = mask
    for name in names:
        if not images:
            break
        last = name == names[-1]
        if last and len(images) > 1 and takes_list(parameters[name]):
            found[name], images = images, []
        else:
            found[name] = images.pop(0)
    if images:
        raise InvalidRequest(f"src and ref_images hold {len(request.images)} pictures: {type(pipeline).__name__} takes "
                             f"{_picture_text(names, masks)}")
    return _resized(found, request, pipeline, notes)


def _picture_text(names: list[str], masks: list[str]) -> str:
    every = names + masks
    return f"{len(every)} ({', '.join(every)})" if every else "none"


def _resized(found: dict[str, Any], request: GenerationRequest, pipeline: Any, notes: list[str]) -> dict[str, Any]:
    """The main image (and the mask with it) at the size that the output will have: its own, within the request's bound.

    The core's inpainting endpoint always asks for 512x512, so there the image's own size counts alone.
    """
    names = image_parameters(parameters_of(pipeline))
    main = found.get(names[0]) if names else None
    if main is None or isinstance(main, list) or enlarges(pipeline):
        return found
    bound = (None, None) if request.is_inpainting else (request.width, request.height)
    size = sizes.fit_within(main.size, bound, sizes.size_multiple(pipeline))
    if size != main.size:
        notes.append(f"the source picture of {main.width}x{main.height} is taken at {size[0]}x{size[1]}")
    return {name: value.resize(size) if hasattr(value, "resize") and value.size != size else value
            for name, value in found.items()}


def enlarges(pipeline: Any) -> bool:
    """Whether the pipeline makes a larger picture of its source: by its name's words, as upscalers are called."""
    return bool(re.search(r"Upscal|SuperResolution", type(pipeline).__name__))


def _output_size(request: GenerationRequest, pipeline: Any, arguments: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Width and height where the signature has them: the main image's, else the request's to the nearest multiple."""
    parameters = parameters_of(pipeline)
    if "width" not in parameters or "height" not in parameters:
        return {}
    names = image_parameters(parameters)
    main = arguments.get(names[0]) if names else None
    if main is not None and hasattr(main, "size"):
        return {"width": main.size[0], "height": main.size[1]}
    asked = (request.width or arguments.get("width"), request.height or arguments.get("height"))
    if not all(isinstance(side, int) for side in asked):
        return {name: side for name, side in zip(("width", "height"), asked, strict=True) if side}
    size = sizes.round_size(*asked, sizes.size_multiple(pipeline))
    if size != asked:
        notes.append(f"{asked[0]}x{asked[1]} is rounded to {size[0]}x{size[1]}")
    return {"width": size[0], "height": size[1]}
