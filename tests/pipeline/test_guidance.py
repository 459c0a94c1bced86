# SPDX-License-Identifier: MIT
"""Where a guidance scale goes, and what it is when nobody says: asked of real tiny pipelines."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import diffusers

from localai_diffusers.pipeline.guidance import embeds_guidance, guidance_of, is_distilled
from localai_diffusers.pipeline.signatures import parameters_of
from tests.support import arguments_of, load, zoo_model
from tests.zoo import checkpoint


def part(**config: Any) -> SimpleNamespace:
    return SimpleNamespace(config=SimpleNamespace(**config))


class DistilledTest(unittest.TestCase):
    PUBLISHED = (
        "sdxl-turbo", "Z-Image-Turbo", "FLUX.1-schnell", "SDXL-Lightning", "dreamshaper_8LCM.lcm", "Hyper-SD15-1step",
        "Hyper-FLUX.1-dev-8steps-lora", "stable-diffusion-3.5-large-turbo", "sd3.5_large_turbo", "Qwen-Image-Lightning",
        "Qwen-Image-Edit-2511-Lightning", "Wan2.2-T2V-A14B-Lightning", "AnimateDiff-Lightning", "FLUX.1-Turbo-Alpha",
        "sdxl_lightning_4step.safetensors", "DreamShaperXL_Turbo", "photo_turbo_4steps", "some-lightning-8-steps",
    )  # fmt: skip
    ORDINARY = (
        "hyper-realistic-shapes", "HRA_hyper_realism_art", "lightning-photography", "Turbo-Encabulator",
        "swan-lightning", "realistic_hyper_v3.safetensors", "turbovisionXL", "turbocharged", "hyperion",
        "art-hyper-2024", "turbo", "z-image", "lightningbug", "FLUX.1-dev", "",
    )  # fmt: skip

    def test_a_word_tells_where_publishers_write_it(self) -> None:
        self.assertEqual([name for name in self.PUBLISHED if not is_distilled([name], {})], [])

    def test_in_other_names_it_is_a_word(self) -> None:
        self.assertEqual([name for name in self.ORDINARY if is_distilled([name], {})], [])

    def test_a_guidance_that_a_name_sets_is_a_note(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "sdxl-turbo")
            path.symlink_to(checkpoint("StableDiffusionXLPipeline"), target_is_directory=True)
            self.assertIn("guidance is 0, for the name sdxl-turbo", load(path).notes[0])
            self.assertEqual(load(path, CFGScale=2).notes, ())
            self.assertEqual(arguments_of(load(path), "a cat")["guidance_scale"], 0.0)

    def test_a_flag_in_the_index_tells(self) -> None:
        self.assertTrue(is_distilled(["flux2-klein"], {"is_distilled": True}))
        self.assertFalse(is_distilled(["flux2-klein"], {"is_distilled": False}))


class EmbeddedTest(unittest.TestCase):
    def test_the_denoisers_config_tells(self) -> None:
        self.assertTrue(embeds_guidance(SimpleNamespace(transformer=part(guidance_embeds=True))))
        self.assertTrue(embeds_guidance(SimpleNamespace(unet=part(time_cond_proj_dim=256))))
        self.assertFalse(embeds_guidance(SimpleNamespace(transformer=part(guidance_embeds=False), unet=None)))
        self.assertFalse(embeds_guidance(SimpleNamespace(unet=part(time_cond_proj_dim=None))))


class PipelinesTest(unittest.TestCase):
    """The zoo's pipelines: Stable Diffusion, Flux, Qwen-Image (true CFG), Z-Image, LCM (embedded in the UNet)."""

    def guidance(self, name: str, chosen: float | None, distilled: bool = False) -> dict[str, float]:
        return zoo_model(name).profile.guidance.arguments(chosen, distilled)

    def test_without_a_choice_the_pipelines_own_default_stands(self) -> None:
        for name in ("StableDiffusionPipeline", "FluxPipeline", "QwenImagePipeline", "ZImagePipeline", "WanPipeline"):
            self.assertEqual(self.guidance(name, None), {}, name)

    def test_a_choice_goes_to_guidance_scale(self) -> None:
        for name in ("StableDiffusionPipeline", "ZImagePipeline", "WanPipeline", "LatentConsistencyModelPipeline"):
            self.assertEqual(self.guidance(name, 3.5), {"guidance_scale": 3.5}, name)

    def test_a_distilled_model_gets_0(self) -> None:
        self.assertEqual(self.guidance("StableDiffusionXLPipeline", None, True), {"guidance_scale": 0.0})
        self.assertEqual(self.guidance("ZImagePipeline", None, True), {"guidance_scale": 0.0})

    def test_a_choice_is_before_the_distilled_rule(self) -> None:
        self.assertEqual(self.guidance("ZImagePipeline", 2.0, True), {"guidance_scale": 2.0})

    def test_embedded_guidance_is_left_to_its_default_though_distilled(self) -> None:
        self.assertEqual(self.guidance("LatentConsistencyModelPipeline", None, True), {})
        self.assertEqual(self.guidance("SanaSprintPipeline", None, True), {})

    def test_qwen_means_true_cfg_by_it(self) -> None:
        self.assertEqual(self.guidance("QwenImagePipeline", 4.0), {"true_cfg_scale": 4.0})


class GalleryTest(unittest.TestCase):
    """YAMLs of LocalAI's gallery, as they arrive on the wire."""

    def test_qwen_images_cfg_scale_0_leaves_true_cfg_scale_to_its_option(self) -> None:
        model = load(checkpoint("QwenImagePipeline"), Options=["true_cfg_scale:4.0"], CFGScale=0)
        arguments = arguments_of(model, "a cat", negative_prompt="")
        self.assertEqual(arguments["true_cfg_scale"], 4.0)
        self.assertEqual(arguments["negative_prompt"], "")
        self.assertNotIn("guidance_scale", arguments)

    def test_flux_dev_gets_its_cfg_scale_as_embedded_guidance(self) -> None:
        arguments = arguments_of(load(checkpoint("FluxPipeline"), CFGScale=1), "a cat")
        self.assertEqual(arguments["guidance_scale"], 1.0)
        self.assertNotIn("negative_prompt", arguments)

    def test_a_schedule_has_a_scale_for_each_step_and_gives_way_to_one_for_all(self) -> None:
        ideogram = zoo_model("Ideogram4Pipeline")
        self.assertEqual(arguments_of(ideogram, step=3)["guidance_schedule"], [7.0, 7.0, 7.0])
        self.assertEqual(arguments_of(ideogram, step=48)["guidance_schedule"][-4:], [7.0, 3.0, 3.0, 3.0])
        chosen = arguments_of(load(checkpoint("Ideogram4Pipeline"), CFGScale=2.5), step=3)
        self.assertEqual((chosen["guidance_scale"], chosen["guidance_schedule"]), (2.5, None))

    def test_a_choice_goes_to_the_guidance_by_another_name_where_there_is_no_plain_one(self) -> None:
        model = load(checkpoint("StableCascadeCombinedPipeline"), CFGScale=2.5)
        self.assertEqual(arguments_of(model)["prior_guidance_scale"], 2.5)
        embedded = SimpleNamespace(transformer=part(guidance_embeds=True), guider=object())
        with mock.patch("localai_diffusers.pipeline.guidance.parameters_of") as known:
            known.return_value = parameters_of(diffusers.HunyuanImagePipeline)
            self.assertEqual(guidance_of(embedded).names, ("distilled_guidance_scale",))
            embedded.transformer = part(guidance_embeds=False)
            self.assertEqual((guidance_of(embedded).names, guidance_of(embedded).by_guider), ((), True))

    def test_a_real_0_comes_by_option(self) -> None:
        for option in ("guidance_scale:0", "cfg_scale:0"):
            model = load(checkpoint("StableDiffusionPipeline"), Options=[option], CFGScale=7)
            self.assertEqual(arguments_of(model, "a cat")["guidance_scale"], 0.0)

    def test_the_option_is_before_cfg_scale(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), Options=["guidance_scale:3"], CFGScale=7)
        self.assertEqual(arguments_of(model, "a cat")["guidance_scale"], 3.0)


if __name__ == "__main__":
    unittest.main()
