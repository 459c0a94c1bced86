# SPDX-License-Identifier: MIT
"""LoRAs of each kind on each family in each container: every weight of the model is what it should be, by hand."""

from __future__ import annotations

import tempfile
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from localai_diffusers.checkpoint.lora import file
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.adapters import lora
from localai_diffusers.loading.adapters.lora import Lora
from tests import lora_files
from tests.lora_files import KINDS, Container, Layer
from tests.support import SHAPES_MODEL

TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.self_attn.out_proj", "encoder.layers.0.mlp.fc1")


def named(component: str, *targets: str, prefix: str = "") -> list[Layer]:
    """Layers that are called what diffusers calls their modules."""
    return [Layer(prefix + target, component, (target,)) for target in targets]


def others(component: str, parent: str, names: dict[str, str], swapped: bool = False) -> list[Layer]:
    """Layers by the original code's names -> the modules behind ``parent``."""
    return [
        Layer(name, component, tuple(parent + t for t in targets.split()), swapped) for name, targets in names.items()
    ]


UNET = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
)
LDM_UNET = {
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "middle_block.1.transformer_blocks.0.attn2.to_out.0": "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "input_blocks.1.0.in_layers.2": "down_blocks.0.resnets.0.conv1",
    "time_embed.0": "time_embedding.linear_1",
    "out.2": "conv_out",
}
DIT, MIDDLE = "transformer_blocks.0.", "mid_block.attentions.0.transformer_blocks.0"
# Family -> the zoo's pipeline (or the shapes model) and its layers by diffusers' names, and by the original code's.
FAMILIES: dict[str, tuple[Any, list[Layer], list[Layer]]] = {
    "SD": (
        SHAPES_MODEL,
        [
            *named("unet", *UNET, "conv_in", "mid_block.resnets.0.conv1"),
            *named("text_encoder", *TEXT, prefix="text_model."),
        ],
        [*others("unet", "", LDM_UNET), *named("text_encoder", *TEXT, prefix="text_model.")],
    ),
    "SDXL": (
        "StableDiffusionXLPipeline",
        [
            *named("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_v", "add_embedding.linear_1"),
            *named("text_encoder", *TEXT, prefix="text_model."),
            *named("text_encoder_2", "text_model.encoder.layers.0.self_attn.k_proj", "text_projection"),
        ],
        [
            *others(
                "unet",
                "",
                {
                    "middle_block.1.transformer_blocks.0.attn1.to_v": f"{MIDDLE}.attn1.to_v",
                    "label_emb.0.0": "add_embedding.linear_1",
                },
            ),
            *named("text_encoder", *TEXT[:1], prefix="text_model."),
            *named("text_encoder_2", "text_model.encoder.layers.0.self_attn.k_proj"),
        ],
    ),
    "Flux": (
        "FluxPipeline",
        [
            *named(
                "transformer", DIT + "attn.to_q", DIT + "ff.net.2", "single_transformer_blocks.0.proj_out", "x_embedder"
            ),
            *named("text_encoder", *TEXT[:2], prefix="text_model."),
        ],
        [
            *others(
                "transformer",
                "",
                {
                    "double_blocks.0.img_attn.qkv": f"{DIT}attn.to_q {DIT}attn.to_k {DIT}attn.to_v",
                    "double_blocks.0.txt_attn.qkv": f"{DIT}attn.add_q_proj {DIT}attn.add_k_proj {DIT}attn.add_v_proj",
                    "double_blocks.0.img_mlp.0": f"{DIT}ff.net.0.proj",
                    "double_blocks.0.txt_attn.proj": f"{DIT}attn.to_add_out",
                    "single_blocks.0.linear1": " ".join(
                        f"single_transformer_blocks.0.{part}"
                        for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
                    ),
                    "single_blocks.0.modulation.lin": "single_transformer_blocks.0.norm.linear",
                    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
                },
            ),
            *others("transformer", "", {"final_layer.adaLN_modulation.1": "norm_out.linear"}, swapped=True),
            *named("text_encoder", *TEXT[:2], prefix="text_model."),
        ],
    ),
    "SD3": (
        "StableDiffusion3Pipeline",
        [
            *named("transformer", DIT + "attn.to_k", DIT + "attn.to_add_out", DIT + "norm1.linear"),
            *named("text_encoder_2", "text_model.encoder.layers.0.mlp.fc2"),
            *named("text_encoder_3", "encoder.block.0.layer.0.SelfAttention.q"),
        ],
        [
            *others(
                "transformer",
                DIT,
                {
                    "joint_blocks.0.x_block.attn.qkv": "attn.to_q attn.to_k attn.to_v",
                    "joint_blocks.0.context_block.attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
                    "joint_blocks.0.x_block.mlp.fc1": "ff.net.0.proj",
                },
            ),
            *others("transformer", "", {"final_layer.adaLN_modulation.1": "norm_out.linear"}, swapped=True),
            *named("text_encoder", "text_model.encoder.layers.0.mlp.fc2"),
            *named("text_encoder_3", "encoder.block.0.layer.0.SelfAttention.q"),
        ],
    ),
    "Wan": (
        "WanPipeline",
        named("transformer", "blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.0.ffn.net.0.proj"),
        others(
            "transformer",
            "",
            {
                "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
                "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
                "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
                "time_projection.1": "condition_embedder.time_proj",
                "head.head": "proj_out",
            },
        ),
    ),
    "LTX": (
        "LTXPipeline",
        named("transformer", DIT + "attn1.to_q", DIT + "attn2.to_out.0", DIT + "ff.net.2", "proj_in"),
        others(
            "transformer",
            "",
            {
                "transformer_blocks.0.attn1.to_q": DIT + "attn1.to_q",
                "patchify_proj": "proj_in",
                "adaln_single.linear": "time_embed.linear",
            },
        ),
    ),
    "Qwen": (
        "QwenImagePipeline",
        named("transformer", DIT + "attn.to_q", DIT + "attn.add_k_proj", DIT + "img_mod.1", DIT + "txt_mlp.net.0.proj"),
        named("transformer", DIT + "attn.to_out.0", "img_in"),
    ),
}


class Cells(unittest.TestCase):
    """One pipeline, its weights compared after each file."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix="lora-kinds-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.pipelines: dict[Any, Any] = {}

    def pipeline(self, model: Any) -> Any:
        if model not in self.pipelines:
            self.pipelines[model] = lora_files.one_of(model)
        return self.pipelines[model]

    def put(self, pipeline: Any, path: Path, scale: float = 1.0, **more: Any) -> list[str]:
        one = Lora("0_test", file.read(path, False), scale, "test", **more)
        return lora.apply(pipeline, [one])

    def check(self, model: Any, layers: Sequence[Layer], kind: Any, container: Container, scale: float) -> None:
        plain = self.pipeline(model)
        right = lora_files.write(self.folder / "lora.safetensors", plain, layers, kind, container)(scale)
        pipeline = lora_files.twin(plain)
        self.assertEqual(self.put(pipeline, self.folder / "lora.safetensors", scale), [])
        for (component, target), wanted in right.items():
            before = lora_files.weight_of(plain, component, target)
            got = lora_files.weight_of(pipeline, component, target)
            effect = (wanted - before).abs().max()
            self.assertGreater(effect, 1e-3, target)
            self.assertLess((got - wanted).abs().max(), 1e-4 * effect + 1e-5, f"{component}.{target}")
        self.assertEqual(self.touched(plain, pipeline) - {f"{c}.{t}" for c, t in right}, set())

    def touched(self, plain: Any, pipeline: Any) -> set[str]:
        """Every module whose weight is another than before, or that PEFT has put a layer around."""
        found = set()
        for component, model in plain.components.items():
            for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
                if isinstance(getattr(module, "weight", None), torch.Tensor):
                    after = getattr(pipeline, component).get_submodule(name)
                    if hasattr(after, "base_layer") or not torch.equal(after.weight, module.weight):
                        found.add(f"{component}.{name}")
        return found


class KindsTest(Cells):
    def family(self, name: str) -> None:
        model, own, original = FAMILIES[name]
        denoiser = [layer for layer in own if not layer.component.startswith("text")]
        cells = [(own, lora_files.kohya), (own, lora_files.of_diffusers), (denoiser, lora_files.of_peft)]
        cells += [(denoiser, lora_files.bare), (original, lora_files.kohya), (original, lora_files.comfy)]
        for kind in KINDS.values():
            for layers, container in cells:
                scale = 1.0 if container is lora_files.kohya else 0.6
                with self.subTest(kind=kind.__name__, container=container.__name__, original=layers is original):
                    self.check(model, layers, kind, container, scale)

    def test_a_convolution_in_three_parts(self) -> None:
        layers = named("unet", "mid_block.resnets.0.conv1", "down_blocks.0.resnets.0.conv2")
        for container in (lora_files.kohya, lora_files.comfy):
            self.check(SHAPES_MODEL, layers, lora_files.locon_with_a_middle, container, 0.7)


def _case(name: str) -> Any:
    return lambda self: self.family(name)


for _name in FAMILIES:
    setattr(KindsTest, f"test_{_name.lower()}", _case(_name))


class PeftTest(Cells):
    """Folders as PEFT saves them, against the weights that PEFT merges."""

    def merged(self, config: Any, folder: Path) -> Any:
        """The UNet with an adapter of ``config`` and random numbers in all of it, saved to ``folder``, then merged."""
        from peft import get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(lora_files.twin(self.pipeline(SHAPES_MODEL)).unet, config)
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_", "hada_", "lokr_", "modules_to_save.")):
                scale = 1.0 if "magnitude" in name else 0.3
                parameter.data = parameter.data.abs() + scale * torch.rand_like(parameter)
        model.save_pretrained(folder)
        return model.merge_and_unload()

    def check_config(self, config: Any, scale: float = 1.0) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        right = self.merged(config, folder)
        pipeline = lora_files.twin(self.pipeline(SHAPES_MODEL))
        self.assertEqual(self.put(pipeline, folder / "adapter_model.safetensors", scale), [])
        changed = 0
        for name, module in self.pipeline(SHAPES_MODEL).unet.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                wanted, got = right.get_submodule(name).weight, lora_files.weight_of(pipeline, "unet", name)
                self.assertLess((got - wanted).abs().max(), 1e-4 * wanted.abs().max(), name)
                changed += not torch.equal(wanted, module.weight)
        self.assertGreater(changed, 1)

    def test_alpha_and_rank_patterns_count(self) -> None:
        from peft import LoraConfig

        patterns = {"rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {"mid_block.*to_k": 1, "to_q": 5}}
        self.check_config(LoraConfig(r=4, lora_alpha=7, target_modules=["to_q", "to_k", "conv1"], **patterns))
        self.check_config(LoraConfig(r=4, lora_alpha=7, target_modules=["to_q", "to_k"], use_rslora=True, **patterns))

    def test_dora_counts(self) -> None:
        from peft import LoraConfig

        self.check_config(LoraConfig(r=4, lora_alpha=7, target_modules=["to_q", "proj_in"], use_dora=True))

    def test_loha_and_lokr_count(self) -> None:
        from peft import LoHaConfig, LoKrConfig

        for effective in (False, True):
            targets = ["to_q", "conv1"]
            self.check_config(LoHaConfig(r=3, alpha=5, target_modules=targets, use_effective_conv2d=effective))
            self.check_config(LoKrConfig(r=3, alpha=5, target_modules=targets, use_effective_conv2d=effective))
        self.check_config(LoKrConfig(r=64, alpha=5, target_modules=["to_q"]))
        self.check_config(LoKrConfig(r=2, alpha=5, target_modules=["to_q"], decompose_both=True))

    def test_modules_saved_whole_count(self) -> None:
        from peft import LoraConfig

        config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q"], modules_to_save=["conv_in", "conv_norm_out"])
        self.check_config(config)

    def test_a_method_of_another_sort_is_named(self) -> None:
        from peft import IA3Config

        folder = Path(tempfile.mkdtemp(dir=self.folder))
        with self.assertRaisesRegex(LoadError, "method IA3"):
            self.merged(IA3Config(target_modules=["to_q"], feedforward_modules=[]), folder)
            self.put(lora_files.twin(self.pipeline(SHAPES_MODEL)), folder / "adapter_model.safetensors")

    def test_the_metadata_of_diffusers_counts(self) -> None:
        import diffusers
        from peft import LoraConfig, get_peft_model_state_dict

        pipeline = lora_files.twin(self.pipeline(SHAPES_MODEL))
        config = LoraConfig(r=4, lora_alpha=9, target_modules=["to_q"], init_lora_weights=False)
        pipeline.unet.add_adapter(config)
        layers = get_peft_model_state_dict(pipeline.unet)
        diffusers.StableDiffusionPipeline.save_lora_weights(
            self.folder, layers, weight_name="meta.safetensors", unet_lora_adapter_metadata=config.to_dict()
        )
        other = lora_files.twin(self.pipeline(SHAPES_MODEL))
        self.put(other, self.folder / "meta.safetensors")
        for name in (layer for layer, module in pipeline.unet.named_modules() if hasattr(module, "base_layer")):
            right = lora_files.weight_of(pipeline, "unet", name)
            self.assertLess((lora_files.weight_of(other, "unet", name) - right).abs().max(), 1e-5)


if __name__ == "__main__":
    unittest.main()
