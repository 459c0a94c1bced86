# SPDX-License-Identifier: MIT
"""Keywords of a load: what the options say reaches every reader of weights that takes it, and nothing is said that
nobody said."""

from __future__ import annotations

import unittest
from typing import Any

import diffusers
import torch
import transformers

from localai_diffusers.checkpoint.artifacts import weight_keywords
from localai_diffusers.checkpoint.model_files import file_facts, folder_facts
from localai_diffusers.loading.files import keywords
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.settings import Settings
from tests import single_file
from tests.support import SHAPES_MODEL, FolderCase, spec_of

CPU = DevicePlan("cpu", "float32")


def for_weights(cls: type, *options: str, **fields: Any) -> dict[str, Any]:
    return weight_keywords(spec_of(SHAPES_MODEL, Options=list(options), **fields), Settings(), cls, torch.float16)


class WeightsTest(unittest.TestCase):
    def test_pickles_are_taken_by_who_trusts_them_alone(self) -> None:
        usual = {"dtype": torch.float16, "use_safetensors": True}
        self.assertEqual(for_weights(diffusers.AutoencoderKL), usual)
        for trusted in ({"TrustRemoteCode": True}, {}):
            options = [] if trusted else ["use_safetensors:false"]
            self.assertEqual(for_weights(diffusers.AutoencoderKL, *options, **trusted), {"dtype": torch.float16})

    def test_the_option_is_before_the_environment_and_before_trust(self) -> None:
        spec = spec_of(SHAPES_MODEL, Options=["use_safetensors:true"], TrustRemoteCode=True)
        found = weight_keywords(spec, Settings(safetensors=False), diffusers.AutoencoderKL, torch.float16)
        self.assertIs(found["use_safetensors"], True)
        plain = weight_keywords(spec_of(SHAPES_MODEL), Settings(safetensors=False), diffusers.AutoencoderKL, None)
        self.assertEqual(plain, {})

    def test_how_files_are_read_is_told_to_diffusers_and_not_to_transformers(self) -> None:
        options = ("low_cpu_mem_usage:false", "disable_mmap:true")
        told = for_weights(diffusers.AutoencoderKL, *options)
        self.assertEqual((told["low_cpu_mem_usage"], told["disable_mmap"]), (False, True))
        self.assertEqual(for_weights(transformers.CLIPTextModel, *options).keys(), {"dtype", "use_safetensors"})


class PipelineTest(FolderCase):
    def test_a_folders(self) -> None:
        options = ["revision:0012", 'max_memory:{"0": "1GiB"}', "offload_folder:x", "local_files_only:true"]
        found = keywords.of_pipeline(
            spec_of(SHAPES_MODEL, Options=options, TrustRemoteCode=True),
            folder_facts(SHAPES_MODEL),
            diffusers.StableDiffusionPipeline,
            CPU,
            "fp16",
            Settings(),
        )
        expected = {
            "revision": "0012",
            "max_memory": {"0": "1GiB"},
            "offload_folder": "x",
            "local_files_only": True,
            "dtype": torch.float32,
            "variant": "fp16",
            "trust_remote_code": True,
            "safety_checker": None,
            "requires_safety_checker": False,
        }
        self.assertEqual(found, expected)

    def test_a_single_files_has_one_dtype_and_its_config(self) -> None:
        file = single_file.write_checkpoint(SHAPES_MODEL, self.folder / "model.safetensors")
        where = DevicePlan("cpu", "float16", {"vae": "float32"})
        found = keywords.of_pipeline(
            spec_of(file, Options=[f"config:{SHAPES_MODEL}"]),
            file_facts(file),
            diffusers.StableDiffusionPipeline,
            where,
            None,
            Settings(),
        )
        self.assertEqual((found["dtype"], found["config"]), (torch.float16, str(SHAPES_MODEL)))
        self.assertFalse({"variant", "use_safetensors", "trust_remote_code"} & found.keys())


if __name__ == "__main__":
    unittest.main()
