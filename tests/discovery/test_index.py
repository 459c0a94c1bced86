# SPDX-License-Identifier: MIT
"""A pipeline's own index: which class it names, which components are there, and what is no index."""

from __future__ import annotations

import json
import unittest
from typing import Any

from localai_diffusers.checkpoint import model_files
from localai_diffusers.discovery.index import INDEX_FILE, MODULAR_INDEX_FILE, Index, index_of, read_index
from localai_diffusers.errors import LoadError
from tests.support import FolderCase

PARTS = {
    "unet": ["diffusers", "UNet2DModel"],
    "safety_checker": [None, None],
    "steps": 5,
    "vae": [None, None, {"type_hint": ["diffusers", "AutoencoderKL"]}],
}


class IndexTest(FolderCase):
    def read(self, entries: Any, file: str = INDEX_FILE) -> Index:
        (self.folder / file).write_text(json.dumps(entries))
        found = read_index(self.folder)
        assert found is not None
        return found

    def test_components_that_are_not_there_are_left_out_and_what_a_modular_one_should_be_is_known(self) -> None:
        found = self.read({"_class_name": "DDPMPipeline", **PARTS})
        self.assertEqual(
            found.components, {"unet": ("diffusers", "UNet2DModel"), "vae": ("diffusers", "AutoencoderKL")}
        )
        self.assertEqual(found.entries["steps"], 5)

    def test_a_flax_class_is_read_as_its_pytorch_class(self) -> None:
        self.assertEqual(self.read({"_class_name": "FlaxDDPMPipeline"}).class_name, "DDPMPipeline")
        self.assertEqual(model_files.indexed_facts(self.folder).class_name, "DDPMPipeline")

    def test_a_modular_index_and_a_modular_class_are_modular(self) -> None:
        self.assertTrue(index_of({"_class_name": "FluxModularPipeline"}).is_modular)
        self.assertTrue(self.read({"_class_name": "FluxPipeline"}, MODULAR_INDEX_FILE).is_modular)

    def test_a_class_beside_the_index_is_told(self) -> None:
        found = index_of({"_class_name": ["pipeline_x", "XPipeline"]})
        self.assertEqual((found.class_name, found.is_custom), ("XPipeline", True))

    def test_a_class_that_is_no_name_is_none(self) -> None:
        for named in (None, 3, [], ""):
            self.assertEqual(index_of({"_class_name": named}).class_name, "")

    def test_a_folder_without_one_has_none(self) -> None:
        self.assertIsNone(read_index(self.folder))

    def test_what_is_no_object_is_refused_by_its_path(self) -> None:
        for text, words in (("{", "is not readable JSON"), ("[]", "holds no JSON object"), ("\ufeff{}", "readable")):
            (self.folder / INDEX_FILE).write_text(text, encoding="utf-8")
            with self.assertRaisesRegex(ValueError, f"{INDEX_FILE} .*{words}"):
                read_index(self.folder)
            with self.assertRaisesRegex(LoadError, f"{INDEX_FILE} .*{words}.*download the model again"):
                model_files.indexed_facts(self.folder)


if __name__ == "__main__":
    unittest.main()
