# SPDX-License-Identifier: MIT
"""For the tests of the RPCs: one server that they all share, inputs of every kind, and requests in a line."""

from __future__ import annotations

import atexit
import base64
import functools
import json
import unittest
import wave
from pathlib import Path
from typing import Any

import av
import grpc
import numpy

import backend_pb2
from tests import zoo
from tests.every_pipeline.test_zoo_server import ZooBackend, options_of, write_inputs

SMALL = {"width": 64, "height": 64}
SHORT = {**SMALL, "num_frames": 9}


class Server:
    """A backend with the zoo, and the name of what it has loaded, so that a test loads only what is not there."""

    def __init__(self) -> None:
        self.backend = ZooBackend(LOCALAI_DIFFUSERS_ZOO=str(zoo.root().parent), OMP_NUM_THREADS="1")
        atexit.register(self.backend.stop)
        self.folder, self.loaded = self.backend.folder, ""
        write_inputs(self.folder)
        write_wave(self.folder / "mono.wav", 1)
        write_wave(self.folder / "stereo.wav", 2)

    def load(self, model: str | Path, options: tuple[str, ...] = ()) -> None:
        """A zoo's entry by its name, with its own settings as options, or a folder."""
        key = f"{model} {options}"
        if self.loaded == key:
            return
        entry = zoo.ENTRIES.get(str(model))
        path, own = (model, []) if entry is None else (zoo.checkpoint(str(model)), options_of(entry))
        result = self.backend.load(path, Options=[*own, *options])
        self.loaded = key if result.success else ""
        if not result.success:
            raise AssertionError(result.message)


@functools.cache
def shared_server() -> Server:
    """One for the whole test process: most of a server's time is its import of the libraries."""
    return Server()


def write_wave(path: Path, channels: int, rate: int = 22050, seconds: float = 0.5) -> None:
    tone = (numpy.sin(numpy.arange(int(rate * seconds)) * 0.05) * 8000).astype("<i2")
    with wave.open(str(path), "wb") as sink:
        sink.setnchannels(channels)
        sink.setsampwidth(2)
        sink.setframerate(rate)
        sink.writeframes(numpy.repeat(tone[:, None], channels, 1).tobytes())


class RpcCase(unittest.TestCase):
    """A test that speaks to the shared server."""

    heavy = True

    def setUp(self) -> None:
        self.server = shared_server()
        self.stub, self.folder = self.server.backend.stub, self.server.folder
        self.picture, self.second, self.mask, self.clip = (
            str(self.folder / name) for name in ("picture.png", "second.png", "mask.png", "clip.mp4")
        )

    def load(self, model: str | Path, *options: str) -> None:
        self.server.load(model, options)

    def path(self, name: str) -> Path:
        """A file of this test's own."""
        return self.folder / f"{self.id().rpartition('.')[-1]}-{name}"

    def image(self, prompt: str = "a cat", name: str = "out.png", **fields: Any) -> Path:
        dst = self.path(name)
        request = backend_pb2.GenerateImageRequest(
            positive_prompt=prompt, dst=str(dst), **{"seed": 7, **SMALL, **fields}
        )
        self.message = self.stub.GenerateImage(request, timeout=120).message
        return dst

    def video(self, prompt: str = "a cat", name: str = "out.mp4", **fields: Any) -> Path:
        dst = self.path(name)
        request = backend_pb2.GenerateVideoRequest(prompt=prompt, dst=str(dst), **{"seed": 7, **SHORT, **fields})
        self.message = self.stub.GenerateVideo(request, timeout=120).message
        return dst

    def sound(self, text: str = "rain", name: str = "out.wav", **fields: Any) -> Path:
        dst = self.path(name)
        self.message = self.stub.SoundGeneration(
            backend_pb2.SoundGenerationRequest(text=text, dst=str(dst), **fields), timeout=120
        ).message
        return dst

    def refusal(self, work: Any, *args: Any, **fields: Any) -> str:
        """The message of the INVALID_ARGUMENT, or UNIMPLEMENTED for a task it lacks, that ``work`` must end with."""
        with self.assertRaises(grpc.RpcError) as caught:
            work(*args, **fields)
        codes = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
        self.assertIn(caught.exception.code(), codes, caught.exception.details())
        return caught.exception.details()

    def inpainting_json(self) -> str:
        encoded = {
            name: base64.b64encode(Path(path).read_bytes()).decode()
            for name, path in (("image", self.picture), ("mask_image", self.mask))
        }
        source = self.path("inpaint.json")
        source.write_text(json.dumps(encoded))
        return str(source)


class Clip:
    """A video file: its frames as arrays, its rate, size, codec and sound."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            self.format, self.codec, self.pixels = (
                source.format.name,
                stream.codec_context.name,
                stream.codec_context.pix_fmt,
            )
            self.rate, self.size = float(stream.average_rate), (stream.width, stream.height)
            self.sound = [track.rate for track in source.streams.audio]
            self.frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(stream)]
