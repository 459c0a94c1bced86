# SPDX-License-Identifier: MIT
"""GenerateImage, through a real server: which picture goes where, and models that make something else than pictures."""

from __future__ import annotations

import unittest
from pathlib import Path

import numpy
from PIL import Image

from tests.rpc import SMALL, Clip, RpcCase


def pixels(path: Path) -> numpy.ndarray:
    with Image.open(path) as image:
        return numpy.asarray(image.convert("RGB")).astype(int)


class PicturesCase(RpcCase):
    def assert_counts(self, name: str, one: dict[str, object], other: dict[str, object]) -> None:
        """Both requests run, and what tells them apart shows in the picture."""
        first, second = (
            pixels(self.image(name=f"{name}{number}.png", **fields)) for number, fields in enumerate((one, other))
        )
        self.assertEqual(first.shape, second.shape)
        self.assertTrue((first != second).any(), name)


class ReferencesTest(PicturesCase):
    def test_an_edit_pipeline_takes_one_or_several_references(self) -> None:
        for model in ("QwenImageEditPlusPipeline", "Flux2KleinPipeline"):
            self.load(model)
            with self.subTest(model):
                self.assert_counts(model, {"ref_images": [self.picture]}, {"ref_images": [self.picture, self.second]})

    def test_src_comes_before_the_references(self) -> None:
        self.load("Flux2KleinPipeline")
        both = pixels(self.image(name="a.png", src=self.picture, ref_images=[self.second]))
        same = pixels(self.image(name="b.png", ref_images=[self.picture, self.second]))
        self.assertTrue((both == same).all())

    def test_more_than_the_pipeline_takes_says_what_it_takes(self) -> None:
        self.load("StableDiffusionImg2ImgPipeline")
        self.assertIn(
            "brings 2 pictures (src, ref_images, start_image): StableDiffusionImg2ImgPipeline takes 1 (image)",
            self.refusal(self.image, ref_images=[self.picture, self.second]),
        )

    def test_a_list_that_the_pipeline_takes_for_a_batch_is_told_as_too_many(self) -> None:
        for model, name in (("FluxKontextPipeline", "image"), ("FluxControlPipeline", "control_image")):
            self.load(model)
            self.assertIn(
                f"{name}=2 of 64x64",
                self.refusal(self.image, ref_images=[self.picture, self.second]),
            )

    def test_a_plural_parameter_gets_a_list_of_one(self) -> None:
        self.load("StableCascadeCombinedPipeline")
        self.image(src=self.picture, width=128, height=128)

    def test_a_model_that_takes_none_says_so(self) -> None:
        self.load("DDPMPipeline")
        self.assertIn("DDPMPipeline takes text alone", self.refusal(self.image, src=self.picture))


class ControlTest(PicturesCase):
    def test_a_lone_picture_is_the_control_image_where_that_is_the_only_one(self) -> None:
        for model in ("FluxControlPipeline", "StableDiffusionControlNetPipeline", "StableDiffusion3ControlNetPipeline"):
            self.load(model)
            with self.subTest(model):
                self.assert_counts(model, {"src": self.picture}, {"src": self.second})

    def test_none_at_all_says_what_is_missing(self) -> None:
        self.load("FluxControlPipeline")
        self.assertIn(
            "FluxControlPipeline takes control_image, and the request brings no picture", self.refusal(self.image)
        )
        self.load("StableDiffusionControlNetPipeline")
        self.assertIn("StableDiffusionControlNetPipeline takes image", self.refusal(self.image))

    def test_the_picture_comes_first_and_its_control_second(self) -> None:
        for model in ("StableDiffusionControlNetImg2ImgPipeline", "FluxControlImg2ImgPipeline"):
            self.load(model)
            with self.subTest(model):
                self.assert_counts(
                    model, {"ref_images": [self.picture, self.second]}, {"ref_images": [self.second, self.picture]}
                )

    def test_one_of_two_says_what_is_missing(self) -> None:
        said = {
            "StableDiffusionControlNetImg2ImgPipeline": "1 ControlNet and the request brings 0 pictures for control: "
            "send one for each, after the source",
            "FluxControlImg2ImgPipeline": "FluxControlImg2ImgPipeline takes image, control_image, and the request "
            "brings only what fills image",
        }
        for model, message in said.items():
            self.load(model)
            self.assertIn(message, self.refusal(self.image, src=self.picture))

    def test_picture_mask_control_in_this_order(self) -> None:
        self.load("StableDiffusionControlNetInpaintPipeline")
        self.image(ref_images=[self.picture, self.mask, self.second])
        self.image(src=self.picture, ref_images=[self.mask, self.second])
        self.assertIn(
            "takes image, control_image, mask_image", self.refusal(self.image, ref_images=[self.picture, self.mask])
        )

    def test_the_inpainting_json_brings_a_control_image_after_its_copies(self) -> None:
        self.load("StableDiffusionControlNetInpaintPipeline")
        source = self.inpainting_json()
        made = pixels(self.image(src=source, ref_images=[self.picture, self.mask, self.second], seed=7))
        self.assertEqual(made.shape, (64, 64, 3))


class InpaintingTest(PicturesCase):
    MODELS = ("StableDiffusionInpaintPipeline", "FluxFillPipeline", "StableDiffusionXLInpaintPipeline")

    def test_both_forms_of_the_contract_make_the_same(self) -> None:
        for model in self.MODELS:
            self.load(model)
            by_json = self.image(
                name="json.png", src=self.inpainting_json(), ref_images=[self.picture, self.mask], seed=5
            )
            by_list = self.image(name="list.png", ref_images=[self.picture, self.mask], seed=5)
            self.assertTrue((pixels(by_json) == pixels(by_list)).all(), model)

    def test_text_to_image_weights_inpaint_by_their_sibling(self) -> None:
        self.load("StableDiffusionXLPipeline")
        self.image(src=self.inpainting_json(), ref_images=[self.picture, self.mask])
        self.assertIn("runs as StableDiffusionXLInpaintPipeline", self.server.backend.log)

    def test_a_mask_that_is_missing_is_asked_for(self) -> None:
        self.load("StableDiffusionInpaintPipeline")
        self.assertIn(
            "takes a picture and a mask (image, mask_image), and one picture came",
            self.refusal(self.image, src=self.picture),
        )

    def test_an_example_comes_after_picture_and_mask(self) -> None:
        self.load("PaintByExamplePipeline")
        made = [
            pixels(self.image("", name=f"{number}.png", ref_images=[self.picture, self.mask, example]))
            for number, example in enumerate((self.picture, self.second))
        ]
        self.assertTrue((made[0] != made[1]).any())


class OtherOutputsTest(RpcCase):
    def test_a_video_model_without_a_prompt_writes_its_video_into_dst(self) -> None:
        """As documented: Stable Video Diffusion with ``file`` alone."""
        self.load("StableVideoDiffusionPipeline")
        clip = Clip(self.image("", src=self.picture))
        self.assertEqual((clip.codec, clip.size, len(clip.frames)), ("h264", (64, 64), 5))

    def test_so_does_one_from_text(self) -> None:
        self.load("WanPipeline", "num_frames:5")
        self.assertEqual(len(Clip(self.image()).frames), 5)

    def test_a_sound_model_writes_its_sound(self) -> None:
        self.load("AudioLDMPipeline")
        self.assertEqual(self.image().read_bytes()[:4], b"RIFF")

    def test_what_only_makes_embeddings_names_what_to_load(self) -> None:
        for model, hint in (
            ("KandinskyV22PriorPipeline", "KandinskyV22CombinedPipeline"),
            ("StableCascadePriorPipeline", "StableCascadeCombinedPipeline"),
            ("FluxPriorReduxPipeline", "FluxPipeline"),
        ):
            self.load(model)
            fields = {"src": self.picture} if "Redux" in model else {}
            self.assertIn(f"makes embeddings, not a file: load {hint}", self.refusal(self.image, **fields))

    def test_what_needs_anothers_tensors_names_what_to_load(self) -> None:
        for model, hint in (
            ("KandinskyV22Pipeline", "KandinskyV22CombinedPipeline"),
            ("WuerstchenDecoderPipeline", "WuerstchenCombined"),
        ):
            self.load(model)
            self.assertRegex(self.refusal(self.image), f"which only another pipeline makes: load {hint}")


class TextTest(RpcCase):
    def test_an_empty_prompt_is_a_prompt(self) -> None:
        """The tokenizers of GLM and Gemma give it no token of its own."""
        for model in ("CogView4Pipeline", "LuminaPipeline", "Lumina2Pipeline", "SanaPipeline", "QwenImagePipeline"):
            self.load(model)
            with self.subTest(model):
                self.image("")

    def test_a_size_that_the_pipeline_changes_is_told(self) -> None:
        self.load("StableDiffusionPipeline")
        self.image(width=70, height=70)
        self.assertIn("70x70 is rounded to 72x72", self.message)

    def test_clip_skip_by_default_is_no_trouble(self) -> None:
        """I2VGenXL's own default is 1, which transformers 5 moved the layers of."""
        self.load("I2VGenXLPipeline")
        self.assertEqual(Clip(self.video(start_image=self.picture, **SMALL)).size, (64, 64))


if __name__ == "__main__":
    unittest.main()
