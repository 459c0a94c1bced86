# SPDX-License-Identifier: MIT
"""Group offload with a CPU as the device: which layers wait, and that from the disk each computes what it did."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import diffusers
import torch

from localai_diffusers.errors import LoadError
from localai_diffusers.loading import pipelines
from localai_diffusers.loading.placing import group_offload, placement
from localai_diffusers.settings import Settings
from tests.support import HOME, generate, load, new_job, offloaded, spec_of
from tests.zoo import checkpoint

# The text encoders of the first have layers of the same names, and one of the second has two layers of one weight.
CLASSES = ("StableDiffusionXLPipeline", "StableDiffusion3Pipeline")


def loaded(name: str) -> Any:
    """The zoo's pipeline, the second of its text encoders (which are alike) made another."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(checkpoint(name)))
    for weight in getattr(pipeline, "text_encoder_2", torch.nn.Module()).parameters():
        weight.data *= 1.5
    return pipeline


def read(pipeline: Any) -> Any:
    """What the text encoders make of a prompt."""
    taken = inspect.signature(pipeline.encode_prompt).parameters
    given = {name: "a red cat" for name in ("prompt", "prompt_2", "prompt_3") if name in taken}
    return pipeline.encode_prompt(**given, device="cpu")


class LayersTest(unittest.TestCase):
    def test_a_part_whose_layers_cannot_wait_stays_on_the_device(self) -> None:
        pipeline = loaded("KandinskyV22Pipeline")
        (note,) = group_offload.put_on(pipeline, "cpu", {})
        self.assertIn("offload:group: the layers of movq cannot wait", note)
        self.assertTrue(_waits(pipeline.unet))
        self.assertFalse(_waits(pipeline.movq))

    def test_a_denoiser_whose_layers_cannot_wait_is_refused_and_never_chosen(self) -> None:
        cls, denoiser = diffusers.HunyuanDiTPipeline, diffusers.HunyuanDiT2DModel
        self.assertEqual(placement.ways_of(cls), placement.ALL_WAYS)
        self.assertEqual(placement.ways_of(cls, denoiser), placement.ALL_WAYS - {"group"})
        with self.assertRaisesRegex(
            LoadError, "layers of a HunyuanDiT2DModel cannot wait .* use offload:model or offload:sequential"
        ):
            placement.check_way("group", cls, denoiser)
        placement.check_way("group", diffusers.FluxPipeline, diffusers.FluxTransformer2DModel)

    def test_a_class_that_offloads_itself_can_have_its_components_wait(self) -> None:
        for cls, can in (
            (diffusers.StableDiffusionPipeline, True),  # it says in which order
            (diffusers.WuerstchenCombinedPipeline, True),  # it has a method of its own
            (diffusers.AudioLDM2Pipeline, True),
            (diffusers.MusicLDMPipeline, False),  # whose own takes no device
            (diffusers.KarrasVePipeline, False),
        ):
            self.assertEqual("model" in placement.ways_of(cls), can, cls)
        with offloaded("model"):
            model = load(checkpoint("WuerstchenCombinedPipeline"))
            generate(model, "a cat", width=64, height=64, step=2, seed=1)
        self.assertEqual(model.where.offload, "model")

    def test_the_load_refuses_it_before_anything_is_built(self) -> None:
        for mode, name, told in (
            ("group", "DiTPipeline", "DiTTransformer2DModel cannot wait"),
            ("model", "KarrasVePipeline", "KarrasVePipeline does not say in which order"),
        ):
            with offloaded(mode), self.assertRaisesRegex(LoadError, told):
                pipelines.prepare(spec_of(checkpoint(name)), Settings(), new_job())


def _waits(model: Any) -> bool:
    return any(hasattr(layer, "_diffusers_hook") for layer in model.modules())


class DiskTest(unittest.TestCase):
    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.folder = Path(place.name, "layers")

    def assert_same(self, found: Any, wanted: Any) -> None:
        for mine, plain in zip(found, wanted, strict=True):
            if plain is not None:
                torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-3)

    def test_each_component_keeps_its_own_weights(self) -> None:
        for name in CLASSES:
            for kind in ({}, {"offload_type": "block_level", "num_blocks_per_group": 1}):
                with self.subTest(name, **kind):
                    wanted, pipeline = read(loaded(name)), loaded(name)
                    said = group_offload.checked({"offload_to_disk_path": "layers", **kind}, str(self.folder.parent))
                    group_offload.put_on(pipeline, "cpu", said)
                    self.assertTrue(any(self.folder.rglob("*.safetensors")))
                    self.assert_same(read(pipeline), wanted)

    def test_a_second_model_reads_nothing_of_the_first_and_neither_leaves_files(self) -> None:
        first, second = loaded(CLASSES[0]), loaded(CLASSES[0])
        for weight in second.text_encoder.parameters():
            weight.data *= 1.5
        wanted = read(second)
        for pipeline in (first, second):
            group_offload.put_on(pipeline, "cpu", {"offload_to_disk_path": str(self.folder)})
        self.assert_same(read(second), wanted)
        self.assertEqual(len(os.listdir(self.folder)), 2)
        del first, second, pipeline
        gc.collect()
        self.assertEqual(os.listdir(self.folder), [])

    def test_what_a_killed_process_left_goes_and_what_one_uses_stays(self) -> None:
        code = (
            "import os, sys; from pathlib import Path; from localai_diffusers.loading.placing import group_offload\n"
            "class Pipeline: pass\n"
            "kept = Pipeline(); group_offload._own_folder(Path(sys.argv[1]), kept); "
        )
        for ending, left in (("os._exit(0)", 1), ("group_offload.discard(); os._exit(0)", 0)):
            subprocess.run([sys.executable, "-c", code + ending, str(self.folder)], check=True, cwd=HOME)
            self.assertEqual(len(os.listdir(self.folder)), left, ending)
        used = loaded(CLASSES[0])
        subprocess.run([sys.executable, "-c", code + "os._exit(0)", str(self.folder)], check=True, cwd=HOME)
        group_offload.put_on(used, "cpu", {"offload_to_disk_path": str(self.folder)})
        (own,) = os.listdir(self.folder)
        subprocess.run([sys.executable, "-c", code + "os._exit(0)", str(self.folder)], check=True, cwd=HOME)
        self.assertIn(own, os.listdir(self.folder))

    def test_weights_that_two_layers_share_are_told(self) -> None:
        (note,) = group_offload.put_on(loaded(CLASSES[1]), "cpu", {"offload_to_disk_path": str(self.folder)})
        self.assertRegex(note, "text_encoder_3 share weights.*wait on the host")

    def test_a_folder_that_cannot_be_written_is_refused(self) -> None:
        Path(self.folder).write_bytes(b"a file")
        for named, told in (("layers", "cannot be written"), ("../else", "leaves the models folder")):
            with self.assertRaisesRegex(LoadError, f"option group_offload: offload_to_disk_path '{named}' {told}"):
                group_offload.checked({"offload_to_disk_path": named}, str(self.folder.parent))


if __name__ == "__main__":
    unittest.main()
