# SPDX-License-Identifier: MIT
"""Which tasks a class does: by its name, its signature and diffusers' own AutoPipeline tables."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping

from localai_diffusers.discovery.names import known_name
from localai_diffusers.discovery.source import AUTO_PREFIX, ROOT_CLASS, auto_mappings, once_a_process
from localai_diffusers.discovery.spelling import squeeze
from localai_diffusers.discovery.traits import Traits, traits_of
from localai_diffusers.discovery.words import FAMILY_KEEPS, TASKS


def _word_pattern(tasks: Iterable[str]) -> re.Pattern[str]:
    words = sorted((word for task in tasks for word in TASKS[task].words), key=len, reverse=True)
    return re.compile("|".join(f"{word}(?![a-z])" for word in words))


FAMILY_STRIPS = _word_pattern(task for task in TASKS if task not in FAMILY_KEEPS)


def tasks_by_name(class_name: str) -> list[str]:
    return [task for task in TASKS if TASKS[task].words and _word_pattern([task]).search(class_name)]


def family_of(class_name: str) -> str:
    """The class name without `Pipeline` and without the words of a task; what starts the name stays."""
    stem = class_name.replace("Pipeline", "", 1)
    return stem[:1] + FAMILY_STRIPS.sub("", stem[1:]) if stem else class_name


@functools.cache
def base_family_of(class_name: str) -> str:
    """The family with its ControlNet form counted in."""
    return _word_pattern(["controlnet"]).sub("", family_of(class_name))


def tasks_by_signature(name: str) -> list[str]:
    """Tasks that the parameters of `__call__` and what comes out speak for."""
    traits = traits_of(name)
    if any(needed and re.search(r"_embed(s|dings)$", part) for part, needed in traits.call.items()):
        return []  # a decoder: it can't start from what a request brings
    rule = _SIGNATURE_RULES.get(traits.kind)
    return rule(name, traits) if rule else []


def _image_tasks(name: str, traits: Traits) -> list[str]:
    # Where a control image has no name of its own, `image` is that control image.
    apart = not traits.call.keys().isdisjoint({"control_image", "strength", "hint"})
    image = traits.takes("image") and (apart or not re.search("Control[Nn]et|Adapter", name))
    if traits.takes("mask"):
        # An editor for which a mask is one more wish; where it is a must, the noise or the latents under it are, too.
        free = traits.spares("mask") and traits.spares("image") and traits.takes("prompt")
        spared = free and traits.call.keys().isdisjoint({"strength", "masked_image_latents"})
        return ["text-to-image", "image-to-image", "inpainting"] if spared else ["inpainting"]
    if image and (traits.needs("image") or not traits.takes("prompt") or "strength" in traits.call):
        return ["image-to-image"]
    if traits.takes("prompt"):
        return ["text-to-image", "image-to-image"] if image else ["text-to-image"]
    if "editing_prompt" in traits.call:
        return ["image-to-image"]
    return [] if any(traits.call.values()) else ["unconditional-image-generation"]


def _video_tasks(name: str, traits: Traits) -> list[str]:
    if traits.needs("video") and not traits.needs("image"):
        return ["video-to-video"]
    if traits.needs("image"):
        return ["image-to-video"]
    tasks = ["text-to-video"] * traits.takes("prompt")
    tasks += ["image-to-video"] * traits.takes("image")
    return tasks + ["video-to-video"] * traits.takes("video")


def _audio_tasks(name: str, traits: Traits) -> list[str]:
    if traits.needs("audio") or (traits.takes("audio") and "strength" in traits.call):
        return ["audio-to-audio"]
    if traits.takes("prompt"):
        return ["text-to-audio"]
    return [] if any(traits.call.values()) else ["unconditional-audio-generation"]


_SIGNATURE_RULES: Mapping[str, Callable[[str, Traits], list[str]]] = {
    "image": _image_tasks,
    "video": _video_tasks,
    "audio": _audio_tasks,
    "3d": lambda name, traits: ["image-to-3d" if traits.needs("image") else "text-to-3d"],
    "prediction": lambda name, traits: [camel_to_kebab(family_of(name)).rpartition("-")[2] + "-estimation"],
    "text": lambda name, traits: ["text-generation"] + ["image-text-to-text"] * traits.takes("image"),
}


# Where a class name has the word of a task that is not of its output, the word means something else
# (an inpainting of audio). Tasks that fit more than one kind have no row.
_TASK_KIND = {
    "inpainting": "image",
    "image-to-image": "image",
    "text-to-image": "image",
    "text-to-video": "video",
    "image-to-video": "video",
    "video-to-video": "video",
    "audio-to-audio": "audio",
}


@functools.cache
def pipeline_tasks(class_name: str) -> tuple[str, ...]:
    """Canonical task names (keys of `TASKS`) that a pipeline class does, the main one first.

    From the class name, the static signature and diffusers' AutoPipeline mappings; nothing is imported.
    Empty for decoders and priors, and for what is none of the tasks. DiffusionPipeline is `any-to-any`: the
    model decides. Raises UnknownPipelineError.
    """
    name = known_name(class_name)
    if name == ROOT_CLASS:
        return ("any-to-any",)
    if name.startswith(AUTO_PREFIX):
        task = task_index().get(squeeze(name.removeprefix(AUTO_PREFIX)))
        return (task,) if task else ()
    kind = traits_of(name).kind
    named = [task for task in tasks_by_name(name) if _TASK_KIND.get(task, kind) == kind]
    if "upscaling" in named:
        return ("upscaling",)
    shown = [task for task in tasks_by_signature(name) if task in TASKS]
    if set(named) - {"controlnet"}:  # the name says what it starts from: text alone won't do
        shown = [task for task in shown if task not in ("text-to-image", "text-to-video", "text-to-audio")]
    mapped = [task for task in TASKS if name in mapping_of(task).values()]
    return tuple(sorted(dict.fromkeys(named + mapped + shown), key=lambda task: task == "controlnet"))


@functools.cache
def mapping_of(task: str) -> Mapping[str, str]:
    """diffusers' AutoPipeline table for a task: family key -> class name; empty where there is none."""
    for table, rows in auto_mappings().items():
        words = squeeze(table.removeprefix("AUTO_").removesuffix("_PIPELINES_MAPPING"))
        if task_index().get(words) == task:
            return rows
    return {}


@once_a_process
def task_index() -> Mapping[str, str]:
    return {squeeze(name): task for task, row in TASKS.items() for name in (task, *row.aliases, *row.words)}


def camel_to_kebab(name: str) -> str:
    """`StableDiffusionXLPipeline` -> `stable-diffusion-xl-pipeline`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
