# SPDX-License-Identifier: MIT
"""What the arguments of a call are made of: one request on one pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from localai_diffusers.pipeline.defaults import ModelDefaults
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.settings import Settings
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest


@dataclass(frozen=True)
class Asked:
    """``intake`` reads what ``params`` name, within the settings' limits; ``seed`` is the request's, or a random
    one."""

    request: GenerationRequest
    profile: PipelineProfile
    defaults: ModelDefaults
    intake: Intake
    seed: int

    @property
    def settings(self) -> Settings:
        return self.intake.settings


class Part(NamedTuple):
    """Arguments to add to those that are there, or in their place, and what there is to tell of them."""

    arguments: Mapping[str, Any]
    notes: tuple[str, ...] = ()
