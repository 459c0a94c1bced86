# SPDX-License-Identifier: MIT
"""Generate3D and Depth, through a real server: a glTF file that holds together, and maps of the picture's size."""

from __future__ import annotations

import base64
import json
import struct
import unittest
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

import backend_pb2
from tests.rpc import RpcCase


def read_glb(path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk of a binary glTF 2.0 file; raises where its lengths disagree."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    chunks, position = {}, 12
    while position < length:
        size, kind = struct.unpack_from("<I4s", data, position)
        chunks[kind] = data[position + 8 : position + 8 + size]
        position += 8 + size
    return json.loads(chunks[b"JSON"]), chunks[b"BIN\0"]


class MeshTest(RpcCase):
    def mesh(self, name: str = "out.glb", **fields: Any) -> Path:
        dst = self.path(name)
        request = backend_pb2.Generate3DRequest(dst=str(dst), seed=7, **fields)
        self.message = self.stub.Generate3D(request, timeout=120).message
        return dst

    def test_text_and_pictures_become_a_glb_of_triangles(self) -> None:
        for model, fields in (
            ("ShapEPipeline", {"params": {"prompt": "a chair"}}),
            ("ShapEImg2ImgPipeline", {"src": self.picture}),
        ):
            self.load(model)
            document, binary = read_glb(self.mesh(**fields))
            primitive = document["meshes"][0]["primitives"][0]
            points = document["accessors"][primitive["attributes"]["POSITION"]]
            indices = document["accessors"][primitive["indices"]]
            self.assertEqual(len(binary) - len(binary) % 4, document["buffers"][0]["byteLength"] // 4 * 4)
            self.assertEqual((points["type"], indices["count"] % 3, primitive.get("mode", 4)), ("VEC3", 0, 4))
            view = document["bufferViews"][indices["bufferView"]]
            kind = {5125: "<u4", 5123: "<u2"}[indices["componentType"]]
            numbers = numpy.frombuffer(binary, kind, indices["count"], view.get("byteOffset", 0))
            self.assertLess(numbers.max(), points["count"], model)

    def test_a_missing_picture_and_one_too_many_are_refused(self) -> None:
        self.load("ShapEImg2ImgPipeline")
        self.assertIn("ShapEImg2ImgPipeline takes image", self.refusal(self.mesh))

    def test_a_model_of_pictures_makes_no_mesh(self) -> None:
        self.load("StableDiffusionPipeline")
        self.assertIn("Generate3D is for models that make 3d", self.refusal(self.mesh, params={"prompt": "a chair"}))


class DepthTest(RpcCase):
    def depth(self, size: tuple[int, int] = (64, 64), model: str = "MarigoldDepthPipeline", **fields: Any) -> Any:
        self.load(model)
        source = self.path("source.png")
        with Image.open(self.picture) as picture:
            picture.resize(size).save(source)
        fields = {"src": base64.b64encode(source.read_bytes()).decode(), "include_depth": True, **fields}
        return self.stub.Depth(backend_pb2.DepthRequest(**fields), timeout=120)

    def test_the_map_has_the_pictures_size_and_its_values_lie_between_0_and_1(self) -> None:
        for size in ((64, 64), (100, 50)):
            answer = self.depth(size)
            values = numpy.array(answer.depth)
            self.assertEqual((answer.width, answer.height, len(values)), (*size, size[0] * size[1]))
            self.assertTrue(0 <= values.min() < values.max() <= 1)

    def test_no_values_unless_they_are_asked_for(self) -> None:
        answer = self.depth(include_depth=False)
        self.assertEqual((answer.width, answer.height, len(answer.depth)), (64, 64, 0))

    def test_a_large_map_is_thinned_out_to_fit_into_a_message(self) -> None:
        answer = self.depth((3000, 2000))
        self.assertEqual((answer.width, answer.height), (1500, 1000))
        self.assertLess(answer.ByteSize(), 50 << 20)

    def test_exports_are_written_into_the_folder_dst_which_is_made(self) -> None:
        folder = self.path("deep") / "maps"
        answer = self.depth((100, 50), dst=str(folder), exports=["png", "npy"])
        png, npy = answer.export_paths
        self.assertEqual([Path(png).parent, Path(npy).parent], [folder, folder])
        with Image.open(png) as picture:
            self.assertEqual(picture.size, (100, 50))
        self.assertTrue(numpy.allclose(numpy.load(npy), numpy.array(answer.depth).reshape(50, 100)))

    def test_without_exports_nothing_is_written(self) -> None:
        folder = self.path("unused")
        self.depth(dst=str(folder))
        self.assertFalse(folder.exists())

    def test_bad_requests_are_refused(self) -> None:
        self.assertIn(
            "exports 'ply' is unknown: use png, npy", self.refusal(self.depth, dst=str(self.path("d")), exports=["ply"])
        )
        self.assertIn("dst is empty", self.refusal(self.depth, exports=["png"]))
        self.assertIn("src", self.refusal(self.depth, src=""))
        self.assertIn("src", self.refusal(self.depth, src="bm8gcGljdHVyZQ=="))

    def test_a_model_that_estimates_no_depth_says_what_to_load(self) -> None:
        for model in ("MarigoldNormalsPipeline", "StableDiffusionPipeline"):
            self.assertIn("load a depth-estimation pipeline", self.refusal(self.depth, model=model))

    def test_a_model_that_estimates_no_depth_is_refused_before_it_runs(self) -> None:
        from localai_diffusers.errors import NotSupported
        from localai_diffusers.generation import depth
        from localai_diffusers.wire.requests import GenerationRequest
        from tests.support import new_job, zoo_model

        job = new_job()
        with Image.open(self.picture) as picture:
            request = GenerationRequest("Depth", "", images=(picture.convert("RGB"),))
        with self.assertRaises(NotSupported):
            depth.estimate(zoo_model("StableDiffusionImg2ImgPipeline"), request, (), job)
        self.assertEqual(job.step, 0)


if __name__ == "__main__":
    unittest.main()
