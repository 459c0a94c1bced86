# SPDX-License-Identifier: MIT
"""Each option of speed and memory that a CPU can run, through a server: the trained model's picture stays right, and
what means nothing there is told."""

from __future__ import annotations

import unittest

from tests.gated import ServerCase
from tests.support import SHAPES_MODEL

RUN = (
    "attention_backend:native",
    "attention_slicing:true",
    "channels_last:true",
    'compile:{"backend": "eager"}',
    "fuse_qkv:true",
    "layerwise_casting:fp8",
    "max_batch:2",
    "prompt_cache:1MB",
    "quantization:unet:qint8",
    "vae_channels_last:true",
    "vae_slicing:true",
    "vae_tiling:true",
    "warmup:true",
)
IDLE = ("offload:model", "group_offload:true", "text_encoder_offload:true", "tf32:true", "batch_wait_ms:5")


class SpeedOptionsTest(ServerCase):
    def load(self, option: str) -> str:
        result = self.backend.load(SHAPES_MODEL, CFGScale=5.0, Options=[option])
        self.assertTrue(result.success, result.message)
        return result.message

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.backend.load_shapes)

    def test_the_picture_stays_right_at_the_first_request_and_at_the_next(self) -> None:
        for option in RUN:
            with self.subTest(option):
                self.assertNotIn("ignored", self.load(option))
                for name in ("first.png", "second.png"):
                    self.assert_right(self.backend.picture(name))

    def test_what_has_nothing_to_do_on_a_cpu_is_told(self) -> None:
        for option in IDLE:
            with self.subTest(option):
                self.assertRegex(self.load(option), f"option {option.partition(':')[0]}.* ignored")
                self.assert_right(self.backend.picture())


if __name__ == "__main__":
    unittest.main()
