"""Which picture, video and sound of a request fills which argument, and at what size.

One rule for every pipeline: the request's pictures in order fill the picture parameters in the signature's order, the
main image first, then the mask, then the others; a parameter that takes a list takes what is left.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import sizes
from .errors import InvalidRequest
from .requests import GenerationRequest
from .signatures import (LAST_IMAGE, Parameters, audio_parameters, image_parameters, mask_parameters, parameters_of,
                         takes_list, video_parameters)
from .tasks import upscales


def media_arguments(request: GenerationRequest, pipeline: Any, notes: list[str]) -> dict[str, Any]:
    """Pictures, mask, video and sound by argument name.

    Raises InvalidRequest when the request brings more than the pipeline takes.
    """
    parameters = parameters_of(pipeline)
    found = _pictures(request, parameters, type(pipeline).__name__)
    found |= _one(request.video, video_parameters(parameters), "a video", pipeline)
    found |= _sound(request, pipeline)
    found |= _named(request, pipeline)
    if request.last_image is not None:
        if LAST_IMAGE not in parameters:
            raise InvalidRequest(f"end_image: {type(pipeline).__name__} takes no last picture ({LAST_IMAGE})")
        found[LAST_IMAGE] = request.last_image
    return _resized(found, request, pipeline, notes)


def _pictures(request: GenerationRequest, parameters: Parameters, class_name: str) -> dict[str, Any]:
    names, masks = image_parameters(parameters), mask_parameters(parameters)
    images, mask = list(request.images), request.mask
    if mask is None and masks and len(images) > 1:
        mask = images.pop(1).convert("L")
    found: dict[str, Any] = {masks[0]: mask} if mask is not None and masks else {}
    for name in names:
        if not images:
            break
        if name == names[-1] and len(images) > 1 and takes_list(parameters[name]) and not _starts_from(name, names, parameters):
            found[name], images = images, []
        else:
            found[name] = images.pop(0)
    if images:
        every = names + masks
        takes = f"{len(every)} ({', '.join(every)})" if every else "none"
        raise InvalidRequest(f"the request brings {len(request.images)} pictures (src, ref_images): {class_name} takes {takes}")
    return found


def _starts_from(name: str, names: list[str], parameters: Parameters) -> bool:
    """Whether the picture is noised and repainted (there is a strength for that): a list of those would be a batch of
    several outputs, where a list of references makes one."""
    return name == names[0] and "strength" in parameters


def _one(value: Any, names: list[str], what: str, pipeline: Any) -> dict[str, Any]:
    """``value`` for the first of ``names``, nothing where there is no value."""
    if not value:
        return {}
    if not names:
        raise InvalidRequest(f"the request brings {what}: {type(pipeline).__name__} takes none")
    return {names[0]: value}


def _sound(request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    """The request's sound at the model's rate: an array where the annotation says so, else a tensor (channels, samples)."""
    if request.audio is None:
        return {}
    from .media import audio, payloads

    parameters = parameters_of(pipeline)
    names = audio_parameters(parameters)
    if not names:
        raise InvalidRequest(f"audio: {type(pipeline).__name__} takes no sound")
    rate = payloads.sampling_rate_of(pipeline)
    track = audio.read_audio(request.audio, "audio", rate, max_seconds=request.settings.max_audio_seconds)
    return sound_argument(names[0], track, parameters)


def _named(request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    """``params`` that name a media argument of the signature with a path (or base64): read as what it takes."""
    parameters = parameters_of(pipeline)
    readers = {**dict.fromkeys(audio_parameters(parameters), _read_sound), **dict.fromkeys(image_parameters(parameters), _read_picture),
               **dict.fromkeys(mask_parameters(parameters), _read_mask), **dict.fromkeys(video_parameters(parameters), _read_video)}
    if LAST_IMAGE in parameters:
        readers[LAST_IMAGE] = _read_picture
    found: dict[str, Any] = {}
    for name, value in request.params.items():
        if name in readers and isinstance(value, str):
            found |= readers[name](name, value, request, pipeline)
    return found


def _data(name: str, value: str, request: GenerationRequest) -> bytes:
    from .media import files

    return files.decode_reference(value, f"params[{name!r}]", request.settings.max_source_bytes)


def _read_picture(name: str, value: str, request: GenerationRequest, _pipeline: Any, mode: str = "RGB") -> dict[str, Any]:
    from .media import images

    return {name: images.read_image(_data(name, value, request), f"params[{name!r}]", max_pixels=request.settings.max_source_pixels,
                                    mode=mode)}


def _read_mask(name: str, value: str, request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    return _read_picture(name, value, request, pipeline, mode="L")


def _read_video(name: str, value: str, request: GenerationRequest, _pipeline: Any) -> dict[str, Any]:
    from .media import videos

    return {name: videos.read_video(_data(name, value, request), f"params[{name!r}]", max_frames=request.settings.max_frames,
                                    max_pixels=request.settings.max_source_pixels)}


def _read_sound(name: str, value: str, request: GenerationRequest, pipeline: Any) -> dict[str, Any]:
    from .media import audio, payloads

    track = audio.read_audio(_data(name, value, request), f"params[{name!r}]", payloads.sampling_rate_of(pipeline),
                             max_seconds=request.settings.max_audio_seconds)
    return sound_argument(name, track, parameters_of(pipeline))


def sound_argument(name: str, track: Any, parameters: Parameters) -> dict[str, Any]:
    """``track`` in the form that the parameter ``name`` takes, with its rate where the signature asks for that too."""
    import torch

    if "ndarray" in str(parameters[name].annotation):
        value: Any = track.samples.mean(axis=0)
    else:
        value = torch.from_numpy(track.samples)
        value = value[None] if name.endswith("s") else value  # a plural name takes a batch
    rates = {key: torch.tensor(track.rate) if "Tensor" in str(parameter.annotation) else track.rate
             for key, parameter in parameters.items() if key.endswith("audio_sampling_rate")}
    return {name: value, **rates}


# --- sizes ---------------------------------------------------------------------------------------------------------


def _main(found: Mapping[str, Any], parameters: Parameters) -> Any:
    """The picture (or the first frame of the video) that decides the output's size, None if there is none."""
    names = image_parameters(parameters) + video_parameters(parameters)
    values = [found[name] for name in names if name in found]
    first = values[0] if values else None
    return first[0] if isinstance(first, list) and first else first


def _resized(found: dict[str, Any], request: GenerationRequest, pipeline: Any, notes: list[str]) -> dict[str, Any]:
    """The media at the size that the output will have: the main one's own, within the request's bound, aspect kept.

    The core's inpainting endpoint always asks for 512x512, so there the picture's own size counts alone. Upscalers take
    their source as it is, and so do pipelines for which a picture is only a reference (several in one argument).
    """
    parameters = parameters_of(pipeline)
    main = _main(found, parameters)
    names = image_parameters(parameters)
    several = bool(names) and isinstance(found.get(names[0]), list)
    if main is None or not hasattr(main, "resize") or several or upscales(type(pipeline)) or _size_is_free(request):
        return found
    bound = (None, None) if request.is_inpainting else (request.width, request.height)
    size = sizes.fit_within(main.size, bound, sizes.size_multiple(pipeline))
    if size != main.size:
        notes.append(f"the source of {main.width}x{main.height} is taken at {size[0]}x{size[1]}")
    return {name: _at_size(value, size) for name, value in found.items()}


def _size_is_free(request: GenerationRequest) -> bool:
    """A video request without a size leaves it to the pipeline: a photo's own size would be far too large a video."""
    return request.rpc == "GenerateVideo" and not (request.width or request.height)


def _at_size(value: Any, size: tuple[int, int]) -> Any:
    if isinstance(value, list):
        return [_at_size(part, size) for part in value]
    return value.resize(size) if hasattr(value, "resize") and getattr(value, "size", size) != size else value


def output_size(request: GenerationRequest, pipeline: Any, arguments: Mapping[str, Any], notes: list[str]) -> dict[str, int]:
    """Width and height where the signature has them: the main image's, else what is asked for to the nearest multiple."""
    parameters = parameters_of(pipeline)
    if "width" not in parameters or "height" not in parameters:
        return {}
    main = _main(arguments, parameters)
    if main is not None and hasattr(main, "size") and not _size_is_free(request) and not upscales(type(pipeline)):
        asked = main.size
    else:
        asked = (request.width or arguments.get("width"), request.height or arguments.get("height"))
    if not all(isinstance(side, int) for side in asked):
        return {name: side for name, side in zip(("width", "height"), asked, strict=True) if side}
    size = sizes.round_size(*asked, sizes.size_multiple(pipeline))
    if size != tuple(asked):
        notes.append(f"{asked[0]}x{asked[1]} is rounded to {size[0]}x{size[1]}")
    return {"width": size[0], "height": size[1]}
