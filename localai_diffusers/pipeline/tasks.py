# SPDX-License-Identifier: MIT
"""Which pipeline on the loaded weights fits what a request brings: the loaded one, or a sibling of its family."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.errors import InvalidRequest, NotSupported
from localai_diffusers.pipeline import method_calls
from localai_diffusers.pipeline.controls import controls_of
from localai_diffusers.pipeline.inputs import inputs_of
from localai_diffusers.pipeline.kept import kept
from localai_diffusers.pipeline.signatures import (
    EMPTY,
    VIDEO,
    has_call,
    inversion_parameters,
    is_optional,
    parameters_of,
    takes_a_picture,
)
from localai_diffusers.pipeline.sizes import config_value
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest

# What :func:`wanted_task` may answer.
SIBLING_TASKS = (
    "inpainting",
    *(f"{source}-to-{made}" for made in ("image", "video", "3d") for source in ("text", "image", "video")),
)


def wanted_task(request: GenerationRequest, pipeline_class: type) -> str | None:
    """The task that the request needs and the class does not do, None when the class is right as it is.

    Raises InvalidRequest when a mask is missing, which no sibling can make up.
    """
    takes = inputs_of(pipeline_class)
    brings = "video" if request.video else "image" if request.images else "text"
    output = next((kind for kind in ("video", "3d") if makes(pipeline_class, kind)), "image")
    if request.is_inpainting and not takes.masks:
        return "inpainting"
    if (
        (request.video and not (takes.videos or takes.conditions))
        or (request.images and not (takes.images or takes.masks or takes_pictures_as_it_is(pipeline_class)))
        or _lacks(pipeline_class, request)
    ):
        return f"{brings}-to-{output}"
    if len(request.images) == 1 and request.mask is None and needs_mask(pipeline_class):
        raise InvalidRequest(
            f"{pipeline_class.__name__} takes a picture and a mask "
            f"({', '.join(takes.images[:1] + takes.masks[:1])}), and one picture came: send both as ref_images, or the "
            "inpainting request"
        )
    return None


@kept(512)
def takes_pictures_as_it_is(pipeline_class: type) -> bool:
    """Whether a class without a parameter for pictures takes them otherwise: inside condition objects, by its
    inversion, or as frames of its video."""
    parameters, takes = parameters_of(pipeline_class), inputs_of(pipeline_class)
    as_frames = (
        any(takes_a_picture(parameters[name]) for name in takes.videos)
        or bool(takes.video_masks)
        or (bool(takes.videos) and bool({"image-to-video", "controlnet"} & set(tasks_of(pipeline_class))))
    )
    return as_frames or inverts(pipeline_class) or bool(takes.conditions)


def inverts(pipeline_class: type) -> bool:
    """Whether the pipeline edits a picture that its ``invert`` must be given first, before the call,
    which takes none."""
    return "image" in inversion_parameters(pipeline_class) and not inputs_of(pipeline_class).images


def _lacks(pipeline_class: type, request: GenerationRequest) -> bool:
    """Whether the class cannot start without a picture or video that the request does not bring.

    The signature says so, or none of its tasks starts from text (or nothing) alone.
    """
    parameters, done = parameters_of(pipeline_class), tasks_of(pipeline_class)
    given = {"image": bool(request.images), "video": bool(request.video)}
    names = {"image": inputs_of(pipeline_class).images, "video": inputs_of(pipeline_class).videos}
    filled = set(request.params)
    for kind, parameter_names in names.items():
        required = {name for name in parameter_names if parameters[name].default is EMPTY}
        does_as_well = given["image"] and all(takes_a_picture(parameters[name]) for name in required)
        if required - filled and not (given[kind] or does_as_well):
            return True
    if any(given.values()) or filled & {*names["image"], *names["video"]} or not done:
        return False
    if inverts(pipeline_class):
        return True
    starts_without = any(task.startswith(("text-to-", "unconditional")) for task in done) and "controlnet" not in done
    return bool(names["image"] or names["video"]) and not starts_without


@kept(512)
def tasks_of(pipeline_class: type) -> tuple[str, ...]:
    """Canonical tasks of the class; () for one that diffusers' catalogue does not hold (remote code)."""
    try:
        return loader.pipeline_tasks(pipeline_class.__name__)
    except ValueError:
        return ()


@kept(512)
def makes(pipeline_class: type, kind: str) -> bool:
    """Whether "image", "video", "audio" or "3d" comes out of the class, by its tasks or by its output's fields."""
    done = tasks_of(pipeline_class)
    return any(task.endswith((f"-to-{kind}", f"-{kind}-generation")) for task in done) or (
        bool(done) and loader.pipeline_traits(pipeline_class.__name__).kind == kind
    )


def makes_video(pipeline_class: type) -> bool:
    return any(task.endswith("-to-video") for task in tasks_of(pipeline_class))


# What each RPC's file holds; GenerateImage writes whatever comes out, as documented model files call it.
_MADE: Mapping[str, str] = {"GenerateVideo": "video", "SoundGeneration": "audio", "Generate3D": "3d"}


def check_output(rpc: str, pipeline_class: type) -> None:
    """Raise NotSupported where the class makes something else than the RPC is for, before any work."""
    wanted = _MADE.get(rpc)
    kind = _output_kind(pipeline_class)
    if wanted and (tasks_of(pipeline_class) or kind in _NO_FILE) and not makes(pipeline_class, wanted):
        raise NotSupported(
            f"{rpc} is for models that make {wanted}: {pipeline_class.__name__} makes {kind or 'something else'}"
        )


_NO_FILE = ("embeddings", "text")  # what stages make that have no task of their own


def _output_kind(pipeline_class: type) -> str | None:
    """What comes out of a class of the catalogue, None for one that it does not hold (remote code)."""
    try:
        return loader.pipeline_traits(pipeline_class.__name__).kind
    except ValueError:
        return None


def upscales(pipeline_class: type) -> bool:
    """Whether the pipeline makes a larger picture of its source."""
    return "upscaling" in tasks_of(pipeline_class)


def needs_mask(pipeline_class: type) -> bool:
    masks, done = inputs_of(pipeline_class).masks, tasks_of(pipeline_class)
    return bool(masks) and "inpainting" in done and "image-to-image" not in done


# What tells the parts of a family from the pipeline that combines them.
_PART_WORDS = ("Prior", "Decoder", "Emb2Emb", "Controlnet", "Img2Img", "Inpaint", "Redux")


@kept(512)
def combined_hint(class_name: str) -> str:
    """ ": load X" for the class that combines the parts of the same family, "" where there is none."""
    stem = class_name.removesuffix("Pipeline")
    for word in _PART_WORDS:
        stem = stem.replace(word, "")
    names = [name for name in loader.get_available_pipelines() if name.startswith(stem) and "Combined" in name]
    same = [name for name in names if all((word in name) == (word in class_name) for word in ("Img2Img", "Inpaint"))]
    if (
        not names
        and f"{stem}Pipeline" in loader.get_available_pipelines()
        and stem != class_name.removesuffix("Pipeline")
    ):
        names = [f"{stem}Pipeline"]  # no class combines them: the one that takes what this one makes
    return f": load {min(same or names, key=len)}" if names else ""


def task_beside_control(request: GenerationRequest, pipeline: Any, said: Mapping[str, Any]) -> str | None:
    """What the pictures ask for that are more than the ControlNets of a pipeline that takes no others: one is a source,
    two are a source and its mask. None where there are no more."""
    takes = inputs_of(type(pipeline))
    if "controlnet" not in tasks_of(type(pipeline)) or len(takes.images) != 1 or takes.masks:
        return None
    return {1: "image-to-image", 2: "inpainting"}.get(len(request.images) - controls_of(pipeline, said))


def with_clip(request: GenerationRequest, pipeline_class: type, intake: Intake) -> GenerationRequest:
    """``request`` with a moving picture as the clip that it is, where the class, or for a class of text alone its
    family, takes one; for any other its first frame is the picture. Raises what reading the clip raises."""
    if not request.animation:
        return request
    moving = replace(request, images=request.images[1:], video=list(request.images[:1]), animation=b"")
    if not _takes_clip(moving, pipeline_class):
        return request
    clip = intake.clip("start_image" if request.rpc == "GenerateVideo" else "src", request.animation)
    return replace(moving, video=clip.frames, video_rate=clip.rate)


def _takes_clip(moving: GenerationRequest, pipeline_class: type) -> bool:
    takes = inputs_of(pipeline_class)
    if takes.videos or takes.conditions:
        return True
    if takes.images or not makes_video(pipeline_class):
        return False
    try:
        sibling_for(moving, pipeline_class)
    except (InvalidRequest, NotSupported):
        return False
    return True


def class_for(request: GenerationRequest, pipeline: Any, options: Mapping[str, Any] | None = None) -> type:
    """The class to run on the weights of ``pipeline``: its own or a sibling. Raises as :func:`sibling_for` does.

    ``options``: the model's, for every call.
    """
    cls = sibling_for(request, type(pipeline))
    said = {**(options or {}), **request.params}
    task = task_beside_control(request, pipeline, said) if cls is type(pipeline) else None
    if task is not None:
        with contextlib.suppress(ValueError):
            return loader.find_sibling(cls, task)
    return cls


def sibling_for(request: GenerationRequest, pipeline_class: type) -> type:
    """The class to run: ``pipeline_class`` or its sibling for the task that the request needs.

    Raises InvalidRequest naming what the loaded class takes when it has no such sibling.
    """
    check_output(request.rpc, pipeline_class)
    if not has_call(pipeline_class):
        return method_calls.called_for(request, pipeline_class)
    if not request.images and (sounding := _sound_sibling(request, pipeline_class)) is not None:
        return sounding
    if (named := _sibling_by_params(request, pipeline_class)) is not None:
        return named
    task = wanted_task(request, pipeline_class)
    found = pipeline_class if task is None else _sibling(pipeline_class, task)
    if request.last_image is not None and (found is None or not takes_last_image(found)):
        ending = [other for other in relatives(pipeline_class, "image-to-video") if takes_last_image(other)]
        found = ending[0] if ending else found
    if found is None or (found is pipeline_class and task is not None):
        if task == "text-to-video" and _starts_from_text_too(pipeline_class):
            return pipeline_class
        raise NotSupported(_mismatch(request, pipeline_class, task or ""))
    return found


def _sibling_by_params(request: GenerationRequest, pipeline_class: type) -> type | None:
    """The sibling that takes the video or picture which only ``params`` name (a text-to-video model given ``video``);
    None where the class takes it itself, or no sibling does."""
    parameters = parameters_of(pipeline_class)
    name = next((name for name in (VIDEO, "image") if name in request.params and name not in parameters), None)
    if name is None or request.images or request.video:
        return None
    found = _sibling(pipeline_class, f"{name}-to-{'video' if makes(pipeline_class, 'video') else 'image'}")
    return found if found is not None and name in parameters_of(found) else None


def _starts_from_text_too(pipeline_class: type) -> bool:
    """Whether a class for pictures says that it does without: it has a prompt, and None among the types of its pictures
    (Kandinsky 6, which names no task for text alone)."""
    parameters = parameters_of(pipeline_class)
    media = [*inputs_of(pipeline_class).images, *inputs_of(pipeline_class).videos]
    return (
        "prompt" in parameters
        and not needs_mask(pipeline_class)
        and all(is_optional(parameters[name]) and parameters[name].default is None for name in media)
    )


def _sound_sibling(request: GenerationRequest, pipeline_class: type) -> type | None:
    """The sibling that works on the request's sound where the class takes none, or that does without one; None where
    the class is right, or alone."""
    done, takes = tasks_of(pipeline_class), inputs_of(pipeline_class).sounds
    wanted = ""
    if request.audio is not None and not takes and "text-to-audio" in done:
        wanted = "audio-to-audio"
    elif request.audio is None and done == ("audio-to-audio",) and not set(takes) & set(request.params):
        wanted = "text-to-audio"
    with contextlib.suppress(ValueError):
        return loader.find_sibling(pipeline_class, wanted) if wanted else None
    return None


def _sibling(pipeline_class: type, task: str) -> type | None:
    try:
        return loader.find_sibling(pipeline_class, task)
    except ValueError:
        return next(iter(relatives(pipeline_class, task)), None) if task.endswith("-to-video") else None


def takes_last_image(pipeline_class: type) -> bool:
    """Whether the class takes a picture for the end of the video, by whatever argument."""
    takes = inputs_of(pipeline_class)
    placed = any(kind.place for kind in takes.conditions.values())
    return takes.takes_last_image or placed or bool(takes.video_masks)


@kept(512)
def relatives(pipeline_class: type, task: str) -> tuple[type, ...]:
    """Classes of the same package that do ``task`` with the components that ``pipeline_class`` has, of the same types,
    and that ask for nothing but text and media. What most others are modeled on comes first (the class for conditions
    is none of LTX-Video's name family, and runs on its weights); () for code of a model's own.
    """
    if not tasks_of(pipeline_class):
        return ()
    found = [cls for cls in _in_package(pipeline_class) if task in tasks_of(cls) and _shares(pipeline_class, cls)]
    copies = Counter(
        name for other in loader.get_available_pipelines() for name in loader.pipeline_traits(other).copied_from
    )
    return tuple(sorted(found, key=lambda cls: (-copies[cls.__name__], len(cls.__name__), cls.__name__)))


def _in_package(pipeline_class: type) -> Iterator[type]:
    """Pipeline classes that the modules beside the class's own define."""
    package = importlib.import_module(pipeline_class.__module__.rpartition(".")[0])
    for found in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not found.name.startswith("pipeline"):
            continue
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        yield from (
            cls
            for cls in vars(module).values()
            if isinstance(cls, type)
            and cls.__module__ == module.__name__
            and hasattr(cls, "_get_signature_types")
            and "__call__" in vars(cls)
        )


def _shares(own: type[Any], other: type[Any]) -> bool:
    """Whether ``other`` can be built of the components of ``own`` and called with what a request carries."""
    ours, theirs = own._get_signature_types(), other._get_signature_types()
    asks = [
        name
        for name, known in parameters_of(other).items()
        if known.default is EMPTY and name != "prompt" and not inputs_of(other).take_media(name)
    ]
    needed = {name for name in theirs if name not in other._optional_components}
    return (
        other is not own
        and not asks
        and needed <= ours.keys()
        and all(set(ours[name]) & set(theirs[name]) for name in theirs if name in ours and "scheduler" not in name)
    )


def described_inputs(pipeline_class: type) -> str:
    """ "takes image, mask_image": the media of the class's signature, "takes text alone" where there is none."""
    takes = inputs_of(pipeline_class)
    names = [name for name in parameters_of(pipeline_class) if takes.take_media(name)] + list(takes.conditions)
    names = ["a picture to edit", *names] if inverts(pipeline_class) else names
    return f"takes {', '.join(names) or 'text alone'}"


def unfilled_pictures(pipeline_class: type, arguments: Mapping[str, Any], optional_too: bool = False) -> str:
    """ "X takes image, mask_image, and the request brings ..." where a picture, mask or video that the signature does
    not call optional ("| None") is not among the arguments; "" where all are, or where a condition stands in for them.

    ``optional_too``: those called optional as well, for a call that failed on a None (QwenImageEdit's picture).
    """
    parameters, takes = parameters_of(pipeline_class), inputs_of(pipeline_class)
    media = [*takes.images, *takes.masks, *takes.videos]
    needed = [
        name for name in media if (optional_too or not is_optional(parameters[name])) and arguments.get(name) is None
    ]
    if not needed or any(name in arguments for name in takes.conditions):
        return ""
    brought = [name for name in media if arguments.get(name) is not None]
    return (
        f"{pipeline_class.__name__} takes {', '.join(media)}, and the request brings "
        f"{'only what fills ' + ', '.join(brought) if brought else 'no picture'} (src, ref_images, start_image)"
    )


def _mismatch(request: GenerationRequest, pipeline_class: type, task: str) -> str:
    name = pipeline_class.__name__
    kind = loader.pipeline_traits(name).kind if name in loader.get_available_pipelines() else ""
    if kind in ("embeddings", "text"):  # whatever the request brings
        return f"{name} makes {kind}, not a file{combined_hint(name)}"
    brought = [f"{len(request.images)} picture(s)"] if request.images else []
    brought += ["a mask"] if request.is_inpainting else []
    brought += ["a video"] if request.video else []
    brought += ["an end_image"] if request.last_image is not None else []
    parameters = parameters_of(pipeline_class)
    missing = [
        name
        for name in inputs_of(pipeline_class).videos
        if parameters[name].default is EMPTY and name not in request.params
    ]
    if request.images and missing:
        return f"{pipeline_class.__name__} also needs {', '.join(missing)}: name the file of each in params"
    return (
        f"the request brings {' and '.join(brought) or 'no picture'} (src, ref_images, start_image), "
        f"{pipeline_class.__name__} {described_inputs(pipeline_class)}, and its family has no other pipeline for {task}"
    )


def share_components(pipeline: Any, cls: type[Any]) -> Any:
    """A ``cls`` pipeline on the components of ``pipeline``, no weight copied.

    Not ``from_pipe``: it casts every shared component to one dtype, which would round a VAE that is kept in fp32.
    Raises NotSupported naming the components that are missing, InvalidRequest where those at hand do not fit.
    """
    expected, optional = cls._get_signature_keys(cls)
    components = {name: part for name, part in pipeline.components.items() if name in expected}
    config = {name: pipeline.config[name] for name in optional if name in pipeline.config}
    parameters = inspect.signature(cls.__init__).parameters
    absent = {name for name in expected if components.get(name) is None}
    may_lack = {
        *cls._optional_components,
        *(name for name in absent if parameters[name].default is not inspect.Parameter.empty),
        *_does_without(pipeline),
    }
    if absent - may_lack:
        raise NotSupported(
            f"{type(pipeline).__name__} cannot do this: {cls.__name__} also needs "
            f"{', '.join(sorted(absent - may_lack))}"
        )
    _check_channels(pipeline, cls)
    for name in absent:
        if parameters[name].default is inspect.Parameter.empty:
            components[name] = None
    try:
        with _configs_kept(components.values()):
            return cls(**components | _own_schedulers(components), **config)
    except ValueError as error:  # a constructor that looks at its components (Z-Image's ControlNets)
        raise InvalidRequest(
            f"these weights run as {type(pipeline).__name__} and not as {cls.__name__}, which the request needs: "
            f"{error}"
        ) from error


@contextlib.contextmanager
def _configs_kept(components: Iterable[Any]) -> Iterator[None]:
    """While a sibling is made: constructors correct the configs of what they are given (``sample_size``), which stay
    those of the loaded pipeline."""
    kept = [(part, part._internal_dict) for part in components if hasattr(part, "_internal_dict")]
    try:
        yield
    finally:
        for part, config in kept:
            part._internal_dict = config


def _own_schedulers(components: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of each scheduler for a sibling: it counts its own steps, and its constructor corrects its config."""
    from diffusers import SchedulerMixin

    return {name: copy.deepcopy(part) for name, part in components.items() if isinstance(part, SchedulerMixin)}


def _does_without(pipeline: Any) -> set[str]:
    """Components that the loaded class requires and has as None: the model was published without them (SD3's T5)."""
    cls = type(pipeline)
    parameters = inspect.signature(cls.__init__).parameters
    return {
        name
        for name, part in pipeline.components.items()
        if part is None and name not in cls._optional_components and parameters[name].default is inspect.Parameter.empty
    }


def _check_channels(pipeline: Any, cls: type) -> None:
    """Raise InvalidRequest for a sibling that fills only some of the UNet's channels: an inpainting or upscaling model
    (mask or picture beside the latents) makes nothing of text alone."""
    decoder = getattr(pipeline, "vae", None) or getattr(pipeline, "movq", None)
    takes = config_value(getattr(pipeline, "unet", None), "in_channels")
    gives = config_value(decoder, "latent_channels")
    if takes and gives and takes != gives and not inputs_of(cls).masks:
        own = inputs_of(type(pipeline))
        names = ", ".join(own.images + own.masks)
        raise InvalidRequest(
            f"{type(pipeline).__name__} takes {names or 'no picture'}: its unet has {takes} channels, of which "
            f"{cls.__name__} would fill {gives}"
        )
