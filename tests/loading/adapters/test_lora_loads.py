# SPDX-License-Identifier: MIT
"""Loads with LoRAs: what does not fit is said or refused while the earlier model still serves, and what fits counts."""

from __future__ import annotations

import importlib.util
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from localai_diffusers.checkpoint.lora import file, names, pieces
from localai_diffusers.checkpoint.lora.file import LoraFile
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import pipelines
from localai_diffusers.loading.adapters import lora
from localai_diffusers.loading.adapters.lora import Lora
from localai_diffusers.settings import Settings
from tests import adapter_files, lora_files, single_file
from tests.support import SHAPES_MODEL, Backend, FolderCase, load, new_job, spec_of
from tests.zoo import checkpoint

Q, K = (f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{name}" for name in "qk")


def pair(name: str, rows: int = 80, columns: int = 80, down: str = "lora_A", up: str = "lora_B") -> dict[str, Any]:
    """A low-rank pair under a layer's name."""
    torch.manual_seed(len(name))
    return {f"{name}.{down}.weight": torch.randn(2, columns), f"{name}.{up}.weight": torch.randn(rows, 2)}


class LoadTest(FolderCase):
    def save(self, tensors: dict[str, Any], name: str = "style.safetensors") -> Path:
        return adapter_files.save(tensors, self.folder / name)

    def planned(self, model: Any, path: Path, **fields: Any) -> None:
        """The half of a load that runs while the earlier model serves."""
        with mock.patch(
            "diffusers_dynamic_loader.load_diffusers_pipeline", side_effect=AssertionError("it was loaded")
        ):
            pipelines.prepare(spec_of(model, LoraAdapter=str(path), **fields), Settings(), new_job())

    def notes(self, tensors: dict[str, Any], model: Any = SHAPES_MODEL, **fields: Any) -> str:
        said = load(model, LoraAdapter=str(self.save(tensors)), **fields).notes
        return "; ".join(note for note in said if note.startswith("LoRA"))

    # --- what does not fit

    def test_one_of_another_model_is_refused_before_anything_is_loaded(self) -> None:
        path = self.save(pair(f"unet.{Q}"))
        with self.assertRaisesRegex(LoadError, "style.safetensors.* fits no layer of FluxPipeline"):
            self.planned(checkpoint("FluxPipeline"), path)

    def test_one_file_of_weights_is_judged_by_its_configs(self) -> None:
        model = checkpoint("StableDiffusionPipeline")
        single_file.write_checkpoint(model, self.folder / "model.safetensors")
        single_file.write_configs(model, self.folder / "config")
        options = [f"config:{self.folder / 'config'}"]
        path = self.save(pair("unet.down_blocks.7.x"))
        with self.assertRaisesRegex(LoadError, "fits no layer of StableDiffusionPipeline"):
            self.planned(self.folder / "model.safetensors", path, Options=options)
        fitting = adapter_files.lora(model, self.folder / "fits.safetensors")
        served = load(self.folder / "model.safetensors", LoraAdapter=str(fitting), Options=options)
        self.assertTrue(served.pipeline.unet.peft_config)

    def test_a_refused_lora_leaves_the_model_that_serves(self) -> None:
        path = self.save(pair("unet.down_blocks.7.x"))
        with Backend() as backend:
            self.assertTrue(backend.load(SHAPES_MODEL).success)
            said = backend.load(SHAPES_MODEL, LoraAdapter=str(path))
            self.assertFalse(said.success)
            self.assertIn("fits no layer", said.message)
            backend.image("red circle", width=64, height=64, step=2, seed=1)

    def test_less_than_a_tenth_is_refused_with_the_counts(self) -> None:
        strays = {key: value for n in range(10) for key, value in pair(f"unet.down_blocks.7.x{n}").items()}
        path = self.save(pair(f"unet.{Q}") | strays)
        with self.assertRaisesRegex(LoadError, "fits 1 of 11 layers of StableDiffusionPipeline"):
            self.planned(SHAPES_MODEL, path)

    def test_what_is_not_in_the_model_is_told_with_its_number_and_part(self) -> None:
        strays = pair("unet.down_blocks.7.x") | pair("text_encoder_2.encoder.layers.0.self_attn.q_proj")
        said = self.notes(pair(f"unet.{Q}") | strays)
        self.assertRegex(said, r"LoRA .*: 2 of 3 layers are not in this model, as it has no text_encoder_2 \(")

    def test_another_shape_is_told_with_both(self) -> None:
        said = self.notes(pair(f"unet.{Q}") | pair(f"unet.{K}", columns=96))
        self.assertRegex(said, "1 of 2 layers have another shape than this model's .*80x96, the model's 80x80")

    def test_a_pair_that_lacks_a_half_is_named(self) -> None:
        torn = pair(f"unet.{K}")
        del torn[f"unet.{K}.lora_B.weight"]
        self.assertRegex(self.notes(pair(f"unet.{Q}") | torn), "1 of 2 layers lack a half .*attn1.to_k has no lora_up")

    def test_keys_of_an_unknown_kind_are_told_and_their_kind_refused_by_name(self) -> None:
        self.assertRegex(self.notes(pair(f"unet.{Q}") | {f"unet.{K}.mystery": torch.ones(2)}), "1 keys .*mystery")
        path = self.save({f"lora_unet_{Q.replace('.', '_')}.oft_blocks": torch.ones(4, 20, 20)})
        with self.assertRaisesRegex(LoadError, "OFT"):
            self.planned(SHAPES_MODEL, path)

    def test_files_of_another_sort_are_refused_by_what_they_are(self) -> None:
        for tensors, said in (
            (adapter_files.weights_of(SHAPES_MODEL / "unet"), "whole weights and no LoRA"),
            ({"emb_params": torch.ones(2, 64)}, "textual inversion: give it as"),
            ({"lora_controlnet": torch.ones(1)}, "Control-LoRA"),
            ({"image_proj.proj.weight": torch.ones(4, 4)}, "no LoRA"),
        ):
            with self.assertRaisesRegex(LoadError, said):
                self.planned(SHAPES_MODEL, self.save(tensors))

    def test_whole_numbers_are_no_weights(self) -> None:
        odd = {key: value.to(torch.int8) for key, value in pair(f"unet.{K}").items()}
        self.assertRegex(self.notes(pair(f"unet.{Q}") | odd), "2 keys of an unknown kind")

    def test_embeddings_beside_the_lora_are_told(self) -> None:
        said = self.notes(pair(f"unet.{Q}") | {"bundle_emb.cat.string_to_param.*": torch.ones(2, 64)})
        self.assertRegex(said, "bundle_emb.*textual_inversion:")

    def test_a_projection_said_twice_counts_once(self) -> None:
        block = "layers.0.attention"
        width = 32
        parts = {key: value for n in "qkv" for key, value in pair(f"{block}.to_{n}", width, width).items()}
        found = self.fitted("ZImagePipeline", parts | pair(f"{block}.qkv", 3 * width, width))
        self.assertEqual(found.twice, (f"{block}.qkv",))
        self.assertEqual(len(found.changes), 3)

    def fitted(self, model: str, tensors: dict[str, Any]) -> Any:
        from localai_diffusers.loading.files.skeletons import Loaded

        pipeline = lora_files.one_of(model)
        one = Lora("0", file.read(self.save(tensors), False), 1.0, "x")
        return lora._fitted(one, type(pipeline), Loaded(pipeline)).fit

    def test_a_lora_of_modules_that_the_pipeline_itself_adds_counts(self) -> None:
        unet = lora_files.one_of("AnimateDiffPipeline").unet
        name = next(n for n, _module in unet.named_modules() if "motion_modules" in n and n.endswith("to_q"))
        layer = unet.get_submodule(name)
        path = self.save(pair(f"unet.{name}", layer.out_features, layer.in_features))
        served = load(checkpoint("AnimateDiffPipeline"), LoraAdapter=str(path)).pipeline.unet
        self.assertGreater(served.get_submodule(name).get_delta_weight("0_style").abs().max(), 0)

    def test_a_pipeline_without_a_method_for_loras_takes_them_too(self) -> None:
        name = "transformer_blocks.0.attn1.to_q"
        layer = lora_files.one_of("PixArtSigmaPipeline").transformer.get_submodule(name)
        path = self.save(pair(f"base_model.model.{name}", layer.out_features, layer.in_features))
        served = load(checkpoint("PixArtSigmaPipeline"), LoraAdapter=str(path)).pipeline.transformer
        self.assertGreater(served.get_submodule(name).get_delta_weight("0_style").abs().max(), 0)

    # --- biases and norms

    def test_biases_norms_and_tables_are_added(self) -> None:
        model = checkpoint("WanPipeline")
        plain, rows = lora_files.one_of(model).transformer, 24
        state = plain.state_dict()
        added = {name: torch.randn_like(state[name]) for name in (
            "blocks.0.attn1.to_q.bias", "blocks.0.norm2.weight", "blocks.0.norm2.bias", "blocks.0.scale_shift_table",
            "blocks.0.attn1.norm_q.weight")}  # fmt: skip
        self.assertEqual(added["blocks.0.attn1.to_q.bias"].shape, (rows,))
        keys = {
            "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
            "blocks.0.norm3.diff": "blocks.0.norm2.weight",
            "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
            "blocks.0.modulation.diff": "blocks.0.scale_shift_table",
            "blocks.0.self_attn.norm_q.w_norm": "blocks.0.attn1.norm_q.weight",
        }
        path = self.save({f"diffusion_model.{key}": added[name] for key, name in keys.items()})
        got = load(model, LoraAdapters=[str(path)], LoraScales=[0.5]).pipeline.transformer.state_dict()
        for name, difference in added.items():
            self.assertLess((got[name] - state[name] - 0.5 * difference).abs().max(), 1e-5, name)

    def test_pefts_bias_counts_by_alpha_where_the_layer_has_none(self) -> None:
        bias = torch.randn(80)
        tensors = pair(f"unet.{Q}") | {f"unet.{Q}.lora_B.bias": bias, f"unet.{Q}.alpha": torch.tensor(1.0)}
        unet = load(SHAPES_MODEL, LoraAdapter=str(self.save(tensors))).pipeline.unet
        layer = unet.get_submodule(Q)
        self.assertLess((layer.base_layer.bias - bias / 2).abs().max(), 1e-6)

    def test_a_bias_for_what_has_none_is_told(self) -> None:
        tensors = {
            "diffusion_model.blocks.0.self_attn.norm_q.diff": torch.ones(24),
            "diffusion_model.blocks.1.self_attn.norm_q.diff_b": torch.ones(24),
        }
        self.assertRegex(self.notes(tensors, checkpoint("WanPipeline")), "1 of 2 layers .*norm_q: a bias, where")

    def test_differences_at_scale_0_leave_the_weights_as_they_are(self) -> None:
        path = self.save({f"unet.{Q}.diff": torch.randn(80, 80), f"unet.{Q}.diff_b": torch.randn(80)})
        unet = load(SHAPES_MODEL, LoraAdapters=[str(path)], LoraScales=[0.0]).pipeline.unet
        plain = load(SHAPES_MODEL).pipeline.unet
        self.assertTrue(torch.equal(unet.get_submodule(Q).weight, plain.get_submodule(Q).weight))
        self.assertIsNone(unet.get_submodule(Q).bias)

    # --- Flux

    def control(self) -> dict[str, Any]:
        width = lora_files.one_of("FluxPipeline").transformer.x_embedder
        return pair("transformer.x_embedder", width.out_features, 2 * width.in_features)

    def test_a_control_lora_on_plain_flux_names_the_class_that_takes_it(self) -> None:
        with self.assertRaisesRegex(LoadError, "Control LoRA .*pipeline_type: FluxControlPipeline"):
            self.planned(checkpoint("FluxPipeline"), self.save(self.control()))

    def test_a_control_lora_widens_the_control_pipeline(self) -> None:
        tensors = self.control()
        model = load(
            checkpoint("FluxPipeline"), LoraAdapter=str(self.save(tensors)), PipelineType="FluxControlPipeline"
        )
        layer = model.pipeline.transformer.x_embedder
        down, up = tensors["transformer.x_embedder.lora_A.weight"], tensors["transformer.x_embedder.lora_B.weight"]
        self.assertLess((layer.get_delta_weight("0_style") - up @ down).abs().max(), 1e-4)
        self.assertEqual(layer.base_layer.in_features, down.shape[1])

    def test_a_lora_of_the_plain_model_counts_for_the_first_inputs_of_a_wider_one(self) -> None:
        plain, filled = lora_files.one_of("FluxPipeline"), checkpoint("FluxFillPipeline")
        layer = plain.transformer.x_embedder
        wide = lora_files.one_of(filled).transformer.x_embedder
        tensors = pair("transformer.x_embedder", wide.out_features, layer.in_features)
        model = load(filled, LoraAdapter=str(self.save(tensors)))
        delta = model.pipeline.transformer.x_embedder.get_delta_weight("0_style")
        self.assertGreater(wide.in_features, layer.in_features)
        self.assertEqual(delta[:, layer.in_features :].abs().max(), 0)
        self.assertGreater(delta[:, : layer.in_features].abs().max(), 0)

    # --- packed weights

    @unittest.skipUnless(importlib.util.find_spec("optimum"), "optimum-quanto is not installed")
    def test_what_must_be_added_to_packed_weights_is_refused_before_they_are_loaded(self) -> None:
        flux = checkpoint("FluxPipeline")
        rows = lora_files.one_of(flux).transformer.get_submodule("transformer_blocks.0.attn.to_q").out_features
        path = self.save({"transformer.transformer_blocks.0.attn.to_q.diff": torch.ones(rows, rows)})
        fields = {"PipelineType": "FluxTransformer2DModel", "Options": [f"base_model:{flux}"]}
        with self.assertRaisesRegex(LoadError, "full difference.*transformer are quantized"):
            self.planned(flux, path, **fields)

    def test_a_gguf_takes_pairs_and_no_differences(self) -> None:
        flux = checkpoint("FluxPipeline")
        packed = adapter_files.gguf(adapter_files.weights_of(flux / "transformer"), self.folder / "t.gguf")
        layer = "transformer_blocks.0.attn.to_q"
        rows = lora_files.one_of(flux).transformer.get_submodule(layer).out_features
        fields = {"Options": [f"base_model:{flux}"]}
        tensors = pair(f"transformer.{layer}", rows, rows)
        model = load(packed, LoraAdapter=str(self.save(tensors)), **fields)
        got = model.pipeline.transformer.get_submodule(layer).get_delta_weight("0_style")
        right = tensors[f"transformer.{layer}.lora_B.weight"] @ tensors[f"transformer.{layer}.lora_A.weight"]
        self.assertLess((got - right).abs().max(), 1e-4)
        path = self.save({f"transformer.{layer}.diff": torch.ones(rows, rows)}, "diff.safetensors")
        with self.assertRaisesRegex(LoadError, "quantized"):
            self.planned(packed, path, **fields)


class DenoisersTest(unittest.TestCase):
    """Which of two transformers a file is for."""

    def chosen(self, name: str, target: str = "", keys: tuple[str, ...] = ("transformer.a.lora_A.weight",)) -> Any:
        sorted_keys = pieces.sort(keys)
        header = mock.Mock(path=Path(name))
        one = Lora("0", LoraFile(header, sorted_keys), 1.0, "x", target)
        return lora._denoisers(one, ["transformer", "transformer_2", "text_encoder"])

    def test_a_whole_word_of_the_files_name_says_it(self) -> None:
        high, low = ["transformer"], ["transformer_2"]
        for name in ("a_high_noise.safetensors", "HIGH.safetensors", "wan2.2-HighNoise-v2.st", "x-highnoise1.st"):
            self.assertEqual(self.chosen(name), (high, []), name)
        for name in ("low-noise.safetensors", "Wan22_LOW_4steps.st", "lownoise.st"):
            self.assertEqual(self.chosen(name), (low, []), name)
        for name in ("slow_motion.st", "highres.st", "glow.st", "high_and_low.st", "follow.st"):
            chosen, notes = self.chosen(name)
            self.assertEqual(chosen, high, name)
            self.assertRegex(notes[0], "transformer alone.*lora_targets:")

    def test_the_option_says_it_before_the_name(self) -> None:
        self.assertEqual(self.chosen("high.st", "transformer_2")[0], ["transformer_2"])
        self.assertEqual(self.chosen("high.st", "low")[0], ["transformer_2"])
        self.assertEqual(self.chosen("high.st", "both")[0], ["transformer", "transformer_2"])
        self.assertEqual(self.chosen("high.st", "transformer+transformer_2")[0], ["transformer", "transformer_2"])
        with self.assertRaisesRegex(LoadError, "lora_targets:unet: this model has transformer, transformer_2"):
            self.chosen("high.st", "unet")

    def test_a_file_that_names_both_itself_is_taken_at_its_word(self) -> None:
        keys = ("transformer.a.lora_A.weight", "transformer_2.a.lora_A.weight")
        self.assertEqual(self.chosen("x.st", keys=keys), (["transformer"], []))


class NamesTest(unittest.TestCase):
    """Names that no family's table shows."""

    def places(self, layers: dict[str, Any], components: dict[str, Any]) -> dict[str, str]:
        found = names.resolve(layers, components, [name for name in components if "text" not in name])
        return {
            layer: "" if isinstance(place, names.Nowhere) else f"{place[0].component}:{' '.join(place[0].targets)}"
            for layer, place in found.items()
        }

    def test_text_encoders_by_every_prefix(self) -> None:
        clip = {"text_model.encoder.layers.0.self_attn.q_proj": names.Layer((4, 4))}
        flat = {"encoder.layers.0.self_attn.q_proj": names.Layer((4, 4))}
        t5 = {"encoder.block.0.layer.0.SelfAttention.q": names.Layer((4, 4))}
        model = {"transformer": {}, "text_encoder": flat, "text_encoder_2": clip, "text_encoder_3": t5}
        first, second = f"text_encoder:{next(iter(flat))}", f"text_encoder_2:{next(iter(clip))}"
        third = f"text_encoder_3:{next(iter(t5))}"
        inner = "text_model.encoder.layers.0.self_attn.q_proj"
        for name, right in {
            f"text_encoder.{inner}": first,
            f"lora_te_{inner.replace('.', '_')}": first,
            f"lora_te1_{inner.replace('.', '_')}": first,
            f"lora_te2_{inner.replace('.', '_')}": second,
            f"text_encoders.clip_l.transformer.{inner}": first,
            f"text_encoders.clip_g.transformer.{inner}": second,
            f"clip_g.{inner}": second,
            "text_encoder.text_model.encoder.layers.0.self_attn.to_q": first,
            "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q": third,
            "lora_te3_encoder_block_0_layer_0_SelfAttention_q": third,
            f"base_model.model.text_encoder_2.{inner}": second,
            inner: first,
        }.items():
            self.assertEqual(self.places({name: {}}, model), {name: right})

    def test_t5_is_found_where_the_pipeline_has_it(self) -> None:
        t5 = {"encoder.block.0.layer.0.SelfAttention.q": names.Layer((4, 4))}
        model = {
            "transformer": {},
            "text_encoder": {"encoder.layers.0.mlp.fc1": names.Layer((4, 4))},
            "text_encoder_2": t5,
        }
        name = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
        self.assertEqual(self.places({name: {}}, model)[name], f"text_encoder_2:{next(iter(t5))}")

    def test_xlabs_and_openclip(self) -> None:
        flux = [
            f"transformer_blocks.0.attn.{part}"
            for part in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
        ]
        clip = [f"text_model.encoder.layers.0.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj")]
        model = {
            "transformer": {name: names.Layer((4, 4)) for name in flux},
            "text_encoder": {name: names.Layer((4, 4)) for name in clip},
        }
        wanted = {
            "double_blocks.0.qkv_lora1": f"transformer:{' '.join(flux[:3])}",
            "double_blocks.0.qkv_lora2": f"transformer:{' '.join(flux[3:])}",
            "lora_te1_transformer_resblocks_0_attn_in_proj": f"text_encoder:{' '.join(clip)}",
        }
        self.assertEqual(self.places(dict.fromkeys(wanted), model), wanted)
        sorted_keys = pieces.sort(["double_blocks.0.processor.qkv_lora1.down.weight"])
        self.assertEqual(list(sorted_keys.layers), ["double_blocks.0.qkv_lora1"])

    def test_a_block_of_another_model_is_not_taken_for_one_of_this(self) -> None:
        wan = {"blocks.0.attn1.to_q": names.Layer((4, 4))}
        self.assertEqual(self.places({"transformer_blocks.0.attn1.to_q": {}}, {"transformer": wan}).popitem()[1], "")


if __name__ == "__main__":
    unittest.main()
