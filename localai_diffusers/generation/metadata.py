# SPDX-License-Identifier: MIT
"""The ``parameters`` text of a file, in the form that A1111's web UI began and viewers read."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from localai_diffusers import privacy
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.wire.requests import GenerationRequest

_PACKAGES = ("diffusers", "torch", "transformers")
# What makes a value end early for who reads the line.
_SPECIAL = re.compile(r'[,:"\n]')
_FOLDERS = re.compile(r"(?<![\w/])/(?:[^\s/,;:'\"]+/)+")


def parameters_text(
    request: GenerationRequest,
    model: LoadedModel,
    profile: PipelineProfile,
    call: Call,
    size: tuple[int, int] | None,
    notes: Iterable[str] = (),
) -> str:
    """Steps, scheduler, guidance, seed, size, model and pipeline, the LoRAs, versions, and the ``notes`` of the load
    and the generation; with LOCALAI_DIFFUSERS_METADATA=full the prompts too, and what was loaded, as JSON.

    Outputs are served to others, so prompts are left out by default and files are named without their path.
    """
    said, is_full = [*model.notes, *notes], model.settings.metadata == "full"
    facts = {
        "Steps": _used("num_inference_steps", profile, call),
        "Sampler": profile.subject.components.get("scheduler"),
        "CFG scale": _used("guidance_scale", profile, call),
        "True CFG scale": call.arguments.get("true_cfg_scale"),
        "Seed": call.seed,
        "Size": f"{size[0]}x{size[1]}" if size else None,
        "Frames": call.arguments.get("num_frames"),
        "FPS": request.fps,
        "Pictures": _pictures(request) or None,
        **_of_the_load(model),
        "Pipeline": profile.name,
        "Device": f"{model.where.device} {model.where.dtype}",
        "Versions": _versions(),
        "Notes": "; ".join(said if is_full else _public(said)) or None,
        "Load": model.spec.asked if is_full else None,
    }
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in facts.items() if value is not None)
    if not is_full:
        return line
    words = {**model.defaults.options, **request.params}  # what an empty text leaves in place
    unwanted = request.negative_prompt or words.get("negative_prompt")
    negative = [f"Negative prompt: {unwanted}"] if unwanted else []
    return "\n".join([request.prompt or str(words.get("prompt") or ""), *negative, line])


def _of_the_load(model: LoadedModel) -> dict[str, str | None]:
    """The files that were loaded, by their own names."""
    loras = [f"{_base(name)} {scale:g}" for name, scale in model.spec.loras]
    return {
        "Model": _base(model.spec.identity),
        "LoRA": ", ".join(loras) or None,
        "ControlNet": ", ".join(map(_base, model.spec.controlnets)) or None,
    }


def _pictures(request: GenerationRequest) -> int:
    """How many pictures and clips it was made from."""
    return len(request.images) + sum(one is not None for one in (request.last_image, request.mask, request.video))


def _base(name: str) -> str:
    return os.path.basename(name.rstrip("/"))


def _public(notes: Sequence[str]) -> list[str]:
    """The notes without folders, and without those that repeat what a person wrote."""
    return [_FOLDERS.sub("", note) for note in notes if not privacy.quotes(note)]


def _quoted(value: Any) -> str:
    """The value, as JSON where a sign in it would end it early."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if _SPECIAL.search(text) else text


@functools.cache
def _versions() -> str:
    """Of the libraries that decide what a seed becomes."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)


def _used(name: str, profile: PipelineProfile, call: Call) -> Any:
    """The argument as passed, else the signature's default, None where the pipeline has no such parameter."""
    return call.arguments.get(name, profile.default(name))
