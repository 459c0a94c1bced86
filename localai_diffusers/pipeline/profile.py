# SPDX-License-Identifier: MIT
"""What a loaded pipeline takes and gives, found out once: when it is loaded, and for a sibling at its first use.

A request's path asks the profile and nothing else. What is true of a class alone is cached by class, since a load asks
that before there is a pipeline (``inputs_of``, ``tasks``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from localai_diffusers.media import rates
from localai_diffusers.pipeline import quirks, scheduler_kinds, sizes, tasks
from localai_diffusers.pipeline.guidance import GuidanceStyle, guidance_of
from localai_diffusers.pipeline.inputs import Inputs, inputs_of
from localai_diffusers.pipeline.quirks import Subject
from localai_diffusers.pipeline.signatures import Parameters, inversion_parameters, parameters_of


@dataclass(frozen=True)
class PipelineProfile:
    """A pipeline class on its components.

    ``multiple``: what width and height must be multiples of, in pixels; ``tile``: the side of an upscaler's tiles, None
    where no row tells; ``frame_multiple``: the f of a video VAE that takes f*n + 1 frames, None of any other.
    ``sides``, ``frames``, ``calls``, ``forms`` and ``fields``: the rows of quirks that change its sizes, its calls, the
    form of its pictures, and what a sound request's fields mean to it. ``inversion``: parameters of its ``invert``
    where it edits pictures that way, else none. ``least_steps`` and ``most_steps`` are those of its scheduler, None for
    any number. ``sampling_rate`` in Hz and ``frame_rate`` a second of what it makes, None where nothing tells.
    """

    subject: Subject
    parameters: Parameters
    inputs: Inputs
    tasks: tuple[str, ...]
    guidance: GuidanceStyle
    multiple: int
    sides: tuple[quirks.SideEffect, ...]
    tile: int | None
    frame_multiple: int | None
    frames: tuple[quirks.FrameEffect, ...]
    calls: tuple[quirks.CallEffect, ...]
    forms: Mapping[str, quirks.FormEffect]
    fields: tuple[quirks.FieldEffect, ...]
    upscales: bool
    makes_video: bool
    needs_mask: bool
    inverts: bool
    inversion: Parameters
    least_steps: int
    most_steps: int | None
    sampling_rate: int | None
    frame_rate: float | None

    @property
    def pipeline(self) -> Any:
        return self.subject.pipeline

    @property
    def cls(self) -> type:
        return self.subject.cls

    @property
    def name(self) -> str:
        return self.subject.cls.__name__

    def config(self, component: str, entry: str) -> Any:
        """An entry of a component's config, None where either is not there."""
        return self.subject.config(component, entry)

    def default(self, name: str) -> Any:
        """The default of the call's parameter, None where there is no such parameter."""
        known = self.parameters.get(name)
        return None if known is None else known.default

    def fit_frames(self, frames: int) -> int:
        """The number of frames nearest to ``frames`` that the model makes."""
        fitted = sizes.causal_frames(frames, self.frame_multiple)
        for rule in self.frames:
            fitted = rule(frames, fitted, self.subject)
        return fitted

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height nearest to those that the model makes."""
        size = sizes.round_size(width, height, self.multiple)
        for rule in self.sides:
            size = rule(*size, self.subject)
        return size


def profile_of(pipeline: Any) -> PipelineProfile:
    """The profile of a pipeline that is in its place, with its scheduler and adapters."""
    subject, cls = quirks.subject_of(pipeline), type(pipeline)
    guidance, multiples = guidance_of(pipeline), quirks.effects_of(quirks.MULTIPLES, subject)
    for fields in quirks.effects_of(quirks.GUIDANCE, subject):
        guidance = replace(guidance, **fields)
    return PipelineProfile(
        subject=subject,
        parameters=parameters_of(cls),
        inputs=inputs_of(cls),
        tasks=tasks.tasks_of(cls),
        guidance=guidance,
        multiple=math.lcm(sizes.size_multiple(pipeline), *(rule(subject) for rule in multiples)),
        sides=quirks.effects_of(quirks.SIDES, subject),
        tile=next((rule(subject) for rule in quirks.effects_of(quirks.TILES, subject)), None),
        frame_multiple=sizes.frame_multiple(pipeline),
        frames=quirks.effects_of(quirks.FRAMES, subject),
        calls=quirks.effects_of(quirks.CALLS, subject),
        forms={name: form for forms in quirks.effects_of(quirks.FORMS, subject) for name, form in forms.items()},
        fields=quirks.effects_of(quirks.FIELDS, subject),
        upscales=tasks.upscales(cls),
        makes_video=tasks.makes_video(cls),
        needs_mask=tasks.needs_mask(cls),
        inverts=tasks.inverts(cls),
        inversion=inversion_parameters(cls),
        least_steps=scheduler_kinds.least_steps(getattr(pipeline, "scheduler", None)),
        most_steps=scheduler_kinds.most_steps(getattr(pipeline, "scheduler", None)),
        sampling_rate=rates.sampling_rate_of(pipeline),
        frame_rate=next(iter(quirks.effects_of(quirks.RATES, subject)), None) or rates.frame_rate_of(pipeline),
    )
