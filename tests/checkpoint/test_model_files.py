# SPDX-License-Identifier: MIT
"""What a model is on disk, told from configs and headers: what cannot be one is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import time
import unittest
from pathlib import Path

import numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file

from localai_diffusers.checkpoint import model_files
from localai_diffusers.checkpoint.model_files import (
    Location,
    check_weights,
    file_facts,
    folder_facts,
    hub_location,
    locate,
    variant_of,
)
from localai_diffusers.errors import LoadError
from tests.support import SHAPES_MODEL, FolderCase


def write_gguf(path: Path, architecture: str, vocabulary: int = 0, keys: dict[str, int] | None = None) -> Path:
    """A GGUF file with one tensor, by the gguf package; ``vocabulary`` adds a tokenizer of that many words."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (keys or {}).items():
        writer.add_uint32(key, value)
    if vocabulary:
        writer.add_tokenizer_model("gpt2")
        writer.add_array("tokenizer.ggml.tokens", [f"word{number}" for number in range(vocabulary)])
    writer.add_tensor("weight", numpy.ones((32, 32), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class ModelCase(FolderCase):
    """A test with a copy of the shipped model that it may break."""

    def copy(self) -> Path:
        return Path(shutil.copytree(SHAPES_MODEL, self.folder / "model"))


class LocateTest(FolderCase):
    def test_model_file_is_taken_if_it_exists_else_model(self) -> None:
        file = self.folder / "a.safetensors"
        file.touch()
        (self.folder / "model_index.json").touch()
        self.assertEqual(locate("owner/name", str(file), ""), Location("file", path=file))
        self.assertEqual(locate("owner/name", str(self.folder), ""), Location("folder", path=self.folder))
        self.assertEqual(locate("owner/name", str(self.folder / "missing"), "").kind, "repo")

    def test_model_may_be_absolute_or_relative_to_model_path(self) -> None:
        (self.folder / "flux").mkdir()
        for model, base in ((str(self.folder / "flux"), ""), ("flux", str(self.folder))):
            self.assertEqual(locate(model, "", base), Location("folder", path=self.folder / "flux"))

    def test_every_form_of_a_hub_address_is_read(self) -> None:
        cases = {
            "owner/name": Location("repo", repo="owner/name"),
            "huggingface://owner/name": Location("repo", repo="owner/name"),
            "hf://owner/name@v1": Location("repo", repo="owner/name", revision="v1"),
            "huggingface://owner/name/a/b.safetensors": Location(
                "repo_file", repo="owner/name", file="a/b.safetensors"
            ),
            "huggingface://owner/name/b.gguf@main": Location(
                "repo_file", repo="owner/name", file="b.gguf", revision="main"
            ),
            "https://huggingface.co/owner/name/resolve/main/a/b.safetensors?download=true": Location(
                "repo_file", repo="owner/name", file="a/b.safetensors", revision="main"
            ),
            "https://huggingface.co/owner/name/blob/v2/b.ckpt": Location(
                "repo_file", repo="owner/name", file="b.ckpt", revision="v2"
            ),
        }
        for text, expected in cases.items():
            self.assertEqual(hub_location(text), expected, text)

    def test_the_page_of_a_repo_is_the_repo(self) -> None:
        for text in (
            "https://huggingface.co/owner/name",
            "https://huggingface.co/owner/name/",
            "https://huggingface.co/owner/name/tree/v2",
        ):
            self.assertEqual((hub_location(text).kind, hub_location(text).repo), ("repo", "owner/name"), text)

    def test_what_is_none_of_these_is_refused_with_the_way_out(self) -> None:
        for text, says in (
            ("https://example.org/model.safetensors", "download the file"),
            ("missing.safetensors", "neither an existing"),
            ("huggingface://owner", "owner/name"),
            ("hf:///name", "owner/name"),
            ("a b/c", "neither"),
        ):
            with self.assertRaisesRegex(LoadError, says):
                hub_location(text)


class FolderFactsTest(ModelCase):
    def test_the_shipped_model_is_read_from_its_configs(self) -> None:
        facts = folder_facts(SHAPES_MODEL)
        self.assertEqual(facts.class_name, "StableDiffusionPipeline")
        self.assertEqual(facts.components.keys(), {"scheduler", "text_encoder", "tokenizer", "unet", "vae"})
        self.assertEqual({weights.dtype for weights in facts.files}, {"F16"})
        self.assertEqual((facts.denoiser, facts.is_flow_matching, facts.remote_code), ("unet", False, False))
        self.assertEqual(facts.scheduler_config["_class_name"], "DDIMScheduler")

    def test_a_subfolder_may_hold_the_pipeline(self) -> None:
        self.copy()
        self.assertEqual(folder_facts(self.folder, "model").class_name, "StableDiffusionPipeline")

    def test_a_folder_without_an_index_is_refused_with_what_it_holds(self) -> None:
        (self.folder / "notes.txt").touch()
        with self.assertRaisesRegex(LoadError, "no model_index.json.*notes.txt"):
            folder_facts(self.folder)
        (self.folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        with self.assertRaisesRegex(LoadError, "describes a LlamaForCausalLM"):
            folder_facts(self.folder)

    def test_a_folder_without_weights_is_refused(self) -> None:
        model = self.copy()
        for file in model.glob("*/*.safetensors"):
            file.unlink()
        with self.assertRaisesRegex(LoadError, "no weights"):
            folder_facts(model)

    def test_broken_json_is_refused_by_its_path(self) -> None:
        model = self.copy()
        for text in ('{"_class_name": ', "[1]", "[" * 100_000, "\xff"):
            (model / "model_index.json").write_bytes(text.encode("latin-1"))
            with self.assertRaisesRegex(LoadError, r"model_index\.json"):
                folder_facts(model)
        (model / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
        with self.assertRaisesRegex(LoadError, "_class_name"):
            folder_facts(model)

    def test_truncated_weights_are_refused_by_their_path(self) -> None:
        model = self.copy()
        weights = model / "unet" / "diffusion_pytorch_model.safetensors"
        data = weights.read_bytes()
        for part in (data[: len(data) // 2], data[:5], data + b"x", b"\0" * 1000, b""):
            weights.write_bytes(part)
            with self.assertRaisesRegex(LoadError, r"unet/diffusion_pytorch_model\.safetensors .*download it again"):
                folder_facts(model)

    def test_code_of_the_repos_own_is_seen(self) -> None:
        model = self.copy()
        index = json.loads((model / "model_index.json").read_text())
        (model / "model_index.json").write_text(json.dumps({**index, "_class_name": ["pipeline", "MyPipeline"]}))
        self.assertTrue(folder_facts(model).remote_code)
        (model / "model_index.json").write_text(json.dumps({**index, "unet": ["my_unet", "MyUNet"]}))
        (model / "unet" / "my_unet.py").touch()
        self.assertTrue(folder_facts(model).remote_code)


class WeightsTest(ModelCase):
    def test_variants_are_told_from_file_names(self) -> None:
        cases = {
            "model.safetensors": "",
            "model.fp16.safetensors": "fp16",
            "model.fp16-00001-of-00002.safetensors": "fp16",
            "model-00001-of-00002.safetensors": "",
            "diffusion_pytorch_model.safetensors.index.fp16.json": "fp16",
            "a.safetensors.index.json": "",
            "diffusion_pytorch_model.bf16.bin": "bf16",
        }
        for name, expected in cases.items():
            self.assertEqual(variant_of(name), expected, name)

    def test_the_variant_is_chosen_per_component_and_safetensors_before_pickles(self) -> None:
        model = self.copy()
        unet = model / "unet" / "diffusion_pytorch_model.safetensors"
        shutil.copy(unet, unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
        (unet.with_name("diffusion_pytorch_model.bin")).write_bytes(b"pickle")
        facts = folder_facts(model)
        self.assertEqual(facts.variants, {"fp16"})
        names = {weights.component: weights.path.name for weights in facts.chosen_files("fp16")}
        self.assertEqual(
            names,
            {
                "text_encoder": "model.safetensors",
                "unet": "diffusion_pytorch_model.fp16.safetensors",
                "vae": "diffusion_pytorch_model.safetensors",
            },
        )
        self.assertEqual({weights.path for weights in facts.chosen_files(None) if weights.component == "unet"}, {unet})

    def test_a_pickle_alone_is_refused_unless_trusted(self) -> None:
        model = self.copy()
        unet = model / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(unet), unet.with_suffix(".bin"))
        unet.unlink()
        with self.assertRaisesRegex(LoadError, "pickle.*SAFETENSORS=0.*trust_remote_code"):
            check_weights(folder_facts(model), None, allow_pickle=False)
        check_weights(folder_facts(model), None, allow_pickle=True)

    def test_a_missing_shard_is_named(self) -> None:
        model = self.copy()
        unet = model / "unet" / "diffusion_pytorch_model.safetensors"
        shards = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        unet.rename(unet.with_name(shards[0]))
        unet.with_name(unet.name + ".index.json").write_text(
            json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
        )
        with self.assertRaisesRegex(LoadError, "00002-of-00002.safetensors, which is missing"):
            check_weights(folder_facts(model), None, allow_pickle=False)

    def test_a_component_without_its_weights_is_named(self) -> None:
        model = self.copy()
        (model / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        with self.assertRaisesRegex(LoadError, "unet holds no weights"):
            check_weights(folder_facts(model), None, allow_pickle=False)
        shutil.rmtree(model / "unet")
        with self.assertRaisesRegex(LoadError, "unet holds no weights"):
            check_weights(folder_facts(model), None, allow_pickle=False)

    def test_the_index_of_a_variant_that_is_not_loaded_is_no_matter(self) -> None:
        model = self.copy()
        index = model / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json"
        index.write_text('{"weight_map": {"a": "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"}}')
        check_weights(folder_facts(model), None, allow_pickle=False)

    def test_a_variants_missing_shard_is_named_too(self) -> None:
        model = self.copy()
        unet = model / "unet" / "diffusion_pytorch_model.safetensors"
        shard = "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors"
        shutil.copy(unet, unet.with_name(shard.format(1)))
        (model / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(
            json.dumps({"weight_map": {"a": shard.format(1), "b": shard.format(2)}})
        )
        with self.assertRaisesRegex(LoadError, "fp16-00002-of-00002.safetensors, which is missing"):
            check_weights(folder_facts(model), "fp16", allow_pickle=False)

    def test_the_dtype_is_that_of_most_bytes(self) -> None:
        file = self.folder / "a.safetensors"
        save_file({"small": numpy.ones(3, numpy.float32), "large": numpy.ones(100, numpy.float16)}, file)
        self.assertEqual(model_files.weight_file("unet", file).dtype, "F16")


class SingleFileTest(FolderCase):
    def test_a_language_models_gguf_is_refused_within_a_second(self) -> None:
        """The core probes backends in turn; a vocabulary takes the gguf package seconds to read."""
        file = write_gguf(self.folder / "llama.gguf", "llama", vocabulary=150_000)
        began = time.monotonic()
        with self.assertRaisesRegex(LoadError, "language model.*llama-cpp"):
            file_facts(file)
        self.assertLess(time.monotonic() - began, 1.0)

    def test_a_gguf_with_a_context_length_is_a_language_model(self) -> None:
        with self.assertRaisesRegex(LoadError, "context_length"):
            file_facts(
                write_gguf(self.folder / "a.gguf", "qwen2", keys={"qwen2.block_count": 2, "qwen2.context_length": 4096})
            )

    def test_a_diffusion_gguf_is_taken(self) -> None:
        facts = file_facts(write_gguf(self.folder / "flux.gguf", "flux"))
        self.assertEqual([weights.path.name for weights in facts.files], ["flux.gguf"])

    def test_broken_files_are_refused_as_such(self) -> None:
        whole = write_gguf(self.folder / "whole.gguf", "llama", vocabulary=10).read_bytes()
        for name, data in (
            ("a.gguf", b"GGUF"),
            ("b.gguf", b"GGML" + b"\0" * 50),
            ("c.gguf", whole[:40]),
            ("e.safetensors", b"{}"),
            ("d.gguf", b"GGUF" + struct.pack("<IQQQ", 3, 1, 1 << 60, 1 << 60)),
            ("f.safetensors", b""),
            ("g.gguf", b""),
        ):
            (self.folder / name).write_bytes(data)
            with self.assertRaisesRegex(LoadError, name):
                file_facts(self.folder / name)

    @given(st.binary(max_size=200))
    def test_no_bytes_behind_the_magic_number_crash_the_reader(self, tail: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(b"GGUF" + tail)
            file.flush()
            try:
                file_facts(Path(file.name))
            except LoadError:
                pass

    def test_other_files_are_no_checkpoints(self) -> None:
        (self.folder / "model.onnx").write_bytes(b"x")
        with self.assertRaisesRegex(LoadError, "neither safetensors nor GGUF nor a pickle"):
            file_facts(self.folder / "model.onnx")


if __name__ == "__main__":
    unittest.main()
