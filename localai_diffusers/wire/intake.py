# SPDX-License-Identifier: MIT
"""What a request brings is read here, within the limits: of each file, and of the memory that all requests take.

Sources are decoded when they come in, so that a bad one is told at once however long the queue; so a queue of large
pictures would hold them all. What is held is counted before it is decoded, and refused where there is no room for it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from localai_diffusers.errors import InvalidRequest, QueueFull
from localai_diffusers.settings import Settings

if TYPE_CHECKING:
    from PIL import Image


class SourceMemory:
    """At most ``most`` bytes for the sources of all requests that are read, wait or run.

    A request's share is its own as long as anything holds its :class:`Intake`, which its job does: so it is given back
    when its pictures are, by whatever way the request ends.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._intakes: weakref.WeakSet[Intake] = weakref.WeakSet()

    def add(self, intake: Intake) -> None:
        with self._lock:
            self._intakes.add(intake)

    def take(self, intake: Intake, size: int, field: str) -> None:
        """Count ``size`` bytes more for ``intake``.

        Raises InvalidRequest where the request alone wants more than there is, QueueFull where others hold it.
        """
        with self._lock:
            wanted = intake.size + size
            held = sum(other.size for other in self._intakes if other is not intake)
            if wanted > self._most:
                raise InvalidRequest(
                    f"{field}: the request's inputs take {wanted} bytes when decoded, the limit is {self._most} "
                    "(LOCALAI_DIFFUSERS_MAX_SOURCE_MEMORY): send fewer or smaller ones"
                )
            if held + wanted > self._most:
                raise QueueFull(
                    f"{field}: the inputs of other requests take {held} bytes of {self._most} "
                    f"(LOCALAI_DIFFUSERS_MAX_SOURCE_MEMORY), this one needs {wanted}: try again later"
                )
            intake.size = wanted


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames, and how many of them a second, None where nothing tells."""

    frames: list[Image.Image]
    rate: float | None = None


class Intake:
    """Reads the media of one request. ``size``: bytes that it holds now. Every method raises InvalidRequest naming the
    field for what cannot be read, and what :meth:`SourceMemory.take` raises."""

    def __init__(self, settings: Settings, memory: SourceMemory | None = None) -> None:
        self.size = 0
        self.settings = settings
        self._memory = memory or SourceMemory(settings.max_source_memory)
        self._memory.add(self)

    def take(self, field: str, size: int) -> None:
        self._memory.take(self, size, field)

    def data(self, name: str, value: str) -> bytes:
        """The bytes that a path, base64 text or data URI gives."""
        from localai_diffusers.media import files

        return files.decode_reference(value, name, self.settings.max_source_bytes, partial(self.take, name))

    def sound(self, name: str, value: str) -> bytes | None:
        """The bytes of a sound file, not decoded; None for ""."""
        return self.data(name, value) if value else None

    def picture(self, name: str, value: str, mode: str = "RGB") -> Image.Image | None:
        """The picture that a path, base64 text or data URI gives, None for ""."""
        if not value:
            return None
        with self._only_the_result() as results:
            results.append(self._decoded(name, self.data(name, value), mode))
        return results[0]

    def picture_file(self, name: str, path: str, mode: str = "RGB") -> Image.Image:
        """The picture in the file ``path``; "RGBA" keeps its transparency where it has some."""
        from localai_diffusers.media import files

        take = partial(self.take, name)
        with self._only_the_result() as results:
            data = files.read_regular_file(path, name, self.settings.max_source_bytes, take)
            results.append(self._decoded(name, data, mode))
        return results[0]

    def inpaint_pair(self, name: str, path: str) -> tuple[Image.Image, Image.Image] | None:
        """The picture and the mask of the core's inpainting JSON, None where ``path`` is something else."""
        from localai_diffusers.media import images

        limits = {"max_pixels": self.settings.max_source_pixels, "max_bytes": self.settings.max_source_bytes}
        with self._only_the_result() as results:
            pair = images.read_inpaint_json(path, name, **limits, take=partial(self.take, name))
            results.extend(pair or ())
        return pair

    def video(self, name: str, data: bytes) -> list[Image.Image]:
        """The frames of the clip in ``data``."""
        from localai_diffusers.media import videos

        with self._only_the_result() as results:
            results += videos.read_video(
                data,
                name,
                max_frames=self.settings.max_frames,
                max_pixels=self.settings.max_source_pixels,
                take=partial(self.take, name),
            )
        return results

    def start(self, name: str, value: str) -> tuple[Image.Image | None, Clip | None, bytes]:
        """A picture, and its bytes where it moves; or the clip that ``value`` is; nothing for ""."""
        if not value:
            return None, None, b""
        with self._only_the_result() as results:
            data = self.data(name, value)
            try:
                picture = self._decoded(name, data, "RGB")
            except InvalidRequest as not_a_picture:
                try:
                    clip = self.clip(name, data)
                except InvalidRequest:
                    raise not_a_picture from None
                results += clip.frames
                return None, clip, b""
            results.append(picture)
        return picture, None, self._moving(name, data)

    def moving_picture_file(self, name: str, path: str) -> tuple[Image.Image, bytes]:
        """The picture in the file ``path``, and its bytes where it moves."""
        from localai_diffusers.media import files

        with self._only_the_result() as results:
            data = files.read_regular_file(path, name, self.settings.max_source_bytes, partial(self.take, name))
            results.append(self._decoded(name, data, "RGB"))
        return results[0], self._moving(name, data)

    def _moving(self, name: str, data: bytes) -> bytes:
        """``data``, which counts as held, where it is a picture that moves: whether its frames are wanted tells the
        pipeline, and most want none."""
        from localai_diffusers.media import images

        if not images.is_animated(data):
            return b""
        self.take(name, len(data))
        return data

    def clip(self, name: str, data: bytes) -> Clip:
        """The clip in ``data``, a video or a picture that moves."""
        from localai_diffusers.media import videos

        return Clip(self.video(name, data), videos.frame_rate(data))

    def _decoded(self, name: str, data: bytes, mode: str) -> Image.Image:
        from localai_diffusers.media import images

        limit = self.settings.max_source_pixels
        return images.read_image(data, name, max_pixels=limit, mode=mode, take=partial(self.take, name))

    @contextmanager
    def _only_the_result(self) -> Iterator[list[Image.Image]]:
        """What the block takes is given back, but for the pictures that it leaves in the list."""
        from localai_diffusers.media import images

        before = self.size
        results: list[Image.Image] = []
        try:
            yield results
        finally:
            self.size = before + sum(images.picture_bytes(image) for image in results)
