# SPDX-License-Identifier: MIT
"""`options: quantization:` on tiny pipelines: which layers, how many bytes, right pictures, and refusals by name."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import unittest
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from localai_diffusers.checkpoint.lora.names import Layer
from localai_diffusers.errors import LoadError, NotSupported
from localai_diffusers.loading import pipelines, quantization
from localai_diffusers.loading.files.skeletons import Skeletons
from localai_diffusers.loading.placing import quantizers
from localai_diffusers.settings import Settings
from tests import adapter_files
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, FolderCase, generate, load, new_job, offloaded, spec_of, zoo_model
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

    def test_a_gguf_stays_as_it_is_beside_what_is_quantized(self) -> None:
        flux = checkpoint(FLUX)
        packed = adapter_files.gguf(adapter_files.weights_of(flux / "transformer"), self.folder / "t.gguf")
        model = load(packed, Options=[f"base_model:{flux}", "quantization:qint8"])
        self.assertEqual(model.where.quantized.keys(), {"text_encoder", "text_encoder_2"})
        self.assertIn("transformer is quantized already and stays as it is", " ".join(model.notes))

    def test_a_modular_pipeline_is_quantized_too(self) -> None:
        fields = {"PipelineType": "ZImageModularPipeline", "Quantization": "transformer:qint8"}
        pipeline = load(checkpoint("ZImagePipeline"), **fields).pipeline
        self.assertEqual(quantized(pipeline.transformer), linears(pipeline.transformer).keys())

    def test_the_special_flux_path_takes_other_words(self) -> None:
        fields = {"PipelineType": "FluxTransformer2DModel", "Options": [f"base_model:{checkpoint(FLUX)}"]}
        model = load(checkpoint(FLUX), Quantization="text_encoder_2:qint8", **fields)
        self.assertEqual(model.where.quantized, {"transformer": "qfloat8", "text_encoder_2": "qint8"})
        kinds = {layer.weight.qtype.name for layer in linears(model.pipeline.text_encoder_2).values()}
        self.assertEqual(kinds, {"qint8"})


class OnTopTest(FolderCase):
    def test_a_lora_of_pairs_adds_what_it_adds_to_plain_weights(self) -> None:
        file = str(adapter_files.lora(checkpoint(FLUX), self.folder / "style.safetensors", "transformer"))
        words = ("qint8", *(["int8"] if HAS_TORCHAO else []))
        plain, *packed = (
            load(checkpoint(FLUX), LoraAdapter=file, Quantization=f"transformer:{word}" if word else "")
            for word in ("", *words)
        )
        right = {
            name: layer.get_delta_weight("0_style")
            for name, layer in plain.pipeline.transformer.named_modules()
            if hasattr(layer, "get_delta_weight")
        }
        self.assertTrue(right)
        for model in packed:
            for name, change in right.items():
                layer = model.pipeline.transformer.get_submodule(name)
                self.assertFalse(quantizers.is_plain(layer.base_layer.weight))
                self.assertTrue(torch.equal(layer.get_delta_weight("0_style"), change))
            self.assertEqual(generate(model, "a red circle", step=1, seed=1, width=32, height=32)[0].size, (32, 32))

    def test_a_lora_of_differences_is_refused(self) -> None:
        layer = "transformer_blocks.0.attn.to_q"
        rows = zoo_model(FLUX).pipeline.transformer.get_submodule(layer).out_features
        file = adapter_files.save({f"transformer.{layer}.diff": torch.ones(rows, rows)}, self.folder / "d.safetensors")
        with self.assertRaisesRegex(LoadError, "full difference.*transformer are quantized"):
            prepared(FLUX, "transformer:qint8", LoraAdapter=str(file))

    def test_offload_by_components_moves_quantized_weights(self) -> None:
        with offloaded("model"):
            model = load(checkpoint(SD), Options=["quantization:unet:qint8"])
            image, _ = generate(model, "a red circle", step=1, seed=1, width=32, height=32)
        self.assertTrue(quantized(model.pipeline.unet))
        self.assertEqual(image.size, (32, 32))


def _without_headers(_extension: Any) -> Any:
    raise RuntimeError("no Python.h")


def prepared(name: str, words: str, *options: str, **fields: Any) -> Any:
    options = (f"quantization:{words}", *options)
    return pipelines.prepare(spec_of(checkpoint(name), Options=options, **fields), Settings(), new_job())


class RefusalsTest(unittest.TestCase):
    def refused(self, says: str, words: str, *options: str, name: str = SD, **fields: Any) -> None:
        with self.assertRaisesRegex(LoadError, says):
            prepared(name, words, *options, **fields)

    def test_a_component_that_cannot_be_quantized_is_named_with_those_that_can(self) -> None:
        can = r"What can be quantized: text_encoder, unet$"
        self.refused(f"unett is no component of this model. {can}", "unett:qint8")
        self.refused(f"scheduler has no weights.*{can}", "scheduler:qint8")
        self.refused(f"vae is an autoencoder.*{can}", "vae:qint8")
        self.refused(
            "text_encoder_3 is no component of this model", "text_encoder_3:qint8", "text_encoder_3:null", name=SD3
        )

    def test_what_is_quantized_already_is_named(self) -> None:
        with mock.patch.object(Skeletons, "is_quantized", lambda _self, name: name == "unet"):
            self.refused("unet is quantized already", "unet:qint8")

    def test_what_the_pipeline_makes_another_model_of_is_named(self) -> None:
        adapter = f"motion_adapter:{checkpoint('AnimateDiffPipeline') / 'motion_adapter'}"
        for name in ("unet", "motion_adapter"):
            says = f"{name} is made into another model.*: text_encoder$"
            self.refused(says, f"{name}:qint8", adapter, PipelineType="AnimateDiffPipeline")

    def test_a_component_without_linear_layers_is_named(self) -> None:
        with mock.patch.object(Skeletons, "__getitem__", lambda _self, _name: {"a": Layer((1, 1), "conv")}):
            self.refused("unet has no linear layers", "unet:qint8")
            self.refused("nothing of this model can be quantized", "qint8")

    def test_a_missing_or_old_package_is_named_with_the_line_that_installs_it(self) -> None:
        says = r"unet:nf4 needs .* bitsandbytes.*pip install -r requirements-quantization.txt"
        gone = importlib.metadata.PackageNotFoundError
        with mock.patch.object(quantizers.importlib.metadata, "version", side_effect=gone):
            self.refused(says, "unet:nf4")
        with mock.patch.object(quantizers.importlib.metadata, "version", lambda _name: "0.3"):
            self.refused("int8 needs torchao of at least .*, and here is 0.3: pip install", "unet:int8")

    def test_what_the_device_cannot_is_refused_with_what_it_can(self) -> None:
        with mock.patch.object(quantizers, "_check_installed"):
            self.refused("unet:nf4: bitsandbytes quantizes diffusers' models on a GPU alone; .*qint8", "unet:nf4")
            self.refused("unet:int4: torchao packs 4 bits on a GPU alone.*nf4 or qint4", "unet:int4")
        with mock.patch.dict("os.environ", CXX="no-such-compiler"):
            self.refused("unet:qint4: .*no C.. compiler no-such-compiler", "unet:qint4")
        with (
            mock.patch("shutil.which", return_value="c++"),
            mock.patch("torch.utils.cpp_extension.is_ninja_available", return_value=True),
            mock.patch("optimum.quanto.library.extensions.extension.Extension.lib", new=property(_without_headers)),
        ):
            self.refused("unet:qint4: .*could not be compiled .no Python.h.", "unet:qint4")

    def test_what_excludes_it_is_named(self) -> None:
        self.refused("layerwise_casting exclude each other: unet", "unet:qint8", "layerwise_casting:fp8")
        self.refused("fuse_qkv exclude each other: unet", "qint8", "fuse_qkv:true")
        self.refused("low_cpu_mem_usage:false forbids", "qint8", "low_cpu_mem_usage:false")
        with offloaded("sequential"):
            self.refused("unet:qint8: offload:sequential cannot move such weights: .*model", "unet:qint8")

    def test_weights_that_are_used_without_their_layer_are_not_the_requests_fault(self) -> None:
        """HunyuanDiT pools its prompt with the weights of layers that it does not call."""
        model = load(checkpoint("HunyuanDiTPipeline"), Options=["quantization:int8"])
        with self.assertRaisesRegex(NotSupported, "computes with its weights in a way that quantized ones cannot"):
            generate(model, "a cat", width=32, height=32, step=1)

    def test_a_part_that_nothing_was_quantized_of_is_no_success(self) -> None:
        plain = zoo_model(SD)
        with self.assertRaisesRegex(LoadError, "quantization:unet:qint8: none of its .* linear layers"):
            quantization.notes(plain.pipeline, replace(plain.where, quantized={"unet": "qint8"}))


if __name__ == "__main__":
    unittest.main()
