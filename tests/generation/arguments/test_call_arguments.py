# SPDX-License-Identifier: MIT
"""A request and a pipeline's signature -> keyword arguments: what is passed, what is left to the pipeline, who wins."""

from __future__ import annotations

import unittest
from dataclasses import replace
from typing import Any

from localai_diffusers.errors import BackendError, InvalidRequest
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.pipeline.defaults import ModelDefaults
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.settings import Settings
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest
from tests.support import FolderCase, arguments_of, image_request, load, zoo_model
from tests.zoo import ENTRIES, checkpoint

LIMITS = Intake(Settings())


def build(name: str, defaults: ModelDefaults | None = None, **fields: Any) -> Call:
    """The call of the zoo's pipeline ``name`` for a GenerationRequest of these fields."""
    request = GenerationRequest(**{"rpc": "GenerateImage", "dst": "out.png", "prompt": "a cat", **fields})
    return call_arguments.build(request, zoo_model(name).profile, defaults or zoo_model(name).defaults, LIMITS)


class PassedTest(unittest.TestCase):
    def test_a_call_is_not_changed_after_it_is_built(self) -> None:
        with self.assertRaises(TypeError):
            build("StableDiffusionPipeline").arguments["prompt"] = "another"

    def test_a_bare_prompt_passes_little_else(self) -> None:
        found = build("StableDiffusionPipeline", seed=3).arguments
        self.assertEqual(found.keys(), {"prompt", "num_images_per_prompt", "generator"})

    def test_the_requests_fields_arrive_under_the_pipelines_names(self) -> None:
        found = build(
            "StableDiffusionPipeline", negative_prompt="a dog", width=64, height=32, steps=7, clip_skip=2, guidance=4.5
        ).arguments
        expected = {
            "negative_prompt": "a dog",
            "width": 64,
            "height": 32,
            "num_inference_steps": 7,
            "clip_skip": 2,
            "guidance_scale": 4.5,
            "num_images_per_prompt": 1,
        }
        self.assertEqual({name: found[name] for name in expected}, expected)

    def test_no_pipeline_is_passed_what_it_does_not_take(self) -> None:
        """A sample of very different signatures, with everything that a request can hold."""
        for name in (
            "DDPMPipeline",
            "FluxPipeline",
            "ZImagePipeline",
            "SanaSprintPipeline",
            "LatentConsistencyModelPipeline",
            "DiTPipeline",
            "WanPipeline",
            "AudioLDM2Pipeline",
        ):
            options = {"class_labels": [1]} if name == "DiTPipeline" else {}
            defaults = ModelDefaults(options=options, guidance=3.0, clip_skip=1)
            found = build(
                name, defaults, negative_prompt="x", width=64, height=64, steps=2, clip_skip=2, num_frames=5, fps=8
            ).arguments
            self.assertLessEqual(found.keys(), parameters_of(zoo_model(name).pipeline).keys(), name)

    def test_a_negative_prompt_that_the_pipeline_lacks_is_dropped_with_a_note(self) -> None:
        call = build("LatentConsistencyModelPipeline", negative_prompt="x")
        self.assertNotIn("negative_prompt", call.arguments)
        self.assertIn("takes no negative prompt", call.notes[0])
        self.assertEqual(build("LatentConsistencyModelPipeline").notes, ())

    def test_a_prompt_that_the_pipeline_lacks_is_dropped_with_a_note(self) -> None:
        call = build("DDPMPipeline")
        self.assertNotIn("prompt", call.arguments)
        self.assertIn("takes no prompt", call.notes[0])

    def test_required_arguments_that_nothing_fills_are_refused(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "DiTPipeline needs class_labels"):
            build("DiTPipeline")

    def test_every_zoo_pipeline_that_needs_a_prompt_alone_gets_a_call(self) -> None:
        for name in [
            name
            for name, entry in ENTRIES.items()
            if entry.needs == ("prompt",) and entry.family in ("flux", "sana", "z-image")
        ]:
            self.assertIn("prompt", build(name).arguments)


class SeedTest(unittest.TestCase):
    def test_a_seed_makes_a_cpu_generator_with_it(self) -> None:
        for seed in (0, 42, 2**31 - 1):
            call = build("StableDiffusionPipeline", seed=seed)
            generator = call.arguments["generator"]
            self.assertEqual((call.seed, generator.initial_seed(), generator.device.type), (seed, seed, "cpu"))

    def test_without_one_it_is_random_and_told(self) -> None:
        seeds = {build("StableDiffusionPipeline").seed for _ in range(5)}
        self.assertEqual(len(seeds), 5)
        call = build("FluxPipeline")
        self.assertEqual(call.arguments["generator"].initial_seed(), call.seed)

    def test_random_seeds_leave_torchs_own_generator_alone(self) -> None:
        import torch

        before = torch.get_rng_state()
        build("StableDiffusionPipeline")
        self.assertTrue(torch.equal(before, torch.get_rng_state()))


class OrderTest(FolderCase):
    """The request's fields, then the model's options, then the pipeline's defaults."""

    OPTIONS = [
        "num_inference_steps:9",
        "eta:0.5",
        "clip_skip:2",
        "width:96",
        "height:96",
        "guidance_scale:2",
        "strength:0.4",
    ]

    @classmethod
    def setUpClass(cls) -> None:
        cls.model = load(checkpoint("StableDiffusionPipeline"), Options=cls.OPTIONS, CLIPSkip=1)

    def test_options_stand_where_the_request_says_nothing(self) -> None:
        found = arguments_of(self.model, "a cat")
        self.assertEqual(
            (found["num_inference_steps"], found["eta"], found["guidance_scale"], found["width"]), (9, 0.5, 2.0, 96)
        )

    def test_the_requests_fields_win_over_options(self) -> None:
        found = arguments_of(self.model, "a cat", step=3, width=64, height=32, CLIPSkip=2)
        self.assertEqual(
            (found["num_inference_steps"], found["width"], found["height"], found["clip_skip"]), (3, 64, 32, 2)
        )

    def test_an_option_that_only_a_sibling_takes_waits_for_it(self) -> None:
        self.assertNotIn("strength", arguments_of(self.model, "a cat"))
        found = arguments_of(self.model, "a cat", src=self.picture())
        self.assertEqual(found["strength"], 0.4)
        self.assertFalse([note for note in self.model.notes if "strength" in note])

    def test_a_requests_params_win_and_are_checked(self) -> None:
        defaults = ModelDefaults(options={"eta": 0.5})
        self.assertEqual(build("StableDiffusionPipeline", defaults, params={"eta": 0.25}).arguments["eta"], 0.25)
        with self.assertRaisesRegex(InvalidRequest, "params"):
            build("StableDiffusionPipeline", defaults, params={"etaa": 1})

    def test_a_bad_type_for_a_known_option_fails_the_load(self) -> None:
        for option in ("num_inference_steps:many", "guidance_scale:high", "eta:[1]"):
            with self.assertRaisesRegex(BackendError, option.partition(":")[0]):
                load(checkpoint("StableDiffusionPipeline"), Options=[option])


class LimitsTest(FolderCase):
    """What comes by params and by the source's size; the rest is refused as it is read (test_bad_requests)."""

    def refused(self, words: str, settings: Settings | None = None, **fields: Any) -> None:
        request = image_request("a cat", settings)
        request = replace(request, **fields)
        with self.assertRaisesRegex(InvalidRequest, words):
            call_arguments.build(request, zoo_model("StableDiffusionPipeline").profile, ModelDefaults(), LIMITS)

    def test_a_text_in_params_is_bounded_as_the_prompt_is(self) -> None:
        self.refused(r"params\['negative_prompt'\] is 40000 bytes long", params={"negative_prompt": "x" * 40_000})
        self.refused(r"params\['negative_prompt'\] holds a NUL", params={"negative_prompt": ["a", "b\0"]})

    def test_a_size_of_options_and_request_together_is_bounded(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), Options=["width:4096"])
        request = image_request("a cat", height=8192)
        with self.assertRaisesRegex(InvalidRequest, "4096x8192 is 33554432 pixels.*LOCALAI_DIFFUSERS_MAX_PIXELS"):
            call_arguments.build(request, model.profile, model.defaults, LIMITS)

    def test_a_source_that_would_make_too_large_a_picture_is_refused(self) -> None:
        source = self.picture(size=(128, 64))
        small = Intake(Settings(max_pixels=100 * 64))
        profile = zoo_model("StableDiffusionImg2ImgPipeline").profile
        for fields in ({"src": source}, self.inpainting((128, 64)) | {"width": 64, "height": 64}):
            with self.assertRaisesRegex(InvalidRequest, "the source's size = 128x64 is 8192 pixels"):
                call_arguments.build(image_request("a cat", **fields), profile, ModelDefaults(), small)
        within = call_arguments.build(image_request("a cat", src=source, width=64), profile, ModelDefaults(), small)
        self.assertEqual(within.arguments["image"].size, (64, 32))


class ClipSkipTest(unittest.TestCase):
    def test_one_that_comes_by_options_or_params_is_judged_by_the_encoders_layers(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), Options=["clip_skip:5"])
        with self.assertRaisesRegex(InvalidRequest, "CLIPSkip=5 must be at most"):
            arguments_of(model, "a cat")
        self.assertEqual(arguments_of(model, "a cat", CLIPSkip=1)["clip_skip"], 1)
        request = replace(image_request("a cat"), params={"clip_skip": 4})
        with self.assertRaisesRegex(InvalidRequest, "CLIPSkip=4 must be at most"):
            call_arguments.build(request, zoo_model("StableDiffusionPipeline").profile, ModelDefaults(), LIMITS)

    def test_the_models_clip_skip_stands_in_for_the_requests(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), CLIPSkip=2)
        self.assertEqual(arguments_of(model, "a cat")["clip_skip"], 2)
        self.assertEqual(arguments_of(model, "a cat", CLIPSkip=1)["clip_skip"], 1)

    def test_the_variable_switches_both_off(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), settings=Settings(clip_skip=False), CLIPSkip=2)
        self.assertNotIn("clip_skip", arguments_of(model, "a cat", CLIPSkip=1))

    def test_a_pipeline_without_it_gets_none(self) -> None:
        self.assertNotIn("clip_skip", arguments_of(zoo_model("FluxPipeline"), "a cat", CLIPSkip=1))


class TrueCfgTest(unittest.TestCase):
    def test_qwen_gets_an_empty_negative_prompt_while_true_cfg_is_on(self) -> None:
        """None would switch it off."""
        self.assertEqual(build("QwenImagePipeline").arguments["negative_prompt"], "")
        off = ModelDefaults(options={"true_cfg_scale": 1.0})
        self.assertNotIn("negative_prompt", build("QwenImagePipeline", off).arguments)

    def test_flux_gets_none_unless_true_cfg_is_asked_for(self) -> None:
        self.assertNotIn("negative_prompt", build("FluxPipeline").arguments)
        self.assertEqual(build("FluxPipeline", negative_prompt="x").arguments["negative_prompt"], "x")


class FramesTest(FolderCase):
    def test_frames_are_rounded_to_what_the_vae_takes(self) -> None:
        call = build("WanPipeline", num_frames=8)
        factor = zoo_model("WanPipeline").pipeline.vae_scale_factor_temporal
        self.assertEqual((call.arguments["num_frames"] - 1) % factor, 0)
        self.assertIn("num_frames 8 is rounded", " ".join(call.notes))

    def test_the_frame_rate_goes_where_there_is_one(self) -> None:
        self.assertEqual(build("LTXPipeline", fps=24).arguments["frame_rate"], 24)
        self.assertNotIn("fps", build("WanPipeline", fps=24).arguments)

    def test_a_video_request_without_a_size_or_length_leaves_them_to_the_pipeline(self) -> None:
        """The incumbent's 1280x720 of 81 frames suits few models, and LTX-2 refuses 720."""
        for name in ("LTXPipeline", "WanPipeline", "CogVideoXPipeline", "LTX2Pipeline"):
            found = build(name, rpc="GenerateVideo").arguments
            self.assertFalse({"width", "height", "num_frames", "num_inference_steps"} & found.keys(), name)

    def test_svd_is_called_with_nothing_that_it_lacks(self) -> None:
        """The incumbent's guidance_scale and string chunk size: it could never run."""
        request = image_request("x", settings=Settings(chunk_size=4), src=self.picture(), negative_prompt="y")
        model = zoo_model("StableVideoDiffusionPipeline")
        defaults = ModelDefaults(guidance=7.0, chunk_size=4)
        found = call_arguments.build(request, model.profile, defaults, LIMITS).arguments
        self.assertLessEqual(found.keys(), parameters_of(model.pipeline).keys())
        self.assertEqual(found["decode_chunk_size"], 4)

    def test_wan_image_to_video_gets_image_and_last_image(self) -> None:
        from PIL import Image

        first, last = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
        found = build("WanImageToVideoPipeline", images=(first,), last_image=last, width=64, height=64).arguments
        self.assertEqual([found[name].getpixel((0, 0)) for name in ("image", "last_image")], [(255, 0, 0), (0, 0, 255)])


if __name__ == "__main__":
    unittest.main()
