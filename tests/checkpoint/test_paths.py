# SPDX-License-Identifier: MIT
"""Relative names stand under ModelPath and never leave it."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path

from localai_diffusers.errors import LoadError
from localai_diffusers.paths import resolve


class ResolveTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.base = Path(folder.name).resolve() / "models"
        (self.base / "loras").mkdir(parents=True)
        (self.base / "loras" / "a.safetensors").touch()
        (self.base.parent / "secret.safetensors").touch()

    def test_a_relative_name_is_found_under_the_base(self) -> None:
        self.assertEqual(
            resolve("loras/a.safetensors", str(self.base), "LoraAdapter"), str(self.base / "loras" / "a.safetensors")
        )

    def test_what_is_not_there_stays_a_name(self) -> None:
        self.assertEqual(resolve("owner/name", str(self.base), "ControlNet"), "owner/name")

    def test_an_absolute_path_is_the_operators_own_choice(self) -> None:
        path = str(self.base.parent / "secret.safetensors")
        self.assertEqual(resolve(path, str(self.base), "vae"), path)

    def test_leaving_the_base_is_refused_whether_or_not_the_file_exists(self) -> None:
        for name in ("../secret.safetensors", "loras/../../secret.safetensors", "../nothing"):
            with self.assertRaisesRegex(LoadError, "LoraAdapter .*leaves the models folder"):
                resolve(name, str(self.base), "LoraAdapter")

    def test_leaving_the_base_by_a_symlink_is_refused(self) -> None:
        os.symlink(self.base.parent, self.base / "link")
        with self.assertRaises(LoadError):
            resolve("link/secret.safetensors", str(self.base), "vae")

    def test_a_symlink_inside_the_base_is_followed(self) -> None:
        os.symlink(self.base / "loras", self.base / "adapters")
        self.assertTrue(
            os.path.samefile(
                resolve("adapters/a.safetensors", str(self.base), "vae"), self.base / "loras" / "a.safetensors"
            )
        )

    def test_a_folder_of_a_like_name_is_not_inside(self) -> None:
        (self.base.parent / "models-other").mkdir()
        with self.assertRaises(LoadError):
            resolve("../models-other", str(self.base), "vae")


if __name__ == "__main__":
    unittest.main()
