# SPDX-License-Identifier: MIT
"""Options that are no row of the table: what a component, the constructor or the call takes arrives there, and what
nothing takes is refused with the near names while the earlier model serves."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import BackendError, InvalidRequest, LoadError
from localai_diffusers.loading import words
from localai_diffusers.loading.words import Words
from localai_diffusers.pipeline.argument_values import is_ours
from localai_diffusers.pipeline.signatures import constructor_parameters, parameters_of, takes_media
from localai_diffusers.settings import Settings
from localai_diffusers.wire import argument_limits
from localai_diffusers.wire.options import option_of
from tests.support import SHAPES_MODEL, arguments_of, load, spec_of
from tests.zoo import checkpoint


def sort(name: str, *options: str, **fields: Any) -> Words:
    """The words of a YAML for a class, no model at hand."""
    spec = spec_of(SHAPES_MODEL, Options=list(options), **fields)
    return words.sort(spec, loader.get_pipeline_registry()[name], ModelFacts(Path("model")), Settings())


class TakenTest(unittest.TestCase):
    def test_an_argument_of_the_call_a_sibling_or_the_constructor_is_taken(self) -> None:
        found = sort("StableDiffusionXLPAGPipeline", "eta:0.5", "strength:0.4", 'pag_applied_layers:["mid", "up"]')
        self.assertEqual(found.call, {"eta": 0.5, "strength": 0.4})
        self.assertEqual(found.constructor, {"pag_applied_layers": ["mid", "up"]})

    def test_what_arrives_is_what_the_signature_says(self) -> None:
        found = sort("StableDiffusionXLPipeline", "original_size:[1024, 512]", "prompt_2:007", "denoising_end:1")
        self.assertEqual(repr(found.call["original_size"]), "(1024, 512)")
        self.assertEqual((found.call["prompt_2"], repr(found.call["denoising_end"])), ("007", "1.0"))

    def test_an_empty_text_says_nothing_and_two_quotes_are_the_empty_text(self) -> None:
        self.assertEqual(sort("AllegroPipeline", "negative_prompt:").call, {})
        self.assertEqual(sort("AllegroPipeline", 'negative_prompt:""').call, {"negative_prompt": ""})

    def test_every_plain_argument_of_every_class_arrives_or_is_refused_by_name(self) -> None:
        """Each class's own default, written as an option, is what the call or the constructor gets."""
        import json

        tried = 0
        for name, cls in loader.get_pipeline_registry().items():
            known = {**parameters_of(cls), **constructor_parameters(cls)}
            written = {
                key: parameter.default
                for key, parameter in known.items()
                if isinstance(parameter.default, (bool, int, float, str, tuple, list))
                and parameter.default != ""
                and not is_ours(key)
                and not takes_media(key, known)
                and not option_of(key)
            }
            for key in list(written):
                try:
                    argument_limits.check({key: written[key]}, Settings(), "option {}")
                except InvalidRequest:
                    del written[key]  # a default beyond the server's limits
            found = sort(name, *(f"{key}:{json.dumps(value)}" for key, value in written.items()))
            got = {**found.call, **found.constructor}
            self.assertEqual(got.keys(), written.keys(), name)
            for key, value in written.items():
                self.assertEqual(
                    list(got[key]) if isinstance(value, tuple) else got[key],
                    list(value) if isinstance(value, tuple) else value,
                )
            tried += len(got)
        self.assertGreater(tried, 1500)


class RefusedTest(unittest.TestCase):
    def test_what_nothing_takes_is_refused_with_the_near_name(self) -> None:
        for option, near in (
            ("num_inferense_steps:3", "num_inference_steps"),
            ("vae_tilling:true", "vae_tiling"),
            ("text_encodr:a/b", "text_encoder"),
            ("strenght:0.5", "strength"),
        ):
            with self.assertRaisesRegex(LoadError, f"option {option} is taken by nothing.*did you mean '{near}'"):
                sort("StableDiffusionPipeline", option)

    def test_a_kwargs_takes_nothing_by_itself(self) -> None:
        with self.assertRaisesRegex(LoadError, "option anything:1 is taken by nothing"):
            sort("KandinskyV22CombinedPipeline", "anything:1")

    def test_what_yamls_in_use_hold_is_a_note(self) -> None:
        cases = (
            ("StableDiffusionPipeline", {"Options": ["fast"]}),
            ("StableDiffusionPipeline", {"EngineArgs": '{"gpu_layers": 3}'}),
            ("StableDiffusionPipeline", {"Options": ["draft:.artifacts/huggingface/abc/snapshot"]}),
            (
                "StableVideoDiffusionPipeline",
                {"Options": ["min_guidance:1"], "PipelineType": "StableVideoDiffusionPipeline"},
            ),
            ("TextToVideoSDPipeline", {"Options": ["fps_id:6"], "PipelineType": "VideoDiffusionPipeline"}),
        )
        for name, fields in cases:
            found = sort(name, *fields.pop("Options", ()), **fields)
            self.assertRegex(found.notes[-1], "is no argument of .* and is ignored", name)

    def test_what_comes_with_a_request_or_is_the_servers_own_is_refused(self) -> None:
        for option in ("image:a.png", "output_type:latent", "generator:3", "callback_on_step_end:x", "latents:[1]"):
            with self.assertRaisesRegex(BackendError, f"option {option.partition(':')[0]}"):
                sort("StableDiffusionImg2ImgPipeline", option)

    def test_a_component_is_a_place_or_null(self) -> None:
        with self.assertRaisesRegex(LoadError, "option unet:5 names a component"):
            sort("StableDiffusionPipeline", "unet:5")

    def test_a_load_refuses_it_before_anything_is_built(self) -> None:
        with self.assertRaisesRegex(LoadError, "num_inferense_steps"):
            load(SHAPES_MODEL, Options=["num_inferense_steps:3"])


class LoadTest(unittest.TestCase):
    def test_a_component_that_is_null_is_left_out(self) -> None:
        model = load(checkpoint("StableDiffusion3Pipeline"), Options=["text_encoder_3:null", "tokenizer_3:null"])
        self.assertIsNone(model.pipeline.text_encoder_3)
        self.assertIsNone(model.pipeline.tokenizer_3)

    def test_the_constructors_arguments_reach_the_pipeline_and_its_siblings(self) -> None:
        model = load(checkpoint("StableDiffusionXLPipeline"), Options=["force_zeros_for_empty_prompt:false"])
        self.assertIs(model.pipeline.config.force_zeros_for_empty_prompt, False)
        import diffusers

        sibling = model.pipeline_as(diffusers.StableDiffusionXLImg2ImgPipeline)
        self.assertIs(sibling.config.force_zeros_for_empty_prompt, False)

    def test_a_class_that_is_asked_for_is_judged_with_the_components_that_options_bring(self) -> None:
        part = checkpoint("AnimateDiffPipeline") / "motion_adapter"
        model = load(
            checkpoint("StableDiffusionPipeline"),
            PipelineType="AnimateDiffPipeline",
            Options=[f"motion_adapter:{part}"],
        )
        self.assertEqual(type(model.pipeline).__name__, "AnimateDiffPipeline")
        self.assertEqual(model.notes, ())

    def test_a_component_of_a_pipelines_own_module_is_found(self) -> None:
        part = checkpoint("LTXLatentUpsamplePipeline") / "latent_upsampler"
        model = load(
            checkpoint("LTXPipeline"), PipelineType="LTXLatentUpsamplePipeline", Options=[f"latent_upsampler:{part}"]
        )
        self.assertEqual(type(model.pipeline).__name__, "LTXLatentUpsamplePipeline")

    def test_the_call_gets_the_options_and_a_request_is_before_them(self) -> None:
        model = load(SHAPES_MODEL, Options=["num_inference_steps:9", "eta:0.5"])
        self.assertEqual((arguments_of(model)["num_inference_steps"], arguments_of(model)["eta"]), (9, 0.5))
        self.assertEqual(arguments_of(model, step=4)["num_inference_steps"], 4)


if __name__ == "__main__":
    unittest.main()
