# SPDX-License-Identifier: MIT
"""`options: default_size:` is what the core's 512x512 means, and nothing else."""

from __future__ import annotations

import unittest

from localai_diffusers.errors import InvalidRequest
from tests.support import SHAPES_MODEL, arguments_of, load, spec_of


class DefaultSizeTest(unittest.TestCase):
    def test_it_stands_for_the_cores_word_for_none_alone(self) -> None:
        model = load(SHAPES_MODEL, Options=["default_size:64x96"])
        for asked, wanted in (((512, 512), (64, 96)), ((128, 64), (128, 64)), ((512, 64), (512, 64))):
            arguments = arguments_of(model, "a cat", width=asked[0], height=asked[1])
            self.assertEqual((arguments["width"], arguments["height"]), wanted)

    def test_what_is_no_size_is_refused(self) -> None:
        for text in ("1024", "1024x", "0x64", "64x99999", "axb"):
            with self.assertRaisesRegex(InvalidRequest, "default_size.*1024x1024"):
                spec_of(SHAPES_MODEL, Options=[f"default_size:{text}"])

    def test_a_width_among_the_options_says_what_would_do(self) -> None:
        notes = spec_of(SHAPES_MODEL, Options=["width:64"]).notes
        self.assertTrue(any("default_size" in note for note in notes), notes)


if __name__ == "__main__":
    unittest.main()
