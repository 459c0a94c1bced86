# SPDX-License-Identifier: MIT
"""`pipeline_type: FluxTransformer2DModel`: a Flux transformer's file, quantized at load, on a tiny Flux."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from localai_diffusers.checkpoint import model_files
from localai_diffusers.errors import BackendError
from localai_diffusers.loading import pipelines
from localai_diffusers.settings import Settings
from tests.support import generate, load, new_job, spec_of
from tests.zoo import checkpoint

TYPE = "FluxTransformer2DModel"


def weights() -> dict[str, torch.Tensor]:
    """The tiny Flux's transformer."""
    return load_file(next((checkpoint("FluxPipeline") / "transformer").glob("*.safetensors")))


def write_flux_gguf(path: Path) -> Path:
    """The transformer as a GGUF: 8-bit blocks where a row holds whole ones, 16-bit floats elsewhere."""
    import gguf

    writer = gguf.GGUFWriter(path, "flux")
    for name, value in weights().items():
        kind = (
            gguf.GGMLQuantizationType.Q8_0
            if value.ndim == 2 and value.shape[1] % 32 == 0
            else gguf.GGMLQuantizationType.F16
        )
        writer.add_tensor(name, gguf.quants.quantize(value.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class FluxQuantizedTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.file = cls.folder / "flux-dev.safetensors"
        save_file(weights(), cls.file)
        cls.settings = Settings(bfl_repo=str(checkpoint("FluxPipeline")))
        cls.model = cls.load(cls.file)

    @classmethod
    def load(cls, file: Path, **fields: Any) -> Any:
        return load(file, settings=cls.settings, PipelineType=TYPE, **fields)

    def pixels(self, model: Any, seed: int) -> bytes:
        return generate(model, "a red circle", step=2, seed=seed, width=32, height=32)[0].tobytes()

    def test_the_transformer_and_its_t5_are_quantized_and_frozen(self) -> None:
        from optimum.quanto import QLinear, qfloat8

        for part in (self.model.pipeline.transformer, self.model.pipeline.text_encoder_2):
            linears = [module for module in part.modules() if isinstance(module, torch.nn.Linear)]
            self.assertTrue(all(isinstance(module, QLinear) and module.frozen for module in linears) and linears)
            self.assertEqual({module.weight.qtype for module in linears}, {qfloat8})
        self.assertEqual(type(self.model.pipeline).__name__, "FluxPipeline")

    def test_the_seed_is_honored(self) -> None:
        """The incumbent always took 0."""
        self.assertEqual(self.pixels(self.model, 1), self.pixels(self.model, 1))
        self.assertNotEqual(self.pixels(self.model, 1), self.pixels(self.model, 2))

    def test_the_pictures_are_those_of_the_file_not_of_the_base(self) -> None:
        changed = self.folder / "other.safetensors"
        save_file({name: value * 1.5 for name, value in weights().items()}, changed)
        self.assertNotEqual(self.pixels(self.load(changed), 1), self.pixels(self.model, 1))

    def test_low_vram_is_harmless_on_a_cpu(self) -> None:
        model = self.load(self.file, LowVRAM=True)
        self.assertEqual((model.where.offload, self.pixels(model, 3)), ("none", self.pixels(self.model, 3)))

    def test_a_gguf_keeps_its_own_quantization(self) -> None:
        from diffusers.quantizers.gguf.utils import GGUFLinear

        model = self.load(write_flux_gguf(self.folder / "flux-dev-Q8_0.gguf"))
        self.assertTrue(any(isinstance(module, GGUFLinear) for module in model.pipeline.transformer.modules()))
        self.assertEqual(len(self.pixels(model, 1)), 32 * 32 * 3)

    def test_scaled_8_bit_floats_are_multiplied_out(self) -> None:
        own, stored = weights(), {}
        for key, tensor in own.items():
            if tensor.ndim == 2 and key.endswith("weight"):
                stored[key] = (tensor.float() / 0.25).to(torch.float8_e4m3fn)
                stored[key.removesuffix("weight") + "scale_weight"] = torch.tensor(0.25)
            else:
                stored[key] = tensor
        save_file(stored, self.folder / "scaled.safetensors")
        model = self.load(self.folder / "scaled.safetensors")
        weight = model.pipeline.transformer.transformer_blocks[0].attn.to_q.weight.dequantize().float()
        right = own["transformer_blocks.0.attn.to_q.weight"].float()
        self.assertLess((weight - right).abs().max() / right.abs().max(), 0.1)

    def test_a_folder_with_a_transformer_works_too(self) -> None:
        model = self.load(checkpoint("FluxPipeline"))
        self.assertEqual(self.pixels(model, 1), self.pixels(self.model, 1))

    def test_an_image_to_image_request_runs_on_the_quantized_weights(self) -> None:
        from PIL import Image

        source = self.folder / "src"
        Image.new("RGB", (32, 32), "red").save(source, "PNG")
        image, _ = generate(self.model, "a red circle", step=2, seed=1, src=str(source))
        self.assertEqual(image.size, (32, 32))

    def refused(self, says: str, model: str | Path, settings: Settings | None = None, **fields: Any) -> None:
        with self.assertRaisesRegex(BackendError, says):
            pipelines.prepare(spec_of(model, PipelineType=TYPE, **fields), settings or self.settings, new_job())

    def test_what_cannot_work_is_refused_first(self) -> None:
        broken = self.folder / "broken.safetensors"
        broken.write_bytes(self.file.read_bytes()[:-10])
        self.refused("no intact safetensors", broken)
        self.refused("needs the transformer's own file", "owner/name")
        self.refused("SchedulerType 'ddim'", self.file, SchedulerType="ddim")
        self.refused("bf17", self.file, Options=["torch_dtype:bf17"])
        self.refused("missing", self.file, settings=Settings(bfl_repo=str(self.folder / "missing")))

    def test_a_language_models_gguf_is_refused(self) -> None:
        from tests.checkpoint.test_model_files import write_gguf

        self.refused("llama-cpp", write_gguf(self.folder / "llama.gguf", "llama", vocabulary=100))

    def test_options_and_notes_are_those_of_a_flux_pipeline(self) -> None:
        model = self.load(self.file, Options=["max_sequence_length:64", "nonsense"], CFGScale=1)
        self.assertEqual((dict(model.defaults.options), model.defaults.guidance), ({"max_sequence_length": 64}, 1.0))
        self.assertIn("nonsense", model.notes[1])

    def test_a_component_by_option_is_the_one_that_serves(self) -> None:
        other = self.folder / "vae"
        vae = type(self.model.pipeline.vae).from_pretrained(checkpoint("FluxPipeline") / "vae")
        with torch.no_grad():
            vae.decoder.conv_out.weight.mul_(0.5)
        vae.save_pretrained(other)
        model = self.load(self.file, Options=[f"vae:{other}"])
        found, right = model.pipeline.vae.decoder.conv_out.weight, vae.decoder.conv_out.weight
        self.assertTrue(torch.equal(found, right.to(found.dtype)))
        self.refused("option transformer: .* brings its own", self.file, Options=["transformer:x"])

    def test_the_file_is_known_by_its_header(self) -> None:
        self.assertEqual(model_files.file_facts(self.file).files[0].dtype, "F32")


if __name__ == "__main__":
    unittest.main()
