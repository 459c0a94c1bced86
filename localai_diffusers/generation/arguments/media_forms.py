# SPDX-License-Identifier: MIT
"""The form in which an argument takes its media: one picture, a list, a tensor, an object with a place in time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from localai_diffusers.generation.arguments.asked import Asked, Part
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.signatures import (
    VIDEO,
    Condition,
    takes_only_list,
    takes_only_tensor,
    unpacked_shape,
)

if TYPE_CHECKING:
    from PIL import Image

# Where a condition object counts its place: pixel frames, or latent ones, of which -1 is the last.
_LAST_PLACE: Mapping[str, Any] = {"frame_index": lambda frames: frames - 1, "index": lambda frames: -1}
_UNKNOWN = (128, 128, 128)  # of a frame that is to be made anew, as the documentation of Wan VACE has it


def in_form(asked: Asked, media: Mapping[str, Any]) -> Part:
    """The pictures and frames among a call's arguments in the form that each parameter takes."""
    profile = asked.profile
    parameters, images, videos = profile.parameters, profile.inputs.images, profile.inputs.videos
    found: dict[str, Any] = {}
    for name in (*images, *videos):
        value = media.get(name)
        if value is None or isinstance(value, str):
            continue
        shape = unpacked_shape(profile.cls.__call__, name)
        if takes_only_tensor(parameters[name]) and (name in videos or len(shape) == 5):
            found[name] = _tensor(value, shape, mode="L" if name in profile.inputs.video_masks else "RGB")
        elif name in profile.forms:
            found[name] = profile.forms[name](value if isinstance(value, list) else [value])
        elif (takes_only_list(parameters[name]) or name.endswith("images")) and not isinstance(value, list):
            found[name] = [value]
    return Part(found)


def _tensor(frames: Any, shape: Sequence[str], mode: str) -> Any:
    """Frames as (1, frames, channels, height, width) in 0 to 1, the layout of diffusers' VideoProcessor; channels first
    where the call takes the shape apart so. ``mode`` L: one channel, as masks have."""
    import numpy
    import torch

    pictures = frames if isinstance(frames, list) else [frames]
    pixels = numpy.stack(
        [numpy.atleast_3d(numpy.asarray(picture.convert(mode), numpy.float32)) for picture in pictures]
    )
    tensor = torch.from_numpy(pixels / 255.0).permute(0, 3, 1, 2)[None]
    return tensor.transpose(1, 2).contiguous() if shape[1:2] and shape[1].startswith("channel") else tensor


def conditions(
    kinds: Mapping[str, Condition], pictures: Sequence[Any], last: Any, video: Any, frames: int
) -> dict[str, list[Any]]:
    """Condition objects: the pictures from the start on, the last one at the end, a clip at the start.

    A clip goes to the parameter of references where there is one beside the other, pictures to the one with places.
    """
    placed = [name for name, kind in kinds.items() if kind.place]
    found: dict[str, list[Any]] = {}
    name = (placed or list(kinds))[0]
    kind = kinds[name]
    for picture in pictures:
        found.setdefault(name, []).append(kind.kind(**{kind.image: picture}))
    if last is not None:
        found.setdefault(name, []).append(kind.kind(**{kind.image: last}, **_at_end(kind, frames)))
    if video:
        name = next((key for key in kinds if key not in placed), name)
        found.setdefault(name, []).append(kinds[name].kind(**{kinds[name].video: video}))
    return found


def _at_end(kind: Condition, frames: int) -> dict[str, int]:
    return {kind.place: _LAST_PLACE[kind.place](frames)} if kind.place else {}


def around(first: Image.Image | None, last: Image.Image | None, frames: int, masks: str) -> dict[str, Any]:
    """A video of which the first and the last frame are known, and for the parameter ``masks`` a mask of each frame:
    white is to be made."""
    from PIL import Image

    size = (first or last).size  # type: ignore[union-attr]
    video = [Image.new("RGB", size, _UNKNOWN) for _ in range(frames)]
    mask = [Image.new("L", size, 255) for _ in range(frames)]
    for place, picture in ((0, first), (-1, last)):
        if picture is not None:
            video[place], mask[place] = picture.resize(size), Image.new("L", size, 0)
    return {VIDEO: video, masks: mask}


def sound(name: str, track: Any, profile: PipelineProfile) -> dict[str, Any]:
    """``track`` for the parameter ``name``: an array or a tensor (channels, samples), a batch of one where the call
    says so, in the channels of the model's autoencoder, with the rate where the signature asks for that too."""
    import torch

    parameters = profile.parameters
    if "ndarray" in str(parameters[name].annotation):
        value: Any = track.samples.mean(axis=0)
    else:
        value = torch.from_numpy(track.samples)
        channels = profile.config("vae", "audio_channels")
        value = (
            value.expand(channels, -1).contiguous()
            if len(value) == 1 and isinstance(channels, int) and channels > 1
            else value
        )
        value = value[None] if _is_batch(name, profile.cls.__call__.__doc__ or "") else value
    rates = {
        key: torch.tensor(track.rate) if "Tensor" in str(parameter.annotation) else track.rate
        for key, parameter in parameters.items()
        if key.endswith("audio_sampling_rate")
    }
    return {name: value, **rates}


def _is_batch(name: str, document: str) -> bool:
    """Whether a sound argument is a batch: its name is plural, or its documentation gives the shape so."""
    found = re.search(rf"\b{name} \((?:.*\n){{1,2}}?.*\(batch", document)
    return name.endswith("s") or bool(found)
