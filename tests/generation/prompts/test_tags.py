# SPDX-License-Identifier: MIT
"""What people write in prompts for another program, and what reaches the call of it."""

from __future__ import annotations

import unittest
from typing import Any

from localai_diffusers.generation.prompts import tags
from localai_diffusers.settings import Settings
from tests.adapter_files import difference
from tests.support import arguments_of, generate, load, zoo_model
from tests.zoo import checkpoint

PLAIN = "a red circle"


def picture(model: Any, prompt: str, **fields: Any) -> tuple[Any, Any]:
    return generate(model, prompt, width=32, height=32, step=2, seed=1, **fields)


class TagsTest(unittest.TestCase):
    def test_they_leave_the_prompts_of_every_family(self) -> None:
        for name in ("StableDiffusionPipeline", "StableDiffusion3Pipeline", "QwenImagePipeline", "SanaPipeline"):
            said = {"prompt": f"{PLAIN} <lora:a_b:0.8>", "negative_prompt": "<hypernet:x:1> blue, <lyco:y:1:0.5>"}
            found = arguments_of(zoo_model(name), **said)
            self.assertEqual((found["prompt"], found["negative_prompt"]), (PLAIN, "blue"), name)

    def test_what_was_between_two_words_stays_once(self) -> None:
        for said, left in (
            ("cat <lora:a:1> dog", "cat dog"),
            ("cat, <lora:a:1>, dog", "cat, dog"),
            ("<LoRA:a b:1>, cat", "cat"),
            ("cat<lora:a:1><lora:b:1>", "cat"),
            ("a <b> and a < lora", "a <b> and a < lora"),
            (" cat ", " cat "),
        ):
            self.assertEqual(tags.without_tags({"prompt": said}).get("prompt", said), left)

    def test_it_is_a_note_that_names_no_word_of_the_prompt(self) -> None:
        for settings in (None, Settings(compel=True)):
            model = load(checkpoint("StableDiffusionPipeline"), settings)
            image, outcome = picture(model, f"{PLAIN} <lora:secret:1>")
            self.assertIn("LoRAs are the model's", outcome.message())
            self.assertNotIn("secret", outcome.message())
            self.assertEqual(difference(image, picture(model, PLAIN)[0]), 0)


class WeightsTest(unittest.TestCase):
    def test_a_number_from_0_to_3_alone_is_a_weight(self) -> None:
        for said, left in (
            ("a (red:1.2) circle", "a red circle"),
            ("((a:1.1) b:0.5) (c d, e: 3)", "a b c d, e"),
            ("(x:.5)(y:0)", "xy"),
            ("(12:30) (16:9) (a:3.1) (a:-1) (a:b)", "(12:30) (16:9) (a:3.1) (a:-1) (a:b)"),
            ("(a) ((b)) [c] AND BREAK", "(a) ((b)) [c] AND BREAK"),
            (r"\(a:1.2\) (b \(c\):1.2)", r"\(a:1.2\) b \(c\)"),
        ):
            self.assertEqual(tags.unweighted(said), left)

    def test_where_clip_reads_the_prompt_the_words_reach_it(self) -> None:
        for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline"):
            model = load(checkpoint(name))
            pair = [picture(model, said, negative_prompt=f"{said} too") for said in ("a (red:1.3) circle", PLAIN)]
            self.assertEqual(difference(pair[0][0], pair[1][0]), 0, name)

    def test_other_encoders_read_what_is_written(self) -> None:
        for name in ("QwenImagePipeline", "SanaPipeline"):
            model = load(checkpoint(name))
            pair = [picture(model, said)[0] for said in ("a (red:1.3) circle", PLAIN)]
            self.assertGreater(difference(*pair), 0, name)

    def test_the_note_comes_once_a_load(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"))
        said = [picture(model, "a (red:1.3) circle")[1].message() for _ in range(2)]
        self.assertEqual([tags.WEIGHT_NOTE in message for message in said], [True, False])

    def test_a_library_that_knows_weights_gets_them(self) -> None:
        model = load(checkpoint("StableDiffusionPipeline"), Settings(compel=True))
        self.assertNotIn(tags.WEIGHT_NOTE, picture(model, "a (red)1.3 (circle:1.2)")[1].message())


if __name__ == "__main__":
    unittest.main()
