# SPDX-License-Identifier: MIT
"""The server's call computes what the plain call of the same pipeline computes, and nothing beside it."""

from __future__ import annotations

import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from tests import support
from tests.zoo import checkpoint

PROMPT = "a red circle on a blue background"
STEPS = 3


def counted(work: Callable[[], Any]) -> int:
    """Floating-point operations of ``work()`` in torch's matrix products, convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class Flops(unittest.TestCase):
    def assert_equal_work(self, model_path: Path) -> None:
        model = support.load(model_path)
        folder = tempfile.TemporaryDirectory(prefix="test-")
        self.addCleanup(folder.cleanup)
        fields = {"width": 64, "height": 64, "step": STEPS, "seed": 1, "dst": f"{folder.name}/out.png"}
        arguments = support.arguments_of(model, PROMPT, **fields)
        plain = counted(lambda: model.pipeline(**arguments))
        self.assertGreater(plain, 0)
        self.assertEqual(counted(lambda: support.generate(model, PROMPT, **fields)), plain)

    def test_a_tiny_pipeline_is_called_with_no_more_work_than_plainly(self) -> None:
        self.assert_equal_work(checkpoint("StableDiffusionPipeline"))

    def test_a_tiny_transformer_is_called_with_no_more_work_than_plainly(self) -> None:
        self.assert_equal_work(checkpoint("FluxPipeline"))

    def test_the_shipped_model_is_called_with_no_more_work_than_plainly(self) -> None:
        self.assert_equal_work(support.SHAPES_MODEL)

    def test_the_count_tells_one_step_more(self) -> None:
        model = support.load(support.SHAPES_MODEL)
        arguments = support.arguments_of(model, PROMPT, width=64, height=64, step=STEPS, seed=1)
        few = counted(lambda: model.pipeline(**arguments))
        more = counted(lambda: model.pipeline(**{**arguments, "num_inference_steps": STEPS + 1}))
        self.assertGreater(more, few)


if __name__ == "__main__":
    unittest.main()
