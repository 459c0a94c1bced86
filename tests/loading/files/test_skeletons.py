# SPDX-License-Identifier: MIT
"""What is known of a model's modules before it is loaded."""

from __future__ import annotations

import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

import diffusers

from localai_diffusers.checkpoint import model_files
from localai_diffusers.checkpoint.lora.names import layers_of
from localai_diffusers.loading.files.skeletons import Loaded, Skeletons, Unknown
from tests.zoo import checkpoint


class SkeletonsTest(unittest.TestCase):
    def test_the_modules_are_those_that_the_loaded_pipeline_has(self) -> None:
        for name in ("StableDiffusionXLPipeline", "FluxPipeline", "QwenImagePipeline", "KolorsPipeline"):
            folder = checkpoint(name)
            pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
            known, loaded = Skeletons(type(pipeline), model_files.indexed_facts(folder)), Loaded(pipeline)
            for component in loaded:
                self.assertEqual(known[component], loaded[component], f"{name} {component}")

    def test_a_component_that_the_pipeline_remakes_is_unknown(self) -> None:
        facts = model_files.indexed_facts(checkpoint("StableDiffusionPipeline"))
        self.assertTrue(Skeletons(diffusers.StableDiffusionPipeline, facts)["unet"])
        with self.assertRaises(Unknown):
            Skeletons(diffusers.AnimateDiffPipeline, facts)["unet"]

    def test_one_without_a_config_is_unknown(self) -> None:
        facts = model_files.indexed_facts(checkpoint("StableDiffusionPipeline"))
        with self.assertRaises(Unknown):
            Skeletons(diffusers.StableDiffusionPipeline, replace(facts, configs=facts.path / "nowhere"))["unet"]

    def test_a_name_of_another_library_is_not_imported(self) -> None:
        facts = model_files.indexed_facts(checkpoint("StableDiffusionPipeline"))
        foreign = replace(facts, components={"unet": ("antigravity", "UNet2DConditionModel")})
        self.assertEqual(list(Skeletons(diffusers.StableDiffusionPipeline, foreign)), [])

    def test_packed_weights_are_told_by_file_and_config(self) -> None:
        facts = model_files.folder_facts(checkpoint("FluxPipeline"))
        cls = diffusers.FluxPipeline
        self.assertFalse(Skeletons(cls, facts).is_quantized("transformer"))
        self.assertTrue(Skeletons(cls, facts, quantized=["transformer"]).is_quantized("transformer"))
        file = next(file for file in facts.files if file.component == "transformer")
        with tempfile.TemporaryDirectory() as folder:
            blocks = Path(folder, "by_another_name.safetensors")
            blocks.write_bytes(b"GGUF" + bytes(32))
            packed = replace(facts, files=(replace(file, path=blocks),))
            self.assertTrue(Skeletons(cls, packed).is_quantized("transformer"))

    def test_parameters_that_are_no_weights_are_listed(self) -> None:
        import torch

        module = torch.nn.Module()
        module.table = torch.nn.Parameter(torch.ones(2, 3))
        self.assertEqual({name: layer.kind for name, layer in layers_of(module).items()}, {"table": "parameter"})


if __name__ == "__main__":
    unittest.main()
