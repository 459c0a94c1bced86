# SPDX-License-Identifier: MIT
"""Pipelines that invert their picture before the call."""

from __future__ import annotations

import unittest
from typing import Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation.arguments.call_arguments import Call
from tests import support
from tests.support import FolderCase, generate, image_request, load, zoo_model
from tests.zoo import checkpoint


def call_of(model: Any, prompt: str = "a cat", **fields: Any) -> Call:
    return support.call_of(model, image_request(prompt, model.settings, **fields))


class InversionTest(FolderCase):
    def test_the_picture_keeps_its_aspect_within_the_requests_size(self) -> None:
        source, mask = self.picture("src", (128, 64)), self.picture("mask", (128, 64), "white")
        call = call_of(zoo_model("StableDiffusionDiffEditPipeline"), width=64, height=64, src=source, ref_images=[mask])
        self.assertEqual((call.inversion["image"].size, call.arguments["mask_image"].size), ((64, 32), (8, 4)))

    def test_as_many_steps_lead_there_as_back(self) -> None:
        source, mask = self.picture(), self.picture("mask", color="white")
        call = call_of(zoo_model("StableDiffusionDiffEditPipeline"), step=1, src=source, ref_images=[mask])
        self.assertEqual((call.arguments["num_inference_steps"], call.inversion["num_inference_steps"]), (2, 2))

    def test_options_of_the_inversion_are_the_models_options(self) -> None:
        model = load(checkpoint("LEditsPPPipelineStableDiffusion"), Options=["num_inversion_steps:4", "skip:0.3"])
        call = call_of(model, src=self.picture())
        self.assertEqual((call.inversion["num_inversion_steps"], call.inversion["skip"]), (4, 0.3))

    def test_a_second_picture_is_refused(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, r"takes 1 \(a picture to edit\)"):
            call_of(zoo_model("LEditsPPPipelineStableDiffusion"), src=self.picture(), ref_images=[self.picture("b")])

    def test_a_size_that_the_inversion_would_refuse_is_rounded(self) -> None:
        model = zoo_model("LEditsPPPipelineStableDiffusion")
        picture, outcome = generate(model, "", src=self.picture("src", (90, 70)), step=2, seed=1)
        self.assertEqual(picture.size, (96, 64))
        self.assertIn("is taken at 96x64", outcome.message())


if __name__ == "__main__":
    unittest.main()
