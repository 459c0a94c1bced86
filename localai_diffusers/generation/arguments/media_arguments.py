# SPDX-License-Identifier: MIT
"""Which picture, video and sound of a request fills which argument, and at what size.

One rule for every pipeline: the request's pictures in order fill the picture parameters, the main image first, then
the mask, then the others in the signature's order; a parameter that takes a list takes what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation.arguments import control_arguments, media_forms
from localai_diffusers.generation.arguments.asked import Asked, Part
from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline import sizes
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.roles import Role, lies_on_the_source, role_of
from localai_diffusers.pipeline.signatures import LAST_IMAGE, VIDEO, is_optional, takes_list
from localai_diffusers.wire import argument_limits
from localai_diffusers.wire.requests import GenerationRequest

_SOURCES_SIZE = "the size is the clip's own, times the model's factor: the request's is ignored"


def media_arguments(asked: Asked, said: Mapping[str, Any]) -> Part:
    """Pictures, mask, video and sound by argument name. ``said``: what options and params say of the call.

    Raises InvalidRequest when the request brings more than the pipeline takes.
    """
    request, profile = asked.request, asked.profile
    found = _placed_in_time(request, profile)
    if found is None:
        found = _pictures(request, profile, said) | _clip(request, profile) | _last(request, profile)
    found |= _sound(asked)
    found |= _named(asked)
    found |= _mask_for_each_frame(found, profile)
    if request.images and profile.inverts:
        picture = picture_to_invert(asked)
        found |= _mask_of_latents(found, picture.size, profile) if "image_latents" in profile.parameters else {}
        return Part(found, _taken_at(request.images[0].size, picture.size))
    return _resized(found, asked)


def picture_to_invert(asked: Asked) -> Any:
    """The source of a pipeline that inverts it, within the request's size."""
    picture = asked.request.images[0]
    return _at_size(picture, _bounded_size(picture, asked), crop=False)


def _pictures(request: GenerationRequest, profile: PipelineProfile, said: Mapping[str, Any]) -> dict[str, Any]:
    parameters, takes, controls = profile.parameters, profile.inputs, control_arguments.pictures(request, profile, said)
    names = [name for name in takes.images if name not in controls]
    masks, mask = takes.masks, request.mask
    images = list(request.images)[: len(request.images) - sum(len(pictures) for pictures in controls.values())]
    if mask is None and masks and len(images) > 1 and _second_is_mask(images, names, profile):
        mask = images.pop(1).convert("L")
    found: dict[str, Any] = {masks[0]: mask} if mask is not None and masks else {}
    for name in names:
        if not images:
            break
        if (
            name == names[-1]
            and len(images) > 1
            and (takes_list(parameters[name]) or name in profile.forms)
            and not (name == names[0] and "strength" in parameters)  # repainted: a list would be a batch of several
        ):
            found[name], images = images, []
        else:
            found[name] = images.pop(0)
    if images and not names and not request.video and takes.videos:  # as its first frames
        found, images = found | {takes.videos[0]: images}, []
    if len(images) > profile.inverts:
        raise _too_many(request, profile)
    return found | {name: value if len(value) > 1 else value[0] for name, value in controls.items()}


def _second_is_mask(images: list[Any], names: list[str], profile: PipelineProfile) -> bool:
    """Whether the second picture is the mask: it is, but where a pipeline edits several pictures at once and may be
    given a mask for one (Bria Fibo), there only a gray one of two."""
    parameters = profile.parameters
    several = bool(names) and takes_list(parameters[names[0]]) and is_optional(parameters[profile.inputs.masks[0]])
    return profile.needs_mask or not several or (len(images) == 2 and _is_gray(images[1]))


def _is_gray(picture: Any) -> bool:
    red, green, blue = picture.convert("RGB").split()
    return bool(red.tobytes() == green.tobytes() == blue.tobytes())


def _too_many(request: GenerationRequest, profile: PipelineProfile) -> InvalidRequest:
    every = [*(["a picture to edit"] if profile.inverts else profile.inputs.images), *profile.inputs.masks]
    takes = f"{len(every)} ({', '.join(every)})" if every else "none"
    return InvalidRequest(
        f"the request brings {len(request.images)} pictures (src, ref_images, start_image): "
        f"{profile.name} takes {takes}"
    )


def _placed_in_time(request: GenerationRequest, profile: PipelineProfile) -> dict[str, Any] | None:
    """The request's pictures and clip where the pipeline has a place in time for them: condition objects, or a video of
    which only some frames are known. None where its plain arguments take them."""
    takes, last = profile.inputs, request.last_image
    plain = bool(takes.images)
    if takes.conditions and (last is not None if plain else request.images or request.video or last is not None):
        frames = _frame_count(request, profile)
        return media_forms.conditions(takes.conditions, request.images, last, request.video, frames)
    takes_last = takes.takes_last_image or request.video or not takes.video_masks
    if takes_last or (last is None and (plain or not request.images)):
        return None
    if len(request.images) > 1:
        raise _too_many(request, profile)
    first, frames = next(iter(request.images), None), _frame_count(request, profile)
    return media_forms.around(first, last, frames, takes.video_masks[0])


def _frame_count(request: GenerationRequest, profile: PipelineProfile) -> int:
    """How many frames the video will have: what is asked for, else the pipeline's default."""
    own = next((profile.default(name) for name in sizes.FRAME_COUNTS if name in profile.parameters), 1)
    asked = request.num_frames or request.params.get("num_frames") or own
    return profile.fit_frames(asked if isinstance(asked, int) else 1)


def _last(request: GenerationRequest, profile: PipelineProfile) -> dict[str, Any]:
    if request.last_image is None:
        return {}
    if not profile.inputs.takes_last_image:
        raise InvalidRequest(f"end_image: {profile.name} takes no last picture ({LAST_IMAGE})")
    return {LAST_IMAGE: request.last_image}


def _clip(request: GenerationRequest, profile: PipelineProfile) -> dict[str, Any]:
    """The request's video for the first parameter that takes one."""
    if not request.video:
        return {}
    if not profile.inputs.videos:
        raise InvalidRequest(f"the request brings a video: {profile.name} takes none")
    return {profile.inputs.videos[0]: request.video}


def _mask_for_each_frame(found: Mapping[str, Any], profile: PipelineProfile) -> dict[str, Any]:
    """One mask beside a video counts for each of its frames."""
    video = found.get(VIDEO)
    masks = {name: found[name] for name in profile.inputs.video_masks if found.get(name) is not None}
    if not isinstance(video, list):
        return {}
    still = {
        name: mask if not isinstance(mask, list) else mask[0]
        for name, mask in masks.items()
        if not isinstance(mask, list) or len(mask) == 1
    }
    return {name: [mask] * len(video) for name, mask in still.items()}


def _mask_of_latents(found: Mapping[str, Any], size: tuple[int, int], profile: PipelineProfile) -> dict[str, Any]:
    """A mask beside inverted latents is of their size (DiffEdit),
    which is that of the picture over the VAE's factor."""
    from localai_diffusers.media import compositing

    factor = sizes.latent_cell(profile.pipeline)
    side = (max(1, size[0] // factor), max(1, size[1] // factor))
    return {name: compositing.fitted(found[name], side) for name in profile.inputs.masks if name in found}


def _sound(asked: Asked) -> dict[str, Any]:
    """The request's sound at the model's rate, for the first parameter that takes sound."""
    request, names = asked.request, asked.profile.inputs.sounds
    if request.audio is None:
        return {}
    if not names:
        raise InvalidRequest(f"audio: {asked.profile.name} takes no sound")
    return _heard(names[0], request.audio, "audio" if request.rpc == "GenerateVideo" else "src", asked)


def _heard(name: str, data: bytes, field: str, asked: Asked) -> dict[str, Any]:
    from localai_diffusers.media import audio

    most = asked.settings.max_audio_seconds
    return media_forms.sound(
        name, audio.read_audio(data, field, asked.profile.sampling_rate, max_seconds=most), asked.profile
    )


def _named(asked: Asked) -> dict[str, Any]:
    """``params`` that name a media argument of the signature with a path or base64 text, or a list of them: read as
    what it takes."""
    takes = asked.profile.inputs
    readers = {
        **dict.fromkeys(takes.sounds, _read_sound),
        **dict.fromkeys(takes.images, _read_picture),
        **dict.fromkeys(takes.masks, _read_mask),
        LAST_IMAGE: _read_picture,
        **dict.fromkeys((*takes.videos, *takes.video_masks), _read_video),
    }
    found: dict[str, Any] = {}
    for name, value in asked.request.params.items():
        if name not in readers or name not in asked.profile.parameters:
            continue
        if isinstance(value, str):
            found |= readers[name](name, value, asked)
        elif isinstance(value, list) and all(isinstance(path, str) for path in value):
            found[name] = [readers[name](name, path, asked)[name] for path in value]
    return found


def _read_picture(name: str, value: str, asked: Asked, mode: str = "RGB") -> dict[str, Any]:
    field = f"params[{name!r}]"
    picture = asked.intake.picture(field, value, mode)
    if picture is None:
        raise InvalidRequest(f"{field} is empty: it must be a path, base64 or a data: URI")
    return {name: picture}


def _read_mask(name: str, value: str, asked: Asked) -> dict[str, Any]:
    return _read_picture(name, value, asked, mode="L")


def _read_video(name: str, value: str, asked: Asked) -> dict[str, Any]:
    field = f"params[{name!r}]"
    return {name: asked.intake.video(field, asked.intake.data(field, value))}


def _read_sound(name: str, value: str, asked: Asked) -> dict[str, Any]:
    field = f"params[{name!r}]"
    return _heard(name, asked.intake.data(field, value), field, asked)


# --- sizes ---------------------------------------------------------------------------------------------------------


def _main(found: Mapping[str, Any], profile: PipelineProfile) -> Any:
    """The picture (or the first frame of the video) that decides the output's size, None if there is none."""
    values = [found[name] for name in (*profile.inputs.images, *profile.inputs.videos) if name in found]
    first = values[0] if values else None
    return first[0] if isinstance(first, list) and first else first


def _resized(found: dict[str, Any], asked: Asked) -> Part:
    """The media at the size that they go in at.

    A video's size is meant: pictures are cropped to its aspect. Of pictures only a source is brought to another
    size, and what lies on it to its: within the request, which is a bound (the core always sends one), but with a
    mask to its own. All others go as they are, to be brought to the pipeline's own measure.
    """
    profile = asked.profile
    main, names = _main(found, profile), profile.inputs.images
    several = bool(names) and isinstance(found.get(names[0]), list)
    sizes_itself = profile.upscales or "processing_resolution" in profile.parameters
    if not is_picture(main) or several or sizes_itself:
        return Part(found)
    if asked.request.rpc == "GenerateVideo" or profile.makes_video:
        return _resized_for_video(found, main, asked)
    if _is_masked(found, profile):
        size = main.size
    elif _role_of_main(found, profile) is Role.SOURCE:
        size = _bounded_size(main, asked)
    else:
        return Part(found)
    first = next(name for name in names if name in found)
    beside = {name: value for name, value in found.items() if name == first or lies_on_the_source(name)}
    resized = {name: _at_size(value, size, crop=False) for name, value in beside.items()}
    return Part(found | resized, _taken_at(main.size, size))


def _resized_for_video(found: dict[str, Any], main: Any, asked: Asked) -> Part:
    is_asked = asked.request.rpc == "GenerateVideo"
    size = _video_size(main, found, asked) if is_asked else _bounded_size(main, asked)
    if size is None:
        return Part(found)
    resized = {name: _at_size(value, size, crop=is_asked) for name, value in found.items()}
    return Part(resized, _taken_at(main.size, size))


def _is_masked(found: Mapping[str, Any], profile: PipelineProfile) -> bool:
    """Whether one picture comes with a mask, so that a part of it alone is made anew."""
    return any(is_picture(found.get(name)) for name in profile.inputs.masks)


def _role_of_main(found: Mapping[str, Any], profile: PipelineProfile) -> Role:
    """What the first picture of a call is to the pipeline; of none it is no source."""
    name = next((name for name in profile.inputs.images if found.get(name) is not None), None)
    return Role.REFERENCE if name is None else role_of(name, profile.cls)


def _taken_at(own: tuple[int, int], size: tuple[int, int]) -> tuple[str, ...]:
    return () if size == own else (f"the source of {own[0]}x{own[1]} is taken at {size[0]}x{size[1]}",)


def _bounded_size(main: Any, asked: Asked) -> tuple[int, int]:
    request = asked.request
    bound = (None, None) if request.is_inpainting else (request.width, request.height)
    size = sizes.fit_within(main.size, bound, asked.profile.multiple)
    return argument_limits.check_area(size, asked.settings, "the source's size")


def _video_size(main: Any, found: Mapping[str, Any], asked: Asked) -> tuple[int, int] | None:
    """The size that is asked for, one side alone with the other by the picture's aspect; for a picture without any the
    pipeline's default; None where the pipeline decides (a photo's own size would be far too large a video)."""
    profile, width, height = asked.profile, asked.request.width, asked.request.height
    if not (width or height):
        own = (profile.default("width"), profile.default("height"))
        is_picture = any(found.get(name) is main for name in profile.inputs.images)
        return own if is_picture and all(isinstance(side, int) for side in own) else None
    width = width or round(main.width * height / main.height)
    height = height or round(main.height * width / main.width)
    return argument_limits.check_area(sizes.round_size(width, height, profile.multiple), asked.settings)


def _at_size(value: Any, size: tuple[int, int], crop: bool) -> Any:
    """A picture, or each of a list, at ``size``: stretched, or cropped to its aspect. Anything else as it is."""
    if isinstance(value, list):
        return [_at_size(part, size, crop) for part in value]
    if not is_picture(value) or value.size == size:
        return value
    from PIL import ImageOps

    from localai_diffusers.media import compositing

    if crop:
        return ImageOps.fit(value, size)
    return compositing.fitted(value, size) if value.mode == "L" else value.resize(size)


def _size_before_upscaling(main: Any, asked: Asked) -> Part:
    """Where a video's latents are upscaled, ``width`` and ``height`` are those before: the clip's own, or of the
    size that is asked for its part. One side that is asked for gives the other by the clip's aspect."""
    wanted, factor = (asked.request.width, asked.request.height), sizes.enlargement(asked.profile.pipeline)
    width, height = main.size
    if any(wanted):
        width = (wanted[0] or width * wanted[1] / height) / factor
        height = (wanted[1] or height * wanted[0] / main.width) / factor
    size = sizes.round_size(width, height, asked.profile.multiple)
    made = round(size[0] * factor), round(size[1] * factor)
    argument_limits.check_area(made, asked.settings)
    is_other = any(want and want != side for want, side in zip(wanted, made, strict=True))
    note = f"{wanted[0] or '?'}x{wanted[1] or '?'} is rounded to {made[0]}x{made[1]}"
    return Part({"width": size[0], "height": size[1]}, (note,) if is_other else ())


def _decided(main: Any, arguments: Mapping[str, Any], asked: Asked) -> tuple[int, int] | None:
    """The size that the first picture or clip decides; None where the request alone does, or nothing."""
    request, profile = asked.request, asked.profile
    if not is_picture(main) or profile.upscales:
        return None
    if request.rpc == "GenerateVideo":
        return main.size if request.width or request.height else None
    role = _role_of_main(arguments, profile)
    if role is Role.SOURCE or _is_masked(arguments, profile):
        return main.size
    if profile.makes_video:
        return _bounded_size(main, asked)
    several = isinstance(arguments.get(profile.inputs.images[0]), list)
    if role is not Role.EDITED or several:
        return None
    return sizes.fit_into(main.size, (request.width, request.height), profile.multiple)


def output_size(asked: Asked, arguments: Mapping[str, Any]) -> Part:
    """Width and height where the signature has them: the main image's,
    else what is asked for to the nearest multiple."""
    request, profile = asked.request, asked.profile
    names = next((pair for pair in sizes.OUTPUT_SIDES if profile.parameters.keys() >= set(pair)), None)
    if names is None:
        unheard = profile.upscales and request.rpc == "GenerateVideo" and (request.width or request.height)
        return Part({}, (_SOURCES_SIZE,) if unheard else ())
    main = _main(arguments, profile)
    if profile.upscales and isinstance(arguments.get(VIDEO), list):
        return _size_before_upscaling(main, asked)
    said = (request.width or arguments.get(names[0]), request.height or arguments.get(names[1]))
    wanted: tuple[Any, Any] = _decided(main, arguments, asked) or said
    if not all(isinstance(side, int) for side in wanted):
        return Part({name: side for name, side in zip(names, wanted, strict=True) if side})
    size = profile.fit_size(*wanted)
    argument_limits.check_area(size, asked.settings)
    note = f"{wanted[0]}x{wanted[1]} is rounded to {size[0]}x{size[1]}"
    return Part(dict(zip(names, size, strict=True)), (note,) if size != tuple(wanted) else ())
