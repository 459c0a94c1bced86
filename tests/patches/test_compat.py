"""Gaps between the pinned libraries stay closed."""

from __future__ import annotations

import unittest

from tests.support import SHAPES_MODEL, generate, load
from tests.zoo import checkpoint


class ClipSkip(unittest.TestCase):
    def test_clip_skip_changes_the_picture_of_a_stable_diffusion_1_model(self) -> None:
        model = load(SHAPES_MODEL)
        plain, skipped = (
            generate(model, "a red circle on a blue background", width=64, height=64, step=4, seed=1, CLIPSkip=skip)[
                0
            ].tobytes()
            for skip in (0, 1)
        )
        self.assertNotEqual(plain, skipped)

    def test_the_attribute_is_gone_after_the_call(self) -> None:
        from transformers import CLIPTextModel

        generate(load(SHAPES_MODEL), "a red circle on a blue background", width=64, height=64, step=2, CLIPSkip=1)
        self.assertFalse(hasattr(CLIPTextModel, "text_model"))


class Numpy(unittest.TestCase):
    def test_a_pipeline_that_hands_bf16_to_numpy_makes_its_picture(self) -> None:
        model = load(checkpoint("VQDiffusionPipeline"), Options=["torch_dtype:bf16"])
        self.assertEqual(generate(model, "a cat", step=2, seed=1)[0].size, (64, 64))


if __name__ == "__main__":
    unittest.main()
