"""Every pipeline of the zoo, loaded and run through a real server: the file that comes out is what it should be."""
from __future__ import annotations

import json
import unittest
from pathlib import Path
from typing import Any

import grpc

import backend_pb2
from tests import zoo
from tests.support import Backend
from tests.zoo import call as zoo_call

# Inputs that only another model can make: no request carries them.
_TENSORS = {"image_embeds", "negative_image_embeds", "image_embeddings", "hint"}
_PICTURES = ("image", "example_image", "original_image", "reference_image", "control_image", "cond_image")
_VIDEOS = ("video", "control_video", "conditioning_frames", "pose_video", "face_video")
_PROMPT = "a red circle on a blue background"


def write_inputs(folder: Path) -> None:
    """The zoo's own pictures, mask and clip, as files."""
    from localai_diffusers.media import videos

    zoo_call.picture().save(folder / "picture.png")
    zoo_call.picture(seed=2).save(folder / "second.png")
    zoo_call.mask().save(folder / "mask.png")
    videos.encode_video(zoo_call.frames(), 8.0, folder / "clip.mp4", "mp4", None)


def options_of(entry: Any) -> list[str]:
    """The entry's own settings, and its inputs that are text, as the options of a model's YAML."""
    texts = {need: zoo_call.INPUTS[need]() for need in entry.needs
             if need not in (*_PICTURES, *_VIDEOS, *_TENSORS, "prompt", "mask_image", "lyrics")}
    settings = {name: value for name, value in entry.arguments.items() if name not in ("width", "height", "output_type")}
    return [f"{name}:{value if isinstance(value, str) else json.dumps(value)}" for name, value in (settings | texts).items()]


class ZooThroughTheServer(unittest.TestCase):
    """One server, one load after the other, as a worker sees it."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = Backend(LOCALAI_DIFFUSERS_ZOO=str(zoo.root().parent), OMP_NUM_THREADS="1")
        write_inputs(cls.backend.folder)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.backend.stop()

    def request(self, entry: Any, dst: Path) -> tuple[str, Any]:
        """The RPC that serves the entry's kind, and its request."""
        inputs = self.backend.folder
        pictures = [str(inputs / name) for name in ("picture.png", "second.png")]
        needed = sum(need in _PICTURES for need in entry.needs)
        sources = pictures[:needed] + ([str(inputs / "mask.png")] if "mask_image" in entry.needs else [])
        if "mask_image" in entry.needs:
            sources = [sources[0], sources[-1], *sources[1:-1]]
        prompt = _PROMPT if "prompt" in entry.needs else ""
        size = {name: entry.arguments[name] for name in ("width", "height") if name in entry.arguments}
        if entry.kind in ("video", "video+audio"):
            params = {need: str(inputs / "clip.mp4") for need in entry.needs if need in _VIDEOS}
            params |= {"control_image": pictures[1]} if "control_image" in entry.needs and needed > 1 else {}
            return "GenerateVideo", backend_pb2.GenerateVideoRequest(
                prompt=prompt, dst=str(dst), seed=7, start_image=sources[0] if sources else "", params=params, **size)
        if entry.kind == "audio":
            lyrics = {"lyrics": "[verse] la la"} if "lyrics" in entry.needs else {}
            return "SoundGeneration", backend_pb2.SoundGenerationRequest(text=prompt, dst=str(dst), **lyrics)
        if entry.kind == "mesh":
            params = {"prompt": prompt} if prompt else {}
            return "Generate3D", backend_pb2.Generate3DRequest(src=sources[0] if sources else "", dst=str(dst), seed=7, params=params)
        return "GenerateImage", backend_pb2.GenerateImageRequest(
            positive_prompt=prompt, dst=str(dst), seed=7, src=sources[0] if sources else "", ref_images=sources[1:], **size)

    def run_entry(self, name: str) -> Path:
        entry = zoo.ENTRIES[name]
        result = self.backend.load(zoo.checkpoint(name), Options=options_of(entry))
        self.assertTrue(result.success, result.message)
        dst = self.backend.folder / f"{name}.out"
        rpc, request = self.request(entry, dst)
        getattr(self.backend.stub, rpc)(request, timeout=120)
        return dst


def check_file(test: unittest.TestCase, entry: Any, path: Path) -> None:
    """The output decodes, has the size asked for, and is not constant."""
    from localai_diffusers.media import audio, images, videos

    data = path.read_bytes()
    if entry.kind in ("video", "video+audio"):
        frames = videos.read_video(data, "out", max_frames=999, max_pixels=1 << 24)
        test.assertGreater(len(frames), 1)
        test.assertTrue(any(low != high for low, high in frames[0].getextrema()))
    elif entry.kind == "audio":
        track = audio.read_audio(data, "out", None, max_seconds=999)
        test.assertGreater(track.samples.std(), 0)
    elif entry.kind == "mesh":
        test.assertEqual(data[:4], b"glTF")
    else:
        picture = images.read_image(data, "out", max_pixels=1 << 24)
        test.assertTrue(any(low != high for low, high in picture.getextrema()))


def _test(name: str) -> Any:
    def test(self: ZooThroughTheServer) -> None:
        entry = zoo.ENTRIES[name]
        if entry.kind in ("embeds", "text") or _TENSORS & set(entry.needs):
            with self.assertRaises(grpc.RpcError) as caught:
                self.run_entry(name)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT, caught.exception.details())
            return
        check_file(self, entry, self.run_entry(name))

    return test


for _name in zoo.ENTRIES:
    setattr(ZooThroughTheServer, f"test_{_name}_runs", _test(_name))


if __name__ == "__main__":
    unittest.main()
