# SPDX-License-Identifier: MIT
"""Packed weights come out as the numbers that they stand for, or are refused by the word that the file has for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from localai_diffusers.checkpoint import contents, headers
from localai_diffusers.errors import LoadError
from tests.support import FolderCase

PLAIN = torch.linspace(-3, 3, 64).reshape(4, 16)
FLOAT8 = {torch.float8_e4m3fn: 448, torch.float8_e5m2: 57344}


class PackedCase(FolderCase):
    def contents(self, tensors: dict[str, Any], **metadata: str) -> contents.Contents:
        path = self.folder / "file.safetensors"
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata or None)
        return contents.contents([headers.read(path)])


class ScaledTest(PackedCase):
    def test_each_form_of_a_scale_is_multiplied_in(self) -> None:
        whole, rows = PLAIN.abs().max(), PLAIN.abs().amax(dim=1)
        scales = {"number": whole, "one": whole[None], "rows": rows, "column": rows[:, None]}
        for dtype, most in FLOAT8.items():
            for shape, most_of in scales.items():
                for name in ("a.scale_weight", "a.weight_scale"):
                    scale = most_of / most
                    stored = (PLAIN / (scale[:, None] if shape == "rows" else scale)).to(dtype)
                    found = self.contents({"a.weight": stored, name: scale, "a.bias": torch.ones(4)})
                    by_hand = torch.stack([row.float() * scale.flatten()[-1 if scale.numel() == 1 else place]
                                           for place, row in enumerate(stored)])  # fmt: skip
                    self.assertEqual(found.entries.keys(), {"a.weight", "a.bias"}, (shape, name))
                    self.assertTrue(torch.equal(found.read(["a.weight"])["a.weight"], by_hand), (shape, name))

    def test_a_convolution_and_a_fused_projection_are_scaled_by_their_rows(self) -> None:
        kernel = torch.ones(4, 2, 3, 3).to(torch.float8_e4m3fn)
        tensors = {"conv.weight": kernel, "conv.weight_scale": torch.tensor([1.0, 2, 3, 4])}
        tensors |= {"attn.in_proj_weight": kernel[:, :, 0, 0].clone(), "attn.in_proj_weight_scale": torch.tensor(2.0)}
        read = self.contents(tensors).read(["conv.weight", "attn.in_proj_weight"])
        self.assertEqual([float(part[0, 0, 0]) for part in read["conv.weight"]], [1, 2, 3, 4])
        self.assertTrue((read["attn.in_proj_weight"] == 2).all())

    def test_plain_8_bit_floats_are_left_to_the_cast(self) -> None:
        found = self.contents({"a.weight": PLAIN.to(torch.float8_e4m3fn)})
        self.assertEqual((found.is_scaled, found.entries["a.weight"].dtype), (False, "F8_E4M3"))

    def test_what_belongs_to_the_packing_is_set_aside_with_a_reason(self) -> None:
        mark = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
        tensors = {"a.weight": PLAIN.to(torch.float8_e4m3fn), "a.scale_weight": torch.tensor(1.0)}
        tensors |= {"a.scale_input": torch.tensor(1.0), "b.input_scale": torch.tensor(1.0), "a.comfy_quant": mark}
        tensors |= {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
        found = self.contents(
            tensors, _quantization_metadata=json.dumps({"layers": {"a": {"format": "float8_e4m3fn"}}})
        )
        self.assertEqual(found.aside.keys(), {"a.scale_input", "b.input_scale", "a.comfy_quant", "scaled_fp8"})
        self.assertEqual(found.entries["a.weight"].keys, {"a.weight", "a.scale_weight"})


class RefusedTest(PackedCase):
    def refused(self, word: str, tensors: dict[str, Any], **metadata: str) -> None:
        with self.assertRaisesRegex(LoadError, f"packed as {word}.*quantization_config"):
            self.contents(tensors, **metadata)

    def test_forms_that_nothing_here_reads_are_named_by_their_own_word(self) -> None:
        four, eight = torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.int8)
        number = torch.ones(8)
        self.refused("svdq", {"a.qweight": eight, "a.wscales": number})
        self.refused("nf4", {"a.weight": four, "a.weight.quant_state.bitsandbytes__nf4": four})
        self.refused("fp4", {"a.weight": four, "a.weight.quant_state.bitsandbytes__fp4": four})
        self.refused("SCB", {"a.weight": eight, "a.SCB": number})
        self.refused("nvfp4", {"a.weight": four, "a.weight_scale": number, "a.weight_scale_2": number[:1]})
        self.refused("qzeros", {"a.qweight": eight, "a.qzeros": eight})
        self.refused("I8 with weight_scale", {"a.weight": eight, "a.weight_scale": number})
        blocks = {"a.weight": PLAIN.to(torch.float8_e4m3fn), "a.weight_scale": torch.ones(2, 8)}
        self.refused("weight_scale of shape", blocks)

    def test_a_format_that_comfy_names_is_refused_by_that_name(self) -> None:
        mark = torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)
        self.refused("mxfp8", {"a.weight": PLAIN.to(torch.float8_e4m3fn), "a.comfy_quant": mark})
        named = json.dumps({"layers": {"a": {"format": "int8_tensorwise"}}})
        self.refused("int8_tensorwise", {"a.weight": PLAIN}, _quantization_metadata=named)

    def test_a_gguf_in_blocks_that_diffusers_cannot_unpack_is_refused_by_their_name(self) -> None:
        import gguf
        import numpy

        path = Path(self.folder) / "file.gguf"
        writer = gguf.GGUFWriter(str(path), "flux")
        kind = gguf.GGMLQuantizationType.TQ1_0
        block, size = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor("a.weight", numpy.zeros((4, size), numpy.uint8), raw_shape=(4, size), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with self.assertRaisesRegex(LoadError, "packed as TQ1_0, which diffusers does not unpack"):
            contents.contents([headers.read(path)])
