"""Which pipeline on the loaded weights fits what a request brings: the loaded one, or a sibling of its family."""
from __future__ import annotations

import inspect
from typing import Any

import diffusers_dynamic_loader as loader

from .call_arguments import image_parameters, mask_parameters, parameters_of
from .errors import InvalidRequest
from .requests import GenerationRequest


def wanted_task(request: GenerationRequest, pipeline_class: type) -> str | None:
    """The task that the request needs and the class does not do, None when the class is right as it is.

    Raises InvalidRequest when pictures are missing that no sibling could do without.
    """
    parameters = parameters_of(pipeline_class)
    masks, images = mask_parameters(parameters), image_parameters(parameters)
    output = "video" if makes_video(pipeline_class) else "image"
    if request.is_inpainting and not masks:
        return "inpainting"
    if request.images and not images:
        return f"image-to-{output}"
    if not request.images and needs_image(pipeline_class):
        return f"text-to-{output}"
    if len(request.images) == 1 and request.mask is None and needs_mask(pipeline_class):
        raise InvalidRequest(f"{pipeline_class.__name__} takes a picture and a mask ({', '.join(images[:1] + masks[:1])}), and one "
                             "picture came: send both as ref_images, or the inpainting request")
    return None


def tasks_of(pipeline_class: type) -> tuple[str, ...]:
    """Canonical tasks of the class; () for one that diffusers' catalogue does not hold (remote code)."""
    try:
        return loader.pipeline_tasks(pipeline_class.__name__)
    except ValueError:
        return ()


def makes_video(pipeline_class: type) -> bool:
    return any(task.endswith("-to-video") for task in tasks_of(pipeline_class))


def needs_image(pipeline_class: type) -> bool:
    """Whether a call without a picture cannot work: the signature says so, or none of its tasks starts from text alone."""
    parameters, tasks = parameters_of(pipeline_class), tasks_of(pipeline_class)
    names = image_parameters(parameters)
    if any(parameters[name].default is inspect.Parameter.empty for name in names):
        return True
    starts_without = any(task.startswith(("text-to-", "unconditional")) for task in tasks) and "controlnet" not in tasks
    return bool(names and tasks) and not starts_without


def needs_mask(pipeline_class: type) -> bool:
    masks = mask_parameters(parameters_of(pipeline_class))
    tasks = tasks_of(pipeline_class)
    return bool(masks) and "inpainting" in tasks and "image-to-image" not in tasks


def sibling_for(request: GenerationRequest, pipeline_class: type) -> type:
    """The class to run: ``pipeline_class`` or its sibling for the task that the request needs.

    Raises InvalidRequest naming what the loaded class takes when it has no such sibling.
    """
    task = wanted_task(request, pipeline_class)
    if task is None:
        return pipeline_class
    try:
        return loader.find_sibling(pipeline_class, task)
    except ValueError:
        raise InvalidRequest(_mismatch(request, pipeline_class, task)) from None


def _mismatch(request: GenerationRequest, pipeline_class: type, task: str) -> str:
    names = image_parameters(parameters_of(pipeline_class)) + mask_parameters(parameters_of(pipeline_class))
    takes = ", ".join(names) or "no picture"
    brought = f"{len(request.images)} picture(s)" if request.images else "no picture"
    return (f"src: the request brings {brought}{' and a mask' if request.is_inpainting else ''}, {pipeline_class.__name__} takes "
            f"{takes}, and its family has no pipeline for {task}")


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
    for name in absent:
        if parameters[name].default is inspect.Parameter.empty:
            components[name] = None
    return cls(**components, **config)
