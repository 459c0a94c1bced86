"""A generation RPC's message -> GenerationRequest: validated, media decoded, nothing of protobuf left.

This runs on the handler's thread, before the job queues, so that a bad request is refused at once however long the
queue. 0 and "" mean "unset" on the wire, except where a field's own rule below says otherwise.
"""
from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import InvalidRequest
from .load_spec import parse_value
from .settings import Settings

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class GenerationRequest:
    """What one generation asks for. None means "the pipeline's default"; a seed of None means a random one."""

    rpc: str
    dst: str
    prompt: str = ""
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    clip_skip: int = 0
    images: tuple[Image.Image, ...] = ()
    last_image: Image.Image | None = None
    mask: Image.Image | None = None
    is_inpainting: bool = False
    num_frames: int | None = None
    fps: float | None = None
    scale: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


def from_image_request(request: Any, settings: Settings) -> GenerationRequest:
    """GenerateImageRequest. Raises InvalidRequest or OutputError naming the field."""
    from .media import files

    prompt = _prompt("positive_prompt", request.positive_prompt, settings)
    negative = _prompt("negative_prompt", request.negative_prompt, settings)
    width, height = _size(request, settings)
    steps = _steps(request.step, settings)
    clip_skip = _bounded("CLIPSkip", request.CLIPSkip, 0, 64) or 0
    files.check_destination(request.dst)
    images, mask, from_json = _image_sources(request, settings)
    return GenerationRequest(
        "GenerateImage", request.dst, prompt, negative, width, height, steps,
        # The core's inpainting endpoint always sends seed 0, so there it says nothing.
        seed=_seed(request.seed, zero_is_random=from_json),
        clip_skip=clip_skip, images=images, mask=mask, is_inpainting=from_json,
    )


def _image_sources(request: Any, settings: Settings) -> tuple[tuple[Image.Image, ...], Image.Image | None, bool]:
    """The pictures of src and ref_images in order, the mask, and whether src is the core's inpainting JSON.

    With the JSON, the first two ref_images are copies of its image and mask and are skipped.
    """
    references = list(request.ref_images)
    pair = _inpaint_pair(request.src, settings) if request.src else None
    if pair is not None:
        image, mask = pair
        rest = [_picture("ref_images", path, settings) for path in references[2:]]
        return (image, *rest), mask, True
    sources = [("src", request.src)] if request.src else []
    sources += [("ref_images", path) for path in references]
    return tuple(_picture(name, path, settings) for name, path in sources), None, False


def _inpaint_pair(path: str, settings: Settings) -> tuple[Image.Image, Image.Image] | None:
    from .media import images

    return images.read_inpaint_json(path, "src", max_pixels=settings.max_source_pixels,
                                    max_bytes=settings.max_source_bytes)


def _picture(name: str, path: str, settings: Settings) -> Image.Image:
    from .media import files, images

    data = files.read_regular_file(path, name, settings.max_source_bytes)
    return images.read_image(data, name, max_pixels=settings.max_source_pixels)


# --- fields --------------------------------------------------------------------------------------------------------


def _prompt(name: str, text: str, settings: Settings) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > settings.max_prompt_bytes:
        raise InvalidRequest(f"{name} is {size} bytes long: at most {settings.max_prompt_bytes} are taken "
                             "(LOCALAI_DIFFUSERS_MAX_PROMPT_BYTES)")
    if "\0" in text:
        raise InvalidRequest(f"{name} holds a NUL character: remove it")
    return text


def _size(request: Any, settings: Settings) -> tuple[int | None, int | None]:
    """Width and height in pixels; each within the limits alone and both together."""
    side = settings.max_pixels // 8
    width, height = _bounded("width", request.width, 0, side), _bounded("height", request.height, 0, side)
    if width and height and width * height > settings.max_pixels:
        raise InvalidRequest(f"width x height = {width}x{height} is {width * height} pixels: at most {settings.max_pixels} "
                             "are made (LOCALAI_DIFFUSERS_MAX_PIXELS)")
    return width, height


def _steps(value: int, settings: Settings) -> int | None:
    return _bounded("step", value, 0, settings.max_steps)


def _bounded(name: str, value: int, least: int, most: int) -> int | None:
    """``value`` within [least, most], None for 0 (unset on the wire)."""
    if not least <= value <= most:
        raise InvalidRequest(f"{name}={value} must be between {least} and {most} (0 means the default)")
    return value or None


def _number(name: str, value: float, most: float) -> float | None:
    if not math.isfinite(value) or not 0 <= value <= most:
        raise InvalidRequest(f"{name}={value} must be a number between 0 and {most:g} (0 means the default)")
    return round(float(value), 6) or None


def _seed(value: int, zero_is_random: bool) -> int | None:
    return None if value < 0 or (value == 0 and zero_is_random) else value
