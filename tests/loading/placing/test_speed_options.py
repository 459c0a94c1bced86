# SPDX-License-Identifier: MIT
"""Options that trade memory for speed: what they do to the weights and the graphs, and that the picture stays right."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import torch

from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, generate, load
from tests.zoo import checkpoint

_COUNTED: list[Any] = []


def _count(graph: Any, _inputs: Any) -> Any:
    _COUNTED.append(graph)
    return graph.forward


torch._dynamo.register_backend(_count, name="counting")
PROMPT = "a red circle on a blue background"


class LayerwiseCastingTest(unittest.TestCase):
    def test_the_weights_lie_in_8_bits_and_the_picture_is_right(self) -> None:
        plain = load(SHAPES_MODEL).memory()["unet"]
        model = load(SHAPES_MODEL, Options=["layerwise_casting:fp8", "guidance_scale:5"])
        self.assertLess(model.memory()["unet"], 0.5 * plain)
        dtypes = {parameter.dtype for parameter in model.pipeline.unet.parameters()}
        self.assertIn(torch.float8_e4m3fn, dtypes)
        picture, _ = generate(model, PROMPT, width=64, height=64, step=20, seed=1)
        self.assertEqual(judge(picture).prompt(), PROMPT)


class CompileTest(unittest.TestCase):
    def graphs(self, model: Path) -> int:
        """How many graphs a picture takes, by a backend that counts them."""
        _COUNTED.clear()
        torch._dynamo.reset()
        self.addCleanup(torch._dynamo.reset)
        loaded = load(model, Options=['compile:{"backend": "counting"}'])
        generate(loaded, "a cat", width=64, height=64, step=2, seed=1)
        first = len(_COUNTED)
        generate(loaded, "a dog", width=64, height=64, step=2, seed=2)
        self.assertEqual(len(_COUNTED), first, "a repeated size compiles nothing")
        return first

    def test_repeated_blocks(self) -> None:
        self.assertGreater(self.graphs(checkpoint("FluxPipeline")), 0)

    def test_the_whole_where_a_model_names_no_blocks(self) -> None:
        self.assertGreater(self.graphs(checkpoint("StableDiffusion3Pipeline")), 0)


if __name__ == "__main__":
    unittest.main()
