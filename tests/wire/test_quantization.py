# SPDX-License-Identifier: MIT
"""What is said of quantization: words, components, and what is neither."""

from __future__ import annotations

import unittest

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.loading.placing.quantizers import SCHEMES
from localai_diffusers.wire.quantization import LARGE, WORDS
from tests.wire.test_load_spec import spec


class QuantizationTest(unittest.TestCase):
    def test_a_word_is_for_the_large_components_or_one_is_for_each(self) -> None:
        each = {"transformer": "nf4", "text_encoder": "int8"}
        for text, said in (
            ("int8", {LARGE: "int8"}),
            ("transformer:NF4, text_encoder:int8", each),
            ('{"transformer": "nf4", "text_encoder": "int8"}', each),
            ("none", {}),
        ):
            self.assertEqual(spec(f"quantization:{text}").options.quantization, said, text)
            self.assertEqual(spec(Quantization=text).options.quantization, said, text)

    def test_the_option_is_before_the_yamls_own_key(self) -> None:
        self.assertEqual(spec("quantization:qint8", Quantization="int8").options.quantization, {LARGE: "qint8"})
        self.assertEqual(spec("quantization:none", Quantization="int8").options.quantization, {})

    def test_what_is_no_word_or_is_said_twice_is_refused(self) -> None:
        for text, says in (
            ("awq", "one of int8, .* a JSON object of them$"),
            ("int9", "one of int8, .* Did you mean int8, int4"),
            ("unet:int8,unet:nf4", "one word for unet, which is said twice"),
            ("int8,nf4", "one word for the large components, which is said twice"),
            ("unet:", "one of int8"),
        ):
            with self.assertRaisesRegex(InvalidRequest, f"option quantization:{text} must be {says}"):
                spec(f"quantization:{text}")
            with self.assertRaisesRegex(InvalidRequest, f"Quantization '{text}' must be {says}"):
                spec(Quantization=text)

    def test_every_word_has_a_backend(self) -> None:
        self.assertEqual(tuple(SCHEMES), WORDS)


if __name__ == "__main__":
    unittest.main()
