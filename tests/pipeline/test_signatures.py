"""What a pipeline's __call__ takes: media by name and annotation, options and params by type."""

from __future__ import annotations

import inspect
import unittest
from typing import Any, Optional, Union

import diffusers

import diffusers_dynamic_loader as loader
from localai_diffusers.errors import InvalidRequest
from localai_diffusers.pipeline import signatures
from localai_diffusers.pipeline.signatures import parameters_of


def parameter(annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


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


class TypesTest(unittest.TestCase):
    def test_types_come_from_annotations_of_every_spelling(self) -> None:
        for annotation in (int | None, Optional[int], Union[int, None]):  # noqa: UP007, UP045
            self.assertEqual(signatures.accepted_types(parameter(annotation)), (int,))
        self.assertEqual(signatures.accepted_types(parameter(diffusers.DiffusionPipeline)), ())
        self.assertEqual(set(signatures.accepted_types(parameter(float | list[float]))), {float, list})

    def test_without_an_annotation_the_default_tells(self) -> None:
        self.assertEqual(signatures.accepted_types(parameter(inspect.Parameter.empty, 5)), (int,))
        self.assertEqual(signatures.accepted_types(parameter(inspect.Parameter.empty)), ())

    def test_an_int_is_a_float_but_a_bool_is_no_number(self) -> None:
        self.assertTrue(signatures.fits_type(1, parameter(float)))
        self.assertFalse(signatures.fits_type(True, parameter(int)))
        self.assertFalse(signatures.fits_type("x", parameter(float)))
        self.assertTrue(signatures.fits_type(None, parameter(float)))
        self.assertTrue(signatures.fits_type([0, 1], parameter(tuple[float, float])))

    def test_a_float_for_an_int_is_refused_unless_it_is_whole(self) -> None:
        self.assertFalse(signatures.fits_type(2.5, parameter(int)))


class OptionsTest(unittest.TestCase):
    TAKEN = parameters_of(diffusers.StableDiffusionPipeline)

    def test_an_option_that_is_no_argument_is_noted_with_the_closest_and_dropped(self) -> None:
        """The core also sends options of other backends."""
        checked = signatures.check_options({"guidance_rescal": 0.5, "gpu_layers": 3, "eta": 0.5}, self.TAKEN, "X")
        self.assertEqual(checked.accepted, {"eta": 0.5})
        self.assertIn("did you mean 'guidance_rescale'", checked.notes[0])
        self.assertIn("gpu_layers", checked.notes[1])

    def test_a_known_option_of_the_wrong_type_is_refused(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "num_inference_steps:'many' is of the wrong type: X takes int"):
            signatures.check_options({"num_inference_steps": "many"}, self.TAKEN, "X")

    def test_one_text_for_a_list_of_texts_is_a_list_of_one(self) -> None:
        taken = parameters_of(diffusers.BlipDiffusionPipeline)
        for check in (
            lambda value: signatures.check_options(value, taken, "X").accepted,
            lambda value: signatures.check_params(value, taken, "X"),
        ):
            self.assertEqual(check({"source_subject_category": "dog"}), {"source_subject_category": ["dog"]})

    def test_a_requests_param_must_be_an_argument(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, r"params\['etaa'\] is no argument of X \(did you mean 'eta'\?\)"):
            signatures.check_params({"etaa": 1}, self.TAKEN, "X")

    def test_what_the_server_sets_itself_is_neither_param_nor_option(self) -> None:
        taken = parameters_of(diffusers.StableDiffusionPipeline)
        for name in ("callback_on_step_end", "output_type", "return_dict", "generator"):
            with self.assertRaisesRegex(InvalidRequest, f"{name}.*set by the server"):
                signatures.check_params({name: "x"}, taken, "X")
            checked = signatures.check_options({name: "x"}, taken, "X")
            self.assertEqual((checked.accepted, len(checked.notes)), ({}, 1))

    def test_a_required_argument_that_nothing_fills_is_named(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "needs image"):
            signatures.check_complete({}, parameters_of(diffusers.StableVideoDiffusionPipeline), "X")


if __name__ == "__main__":
    unittest.main()
