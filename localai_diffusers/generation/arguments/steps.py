# SPDX-License-Identifier: MIT
"""How many steps a call may have: what is left of them by a source's strength, and what the scheduler can lay out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation.arguments.asked import Asked, Part
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.roles import Role, lies_on_the_source, role_of

_STEPS = "num_inference_steps"
STRENGTHS = ("strength", "inpaint_strength")


def fitted(asked: Asked, arguments: Mapping[str, Any]) -> Part:
    """The number of steps where the call's own, or the pipeline's default, is too few.

    Raises InvalidRequest for more steps than the scheduler has.
    """
    profile = asked.profile
    notes: tuple[str, ...] = ()
    said = {name: arguments.get(name, profile.default(name)) for name in (_STEPS, *STRENGTHS)}
    steps = said[_STEPS]
    strength: Any = next((said[name] for name in STRENGTHS if name in profile.parameters), None)
    if not isinstance(steps, int) or isinstance(steps, bool):
        return Part({})
    if profile.most_steps and steps > profile.most_steps:
        name, most = profile.subject.components["scheduler"], profile.most_steps
        raise InvalidRequest(
            f"step={steps} is more than {name} has: it takes some of the {most} of its distillation "
            f"(original_inference_steps): send at most {most}"
        )
    if _starts_midway(arguments, profile) and _is_part(strength) and steps * strength < 1:
        notes += (f"step={steps} at strength {strength:g} leaves no step: {math.ceil(1 / strength)} are taken",)
        steps = math.ceil(1 / strength)
    least = profile.least_steps
    if steps < least:
        notes += (f"step={steps} is too few for this model's scheduler: {least} are taken",)
    return Part({_STEPS: max(steps, least)} if max(steps, least) != said[_STEPS] else {}, notes)


def _starts_midway(arguments: Mapping[str, Any], profile: PipelineProfile) -> bool:
    """Whether there is a source to start from: where there is none, strength counts for nothing (a modular pipeline
    has it among its inputs whatever it is called for, also beside a picture for control)."""
    return any(value is not None and _is_source(name, profile) for name, value in arguments.items())


def _is_source(name: str, profile: PipelineProfile) -> bool:
    takes, cls = profile.inputs, type(profile.pipeline)
    if name in takes.images:
        return role_of(name, cls) in (Role.SOURCE, Role.EDITED)
    beside = name not in takes.masks and lies_on_the_source(name)  # a mask is of a source, wherever that went
    return name in takes.conditions or takes.take_media(name) and not beside


def _is_part(strength: Any) -> bool:
    return isinstance(strength, (int, float)) and 0 < strength <= 1
