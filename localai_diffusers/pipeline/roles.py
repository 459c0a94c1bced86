# SPDX-License-Identifier: MIT
"""What a picture is to a pipeline, and so whether it decides the size of the answer.

Told by the signature and the class's code, never by its name.
"""

from __future__ import annotations

from enum import Enum

from localai_diffusers.pipeline import sizes
from localai_diffusers.pipeline.kept import kept
from localai_diffusers.pipeline.quirks import source_of
from localai_diffusers.pipeline.signatures import image_parameters, parameters_of
from localai_diffusers.pipeline.tasks import tasks_of


class Role(Enum):
    """SOURCE: the answer's pixels lie on its own. EDITED: a reference that is redrawn, its aspect the answer's.
    CONTROL: the shape of what is made. REFERENCE: what it shows, or looks like."""

    SOURCE = "source"
    EDITED = "edited"
    CONTROL = "control"
    REFERENCE = "reference"


# The first word of what ControlNets and their kin call their picture (Blip Diffusion's spelling among them).
_CONTROL_WORDS = ("control", "hint", "conditioning", "condtioning")
_STRENGTHS = ("strength", "inpaint_strength")
# How code reads that brings a picture to a size of its own, where the signature has no width.
_SIZES_ITSELF = ("calculate_dimensions", "resolution")


@kept(512)
def role_of(name: str, cls: type) -> Role:
    """The role of the picture that ``cls`` takes as ``name``, where no mask comes with it."""
    parameters = parameters_of(cls)
    main = image_parameters(parameters)[:1] == [name]
    if name.startswith(_CONTROL_WORDS) or "adapter_conditioning_scale" in parameters:
        return Role.CONTROL
    if main and any(strength in parameters for strength in _STRENGTHS):
        return Role.SOURCE
    if "controlnet" in tasks_of(cls):
        return Role.CONTROL
    if not main or not _encodes(cls):
        return Role.REFERENCE
    sized = any(parameters.keys() >= set(pair) for pair in sizes.OUTPUT_SIDES)
    if not sized and not any(word in source_of(cls) for word in _SIZES_ITSELF):
        return Role.SOURCE
    return Role.EDITED if "image-to-image" in tasks_of(cls) else Role.REFERENCE


def lies_on_the_source(name: str) -> bool:
    """Whether a picture beside the source is compared with it pixel by pixel, so that it must have its size."""
    return name.startswith((*_CONTROL_WORDS, "original", "mask"))


def _encodes(cls: type) -> bool:
    """Whether the class reads pictures with its autoencoder; an encoder of their meaning alone keeps no place of
    anything."""
    return any(words in source_of(cls) for words in ("vae.encode(", "_encode_vae_image(", "movq.encode("))
