# SPDX-License-Identifier: MIT
"""Who says it wins in this order: the request's field, its params, the options, the environment, the model's default.

An empty text or 0 says nothing. What the wire cannot carry in a request can be said in the YAML.
"""

from __future__ import annotations

import unittest
from dataclasses import replace
from typing import Any

from localai_diffusers.generation import generation
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.settings import Settings
from localai_diffusers.wire import requests
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest
from tests.support import FolderCase, load, zoo_model
from tests.zoo import checkpoint


def call(model: Any, **fields: Any) -> Call:
    """The call of a loaded model for a request of these fields; ``params`` as they stand on the wire."""
    texts = fields.pop("params", {})
    params = requests._params(texts, model.settings)
    request = GenerationRequest(
        **{"rpc": "GenerateVideo", "dst": "out.mp4", "params": params, "texts": texts, "seed": 1, **fields}
    )
    return call_arguments.build(request, model.profile, model.defaults, Intake(model.settings))


class TextTest(unittest.TestCase):
    def test_an_empty_text_in_a_request_leaves_that_of_the_options(self) -> None:
        for name, more in (("QwenImagePipeline", ()), ("FluxPipeline", ("true_cfg_scale:4",)), ("AllegroPipeline", ())):
            model = load(checkpoint(name), Options=["negative_prompt:a red ball", "prompt:a cat", *more])
            for fields in ({}, {"params": {"negative_prompt": "", "prompt": ""}}):
                found = call(model, **fields).arguments
                self.assertEqual((found["prompt"], found["negative_prompt"]), ("a cat", "a red ball"), name)
            found = call(model, prompt="a dog", params={"negative_prompt": "green"}).arguments
            self.assertEqual((found["prompt"], found["negative_prompt"]), ("a dog", "green"), name)
            self.assertEqual(
                call(model, negative_prompt="blue", params={"negative_prompt": "green"}).arguments["negative_prompt"],
                "blue",
            )

    def test_without_any_the_empty_text_is_passed_where_true_cfg_is_on(self) -> None:
        self.assertEqual(call(zoo_model("QwenImagePipeline"), prompt="x").arguments["negative_prompt"], "")
        self.assertNotIn("negative_prompt", call(zoo_model("FluxPipeline"), prompt="x").arguments)

    def test_a_sounds_negative_prompt_stands_behind_a_bar(self) -> None:
        for name in ("AudioLDMPipeline", "StableAudioPipeline"):
            found = call(zoo_model(name), rpc="SoundGeneration", prompt="rain | noise").arguments
            self.assertEqual((found["prompt"], found["negative_prompt"]), ("rain", "noise"), name)
        self.assertEqual(call(zoo_model("AudioLDMPipeline"), prompt="a | b").arguments["prompt"], "a | b")
        plain = call(zoo_model("AudioLDMPipeline"), rpc="SoundGeneration", prompt="rain").arguments
        self.assertEqual((plain["prompt"], plain.get("negative_prompt")), ("rain", None))


class NumbersTest(unittest.TestCase):
    def test_how_many_frames_are_decoded_at_once(self) -> None:
        svd = "StableVideoDiffusionPipeline"
        image = {"images": (image_of(64),)}
        self.assertEqual(call(zoo_model(svd), **image).arguments["decode_chunk_size"], 8)
        small = load(checkpoint(svd), Settings(chunk_size=4))
        self.assertEqual(call(small, **image).arguments["decode_chunk_size"], 4)
        told = load(checkpoint(svd), Settings(chunk_size=4), Options=["decode_chunk_size:2"])
        self.assertEqual(call(told, **image).arguments["decode_chunk_size"], 2)
        self.assertEqual(call(told, params={"decode_chunk_size": "3"}, **image).arguments["decode_chunk_size"], 3)

    def test_steps(self) -> None:
        model = load(checkpoint("WanPipeline"), Options=["steps:9"])
        for fields, expected in (({}, 9), ({"params": {"num_inference_steps": "5"}}, 5), ({"steps": 3}, 3)):
            self.assertEqual(call(model, **fields).arguments["num_inference_steps"], expected)

    def test_the_steps_of_a_distilled_pipeline_are_served_whatever_they_are(self) -> None:
        sprint = zoo_model("SanaSprintPipeline")
        self.assertIsNone(call(sprint, prompt="x", steps=15).arguments["intermediate_timesteps"])
        self.assertNotIn("intermediate_timesteps", call(sprint, prompt="x", steps=2).arguments)


def image_of(side: int) -> Any:
    from PIL import Image

    return Image.new("RGB", (side, side), "red")


class FrameRateTest(FolderCase):
    def rate(self, model: Any, made: Call, **fields: Any) -> float:
        request = GenerationRequest(**{"rpc": "GenerateVideo", "dst": "x", **fields})
        return generation._frame_rate(model, request, model.profile)

    def test_an_option_is_the_files_rate_and_the_pipelines_own_argument(self) -> None:
        for name, argument in (
            ("I2VGenXLPipeline", "target_fps"),
            ("LTXPipeline", "frame_rate"),
            ("WanPipeline", None),
        ):
            for option in ("fps:12", "frame_rate:12"):
                model = load(checkpoint(name), Options=[option])
                made = call(model, images=(image_of(64),) if name == "I2VGenXLPipeline" else ())
                self.assertEqual(self.rate(model, made), 12, (name, option))
                if argument:
                    self.assertEqual(repr(made.arguments[argument]), "12", (name, option))

    def test_a_request_and_its_params_come_first(self) -> None:
        model = load(checkpoint("WanPipeline"), Options=["fps:12"])
        params = {"params": {"fps": 5}}
        self.assertEqual(self.rate(model, call(model, params={"fps": "5"}), **params), 5)
        self.assertEqual(self.rate(model, call(model, fps=4), fps=4, **params), 4)

    def test_without_a_word_it_is_the_rate_that_was_published(self) -> None:
        for name, expected in (("MochiPipeline", 30), ("WanPipeline", 16), ("LTXLatentUpsamplePipeline", 25)):
            self.assertEqual(zoo_model(name).profile.frame_rate, expected, name)

    def test_through_the_image_endpoint_the_option_is_before_the_environment(self) -> None:
        told = load(checkpoint("WanPipeline"), Settings(fps=9), Options=["fps:12"])
        self.assertEqual(self.rate(told, call(told), rpc="GenerateImage"), 12)
        plain = load(checkpoint("WanPipeline"), Settings(fps=9))
        self.assertEqual(self.rate(plain, call(plain), rpc="GenerateImage"), 9)


class GuidanceTest(unittest.TestCase):
    def notes(self, model: Any, **fields: Any) -> str:
        return " ".join(call(model, prompt="x", **fields).notes)

    def test_a_negative_prompt_that_counts_nothing_is_told_with_the_scale_that_wakes_it(self) -> None:
        flux, sd, zimage = (zoo_model(name) for name in ("FluxPipeline", "StableDiffusionPipeline", "ZImagePipeline"))
        self.assertIn("a true_cfg_scale above 1", self.notes(flux, negative_prompt="red"))
        self.assertIn("guidance_scale (cfg_scale) above 1", self.notes(sd, negative_prompt="red", guidance=1.0))
        self.assertIn(
            "guidance_scale (cfg_scale) above 0",
            self.notes(zimage, negative_prompt="red", params={"guidance_scale": "0"}),
        )
        for quiet in (
            self.notes(sd, negative_prompt="red"),
            self.notes(sd, guidance=1.0),
            self.notes(zimage, negative_prompt="red", guidance=1.0),
            self.notes(flux, negative_prompt="red", params={"true_cfg_scale": "4"}),
        ):
            self.assertNotIn("counts nothing", quiet)

    def test_a_turbo_models_negative_prompt_too(self) -> None:
        model = replace(
            zoo_model("StableDiffusionPipeline"),
            defaults=replace(zoo_model("StableDiffusionPipeline").defaults, distilled=True),
        )
        self.assertIn("counts nothing at guidance_scale=0", self.notes(model, negative_prompt="red"))

    def test_cfg_scale_alone_turns_no_true_cfg_on_where_it_is_off_by_default(self) -> None:
        from tests.server.test_gallery import schnell

        model = load(schnell(), CFGScale=3.5)
        found = call(model, prompt="x")
        self.assertNotIn("true_cfg_scale", found.arguments)
        self.assertIn("true_cfg_scale", " ".join(found.notes))
        self.assertEqual(call(load(schnell(), Options=["true_cfg_scale:3"]), prompt="x").arguments["true_cfg_scale"], 3)

    def test_the_scale_of_a_guider_is_for_one_call(self) -> None:
        model = load(checkpoint("HunyuanImagePipeline"), CFGScale=60.0)
        own = model.pipeline.guider
        scales = []
        made = call(model, prompt="x", steps=1, width=64, height=64)
        self.assertEqual(made.guider_scale, 60.0)
        with generation.pipeline_call._guided(model.pipeline, made.guider_scale):
            scales.append(model.pipeline.guider.config.guidance_scale)
        self.assertEqual((scales, model.pipeline.guider), ([60.0], own))


if __name__ == "__main__":
    unittest.main()
