# SPDX-License-Identifier: MIT
"""What is padded in a batch is told by tokens."""

from __future__ import annotations

import unittest

from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.generation.merging import _token_counts
from tests.support import zoo_model


class TokenCountsTest(unittest.TestCase):
    def lengths(self, prompt: str, negative: str = "") -> tuple[int, ...]:
        call = Call({"prompt": prompt, "negative_prompt": negative}, 1, [])
        return _token_counts(zoo_model("CogView4Pipeline").pipeline, call)

    def test_texts_without_spaces_have_their_lengths(self) -> None:
        self.assertNotEqual(self.lengths("一只猫"), self.lengths("一只红色的猫坐在桌子上"))

    def test_a_negative_prompt_counts(self) -> None:
        self.assertNotEqual(self.lengths("a cat"), self.lengths("a cat", "blurry and dark"))

    def test_the_same_texts_are_of_the_same_length(self) -> None:
        self.assertEqual(self.lengths("a cat"), self.lengths("a cat"))


if __name__ == "__main__":
    unittest.main()
