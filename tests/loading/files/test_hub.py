# SPDX-License-Identifier: MIT
"""LoadModel by Hub repo id: the real huggingface_hub client against a local server, through a real backend."""

from __future__ import annotations

import json
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

from PIL import Image

from tests import adapter_files, single_file, zoo
from tests.hub_server import FakeHub, closed_port_url
from tests.loading.modular_pipelines.test_modular import own_blocks
from tests.support import Backend

FP16 = "diffusion_pytorch_model.fp16.safetensors"


def repo(root: Path, name: str, source: Path) -> Path:
    """``source`` as the repo ``name``."""
    return Path(shutil.copytree(source, root / name))


class Hub(unittest.TestCase):
    heavy = True

    @classmethod
    def setUpClass(cls) -> None:
        temporary = cls.enterClassContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        root, cache = Path(temporary, "repos"), Path(temporary, "cache")
        repo(root, "tiny/sd", zoo.checkpoint("StableDiffusionPipeline"))
        repo(root, "tiny/sdxl", zoo.checkpoint("StableDiffusionXLPipeline"))
        repo(root, "tiny/gated", zoo.checkpoint("StableDiffusionPipeline"))
        half = repo(root, "tiny/half", zoo.checkpoint("StableDiffusionPipeline"))
        shutil.copy(half / "unet" / FP16.replace(".fp16", ""), half / "unet" / FP16)
        single_file.write_checkpoint(
            zoo.checkpoint("StableDiffusionPipeline"), root / "tiny" / "single" / "model.safetensors"
        )
        single_file.write_configs(zoo.checkpoint("StableDiffusionPipeline"), Path(temporary, "config"))
        (root / "tiny" / "llm").mkdir()
        (root / "tiny" / "llm" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        cls.config = Path(temporary, "config")
        modular_repos(root, Path(temporary, "ran"))
        cls.ran = Path(temporary, "ran")
        lora = adapter_files.lora(zoo.checkpoint("StableDiffusionPipeline"), root / "tiny" / "lora" / "one.safetensors")
        shutil.copy(lora, lora.with_name("two.safetensors"))
        peft = root / "tiny" / "peft" / "adapter_model.safetensors"
        peft.parent.mkdir()
        shutil.copy(lora, peft)
        peft.with_name("adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
        cls.hub = cls.enterClassContext(FakeHub(root, denied={"tiny/gated": 403}))
        cls.cache = cache
        cls.backend = Backend(**{**cls.hub.environment(cache), "HF_HUB_OFFLINE": "0"})

    @classmethod
    def tearDownClass(cls) -> None:
        cls.backend.stop()

    def draws(self) -> None:
        path = self.backend.image("a cat", width=64, height=64, step=2, seed=1)
        self.assertGreater(path.stat().st_size, 100)

    def test_a_repo_id_is_downloaded_and_draws(self) -> None:
        result = self.backend.load("tiny/sd")
        self.assertEqual(result.message, "Model loaded successfully")
        self.draws()

    def test_the_importers_class_gives_way_to_the_repos_own(self) -> None:
        result = self.backend.load("tiny/sdxl", PipelineType="StableDiffusionPipeline")
        self.assertTrue(result.success, result.message)
        self.assertIn("StableDiffusionXLPipeline", result.message)
        self.draws()

    def test_f16_needs_no_fp16_files(self) -> None:
        self.assertTrue(self.backend.load("tiny/sd", F16Memory=True).success)
        self.draws()

    def test_f16_takes_fp16_files_where_they_are(self) -> None:
        self.assertTrue(self.backend.load("tiny/half", F16Memory=True).success)
        self.assertTrue(list(self.cache.rglob(FP16)))
        self.draws()

    def test_a_file_of_a_repo_is_a_single_file(self) -> None:
        result = self.backend.load("huggingface://tiny/single/model.safetensors", Options=[f"config:{self.config}"])
        self.assertTrue(result.success, result.message)
        self.draws()

    def test_a_gated_repo_says_what_to_do(self) -> None:
        result = self.backend.load("tiny/gated")
        self.assertFalse(result.success)
        self.assertIn("HF_TOKEN", result.message)

    def test_a_missing_repo_is_named(self) -> None:
        result = self.backend.load("tiny/nothing")
        self.assertFalse(result.success)
        self.assertIn("'tiny/nothing' was not found", result.message)

    def test_a_language_models_repo_is_refused(self) -> None:
        result = self.backend.load("tiny/llm")
        self.assertFalse(result.success)

    # --- modular pipelines ---

    def test_a_modular_repo_takes_its_components_from_the_repos_that_it_names(self) -> None:
        for name in ("tiny/pointer", "tiny/self", "tiny/named"):
            result = self.backend.load(name)
            self.assertTrue(result.success, result.message)
            self.draws()

    def test_once_downloaded_a_modular_repo_asks_the_hub_for_nothing(self) -> None:
        self.assertTrue(self.backend.load("tiny/pointer").success)
        self.hub.requests.clear()
        self.assertTrue(self.backend.load("tiny/pointer", Options=["local_files_only:true"]).success)
        self.assertEqual(self.hub.requests, [])

    def test_a_repo_that_a_modular_one_names_and_that_is_not_there_leaves_the_earlier_model(self) -> None:
        self.assertTrue(self.backend.load("tiny/sd").success)
        result = self.backend.load("tiny/dangling")
        self.assertRegex(result.message, "component .*'tiny/nothing' is not on this machine")
        self.draws()

    def test_the_code_of_a_modular_repo_is_run_only_with_trust(self) -> None:
        for name in ("tiny/blocks", "tiny/blocks-alone"):
            result = self.backend.load(name)
            self.assertFalse(result.success)
            self.assertIn("trust_remote_code", result.message)
        self.assertFalse(self.ran.exists())
        self.assertTrue(self.backend.load("tiny/blocks-alone", TrustRemoteCode=True).success)
        self.assertTrue(self.ran.exists())

    # --- LoRA ---

    def test_a_lora_is_a_file_of_a_repo_or_a_repo_with_a_weight_name(self) -> None:
        for name, options in (("tiny/lora/one.safetensors", []), ("tiny/lora", ["lora_weight_name:two.safetensors"])):
            result = self.backend.load("tiny/sd", LoraAdapter=name, Options=options)
            self.assertTrue(result.success, result.message)
            self.draws()
        self.assertIn("one.safetensors, two.safetensors", self.backend.load("tiny/sd", LoraAdapter="tiny/lora").message)

    def test_a_repo_as_peft_saves_it_brings_its_config(self) -> None:
        def drawn(**fields: Any) -> Any:
            result = self.backend.load("tiny/sd", **fields)
            self.assertTrue(result.success, result.message)
            return Image.open(self.backend.image("a cat", width=64, height=64, step=2, seed=1)).copy()

        twice = drawn(LoraAdapters=["tiny/lora/one.safetensors"], LoraScales=[2.0])
        once = drawn(LoraAdapters=["tiny/lora/one.safetensors"])
        for name in ("tiny/peft", "tiny/peft/adapter_model.safetensors"):
            off = adapter_files.difference(drawn(LoraAdapter=name), twice)
            self.assertLess(off, adapter_files.difference(once, twice) / 20, name)


def modular_repos(root: Path, marker: Path) -> None:
    """Modular repos: of components elsewhere, of its own, a classic index with a modular class, one of whose components
    is nowhere, and two with code of their own that leaves ``marker``."""
    flux = zoo.checkpoint("FluxPipeline")
    repo(root, "tiny/flux", flux)
    own, index = repo(root, "tiny/named", flux), json.loads((flux / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxModularPipeline"}))
    for name, source in (("pointer", "tiny/flux"), ("self", "tiny/self"), ("dangling", "tiny/nothing")):
        folder = repo(root, f"tiny/{name}", flux) if name == "self" else root / "tiny" / name
        folder.mkdir(exist_ok=True)
        (folder / "model_index.json").unlink(missing_ok=True)
        parts = {
            part: [*value, {"pretrained_model_name_or_path": source, "subfolder": part, "type_hint": value}]
            for part, value in index.items()
            if isinstance(value, list) and value[0]
        }
        modular = {"_class_name": "FluxModularPipeline", "_blocks_class_name": "FluxAutoBlocks", **parts}
        (folder / "modular_model_index.json").write_text(json.dumps(modular))
    for name in ("blocks", "blocks-alone"):
        own_blocks(root / "tiny" / name, marker)
    (root / "tiny" / "blocks-alone" / "modular_model_index.json").unlink()


class NoHub(unittest.TestCase):
    heavy = True

    def test_an_unreachable_hub_is_told_without_the_words_that_the_core_reads(self) -> None:
        with tempfile.TemporaryDirectory() as cache:
            with Backend(HF_ENDPOINT=closed_port_url(), HF_HOME=cache, HF_HUB_OFFLINE="0") as backend:
                result = backend.load("tiny/sd")
        self.assertFalse(result.success)
        self.assertIn("gave no answer", result.message)
        self.assertNotIn("refused", result.message.lower().replace("was refused", ""))


if __name__ == "__main__":
    unittest.main()
