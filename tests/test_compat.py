"""Gaps between the pinned libraries stay closed."""
from __future__ import annotations

import unittest

from tests.support import SHAPES_MODEL, generate, load


class ClipSkip(unittest.TestCase):
    def test_clip_skip_changes_the_picture_of_a_stable_diffusion_1_model(self) -> None:
        model = load(SHAPES_MODEL)
        plain, skipped = (generate(model, "a red circle on a blue background", width=64, height=64, step=4, seed=1,
                                   CLIPSkip=skip)[0].tobytes() for skip in (0, 1))
        self.assertNotEqual(plain, skipped)

    def test_the_attribute_is_gone_after_the_call(self) -> None:
        from transformers import CLIPTextModel

        generate(load(SHAPES_MODEL), "a red circle on a blue background", width=64, height=64, step=2, CLIPSkip=1)
        self.assertFalse(hasattr(CLIPTextModel, "text_model"))


if __name__ == "__main__":
    unittest.main()
