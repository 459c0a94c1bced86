# SPDX-License-Identifier: MIT
"""Inpainting: a source and its mask on a canvas that the model can make, and the answer brought back onto the
source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline import sizes
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.roles import lies_on_the_source
from localai_diffusers.pipeline.signatures import VIDEO
from localai_diffusers.wire.options import Options
from localai_diffusers.wire.requests import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

    from localai_diffusers.media.payloads import Payload


@dataclass(frozen=True, eq=False)
class Repaint:
    """What is repainted: the source (RGB) and its mask (L) in the source's own size, the canvas that the model was
    given, which has them at its top left, and how the answer is laid over the source; ``composite`` False: not at
    all."""

    source: Image.Image
    mask: Image.Image
    canvas: tuple[int, int]
    composite: bool = True
    blur: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be repainted, so that the source is the answer."""
        from localai_diffusers.media import compositing

        return self.composite and not compositing.is_white_anywhere(self.mask)

    def finished(self, payload: Payload) -> Payload:
        """The payload with its pictures, which fill the canvas at whatever size, as answers in the source's size."""
        if payload.kind != "image":
            return payload
        return replace(payload, images=tuple(map(self._finished, payload.images)))

    def _finished(self, made: Image.Image) -> Image.Image:
        from localai_diffusers.media import compositing

        width, height = self.source.size
        made = (made if made.size == self.canvas else made.resize(self.canvas)).crop((0, 0, width, height))
        return compositing.laid_over(made, self.source, self.mask, self.blur) if self.composite else made


@dataclass(frozen=True, eq=False)
class RepaintedClip:
    """A clip of which parts of each frame are repainted: its frames (RGB) and a mask (L) for each, at the size that the
    model was given."""

    frames: Sequence[Image.Image]
    masks: Sequence[Image.Image]
    blur: float | None = None

    def finished(self, payload: Payload) -> Payload:
        """The payload with its clips laid over the source, frame by frame; one of another length is left as it is."""
        return replace(payload, videos=tuple(map(self._finished, payload.videos)))

    def _finished(self, made: Any) -> Any:
        from PIL import Image

        from localai_diffusers.media import compositing
        from localai_diffusers.media.videos import frame_pixels

        if len(made) != len(self.frames):
            return made
        pictures = (Image.fromarray(frame_pixels(frame)).resize(self.frames[0].size) for frame in made)
        return tuple(
            compositing.laid_over(picture, source, mask, self.blur)
            for picture, source, mask in zip(pictures, self.frames, self.masks, strict=True)
        )


def _on_canvas(value: Any, canvas: tuple[int, int]) -> Any:
    """A picture, or each of a list, on the canvas; anything else as it is."""
    from localai_diffusers.media import compositing

    if isinstance(value, list):
        return [_on_canvas(part, canvas) for part in value]
    return compositing.padded(value, canvas) if is_picture(value) else value


def plan(
    media: Mapping[str, Any], request: GenerationRequest, profile: PipelineProfile, said: Options
) -> tuple[dict[str, Any], Repaint | RepaintedClip | None]:
    """The media of a call that repaints parts of a picture or a clip, on their canvas, and what is to be done
    afterward; ({}, None) for any other.

    ``media``: arguments of the call, the mask and what lies on the source in the source's size. The canvas' sides
    are the next that the model can make; the mask is grown to the largest value of each latent's cell.
    """
    from localai_diffusers.media import compositing

    name = next((name for name in profile.inputs.masks if is_picture(media.get(name))), None)
    main = next((name for name in profile.inputs.images if name in media), None)
    source: Any = media.get(main or "")
    if name is None or main is None or not is_picture(source):
        return _of_clip(media, request, profile, said) or _of_inversion(request, profile, said)
    width, height = source.size
    canvas = sizes.round_up(width, height, profile.multiple)
    beside = {key: value for key, value in media.items() if key in (main, name) or lies_on_the_source(key)}
    found = {key: _on_canvas(value, canvas) for key, value in beside.items()}
    found[name] = compositing.grown(found[name], sizes.latent_cell(profile.pipeline))
    return found, Repaint(source, media[name], canvas, said.composite, said.mask_blur)


def _of_clip(
    media: Mapping[str, Any], request: GenerationRequest, profile: PipelineProfile, said: Options
) -> tuple[dict[str, Any], RepaintedClip | None] | None:
    """Of the request's own clip: of one that is made up around pictures the frames are known whole, or not at all."""
    from localai_diffusers.media import compositing

    name = next((name for name in profile.inputs.video_masks if isinstance(media.get(name), list)), "")
    frames, masks = media.get(VIDEO), media.get(name)
    is_own = bool(request.video) or VIDEO in request.params
    if not is_own or not isinstance(frames, list) or not masks or len(frames) != len(masks):
        return None
    masks = [mask.convert("L") for mask in masks]
    grown = {name: [compositing.grown(mask, sizes.latent_cell(profile.pipeline)) for mask in masks]}
    return grown, RepaintedClip(frames, masks, said.mask_blur) if said.composite else None


def _of_inversion(
    request: GenerationRequest, profile: PipelineProfile, said: Options
) -> tuple[dict[str, Any], Repaint | None]:
    """Of a picture that is inverted before the call (DiffEdit), which takes its mask in latents."""
    from localai_diffusers.media import compositing

    source = next(iter(request.images), None)
    mask = request.mask or next(iter(request.images[1:]), None)
    if not profile.inverts or not profile.inputs.masks or source is None or mask is None:
        return {}, None
    mask = compositing.fitted(mask.convert("L"), source.size)
    return {}, Repaint(source, mask, source.size, said.composite, said.mask_blur)
