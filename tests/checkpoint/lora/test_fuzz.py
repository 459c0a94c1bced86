# SPDX-License-Identifier: MIT
"""Whatever a header holds: each key is used, known to be idle, or told, and no file is a success with a key unused."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localai_diffusers.checkpoint.lora import file, names
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.adapters import lora
from localai_diffusers.loading.adapters.lora import Lora
from tests import lora_files
from tests.adapter_files import save

SHAPE = (8, 6)
LAYERS = [f"blocks.{block}.{part}" for block in range(3) for part in ("attn1.to_q", "attn1.to_out.0", "ffn.net.2")]
MODEL = {
    "transformer": {layer: names.Layer(SHAPE) for layer in LAYERS},
    "text_encoder": {"encoder.layers.0.mlp.fc1": names.Layer(SHAPE)},
}
DTYPES = (torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.float8_e4m3fn, torch.bool)
ENDINGS = (
    "lora_down.weight",
    "lora_up.weight",
    "alpha",
    "diff",
    "diff_b",
    "dora_scale",
    "lokr_w1",
    "hada_w1_a",
    "weight",
)


class WanPipeline:
    """A name for the messages."""

    def __call__(self) -> None: ...


@st.composite
def files(draw: Any) -> dict[str, Any]:
    """A sound LoRA of some kinds, then up to six changes: keys dropped, renamed, reshaped, retyped, made up."""
    torch.manual_seed(draw(st.integers(0, 3)))
    made: dict[str, Any] = {}
    container = draw(st.sampled_from((lora_files.kohya, lora_files.comfy, lora_files.of_diffusers, lora_files.of_peft)))
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=2, unique=True)):
        kind = draw(st.sampled_from(list(lora_files.KINDS.values())))
        described = lora_files.Layer(layer, "transformer", (layer,))
        for ending, piece in kind(torch.randn(SHAPE)).pieces.items():
            made[container(described, ending)] = piece
    for _change in range(draw(st.integers(0, 6))):
        key = draw(st.sampled_from(sorted(made)))
        how = draw(st.sampled_from(("drop", "rename", "reshape", "retype", "make up", "foreign")))
        if how == "drop" and len(made) > 1:
            del made[key]
        elif how == "rename":
            cut = draw(st.integers(0, len(key)))
            made[key[:cut] + draw(st.sampled_from(("", "x", ".", "_", "7", ".0"))) + key[cut + 1 :] or "x"] = made.pop(
                key
            )
        elif how == "reshape":
            made[key] = torch.randn(draw(st.lists(st.integers(1, 9), max_size=4)))
        elif how == "retype":
            made[key] = made[key].to(draw(st.sampled_from(DTYPES)))
        elif how == "make up":
            made[f"{key.rpartition('.')[0]}.{draw(st.sampled_from(ENDINGS))}"] = torch.randn(SHAPE)
        else:
            made[draw(st.sampled_from(("bundle_emb.x", "step", "unet.a.oft_blocks", "logit_scale", "x.a1.weight")))] = (
                torch.ones(1)
            )
    return made


def told_of(keys: set[str], one: Lora, notes: str) -> set[str]:
    """Those of ``keys`` that the notes account for, by the numbers that they say."""
    fit = one.fit
    assert fit is not None
    layers = [*fit.absent, *fit.misfits, *fit.torn, *fit.twice]
    assert not layers or "layers" in notes
    told = {key for layer in layers for key in one.file.sorted.layers[layer].values()}
    assert not fit.unknown or "no effect" in notes
    return keys & (told | set(fit.unknown))


class FuzzTest(unittest.TestCase):
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(files())
    def test_each_key_is_used_idle_or_told(self, tensors: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = save(tensors, Path(folder) / "x.safetensors")
            try:
                one = lora._fitted(Lora("0", file.read(path, False), 1.0, "x"), WanPipeline, MODEL)
            except LoadError as error:
                self.assertTrue(str(error))
                return
            fit, keys = one.fit, set(tensors)
            used = {key for change in fit.changes for key in change.pieces.values()}
            rest = keys - used - set(one.file.sorted.idle)
            self.assertEqual(told_of(rest, one, "; ".join(one.notes)), rest)
            self.assertTrue(used)
            self.apply(one)

    def apply(self, one: Lora) -> None:
        """What fits can be put on: each module that a change names is another afterwards."""
        pipeline = torch.nn.Module()
        pipeline.components = {"transformer": _model(MODEL["transformer"]), "text_encoder": torch.nn.Module()}
        pipeline.load_lora_weights = None
        pipeline.transformer = pipeline.components["transformer"]
        before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
        lora.apply(pipeline, [one])
        for change in one.fit.changes:
            for target in change.place.targets:
                module = pipeline.transformer.get_submodule(target)
                weight = lora_files.weight_of(pipeline, "transformer", target)
                own = getattr(module, "base_layer", module)
                same = torch.equal(weight, before[f"{target}.weight"])
                same_bias = torch.equal(own.bias, before[f"{target}.bias"])
                numbers = [value for value in one.file.tensors(set(change.pieces.values())).values()]
                empty = any(not value.float().any() for value in numbers) or not weight.isfinite().all()
                self.assertFalse(same and same_bias and not empty, f"{change} changed nothing")


def _model(layers: Any) -> Any:
    """Linear layers by dotted names."""
    root = torch.nn.Module()
    for name in layers:
        parent = root
        *path, last = name.split(".")
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, torch.nn.Linear(SHAPE[1], SHAPE[0]))
    return root.requires_grad_(False)


if __name__ == "__main__":
    unittest.main()
