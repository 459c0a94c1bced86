# SPDX-License-Identifier: MIT
"""A call's parameters by what they take: pictures, masks, video, sound, and objects that hold these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localai_diffusers.pipeline.kept import kept
from localai_diffusers.pipeline.signatures import (
    LAST_IMAGE,
    Condition,
    audio_parameters,
    condition_parameters,
    image_parameters,
    mask_parameters,
    parameters_of,
    video_masks,
    video_parameters,
)


@dataclass(frozen=True)
class Inputs:
    """Names in the signature's order; of the pictures the main one, which is called so, comes first.

    ``video_masks`` say which frames' parts of ``video`` are to be made anew. ``conditions`` take pictures and clips
    inside objects with a place in time.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    videos: tuple[str, ...]
    video_masks: tuple[str, ...]
    sounds: tuple[str, ...]
    conditions: Mapping[str, Condition]
    takes_last_image: bool

    def take_media(self, name: str) -> bool:
        """Whether the parameter ``name`` takes media of any kind."""
        return name == LAST_IMAGE or any(name in names for names in (self.images, self.masks, self.videos, self.sounds))


@kept(512)
def inputs_of(cls: type) -> Inputs:
    """The media inputs of the class's call."""
    parameters = parameters_of(cls)
    return Inputs(
        tuple(image_parameters(parameters)),
        tuple(mask_parameters(parameters)),
        tuple(video_parameters(parameters)),
        tuple(video_masks(parameters)),
        tuple(audio_parameters(parameters)),
        condition_parameters(parameters),
        LAST_IMAGE in parameters,
    )
