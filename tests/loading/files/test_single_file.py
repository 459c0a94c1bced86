# SPDX-License-Identifier: MIT
"""Files of weights as people have them: whole, in part, under every name and prefix, in every form; each makes the
picture of the model that it came from, or is refused with the way out."""

from __future__ import annotations

import json
import shutil
import tempfile
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from localai_diffusers.checkpoint import contents, fitting, headers
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.files import single_file as files
from tests import adapter_files, single_file
from tests.adapter_files import difference, weights_of
from tests.checkpoint.test_fitting import CHANGES, changed
from tests.support import SHAPES_MODEL, generate, load, spec_of
from tests.zoo import checkpoint

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def picture(model: Any) -> Any:
    return generate(model, "a red circle on a blue background", width=64, height=64, step=2, seed=1)[0]


class FileCase(unittest.TestCase):
    """The shipped model as the file that the community trades, and the picture of its folder."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="single-file-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.whole = load_file(single_file.write_checkpoint(SHAPES_MODEL, cls.folder / "plain.safetensors"))
        single_file.write_configs(SHAPES_MODEL, cls.folder / "configs")
        cls.right = picture(load(SHAPES_MODEL))

    def load(self, tensors: dict[str, Any], *options: str, name: str = "file.safetensors", **metadata: str) -> Any:
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, self.folder / name, metadata or None)
        return load(self.folder / name, ModelPath=str(self.folder), Options=list(options))

    def part(self, prefix: str) -> dict[str, Any]:
        return {key: tensor for key, tensor in self.whole.items() if key.startswith(prefix)}

    def renamed(self, rename: Callable[[str], str]) -> dict[str, Any]:
        return {rename(key): tensor for key, tensor in self.whole.items()}


class WholeTest(FileCase):
    def test_text_encoders_are_found_under_old_and_new_names(self) -> None:
        for place in (
            "cond_stage_model.transformer.",
            "conditioner.embedders.0.transformer.text_model.",
            "text_encoders.clip_l.transformer.text_model.",
            "text_encoder.",
            "text_encoder.text_model.",
        ):
            model = self.load(self.renamed(lambda key, place=place: key.replace(CLIP, place)), "config:configs")
            self.assertEqual((difference(picture(model), self.right), model.notes), (0, ()), place)

    def test_a_foreign_key_is_a_note_and_a_known_one_is_not(self) -> None:
        ema = {f"model_ema.{number}": torch.zeros(1) for number in range(3)}
        known = {"global_step": torch.tensor(1), f"{CLIP}embeddings.position_ids": torch.arange(77)[None], **ema}
        self.assertEqual(self.load(self.whole | known, "config:configs").notes, ())
        noted = self.load(self.whole | {"surprise.weight": torch.zeros(2)}, "config:configs")
        self.assertIn("1 of 491 keys are not of this model and have no effect (surprise.weight)", noted.notes[0])

    def test_a_part_that_lacks_a_tensor_is_refused_by_its_name(self) -> None:
        for prefix, name in ((UNET, "UNet2DConditionModel"), (VAE, "AutoencoderKL"), (CLIP, "CLIPTextModel")):
            less = dict(self.whole)
            del less[max(key for key in less if key.startswith(prefix))]
            with self.assertRaisesRegex(LoadError, f"lacks some of the weights of a {name} .1 of"):
                self.load(less, "config:configs")

    def test_beside_a_base_the_files_own_vae_and_text_encoder_count(self) -> None:
        base = shutil.copytree(SHAPES_MODEL, self.folder / "base")
        for part in ("unet", "vae", "text_encoder"):
            file = next((base / part).glob("*.safetensors"))
            save_file(
                {key: torch.zeros_like(tensor) for key, tensor in load_file(file).items()}, file, {"format": "pt"}
            )
        self.assertEqual(difference(picture(self.load(self.whole, f"base_model:{base}")), self.right), 0)

    def test_an_option_wins_over_the_files_own_part(self) -> None:
        broken = {key: tensor * 0 if key.startswith(VAE) else tensor for key, tensor in self.whole.items()}
        model = self.load(broken, "config:configs", f"vae:{SHAPES_MODEL / 'vae'}")
        self.assertEqual(difference(picture(model), self.right), 0)

    def test_a_stable_diffusion_cpp_gguf_is_called_whole(self) -> None:
        file = adapter_files.gguf(self.whole, self.folder / "whole.gguf")
        model = load(file, ModelPath=str(self.folder), Options=["config:configs"])
        self.assertIn("GGUFLinear", {type(module).__name__ for module in model.pipeline.unet.modules()})
        self.assertLess(difference(picture(model), self.right), 2)

    def test_a_trusted_pickle_makes_the_same_picture_whatever_its_name(self) -> None:
        for name in ("model.ckpt", "model"):
            torch.save({"state_dict": self.whole, "global_step": 7}, self.folder / name)
            with self.assertRaisesRegex(LoadError, "is a pickle"):
                load(self.folder / name, Options=[f"config:{self.folder / 'configs'}"])
            options = [f"config:{self.folder / 'configs'}", "use_safetensors:false"]
            self.assertEqual(difference(picture(load(self.folder / name, Options=options)), self.right), 0)

    def test_a_missing_part_is_told_with_its_ways_out(self) -> None:
        for prefix, part in ((VAE, "vae"), (CLIP, "text_encoder")):
            left = {key: tensor for key, tensor in self.whole.items() if not key.startswith(prefix)}
            with self.assertRaisesRegex(LoadError, f"holds no {part}, .*{part}:folder-or-file.*base_model:"):
                self.load(left, "config:configs")
            self.assertEqual(difference(picture(self.load(left, f"base_model:{SHAPES_MODEL}")), self.right), 0)
            noted = self.load(left, f"config:{SHAPES_MODEL}")
            self.assertIn(f"holds no {part}: taken from", noted.notes[0])

    def test_marks_set_the_schedulers_config(self) -> None:
        marks = {
            "v_pred": ({"v_pred": torch.zeros(0)}, {}, {"prediction_type": "v_prediction"}),
            "modelspec": ({}, {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
            "ztsnr": ({"ztsnr": torch.zeros(0)}, {}, {"rescale_betas_zero_snr": True}),
            "none": ({}, {}, {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}),
        }
        for name, (tensors, metadata, expected) in marks.items():
            config = self.load(self.whole | tensors, "config:configs", **metadata).pipeline.scheduler.config
            self.assertEqual({key: config[key] for key in expected}, expected, name)

    def test_edm_checkpoints_get_their_schedulers(self) -> None:
        marks = {
            "EDMEulerScheduler": {
                "edm_vpred.sigma_max": torch.tensor(80.0),
                "edm_vpred.sigma_min": torch.tensor(0.002),
            },
            "EDMDPMSolverMultistepScheduler": {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)},
        }
        for name, tensors in marks.items():
            model = self.load(self.whole | tensors, "config:configs")
            scheduler = model.pipeline.scheduler
            self.assertEqual((type(scheduler).__name__, scheduler.config.sigma_max, model.notes), (name, 80.0, ()))

    def test_options_win_over_marks_and_serve_folders(self) -> None:
        options = ("prediction_type:epsilon", "rescale_betas_zero_snr:true", "config:configs")
        config = self.load(self.whole | {"v_pred": torch.zeros(0)}, *options).pipeline.scheduler.config
        self.assertEqual((config.prediction_type, config.rescale_betas_zero_snr), ("epsilon", True))
        config = load(SHAPES_MODEL, Options=["prediction_type:v_prediction"]).pipeline.scheduler.config
        self.assertEqual(config.prediction_type, "v_prediction")


class PartTest(FileCase):
    def changed(self, part: str, tensors: dict[str, Any], **fields: Any) -> float:
        """How far the picture is off with ``tensors`` as the lone file of a component."""
        file = self.folder / "part.safetensors"
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, file)
        model = load(SHAPES_MODEL, ModelPath=str(self.folder), Options=[f"{part}:part.safetensors"], **fields)
        self.assertEqual(model.notes, ())
        return difference(picture(model), self.right)

    def names(self, part: str, own: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A component's weights under the names and prefixes that people have them."""
        yield own
        for prefix in (f"{part}.", "model.", "module."):
            yield {prefix + key: tensor for key, tensor in own.items()}

    def test_a_component_of_the_librarys_names_under_any_prefix(self) -> None:
        for part in ("unet", "vae", "text_encoder"):
            for tensors in self.names(part, weights_of(SHAPES_MODEL / part)):
                self.assertEqual(self.changed(part, tensors), 0, (part, min(tensors)))

    def test_the_part_of_a_whole_checkpoint(self) -> None:
        for part in ("unet", "vae", "text_encoder"):
            self.assertEqual(self.changed(part, self.whole), 0, part)

    def test_vae_attention_as_it_was_called_in_2022(self) -> None:
        old = {}
        for key, tensor in weights_of(SHAPES_MODEL / "vae").items():
            for new, name in OLD_ATTENTION.items():
                key = key.replace(f".{new}.", f".{name}.")
            old[key] = tensor
        self.assertEqual(self.changed("vae", old), 0)

    def test_text_encoders_with_and_without_their_levels(self) -> None:
        own = {
            key.removeprefix("text_model."): value for key, value in weights_of(SHAPES_MODEL / "text_encoder").items()
        }
        for prefix in ("", "text_model.", "text_encoder.text_model.", "text_encoders.clip_l.transformer.text_model."):
            self.assertEqual(
                self.changed("text_encoder", {prefix + key: value for key, value in own.items()}), 0, prefix
            )

    def test_a_lone_file_of_another_sort_is_refused_by_the_option(self) -> None:
        with self.assertRaisesRegex(LoadError, "option vae 'part.safetensors' .*AutoencoderKL"):
            self.changed("vae", weights_of(SHAPES_MODEL / "text_encoder"))

    def test_a_tiny_autoencoder_is_taken_by_its_keys(self) -> None:
        from diffusers import AutoencoderTiny

        tiny = AutoencoderTiny(latent_channels=4, encoder_block_out_channels=(64, 64, 64, 64)).state_dict()
        file = self.folder / "taesd.safetensors"
        save_file({key: tensor.clone() for key, tensor in tiny.items()}, file)
        model = load(SHAPES_MODEL, ModelPath=str(self.folder), Options=["vae:taesd.safetensors"])
        self.assertIn("is a tiny autoencoder (AutoencoderTiny)", model.notes[0])
        self.assertTrue(all(torch.equal(model.pipeline.vae.state_dict()[key], tensor) for key, tensor in tiny.items()))

    def test_a_folder_that_an_option_names_may_have_a_prefix_too(self) -> None:
        folder = shutil.copytree(SHAPES_MODEL / "vae", self.folder / "prefixed-vae")
        file = next(folder.glob("*.safetensors"))
        save_file({f"vae.{key}": tensor for key, tensor in load_file(file).items()}, file, {"format": "pt"})
        model = load(SHAPES_MODEL, ModelPath=str(self.folder), Options=["vae:prefixed-vae"])
        self.assertEqual(difference(picture(model), self.right), 0)

    def test_a_longclip_is_refused_by_its_name(self) -> None:
        long = weights_of(SHAPES_MODEL / "text_encoder")
        key = next(key for key in long if "position_embedding" in key)
        long[key] = torch.zeros(248, long[key].shape[1])
        with self.assertRaisesRegex(LoadError, "is a LongCLIP, which reads 248 tokens"):
            self.changed("text_encoder", long)


class PlaceTest(FileCase):
    """Where a file stands, and files that options name."""

    def test_a_folder_that_is_one_file_of_weights_is_that_file(self) -> None:
        folder = self.folder / "diffusion_models"
        folder.mkdir()
        shutil.copy(self.folder / "plain.safetensors", folder / "a.safetensors")
        options = [f"config:{self.folder / 'configs'}"]
        self.assertEqual(difference(picture(load(folder, Options=options)), self.right), 0)
        shutil.copy(self.folder / "plain.safetensors", folder / "b.safetensors")
        with self.assertRaisesRegex(LoadError, "It holds a.safetensors, b.safetensors: name one, e.g. model: diff"):
            load(folder, Options=options)

    def test_an_original_config_is_looked_up_first(self) -> None:
        for name, words in (
            ("missing.yaml", "option original_config 'missing.yaml' is no file under ModelPath"),
            ("https://example.org/v1.yaml", "is a URL, and nothing is fetched offline"),
            ("../plain.yaml", "leaves the models folder"),
        ):
            with self.assertRaisesRegex(LoadError, words):
                self.load(self.whole, "config:configs", "local_files_only:true", f"original_config:{name}")

    def test_an_original_config_says_the_shape(self) -> None:
        unet = {"in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": 1, "num_heads": 4}
        unet |= {
            "attention_resolutions": [1, 2],
            "channel_mult": [1, 2],
            "context_dim": 64,
            "use_spatial_transformer": True,
        }
        unet |= {"transformer_depth": 1}
        vae = {"ch": 32, "ch_mult": [1, 2], "in_channels": 3, "out_ch": 3, "z_channels": 4, "num_res_blocks": 1}
        (self.folder / "v1.yaml").write_text(
            json.dumps(
                {
                    "model": {
                        "params": {"unet_config": {"params": unet}, "first_stage_config": {"params": {"ddconfig": vae}}}
                    }
                }
            )
        )
        with self.assertRaisesRegex(LoadError, r"of other shapes, such as conv_in.bias \[40\] for \[32\]"):
            self.load(self.part(UNET), f"base_model:{SHAPES_MODEL}", "original_config:v1.yaml")


class FolderTest(FileCase):
    """Components in a pipeline's folder under other names than the library's."""

    def edited(self, part: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
        folder = Path(shutil.copytree(SHAPES_MODEL, Path(tempfile.mkdtemp(dir=self.folder)) / "model"))
        file = next((folder / part).glob("*.safetensors"))
        save_file(edit(load_file(file)), file, {"format": "pt"})
        return folder

    def test_a_prefix_in_a_folder_is_taken_off(self) -> None:
        for part in ("vae", "unet", "text_encoder"):
            folder = self.edited(part, lambda own, part=part: {f"{part}.{key}": value for key, value in own.items()})
            self.assertEqual(difference(picture(load(folder)), self.right), 0, part)

    def test_a_foreign_key_is_a_note(self) -> None:
        for part in ("vae", "unet", "text_encoder"):
            folder = self.edited(part, lambda own: own | {"surprise": torch.zeros(2)})
            self.assertIn(f"{part} of this model: 1 of", load(folder).notes[0])

    def test_a_text_encoder_that_lacks_a_tensor_is_refused(self) -> None:
        folder = self.edited("text_encoder", lambda own: dict(list(own.items())[1:]))
        with self.assertRaisesRegex(LoadError, "the weights of text_encoder lack 1 of its tensors"):
            load(folder)

    def test_safetensors_under_a_pickles_name_are_read_as_what_they_are(self) -> None:
        folder = self.edited("vae", lambda own: own)
        file = next((folder / "vae").glob("*.safetensors"))
        file.rename(file.with_suffix(".bin"))
        self.assertEqual(difference(picture(load(folder)), self.right), 0)


class TwinTest(unittest.TestCase):
    def test_a_lone_transformer_for_a_model_of_two_says_which_it_became(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(shutil.copytree(checkpoint("WanPipeline"), Path(folder) / "wan"))
            shutil.copytree(base / "transformer", base / "transformer_2", dirs_exist_ok=True)
            index = json.loads((base / "model_index.json").read_text())
            index |= {"transformer_2": index["transformer"], "boundary_ratio": 0.5}
            (base / "model_index.json").write_text(json.dumps(index))
            file = adapter_files.save(weights_of(base / "transformer"), Path(folder) / "low.safetensors")
            notes = load(file, Options=[f"base_model:{base}"]).notes
            self.assertIn(
                "low.safetensors is taken as transformer; for transformer_2 say options: transformer_2:", notes[0]
            )


class FuzzTest(unittest.TestCase):
    """Whole files by their headers, changed in any way: no component is filled in part, no key unused without a
    word."""

    @classmethod
    def setUpClass(cls) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = single_file.write_checkpoint(SHAPES_MODEL, Path(folder) / "plain.safetensors")
            cls.found = contents.contents([headers.read(path)])
        cls.spec = spec_of(SHAPES_MODEL, Options=[f"config:{SHAPES_MODEL}"])

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3), st.integers(0, 10**6))
    def test_no_change_goes_without_a_word(self, changes: list[str], seed: int) -> None:
        found = changed(self.found, changes, seed)
        rest = files._configs(self.spec, str(SHAPES_MODEL))
        assert rest is not None
        try:
            fits = files._fits(self.spec, found, rest)
        except LoadError:
            return
        account = fitting.account_of(found, fits.values())
        self.assertEqual(account.consumed | account.idle.keys() | set(account.left), set(found.keys))
        self.assertFalse([fit for fit in fits.values() if fit.missing or fit.wrong or fit.made])
        lost = {"unet", "vae", "text_encoder"} - fits.keys()
        self.assertFalse(lost, (lost, changes, seed))  # a few changes never make a part of the file disappear


if __name__ == "__main__":
    unittest.main()
