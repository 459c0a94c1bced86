# SPDX-License-Identifier: MIT
"""The pipelines command names every pipeline class, and what it says of the RPC is what the zoo shows."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers_dynamic_loader as loader
from localai_diffusers.cli import __main__ as cli
from localai_diffusers.cli import pipelines
from tests import zoo

_RPC_OF_KIND = {
    "image": "GenerateImage",
    "video": "GenerateVideo",
    "video+audio": "GenerateVideo",
    "audio": "SoundGeneration",
    "mesh": "Generate3D",
    "depth": "GenerateImage",
}


class Catalogue(unittest.TestCase):
    rows: dict[str, dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as shown:  # in this process: others import all classes, too
            cli.main(["pipelines", "--json"])
        cls.rows = {row["name"]: row for row in json.loads(shown.getvalue())}

    def test_no_class_is_missing(self) -> None:
        expected = {name for name in loader.get_available_pipelines() if not name.startswith("AutoPipelineFor")}
        self.assertEqual(set(self.rows), expected - {"DiffusionPipeline"})

    def test_every_class_is_served_or_says_why_not(self) -> None:
        for row in self.rows.values():
            self.assertNotEqual(bool(row["rpcs"]), bool(row["reason"]), row)

    def test_the_zoo_runs_what_the_catalogue_promises(self) -> None:
        for name, entry in zoo.ENTRIES.items():
            row = self.rows[entry.pipeline]
            if entry.kind in _RPC_OF_KIND and row["rpcs"]:
                self.assertIn(_RPC_OF_KIND[entry.kind], row["rpcs"], name)

    def test_what_it_says_is_served_the_zoo_runs(self) -> None:
        unproven = {name for name, row in self.rows.items() if row["rpcs"] and name not in zoo.ENTRIES}
        self.assertLessEqual(
            unproven,
            {"AudioDiffusionPipeline", "OmniGenPipeline", "Cosmos2_5_TransferPipeline"},
            "served where their packages are, which the tests do not install",
        )

    def test_a_package_that_is_not_there_is_named(self) -> None:
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            self.assertEqual(
                pipelines.row("OmniGenPipeline").reason, "needs the Python package torchvision: pip install torchvision"
            )

    def test_a_class_whose_methods_are_its_calls_makes_what_they_make(self) -> None:
        self.assertEqual(self.rows["VersatileDiffusionPipeline"]["rpcs"], ["GenerateImage"])

    def test_the_product_does_without_its_tests(self) -> None:
        house = Path(pipelines.__file__).parents[1]
        named = [
            path
            for path in house.rglob("*.py")
            if re.search(r"(from|import) tests\b|[\"']tests\.", path.read_text(encoding="utf-8"))
        ]
        self.assertEqual(named, [])

    def test_a_prior_names_the_combined_pipeline(self) -> None:
        self.assertIn("KandinskyV22CombinedPipeline", self.rows["KandinskyV22PriorPipeline"]["reason"])
        self.assertIn("WuerstchenCombinedPipeline", self.rows["WuerstchenPriorPipeline"]["reason"])
        self.assertIn("KandinskyImg2ImgCombinedPipeline", self.rows["KandinskyImg2ImgPipeline"]["reason"])


if __name__ == "__main__":
    unittest.main()
