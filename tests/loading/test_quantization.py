# SPDX-License-Identifier: MIT
"""`options: quantization:` on tiny pipelines: which layers, how many bytes, right pictures, and refusals by name."""

from __future__ import annotations

import importlib.util
import unittest
from typing import Any

import torch

from localai_diffusers.loading.placing import quantizers
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, FolderCase, generate, load, zoo_model
from tests.zoo import checkpoint

SD, SD3, FLUX = "StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline"
HAS_TORCHAO = importlib.util.find_spec("torchao") is not None


def linears(model: Any) -> dict[str, Any]:
    return {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}


def quantized(model: Any) -> set[str]:
    return {name for name, layer in linears(model).items() if not quantizers.is_plain(layer.weight)}


class LayersTest(unittest.TestCase):
    def test_every_linear_layer_of_the_named_component_alone_is_quantized(self) -> None:
        pipeline = load(checkpoint(FLUX), Options=["quantization:transformer:qint8"]).pipeline
        self.assertEqual(quantized(pipeline.transformer), linears(pipeline.transformer).keys())
        self.assertEqual(quantized(pipeline.text_encoder) | quantized(pipeline.text_encoder_2), set())

    def test_one_word_is_for_the_large_components(self) -> None:
        """Of Flux's four the transformer and both text encoders have a tenth of the tiny one's weights."""
        model = load(checkpoint(FLUX), Options=["quantization:qfloat8"])
        large = {
            name
            for name, size in zoo_model(FLUX).memory().items()
            if size > sum(zoo_model(FLUX).memory().values()) / 10
        }
        self.assertEqual(model.where.quantized.keys(), large - {"vae"})
        for name in model.where.quantized:
            self.assertTrue(quantized(getattr(model.pipeline, name)), name)

    def test_a_quantized_layer_takes_a_quarter_of_its_bytes_and_a_scale_a_row(self) -> None:
        plain, packed = (load(checkpoint(SD), Options=options) for options in ([], ["quantization:unet:qint8"]))
        layers = linears(plain.pipeline.unet).values()
        saved = sum(layer.weight.numel() * 3 - layer.out_features * 4 for layer in layers)
        scales = 2 * 4 * len(layers)  # quanto's, for activations that are not quantized
        self.assertEqual(plain.memory()["unet"] - packed.memory()["unet"], saved - scales)
        self.assertEqual(plain.memory()["vae"], packed.memory()["vae"])

    def test_the_picture_of_a_quantized_model_is_still_right(self) -> None:
        for word in ("qint8", "qfloat8", *(["int8", "fp8"] if HAS_TORCHAO else [])):
            model = load(SHAPES_MODEL, Options=[f"quantization:{word}"], CFGScale=5.0)
            image, _ = generate(model, "a red circle on a blue background", step=8, seed=1, width=64, height=64)
            self.assertEqual(judge(image).prompt(), "a red circle on a blue background", word)

    def test_layers_that_a_library_leaves_as_they_are_are_told(self) -> None:
        model = load(checkpoint(FLUX), Options=["quantization:text_encoder_2:qint8"])
        kept = linears(model.pipeline.text_encoder_2).keys() - quantized(model.pipeline.text_encoder_2)
        self.assertTrue(all(name.endswith(".wo") for name in kept) and kept)
        self.assertIn(
            f"{len(kept)} of {len(linears(model.pipeline.text_encoder_2))} linear layers stay", model.notes[-1]
        )

    @unittest.skipUnless(HAS_TORCHAO, "torchao is not installed")
    def test_each_component_may_have_a_backend_of_its_own(self) -> None:
        options = ['quantization:{"transformer": "int8", "text_encoder_2": "qint8"}']
        parts = load(checkpoint(FLUX), Options=options).pipeline.components
        kinds = {
            name: {type(part.weight).__name__ for part in linears(parts[name]).values()}
            for name in parts
            if name in ("transformer", "text_encoder_2")
        }
        self.assertEqual(kinds, {"transformer": {"Int8Tensor"}, "text_encoder_2": {"WeightQBytesTensor", "Parameter"}})


class WhereWeightsComeFromTest(FolderCase):
    def test_a_component_of_a_place_of_its_own_is_quantized_too(self) -> None:
        folder = checkpoint(FLUX) / "transformer"
        for place in (folder, next(folder.glob("*.safetensors"))):
            options = [f"transformer:{place}", "quantization:transformer:qint8"]
            pipeline = load(checkpoint(FLUX), Options=options).pipeline
            self.assertEqual(quantized(pipeline.transformer), linears(pipeline.transformer).keys(), place)

    @unittest.skipUnless(HAS_TORCHAO, "torchao is not installed")
    def test_a_file_is_quantized_by_torchao_too(self) -> None:
        file = next((checkpoint(FLUX) / "transformer").glob("*.safetensors"))
        options = [f"base_model:{checkpoint(FLUX)}", "quantization:transformer:int8"]
        pipeline = load(file, Options=options).pipeline
        self.assertEqual(quantized(pipeline.transformer), linears(pipeline.transformer).keys())


if __name__ == "__main__":
    unittest.main()
