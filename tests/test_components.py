"""Components from elsewhere: VAE, text encoder, companion artifacts and ControlNets replace or join the model's own."""
from __future__ import annotations

import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch

from localai_diffusers.errors import LoadError
from tests import adapter_files
from tests.adapter_files import difference
from tests.support import generate, load
from tests.zoo import checkpoint

SIZE = {"width": 32, "height": 32, "step": 2, "seed": 1}


def picture(model: Any, **fields: Any) -> Any:
    return generate(model, "red circle", **{**SIZE, **fields})[0]


class ReplacementTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="components-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.model, cls.flux = checkpoint("StableDiffusionPipeline"), checkpoint("FluxPipeline")
        adapter_files.component("StableDiffusionPipeline", "vae", cls.folder / "vae")
        shutil.copy(next((cls.folder / "vae").glob("*.safetensors")), cls.folder / "vae.safetensors")
        adapter_files.component("StableDiffusionPipeline", "text_encoder", cls.folder / "clip")
        shutil.copytree(cls.model, cls.folder / "pipeline")
        shutil.rmtree(cls.folder / "pipeline" / "text_encoder")
        shutil.copytree(cls.folder / "clip", cls.folder / "pipeline" / "text_encoder")
        adapter_files.component("FluxPipeline", "text_encoder_2", cls.folder / ".artifacts" / "t5")
        cls.plain = picture(load(cls.model))

    def changed(self, **fields: Any) -> float:
        return difference(picture(load(self.model, ModelPath=str(self.folder), **fields)), self.plain)

    def test_the_models_own_vae_by_option_changes_nothing(self) -> None:
        self.assertEqual(self.changed(Options=[f"vae:{self.model / 'vae'}"]), 0)

    def test_vae_takes_a_folder_a_file_and_a_whole_pipeline(self) -> None:
        by_folder = self.changed(Options=["vae:vae"])
        self.assertGreater(by_folder, 1)
        self.assertAlmostEqual(self.changed(Options=["vae:vae.safetensors"]), by_folder, places=3)
        self.assertEqual(self.changed(Options=["vae:pipeline"]), 0)

    def test_a_vae_keeps_to_the_dtype_of_the_load(self) -> None:
        model = load(self.model, ModelPath=str(self.folder), Options=["vae:vae", "torch_dtype:bf16"])
        self.assertEqual(model.pipeline.vae.dtype, torch.bfloat16)

    def test_clip_model_replaces_the_text_encoder(self) -> None:
        by_folder = self.changed(CLIPModel="clip")
        self.assertGreater(by_folder, 1)
        for fields in ({"CLIPModel": "pipeline"}, {"CLIPModel": "pipeline", "CLIPSubfolder": "text_encoder"},
                       {"Options": ["clip_model:clip"]}):
            self.assertAlmostEqual(self.changed(**fields), by_folder, places=3, msg=str(fields))

    def test_a_companion_artifact_reaches_the_component_of_its_name(self) -> None:
        model = load(self.flux, ModelPath=str(self.folder), Options=["text_encoder_2:.artifacts/t5"])
        self.assertGreater(difference(picture(model), picture(load(self.flux))), 0.5)

    def test_another_familys_component_is_an_error_that_says_so(self) -> None:
        for option, words in ((f"vae:{self.flux / 'vae'}", "latent_channels 16"),
                              (f"vae:{self.model / 'unet'}", "UNet2DConditionModel"),
                              (f"clip_model:{self.flux / 'text_encoder_2'}", "of type t5")):
            with self.assertRaisesRegex(LoadError, words):
                load(self.model, Options=[option])

    def test_a_missing_component_names_the_field_and_stays_inside(self) -> None:
        for fields, words in (({"Options": ["vae:nope"]}, "option vae 'nope' is neither"),
                              ({"CLIPModel": "nope"}, "CLIPModel 'nope'"),
                              ({"Options": ["vae:../vae"]}, "option vae '../vae' leaves"),
                              ({"CLIPModel": "pipeline", "CLIPSubfolder": "no"}, "no folder 'no'")):
            with self.assertRaisesRegex(LoadError, words):
                load(self.model, ModelPath=str(self.folder), **fields)

    def test_a_pipeline_without_that_component_says_what_it_has(self) -> None:
        with self.assertRaisesRegex(LoadError, "DDPMPipeline has no component vae. It has scheduler, unet"):
            load(checkpoint("DDPMPipeline"), ModelPath=str(self.folder), Options=["vae:vae"])


class ControlNetTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="controlnet-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        adapter_files.controlnet("StableDiffusionControlNetPipeline", cls.folder / "sd")
        adapter_files.controlnet("StableDiffusionXLControlNetPipeline", cls.folder / "xl")
        adapter_files.controlnet("FluxControlNetPipeline", cls.folder / "flux")
        cls.model = checkpoint("StableDiffusionPipeline")
        cls.plain = picture(load(cls.model))
        cls.source = str(cls.folder / "src.png")
        cls.plain.rotate(90).save(cls.source)

    def controlled(self, net: str, model: str = "StableDiffusionPipeline", **fields: Any) -> Any:
        return load(checkpoint(model), ControlNet=net, ModelPath=str(self.folder), **fields)

    def test_the_pipeline_becomes_its_sibling_with_a_controlnet(self) -> None:
        for net, model in (("sd", "StableDiffusionPipeline"), ("xl", "StableDiffusionXLPipeline"), ("flux", "FluxPipeline")):
            loaded = self.controlled(net, model)
            self.assertEqual(type(loaded.pipeline).__name__, model.replace("Pipeline", "ControlNetPipeline"))
            self.assertEqual(picture(loaded, src=self.source).size, (32, 32))

    def test_the_scale_option_sets_its_strength(self) -> None:
        off = self.controlled("sd", Options=["controlnet_conditioning_scale:0.0"])
        self.assertLess(difference(picture(off, src=self.source), self.plain), 0.1)
        self.assertGreater(difference(picture(self.controlled("sd"), src=self.source), self.plain), 1)

    def test_several_are_taken_together(self) -> None:
        loaded = self.controlled("sd, sd")
        self.assertEqual(len(loaded.pipeline.controlnet.nets), 2)
        self.assertEqual(picture(loaded, ref_images=[self.source, self.source]).size, (32, 32))

    def test_img2img_and_an_explicit_class_keep_their_task(self) -> None:
        by_flag = type(self.controlled("sd", IMG2IMG=True).pipeline)
        self.assertEqual(by_flag.__name__, "StableDiffusionControlNetImg2ImgPipeline")
        asked = "StableDiffusionControlNetInpaintPipeline"
        self.assertEqual(type(self.controlled("sd", PipelineType=asked).pipeline).__name__, asked)

    def test_another_familys_controlnet_is_an_error_that_says_which(self) -> None:
        with self.assertRaisesRegex(LoadError, "cross_attention_dim 64, and this model's unet 32"):
            self.controlled("xl")
        with self.assertRaisesRegex(LoadError, "is a ControlNetModel; .*FluxPipeline.* take FluxControlNetModel"):
            self.controlled("sd", "FluxPipeline")

    def test_what_is_no_controlnet_is_an_error(self) -> None:
        with self.assertRaisesRegex(LoadError, "is a UNet2DConditionModel"):
            self.controlled(str(self.model / "unet"))
        with self.assertRaisesRegex(LoadError, "ControlNet 'nope'"):
            self.controlled("nope")
        with self.assertRaisesRegex(LoadError, "DDPMPipeline"):
            self.controlled("sd", "DDPMPipeline")


if __name__ == "__main__":
    unittest.main()
