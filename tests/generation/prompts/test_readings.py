# SPDX-License-Identifier: MIT
"""A prompt that is cut says so, counted by the tokenizer of the encoder that reads most."""

from __future__ import annotations

import unittest
from typing import Any

from localai_diffusers.settings import Settings
from tests.support import generate, load, zoo_model
from tests.zoo import checkpoint


def message(model: Any, prompt: str, **fields: Any) -> str:
    return generate(model, prompt, width=32, height=32, step=2, seed=1, **fields)[1].message()


def tokens(model: Any, text: str, name: str = "tokenizer") -> int:
    return len(getattr(model.pipeline, name)(text, verbose=False).input_ids)


class ReadingsTest(unittest.TestCase):
    LONG = "a red circle and a cat, " * 60

    def test_clip_reads_77(self) -> None:
        for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
            model = load(checkpoint(name))
            total = tokens(model, self.LONG.strip())
            self.assertGreater(total, 77)
            said = message(model, self.LONG, negative_prompt=f"{self.LONG} blue")
            self.assertIn(f"; prompt cut at 77 of {total} tokens", said)
            self.assertRegex(said, r"negative prompt cut at 77 of \d+ tokens")
            self.assertNotIn("cut at", message(model, "a red circle", negative_prompt="blue"))

    def test_an_encoder_that_reads_all_of_it_is_enough(self) -> None:
        model = load(checkpoint("FluxPipeline"))  # CLIP reads 77, T5 512
        text = "cat " * 100
        self.assertTrue(77 < tokens(model, text) and tokens(model, text, "tokenizer_2") <= 512)
        self.assertNotIn("cut at", message(model, text))
        long = "cat " * 600
        total = tokens(model, long, "tokenizer_2")
        self.assertIn(f"prompt cut at 512 of {total} tokens", message(model, long))

    def test_the_length_is_the_calls(self) -> None:
        model = load(checkpoint("FluxPipeline"), Options=["max_sequence_length:80"])
        total = tokens(model, "cat " * 100, "tokenizer_2")
        self.assertIn(f"prompt cut at 80 of {total} tokens", message(model, "cat " * 100))

    def test_compel_and_others_that_read_on_cut_nothing(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), Settings(compel=True))
        self.assertNotIn("cut at", message(model, self.LONG))

    def test_other_families_and_the_words_of_a_template(self) -> None:
        for name in ("SanaPipeline", "PixArtSigmaPipeline"):
            model = zoo_model(name)
            self.assertRegex(message(model, "cat " * 700), r"prompt cut at \d+ of \d+ tokens", name)
            self.assertNotIn("cut at", message(model, "a cat"), name)

    def test_every_member_of_a_batch_is_told_of_its_own(self) -> None:
        from localai_diffusers.generation import batching
        from localai_diffusers.work.jobs import Job
        from tests.support import image_request

        model = load(checkpoint("StableDiffusionPipeline"), Options=["max_batch:4"])
        requests = [image_request(text, width=32, height=32, step=2, seed=1) for text in (self.LONG, "a red circle")]
        jobs = [Job(lambda _job: None, "test", batch=batching.batch_for(model, request)) for request in requests]
        said = [call.notes for call, _image in batching._together(jobs, model)]
        self.assertEqual([len(notes) for notes in said], [1, 0])
        self.assertIn("prompt cut at 77 of", said[0][0])


if __name__ == "__main__":
    unittest.main()
