"""Which pipeline on the loaded weights fits what a request brings: the loaded one, or a sibling of its family."""
from __future__ import annotations

import inspect
from typing import Any

import diffusers_dynamic_loader as loader

from .errors import InvalidRequest
from .requests import GenerationRequest
from .signatures import EMPTY, image_parameters, mask_parameters, parameters_of, video_parameters
from .sizes import config_value

# What :func:`wanted_task` may answer.
SIBLING_TASKS = ("inpainting", *(f"{source}-to-{made}" for made in ("image", "video") for source in ("text", "image", "video")))


def wanted_task(request: GenerationRequest, pipeline_class: type) -> str | None:
    """The task that the request needs and the class does not do, None when the class is right as it is.

    Raises InvalidRequest when a mask is missing, which no sibling can make up.
    """
    parameters = parameters_of(pipeline_class)
    masks, images, videos = mask_parameters(parameters), image_parameters(parameters), video_parameters(parameters)
    brings = "video" if request.video else "image" if request.images else "text"
    output = "video" if makes_video(pipeline_class) else "image"
    if request.is_inpainting and not masks:
        return "inpainting"
    if (request.video and not videos) or (request.images and not images and not masks) or _lacks(pipeline_class, request):
        return f"{brings}-to-{output}"
    if len(request.images) == 1 and request.mask is None and needs_mask(pipeline_class):
        raise InvalidRequest(f"{pipeline_class.__name__} takes a picture and a mask ({', '.join(images[:1] + masks[:1])}), and one "
                             "picture came: send both as ref_images, or the inpainting request")
    return None


def _lacks(pipeline_class: type, request: GenerationRequest) -> bool:
    """Whether the class cannot start without a picture or video that the request does not bring.

    The signature says so, or none of its tasks starts from text (or nothing) alone.
    """
    parameters, done = parameters_of(pipeline_class), tasks_of(pipeline_class)
    given = {"image": bool(request.images), "video": bool(request.video)}
    names = {"image": image_parameters(parameters), "video": video_parameters(parameters)}
    filled = set(request.params)
    for kind, parameter_names in names.items():
        required = {name for name in parameter_names if parameters[name].default is EMPTY}
        if required - filled and not given[kind]:
            return True
    if any(given.values()) or filled & {*names["image"], *names["video"]} or not done:
        return False
    starts_without = any(task.startswith(("text-to-", "unconditional")) for task in done) and "controlnet" not in done
    return bool(names["image"] or names["video"]) and not starts_without


def tasks_of(pipeline_class: type) -> tuple[str, ...]:
    """Canonical tasks of the class; () for one that diffusers' catalogue does not hold (remote code)."""
    try:
        return loader.pipeline_tasks(pipeline_class.__name__)
    except ValueError:
        return ()


def makes_video(pipeline_class: type) -> bool:
    return any(task.endswith("-to-video") for task in tasks_of(pipeline_class))


def upscales(pipeline_class: type) -> bool:
    """Whether the pipeline makes a larger picture of its source."""
    return "upscaling" in tasks_of(pipeline_class)


def needs_mask(pipeline_class: type) -> bool:
    masks, done = mask_parameters(parameters_of(pipeline_class)), tasks_of(pipeline_class)
    return bool(masks) and "inpainting" in done and "image-to-image" not in done


# What tells the parts of a family from the pipeline that combines them.
_PART_WORDS = ("Prior", "Decoder", "Emb2Emb", "Controlnet", "Img2Img", "Inpaint", "Redux")


def combined_hint(class_name: str) -> str:
    """": load X" for the class that combines the parts of the same family, "" where there is none."""
    stem = class_name.removesuffix("Pipeline")
    for word in _PART_WORDS:
        stem = stem.replace(word, "")
    names = [name for name in loader.get_available_pipelines() if name.startswith(stem) and "Combined" in name]
    same = [name for name in names if all((word in name) == (word in class_name) for word in ("Img2Img", "Inpaint"))]
    return f": load {min(same or names, key=len)}" if names else ""


def sibling_for(request: GenerationRequest, pipeline_class: type) -> type:
    """The class to run: ``pipeline_class`` or its sibling for the task that the request needs.

    Raises InvalidRequest naming what the loaded class takes when it has no such sibling.
    """
    task = wanted_task(request, pipeline_class)
    if task is None:
        return pipeline_class
    try:
        found = loader.find_sibling(pipeline_class, task)
    except ValueError:
        found = pipeline_class
    if found is pipeline_class:
        raise InvalidRequest(_mismatch(request, pipeline_class, task))
    return found


def _mismatch(request: GenerationRequest, pipeline_class: type, task: str) -> str:
    parameters = parameters_of(pipeline_class)
    names = image_parameters(parameters) + mask_parameters(parameters) + video_parameters(parameters)
    brought = [f"{len(request.images)} picture(s)"] if request.images else []
    brought += ["a mask"] if request.is_inpainting else []
    brought += ["a video"] if request.video else []
    return (f"the request brings {' and '.join(brought) or 'no picture'} (src, ref_images, start_image), {pipeline_class.__name__} "
            f"takes {', '.join(names) or 'none'}, and its family has no other pipeline for {task}")


def share_components(pipeline: Any, cls: type) -> Any:
    """A ``cls`` pipeline on the components of ``pipeline``, no weight copied.

    Not ``from_pipe``: it casts every shared component to one dtype, which would round a VAE that is kept in fp32.
    Raises InvalidRequest naming the components that are missing.
    """
    expected, optional = cls._get_signature_keys(cls)
    components = {name: part for name, part in pipeline.components.items() if name in expected}
    config = {name: pipeline.config[name] for name in optional if name in pipeline.config}
    parameters = inspect.signature(cls.__init__).parameters
    absent = {name for name in expected if components.get(name) is None}
    may_lack = {*cls._optional_components, *(name for name in absent if parameters[name].default is not inspect.Parameter.empty)}
    if absent - may_lack:
        raise InvalidRequest(f"{type(pipeline).__name__} cannot do this: {cls.__name__} also needs {', '.join(sorted(absent - may_lack))}")
    _check_channels(pipeline, cls)
    for name in absent:
        if parameters[name].default is inspect.Parameter.empty:
            components[name] = None
    return cls(**components, **config)


def _check_channels(pipeline: Any, cls: type) -> None:
    """Raise InvalidRequest for a sibling that fills only some of the UNet's channels: an inpainting or upscaling model
    (mask or picture beside the latents) makes nothing of text alone."""
    takes, gives = (config_value(getattr(pipeline, name, None), key) for name, key in (("unet", "in_channels"), ("vae", "latent_channels")))
    if takes and gives and takes != gives and not mask_parameters(parameters_of(cls)):
        names = ", ".join(image_parameters(parameters_of(pipeline)) + mask_parameters(parameters_of(pipeline)))
        raise InvalidRequest(f"{type(pipeline).__name__} takes {names or 'no picture'}: its unet has {takes} channels, of which "
                             f"{cls.__name__} would fill {gives}")
