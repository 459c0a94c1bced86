# SPDX-License-Identifier: MIT
"""The server as LocalAI's distributed router and worker treat it."""

from __future__ import annotations

import shutil
import time
import unittest
from pathlib import Path

from PIL import Image

import backend_pb2
from tests.gated import CODE, PROMPT, ServerCase, first_run
from tests.rpc import RpcCase
from tests.support import SHAPES_MODEL


class WorkerTest(unittest.TestCase):
    """The worker starts the process, asks for Health each 200 ms with 2 s a try, and gives up after 30 s."""

    def test_health_polls_never_miss_from_the_start_through_load_and_generation(self) -> None:
        self.assertEqual(first_run().prober.missed, [])


class RouterTest(ServerCase):
    def test_inputs_without_an_extension_and_a_tmp_output_are_a_picture(self) -> None:
        source = self.backend.folder / "localai-input-1"
        Image.new("RGB", (64, 64), "red").save(source, "JPEG")
        dst = self.backend.folder / "localai-output-1.tmp"
        dst.touch(mode=0o600)
        self.backend.picture(dst.name, src=str(source), ref_images=[], step=2)
        with Image.open(dst) as image:
            self.assertEqual((image.format, image.size), ("PNG", (64, 64)))

    def test_a_stale_replica_is_told_apart_by_status_and_words(self) -> None:
        text = self.assert_status(CODE.NOT_FOUND, lambda: self.backend.picture(ModelIdentity="other"))
        self.assertTrue(text.startswith("model identity mismatch"))

    def test_after_a_failed_precondition_the_router_loads_again_in_the_same_process(self) -> None:
        self.backend.free()
        self.assert_status(
            CODE.FAILED_PRECONDITION,
            lambda: self.backend.picture(ModelIdentity=str(SHAPES_MODEL)),
            "model not loaded",
        )
        self.backend.load_shapes()
        self.assert_right(self.backend.picture(ModelIdentity=str(SHAPES_MODEL)))

    def test_option_paths_are_relative_to_the_workers_model_path(self) -> None:
        """A worker's ModelPath is its own; ModelFile is absolute, Options are as on the frontend."""
        models = self.backend.folder / "worker" / "key"
        shutil.rmtree(models.parent, ignore_errors=True)
        shutil.copytree(SHAPES_MODEL / "vae", models / ".artifacts" / "huggingface" / "abc" / "snapshot")
        self.backend.load_shapes(ModelPath=str(models), Options=["vae:.artifacts/huggingface/abc/snapshot"])
        self.addCleanup(self.backend.load_shapes)
        self.assert_serves()

    def test_no_failure_is_unavailable_or_sounds_like_a_lost_connection(self) -> None:
        """UNAVAILABLE and these words make the router evict the replica."""
        for fields in (
            {"step": -1},
            {"src": "/no/connection refused"},
            {"src": "/unimplemented"},
            {"src": "/x model not loaded"},
        ):
            text = self.assert_status(
                CODE.INVALID_ARGUMENT, lambda fields=fields: self.backend.picture("never.png", **fields)
            )
            for words in ("connection refused", "unimplemented", "model not loaded"):
                self.assertNotIn(words, text.lower())

    def test_a_reload_under_load_answers_every_request(self) -> None:
        calls = [self.backend.start(f"{number}.png", step=2) for number in range(4)]
        load = self.backend.start_load()
        calls += [self.backend.start(f"{number}.png", step=2) for number in range(4, 8)]
        self.assertTrue(load.result().success)
        self.assertTrue(all(call.result().success for call in calls))
        began = time.monotonic()
        self.assert_right(self.backend.picture(prompt=PROMPT))
        self.assertLess(time.monotonic() - began, 10)


class StagingTest(RpcCase):
    """A worker's inputs are staged without an extension, and what it makes goes to a ``.tmp`` file or a folder."""

    def staged(self) -> Path:
        source = self.path("localai-input-1")
        Image.new("RGB", (64, 48), "red").save(source, "JPEG")
        return source

    def test_a_staged_picture_is_upscaled_into_a_tmp_file(self) -> None:
        self.load("StableDiffusionUpscalePipeline")
        source, dst = self.staged(), self.path("localai-output-1.tmp")
        dst.touch(mode=0o600)
        self.stub.UpscaleImage(backend_pb2.UpscaleImageRequest(src=str(source), dst=str(dst), scale=2), timeout=60)
        with Image.open(dst) as image:
            self.assertEqual((image.format, image.size), ("PNG", (128, 96)))

    def test_the_depth_of_a_staged_picture_is_exported_into_a_tmp_folder(self) -> None:
        self.load("MarigoldDepthPipeline")
        source, dst = self.staged(), self.path("localai-output-2.tmp")
        request = backend_pb2.DepthRequest(src=str(source), dst=str(dst), exports=["png"], include_depth=True)
        answer = self.stub.Depth(request, timeout=60)
        self.assertEqual((answer.width, answer.height, len(answer.depth)), (64, 48, 64 * 48))
        self.assertTrue(dst.is_dir())
        (made,) = dst.iterdir()
        with Image.open(made) as image:
            self.assertEqual((image.format, image.size), ("PNG", (64, 48)))


if __name__ == "__main__":
    unittest.main()
