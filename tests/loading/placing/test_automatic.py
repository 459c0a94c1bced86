# SPDX-License-Identifier: MIT
"""What is chosen for a model where nothing is said does what it is chosen for."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

import torch
from accelerate.hooks import UserCpuOffloadHook

from localai_diffusers.loading.placing import precision
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, generate, load, offloaded
from tests.zoo import checkpoint

PROMPT = "a red circle on a blue background"


class HalfPrecisionTest(unittest.TestCase):
    def test_pictures_in_bf16_are_right(self) -> None:
        """All 42 prompts are, by levels of 0.8 on average from those in fp32; here three."""
        with mock.patch.object(precision, "_cpu_has_bf16", lambda: True):
            model = load(SHAPES_MODEL, Options=["auto:true", "guidance_scale:3"])
        self.assertEqual({part.dtype for part in (model.pipeline.unet, model.pipeline.vae)}, {torch.bfloat16})
        for prompt in (PROMPT, "a green square on a white background", "a yellow triangle on a black background"):
            self.assertEqual(judge(generate(model, prompt, width=64, height=64, step=15, seed=3)[0]).prompt(), prompt)


class TextEncodersTest(unittest.TestCase):
    """With the CPU in the accelerator's place: accelerate's hooks, and when they move what."""

    def test_they_leave_once_they_have_read_the_prompt(self) -> None:
        order: list[str] = []

        def left(hook: Any) -> None:
            order.append("leaves")

        with offloaded("text_encoders"), mock.patch.object(UserCpuOffloadHook, "offload", left):
            model = load(checkpoint("StableDiffusionXLPipeline"))
            self.assertEqual(order, ["leaves"] * 2, "both wait on the host after the load")
            for name in ("text_encoder", "text_encoder_2", "unet"):
                getattr(model.pipeline, name).register_forward_hook(lambda *_, name=name: order.append(name))
            order.clear()
            generate(model, "a cat", width=32, height=32, step=2, seed=1, negative_prompt="a dog")
        steps = [word for word in order if word != "leaves"]
        self.assertEqual(steps, ["text_encoder", "text_encoder_2"] * 2 + ["unet"] * 2)
        self.assertEqual(order[4:7], ["leaves", "leaves", "unet"], "before the first step, and once")
        self.assertEqual(order.count("leaves"), 2)

    def test_the_picture_is_the_same(self) -> None:
        fields = {"width": 64, "height": 64, "step": 3, "seed": 1}
        with offloaded("text_encoders"):
            model = load(SHAPES_MODEL)
        pictures = [generate(each, PROMPT, **fields)[0].tobytes() for each in (load(SHAPES_MODEL), model)]
        self.assertEqual(*pictures)


if __name__ == "__main__":
    unittest.main()
