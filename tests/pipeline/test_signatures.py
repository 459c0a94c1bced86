# SPDX-License-Identifier: MIT
"""What a pipeline's __call__ takes: media by name and annotation, options and params by type."""

from __future__ import annotations

import unittest

import diffusers

import diffusers_dynamic_loader as loader
from localai_diffusers.errors import InvalidRequest
from localai_diffusers.pipeline import signatures
from localai_diffusers.pipeline.signatures import parameters_of


class ParametersTest(unittest.TestCase):
    def test_a_pipeline_and_its_class_say_the_same(self) -> None:
        found = parameters_of(diffusers.StableDiffusionPipeline)
        self.assertIn("prompt", found)
        self.assertFalse({"self", "kwargs"} & found.keys())

    def test_every_class_of_the_catalogue_can_be_read(self) -> None:
        registry, unread = loader.get_pipeline_registry(), []
        for name in registry:
            try:
                cls = registry[name]
            except ImportError:
                continue  # needs a package that is not here
            found = parameters_of(cls)
            if any(isinstance(known.annotation, str) for known in found.values()):
                unread.append(name)
        # Annotations left as text switch the type checks off. This one's name a class that its module doesn't import.
        self.assertLessEqual(set(unread), {"LTXI2VLongMultiPromptPipeline"})

    def test_one_annotation_that_cannot_be_read_leaves_the_others(self) -> None:
        found = parameters_of(diffusers.LTXI2VLongMultiPromptPipeline)
        self.assertEqual((found["height"].annotation, found["frame_rate"].annotation), (int, float))


class MediaTest(unittest.TestCase):
    IMAGES = {
        "StableDiffusionPipeline": [],
        "StableDiffusionImg2ImgPipeline": ["image"],
        "QwenImageEditPipeline": ["image"],
        "StableDiffusionControlNetImg2ImgPipeline": ["image", "control_image"],
        "PaintByExamplePipeline": ["image", "example_image"],
        "WanImageToVideoPipeline": ["image"],
        "WanVACEPipeline": ["reference_images"],
        "FluxPipeline": [],
        "StableDiffusionInpaintPipeline": ["image"],
        "StableVideoDiffusionPipeline": ["image"],
    }

    def test_the_main_picture_comes_first_then_the_signatures_order(self) -> None:
        for name, expected in self.IMAGES.items():
            self.assertEqual(signatures.image_parameters(parameters_of(getattr(diffusers, name))), expected, name)

    def test_masks_videos_and_sound_are_told_apart(self) -> None:
        self.assertEqual(signatures.mask_parameters(parameters_of(diffusers.FluxInpaintPipeline)), ["mask_image"])
        self.assertEqual(signatures.mask_parameters(parameters_of(diffusers.FluxPipeline)), [])
        self.assertEqual(signatures.video_parameters(parameters_of(diffusers.WanVideoToVideoPipeline)), ["video"])
        self.assertEqual(signatures.video_parameters(parameters_of(diffusers.WanPipeline)), [])
        self.assertTrue(signatures.audio_parameters(parameters_of(diffusers.StableAudioPipeline)))

    def test_numbers_and_embeddings_take_no_media(self) -> None:
        for name in (
            "AudioLDM2Pipeline",
            "StableDiffusionXLPipeline",
            "LTXPipeline",
            "CogVideoXPipeline",
            "ChromaPipeline",
        ):
            found = parameters_of(getattr(diffusers, name))
            self.assertEqual(signatures.image_parameters(found) + signatures.video_parameters(found), [], name)

    def test_a_list_is_told_by_plural_or_annotation(self) -> None:
        self.assertTrue(signatures.takes_list(parameters_of(diffusers.WanVACEPipeline)["reference_images"]))
        self.assertTrue(signatures.takes_list(parameters_of(diffusers.Flux2Pipeline)["image"]))


class CompleteTest(unittest.TestCase):
    def test_a_required_argument_that_nothing_fills_is_named(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "needs image"):
            signatures.check_complete({}, parameters_of(diffusers.StableVideoDiffusionPipeline), "X")


if __name__ == "__main__":
    unittest.main()
