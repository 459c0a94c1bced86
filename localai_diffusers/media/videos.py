# SPDX-License-Identifier: MIT
"""Moving pictures: read a clip as frames, write MP4 (H.264), WebM (VP9) or GIF frame by frame, through
PyAV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from localai_diffusers.errors import BackendError, GenerationFailed, InvalidRequest
from localai_diffusers.media.audio import AAC_RATES, AudioTrack, add_audio_stream, encoded_packets
from localai_diffusers.media.containers import open_output, open_payload
from localai_diffusers.media.files import DEFAULT_MAX_BYTES, read_regular_file, shown, uncounted
from localai_diffusers.media.images import frame_count, open_frames
from localai_diffusers.media.pixels import as_shown, flat

DEFAULT_FPS = 8.0
_MAX_DENOMINATOR = 1001  # 23.976 is 24000/1001
_SLOWEST, _FASTEST = 0.01, 1000
_MATRIX = "DISPLAYMATRIX"
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # codec -> the decoder that gives its alpha plane


def _nothing() -> None:
    """The stop check of a caller that never stops."""


# --- writing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Container:
    """A PyAV container: its video codecs, best first, their options, the pixel format, and its sound."""

    codecs: tuple[str, ...]
    pixel_format: str
    sound: tuple[str, str, tuple[int, ...]]  # codec, sample format, rates it takes
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


_CONTAINERS = {
    "mp4": _Container(
        # The wheels of PyAV bundle x264; a build without it has OpenH264 or at least MPEG-4 part 2.
        codecs=("libx264", "libopenh264", "h264_videotoolbox", "mpeg4"),
        pixel_format="yuv420p",
        options={"crf": "18", "preset": "medium"},
        container_options={"movflags": "+faststart"},
        sound=("aac", "fltp", AAC_RATES),
    ),
    "webm": _Container(
        codecs=("libvpx-vp9", "libvpx"),
        pixel_format="yuv420p",
        options={"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
        sound=("libopus", "flt", (48000,)),
    ),
}


def video_container(dst: str) -> str:
    """ "webm" or "gif" where ``dst`` ends so, else "mp4", whatever the extension."""
    extension = Path(dst).suffix.lower().removeprefix(".")
    return extension if extension in ("webm", "gif") else "mp4"


def frame_size(frame: Any) -> tuple[int, int]:
    """(width, height) of a picture or of an array (H, W, C) or (H, W)."""
    return frame.size if isinstance(frame, Image.Image) else (frame.shape[1], frame.shape[0])


def encode_video(
    frames: Sequence[Any] | np.ndarray,
    fps: float,
    path: Path,
    container: str = "mp4",
    audio: AudioTrack | None = None,
    check: Callable[[], None] = _nothing,
    comment: str = "",
) -> tuple[int, int]:
    """Write ``frames`` at ``fps`` to ``path``, with the sound track where the container has one (not a GIF).

    frames: pictures, or arrays (H, W, C) of C 1, 3 or 4, uint8 or float 0..1; all of the first one's size. An
    odd width or height, which yuv420p can't hold, loses its last column or row (a side of 1 is doubled
    instead). ``check`` is called before every frame and may raise to stop; ``comment`` stands among the tags.
    Returns the (width, height) written. Raises GenerationFailed if there are no frames, InvalidRequest for a rate
    outside 0.01 to 1000.
    """
    if not len(frames):
        raise GenerationFailed("the pipeline returned a video without frames; ask for more frames")
    if not _SLOWEST <= fps <= _FASTEST:
        raise InvalidRequest(f"fps: {fps} isn't a usable rate; give {_SLOWEST} to {_FASTEST} frames per second")
    if container == "gif":
        _write_gif(frames, fps, path, check, comment)
        return frame_size(frames[0])
    target = _CONTAINERS[container]
    with open_output(path, container, target.container_options, comment) as output:
        video = _add_video_stream(output, target, frames[0], fps)
        sound = None if audio is None else add_audio_stream(output, target.sound[0], audio, target.sound[2])
        packets = _video_packets(video, _even_frames(frames, check))
        if audio is not None:
            packets = _interleaved(packets, encoded_packets(sound, audio, target.sound[1]))
        for packet in packets:
            output.mux(packet)
        return video.width, video.height


def _add_video_stream(output: Any, target: _Container, first: Any, fps: float) -> Any:
    codec = next((name for name in target.codecs if name in av.codecs_available and _can_encode(name)), None)
    if codec is None:
        raise GenerationFailed(
            f"this build of PyAV has none of the encoders {', '.join(target.codecs)}; install the av package from PyPI"
        )
    stream = output.add_stream(codec, rate=Fraction(fps).limit_denominator(_MAX_DENOMINATOR))
    stream.width, stream.height = (max(2, side - side % 2) for side in frame_size(first))
    stream.pix_fmt = target.pixel_format
    if codec == target.codecs[0]:
        stream.options = dict(target.options)
    # RGB is converted as BT.601, the default of the converter; without the tag players guess by the height.
    stream.codec_context.colorspace = 6
    return stream


def _can_encode(codec: str) -> bool:
    try:
        return av.codec.Codec(codec, "w").is_encoder
    except ValueError:  # UnknownCodecError
        return False


def _even_frames(frames: Iterable[Any], check: Callable[[], None]) -> Iterator[np.ndarray]:
    """Each frame as uint8 (H, W, 3) of even sides, after a stop check."""
    for frame in frames:
        check()
        pixels = frame_pixels(frame)
        height, width = pixels.shape[:2]
        if 1 in (height, width):
            pixels = pixels.repeat(2 if height == 1 else 1, axis=0).repeat(2 if width == 1 else 1, axis=1)
            height, width = pixels.shape[:2]
        yield np.ascontiguousarray(pixels[: height - height % 2, : width - width % 2])


def frame_pixels(frame: Any) -> np.ndarray:
    """A picture or an array (H, W[, C]), uint8 or float 0..1, as uint8 (H, W, 3)."""
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    pixels = np.asarray(frame)
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.rint(np.nan_to_num(pixels) * 255.0), 0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _video_packets(stream: Any, frames: Iterator[np.ndarray]) -> Iterator[Any]:
    for index, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = index, 1 / Fraction(stream.average_rate or stream.rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _interleaved(video: Iterator[Any], audio: Iterator[Any]) -> Iterator[Any]:
    """Packets of both streams by time, so that a player needn't seek and the muxer needn't hold a whole
    stream.
    """
    waiting = next(audio, None)
    for packet in video:
        while waiting is not None and _seconds(waiting) <= _seconds(packet):
            yield waiting
            waiting = next(audio, None)
        yield packet
    if waiting is not None:
        yield waiting
    yield from audio


def _seconds(packet: Any) -> Fraction | float:
    return packet.dts * packet.time_base if packet.dts is not None and packet.time_base else 0.0


def _write_gif(
    frames: Sequence[Any] | np.ndarray, fps: float, path: Path, check: Callable[[], None], comment: str
) -> None:
    """A looping GIF. Its clock ticks in 1/100 s, so the delays alternate and every frame ends at its tick; above
    100 fps frames that would last none are left out. (Browsers slow down what lasts a single tick, above 50 fps.)
    """
    ends = [round((index + 1) * 100 / fps) for index in range(len(frames))]
    delays = [10 * (end - begin) for begin, end in zip([0, *ends], ends, strict=False)]
    lasting = [index for index, delay in enumerate(delays) if delay] or [0]

    def pictures() -> Iterator[Image.Image]:
        for index in lasting:
            check()
            yield Image.fromarray(frame_pixels(frames[index]))

    stream = pictures()
    first = next(stream)
    said = {"comment": comment.encode()} if comment else {}
    durations = [delays[index] or 10 for index in lasting]
    first.save(path, format="GIF", save_all=True, append_images=stream, duration=durations, loop=0, **said)


# --- reading ------------------------------------------------------------------------------------------------


def read_video(
    data: bytes | str | Path,
    field: str,
    *,
    max_frames: int,
    max_pixels: int,
    max_bytes: int = DEFAULT_MAX_BYTES,
    take: Callable[[int], None] = uncounted,
) -> list[Image.Image]:
    """The first ``max_frames`` frames of a clip, an animated GIF or WebP, or a still picture, as RGB
    pictures.

    ``data``: bytes, or the path of a file. Raises InvalidRequest naming ``field`` for what holds no frames,
    is broken, or has frames of more than ``max_pixels`` pixels. ``take`` is told the bytes of each frame before it
    is decoded, and may refuse it.
    """
    name = f"{field}: the payload" if isinstance(data, bytes) else f"{field}: {shown(data)}"
    content = data if isinstance(data, bytes) else read_regular_file(data, field, max_bytes)
    try:
        frames = _picture_frames(content, name, max_frames, max_pixels, take)
        frames = frames if frames is not None else _clip_frames(content, name, max_frames, max_pixels, take)
    except (BackendError, MemoryError):
        raise
    except Exception as error:  # Pillow and PyAV raise nearly anything on a broken file
        raise InvalidRequest(
            f"{name} isn't a video that can be read ({error}); send a whole MP4, WebM or GIF file"
        ) from error
    if not frames:
        raise InvalidRequest(f"{name} has no frames; send a whole MP4, WebM or GIF file")
    return frames


def frame_rate(content: bytes) -> float | None:
    """Frames a second of a clip, of a moving picture on average; None for what tells none."""
    try:
        rate = _picture_rate(open_frames(content))
        return rate if rate and _SLOWEST <= rate <= _FASTEST else None
    except UnidentifiedImageError:
        pass
    try:
        with open_payload(content) as source:
            rate = source.streams.video[0].average_rate if source.streams.video else None
    except (OSError, ValueError):  # av.error.FFmpegError is one or the other
        return None
    return float(rate) if rate and _SLOWEST <= rate <= _FASTEST else None


def _picture_rate(image: Image.Image) -> float | None:
    """What the frames' own durations, in ms, come to on average."""
    total, count = 0.0, frame_count(image)
    for index in range(count):
        image.seek(index)
        image.load()  # WebP's durations are known only then
        total += image.info.get("duration") or 0
    return 1000.0 * count / total if count > 1 and total else None


def _picture_frames(
    content: bytes, name: str, max_frames: int, max_pixels: int, take: Callable[[int], None]
) -> list[Image.Image] | None:
    """The frames that Pillow finds, None where it knows no picture in ``content``."""
    try:
        image = open_frames(content)
    except UnidentifiedImageError:
        return None
    _check_size(*image.size, name, max_pixels)
    frames = []
    for index in range(min(max_frames, frame_count(image))):
        take(image.width * image.height * 4)
        image.seek(index)
        frames.append(as_shown(image, "RGB"))
    return frames


def _clip_frames(
    content: bytes, name: str, max_frames: int, max_pixels: int, take: Callable[[int], None]
) -> list[Image.Image]:
    frames: list[Image.Image] = []
    with open_payload(content) as source:
        if not source.streams.video:
            raise InvalidRequest(f"{name} has no pictures; send a whole MP4, WebM or GIF file")
        stream = source.streams.video[0]
        _check_size(stream.width, stream.height, name, max_pixels)
        for frame in _decoded(source, stream):
            _check_size(frame.width, frame.height, name, max_pixels)
            take(frame.width * frame.height * 4)
            frames.append(_turned(_opaque(frame), frame))
            if len(frames) >= max_frames:
                break
    return frames


def _decoded(source: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream. Those of VP8 and VP9 with transparency come whole from libvpx alone, no default."""
    decoder = _WITH_ALPHA.get(stream.codec_context.name) if stream.metadata.get("alpha_mode") == "1" else None
    if decoder is None:
        yield from source.decode(stream)
        return
    context: Any = av.CodecContext.create(decoder, "r")
    for packet in source.demux(stream):
        yield from context.decode(packet)


def _opaque(frame: Any) -> Image.Image:
    """The frame as RGB, transparency on white as in stills."""
    if any(component.is_alpha for component in frame.format.components):
        return flat(Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA"), "RGB")
    return frame.to_image()


def _turned(picture: Image.Image, frame: Any) -> Image.Image:
    """The picture as the display matrix of its frame turns and mirrors it, in quarters: phones film as they are held.

    The matrix is (a b u, c d v, x y w) of ISO/IEC 14496-12, 6.2.2: it puts (p, q) at (a p + c q, b p + d q).
    """
    if _MATRIX not in frame.side_data:
        return picture
    a, b, _u, c, d = np.frombuffer(bytes(frame.side_data[_MATRIX]), np.int32)[:5].tolist()
    across, down = (a, d) if abs(a) >= abs(b) else (c, b)
    if abs(b) > abs(a):
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    if across < 0:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if down < 0 else picture


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InvalidRequest(
            f"{name} has frames of {width}x{height} pixels, the limit is {max_pixels}; send a smaller video"
        )
