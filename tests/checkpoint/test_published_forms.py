# SPDX-License-Identifier: MIT
"""Models in the forms that people publish and copy them: one variant alone, nulls, other class names, files beside,
parts."""

from __future__ import annotations

import unittest

from localai_diffusers.errors import LoadError
from tests.adapter_files import difference
from tests.loading.test_pipelines import ModelCase
from tests.support import SHAPES_MODEL, generate, load
from tests.zoo import checkpoint


class FormTest(ModelCase):
    """Each loads and makes the picture of the model that it is a copy of."""

    def setUp(self) -> None:
        super().setUp()
        self.model = self.copy()

    def rename(self, *components: str, variant: str = "fp16") -> None:
        for name in components:
            file = next((self.model / name).glob("*.safetensors"))
            file.rename(file.with_suffix(f".{variant}.safetensors"))

    def assert_same_picture(self, **fields: object) -> None:
        pictures = (
            generate(load(model, **fields), "a red circle", width=64, height=64, step=2, seed=1)[0]
            for model in (SHAPES_MODEL, self.model)
        )
        self.assertEqual(difference(*pictures), 0)

    def test_one_variant_alone_needs_no_option(self) -> None:
        self.rename("unet", "vae", "text_encoder")
        self.assert_same_picture()

    def test_one_component_in_one_variant_alone_is_loaded_from_that(self) -> None:
        self.rename("vae", variant="bf16")
        self.assert_same_picture()

    def test_a_file_without_a_suffix_beside_the_weights_of_a_variant_does_no_harm(self) -> None:
        self.rename("unet")
        (self.model / "unet" / "LICENSE").write_text("MIT")
        self.assert_same_picture(F16Memory=True)

    def test_what_macos_leaves_beside_a_file_is_not_read(self) -> None:
        (self.model / "unet" / "._diffusion_pytorch_model.safetensors").write_text("resource fork")
        self.assert_same_picture()

    def test_an_entry_that_the_class_ignores_is_not_looked_for(self) -> None:
        self.edit(self.model / "model_index.json", license=["a", "b"], note="x", watermark=None)
        self.assert_same_picture()

    def test_an_unknown_class_gives_way_to_the_one_that_the_yaml_names(self) -> None:
        self.edit(self.model / "model_index.json", _class_name="TheirOwnPipeline")
        with self.assertRaisesRegex(LoadError, "pipeline_type.*TheirOwnPipeline"):
            load(self.model)
        with self.assertRaisesRegex(LoadError, "lacks .*transformer.*, which FluxPipeline needs"):
            load(self.model, PipelineType="FluxPipeline")
        self.assert_same_picture(PipelineType="StableDiffusionPipeline")

    def test_a_tokenizer_without_a_length_gets_its_text_encoders(self) -> None:
        (self.model / "tokenizer" / "tokenizer_config.json").write_text("{}")
        self.assertEqual(load(self.model).pipeline.tokenizer.model_max_length, 77)

    def test_a_required_component_that_is_null_is_left_out_of_the_siblings_too(self) -> None:
        self.model = self.copy(checkpoint("StableDiffusion3Pipeline"), "sd3")
        self.edit(self.model / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
        model = load(self.model)
        self.assertIsNone(model.pipeline.text_encoder_3)
        image, _ = generate(model, "a cat", src=self.picture(), width=64, height=64, step=2, seed=1)
        self.assertEqual(image.size, (64, 64))


class PartTest(ModelCase):
    """Half a download is told by the part that is missing, before anything is read."""

    def refused(self, words: str, *gone: str) -> None:
        model = self.copy(name="-".join(gone).replace("/", "-"))
        for name in gone:
            for file in model.glob(name):
                file.unlink()
        with self.assertRaisesRegex(LoadError, words):
            load(model)

    def test_it_is_named(self) -> None:
        self.refused("scheduler holds no files", "scheduler/*")
        self.refused(
            "tokenizer holds no vocabulary .*vocab.json",
            "tokenizer/tokenizer.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
        )
        self.refused("text_encoder holds no config.json beside its weights", "text_encoder/config.json")

    def test_a_component_in_another_variant_than_the_rest_is_named(self) -> None:
        model = self.copy()
        for name, variant in (("unet", "fp16"), ("vae", "bf16")):
            file = next((model / name).glob("*.safetensors"))
            file.rename(file.with_suffix(f".{variant}.safetensors"))
        with self.assertRaisesRegex(LoadError, "(unet|vae) holds no plain weights, only the variant"):
            load(model)

    def test_a_folder_of_another_family_is_no_quantized_flux(self) -> None:
        with self.assertRaisesRegex(LoadError, "transformer is no FluxTransformer2DModel"):
            load(SHAPES_MODEL, PipelineType="FluxTransformer2DModel")

    def test_weights_without_some_tensors_are_told_by_their_names(self) -> None:
        from safetensors.torch import load_file, save_file

        model = self.copy()
        file = next((model / "unet").glob("*.safetensors"))
        tensors = load_file(file)
        tensors.pop("conv_in.bias")
        save_file(tensors, file, {"format": "pt"})
        with self.assertRaisesRegex(LoadError, r"weights of unet lack 1 of its tensors \(conv_in.bias\)"):
            load(model)


if __name__ == "__main__":
    unittest.main()
