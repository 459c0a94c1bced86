# SPDX-License-Identifier: MIT
"""The ``parameters`` text chunk of a picture, in the form that A1111's web UI began and viewers read."""

from __future__ import annotations

import os
from typing import Any

from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.wire.requests import GenerationRequest


def parameters_text(
    request: GenerationRequest, model: LoadedModel, profile: PipelineProfile, call: Call, size: tuple[int, int]
) -> str:
    """Steps, scheduler, guidance, seed, size, model and pipeline; with LOCALAI_DIFFUSERS_METADATA=full the prompts too.

    Outputs are served to others, so prompts are left out by default and the model is named without its path.
    """
    facts = {
        "Steps": _used("num_inference_steps", profile, call),
        "Sampler": profile.subject.components.get("scheduler"),
        "CFG scale": _used("guidance_scale", profile, call),
        "True CFG scale": call.arguments.get("true_cfg_scale"),
        "Seed": call.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": os.path.basename(model.spec.identity.rstrip("/")),
        "Pipeline": profile.name,
    }
    line = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    if model.settings.metadata != "full":
        return line
    said = {**model.defaults.options, **request.params}  # what an empty text leaves in place
    unwanted = request.negative_prompt or said.get("negative_prompt")
    negative = [f"Negative prompt: {unwanted}"] if unwanted else []
    return "\n".join([request.prompt or str(said.get("prompt") or ""), *negative, line])


def _used(name: str, profile: PipelineProfile, call: Call) -> Any:
    """The argument as passed, else the signature's default, None where the pipeline has no such parameter."""
    return call.arguments.get(name, profile.default(name))
