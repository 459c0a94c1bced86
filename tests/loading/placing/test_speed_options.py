# SPDX-License-Identifier: MIT
"""Options that trade memory for speed: what they do to the weights and the graphs, and that the picture stays right."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from localai_diffusers.errors import LoadError
from localai_diffusers.generation.warm_up import first_call
from localai_diffusers.loading import pipelines
from localai_diffusers.settings import Settings
from tests import adapter_files
from tests.adapter_files import difference
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, FolderCase, generate, load, new_job, spec_of
from tests.zoo import checkpoint

_COUNTED: list[Any] = []


def _count(graph: Any, _inputs: Any) -> Any:
    _COUNTED.append(graph)
    return graph.forward


torch._dynamo.register_backend(_count, name="counting")
PROMPT = "a red circle on a blue background"


class LayerwiseCastingTest(unittest.TestCase):
    def test_the_weights_lie_in_8_bits_and_the_picture_is_right(self) -> None:
        plain = load(SHAPES_MODEL).memory()["unet"]
        model = load(SHAPES_MODEL, Options=["layerwise_casting:fp8", "guidance_scale:5"])
        self.assertLess(model.memory()["unet"], 0.5 * plain)
        dtypes = {parameter.dtype for parameter in model.pipeline.unet.parameters()}
        self.assertIn(torch.float8_e4m3fn, dtypes)
        picture, _ = generate(model, PROMPT, width=64, height=64, step=20, seed=1)
        self.assertEqual(judge(picture).prompt(), PROMPT)


class FuseTest(unittest.TestCase):
    def fused(self, model: Any) -> bool:
        return any(getattr(layer, "fused_projections", False) for layer in model.modules())

    def test_a_transformer_whose_pipeline_has_no_word_for_it_is_fused(self) -> None:
        for name in ("FluxPipeline", "ChromaPipeline"):
            model = load(checkpoint(name), Options=["fuse_qkv:true"])
            self.assertTrue(self.fused(model.pipeline.transformer))
            self.assertEqual([note for note in model.notes if "fuse_qkv" in note], [])
            wanted, _ = generate(load(checkpoint(name)), "a cat", width=64, height=64, step=2, seed=1)
            found, _ = generate(model, "a cat", width=64, height=64, step=2, seed=1)
            self.assertLess(difference(found, wanted), 1.0)

    def test_one_that_fuses_nothing_is_noted(self) -> None:
        # Attention of another kind, one that has projections more than diffusers can fuse, and one to no text.
        for name in ("QwenImagePipeline", "KandinskyV22Pipeline", "AudioLDMPipeline"):
            model = load(checkpoint(name), Options=["fuse_qkv:true"])
            self.assertIn(f"option fuse_qkv is not supported by {name}", " ".join(model.notes))


class IPAdapterTest(FolderCase):
    """What is switched on beside an IP-Adapter, whose layers are in the denoiser's attention and in front of it."""

    NAMES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")

    def load(self, name: str, *options: str) -> Any:
        adapter = adapter_files.ip_adapter(self.folder / name / "ip.safetensors", name=name)
        return load(checkpoint(name), Options=[f"ip_adapter:{adapter}", *options])

    def draw(self, model: Any) -> Any:
        return generate(model, "a cat", width=64, height=64, step=2, seed=1, ref_images=[self.picture()])[0]

    def test_what_would_take_its_attention_away_is_noted_and_left(self) -> None:
        for name in self.NAMES:
            wanted = self.draw(self.load(name))
            for option in ("attention_slicing", "fuse_qkv"):
                with self.subTest(name, option=option):
                    model = self.load(name, f"{option}:true")
                    told = f"{option} is not supported .*IPAdapterAttnProcessor.* would be lost"
                    self.assertRegex(" ".join(model.notes), told)
                    self.assertLess(difference(self.draw(model), wanted), 1.0)

    def test_in_8_bits_it_draws_what_weights_of_8_bits_draw(self) -> None:
        for name in self.NAMES:
            cast, plain = self.load(name, "layerwise_casting:fp8"), self.load(name)
            weights = dict(cast.pipeline.unet.named_parameters())
            in_8_bits = {key for key, weight in weights.items() if weight.dtype == torch.float8_e4m3fn}
            self.assertTrue(any("processor" in key for key in in_8_bits))
            for key, weight in plain.pipeline.unet.named_parameters():
                if key in in_8_bits:
                    weight.data = weight.data.to(torch.float8_e4m3fn).to(weight.dtype)
            with self.subTest(name):
                self.assertLess(difference(self.draw(cast), self.draw(plain)), 1.0)

    def test_a_quantized_denoiser_takes_none(self) -> None:
        """By the option, or by a GGUF, whatever that is called."""
        name = self.NAMES[0]
        weights = adapter_files.weights_of(checkpoint(name) / "unet")
        blocks = adapter_files.gguf(weights, self.folder / "net.safetensors")
        for option in ("quantization:unet:qint8", f"unet:{blocks}"):
            with self.subTest(option), self.assertRaisesRegex(LoadError, "unet is quantized.* plain weights alone"):
                adapter = adapter_files.ip_adapter(self.folder / "ip" / "ip.safetensors")
                options = [f"ip_adapter:{adapter}", option]
                pipelines.prepare(spec_of(checkpoint(name), Options=options), Settings(), new_job())


class SlicingTest(unittest.TestCase):
    def test_a_model_without_it_or_with_attention_of_its_own_is_noted(self) -> None:
        for name, told in (
            ("FluxPipeline", "none of its models computes attention in slices"),
            ("DreamLitePipeline", "DreamLiteAttnProcessor2_0, which would be lost"),
        ):
            model = load(checkpoint(name), Options=["attention_slicing:true"])
            self.assertIn(told, " ".join(model.notes))
            generate(model, "a cat", width=64, height=64, step=2, seed=1)

    def test_a_picture_that_conditions_is_projected_in_the_dtype_that_it_has(self) -> None:
        """Kandinsky's projection casts what it reads to its weights' dtype, which would be fp8."""
        model = load(checkpoint("KandinskyV22CombinedPipeline"), Options=["layerwise_casting:fp8"])
        generate(model, "a cat", width=64, height=64, step=2, seed=1)


class CompileTest(unittest.TestCase):
    def graphs(self, model: Path) -> int:
        """How many graphs a picture takes, by a backend that counts them."""
        _COUNTED.clear()
        torch._dynamo.reset()
        self.addCleanup(torch._dynamo.reset)
        loaded = load(model, Options=['compile:{"backend": "counting"}'])
        generate(loaded, "a cat", width=64, height=64, step=2, seed=1)
        first = len(_COUNTED)
        generate(loaded, "a dog", width=64, height=64, step=2, seed=2)
        self.assertEqual(len(_COUNTED), first, "a repeated size compiles nothing")
        return first

    def test_after_a_warm_up_the_first_request_compiles_nothing(self) -> None:
        _COUNTED.clear()
        torch._dynamo.reset()
        self.addCleanup(torch._dynamo.reset)
        model = load(SHAPES_MODEL, Options=['compile:{"backend": "counting"}', "warmup:true"])
        job = new_job()
        first_call(model, job)
        compiled = len(_COUNTED)
        self.assertGreater(compiled, 0)
        self.assertEqual((job.step, model.notes), (0, ()))
        generate(model, PROMPT, step=2, seed=1)
        self.assertEqual(len(_COUNTED), compiled)

    def test_a_model_that_needs_a_picture_says_that_it_is_not_warm(self) -> None:
        model = load(checkpoint("StableVideoDiffusionPipeline"), Options=["warmup:true"])
        first_call(model, new_job())
        self.assertRegex(model.notes[-1], "option warmup: the first call was refused, so nothing is warm")

    def test_what_is_compiled_lies_where_the_next_process_finds_it(self) -> None:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
            load(SHAPES_MODEL, Options=['compile:{"backend": "counting"}'], ModelPath=folder)
            self.assertEqual(cache_dir(), os.path.join(folder, ".cache", "torchinductor"))

    def test_repeated_blocks(self) -> None:
        self.assertGreater(self.graphs(checkpoint("FluxPipeline")), 0)

    def test_the_whole_where_a_model_names_no_blocks(self) -> None:
        self.assertGreater(self.graphs(checkpoint("StableDiffusion3Pipeline")), 0)


if __name__ == "__main__":
    unittest.main()
