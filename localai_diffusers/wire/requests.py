# SPDX-License-Identifier: MIT
"""A generation RPC's message -> GenerationRequest: validated, media decoded, nothing of protobuf left.

This runs on the handler's thread, before the job queues, so that a bad request is refused at once however long the
queue. 0 and "" mean "unset" on the wire, except where a field's own rule below says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.settings import Settings
from localai_diffusers.wire import argument_limits
from localai_diffusers.wire.argument_limits import MAX_CLIP_SKIP, MAX_FPS, MAX_GUIDANCE, MAX_SIDE
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.values import parse_value

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
    video: list[Image.Image] | None = None
    video_rate: float | None = None  # frames a second of ``video``
    animation: bytes = field(default=b"", repr=False)  # the file that the first of ``images`` is the first frame of
    audio: bytes | None = None
    num_frames: int | None = None
    fps: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)  # the params as they were written
    fields: Mapping[str, Any] = field(default_factory=dict)


def from_image_request(request: Any, settings: Settings, intake: Intake | None = None) -> GenerationRequest:
    """GenerateImageRequest. Raises InvalidRequest or OutputError naming the field.

    Here and below ``intake`` reads the media, and bounds what those of all requests take; by default, of this one.
    """
    from localai_diffusers.media import files

    intake = intake or Intake(settings)
    prompt = _prompt("positive_prompt", request.positive_prompt, settings)
    negative = _prompt("negative_prompt", request.negative_prompt, settings)
    width, height = _size(request, settings)
    steps = _steps(request.step, settings)
    clip_skip = _bounded("CLIPSkip", request.CLIPSkip, 0, MAX_CLIP_SKIP) or 0
    files.check_destination(request.dst)
    images, mask, from_json, animation = _image_sources(request, intake)
    return GenerationRequest(
        "GenerateImage",
        request.dst,
        prompt,
        negative,
        width,
        height,
        steps,
        # The core's inpainting endpoint always sends seed 0, so there it says nothing.
        seed=_seed(request.seed, zero_is_random=from_json),
        clip_skip=clip_skip,
        images=images,
        mask=mask,
        is_inpainting=from_json,
        animation=animation,
    )


def _image_sources(request: Any, intake: Intake) -> tuple[tuple[Image.Image, ...], Image.Image | None, bool, bytes]:
    """The pictures of src and ref_images in order, the mask, whether src is the core's inpainting JSON, and the file of
    src where it moves.

    With the JSON, the first two ref_images are copies of its image and mask and are skipped.
    """
    references = list(request.ref_images)
    pair = intake.inpaint_pair("src", request.src) if request.src else None
    if pair is not None:
        image, mask = pair
        rest = [intake.picture_file("ref_images", path) for path in references[2:]]
        return (image, *rest), mask, True, b""
    first, moving = intake.moving_picture_file("src", request.src) if request.src else (None, b"")
    rest = [intake.picture_file("ref_images", path) for path in references]
    return tuple(rest if first is None else (first, *rest)), None, False, moving


def from_video_request(request: Any, settings: Settings, intake: Intake | None = None) -> GenerationRequest:
    """GenerateVideoRequest. ``start_image`` may also be a video, for pipelines that start from one."""
    from localai_diffusers.media import files

    intake = intake or Intake(settings)
    prompt = _prompt("prompt", request.prompt, settings)
    negative = _prompt("negative_prompt", request.negative_prompt, settings)
    width, height = _size(request, settings)
    files.check_destination(request.dst)
    first, video, animation = intake.start("start_image", request.start_image)
    return GenerationRequest(
        "GenerateVideo",
        request.dst,
        prompt,
        negative,
        width,
        height,
        _steps(request.step, settings),
        guidance=_number("cfg_scale", request.cfg_scale, MAX_GUIDANCE),
        seed=_seed(request.seed, zero_is_random=True),
        images=() if first is None else (first,),
        video=video.frames if video else None,
        video_rate=video.rate if video else None,
        animation=animation,
        last_image=intake.picture("end_image", request.end_image),
        audio=intake.sound("audio", request.audio),
        num_frames=_bounded("num_frames", request.num_frames, 0, settings.max_frames),
        fps=_bounded("fps", request.fps, 0, MAX_FPS),
        params=_params(request.params, settings),
        texts=dict(request.params),
    )


# SoundGenerationRequest's fields -> what the audio pipelines call them; the first that the signature has is set.
SOUND_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "duration": ("audio_end_in_s", "audio_length_in_s", "audio_duration", "audio_duration_s", "duration"),
    "temperature": ("temperature", "guidance_scale"),  # the core's word for how much the prompt counts
    "sample": ("do_sample", "sample"),
    "think": ("think", "thinking"),
    "caption": ("caption",),
    "lyrics": ("lyrics",),
    "bpm": ("bpm",),
    "keyscale": ("keyscale", "key_scale"),
    "language": ("vocal_language", "language"),
    "timesignature": ("timesignature", "time_signature"),
    "instrumental": ("instrumental",),
}


def from_sound_request(request: Any, settings: Settings, intake: Intake | None = None) -> GenerationRequest:
    """SoundGenerationRequest: the fields that are set, under their own names; the pipeline's names come later."""
    from localai_diffusers.media import files

    intake = intake or Intake(settings)
    prompt = _prompt("text", request.text, settings)
    files.check_destination(request.dst)
    said = {name: getattr(request, name) for name in SOUND_ARGUMENTS if request.HasField(name)}
    if "duration" in said:
        said["duration"] = _number("duration", said["duration"], settings.max_audio_seconds)
    argument_limits.check(said, settings, "{}")
    for name, value in said.items():
        if isinstance(value, str):
            _prompt(name, value, settings)
    prompt = prompt or said.pop("caption", "")
    return GenerationRequest(
        "SoundGeneration",
        request.dst,
        prompt,
        audio=intake.sound("src", request.src),
        fields={name: value for name, value in said.items() if value is not None},
    )


def from_3d_request(request: Any, settings: Settings, intake: Intake | None = None) -> GenerationRequest:
    """Generate3DRequest. Fields that no diffusers pipeline has (texture_steps, quality, background) have no effect."""
    from localai_diffusers.media import files

    intake = intake or Intake(settings)
    files.check_destination(request.dst)
    images = (intake.picture_file("src", request.src),) if request.src else ()
    return GenerationRequest(
        "Generate3D",
        request.dst,
        _prompt("params.prompt", request.params.get("prompt", ""), settings),
        images=images,
        steps=_steps(request.step, settings),
        guidance=_number("cfg_scale", request.cfg_scale, MAX_GUIDANCE),
        seed=_seed(request.seed, zero_is_random=True),
        params={name: value for name, value in _params(request.params, settings).items() if name != "prompt"},
        texts=dict(request.params),
    )


def from_upscale_request(request: Any, settings: Settings, intake: Intake | None = None) -> GenerationRequest:
    """UpscaleImageRequest; ``scale`` is the caller's own to read with :func:`upscale_factor`."""
    from localai_diffusers.media import files

    files.check_destination(request.dst)
    if not request.src:
        raise InvalidRequest("src is empty: it must be the path of a picture")
    upscale_factor(request)
    intake = intake or Intake(settings)
    picture = intake.picture_file("src", request.src, mode="RGBA")
    return GenerationRequest("UpscaleImage", request.dst, images=(picture,), seed=0)


def upscale_factor(request: Any) -> int | None:
    """The scale that is asked for, None for the model's own."""
    return _bounded("scale", request.scale, 0, 16)


def from_depth_request(request: Any, settings: Settings, intake: Intake | None = None) -> GenerationRequest:
    """DepthRequest: src is the picture itself in base64 (or a path);
    there is no file unless ``exports`` asks for one."""
    intake = intake or Intake(settings)
    image = intake.picture("src", request.src)
    if image is None:
        raise InvalidRequest("src is empty: it must be a picture in base64")
    return GenerationRequest("Depth", request.dst, images=(image,))


def _params(params: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """The params typed, their numbers within the limits; texts may be media, which the pipeline's signature tells."""
    typed = {name: parse_value(value, f"params[{name!r}]") for name, value in params.items()}
    argument_limits.check(typed, settings, "params[{!r}]")
    return typed


# --- fields --------------------------------------------------------------------------------------------------------


def _prompt(name: str, text: str, settings: Settings) -> str:
    return argument_limits.check_text(name, text, settings)


def _size(request: Any, settings: Settings) -> tuple[int | None, int | None]:
    """Width and height in pixels; each within the limits alone and both together."""
    width, height = (_bounded(name, getattr(request, name), 0, MAX_SIDE) for name in ("width", "height"))
    if width and height:
        argument_limits.check_area((width, height), settings)
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
