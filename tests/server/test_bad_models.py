# SPDX-License-Identifier: MIT
"""Broken and hostile models: an error that names the file, nothing executed, and the model before goes on
serving.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gated import ServerCase
from tests.support import SHAPES_MODEL

UNET = "unet/diffusion_pytorch_model.safetensors"


def truncate(path: Path) -> None:
    """As an interrupted download leaves it."""
    os.truncate(path, path.stat().st_size // 2)


def garble_header(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\xff" * 64 + content[72:])


def huge_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


# What is done to one file of the shapes model, and words of the message besides the file's name.
BROKEN_FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "truncated weights": (UNET, truncate, "download it again"),
    "empty weights": (UNET, lambda path: path.write_bytes(b""), "empty"),
    "random weights": (UNET, lambda path: path.write_bytes(os.urandom(4096)), "download it again"),
    "text for weights": (UNET, lambda path: path.write_text("<html>404</html>"), "download it again"),
    "garbled header": (UNET, garble_header, "download it again"),
    "huge header": (UNET, huge_header, "download it again"),
    "weights that are a folder": (UNET, lambda path: (path.unlink(), path.mkdir()), "download"),
    "pointer for weights": (
        UNET,
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "download",
    ),
    "no weights": (UNET, lambda path: path.unlink(), "download"),
    "broken index": ("model_index.json", lambda path: path.write_text('{"_class_name": '), "JSON"),
    "index is a list": ("model_index.json", lambda path: path.write_text("[]"), "JSON"),
    "index without a class": ("model_index.json", lambda path: path.write_text("{}"), "_class_name"),
    "index of deep JSON": ("model_index.json", lambda path: path.write_text("[" * 100_000), "JSON"),
    "empty index": ("model_index.json", lambda path: path.write_bytes(b""), "JSON"),
    "binary index": ("model_index.json", lambda path: path.write_bytes(os.urandom(512)), "JSON"),
    "broken component config": ("unet/config.json", lambda path: path.write_text("{"), "unet"),
    "broken scheduler config": (
        "scheduler/scheduler_config.json",
        lambda path: path.write_text("{"),
        "scheduler",
    ),
}


class ModelCase(ServerCase):
    """A copy of the shapes model to break; each test ends with the model of before serving."""

    def setUp(self) -> None:
        super().setUp()
        self.models = self.backend.folder / "models"
        shutil.rmtree(self.models, ignore_errors=True)
        self.model = Path(shutil.copytree(SHAPES_MODEL, self.models / "broken"))
        self.marker = self.backend.folder / "executed"
        self.marker.unlink(missing_ok=True)

    def refused(self, *words: str, model: Path | None = None, **fields: Any) -> str:
        """LoadModel fails soon with these words in one paragraph; the earlier model still serves."""
        began = time.monotonic()
        result = self.backend.load(model or self.model, **fields)
        self.assertFalse(result.success)
        self.assertLess(time.monotonic() - began, 3)
        for word in words:
            self.assertIn(word, result.message)
        self.assertNotIn("\n", result.message)
        self.assertNotIn("Traceback", result.message)
        self.assertFalse(self.marker.exists(), "code of the model was executed")
        self.assertEqual(self.backend.state, "READY", result.message)
        return result.message

    def edit_index(self, **entries: Any) -> None:
        path = self.model / "model_index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    def write_code(self, path: Path) -> None:
        """A module that leaves the marker when anything imports it."""
        path.write_text(f"open({str(self.marker)!r}, 'w').close()\nclass Evil:\n    pass\n")


class BrokenFileTest(ModelCase):
    def test_every_broken_file_is_named(self) -> None:
        for name, (file, damage, words) in BROKEN_FILES.items():
            with self.subTest(name):
                shutil.rmtree(self.model)
                shutil.copytree(SHAPES_MODEL, self.model)
                damage(self.model / file)
                self.refused(words, os.path.dirname(file) or file)
        self.assert_serves()

    def test_a_missing_component_is_named(self) -> None:
        for name in ("vae", "text_encoder", "unet"):
            with self.subTest(name):
                shutil.rmtree(self.model / name)
                self.refused(name)
                shutil.copytree(SHAPES_MODEL / name, self.model / name)

    def test_an_unknown_class_is_named(self) -> None:
        self.edit_index(_class_name="NoSuchPipeline")
        self.refused("NoSuchPipeline")
        self.edit_index(_class_name="StableDiffusionPipeline", unet=["diffusers", "NoSuchModel"])
        self.refused("NoSuchModel")

    def test_weights_of_another_shape_fail_after_the_earlier_model_was_freed_and_say_so(self) -> None:
        path = self.model / "unet" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 9}))
        result = self.backend.load(self.model)
        self.assertFalse(result.success)
        if self.backend.state == "UNINITIALIZED":
            self.assertIn("freed", result.message)
        self.backend.load_shapes()
        self.assert_serves()

    def test_what_is_no_pipeline_is_refused(self) -> None:
        for name, content in (
            ("model.gguf", b"GGUF" + os.urandom(64)),
            ("model.safetensors", b"x" * 100),
            ("model.txt", b"hello"),
            ("model.onnx", b"x"),
            ("model.ckpt", b"x"),
        ):
            path = self.models / name
            path.write_bytes(content)
            with self.subTest(name):
                self.refused(name, model=path)
        (self.models / "empty").mkdir()
        self.refused("empty", model=self.models / "empty")
        os.mkfifo(self.models / "pipe.safetensors")
        self.refused("pipe.safetensors", model=self.models / "pipe.safetensors")
        self.assert_serves()


class Marking:
    """Pickled, it is code that leaves a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


class CodeTest(ModelCase):
    """Code that comes with a model runs only with trust_remote_code: true."""

    def test_a_pickled_component_is_not_loaded(self) -> None:
        (self.model / UNET).unlink()
        (self.model / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Marking(self.marker)))
        self.refused("diffusion_pytorch_model.bin", "pickle")

    def test_a_pickled_checkpoint_is_not_loaded(self) -> None:
        for name in ("model.ckpt", "model.pt", "model.bin", "model.pth"):
            (self.models / name).write_bytes(pickle.dumps(Marking(self.marker)))
            self.refused(name, "pickle", model=self.models / name)

    def test_a_pickle_that_is_trusted_cannot_run_code_either(self) -> None:
        (self.model / UNET).unlink()
        (self.model / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Marking(self.marker)))
        self.assertFalse(self.backend.load(self.model, TrustRemoteCode=True).success)
        self.assertFalse(self.marker.exists())

    def test_a_pipeline_module_in_the_model_is_not_imported(self) -> None:
        self.write_code(self.model / "pipeline.py")
        self.write_code(self.model / "evil.py")
        self.edit_index(_class_name=["pipeline", "Evil"])
        self.refused("trust_remote_code")
        self.edit_index(_class_name=["evil", "Evil"])
        self.refused("trust_remote_code")

    def test_a_component_module_in_the_model_is_not_imported(self) -> None:
        self.write_code(self.model / "unet" / "evil.py")
        self.edit_index(unet=["evil", "Evil"])
        self.refused("trust_remote_code")

    def test_a_component_of_any_other_module_is_not_imported(self) -> None:
        for library in ("os", "subprocess", "antigravity", "..evil", "tests.gated", ""):
            with self.subTest(library):
                self.edit_index(unet=[library, "Popen"])
                self.refused()

    def test_a_custom_pipeline_needs_trust(self) -> None:
        self.write_code(self.model / "pipeline.py")
        self.refused("trust_remote_code", Options=[f"custom_pipeline:{self.model}"])
        self.refused("trust_remote_code", Options=["custom_pipeline:clip_guided_stable_diffusion"])

    def test_auto_map_code_of_a_component_is_not_imported(self) -> None:
        self.write_code(self.model / "text_encoder" / "modeling.py")
        path = self.model / "text_encoder" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "modeling.Evil"}}))
        self.backend.load(self.model)
        self.assertFalse(self.marker.exists())
        self.backend.load_shapes()


if __name__ == "__main__":
    unittest.main()
