# SPDX-License-Identifier: MIT
"""Which pipeline on the loaded weights fits what a request brings."""

from __future__ import annotations

import unittest
from typing import Any

import diffusers
import torch
from PIL import Image

from localai_diffusers.errors import InvalidRequest, NotSupported
from localai_diffusers.pipeline import tasks
from localai_diffusers.wire.requests import GenerationRequest
from tests.support import load, zoo_model
from tests.zoo import checkpoint

RED = Image.new("RGB", (64, 64), "red")
MASK = Image.new("L", (64, 64), 255)
BRINGS: dict[str, dict[str, Any]] = {
    "text": {},
    "image": {"images": (RED,)},
    "inpainting": {"images": (RED,), "mask": MASK, "is_inpainting": True},
    "pair": {"images": (RED, RED)},
    "video": {"video": [RED] * 9},
}


def chosen(name: str, brings: str, rpc: str = "GenerateImage") -> str:
    request = GenerationRequest(rpc, "out.png", prompt="a cat", **BRINGS[brings])
    return tasks.sibling_for(request, getattr(diffusers, name)).__name__


class SiblingTest(unittest.TestCase):
    def test_the_loaded_class_runs_what_it_can(self) -> None:
        for name, brings in (
            ("StableDiffusionPipeline", "text"),
            ("StableDiffusionImg2ImgPipeline", "image"),
            ("FluxInpaintPipeline", "inpainting"),
            ("FluxFillPipeline", "inpainting"),
            ("FluxKontextPipeline", "image"),
            ("QwenImageEditPipeline", "image"),
            ("StableDiffusionInpaintPipeline", "pair"),
            ("QwenImageEditPlusPipeline", "pair"),
            ("StableVideoDiffusionPipeline", "image"),
            ("FluxKontextPipeline", "text"),
        ):
            self.assertEqual(chosen(name, brings), name)

    def test_a_text_to_image_model_with_a_picture_runs_its_image_to_image_sibling(self) -> None:
        for name, sibling in (
            ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
            ("FluxPipeline", "FluxImg2ImgPipeline"),
            ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
            ("ZImagePipeline", "ZImageImg2ImgPipeline"),
            ("QwenImagePipeline", "QwenImageImg2ImgPipeline"),
            ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
        ):
            self.assertEqual(chosen(name, "image"), sibling)

    def test_the_inpainting_request_runs_the_inpaint_sibling(self) -> None:
        for name, sibling in (
            ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"),
            ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
            ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
            ("QwenImagePipeline", "QwenImageInpaintPipeline"),
        ):
            self.assertEqual(chosen(name, "inpainting"), sibling)

    def test_an_image_to_image_class_without_a_picture_runs_its_text_sibling(self) -> None:
        for name, sibling in (
            ("StableDiffusionImg2ImgPipeline", "StableDiffusionPipeline"),
            ("FluxInpaintPipeline", "FluxPipeline"),
            ("LTXImageToVideoPipeline", "LTXPipeline"),
            ("LTX2ImageToVideoPipeline", "LTX2Pipeline"),
        ):
            self.assertEqual(chosen(name, "text"), sibling)

    def test_video_models_go_to_their_siblings_too(self) -> None:
        self.assertEqual(chosen("LTXPipeline", "image", "GenerateVideo"), "LTXImageToVideoPipeline")
        self.assertEqual(chosen("WanPipeline", "video", "GenerateVideo"), "WanVideoToVideoPipeline")

    def test_a_video_that_only_params_name_is_taken_by_the_sibling_for_it(self) -> None:
        request = GenerationRequest("GenerateVideo", "out.mp4", prompt="a cat", params={"video": "clip.mp4"})
        self.assertIs(tasks.sibling_for(request, diffusers.WanPipeline), diffusers.WanVideoToVideoPipeline)
        self.assertIs(tasks.sibling_for(request, diffusers.MochiPipeline), diffusers.MochiPipeline)

    def test_two_pictures_are_no_mask_for_a_class_without_one(self) -> None:
        self.assertEqual(chosen("StableDiffusionPipeline", "pair"), "StableDiffusionImg2ImgPipeline")

    def test_what_the_family_cannot_do_is_refused_with_what_it_takes(self) -> None:
        for name, brings in (
            ("StableVideoDiffusionPipeline", "text"),
            ("DDPMPipeline", "image"),
            ("PaintByExamplePipeline", "text"),
            ("StableDiffusionControlNetPipeline", "text"),
            ("FluxFillPipeline", "text"),
        ):
            with self.assertRaisesRegex(NotSupported, f"{name} takes"):
                chosen(name, brings)

    def test_an_inpaint_class_with_one_picture_asks_for_the_mask(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "a picture and a mask.*image, mask_image"):
            chosen("FluxInpaintPipeline", "image")


class ShareTest(unittest.TestCase):
    def test_a_sibling_shares_the_weights_and_copies_nothing(self) -> None:
        pipeline = zoo_model("StableDiffusionPipeline").pipeline
        sibling = tasks.share_components(pipeline, diffusers.StableDiffusionImg2ImgPipeline)
        for name, part in sibling.components.items():
            if name != "scheduler":  # which counts the steps of one call
                self.assertIs(part, pipeline.components.get(name), name)
        self.assertFalse(sibling.config.requires_safety_checker)

    def test_a_vae_that_is_kept_in_fp32_stays_so_in_a_sibling(self) -> None:
        model = load(checkpoint("WanPipeline"), F16Memory=True, Options=["torch_dtype:bf16"])
        model.pipeline.vae.to(torch.float32)
        sibling = model.pipeline_as(diffusers.WanVideoToVideoPipeline)
        self.assertEqual((sibling.vae.dtype, sibling.transformer.dtype), (torch.float32, torch.bfloat16))

    def test_a_sibling_that_needs_more_names_what(self) -> None:
        with self.assertRaisesRegex(NotSupported, "StableDiffusionControlNetPipeline also needs controlnet"):
            tasks.share_components(
                zoo_model("StableDiffusionPipeline").pipeline, diffusers.StableDiffusionControlNetPipeline
            )

    def test_text_alone_cannot_fill_the_channels_of_an_inpainting_or_upscaling_unet(self) -> None:
        for name in ("StableDiffusionInpaintPipeline", "StableDiffusionUpscalePipeline"):
            with self.assertRaisesRegex(InvalidRequest, f"{name} takes image.*channels"):
                tasks.share_components(zoo_model(name).pipeline, diffusers.StableDiffusionPipeline)

    def test_a_sibling_is_made_once(self) -> None:
        model = load(checkpoint("FluxPipeline"))
        first = model.pipeline_as(diffusers.FluxImg2ImgPipeline)
        self.assertIs(model.pipeline_as(diffusers.FluxPipeline), model.pipeline)
        self.assertIs(model.pipeline_as(diffusers.FluxImg2ImgPipeline), first)


class ControlNetTest(unittest.TestCase):
    def chosen(self, name: str, *images: Image.Image) -> str:
        request = GenerationRequest("GenerateImage", "out.png", prompt="a cat", images=images)
        return tasks.class_for(request, zoo_model(name).pipeline).__name__

    def test_a_picture_beside_the_control_picture_is_the_source_of_image_to_image(self) -> None:
        name = "StableDiffusionControlNetPipeline"
        self.assertEqual(self.chosen(name, RED), name)
        self.assertEqual(self.chosen(name, RED, RED), "StableDiffusionControlNetImg2ImgPipeline")

    def test_a_model_without_controlnet_is_not_asked(self) -> None:
        self.assertEqual(self.chosen("FluxImg2ImgPipeline", RED), "FluxImg2ImgPipeline")


class KindTest(unittest.TestCase):
    def test_video_classes_are_told(self) -> None:
        for name in (
            "WanPipeline",
            "StableVideoDiffusionPipeline",
            "LTX2ImageToVideoPipeline",
            "TextToVideoSDPipeline",
            "WanVACEPipeline",
        ):
            self.assertTrue(tasks.makes_video(getattr(diffusers, name)), name)
        for name in ("FluxPipeline", "StableDiffusionImg2ImgPipeline", "AudioLDM2Pipeline", "DDPMPipeline"):
            self.assertFalse(tasks.makes_video(getattr(diffusers, name)), name)

    def test_upscalers_are_told(self) -> None:
        self.assertTrue(tasks.upscales(diffusers.StableDiffusionUpscalePipeline))
        self.assertFalse(tasks.upscales(diffusers.StableDiffusionPipeline))

    def test_a_class_of_unknown_origin_has_no_tasks(self) -> None:
        class OwnPipeline(diffusers.DiffusionPipeline):
            def __call__(self, prompt: str) -> None: ...

        self.assertEqual(tasks.tasks_of(OwnPipeline), ())


if __name__ == "__main__":
    unittest.main()
