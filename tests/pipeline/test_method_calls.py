# SPDX-License-Identifier: MIT
"""A class without a call of its own runs its method for what the request brings."""

from __future__ import annotations

import unittest
from unittest import mock

from localai_diffusers.errors import Cancelled, InvalidRequest
from localai_diffusers.generation import generation
from localai_diffusers.pipeline.signatures import has_call, parameters_of
from tests.support import FolderCase, generate, image_request, new_job, zoo_model

PROMPT = "a red circle on a blue background"
FIELDS = {"width": 64, "height": 64, "step": 2, "seed": 3}


class MethodCallsTest(FolderCase):
    def test_text_a_picture_and_both_run_three_methods(self) -> None:
        model, source = zoo_model("VersatileDiffusionPipeline"), self.picture()
        pictures = {
            generate(model, prompt, **FIELDS, **more)[0].tobytes()
            for prompt, more in ((PROMPT, {}), ("", {"src": source}), (PROMPT, {"src": source}))
        }
        self.assertEqual(len(pictures), 3)

    def test_a_method_that_fails_leaves_the_shared_modules_as_they_were(self) -> None:
        model, source = zoo_model("VersatileDiffusionPipeline"), self.picture()
        before = generate(model, PROMPT, **FIELDS)[0].tobytes()
        for prompt in (PROMPT, ""):  # stopped at a step, for methods that have exchanged modules by then
            request = image_request(prompt, model.settings, src=source, **FIELDS)
            job = new_job()
            asked = [None] * 8 + [Cancelled("left")] * 99  # before each component, so in the midst of the steps
            with mock.patch.object(job, "check", side_effect=asked), self.assertRaises(Cancelled):
                generation.generate(model, request, job)
            self.assertEqual(generate(model, PROMPT, **FIELDS)[0].tobytes(), before)

    def test_what_no_method_does_is_refused_with_what_they_do(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, r"text_to_image \(prompt\)"):
            generate(zoo_model("VersatileDiffusionPipeline"), PROMPT, **self.inpainting())

    def test_its_signature_is_that_of_all_its_methods(self) -> None:
        pipeline = zoo_model("VersatileDiffusionPipeline").pipeline
        self.assertFalse(has_call(type(pipeline)))
        self.assertLessEqual({"prompt", "image", "text_to_image_strength"}, parameters_of(pipeline).keys())


if __name__ == "__main__":
    unittest.main()
