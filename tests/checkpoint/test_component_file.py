# SPDX-License-Identifier: MIT
"""A file with a transformer alone runs on the rest of its base, GGUF or safetensors, whatever the family."""

from __future__ import annotations

import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch

from localai_diffusers.checkpoint import headers
from localai_diffusers.errors import LoadError
from tests import adapter_files
from tests.adapter_files import difference
from tests.hub_server import FakeHub
from tests.support import Backend, generate, load
from tests.zoo import checkpoint

# A transformer with a converter of its own, one that diffusers reads from folders alone, one that keeps tables beside
# its linear layers, and a U-Net.
FAMILIES = {
    "FluxPipeline": "transformer",
    "LuminaPipeline": "transformer",
    "SanaPipeline": "transformer",
    "StableDiffusionPipeline": "unet",
}

# Classes that diffusers has converters of original formats for, which know no prefix or fail on one.
PREFIXED = (
    "FluxPipeline",
    "StableDiffusion3Pipeline",
    "QwenImagePipeline",
    "WanPipeline",
    "ZImagePipeline",
    "Lumina2Pipeline",
    "HunyuanVideoPipeline",
    "MochiPipeline",
    "SanaPipeline",
    "LTXPipeline",
)


def picture(model: Any) -> Any:
    return generate(model, "red circle", width=32, height=32, step=2, seed=1)[0]


class TransformerFileTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="transformer-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        for name, part in FAMILIES.items():
            weights = adapter_files.weights_of(checkpoint(name) / part)
            adapter_files.gguf(weights, cls.folder / f"{name}.gguf")
            adapter_files.save(weights, cls.folder / f"{name}.safetensors")

    def on_base(self, file: str, base: str, **fields: Any) -> Any:
        options = [f"base_model:{checkpoint(base)}", *fields.pop("Options", [])]
        return load(self.folder / file, ModelPath=str(self.folder), Options=options, **fields)

    def test_a_safetensors_transformer_makes_the_bases_picture(self) -> None:
        for name in FAMILIES:
            same = picture(self.on_base(f"{name}.safetensors", name))
            self.assertEqual(difference(same, picture(load(checkpoint(name)))), 0, name)

    def test_a_prefix_of_other_tools_before_every_weight_is_taken_off(self) -> None:
        for name in PREFIXED:
            own = adapter_files.weights_of(checkpoint(name) / "transformer")
            named = {f"model.diffusion_model.{key}": tensor for key, tensor in own.items()}
            adapter_files.save(named, self.folder / "prefixed.safetensors")
            weights = self.on_base("prefixed.safetensors", name).pipeline.transformer.state_dict()
            self.assertTrue(all(torch.equal(weights[key], tensor) for key, tensor in own.items()), name)

    def test_a_gguf_stays_quantized_and_makes_nearly_the_same_picture(self) -> None:
        for name, part in FAMILIES.items():
            model = self.on_base(f"{name}.gguf", name)
            layers = {type(module).__name__ for module in getattr(model.pipeline, part).modules()}
            self.assertIn("GGUFLinear", layers, name)
            self.assertLess(difference(picture(model), picture(load(checkpoint(name)))), 2, name)

    def test_a_lora_goes_onto_a_gguf(self) -> None:
        lora = adapter_files.lora(checkpoint("FluxPipeline"), self.folder / "lora.safetensors", "transformer", 5.0)
        with_lora = picture(self.on_base("FluxPipeline.gguf", "FluxPipeline", LoraAdapter=str(lora)))
        self.assertGreater(difference(with_lora, picture(self.on_base("FluxPipeline.gguf", "FluxPipeline"))), 1)

    def test_a_companion_gguf_becomes_the_component_of_its_name(self) -> None:
        model = load(checkpoint("FluxPipeline"), ModelPath=str(self.folder), Options=["transformer:FluxPipeline.gguf"])
        self.assertIn("GGUFLinear", {type(module).__name__ for module in model.pipeline.transformer.modules()})

    def test_without_a_base_the_error_names_the_option(self) -> None:
        for suffix in ("gguf", "safetensors"):
            with self.assertRaisesRegex(LoadError, "holds a transformer alone: .*base_model:"):
                load(self.folder / f"FluxPipeline.{suffix}")

    def test_the_files_metadata_may_name_the_base(self) -> None:
        weights = adapter_files.weights_of(checkpoint("FluxPipeline") / "transformer")
        url = "https://huggingface.co/tiny/flux"
        file = adapter_files.gguf(weights, self.folder / "named.gguf", base_model__0__repo_url=url)
        self.assertEqual(headers.read(file).metadata["general.base_model.0.repo_url"], url)
        with self.assertRaisesRegex(LoadError, "'tiny/flux' is not on this machine"):
            load(file, Options=["local_files_only:true"])

    def test_a_base_of_another_family_is_an_error(self) -> None:
        for suffix in ("gguf", "safetensors"):
            with self.assertRaisesRegex(LoadError, "FluxPipeline"):
                self.on_base(f"FluxPipeline.{suffix}", "QwenImagePipeline")

    def test_a_file_that_lacks_weights_is_an_error(self) -> None:
        weights = adapter_files.weights_of(checkpoint("LuminaPipeline") / "transformer")
        del weights[min(weights)]
        adapter_files.save(weights, self.folder / "less.safetensors")
        with self.assertRaisesRegex(LoadError, "lacks some of the weights of a LuminaNextDiT2DModel"):
            self.on_base("less.safetensors", "LuminaPipeline")

    def test_a_base_on_the_hub_is_downloaded_without_its_transformer(self) -> None:
        repos = self.folder / "hub"
        shutil.copytree(checkpoint("FluxPipeline"), repos / "tiny" / "flux")
        lora = adapter_files.lora(
            checkpoint("FluxPipeline"), repos / "tiny" / "lora" / "style.safetensors", "transformer"
        )
        with (
            FakeHub(repos) as hub,
            Backend(**hub.environment(self.folder / "cache") | {"HF_HUB_OFFLINE": "0"}) as backend,
        ):
            answer = backend.load(
                self.folder / "FluxPipeline.gguf", Options=["base_model:tiny/flux"], LoraAdapter="tiny/lora"
            )
            self.assertTrue(answer.success, answer.message)
            self.assertGreater(backend.image("red circle", width=32, height=32, step=1).stat().st_size, 100)
        asked = {path for _method, path, _token in hub.requests}
        self.assertTrue(any(lora.name in path for path in asked))
        self.assertFalse([path for path in asked if "transformer/diffusion_pytorch_model" in path])


if __name__ == "__main__":
    unittest.main()
