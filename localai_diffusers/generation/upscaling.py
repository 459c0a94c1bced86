# SPDX-License-Identifier: MIT
"""UpscaleImage: the loaded model's own factor, tile by tile, then an exact resize to the scale that is asked for.

Tiles keep memory bounded whatever the photo's size; they overlap and are blended, so that no seam shows.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localai_diffusers.errors import GenerationFailed, InvalidRequest
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.generation.generation import Outcome
from localai_diffusers.generation.pipeline_call import call_pipeline
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.signatures import is_optional
from localai_diffusers.wire.argument_limits import MAX_SIDE
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest
from localai_diffusers.work.jobs import Job

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

log = logging.getLogger(__name__)

# Sides in source pixels. The x4 upscaler was trained on 128-pixel crops and runs well on twice that.
_SMALLEST_TILE, _LARGEST_TILE, _OVERLAP = 64, 512, 16
_DEFAULT_SCALE = 2  # of Lanczos, when the request names none


def upscale(model: LoadedModel, request: GenerationRequest, scale: int | None, job: Job[Any]) -> Outcome:
    """Enlarge ``request.images[0]`` to ``scale`` times its sides and write ``request.dst``.

    ``scale`` None means the model's own factor. A model that cannot upscale leaves it to Lanczos, and says so.
    Transparency is enlarged beside the colors, which is all that models know.
    """
    from localai_diffusers.media import compositing, images, payloads

    source = request.images[0]
    colors = compositing.colors_of(source)
    if _enlarges_a_picture(model.profile):
        result, seed, notes = _by_model(model, replace(request, images=(colors,)), scale, job)
    else:
        result, seed = _resized(colors, _target(source, scale, _DEFAULT_SCALE, model.settings.max_pixels)), 0
        notes = (f"{type(model.pipeline).__name__} cannot upscale: the picture was enlarged with Lanczos",)
    result = _with_alpha(result, source)
    if result.mode == "RGBA" and images.image_format(request.dst) == "JPEG":
        notes += ("a JPEG holds no transparency: what is transparent is white",)
    payload = payloads.Payload("image", images=(result,))
    described = payloads.write_payload(payload, request.dst, fps=1.0, metadata=None, check=job.check)
    return Outcome(described, seed, notes)


def _with_alpha(result: Image.Image, source: Image.Image) -> Image.Image:
    """``result`` with the transparency of ``source``, enlarged, where there is some."""
    if source.mode != "RGBA":
        return result
    result = result.copy()
    result.putalpha(_resized(source.getchannel("A"), result.size))
    return result


def _enlarges_a_picture(profile: PipelineProfile) -> bool:
    """Whether the class upscales, and asks for one picture and nothing beside it: not a video, not the original too."""
    takes = (*profile.inputs.images, *profile.inputs.masks)
    return profile.upscales and sum(not is_optional(profile.parameters[name]) for name in takes) == 1


def _target(source: Image.Image, scale: int | None, own_factor: float, max_pixels: int) -> tuple[int, int]:
    factor = scale or own_factor
    size = round(source.width * factor), round(source.height * factor)
    if max(size) > MAX_SIDE:
        raise InvalidRequest(
            f"scale={scale or 0} makes {size[0]}x{size[1]} of src's {source.width}x{source.height}: a side has at most "
            f"{MAX_SIDE} pixels"
        )
    if size[0] * size[1] > max_pixels:
        raise InvalidRequest(
            f"scale={scale or 0} makes {size[0]}x{size[1]} of src's {source.width}x{source.height}: at most "
            f"{max_pixels} pixels are made (LOCALAI_DIFFUSERS_MAX_PIXELS)"
        )
    return size


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    from PIL import Image as pillow

    return image if image.size == size else image.resize(size, pillow.Resampling.LANCZOS)


@dataclass(frozen=True)
class Tile:
    """A square of the source: its left and top edge and its side, in source pixels."""

    left: int
    top: int
    side: int


def tiles(width: int, height: int, side: int) -> list[Tile]:
    """Squares of ``side`` that cover a picture of at least that size, neighbors overlapping by at least _OVERLAP
    pixels, or a quarter of a small tile."""
    return [Tile(left, top, side) for top, left in itertools.product(_starts(height, side), _starts(width, side))]


def _starts(length: int, side: int) -> list[int]:
    overlap = min(_OVERLAP, side // 4)
    count = 1 if length <= side else math.ceil((length - overlap) / (side - overlap))
    return [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]


def _by_model(
    model: LoadedModel, request: GenerationRequest, scale: int | None, job: Job[Any]
) -> tuple[Image.Image, int, tuple[str, ...]]:
    """The picture enlarged tile by tile, every one with the same seed and brought to ``scale`` (None: the model's own
    factor) before it is put in its place, so that no more than the result is held."""
    import numpy as np

    source, side = request.images[0], _tile_side(model.profile)
    padded, limit = _padded(source, side), model.settings.max_pixels
    if scale:
        _target(source, scale, scale, limit)  # too large is told before the work
    first = replace(request, images=(padded.crop((0, 0, side, side)),))
    call = call_arguments.build(first, model.profile, model.defaults, Intake(model.settings))
    seeded = replace(request, seed=call.seed)
    plan = tiles(padded.width, padded.height, side)
    total: Any = None
    weights: Any = None
    for number, tile in enumerate(plan):
        log.info("upscaling tile %d of %d", number + 1, len(plan))
        pixels = _enlarged(model, replace(seeded, images=(_cut(padded, tile),)), scale, job)
        factor = len(pixels) / side
        if total is None:
            _target(source, scale, factor, limit)
            shape = round(padded.height * factor), round(padded.width * factor)
            total, weights = np.zeros((*shape, 3), np.float32), np.zeros((*shape, 1), np.float32)
        _blend(total, weights, pixels, (round(tile.left * factor), round(tile.top * factor)))
    return _cropped(total / weights, source, factor), call.seed, call.notes


def _tile_side(profile: PipelineProfile) -> int:
    """The side that the denoiser was trained on, in source pixels, within bounds; a multiple of what the model
    takes."""
    if profile.tile:
        return profile.tile
    trained = profile.config("unet", "sample_size")
    side = trained * 2 if isinstance(trained, int) else _LARGEST_TILE
    multiple = profile.multiple
    return max(multiple, min(max(side, _SMALLEST_TILE), _LARGEST_TILE) // multiple * multiple)


def _padded(source: Image.Image, side: int) -> Image.Image:
    """The source on at least one tile's canvas, its edges mirrored outward."""
    import numpy as np
    from PIL import Image as pillow

    if min(source.size) >= side:
        return source
    missing = (0, max(0, side - source.height)), (0, max(0, side - source.width)), (0, 0)
    return pillow.fromarray(np.pad(np.asarray(source), missing, mode="symmetric"))


def _cut(image: Image.Image, tile: Tile) -> Image.Image:
    return image.crop((tile.left, tile.top, tile.left + tile.side, tile.top + tile.side))


def _enlarged(model: LoadedModel, request: GenerationRequest, scale: int | None, job: Job[Any]) -> np.ndarray:
    """One tile through the pipeline: float32 pixels (height, width, 3), 0 to 255, at ``scale`` if one is given."""
    import numpy as np

    from localai_diffusers.media import payloads

    call = call_arguments.build(request, model.profile, model.defaults, Intake(model.settings))
    output = call_pipeline(model.pipeline_as(type(model.pipeline)), call, job)
    images = payloads.payload_from_output(output, sampling_rate=None, hint="image").images
    if not images:
        raise GenerationFailed(f"{type(model.pipeline).__name__} gave no picture")
    image = images[0].convert("RGB")
    width, height = request.images[0].size
    return np.asarray(_resized(image, (width * scale, height * scale)) if scale else image, np.float32)


def _blend(total: np.ndarray, weights: np.ndarray, pixels: np.ndarray, at: tuple[int, int]) -> None:
    """Add ``pixels`` at ``at`` (left, top), weighted down toward their edges: the weight of two neighbors is theirs in
    one direction alone, so their share is the same all along the edge."""
    import numpy as np

    height, width = pixels.shape[:2]
    ramp = np.multiply.outer(_ramp(height), _ramp(width))[..., None]
    area = np.s_[at[1] : at[1] + height, at[0] : at[0] + width]
    total[area] += pixels * ramp
    weights[area] += ramp


def _ramp(length: int) -> np.ndarray:
    """1 in the middle, falling toward both ends, never 0."""
    import numpy as np

    edge = max(1, length // 4)
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
    return np.minimum(distance / edge, 1.0).astype(np.float32)


def _cropped(pixels: np.ndarray, source: Image.Image, factor: float) -> Image.Image:
    import numpy as np
    from PIL import Image as pillow

    height, width = round(source.height * factor), round(source.width * factor)
    return pillow.fromarray(np.clip(np.rint(pixels[:height, :width]), 0, 255).astype(np.uint8))
