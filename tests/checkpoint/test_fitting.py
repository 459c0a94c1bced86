# SPDX-License-Identifier: MIT
"""A file fills a component of any family, under any name, in any container; and a file that is changed in any way never
fills one in silence."""

from __future__ import annotations

import functools
import random
import re
import shutil
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from localai_diffusers.checkpoint import component_file, contents, fitting, headers, layouts
from localai_diffusers.checkpoint.contents import Contents
from localai_diffusers.checkpoint.fitting import Fit, Target
from localai_diffusers.checkpoint.model_files import indexed_facts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.components import component_class
from tests import adapter_files
from tests.adapter_files import weights_of
from tests.zoo import checkpoint

# Pipeline -> the components of it that are tried: with converters of diffusers' and without, of both libraries.
FAMILIES = {
    "StableDiffusionPipeline": ("unet", "vae", "text_encoder"),
    "StableDiffusionXLPipeline": ("text_encoder_2",),
    "FluxPipeline": ("transformer", "text_encoder_2"),
    "StableDiffusion3Pipeline": ("transformer", "vae"),
    "WanPipeline": ("transformer", "text_encoder"),
    "QwenImagePipeline": ("transformer", "text_encoder"),
    "SanaPipeline": ("transformer", "vae"),
    "LTXPipeline": ("transformer",),
}
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "first_stage_model.", "text_encoders.x.transformer.")


@functools.cache
def target(pipeline: str, component: str) -> Target:
    folder = checkpoint(pipeline)
    cls = component_class(*indexed_facts(folder).components[component])
    assert cls is not None
    return fitting.target(component, cls, str(folder), component)


def scaled(own: dict[str, Any], suffix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each matrix in 8-bit floats with its scale beside it, and by hand what it stands for."""
    stored, plain = {}, {}
    for key, tensor in own.items():
        stored[key], plain[key] = tensor, tensor
        if tensor.ndim == 2 and key.endswith(".weight"):
            scale = tensor.float().abs().max() / 448 + 1e-12
            stored[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            stored[key.removesuffix("weight") + suffix] = scale
            plain[key] = stored[key].float() * scale
    return stored, plain


class FamilyTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fitting-test-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def every(self) -> Iterator[tuple[Target, dict[str, Any]]]:
        for pipeline, components in FAMILIES.items():
            for component in components:
                yield target(pipeline, component), weights_of(checkpoint(pipeline) / component)

    def fit(self, wanted: Target, tensors: dict[str, Any], form: str = headers.SAFETENSORS) -> Fit:
        path = self.folder / "blob"
        if form == headers.SAFETENSORS:
            adapter_files.save(tensors, path)
        elif form == headers.GGUF:
            adapter_files.gguf(tensors, path)
        else:
            torch.save(tensors, path)
        return component_file.fitted(wanted, component_file.contents_of([path], allow_pickle=True), "x")

    def assert_filled(self, fit: Fit, plain: dict[str, Any], label: Any, close: float = 0) -> None:
        """Each weight has its value, whatever the library calls it, and no key is left over."""
        state = fit.state(torch.float32)
        core = {layouts.core(key): tensor for key, tensor in plain.items()}
        for name, tensor in state.items():
            right = core[layouts.core(name)].float()
            off = (tensor.float() - right).abs().max() if tensor.numel() else 0
            self.assertLessEqual(off, close * (right.abs().max() + 1e-6) if close else 0, (label, name))
        self.assertEqual(fitting.account_of(fit.contents, [fit]).left, (), label)

    def test_any_prefix_in_any_family(self) -> None:
        for wanted, own in self.every():
            for prefix in PREFIXES:
                fit = self.fit(wanted, {prefix + key: tensor for key, tensor in own.items()})
                self.assert_filled(fit, own, (wanted.cls.__name__, prefix))

    def test_any_container_in_any_family(self) -> None:
        for wanted, own in self.every():
            self.assert_filled(self.fit(wanted, own, headers.PICKLE), own, wanted.cls.__name__)
            fit = self.fit(wanted, own, headers.GGUF)
            self.assert_filled(fit, own, wanted.cls.__name__, close=0.02)

    def test_scaled_8_bit_floats_in_any_family(self) -> None:
        for wanted, own in self.every():
            for suffix in ("scale_weight", "weight_scale"):
                stored, plain = scaled(own, suffix)
                fit = self.fit(wanted, {f"model.diffusion_model.{key}": tensor for key, tensor in stored.items()})
                self.assert_filled(fit, plain, (wanted.cls.__name__, suffix))


class OriginalTest(unittest.TestCase):
    """Names of the models' authors, which the libraries' converters know, and projections that they fuse."""

    def test_flux_in_its_authors_names(self) -> None:
        from diffusers import FluxTransformer2DModel

        config = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
        wanted = fitting.of_config("transformer", FluxTransformer2DModel, config)
        own = {name: torch.empty(shape, device="meta") for name, shape in wanted.shapes.items()}
        original = flux_original(own, config)
        for prefix in ("", "model.diffusion_model.", "diffusion_model."):
            tensors = {
                prefix + key: headers.TensorInfo(tuple(tensor.shape), "F8_E4M3") for key, tensor in original.items()
            }
            scales = {f"{prefix}{key.removesuffix('weight')}scale_weight" for key in original if key.endswith("weight")}
            tensors |= {key: headers.TensorInfo((), "F32") for key in scales}
            found = contents.contents([headers.Header(Path("flux"), headers.SAFETENSORS, tensors)])
            fit = component_file.fitted(wanted, found, "x")
            self.assertEqual(fit.keys, tensors.keys())

    def test_clip_in_open_clips_layout(self) -> None:
        wanted = target("StableDiffusionXLPipeline", "text_encoder_2")
        own = {layouts.core(key): tensor for key, tensor in xl_encoder().items()}
        with tempfile.TemporaryDirectory() as folder:
            for prefix in ("", "conditioner.embedders.1.model.", "cond_stage_model.model."):
                path = adapter_files.save(
                    {prefix + key: tensor for key, tensor in open_clip(own).items()}, Path(folder) / "clip.safetensors"
                )
                fit = component_file.fitted(wanted, component_file.contents_of([path], False), "x")
                for name, tensor in fit.state(torch.float32).items():
                    self.assertTrue(torch.equal(tensor, own[layouts.core(name)]), (prefix, name))
                self.assertEqual((fit.made, fitting.account_of(fit.contents, [fit]).left), (frozenset(), ()))


class LlamaCppTest(unittest.TestCase):
    """Text encoders in the names that llama.cpp gives them."""

    T5 = {
        r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.": r"enc.blk.\1.attn_\2.",
        r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.": r"enc.blk.\1.attn_rel_b.",
        r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.": r"enc.blk.\1.attn_norm.",
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.": r"enc.blk.\1.ffn_gate.",
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.": r"enc.blk.\1.ffn_up.",
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi\.": r"enc.blk.\1.ffn_up.",
        r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.": r"enc.blk.\1.ffn_down.",
        r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.": r"enc.blk.\1.ffn_norm.",
        r"encoder\.final_layer_norm\.": "enc.output_norm.",
        r"(shared|encoder\.embed_tokens)\.": "token_embd.",
    }
    QWEN = {
        r"(?:model\.)?layers\.(\d+)\.self_attn\.([qkv])_proj\.": r"blk.\1.attn_\2.",
        r"(?:model\.)?layers\.(\d+)\.self_attn\.o_proj\.": r"blk.\1.attn_output.",
        r"(?:model\.)?layers\.(\d+)\.self_attn\.([qk])_norm\.": r"blk.\1.attn_\2_norm.",
        r"(?:model\.)?layers\.(\d+)\.mlp\.(gate|up|down)_proj\.": r"blk.\1.ffn_\2.",
        r"(?:model\.)?layers\.(\d+)\.input_layernorm\.": r"blk.\1.attn_norm.",
        r"(?:model\.)?layers\.(\d+)\.post_attention_layernorm\.": r"blk.\1.ffn_norm.",
        r"(?:model\.)?embed_tokens\.": "token_embd.",
        r"(?:model\.)?norm\.": "output_norm.",
        r"lm_head\.": "output.",
    }

    def test_t5_umt5_and_qwen(self) -> None:
        kinds = (
            ("FluxPipeline", "text_encoder_2", "t5encoder", self.T5),
            ("WanPipeline", "text_encoder", "t5", self.T5),
        )
        kinds += (("ZImagePipeline", "text_encoder", "qwen3", self.QWEN),)
        for pipeline, component, architecture, names in kinds:
            own = weights_of(checkpoint(pipeline) / component)
            named = {}
            for key, tensor in own.items():
                found = [re.sub(f"^{pattern}", name, key) for pattern, name in names.items() if re.match(pattern, key)]
                self.assertTrue(found, key)
                named[found[0]] = tensor
            with tempfile.TemporaryDirectory() as folder:
                path = adapter_files.gguf(named, Path(folder) / "text.gguf", architecture)
                fit = component_file.fitted(target(pipeline, component), component_file.contents_of([path], False), "x")
                state = fit.state(torch.float32)
            core = {layouts.core(key): tensor for key, tensor in own.items()}
            core.setdefault("shared.weight", core.get("encoder.embed_tokens.weight"))
            for name, tensor in state.items():
                right = core[layouts.core(name)].float()
                self.assertLess((tensor - right).abs().max(), 0.02 * right.abs().max() + 1e-6, (pipeline, name))
            self.assertEqual(fitting.account_of(fit.contents, [fit]).left, ())


def xl_encoder() -> dict[str, Any]:
    return weights_of(checkpoint("StableDiffusionXLPipeline") / "text_encoder_2")


def open_clip(own: dict[str, Any]) -> dict[str, Any]:
    """OpenCLIP's names for CLIP's weights: query, key and value in one matrix, the projection turned."""
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names |= {"self_attn.out_proj": "attn.out_proj", "encoder.layers": "transformer.resblocks"}
    made = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
        "text_projection": own["text_projection.weight"].T,
        "logit_scale": torch.tensor(1.0),
    }
    for key, tensor in own.items():
        if key.startswith("encoder.layers") and "_proj." not in key.replace("out_proj", ""):
            made[functools.reduce(lambda name, pair: name.replace(*pair), names.items(), key)] = tensor
        elif "q_proj" in key:
            place = key.replace("encoder.layers", "transformer.resblocks").replace("self_attn.q_proj.", "attn.in_proj_")
            made[place] = torch.cat([own[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])
    return made


def flux_original(own: dict[str, Any], config: Any) -> dict[str, Any]:
    """A Flux transformer under the names of its authors: the inverse of diffusers' converter, by trial.

    Each of the converter's inputs is found by its name from the outputs that it reaches.
    """
    made: dict[str, Any] = {}
    simple = {
        "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
        "txt_in": "context_embedder",
        "img_in": "x_embedder",
        "final_layer.linear": "proj_out",
    }
    for name, source in simple.items():
        made |= {f"{name}.{end}": own[f"{source}.{end}"] for end in ("weight", "bias") if f"{source}.{end}" in own}
    for end in ("weight", "bias"):
        scale, shift = own[f"norm_out.linear.{end}"].chunk(2)
        made[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat([shift, scale])
    for number in range(config["num_layers"]):
        a, b = f"transformer_blocks.{number}", f"double_blocks.{number}"
        for end in ("weight", "bias"):
            made[f"{b}.img_mod.lin.{end}"] = own[f"{a}.norm1.linear.{end}"]
            made[f"{b}.txt_mod.lin.{end}"] = own[f"{a}.norm1_context.linear.{end}"]
            made[f"{b}.img_attn.qkv.{end}"] = torch.cat([own[f"{a}.attn.to_{part}.{end}"] for part in "qkv"])
            made[f"{b}.txt_attn.qkv.{end}"] = torch.cat([own[f"{a}.attn.add_{part}_proj.{end}"] for part in "qkv"])
            made[f"{b}.img_attn.proj.{end}"] = own[f"{a}.attn.to_out.0.{end}"]
            made[f"{b}.txt_attn.proj.{end}"] = own[f"{a}.attn.to_add_out.{end}"]
            for place, layer in (("0", "net.0.proj"), ("2", "net.2")):
                made[f"{b}.img_mlp.{place}.{end}"] = own[f"{a}.ff.{layer}.{end}"]
                made[f"{b}.txt_mlp.{place}.{end}"] = own[f"{a}.ff_context.{layer}.{end}"]
        for kind, before in (("img", ""), ("txt", "added_")):
            made[f"{b}.{kind}_attn.norm.query_norm.scale"] = own[f"{a}.attn.norm_{before}q.weight"]
            made[f"{b}.{kind}_attn.norm.key_norm.scale"] = own[f"{a}.attn.norm_{before}k.weight"]
    for number in range(config["num_single_layers"]):
        a, b = f"single_transformer_blocks.{number}", f"single_blocks.{number}"
        for end in ("weight", "bias"):
            made[f"{b}.modulation.lin.{end}"] = own[f"{a}.norm.linear.{end}"]
            parts = [own[f"{a}.attn.to_{part}.{end}"] for part in "qkv"]
            made[f"{b}.linear1.{end}"] = torch.cat([*parts, own[f"{a}.proj_mlp.{end}"]])
            made[f"{b}.linear2.{end}"] = own[f"{a}.proj_out.{end}"]
        made[f"{b}.norm.query_norm.scale"] = own[f"{a}.attn.norm_q.weight"]
        made[f"{b}.norm.key_norm.scale"] = own[f"{a}.attn.norm_k.weight"]
    return made


# --- the fuzz --------------------------------------------------------------------------------------------------------

FUZZED = (("StableDiffusionPipeline", "unet"), ("StableDiffusionPipeline", "vae"), ("FluxPipeline", "transformer"))
FUZZED += (("StableDiffusionPipeline", "text_encoder"),)
CHANGES = ("drop", "rename", "reshape", "retype", "add", "swap")


def described(wanted: Target) -> Contents:
    """A file of the component by its header alone: no test of this kind reads a weight."""
    tensors = {name: headers.TensorInfo(shape, "F16", 2) for name, shape in wanted.shapes.items()}
    header = headers.Header(Path("fuzzed.safetensors"), headers.SAFETENSORS, tensors)
    return contents.contents([header])


def changed(found: Contents, changes: list[str], seed: int) -> Contents:
    """The file with some of its keys dropped, renamed, reshaped, retyped, swapped, or with others beside them."""
    tensors, draw = dict(found.headers[0].tensors), random.Random(seed)
    for change in changes:
        key = draw.choice(sorted(tensors))
        info = tensors.pop(key)
        if change == "rename":
            tensors[draw.choice((f"x.{key}", f"{key}.x", key.replace(".", "_"), key[1:] or "x"))] = info
        elif change == "reshape":
            shape = (*info.shape[:-1], (info.shape[-1] if info.shape else 1) + 1)
            tensors[key] = headers.TensorInfo(draw.choice((shape, info.shape[:-1], (2, *info.shape))), info.dtype, 2)
        elif change == "retype":
            tensors[key] = headers.TensorInfo(info.shape, draw.choice(("F32", "BF16", "F8_E4M3", "F64")), 2)
        elif change == "add":
            tensors |= {key: info, draw.choice((f"{key}_extra", "surprise", f"lora.{key}")): info}
        elif change == "swap":
            other = draw.choice(sorted(tensors))
            tensors |= {key: tensors[other], other: info}
    return contents.contents([headers.Header(Path("fuzzed.safetensors"), headers.SAFETENSORS, tensors)])


class FuzzTest(unittest.TestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(FUZZED), st.lists(st.sampled_from(CHANGES), min_size=1, max_size=4), st.integers(0, 10**6))
    def test_no_change_fills_a_component_in_silence(
        self, which: tuple[str, str], changes: list[str], seed: int
    ) -> None:
        wanted = target(*which)
        found = changed(described(wanted), changes, seed)
        try:
            fit = component_file.fitted(wanted, found, "x")
        except LoadError:
            return
        account = fitting.account_of(found, [fit])
        told = account.consumed | account.idle.keys() | set(account.left)
        self.assertEqual(told, set(found.keys))
        for name, shape in wanted.shapes.items():
            sources = [found.entries[key] for key in fit.used if found.entries[key].shape == shape]
            self.assertTrue(name in fit.filled and sources, (name, changes, seed))
        self.assertGreaterEqual(len(account.consumed), len(wanted.shapes))  # one key each: none was used twice


if __name__ == "__main__":
    unittest.main()
