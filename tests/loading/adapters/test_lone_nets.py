# SPDX-License-Identifier: MIT
"""A ControlNet or T2I-Adapter of one file, under any prefix and in its authors' names: its class follows its keys, and
it draws what its folder draws."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch

from localai_diffusers.errors import LoadError
from tests import adapter_files
from tests.adapter_files import difference, weights_of
from tests.single_file import _swapped, _unet
from tests.support import generate, load
from tests.zoo import checkpoint

# A U-Net's ControlNet has names of its own beside those of the U-Net, here in the layout of its authors.
_CONDITIONING = {"controlnet_cond_embedding.conv_in": "input_hint_block.0"}


def ldm_controlnet(own: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A ControlNet in the names of its authors: the U-Net's way down, zero convolutions, and what reads the picture."""
    rename, blocks = _unet(config), len(config["conditioning_embedding_out_channels"]) - 1
    made = {}
    for key, tensor in own.items():
        key = re.sub(r"^controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0.", key)
        key = re.sub(r"^controlnet_mid_block\.", "middle_block_out.0.", key)
        key = re.sub(r"^controlnet_cond_embedding\.conv_out", f"input_hint_block.{4 * blocks + 2}", key)
        key = re.sub(
            r"^controlnet_cond_embedding\.blocks\.(\d+)", lambda at: f"input_hint_block.{2 * int(at[1]) + 2}", key
        )
        key = _swapped(key, _CONDITIONING)
        made[key if key.startswith(("zero_convs", "middle_block_out", "input_hint_block")) else rename(key)] = tensor
    return made


class LoneNetTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="lone-net-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        adapter_files.controlnet("StableDiffusionControlNetPipeline", cls.folder / "sd")
        from PIL import Image

        cls.control = cls.folder / "control.png"
        Image.effect_noise((32, 32), 90).convert("RGB").save(cls.control)

    def model(self, net: str | Path, model: str = "StableDiffusionPipeline", *options: str) -> Any:
        return load(checkpoint(model), ModelPath=str(self.folder), ControlNet=str(net), Options=list(options))

    def picture(self, model: Any, side: int = 32) -> Any:
        return generate(model, "a cat", src=str(self.control), width=side, height=side, step=2, seed=1)[0]

    def test_a_controlnet_under_any_prefix_without_a_config(self) -> None:
        own, right = weights_of(self.folder / "sd"), self.picture(self.model("sd"))
        for prefix in ("", "controlnet.", "control_model.", "module."):
            adapter_files.save({prefix + key: tensor for key, tensor in own.items()}, self.folder / "net.safetensors")
            model = self.model("net.safetensors")
            self.assertEqual((difference(self.picture(model), right), model.notes), (0, ()), prefix)

    def test_a_controlnet_in_its_authors_names(self) -> None:
        from diffusers import ControlNetModel, UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(checkpoint("StableDiffusionPipeline") / "unet")
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 24, 32))
        own = {key: torch.randn_like(tensor) * 0.1 for key, tensor in net.state_dict().items()}
        net.load_state_dict(own)
        net.save_pretrained(self.folder / "four")
        right = self.picture(self.model("four"))
        original = ldm_controlnet(own, net.config)
        for prefix in ("", "control_model.", "controlnet."):
            adapter_files.save(
                {prefix + key: tensor for key, tensor in original.items()}, self.folder / "ldm.safetensors"
            )
            model = self.model("ldm.safetensors")
            self.assertEqual((difference(self.picture(model), right), model.notes), (0, ()), prefix)

    def test_a_union_controlnet_is_told_by_its_keys(self) -> None:
        named = checkpoint("StableDiffusionXLControlNetUnionPipeline") / "controlnet"
        adapter_files.save(weights_of(named), self.folder / "union.safetensors")
        with self.assertRaisesRegex(LoadError, "as a ControlNetUnionModel it lacks .*controlnet_config:"):
            self.model("union.safetensors", "StableDiffusionXLPipeline")  # its heads are not to be seen in a file
        model = self.model("union.safetensors", "StableDiffusionXLPipeline", f"controlnet_config:{named}")
        self.assertEqual(type(model.pipeline.controlnet).__name__, "ControlNetUnionModel")

    def test_a_foreign_key_in_it_is_a_note(self) -> None:
        own = weights_of(self.folder / "sd")
        adapter_files.save(own | {"surprise.weight": torch.zeros(2)}, self.folder / "net.safetensors")
        notes = self.model("net.safetensors").notes
        self.assertIn(f"net.safetensors: 1 of {len(own) + 1} keys are not of this model", notes[0])

    def test_one_that_lacks_a_tensor_or_is_none_is_refused_with_the_way_out(self) -> None:
        own = weights_of(self.folder / "sd")
        del own["controlnet_mid_block.weight"]
        adapter_files.save(own, self.folder / "less.safetensors")
        adapter_files.save(weights_of(checkpoint("FluxPipeline") / "vae"), self.folder / "vae.safetensors")
        for name in ("less", "vae"):
            with self.assertRaisesRegex(LoadError, f"{name}.safetensors' is no ControlNet .*controlnet_config:"):
                self.model(f"{name}.safetensors")

    def test_a_t2i_adapter_in_both_layouts(self) -> None:
        named = checkpoint("StableDiffusionAdapterPipeline") / "adapter"
        own, right = weights_of(named), self.picture(self.model(named), 64)
        row = json.loads((named / "config.json").read_text())["num_res_blocks"]
        for prefix in ("", "module."):
            flat = {}
            for key, tensor in own.items():
                key = key.removeprefix("adapter.")
                key = re.sub(r"body\.(\d+)\.resnets\.(\d+)", lambda at: f"body.{int(at[1]) * row + int(at[2])}", key)
                key = re.sub(r"body\.(\d+)\.in_conv", lambda at: f"body.{int(at[1]) * row}.in_conv", key)
                flat[prefix + key] = tensor
            for tensors in (flat, {prefix + key: tensor for key, tensor in own.items()}):
                adapter_files.save(tensors, self.folder / "t2i.safetensors")
                model = self.model("t2i.safetensors")
                self.assertEqual(type(model.pipeline.adapter).__name__, "T2IAdapter")
                self.assertEqual(difference(self.picture(model, 64), right), 0, prefix)


if __name__ == "__main__":
    unittest.main()
