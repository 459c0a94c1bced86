# SPDX-License-Identifier: MIT
"""What came out of a pipeline, told by its runtime type and rank.

diffusers has no common output type: 306 pipelines name their fields as they like, and the default
``output_type`` is pil, np or pt. So a value is judged by what it is (a picture, a list of lists of pictures,
an array of rank 5, a thing with ``verts`` and ``faces``), and the field's name and the caller's hint only
settle what shapes leave open.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

from localai_diffusers.errors import NothingMade
from localai_diffusers.media.arrays import channels_last, to_numpy, to_pixels, waveforms, without_nan
from localai_diffusers.media.rates import is_rate
from localai_diffusers.media.tracks import AudioTrack

DEFAULT_SAMPLING_RATE = 16000  # of the vocoders that don't tell theirs; diffusers-cli assumes the same

_VIDEO_FIELDS = frozenset({"frames", "video", "videos"})
_AUDIO_FIELDS = frozenset({"audios", "audio", "sound", "waveform", "waveforms", "speech"})
_DEPTH_FIELDS = frozenset({"prediction", "depth"})
_RESULT_FIELDS = _VIDEO_FIELDS | _AUDIO_FIELDS | _DEPTH_FIELDS | {"images", "texts", "sampling_rate"}
# Beside the main field: diagnostics, intermediate results, and what the safety checker took away.
_SIDE_FIELDS = re.compile(r"embed|latent|sequence|uncertainty|keyframe|action|logit|mask|^unsafe|reconstruction")
# Under any other name an array of rank 2 or 3 is some model's coordinates or scores.
_PICTURES = re.compile(r"^$|image|picture|rgb|frame|video|depth|prediction|normal|albedo|sample|output|pixel")
_NOT_MEDIA = re.compile(r"nsfw|detected|concept|revised_prompt|position|_rate$|^fps$")
# The first kind that an output has is what it is: a video keeps its sound, a sound its spectrogram picture.
_PRIORITY = ("mesh", "video", "audio", "image", "depth", "text", "embeddings")
# No picture is as low and as wide as a waveform of one or two channels.
_LOWEST_PICTURE, _SHORTEST_SOUND = 2, 2048


@dataclass(frozen=True, eq=False)
class Payload:
    """One pipeline call's result. ``kind`` is "image", "video", "audio", "mesh", "depth", "embeddings" or
    "text".

    images: pictures, 8 bits a channel. videos: each a tuple of pictures or a uint8 array (F, H, W, C), C 1, 3
    or 4. arrays: depth maps, float32 (H, W), in the pipeline's own units. Fields of other kinds than ``kind``
    may be filled too: a video's ``sounds``, the ``arrays`` beside an RGB-D picture.
    """

    kind: str
    images: tuple[Image.Image, ...] = ()
    videos: tuple[Any, ...] = ()
    sounds: tuple[AudioTrack, ...] = ()
    meshes: tuple[Any, ...] = ()
    arrays: tuple[np.ndarray, ...] = ()
    text: str = ""

    @property
    def audio(self) -> AudioTrack | None:
        """The first sound."""
        return next(iter(self.sounds), None)

    def answers(self) -> list[Payload]:
        """Each thing of the payload that fills a file alone: a picture's depth comes after the pictures, a video keeps
        the sound of its own number."""
        pictures = [Payload("image", images=(image,)) for image in self.images]
        depths = [Payload("depth", arrays=(array,)) for array in self.arrays]
        videos = [
            Payload("video", videos=(video,), sounds=self.sounds[number : number + 1])
            for number, video in enumerate(self.videos)
        ]
        every = {
            "image": pictures + depths,
            "depth": depths,
            "video": videos,
            "audio": [Payload("audio", sounds=(track,)) for track in self.sounds],
            "mesh": [Payload("mesh", meshes=(mesh,)) for mesh in self.meshes],
        }
        return every.get(self.kind, [self])


def payload_from_output(output: Any, *, sampling_rate: int | None, hint: str | None = None) -> Payload:
    """The payload in what a pipeline returned: a BaseOutput, a dataclass, a mapping, a tuple, or a bare
    value.

    ``sampling_rate``: of any sound in it, in Hz (:func:`~localai_diffusers.media.rates.sampling_rate_of`).
    ``hint``: "video" where the call was for frames (a batch of pictures is then one video: TextToVideoZero),
    "image" where one picture was asked for (a video of a single frame is then a picture). Raises
    GenerationFailed if there is nothing known in it, or only NaN.
    """
    found: dict[str, list[Any]] = {}
    parts = list(_fields(output))
    told = next((value for name, value in parts if name == "sampling_rate" and is_rate(value)), None)
    for name, value in parts:
        kind, content = _classify(name, value, hint, told or sampling_rate)
        if kind:
            found.setdefault(kind, []).extend(content)
    main = next((kind for kind in _PRIORITY if found.get(kind)), None)
    if main is None:
        raise NothingMade(f"the pipeline returned nothing that can be written ({_described(output)})")
    return Payload(
        kind=main,
        images=tuple(found.get("image", ())),
        videos=tuple(found.get("video", ())),
        sounds=tuple(found.get("audio", ())),
        meshes=tuple(found.get("mesh", ())),
        arrays=tuple(found.get("depth", ())),
        text="\n".join(found.get("text", ())),
    )


def _fields(output: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of the output's parts; the name is "" in a plain tuple."""
    if _is_mesh(output):
        yield "", output
    elif isinstance(output, Mapping):
        yield from output.items()
    elif isinstance(getattr(output, "values", None), Mapping):
        # A modular pipeline's state holds the inputs and every intermediate value beside the results.
        yield from ((name, value) for name, value in output.values.items() if name in _RESULT_FIELDS)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from ((field.name, getattr(output, field.name)) for field in dataclasses.fields(output))
    elif isinstance(output, tuple):
        yield from zip(getattr(output, "_fields", ("",) * len(output)), output, strict=True)
    else:
        yield "", output


def _described(output: Any) -> str:
    names = [name for name, _ in _fields(output) if name]
    return f"{type(output).__name__} with {', '.join(names)}" if names else type(output).__name__


def _classify(name: str, value: Any, hint: str | None, rate: int | None) -> tuple[str, list[Any]]:
    """(kind, contents) of one field; kind "" for what is no media: flags, rates, None."""
    if value is None or _NOT_MEDIA.search(name):
        return "", []
    if _SIDE_FIELDS.search(name):
        return "embeddings", [value]
    if _is_rated_sound(value):
        return "audio", [AudioTrack(samples, int(value[0])) for samples in waveforms("audios", value[1])]
    if name in _AUDIO_FIELDS or _looks_like_sound(value):
        return "audio", [AudioTrack(samples, rate or DEFAULT_SAMPLING_RATE) for samples in waveforms(name, value)]
    if isinstance(value, (list, tuple)):
        return _classify_sequence(name, value, hint)
    if isinstance(value, str):
        return "text", [value]
    if isinstance(value, Image.Image):
        return _pictures(name, [value], hint)
    if _is_mesh(value):
        return "mesh", [value]
    return _classify_array(name, value, hint) if _is_array(value) else ("", [])


def _classify_sequence(name: str, value: Sequence[Any], hint: str | None) -> tuple[str, list[Any]]:
    items = [item for item in value if item is not None]
    first = items[0] if items else None
    if isinstance(first, (list, tuple)) and first:
        return _classify_nested(name, items, hint)
    if isinstance(first, Image.Image):
        return _pictures(name, items, hint)
    if isinstance(first, str):
        return "text", items
    if _is_mesh(first):
        return "mesh", items
    if _is_array(first):
        return _classify_arrays(name, items, hint)
    return "", []


def _classify_nested(name: str, items: list[Sequence[Any]], hint: str | None) -> tuple[str, list[Any]]:
    """A list of lists: videos as a rule; layers of one picture where pictures are made or they are RGBA,
    pictures if each stands alone.
    """
    inner = [_classify_sequence("", each, None) for each in items]
    if not all(kind == inner[0][0] for kind, _ in inner):
        return "", []
    if inner[0][0] != "image":
        return inner[0][0], list(chain.from_iterable(content for _, content in inner))
    flat = [image for _, content in inner for image in content]
    alone = all(len(content) == 1 for _, content in inner) and name not in _VIDEO_FIELDS and hint != "video"
    layers = (flat[0].mode == "RGBA" or hint == "image") and name not in _VIDEO_FIELDS
    if alone or layers:
        return "image", flat
    return _videos([tuple(content) for _, content in inner], hint)


def _pictures(name: str, images: list[Image.Image], hint: str | None) -> tuple[str, list[Any]]:
    if name in _DEPTH_FIELDS:
        return "depth", [_depth_of_picture(image) for image in images]
    if name in _VIDEO_FIELDS or (hint == "video" and len(images) > 1):
        return _videos([tuple(images)], hint)
    return "image", images


def _videos(videos: list[Any], hint: str | None) -> tuple[str, list[Any]]:
    if hint == "image" and all(len(video) == 1 for video in videos):
        return "image", [_picture(video[0]) for video in videos]
    return "video", videos


def _picture(frame: Any) -> Image.Image:
    if isinstance(frame, Image.Image):
        return frame
    return Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)


def _depth_of_picture(image: Image.Image) -> np.ndarray:
    """A depth picture (16-bit gray, or 8-bit) as float32 (H, W) in 0..1."""
    full = 65535.0 if image.mode.startswith("I") else 255.0
    samples = np.asarray(image if image.mode.startswith("I") else image.convert("L"), dtype=np.float32)
    return samples / full


def _is_mesh(value: Any) -> bool:
    return hasattr(value, "verts") and hasattr(value, "faces")


def _is_array(value: Any) -> bool:
    """A numpy array or a torch tensor of numbers, told without importing torch."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def _looks_like_sound(value: Any) -> bool:
    """Whether an array under any name can only be a waveform, (n), (C, n) or (B, C, n)."""
    shape = tuple(value.shape) if _is_array(value) else ()
    return 1 <= len(shape) <= 3 and shape[-1] >= _SHORTEST_SOUND and max(shape[-2:-1], default=1) <= _LOWEST_PICTURE


def _is_rated_sound(value: Any) -> bool:
    """(rate, waveforms), as AudioDiffusion returns in a plain tuple."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], int)
        and isinstance(value[1], (list, np.ndarray))
    )


def _classify_arrays(name: str, items: list[Any], hint: str | None) -> tuple[str, list[Any]]:
    """A list of arrays: frames or pictures of rank 2 and 3, videos or batches of rank 4 and up."""
    if len(items[0].shape) <= 3 and len({tuple(item.shape) for item in items}) == 1:
        stacked = np.stack([to_numpy(item) for item in items])
        return _classify_array(name, stacked, hint, channels_first=hasattr(items[0], "detach"))
    parts = [_classify_array(name if name in _VIDEO_FIELDS else "", item, hint or "video") for item in items]
    content = list(chain.from_iterable(part for _, part in parts))
    kind = parts[0][0]
    if kind == "video" and name not in _VIDEO_FIELDS and content[0].shape[-1] == 4:  # layers, as above
        return "image", [_picture(frame) for video in content for frame in video]
    return kind, content


def _classify_array(
    name: str, value: Any, hint: str | None, channels_first: bool | None = None
) -> tuple[str, list[Any]]:
    """(kind, contents) of one array by its rank: 2 and 3 a picture, 4 pictures or a video, 5 videos."""
    first = hasattr(value, "detach") if channels_first is None else channels_first
    array = to_numpy(value)
    if array.dtype.kind not in "fiub" or not 2 <= array.ndim <= 5 or not (array.ndim > 3 or _PICTURES.search(name)):
        return "embeddings", [value]
    is_video = array.ndim == 5 or name in _VIDEO_FIELDS or (hint == "video" and array.ndim == 4 and len(array) > 1)
    frames = channels_last(array, first, video=is_video)
    if frames is None:
        return "embeddings", [value]
    if name in _DEPTH_FIELDS and frames.shape[-1] == 1:
        depth = frames.astype(np.float32)
        depth = without_nan(depth, np.isfinite(depth), floor=None)
        return "depth", list(depth.reshape(-1, *depth.shape[-3:-1]))
    pixels = to_pixels(frames)
    if is_video:
        pixels = pixels if pixels.ndim > 3 else pixels[np.newaxis]
        return _videos(list(pixels.reshape(-1, *pixels.shape[-4:])), hint)
    return "image", [_picture(each) for each in pixels.reshape(-1, *pixels.shape[-3:])]
