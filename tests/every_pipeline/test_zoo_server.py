# SPDX-License-Identifier: MIT
"""Every pipeline of the zoo, loaded and run through a real server: the file that comes out is what it should be."""

from __future__ import annotations

import inspect
import json
import os
import unittest
import wave
from pathlib import Path
from typing import Any

import av
import grpc
import numpy

import backend_pb2
from diffusers_dynamic_loader import get_pipeline_registry
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.pipeline.sizes import FRAME_COUNTS
from tests import STAND_INS, zoo
from tests.gated import GatedBackend
from tests.support import HOME
from tests.zoo import call as zoo_call

# Inputs that only another model can make: no request carries them.
_TENSORS = {"image_embeds", "negative_image_embeds", "image_embeddings", "hint"}
_PICTURES = ("image", "images", "example_image", "original_image", "reference_image", "control_image", "cond_image")
_MASKS = ("mask_image", "control_mask")
_VIDEOS = ("video", "control_video", "conditioning_frames", "pose_video", "face_video")
_PROMPT = "a red circle on a blue background"
_RATE, _FPS = 16000, 12  # of every sound of the zoo; what its videos are asked for
_SETTINGS = ("width", "height", "num_frames", "output_type")
# One class of each family for what a seed does, and those that draw some noise from torch's own generator.
_OWN_NOISE = (
    "StableDiffusion3ControlNetPipeline",
    "CogView4ControlPipeline",
    "HunyuanDiTControlNetPipeline",
    "I2VGenXLPipeline",
    "AnimateDiffSparseControlNetPipeline",
)
# Half a megapixel or more, or a mesh of a fixed grid, whatever the request says: seconds a run, so they run once.
_LARGE = (
    "Kandinsky5I2IPipeline",
    "Kandinsky5T2IPipeline",
    "LongCatImageEditPipeline",
    "QwenImageEditInpaintPipeline",
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
    "QwenImageLayeredPipeline",
    "ShapEImg2ImgPipeline",
    "ShapEPipeline",
)
_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
_LEFT_AFTER = 0.1  # seconds: in the midst of most of these runs
# Frames in windows: the nearest whole number of them is made; or beyond the clip's, which stay.
_WINDOWS = ("HunyuanVideoFramepackPipeline", "WanAnimatePipeline", "SkyReelsV2DiffusionForcingVideoToVideoPipeline")


def write_inputs(folder: Path) -> None:
    """The zoo's own pictures, mask and clip, as files."""
    from localai_diffusers.media import videos

    zoo_call.picture().save(folder / "picture.png")
    zoo_call.picture(seed=2).save(folder / "second.png")
    zoo_call.mask().save(folder / "mask.png")
    videos.encode_video(zoo_call.frames(), 8.0, folder / "clip.mp4", "mp4", None)
    with wave.open(str(folder / "noise.wav"), "wb") as sink:
        sink.setparams((1, 2, _RATE, 0, "NONE", ""))
        sink.writeframes(numpy.random.default_rng(0).integers(-8000, 8000, _RATE // 2).astype("<i2").tobytes())


def options_of(entry: Any) -> list[str]:
    """The entry's own settings, and its inputs that are text, as the options of a model's YAML."""
    texts = {
        need: zoo_call.INPUTS[need]()
        for need in entry.needs
        if need not in (*_PICTURES, *_MASKS, *_VIDEOS, *_TENSORS, "prompt", "lyrics", "audio")
    }
    known = parameters_of(get_pipeline_registry()[entry.pipeline])
    settings = {
        name: value
        for name, value in entry.arguments.items()
        if name not in _SETTINGS and name != "clip_skip" and name in known  # the family's, of which a class takes some
    }
    return [
        f"{name}:{value if isinstance(value, str) else json.dumps(value)}" for name, value in (settings | texts).items()
    ]


class ZooBackend(GatedBackend):
    """A server whose client waits so many seconds for an answer."""

    seconds = 120.0


class ZooThroughTheServer(unittest.TestCase):
    """One server, one load after the other, as a worker sees it."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = ZooBackend(
            LOCALAI_DIFFUSERS_ZOO=str(zoo.root().parent),
            PYTHONPATH=os.pathsep.join((str(HOME / "tests" / "faults"), str(HOME), str(STAND_INS))),
        )
        write_inputs(cls.backend.folder)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.backend.stop()

    def load(self, name: str) -> None:
        result = self.backend.load(zoo.checkpoint(name), Options=options_of(zoo.ENTRIES[name]))
        self.assertTrue(result.success, result.message)

    def run_entry(self, name: str, seed: int = 7, extension: str = "out") -> tuple[Path, str]:
        """The file that the loaded entry makes, and the RPC's message."""
        entry, dst = zoo.ENTRIES[name], self.backend.folder / f"{name}.{seed}.{extension}"
        result = _REQUESTS.get(entry.kind, image_request)(self.backend, entry, dst, seed)
        return dst, getattr(result, "message", "")

    def leave(self, name: str) -> None:
        """The same request with another seed, of a client that leaves somewhere on the way."""
        self.backend.seconds = _LEFT_AFTER
        try:
            self.run_entry(name, 13, "gif")
        except grpc.RpcError as error:
            self.assertIs(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)  # type: ignore[attr-defined]
        finally:
            self.backend.seconds = ZooBackend.seconds

    def fail(self, name: str) -> None:
        """The same request with another seed, whose autoencoder fails in its decode, where there is one."""
        self.backend.fail_at("decode")
        try:
            self.run_entry(name, 13, "gif")
        except grpc.RpcError as error:
            self.assertIn("the decode fails here", error.details())  # type: ignore[attr-defined]
        else:
            made_of = inspect.signature(get_pipeline_registry()[zoo.ENTRIES[name].pipeline].__init__).parameters
            self.assertNotIn("vae", made_of)
            self.assertFalse(self.backend.came_to("decode"))
        finally:
            self.backend.release("decode")

    def be_refused(self) -> None:
        """A request whose picture is not there."""
        with self.assertRaises(grpc.RpcError) as caught:
            request = backend_pb2.GenerateImageRequest(src="/not/there", dst=str(self.backend.folder / "out"), step=1)
            self.backend.stub.GenerateImage(request, timeout=self.backend.seconds)
        self.assertIn(caught.exception.code(), _REFUSALS)


def sources_of(backend: ZooBackend, entry: Any) -> list[str]:
    """The pictures that the entry needs in the order of a request: the main one, the mask, the others."""
    pictures = [str(backend.folder / name) for name in ("picture.png", "second.png")]
    needed = sum(need in _PICTURES for need in entry.needs)
    sources = pictures[:needed]
    return [sources[0], str(backend.folder / "mask.png"), *sources[1:]] if set(_MASKS) & set(entry.needs) else sources


def common(entry: Any, dst: Path, seed: int, *names: str) -> dict[str, Any]:
    return {"dst": str(dst), "seed": seed, **{name: entry.arguments[name] for name in names if name in entry.arguments}}


def image_request(backend: ZooBackend, entry: Any, dst: Path, seed: int) -> Any:
    first, *rest = sources_of(backend, entry) or [""]
    return backend.stub.GenerateImage(
        backend_pb2.GenerateImageRequest(
            positive_prompt=_PROMPT if "prompt" in entry.needs else "",
            src=first,
            ref_images=rest,
            **common(entry, dst, seed, "width", "height"),
        ),
        timeout=backend.seconds,
    )


def video_request(backend: ZooBackend, entry: Any, dst: Path, seed: int) -> Any:
    sources, clip = sources_of(backend, entry), str(backend.folder / "clip.mp4")
    params = {need: clip for need in entry.needs if need in _VIDEOS}
    params |= {"control_image": sources[1]} if "control_image" in entry.needs and len(sources) > 1 else {}
    return backend.stub.GenerateVideo(
        backend_pb2.GenerateVideoRequest(
            prompt=_PROMPT if "prompt" in entry.needs else "",
            start_image=sources[0] if sources else "",
            params=params,
            fps=_FPS,
            **common(entry, dst, seed, "width", "height", "num_frames"),
        ),
        timeout=backend.seconds,
    )


def sound_request(backend: ZooBackend, entry: Any, dst: Path, seed: int) -> Any:
    """SoundGeneration; its request has no seed, so another seed than the usual goes through GenerateImage."""
    if seed != 7:
        return image_request(backend, entry, dst, seed)
    more = {"lyrics": "[verse] la la"} if "lyrics" in entry.needs else {}
    more |= {"src": str(backend.folder / "noise.wav")} if "audio" in entry.needs else {}
    text = _PROMPT if "prompt" in entry.needs else ""
    return backend.stub.SoundGeneration(
        backend_pb2.SoundGenerationRequest(text=text, dst=str(dst), **more), timeout=backend.seconds
    )


def mesh_request(backend: ZooBackend, entry: Any, dst: Path, seed: int) -> Any:
    params, sources = {"prompt": _PROMPT} if "prompt" in entry.needs else {}, sources_of(backend, entry)
    return backend.stub.Generate3D(
        backend_pb2.Generate3DRequest(src=sources[0] if sources else "", params=params, **common(entry, dst, seed)),
        timeout=backend.seconds,
    )


def depth_request(backend: ZooBackend, entry: Any, dst: Path, seed: int) -> Any:
    answer = backend.stub.Depth(
        backend_pb2.DepthRequest(
            src=str(backend.folder / "picture.png"), dst=f"{dst}.maps", include_depth=True, exports=["png"]
        ),
        timeout=backend.seconds,
    )
    values = numpy.array(answer.depth).reshape(answer.height, answer.width)
    assert values.shape == (64, 64) and values.std() > 0, values.shape
    Path(answer.export_paths[0]).rename(dst)
    return answer


_REQUESTS = {
    "video": video_request,
    "video+audio": video_request,
    "audio": sound_request,
    "mesh": mesh_request,
    "depth": depth_request,
}


def check_file(test: unittest.TestCase, name: str, path: Path, message: str) -> None:
    """The output decodes, is what was asked for, and is not constant."""
    kind = zoo.ENTRIES[name].kind
    check = {"video": check_video, "video+audio": check_video, "audio": check_sound, "mesh": check_mesh}.get(
        kind, check_picture
    )
    check(test, name, path, message)


def size_of(name: str) -> tuple[int, int] | None:
    """Width and height that the entry asks for, None where its class takes none or works from a source's own size."""
    entry = zoo.ENTRIES[name]
    known = parameters_of(get_pipeline_registry()[entry.pipeline])
    if not {"width", "height"} <= known.keys() & entry.arguments.keys():
        return None
    return entry.arguments["width"], entry.arguments["height"]


def check_picture(test: unittest.TestCase, name: str, path: Path, message: str) -> None:
    from localai_diffusers.media import images

    picture = images.read_image(path.read_bytes(), "out", max_pixels=1 << 24)
    test.assertTrue(any(low != high for low, high in picture.getextrema()))
    if size_of(name) and "a size of its own" not in message:
        test.assertEqual(picture.size, size_of(name))


def check_video(test: unittest.TestCase, name: str, path: Path, message: str) -> None:
    entry = zoo.ENTRIES[name]
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        frames = [frame.to_image() for frame in source.decode(stream)]
        test.assertEqual(stream.average_rate, _FPS)
        test.assertEqual([track.rate for track in source.streams.audio], [_RATE] if entry.kind == "video+audio" else [])
    known = parameters_of(get_pipeline_registry()[entry.pipeline])
    count = (
        entry.arguments["num_frames"] if "video" not in entry.needs and set(FRAME_COUNTS) & known.keys() else 9
    )  # of the clip
    test.assertTrue(
        len(frames) == count or name in _WINDOWS or f"rounded to {len(frames)}" in message, (len(frames), message)
    )
    test.assertTrue(any(low != high for low, high in frames[0].getextrema()))
    if size_of(name):
        test.assertEqual(frames[0].size, size_of(name))


def check_sound(test: unittest.TestCase, name: str, path: Path, message: str) -> None:
    from localai_diffusers.media import audio

    track = audio.read_audio(path.read_bytes(), "out", None, max_seconds=999)
    test.assertGreater(track.samples.std(), 0)
    test.assertEqual(track.rate, _RATE)
    test.assertAlmostEqual(track.samples.shape[1] / _RATE, 0.5, delta=0.1)


def check_mesh(test: unittest.TestCase, name: str, path: Path, message: str) -> None:
    test.assertEqual(path.read_bytes()[:4], b"glTF")


def contents(path: Path) -> bytes:
    """The pixels of a picture (its text tells the seed), else the bytes of the file.

    A video must be a GIF: x264 gives other bytes for the same frames where these are a few blocks large.
    """
    from PIL import Image

    if path.read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        return path.read_bytes()
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def is_refused(entry: Any) -> bool:
    """Whether no request can run it: it makes no file, or wants what only another pipeline makes."""
    return entry.kind in ("embeds", "text") or bool(_TENSORS & set(entry.needs))


def repeats(name: str) -> bool:
    """Whether the same request is sent again, after one of a client that left, one that failed in its decode and one
    that was refused: nothing is left behind. Not those of seconds a run, and those of which no request brings a seed
    (a mesh, a depth map, a sound from a sound)."""
    entry = zoo.ENTRIES[name]
    seeded = entry.kind not in ("depth", "mesh") and not (entry.kind == "audio" and "audio" in entry.needs)
    return name not in _LARGE and seeded and not is_refused(entry)


def _families() -> set[str]:
    """The first entry of each family, by which another seed is tried."""
    first = {
        entry.family: name
        for name, entry in reversed(zoo.ENTRIES.items())
        if not is_refused(entry) and name not in _LARGE and entry.kind not in ("depth", "mesh")
    }
    return {*first.values(), *_OWN_NOISE}


def _test(name: str, is_first_of_family: bool) -> Any:
    def test(self: ZooThroughTheServer) -> None:
        entry = zoo.ENTRIES[name]
        self.load(name)
        if is_refused(entry):
            with self.assertRaises(grpc.RpcError) as caught:
                self.run_entry(name)
            self.assertIn(caught.exception.code(), _REFUSALS, caught.exception.details())
            return
        path, message = self.run_entry(name)
        check_file(self, name, path, message)
        is_picture = entry.kind == "image" and name not in _LARGE
        if repeats(name):
            first = path if is_picture else self.run_entry(name, 11, "first.gif")[0]
            self.leave(name)
            self.fail(name)
            self.be_refused()
            again, _ = self.run_entry(name, 7 if is_picture else 11, "gif")
            self.assertEqual(contents(first), contents(again), "the same seed gives the same output")
        if is_first_of_family:
            other, _ = self.run_entry(name, 12, "gif")
            self.assertNotEqual(contents(first), contents(other), "another seed gives another output")

    return test


_tried = _families()
for _name in zoo.ENTRIES:
    setattr(ZooThroughTheServer, f"test_{_name}_runs", _test(_name, _name in _tried))


if __name__ == "__main__":
    unittest.main()
