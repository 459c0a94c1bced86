"""Inpainting: a source and its mask on a canvas that the model can make, and the answer brought back onto the
source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline import sizes
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.roles import lies_on_the_source
from localai_diffusers.wire.options import Options

if TYPE_CHECKING:
    from PIL import Image


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

    def finished(self, made: Image.Image) -> Image.Image:
        """``made``, which fills the canvas at whatever size, as the answer in the source's size."""
        from localai_diffusers.media import compositing

        width, height = self.source.size
        made = (made if made.size == self.canvas else made.resize(self.canvas)).crop((0, 0, width, height))
        return compositing.laid_over(made, self.source, self.mask, self.blur) if self.composite else made


def _on_canvas(value: Any, canvas: tuple[int, int]) -> Any:
    """A picture, or each of a list, on the canvas; anything else as it is."""
    from localai_diffusers.media import compositing

    if isinstance(value, list):
        return [_on_canvas(part, canvas) for part in value]
    return compositing.padded(value, canvas) if is_picture(value) else value


def plan(media: Mapping[str, Any], profile: PipelineProfile, said: Options) -> tuple[dict[str, Any], Repaint | None]:
    """The media of a call that repaints one picture, on their canvas, and what is to be done afterward; ({}, None) for
    any other.

    ``media``: arguments of the call, the mask and what lies on the source in the source's size. The canvas' sides
    are the next that the model can make; the mask is grown to the largest value of each latent's cell.
    """
    from localai_diffusers.media import compositing

    name = next((name for name in profile.inputs.masks if is_picture(media.get(name))), None)
    main = next((name for name in profile.inputs.images if name in media), None)
    source: Any = media.get(main or "")
    if name is None or main is None or not is_picture(source):
        return {}, None
    canvas = sizes.round_up(*source.size, profile.multiple)
    beside = {key: value for key, value in media.items() if key in (main, name) or lies_on_the_source(key)}
    found = {key: _on_canvas(value, canvas) for key, value in beside.items()}
    found[name] = compositing.grown(found[name], sizes.latent_cell(profile.pipeline))
    return found, Repaint(source, media[name], canvas, said.composite, said.mask_blur)
