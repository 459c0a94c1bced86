# SPDX-License-Identifier: MIT
"""What a request or a model's YAML may not reach, through the server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unittest
from typing import Any

import backend_pb2
from tests.gated import CODE, SECRET, SECRET_TOKEN, ServerCase, first_run
from tests.support import HOME, SHAPES_MODEL


class PathsTest(ServerCase):
    """Relative names of a YAML stay inside ModelPath, by ``..`` and by links alike; each way of naming a
    file.
    """

    def setUp(self) -> None:
        super().setUp()
        self.outside = self.backend.folder / "outside"
        self.models = self.backend.folder / "models"
        for folder in (self.outside, self.models):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        shutil.copytree(SHAPES_MODEL / "unet", self.outside / "part")
        (self.models / "link").symlink_to(self.outside / "part")
        (self.models / "up").symlink_to("..")

    def refused(self, **fields: Any) -> str:
        result = self.backend.load(SHAPES_MODEL, ModelPath=str(self.models), **fields)
        self.assertFalse(result.success, fields)
        self.assertEqual(self.backend.state, "READY", "the earlier model was dropped")
        return result.message

    def test_no_relative_name_leaves_the_models_folder(self) -> None:
        file = "diffusion_pytorch_model.safetensors"
        for name in (
            f"../outside/part/{file}",
            f"link/{file}",
            f"up/outside/part/{file}",
            "link",
            "x/../../outside/part",
        ):
            for field in ("LoraAdapter", "ControlNet", "CLIPModel"):
                with self.subTest(field=field, name=name):
                    self.assertIn("leaves the models folder", self.refused(**{field: name}))
            with self.subTest(field="LoraAdapters", name=name):
                self.assertIn("leaves the models folder", self.refused(LoraAdapters=[name]))
            for option in ("vae", "clip_model"):
                with self.subTest(option=option, name=name):
                    self.assertIn("leaves the models folder", self.refused(Options=[f"{option}:{name}"]))
        self.assert_serves()

    def test_the_model_itself_is_where_the_core_says(self) -> None:
        shutil.copytree(SHAPES_MODEL, self.outside / "model")
        (self.models / "linked").symlink_to(self.outside / "model")
        self.addCleanup(self.backend.load_shapes)
        for name in ("../outside/model", "linked", str(self.outside / "model")):
            with self.subTest(name):
                missing = str(self.models / "missing")
                result = self.backend.load(name, ModelPath=str(self.models), ModelFile=missing, CFGScale=5.0)
                self.assertTrue(result.success, result.message)
        self.assert_serves()

    def test_a_subfolder_does_not_leave_the_model(self) -> None:
        for name in ("../shapes-model", "/etc", "unet/../.."):
            with self.subTest(name):
                self.assertIn("subfolder", self.refused(Options=[f"subfolder:{name}"]))

    def test_a_relative_name_inside_is_found(self) -> None:
        shutil.copytree(SHAPES_MODEL / "vae", self.models / "own-vae")
        self.backend.load_shapes(ModelPath=str(self.models), Options=["vae:own-vae"])
        self.addCleanup(self.backend.load_shapes)
        self.assert_serves()


class SecretsTest(unittest.TestCase):
    def test_neither_tokens_nor_prompts_are_logged_at_info(self) -> None:
        for secret in (SECRET, SECRET_TOKEN):
            self.assertNotIn(secret, first_run().log)

    def test_a_picture_does_not_tell_its_prompt_or_a_path(self) -> None:
        for secret in (SECRET, str(HOME)):
            self.assertNotIn(secret.encode(), first_run().picture)


class AddressTest(unittest.TestCase):
    def test_by_default_only_this_machine_can_connect(self) -> None:
        command = [sys.executable, str(HOME / "backend.py"), "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        self.assertIn("localhost:50051", shown)


class RequestTest(ServerCase):
    def test_urls_in_a_request_are_not_fetched(self) -> None:
        for url in (
            "http://127.0.0.1:1/x.png",
            "https://example.org/x.png",
            "file:///etc/passwd",
            "ftp://127.0.0.1/x",
        ):
            with self.subTest(url):
                self.assert_status(CODE.INVALID_ARGUMENT, lambda url=url: self.backend.picture("never.png", src=url))

    def test_a_file_that_is_no_picture_is_not_told_back(self) -> None:
        secret = self.backend.folder / "secret"
        secret.write_text('{"password": "zebrafinch"}')
        self.addCleanup(secret.unlink)
        text = self.assert_status(CODE.INVALID_ARGUMENT, lambda: self.backend.picture("never.png", src=str(secret)))
        self.assertNotIn("zebrafinch", text)

    def test_a_request_cannot_load_code_or_files_by_a_call_argument(self) -> None:
        message = backend_pb2.GenerateVideoRequest(
            prompt="x",
            dst=os.path.join(self.backend.folder, "never.mp4"),
            params={"custom_pipeline": "/tmp", "__class__": "1"},
        )
        with self.assertRaises(Exception) as caught:
            self.backend.stub.GenerateVideo(message, timeout=20)
        self.assertIn(caught.exception.code(), (CODE.INVALID_ARGUMENT, CODE.UNIMPLEMENTED))


if __name__ == "__main__":
    unittest.main()
