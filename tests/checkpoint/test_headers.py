# SPDX-License-Identifier: MIT
"""A file's header is read by its content, whatever its name, and what became of each of its keys is told."""

from __future__ import annotations

import dataclasses
import unittest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from localai_diffusers.checkpoint import headers, tracing, weights
from localai_diffusers.errors import LoadError
from tests import adapter_files
from tests.support import FolderCase

WEIGHTS = {"a.weight": torch.arange(64.0).reshape(2, 32).half(), "a.bias": torch.ones(2)}


class HeaderTest(FolderCase):
    def file(self, form: str, name: str) -> Path:
        path = self.folder / name
        if form == headers.SAFETENSORS:
            save_file(WEIGHTS, path, {"modelspec.title": "x"})
        elif form == headers.GGUF:
            adapter_files.gguf(WEIGHTS, path)
        else:
            torch.save({"state_dict": WEIGHTS, "global_step": 7}, path)
        return path

    def test_the_form_is_told_by_content_whatever_the_name(self) -> None:
        for form in (headers.SAFETENSORS, headers.GGUF, headers.PICKLE):
            for name in ("blob0", "model.bin", "x.pkl"):
                path = self.file(form, name)
                self.assertEqual(headers.form_of(path), form, name)
                self.assertEqual(
                    {key: info.shape for key, info in headers.read(path, allow_pickle=True).tensors.items()},
                    {"a.weight": (2, 32), "a.bias": (2,)},
                )

    def test_a_pickle_is_refused_by_any_name_unless_it_is_trusted(self) -> None:
        for name in ("model.ckpt", "lora", "vae.pkl", "x.pt", "blob"):
            with self.assertRaisesRegex(LoadError, "is a pickle"):
                headers.read(self.file(headers.PICKLE, name))
        with self.assertRaisesRegex(LoadError, "no intact safetensors"):
            headers.read(self.file(headers.PICKLE, "x.safetensors"), allow_pickle=True)

    def test_a_pickle_with_code_is_never_run(self) -> None:
        class Code:
            def __reduce__(self) -> Any:
                return (Path.touch, (Path(ran),))

        ran = str(self.folder / "ran")
        path = self.folder / "code.ckpt"
        torch.save({"state_dict": {"x": Code()}}, path)
        with self.assertRaisesRegex(LoadError, "restricted unpickler"):
            headers.read(path, allow_pickle=True)
        self.assertFalse(Path(ran).exists())

    def test_entries_that_are_no_tensors_are_named(self) -> None:
        path = self.folder / "x.ckpt"
        torch.save(WEIGHTS | {"global_step": 7}, path)
        self.assertEqual(headers.read(path, allow_pickle=True).others, ("global_step",))

    def test_the_weights_are_those_of_the_file_in_every_form(self) -> None:
        for form in (headers.SAFETENSORS, headers.GGUF, headers.PICKLE):
            found = weights.tensors(headers.read(self.file(form, "blob"), allow_pickle=True))
            self.assertEqual(found.keys(), WEIGHTS.keys())
            plain = weights.unpacked(found["a.weight"]).float()
            self.assertLess((plain - WEIGHTS["a.weight"].float()).abs().max(), 0.5, form)

    def test_not_mapped_from_the_disk_they_are_the_same(self) -> None:
        header = headers.read(self.file(headers.SAFETENSORS, "blob"))
        found = weights.tensors(dataclasses.replace(header, mapped=False), ["a.weight"])
        self.assertEqual(list(found), ["a.weight"])
        self.assertTrue(torch.equal(found["a.weight"], WEIGHTS["a.weight"]))

    def test_a_tensor_that_comfy_flattened_for_gguf_has_its_own_shape(self) -> None:
        import gguf

        kernel, path = torch.randn(4, 8, 3, 3), self.folder / "x.gguf"
        writer, kind = gguf.GGUFWriter(str(path), "sdxl"), gguf.GGMLQuantizationType.Q8_0
        writer.add_array("comfy.gguf.orig_shape.conv.weight", [4, 8, 3, 3])
        writer.add_tensor("conv.weight", gguf.quants.quantize(kernel.reshape(-1, 32).numpy(), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        header = headers.read(path)
        self.assertEqual(header.tensors["conv.weight"].shape, (4, 8, 3, 3))
        self.assertLess((weights.tensors(header)["conv.weight"] - kernel).abs().max(), 0.05)

    def test_broken_files_are_named(self) -> None:
        whole = self.file(headers.SAFETENSORS, "a.safetensors").read_bytes()
        for name, content in (("cut.safetensors", whole[:-5]), ("text.safetensors", b"hello"), ("none", b"")):
            (self.folder / name).write_bytes(content)
            with self.assertRaisesRegex(LoadError, name):
                headers.read(self.folder / name, allow_pickle=True)


class TraceTest(unittest.TestCase):
    SHAPES = {"qkv": ((6, 4), torch.float16), "alpha": ((), torch.float32), "gate": ((2,), torch.float32)}

    def trace(self, convert: Any) -> Any:
        return tracing.trace(
            convert, self.SHAPES, lambda keys: {key: torch.ones(*self.SHAPES[key][:1]) for key in keys}
        )

    def test_parts_and_joins_know_their_keys(self) -> None:
        def convert(found: dict[str, Any]) -> dict[str, Any]:
            query, key, _value = found.pop("qkv").chunk(3)
            return {"q": query * found["alpha"].item(), "k": torch.cat([key, query.T.reshape(2, 4)]), "new": None}

        made = self.trace(convert)
        self.assertEqual({name: output.shape for name, output in made.outputs.items()}, {"q": (2, 4), "k": (4, 4)})
        self.assertEqual(made.keys, {"qkv", "alpha"})

    def test_a_converter_that_looks_at_values_gets_them(self) -> None:
        made = self.trace(lambda found: {"a": found["qkv"]} if torch.all(found["gate"] == 1) else {})
        self.assertEqual(made.keys, {"qkv", "gate"})


class AccountTest(unittest.TestCase):
    def test_what_is_neither_consumed_nor_idle_is_told_with_its_number(self) -> None:
        account = weights.account(["a", "model_ema.decay", "x.position_ids", "z", "y"], {"a"})
        self.assertEqual((account.left, set(account.idle)), (("y", "z"), {"model_ema.decay", "x.position_ids"}))
        self.assertIn("2 of 5 keys", account.note("file.safetensors"))
        self.assertEqual(weights.account(["a"], {"a"}).note("x"), "")


if __name__ == "__main__":
    unittest.main()
