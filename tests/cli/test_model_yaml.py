# SPDX-License-Identifier: MIT
"""A model as a person names it becomes what LocalAI's core would send; what stands in the wrong place is told."""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path

import yaml

import backend_pb2
from localai_diffusers.cli import model_yaml
from localai_diffusers.cli.terminal import Fault
from tests import gallery
from tests.support import HOME

# What the core adds of itself: language models' defaults, its own thread count, a random seed.
_CORES = ("Seed", "ContextSize", "NBatch", "NGPULayers", "MMap", "FlashAttention", "Threads", "ModelFile")


class Yaml(unittest.TestCase):
    def faults_of(self, text: str) -> str:
        return "\n".join(model_yaml.of_config(yaml.safe_load(text), HOME / "examples").faults)

    def test_every_documented_and_gallery_yaml_becomes_what_the_core_sends(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in gallery.YAMLS:
                config = gallery.config(name)
                sent = gallery.model_options(config, Path(folder))
                if "device:cpu" in sent.Options:  # the tests' own addition
                    sent.Options.remove("device:cpu")
                config.pop("seed", None)
                found = model_yaml.of_config({"threads": 1, **config}, Path(folder).resolve())
                with self.subTest(name):
                    self.assertEqual([fault for fault in found.faults if "no file" not in fault], [])
                    ours = backend_pb2.ModelOptions(**{"Model": config["parameters"]["model"], **found.fields})
                    for field in _CORES:
                        sent.ClearField(field), ours.ClearField(field)
                    self.assertEqual(sent.ModelPath and ours.ModelPath, str(Path(folder).resolve()))
                    sent.ModelPath = ours.ModelPath
                    self.assertEqual(ours, sent)

    def test_every_example_is_without_fault(self) -> None:
        for path in sorted((HOME / "examples").glob("*.yaml")):
            found = [fault for fault in model_yaml.of_yaml(path).faults if "there is no file" not in fault]
            self.assertEqual(found, [], path.name)

    def test_a_key_in_the_wrong_place_is_told_where_it_belongs(self) -> None:
        model = "parameters: {model: shapes-model}\n"
        for text, place in (
            ("scheduler_type: ddim", "scheduler_type belongs under diffusers:"),
            ("pipeline_type: x", "pipeline_type belongs under diffusers:"),
            ("diffusers: {f16: true}", "diffusers: f16 belongs at the top level"),
            ("vae_tiling: true", "vae_tiling belongs under options: as a text, - vae_tiling:VALUE"),
            ("seed: 3", "seed belongs under parameters:"),
            ("low_vramm: true", "low_vramm is no key that LocalAI or this backend knows. Did you mean low_vram"),
            ("diffusers: {sheduler_type: ddim}", "Did you mean scheduler_type"),
        ):
            self.assertIn(place, self.faults_of(model + text))

    def test_a_value_of_another_kind_is_a_fault_and_all_are_told(self) -> None:
        told = self.faults_of(
            "parameters: {model: shapes-model}\nf16: maybe\nstep: many\noptions: {a: b}\nlora_scales: 1"
        )
        self.assertEqual(len(told.splitlines()), 4, told)

    def test_what_is_localais_own_is_no_fault(self) -> None:
        found = model_yaml.of_config(
            yaml.safe_load("name: x\nbackend: diffusers\nparameters: {model: shapes-model}\ncontext_size: 5"),
            HOME / "examples",
        )
        self.assertEqual(found.faults, ())
        self.assertIn("context_size", found.notes[0])

    def test_a_model_beside_its_yaml_is_found(self) -> None:
        found = model_yaml.of_config({"parameters": {"model": "shapes-model"}}, HOME / "examples")
        self.assertEqual(found.fields["ModelFile"], str(HOME / "examples" / "shapes-model"))


class Names(unittest.TestCase):
    def setUp(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(HOME)

    def test_a_typo_in_a_path_is_answered_here(self) -> None:
        for typo, meant in (
            ("examples/shapes-mode", "examples/shapes-model"),
            ("./examples/shape-model", "examples/shapes-model"),
            ("examples/lora.yml", "examples/lora.yaml"),
            ("exampels/shapes-model/unet/x", ""),
        ):
            with self.assertRaises(Fault) as caught:
                model_yaml.read(typo)
            self.assertIn(f"Did you mean {meant}" if meant else "there is no file", str(caught.exception))

    def test_a_repo_of_the_hub_is_none(self) -> None:
        for name in ("Lykon/dreamshaper-8", "huggingface://examples/shapes-mode"):
            self.assertNotIn("ModelFile", model_yaml.read(name).fields)

    def test_a_file_that_is_no_yaml_is_a_line(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for text in ("a: [", "- 1", ""):
                path = Path(folder, "model.yaml")
                path.write_text(text)
                with self.assertRaises(Fault) as caught:
                    model_yaml.read(str(path))
                self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
