"""Which picture, video and sound of a request fills which argument, and at what size.

One rule for every pipeline: the request's pictures in order fill the picture parameters, the main image first, then
the mask, then the others in the signature's order; a parameter that takes a list takes what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation.arguments import control_arguments, media_forms
from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline import sizes
from localai_diffusers.pipeline.roles import Role, lies_on_the_source, role_of
from localai_diffusers.pipeline.signatures import (
    LAST_IMAGE,
    VIDEO,
    Parameters,
    audio_parameters,
    condition_parameters,
    image_parameters,
    is_optional,
    mask_parameters,
    parameters_of,
    takes_list,
    video_masks,
    video_parameters,
)
from localai_diffusers.pipeline.tasks import inverts, makes_video, needs_mask, upscales
from localai_diffusers.wire import argument_limits
from localai_diffusers.wire.requests import GenerationRequest


def media_arguments(
    request: GenerationRequest, pipeline: Any, notes: list[str], said: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Pictures, mask, video and sound by argument name. ``said``: what options and params say of the call.

    Raises InvalidRequest when the request brings more than the pipeline takes.
    """
    parameters = parameters_of(pipeline)
    found = _placed_in_time(request, pipeline)
    if found is None:
        found = _pictures(request, parameters, pipeline, said or {})
        found |= _one(request.video, video_parameters(parameters), pipeline)
        found |= _last(request, parameters, type(pipeline).__name__)
    found |= _sound(request, pipeline)
    found |= _named(request, pipeline)
    found |= _mask_for_each_frame(found, parameters)
    if request.images and inverts(type(pipeline)):
        picture = picture_to_invert(request, pipeline)
        notes.extend(_taken_at(request.images[0].size, picture.size))
        return found | _mask_of_latents(found, picture.size, pipeline) if "image_latents" in parameters else found
    return _resized(found, request, pipeline, notes)


def picture_to_invert(request: GenerationRequest, pipeline: Any) -> Any:
    """The source of a pipeline that inverts it, within the request's size."""
    picture = request.images[0]
    return _at_size(picture, _bounded_size(picture, request, pipeline), crop=False)


def _pictures(
    request: GenerationRequest, parameters: Parameters, pipeline: Any, said: Mapping[str, Any]
) -> dict[str, Any]:
    cls, controls = type(pipeline), control_arguments.pictures(request, parameters, pipeline, said)
    names = [name for name in image_parameters(parameters) if name not in controls]
    masks, mask = mask_parameters(parameters), request.mask
    images = list(request.images)[: len(request.images) - sum(len(pictures) for pictures in controls.values())]
    if mask is None and masks and len(images) > 1 and _second_is_mask(images, names, masks[0], parameters, cls):
        mask = images.pop(1).convert("L")
    found: dict[str, Any] = {masks[0]: mask} if mask is not None and masks else {}
    for name in names:
        if not images:
            break
        if (
            name == names[-1]
            and len(images) > 1
            and (takes_list(parameters[name]) or media_forms.is_grid(parameters))
            and not _starts_from(name, names, parameters)
        ):
            found[name], images = images, []
        else:
            found[name] = images.pop(0)
    if images and not names and not request.video and video_parameters(parameters):
        found, images = found | _as_video(images, parameters), []
    if len(images) > inverts(cls):
        raise _too_many(request, parameters, cls)
    return found | {name: value if len(value) > 1 else value[0] for name, value in controls.items()}


def _second_is_mask(images: list[Any], names: list[str], mask: str, parameters: Parameters, cls: type) -> bool:
    """Whether the second picture is the mask: it is, but where a pipeline edits several pictures at once and may be
    given a mask for one (Bria Fibo), there only a gray one of two."""
    several = bool(names) and takes_list(parameters[names[0]]) and is_optional(parameters[mask])
    return needs_mask(cls) or not several or (len(images) == 2 and _is_gray(images[1]))


def _is_gray(picture: Any) -> bool:
    red, green, blue = picture.convert("RGB").split()
    return bool(red.tobytes() == green.tobytes() == blue.tobytes())


def _as_video(images: list[Any], parameters: Parameters) -> dict[str, Any]:
    """A pipeline that takes no picture but a video takes pictures as its first frames."""
    return {name: images for name in video_parameters(parameters)[:1]}


def _too_many(request: GenerationRequest, parameters: Parameters, cls: type) -> InvalidRequest:
    every = [*(["a picture to edit"] if inverts(cls) else image_parameters(parameters)), *mask_parameters(parameters)]
    takes = f"{len(every)} ({', '.join(every)})" if every else "none"
    return InvalidRequest(
        f"the request brings {len(request.images)} pictures (src, ref_images, start_image): "
        f"{cls.__name__} takes {takes}"
    )


def _starts_from(name: str, names: list[str], parameters: Parameters) -> bool:
    """Whether the picture is noised and repainted (there is a strength for that): a list of those would be a batch of
    several outputs, where a list of references makes one."""
    return name == names[0] and "strength" in parameters


def _placed_in_time(request: GenerationRequest, pipeline: Any) -> dict[str, Any] | None:
    """The request's pictures and clip where the pipeline has a place in time for them: condition objects, or a video of
    which only some frames are known. None where its plain arguments take them."""
    parameters = parameters_of(pipeline)
    kinds, last = condition_parameters(parameters), request.last_image
    plain = bool(image_parameters(parameters))
    if kinds and (last is not None if plain else request.images or request.video or last is not None):
        return media_forms.conditions(kinds, request.images, last, request.video, _frame_count(request, pipeline))
    takes_last = LAST_IMAGE in parameters or request.video or not video_masks(parameters)
    if takes_last or (last is None and (plain or not request.images)):
        return None
    if len(request.images) > 1:
        raise _too_many(request, parameters, type(pipeline))
    return media_forms.around(next(iter(request.images), None), last, _frame_count(request, pipeline), parameters)


def _frame_count(request: GenerationRequest, pipeline: Any) -> int:
    """How many frames the video will have: what is asked for, else the pipeline's default."""
    parameters = parameters_of(pipeline)
    own = next((parameters[name].default for name in sizes.FRAME_COUNTS if name in parameters), 1)
    asked = request.num_frames or request.params.get("num_frames") or own
    return sizes.fit_frames(asked if isinstance(asked, int) else 1, pipeline)


def _last(request: GenerationRequest, parameters: Parameters, class_name: str) -> dict[str, Any]:
    if request.last_image is None:
        return {}
    if LAST_IMAGE not in parameters:
        raise InvalidRequest(f"end_image: {class_name} takes no last picture ({LAST_IMAGE})")
    return {LAST_IMAGE: request.last_image}


def _one(video: Any, names: list[str], pipeline: Any) -> dict[str, Any]:
    """The video for the first of ``names``, nothing where there is none."""
    if not video:
        return {}
    if not names:
        raise InvalidRequest(f"the request brings a video: {type(pipeline).__name__} takes none")
    return {names[0]: video}


def _mask_for_each_frame(found: Mapping[str, Any], parameters: Parameters) -> dict[str, Any]:
    """One mask beside a video counts for each of its frames."""
    video = found.get(VIDEO)
    masks = {name: found[name] for name in video_masks(parameters) if found.get(name) is not None}
    if not isinstance(video, list):
        return {}
    still = {
        name: mask if not isinstance(mask, list) else mask[0]
        for name, mask in masks.items()
        if not isinstance(mask, list) or len(mask) == 1
    }
    return {name: [mask] * len(video) for name, mask in still.items()}


def _mask_of_latents(found: Mapping[str, Any], size: tuple[int, int], pipeline: Any) -> dict[str, Any]:
    """A mask beside inverted latents is of their size (DiffEdit),
    which is that of the picture over the VAE's factor."""
    factor = getattr(pipeline, "vae_scale_factor", 1)
    side = (max(1, size[0] // factor), max(1, size[1] // factor))
    return {name: found[name].resize(side) for name in mask_parameters(parameters_of(pipeline)) if name in found}


def _sound(request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    """The request's sound at the model's rate, for the first parameter that takes sound."""
    if request.audio is None:
        return {}
    names = audio_parameters(parameters_of(pipeline))
    if not names:
        raise InvalidRequest(f"audio: {type(pipeline).__name__} takes no sound")
    return _heard(names[0], request.audio, "audio" if request.rpc == "GenerateVideo" else "src", request, pipeline)


def _heard(name: str, data: bytes, field: str, request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    from localai_diffusers.media import audio, payloads

    track = audio.read_audio(
        data, field, payloads.sampling_rate_of(pipeline), max_seconds=request.settings.max_audio_seconds
    )
    return media_forms.sound(name, track, pipeline)


def _named(request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    """``params`` that name a media argument of the signature with a path or base64 text, or a list of them: read as
    what it takes."""
    parameters = parameters_of(pipeline)
    by_frame = (*video_parameters(parameters), *video_masks(parameters))
    readers = {
        **dict.fromkeys(audio_parameters(parameters), _read_sound),
        **dict.fromkeys(image_parameters(parameters), _read_picture),
        **dict.fromkeys(mask_parameters(parameters), _read_mask),
        LAST_IMAGE: _read_picture,
        **dict.fromkeys(by_frame, _read_video),
    }
    found: dict[str, Any] = {}
    for name, value in request.params.items():
        if name not in readers or name not in parameters:
            continue
        if isinstance(value, str):
            found |= readers[name](name, value, request, pipeline)
        elif isinstance(value, list) and all(isinstance(path, str) for path in value):
            found[name] = [readers[name](name, path, request, pipeline)[name] for path in value]
    return found


def _read_picture(
    name: str, value: str, request: GenerationRequest, _pipeline: Any, mode: str = "RGB"
) -> dict[str, Any]:
    field = f"params[{name!r}]"
    picture = request.intake.picture(field, value, mode)
    if picture is None:
        raise InvalidRequest(f"{field} is empty: it must be a path, base64 or a data: URI")
    return {name: picture}


def _read_mask(name: str, value: str, request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    return _read_picture(name, value, request, pipeline, mode="L")


def _read_video(name: str, value: str, request: GenerationRequest, _pipeline: Any) -> dict[str, Any]:
    field = f"params[{name!r}]"
    return {name: request.intake.video(field, request.intake.data(field, value))}


def _read_sound(name: str, value: str, request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    field = f"params[{name!r}]"
    return _heard(name, request.intake.data(field, value), field, request, pipeline)


# --- sizes ---------------------------------------------------------------------------------------------------------


def _main(found: Mapping[str, Any], parameters: Parameters) -> Any:
    """The picture (or the first frame of the video) that decides the output's size, None if there is none."""
    names = image_parameters(parameters) + video_parameters(parameters)
    values = [found[name] for name in names if name in found]
    first = values[0] if values else None
    return first[0] if isinstance(first, list) and first else first


def _resized(found: dict[str, Any], request: GenerationRequest, pipeline: Any, notes: list[str]) -> dict[str, Any]:
    """The media at the size that they go in at.

    A video's size is meant: pictures are cropped to its aspect. Of pictures only a source is brought to another
    size, and what lies on it to its: within the request, which is a bound (the core always sends one), but with a
    mask to its own. All others go as they are, to be brought to the pipeline's own measure.
    """
    parameters = parameters_of(pipeline)
    main, names = _main(found, parameters), image_parameters(parameters)
    several = bool(names) and isinstance(found.get(names[0]), list)
    sizes_itself = upscales(type(pipeline)) or "processing_resolution" in parameters
    if not is_picture(main) or several or sizes_itself:
        return found
    if request.rpc == "GenerateVideo" or makes_video(type(pipeline)):
        return _resized_for_video(found, main, request, pipeline, notes)
    if _is_masked(found, parameters):
        size = main.size
    elif _role_of_main(found, pipeline) is Role.SOURCE:
        size = _bounded_size(main, request, pipeline)
        notes.extend(_taken_at(main.size, size))
    else:
        return found
    first = next(name for name in names if name in found)
    beside = {name: value for name, value in found.items() if name == first or lies_on_the_source(name)}
    return found | {name: _at_size(value, size, crop=False) for name, value in beside.items()}


def _resized_for_video(
    found: dict[str, Any], main: Any, request: GenerationRequest, pipeline: Any, notes: list[str]
) -> dict[str, Any]:
    is_asked = request.rpc == "GenerateVideo"
    size = (_video_size if is_asked else _bounded_size_of)(main, found, request, pipeline)
    if size is None:
        return found
    notes.extend(_taken_at(main.size, size))
    return {name: _at_size(value, size, crop=is_asked) for name, value in found.items()}


def _is_masked(found: Mapping[str, Any], parameters: Parameters) -> bool:
    """Whether one picture comes with a mask, so that a part of it alone is made anew."""
    return any(is_picture(found.get(name)) for name in mask_parameters(parameters))


def _role_of_main(found: Mapping[str, Any], pipeline: Any) -> Role:
    """What the first picture of a call is to the pipeline; of none it is no source."""
    name = next((name for name in image_parameters(parameters_of(pipeline)) if found.get(name) is not None), None)
    return Role.REFERENCE if name is None else role_of(name, type(pipeline))


def _taken_at(own: tuple[int, int], size: tuple[int, int]) -> list[str]:
    return [] if size == own else [f"the source of {own[0]}x{own[1]} is taken at {size[0]}x{size[1]}"]


def _bounded_size_of(
    main: Any, _found: Mapping[str, Any], request: GenerationRequest, pipeline: Any
) -> tuple[int, int]:
    return _bounded_size(main, request, pipeline)


def _bounded_size(main: Any, request: GenerationRequest, pipeline: Any) -> tuple[int, int]:
    bound = (None, None) if request.is_inpainting else (request.width, request.height)
    size = sizes.fit_within(main.size, bound, sizes.size_multiple(pipeline))
    return argument_limits.check_area(size, request.settings, "the source's size")


def _video_size(
    main: Any, found: Mapping[str, Any], request: GenerationRequest, pipeline: Any
) -> tuple[int, int] | None:
    """The size that is asked for, one side alone with the other by the picture's aspect; for a picture without any the
    pipeline's default; None where the pipeline decides (a photo's own size would be far too large a video)."""
    parameters = parameters_of(pipeline)
    width, height = request.width, request.height
    if not (width or height):
        defaults = [parameters[name].default if name in parameters else None for name in ("width", "height")]
        is_picture = any(found.get(name) is main for name in image_parameters(parameters))
        return (defaults[0], defaults[1]) if is_picture and all(isinstance(side, int) for side in defaults) else None
    width = width or round(main.width * height / main.height)
    height = height or round(main.height * width / main.width)
    size = sizes.round_size(width, height, sizes.size_multiple(pipeline))
    return argument_limits.check_area(size, request.settings)


def _at_size(value: Any, size: tuple[int, int], crop: bool) -> Any:
    """A picture, or each of a list, at ``size``: stretched, or cropped to its aspect. Anything else as it is."""
    if isinstance(value, list):
        return [_at_size(part, size, crop) for part in value]
    if not is_picture(value) or value.size == size:
        return value
    from PIL import ImageOps

    return ImageOps.fit(value, size) if crop else value.resize(size)


def _size_before_upscaling(main: Any, request: GenerationRequest, pipeline: Any, notes: list[str]) -> dict[str, int]:
    """Where a video's latents are upscaled, ``width`` and ``height`` are those before: the clip's own, or of the
    size that is asked for its part. One side that is asked for gives the other by the clip's aspect."""
    asked, factor = (request.width, request.height), sizes.enlargement(pipeline)
    width, height = main.size
    if any(asked):
        width = (asked[0] or width * asked[1] / height) / factor
        height = (asked[1] or height * asked[0] / main.width) / factor
    size = sizes.round_size(width, height, sizes.size_multiple(pipeline))
    made = round(size[0] * factor), round(size[1] * factor)
    if any(want and want != side for want, side in zip(asked, made, strict=True)):
        notes.append(f"{asked[0] or '?'}x{asked[1] or '?'} is rounded to {made[0]}x{made[1]}")
    argument_limits.check_area(made, request.settings)
    return {"width": size[0], "height": size[1]}


def _decided(
    main: Any, arguments: Mapping[str, Any], request: GenerationRequest, pipeline: Any
) -> tuple[int, int] | None:
    """The size that the first picture or clip decides; None where the request alone does, or nothing."""
    if not is_picture(main) or upscales(type(pipeline)):
        return None
    if request.rpc == "GenerateVideo":
        return main.size if request.width or request.height else None
    role = _role_of_main(arguments, pipeline)
    if role is Role.SOURCE or _is_masked(arguments, parameters_of(pipeline)):
        return main.size
    if makes_video(type(pipeline)):
        return _bounded_size(main, request, pipeline)
    several = isinstance(arguments.get(image_parameters(parameters_of(pipeline))[0]), list)
    if role is not Role.EDITED or several:
        return None
    return sizes.fit_into(main.size, (request.width, request.height), sizes.size_multiple(pipeline))


def output_size(
    request: GenerationRequest, pipeline: Any, arguments: Mapping[str, Any], notes: list[str]
) -> dict[str, int]:
    """Width and height where the signature has them: the main image's,
    else what is asked for to the nearest multiple."""
    parameters = parameters_of(pipeline)
    names = next((pair for pair in sizes.OUTPUT_SIDES if parameters.keys() >= set(pair)), None)
    if names is None:
        if upscales(type(pipeline)) and request.rpc == "GenerateVideo" and (request.width or request.height):
            notes.append("the size is the clip's own, times the model's factor: the request's is ignored")
        return {}
    main = _main(arguments, parameters)
    if upscales(type(pipeline)) and isinstance(arguments.get(VIDEO), list):
        return _size_before_upscaling(main, request, pipeline, notes)
    asked = _decided(main, arguments, request, pipeline)
    if asked is None:
        asked = (request.width or arguments.get(names[0]), request.height or arguments.get(names[1]))
    if not all(isinstance(side, int) for side in asked):
        return {name: side for name, side in zip(names, asked, strict=True) if side}
    size = sizes.fit_tiles(*sizes.round_size(*asked, sizes.size_multiple(pipeline)), pipeline)
    argument_limits.check_area(size, request.settings)
    if size != tuple(asked):
        notes.append(f"{asked[0]}x{asked[1]} is rounded to {size[0]}x{size[1]}")
    return dict(zip(names, size, strict=True))
