# SPDX-License-Identifier: MIT
"""Quantization over the wire: by the option and by the YAML's own key, right pictures, refusals that cost nothing."""

from __future__ import annotations

import unittest

from PIL import Image

from tests.gated import PROMPT, ServerCase
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL


class QuantizationTest(ServerCase):
    def tearDown(self) -> None:
        self.backend.load_shapes()  # as the other tests that share the server have it

    def right_picture(self) -> None:
        with Image.open(self.backend.picture()) as picture:
            self.assertEqual(judge(picture).prompt(), PROMPT)

    def test_the_option_and_the_yamls_own_key_quantize_and_the_option_wins(self) -> None:
        for fields, told in (
            ({"Options": ["quantization:unet:qint8"]}, "unet qint8"),
            ({"Quantization": "qfloat8"}, "unet qfloat8"),
            ({"Quantization": "qfloat8", "Options": ["quantization:qint8"]}, "unet qint8"),
        ):
            before = len(self.backend.log)
            self.backend.load_shapes(**fields)
            self.assertIn(f"in float32, {told}, ", self.backend.log[before:])
            self.right_picture()

    def test_a_word_of_another_backend_is_refused_by_name_and_the_model_serves_on(self) -> None:
        result = self.backend.load(SHAPES_MODEL, Quantization="awq")
        self.assertRegex(result.message, "Quantization 'awq' must be one of int8, fp8, .*")
        result = self.backend.load(SHAPES_MODEL, Options=["quantization:qint9"])
        self.assertRegex(result.message, "option quantization:qint9 must be one of .*Did you mean qint")
        result = self.backend.load(SHAPES_MODEL, Options=["quantization:vae:qint8"])
        self.assertRegex(result.message, "vae is an autoencoder")
        self.assertEqual(self.backend.state, "READY")
        self.right_picture()


if __name__ == "__main__":
    unittest.main()
