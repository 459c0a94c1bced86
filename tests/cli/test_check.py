# SPDX-License-Identifier: MIT
"""``check`` names every fault of a YAML at once by the load's own rules, and loads nothing."""

from __future__ import annotations

import re
import unittest
from pathlib import Path
from unittest import mock

import yaml

from tests import gallery
from tests.cli.kit import Said, command
from tests.support import HOME, SHAPES_MODEL, FolderCase


class Check(FolderCase):
    def check(self, text: str, *more: str) -> Said:
        path = Path(self.folder, "model.yaml")
        path.write_text(text)
        with mock.patch("diffusers.DiffusionPipeline.from_pretrained", side_effect=AssertionError("it loads")):
            return command("check", str(path), *more)

    def test_a_good_yaml_is_fine_and_says_what_it_loads(self) -> None:
        said = self.check(
            f"parameters: {{model: {SHAPES_MODEL}}}\noptions: ['device:cpu', 'torch_dtype:bf16']\nf16: true"
        )
        self.assertEqual(said.code, 0, said.out)
        self.assertRegex(
            said.out, r"class +StableDiffusionPipeline\n +device +cpu, bfloat16\n +weights +4\.\d MiB; free: \d"
        )
        self.assertIn("fine", said.out)

    def test_every_fault_is_named_at_once(self) -> None:
        said = self.check(
            f"parameters: {{model: {SHAPES_MODEL}}}\nscheduler_type: ddim\ncontext_size: 9\nlow_vram: 3\n"
            "diffusers: {scheduler_type: eulerr}\nlora_adapters: [nothere.safetensors]\nlora_scales: [0.5]\n"
            "options: ['strengh:0.5', 'offload:sometimes', 'device:cud', 'vae_tiling:true']"
        )
        self.assertEqual(said.code, 1)
        faults = [line for line in said.out.splitlines() if line.startswith("  error: ")]
        for told in ("belongs under diffusers:", "low_vram: 3", "eulerr", "nothere", "strengh", "sometimes", "cud"):
            self.assertEqual(sum(told in fault for fault in faults), 1, (told, said.out))
        self.assertEqual(len(faults), 7, said.out)
        self.assertIn("class    StableDiffusionPipeline", said.out, "what is left can be loaded")
        self.assertIn("note: context_size", said.out)

    def test_a_model_that_is_not_there_does_not_hide_the_rest(self) -> None:
        said = self.check(
            "parameters: {model: gone.safetensors}\nlora_adapter: no.safetensors\ndiffusers: {scheduler_type: eulerr}"
        )
        for told in ("no file or folder gone.safetensors", "eulerr", "LoraAdapter 'no.safetensors'"):
            self.assertIn(told, said.out)
        self.assertEqual(said.code, 1)

    def test_a_broken_model_is_told_by_its_file(self) -> None:
        path = self.folder / "broken.safetensors"
        path.write_bytes(b"no header")
        said = self.check(f"parameters: {{model: {path}}}")
        self.assertEqual(said.code, 1)
        self.assertIn("broken.safetensors", said.out)

    def test_a_hub_repo_that_is_not_here_is_judged_by_its_names(self) -> None:
        with mock.patch.dict("os.environ", {"LOCALAI_DIFFUSERS_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}):
            fine = self.check("parameters: {model: owner/name}\ndiffusers: {pipeline_type: FluxPipeline}")
            self.assertEqual(fine.code, 0, fine.out)
            self.assertIn("not whole on this machine", fine.out)
            faulty = self.check("parameters: {model: owner/name}\ndiffusers: {pipeline_type: FluxPipelin}\nf16: 3")
            self.assertEqual(faulty.code, 1)
            self.assertIn("FluxPipeline", faulty.out)

    def test_gallery_and_examples_are_fine_but_for_files_and_cards(self) -> None:
        with mock.patch.dict("os.environ", {"LOCALAI_DIFFUSERS_DEVICE": "cpu", "HF_HUB_OFFLINE": "1"}):
            paths = sorted((HOME / "examples").glob("*.yaml"))
            for name in gallery.YAMLS:
                paths.append(self.folder / f"{name}.yaml")
                config = gallery.config(name)
                config.pop("seed", None)
                paths[-1].write_text(yaml.safe_dump(config))
            said = command("check", *map(str, paths))
        wrong = [
            line
            for line in said.out.splitlines()
            if "error: " in line and not re.search("there is no file|LoraAdapter", line)
        ]
        self.assertEqual(wrong, [])


if __name__ == "__main__":
    unittest.main()
