# SPDX-License-Identifier: MIT
"""The payload of a pipeline call and the file that it becomes: the one door to this package's writers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from localai_diffusers.errors import NotSupported, OutputError
from localai_diffusers.media.comments import text_of
from localai_diffusers.media.files import atomic_output
from localai_diffusers.media.outputs import Payload, payload_from_output
from localai_diffusers.media.rates import frame_rate_of, sampling_rate_of

__all__ = ["Payload", "frame_rate_of", "payload_from_output", "sampling_rate_of", "write_others", "write_payload"]


@dataclass(frozen=True)
class _Job:
    """What a writer needs beside the payload: the name asked for, the file to fill, rate, text and the stop
    check.
    """

    dst: str
    path: Path
    fps: float
    metadata: dict[str, str] | None
    check: Callable[[], None]


def write_payload(
    payload: Payload, dst: str, *, fps: float, metadata: dict[str, str] | None, check: Callable[[], None]
) -> str:
    """Write the first picture, video, sound or mesh of ``payload`` to ``dst`` in one atomic move; say what it
    is.

    The kind decides the family of formats, the extension of ``dst`` only the format within it: a picture
    called .mp4 is a PNG, a video called .png or .tmp an MP4. ``fps``: of a video. ``check`` is called for
    every frame and may raise to stop. Returns e.g. "PNG 512x512" or "MP4 16 frames at 8 fps 64x64". Raises
    NotSupported for text and embeddings, which have no file, and what
    :func:`~localai_diffusers.media.files.atomic_output` raises.
    """
    writer = _WRITERS.get(payload.kind)
    if writer is None:
        raise NotSupported(
            f"the loaded pipeline makes {payload.kind}, not a file; load the pipeline that uses it, "
            "the combined one where there is one"
        )
    with atomic_output(dst) as path:
        check()
        described = writer(payload, _Job(dst, path, fps, metadata, check))
        check()
        return described


def write_others(payload: Payload, dst: str, **how: Any) -> str:
    """Write what ``payload`` holds beyond its first answer beside ``dst``: out-2.png, out-3.png, …; say so, "" where
    there is nothing more. ``how``: as for :func:`write_payload`.

    A temporary ``dst`` (the core's, which fetches that file alone) is given no others.
    """
    others, path = payload.answers()[1:], Path(dst)
    if not others:
        return ""
    if path.suffix == ".tmp":
        return f"{len(others)} more came out and are not written: one answer carries one file"
    names = [f"{path.stem}-{number}{path.suffix}" for number in range(2, len(others) + 2)]
    try:
        for other, name in zip(others, names, strict=True):
            write_payload(other, str(path.with_name(name)), **how)
    except OutputError as error:
        return f"{len(others)} more came out and could not be written beside dst ({error})"
    return f"{len(others)} more beside it: {', '.join(names)}"


def _write_image(payload: Payload, job: _Job) -> str:
    from localai_diffusers.media.images import image_format, save_image

    image, format = payload.images[0], image_format(job.dst)
    save_image(image, job.path, format, job.metadata)
    return f"{format} {image.width}x{image.height}"


def _write_depth(payload: Payload, job: _Job) -> str:
    """Depth as gray, 0..1 as it is and any other range stretched: 16 bits in a PNG, 8 elsewhere."""
    from localai_diffusers.media.images import image_format, save_image

    depth, format = payload.arrays[0], image_format(job.dst)
    low, high = (0.0, 1.0) if depth.min() >= 0 and depth.max() <= 1 else (float(depth.min()), float(depth.max()))
    scaled = (depth - low) / ((high - low) or 1.0)
    levels = np.rint(scaled * 65535).astype(np.uint16) if format == "PNG" else np.rint(scaled * 255).astype(np.uint8)
    save_image(Image.fromarray(levels), job.path, format, job.metadata)
    return f"{format} depth {depth.shape[1]}x{depth.shape[0]}"


def _write_video(payload: Payload, job: _Job) -> str:
    from localai_diffusers.media.videos import encode_video, video_container

    video, container = payload.videos[0], video_container(job.dst)
    width, height = encode_video(
        video, job.fps, job.path, container, payload.audio, check=job.check, comment=text_of(job.metadata)
    )
    sound = f", sound at {payload.audio.rate} Hz" if payload.audio and container != "gif" else ""
    return f"{container.upper()} {len(video)} frames at {job.fps:g} fps {width}x{height}{sound}"


def _write_audio(payload: Payload, job: _Job) -> str:
    from localai_diffusers.media.audio import audio_container, encode_audio

    track, container = payload.audio, audio_container(job.dst)
    assert track is not None  # the kind says so
    encode_audio(track, job.path, container, text_of(job.metadata))
    return f"{container.upper()} {track.seconds:.2f} s at {track.rate} Hz, {len(track.samples)} channel(s)"


def _write_mesh(payload: Payload, job: _Job) -> str:
    from localai_diffusers.media.meshes import encode_glb

    vertices, faces = encode_glb(payload.meshes[0], job.path, text_of(job.metadata))
    return f"GLB {vertices} vertices, {faces} triangles"


_WRITERS: dict[str, Callable[[Payload, _Job], str]] = {
    "image": _write_image,
    "depth": _write_depth,
    "video": _write_video,
    "audio": _write_audio,
    "mesh": _write_mesh,
}
