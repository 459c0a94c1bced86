# SPDX-License-Identifier: MIT
"""``pipelines`` and ``tasks``: every pipeline class of the installed diffusers with its tasks, inputs and output, and
the RPC that serves it, or why none does; and what ``pipeline_type`` may name."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.cli.terminal import WRONG, Fault, columns, say
from localai_diffusers.discovery.spelling import did_you_mean
from localai_diffusers.pipeline.argument_values import accepted_types
from localai_diffusers.pipeline.signatures import (
    EMPTY,
    TENSOR_WORDS,
    Parameters,
    has_call,
    image_parameters,
    parameters_of,
    takes_media,
)
from localai_diffusers.pipeline.tasks import combined_hint

# What comes out -> the RPCs that write it.
_RPCS: Mapping[str, tuple[str, ...]] = {
    "image": ("GenerateImage",),
    "video": ("GenerateVideo", "GenerateImage"),
    "audio": ("SoundGeneration", "GenerateImage"),
    "3d": ("Generate3D",),
    "prediction": ("Depth", "GenerateImage"),
}
_TEXT_INPUTS = ("prompt", "negative_prompt", "lyrics")
# What no signature says, and the server tells only when the class is loaded or called: why diffusers 0.42.1 cannot run
# it.
_CANNOT_RUN: Mapping[str, str] = {
    "BlipDiffusionPipeline": "its image encoder calls a function that transformers 5 no longer has",
    "BlipDiffusionControlNetPipeline": "its image encoder calls a function that transformers 5 no longer has",
    "EasyAnimateControlPipeline": "it calls its own encode_prompt with an argument that this does not take",
    "SpectrogramDiffusionPipeline": "its encoders call methods that transformers 5 no longer gives them",
    "LTX2DFRTemporalRefinePipeline": "needs latents, which only another pipeline makes",
    "StableDiffusionPix2PixZeroPipeline": "needs source_embeds and target_embeds, which no request carries",
}
# Packages that a class needs, and the backend does not install: large, for one class, or with a license of their own.
_PACKAGES: Mapping[str, str] = {
    "AudioDiffusionPipeline": "librosa",
    "OmniGenPipeline": "torchvision",
    "Cosmos2_5_TransferPipeline": "torchvision",
    "Cosmos2TextToImagePipeline": "cosmos_guardrail",
    "Cosmos2VideoToWorldPipeline": "cosmos_guardrail",
    "Cosmos2_5_PredictBasePipeline": "cosmos_guardrail",
    "CosmosTextToWorldPipeline": "cosmos_guardrail",
    "CosmosVideoToWorldPipeline": "cosmos_guardrail",
}


@dataclass(frozen=True)
class Row:
    """One class of the catalogue. ``rpcs`` is empty where it cannot be served, and ``reason`` says why."""

    name: str
    tasks: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    rpcs: tuple[str, ...]
    needs_options: tuple[str, ...] = ()
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def add(commands: Any) -> None:
    parser = commands.add_parser("pipelines", help="every pipeline class of diffusers: tasks, inputs, output, RPC")
    parser.add_argument("--task", default="", help="those that do this task, in any spelling: img2img")
    parser.add_argument("--search", default="", help="those with this in their name")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    tasks = commands.add_parser("tasks", help="the tasks that pipeline_type may name, and the class that each means")
    tasks.add_argument("--json", action="store_true")
    tasks.set_defaults(run=run_tasks)


def run(options: argparse.Namespace) -> int:
    from localai_diffusers import logs

    logs.configure("ERROR")
    found = [row(name) for name in _names(options.task, options.search)]
    say(json.dumps([row.as_dict() for row in found], indent=2) if options.json else table(found))
    return 0


def _names(task: str, search: str) -> list[str]:
    """The classes that do ``task`` and whose name holds ``search``. Raises Fault where there are none."""
    try:
        wanted = loader.canonical_task(task) if task else ""
    except ValueError as error:
        raise Fault(str(error), WRONG) from None
    every = [name for name in loader.get_available_pipelines() if _is_concrete(name)]
    found = [name for name in every if search.lower() in name.lower()]
    if not found:
        raise Fault(f"no class has {search!r} in its name. {did_you_mean(search, every)}".rstrip(), WRONG)
    return [name for name in found if not wanted or wanted in loader.pipeline_tasks(name)]


def run_tasks(options: argparse.Namespace) -> int:
    aliases = loader.get_task_aliases()
    known = {task: (row.aliases, aliases.get(task, [])) for task, row in loader.TASKS.items()}
    if options.json:
        facts = {task: {"aliases": list(also), "classes": classes} for task, (also, classes) in known.items()}
        say(json.dumps(facts, indent=2))
        return 0
    head = ("task", "classes", "first", "also called")
    say(
        columns(
            [
                head,
                *(
                    (task, str(len(classes)), classes[0] if classes else "-", ", ".join(also))
                    for task, (also, classes) in known.items()
                ),
            ]
        )
    )
    return 0


def rows() -> list[Row]:
    """A row for every DiffusionPipeline subclass, by name. Imports every pipeline module: some seconds."""
    return [row(name) for name in loader.get_available_pipelines() if _is_concrete(name)]


def _is_concrete(name: str) -> bool:
    return name != "DiffusionPipeline" and not name.startswith("AutoPipelineFor")


def row(name: str) -> Row:
    """The row of the class ``name``, whose module is imported.
    Raises KeyError for a name that diffusers does not have."""
    registry = loader.get_pipeline_registry()
    traits, done = loader.pipeline_traits(name), loader.pipeline_tasks(name)
    traits = replace(traits, kind=traits.kind or _kind_of_methods(name, registry))
    try:
        parameters = parameters_of(registry[name])
    except ImportError as error:
        return Row(name, done, tuple(traits.call), traits.kind, (), reason=str(error))
    inputs = tuple(key for key in parameters if key in _TEXT_INPUTS or takes_media(key, parameters))
    reason = _reason(name, traits, parameters)
    rpcs = (
        ()
        if reason
        else (
            ("UpscaleImage", "GenerateImage") if "upscaling" in done and traits.kind == "image" else _RPCS[traits.kind]
        )
    )
    return Row(name, done, inputs, traits.kind, rpcs, tuple(_needed_options(parameters)), reason)


def _kind_of_methods(name: str, registry: Mapping[str, type]) -> str:
    """What comes out of a class whose methods stand for its call: what its package's classes make; "" for any other."""
    package = _package_of(name, registry)
    if not package or has_call(registry[name]):
        return ""
    others = [other for other in loader.get_available_pipelines() if _is_concrete(other) and other != name]
    kinds = {loader.pipeline_traits(other).kind for other in others if _package_of(other, registry) == package}
    return kinds.pop() if len(kinds) == 1 else ""


def _package_of(name: str, registry: Mapping[str, type]) -> str:
    try:
        return registry[name].__module__.rpartition(".")[0]
    except ImportError:
        return ""


def _needed_options(parameters: Parameters) -> list[str]:
    """Required arguments that only the model's options can give: no text, no media."""
    return [
        name
        for name, parameter in parameters.items()
        if parameter.default is EMPTY and name not in _TEXT_INPUTS and not takes_media(name, parameters)
    ]


def _reason(name: str, traits: loader.Traits, parameters: Parameters) -> str:
    """Why no RPC serves the class, "" if one does."""
    if traits.onnx:
        return "runs on onnxruntime, which this backend does not install: load the PyTorch class of the same family"
    if traits.kind not in _RPCS:
        return f"makes {traits.kind or 'something else'}, not a picture, video, sound or mesh{combined_hint(name)}"
    tensors = [
        key for key in _needed_options(parameters) if key.endswith(TENSOR_WORDS) and not accepted_types(parameters[key])
    ]
    tensors += [key for key in image_parameters(parameters) if key == "hint"]
    if tensors:
        return f"needs {', '.join(tensors)}, which only another pipeline makes{combined_hint(name)}"
    package = _PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        return f"needs the Python package {package}: pip install {package}"
    return _CANNOT_RUN.get(name, "")


def table(found: list[Row]) -> str:
    """The rows as aligned text, and a count of what is served."""
    lines = [("class", "tasks", "inputs", "output", "RPC or reason")]
    for row in found:
        options = f" (options: {', '.join(row.needs_options)})" if row.needs_options and row.rpcs else ""
        lines.append(
            (
                row.name,
                ", ".join(row.tasks),
                ", ".join(row.inputs),
                row.output,
                " ".join(row.rpcs) + options if row.rpcs else f"- {row.reason}",
            )
        )
    served = sum(bool(row.rpcs) for row in found)
    return f"{columns(lines)}\n\n{len(found)} classes, {served} served"
