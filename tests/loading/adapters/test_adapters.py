# SPDX-License-Identifier: MIT
"""LoRAs, IP-Adapters and textual inversions: each changes the picture by its scale,
and what does not fit is an error."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch

from localai_diffusers.errors import InvalidRequest, LoadError
from tests import adapter_files
from tests.adapter_files import difference
from tests.support import SHAPES_MODEL, FolderCase, generate, load, offloaded
from tests.zoo import checkpoint

SIZE = {"width": 64, "height": 64, "step": 2, "seed": 1}


def picture(model: Any, prompt: str = "red circle", **fields: Any) -> Any:
    return generate(model, prompt, **{**SIZE, **fields})[0]


# What diffusers (group) and accelerate (model) put on a module that they offload.
_HOOKS = {"model": "_hf_hook", "group": "_diffusers_hook"}


class Toucher:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


class LoraTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="lora-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        adapter_files.lora(SHAPES_MODEL, cls.folder / "a.safetensors")
        adapter_files.lora(SHAPES_MODEL, cls.folder / "pack" / "pytorch_lora_weights.safetensors")
        cls.plain = picture(load(SHAPES_MODEL))

    def shapes(self, **fields: Any) -> Any:
        return load(SHAPES_MODEL, ModelPath=str(self.folder), **fields)

    def test_a_lora_under_the_models_folder_changes_the_picture(self) -> None:
        self.assertGreater(difference(picture(self.shapes(LoraAdapter="a.safetensors")), self.plain), 1)

    def test_scale_0_leaves_the_pixels_as_they_are(self) -> None:
        model = self.shapes(LoraAdapters=["a.safetensors"], LoraScales=[0.0])
        self.assertEqual(difference(picture(model), self.plain), 0)

    def test_a_missing_scale_is_1(self) -> None:
        without = picture(self.shapes(LoraAdapters=["a.safetensors"]))
        self.assertEqual(difference(without, picture(self.shapes(LoraAdapters=["a.safetensors"], LoraScales=[1.0]))), 0)

    def test_the_scales_of_several_add_up(self) -> None:
        both = self.shapes(LoraAdapters=["a.safetensors", "pack"], LoraScales=[0.5, 0.5])
        one = picture(self.shapes(LoraAdapter="a.safetensors"))
        self.assertLess(difference(picture(both), one), difference(one, self.plain) / 20)

    def test_a_folder_stands_for_its_usual_file(self) -> None:
        same = picture(self.shapes(LoraAdapter="a.safetensors"))
        self.assertEqual(difference(picture(self.shapes(LoraAdapter="pack")), same), 0)

    def test_lora_weight_name_picks_a_file_of_a_folder(self) -> None:
        model = self.shapes(LoraAdapter=str(self.folder), Options=["lora_weight_name:a.safetensors"])
        self.assertGreater(difference(picture(model), self.plain), 1)

    def test_a_name_beside_the_models_file_is_found(self) -> None:
        (self.folder / "sub").mkdir(exist_ok=True)
        shutil.copy(self.folder / "a.safetensors", self.folder / "sub" / "beside.safetensors")
        model = self.shapes(ModelFile=str(self.folder / "sub" / "x.safetensors"), LoraAdapter="beside.safetensors")
        self.assertGreater(difference(picture(model), self.plain), 1)

    def test_a_sibling_keeps_the_lora(self) -> None:
        source = str(self.folder / "src.png")
        self.plain.save(source)
        with_lora = picture(self.shapes(LoraAdapter="a.safetensors"), src=source)
        self.assertGreater(difference(with_lora, picture(load(SHAPES_MODEL), src=source)), 0.5)

    def test_a_transformer_takes_its_loras_too(self) -> None:
        flux = checkpoint("FluxPipeline")
        file = adapter_files.lora(flux, self.folder / "flux.safetensors", "transformer", 5.0)
        size = {"width": 32, "height": 32}
        self.assertGreater(
            difference(picture(load(flux, LoraAdapter=str(file)), **size), picture(load(flux), **size)), 1
        )

    @unittest.skipUnless(importlib.util.find_spec("optimum"), "optimum-quanto is not installed")
    def test_a_transformer_quantized_by_quanto_takes_loras(self) -> None:
        flux = checkpoint("FluxPipeline")
        file = str(adapter_files.lora(flux, self.folder / "quantized.safetensors", "transformer", 5.0))
        fields = {"PipelineType": "FluxTransformer2DModel", "Options": [f"base_model:{flux}"]}
        size = {"width": 32, "height": 32}
        plain = picture(load(flux, **fields), **size)
        self.assertGreater(difference(picture(load(flux, LoraAdapters=[file, file], **fields), **size), plain), 1)
        self.assertEqual(
            difference(picture(load(flux, LoraAdapters=[file], LoraScales=[0.0], **fields), **size), plain), 0
        )

    def test_keys_of_kohya_make_the_same_picture(self) -> None:
        adapter_files.kohya(self.folder / "a.safetensors", self.folder / "kohya.safetensors")
        same = picture(self.shapes(LoraAdapter="a.safetensors"))
        self.assertEqual(difference(picture(self.shapes(LoraAdapter="kohya.safetensors")), same), 0)

    def test_a_lora_of_the_text_encoder_counts(self) -> None:
        adapter_files.text_lora(SHAPES_MODEL, self.folder / "text.safetensors")
        self.assertGreater(difference(picture(self.shapes(LoraAdapter="text.safetensors")), self.plain), 0.1)

    def test_any_name_will_do(self) -> None:
        name = shutil.copy(self.folder / "a.safetensors", self.folder / "My style, v1.5 (final).safetensors")
        same = picture(self.shapes(LoraAdapter="a.safetensors"))
        self.assertEqual(difference(picture(self.shapes(LoraAdapter=Path(name).name)), same), 0)

    def test_a_trusted_pickle_is_read_and_its_code_is_not_run(self) -> None:
        torch.save(adapter_files.weights_of_file(self.folder / "a.safetensors"), self.folder / "good.pt")
        torch.save({"lora": Toucher(str(self.folder / "ran"))}, self.folder / "evil.bin")
        same = picture(self.shapes(LoraAdapter="a.safetensors"))
        model = self.shapes(LoraAdapter="good.pt", Options=["use_safetensors:false"])
        self.assertEqual(difference(picture(model), same), 0)
        with self.assertRaisesRegex(LoadError, "evil.bin"):
            self.shapes(LoraAdapter="evil.bin", TrustRemoteCode=True)
        self.assertFalse((self.folder / "ran").exists())

    def test_a_scale_that_is_no_number_is_refused(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "LoraScale.* nan"):
            self.shapes(LoraAdapters=["a.safetensors"], LoraScales=[float("nan")])

    def test_joined_projections_do_not_swallow_a_lora(self) -> None:
        model = self.shapes(LoraAdapter="a.safetensors", Options=["fuse_qkv:true"])
        self.assertIn("carries a LoRA", " ".join(model.notes))
        self.assertEqual(difference(picture(model), picture(self.shapes(LoraAdapter="a.safetensors"))), 0)

    def test_offloaded_it_makes_the_same_picture(self) -> None:
        fields = {"LoraAdapters": ["a.safetensors", "pack"], "LoraScales": [0.5, 0.3]}
        same = picture(self.shapes(**fields))
        for mode in ("model", "group"):
            with offloaded(mode):
                model = self.shapes(**fields)
            hooked = [module for module in model.pipeline.unet.modules() if hasattr(module, _HOOKS[mode])]
            self.assertTrue(hooked, mode)
            self.assertEqual(difference(picture(model), same), 0, mode)

    def test_the_next_load_knows_nothing_of_it(self) -> None:
        self.shapes(LoraAdapter="a.safetensors")
        self.assertEqual(difference(picture(self.shapes()), self.plain), 0)

    def test_a_lora_of_another_model_fits_no_layer_and_is_an_error(self) -> None:
        with self.assertRaisesRegex(LoadError, "LoraAdapter .*a.safetensors.* fits? no"):
            load(checkpoint("FluxPipeline"), LoraAdapter=str(self.folder / "a.safetensors"))

    def test_a_missing_file_is_an_error_that_names_it(self) -> None:
        with self.assertRaisesRegex(LoadError, "LoraAdapter 'nope.safetensors'"):
            self.shapes(LoraAdapter="nope.safetensors")

    def test_a_name_that_leaves_the_models_folder_is_refused(self) -> None:
        with self.assertRaisesRegex(LoadError, "leaves the models folder"):
            self.shapes(LoraAdapter="../a.safetensors")

    def test_a_torn_file_is_an_error(self) -> None:
        torn = self.folder / "torn.safetensors"
        torn.write_bytes((self.folder / "a.safetensors").read_bytes()[:-100])
        with self.assertRaisesRegex(LoadError, "torn.safetensors is no intact safetensors file"):
            self.shapes(LoraAdapter="torn.safetensors")

    def test_a_pickle_is_refused_unless_it_is_trusted(self) -> None:
        torch.save({"lora": torch.zeros(1)}, self.folder / "old.bin")
        with self.assertRaisesRegex(LoadError, "old.bin is a pickle"):
            self.shapes(LoraAdapter="old.bin")

    def test_a_pipeline_without_loras_says_so(self) -> None:
        with self.assertRaisesRegex(LoadError, "DDPMPipeline takes no LoRA"):
            load(checkpoint("DDPMPipeline"), LoraAdapter=str(self.folder / "a.safetensors"))

    def test_a_folder_of_several_files_asks_which(self) -> None:
        shutil.copytree(self.folder / "pack", self.folder / "two")
        (self.folder / "two" / "pytorch_lora_weights.safetensors").rename(self.folder / "two" / "x.safetensors")
        shutil.copy(self.folder / "a.safetensors", self.folder / "two" / "y.safetensors")
        with self.assertRaisesRegex(LoadError, "x.safetensors, y.safetensors.*weight_name"):
            self.shapes(LoraAdapter="two")


class IPAdapterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="ip-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        adapter_files.ip_adapter(cls.folder / "ip" / "ip-adapter.safetensors")
        cls.model = checkpoint("StableDiffusionPipeline")
        cls.plain = picture(load(cls.model))
        cls.source = str(cls.folder / "src.png")
        cls.plain.rotate(90).save(cls.source)

    def with_adapter(self, *options: str) -> Any:
        return load(self.model, ModelPath=str(self.folder), Options=["ip_adapter:ip", *options])

    def test_a_picture_is_a_prompt(self) -> None:
        self.assertGreater(difference(picture(self.with_adapter(), src=self.source), self.plain), 1)

    def test_without_a_picture_the_adapter_counts_nothing(self) -> None:
        model = self.with_adapter()
        picture(model, src=self.source)
        self.assertLess(difference(picture(model), self.plain), 0.1)

    def test_scale_0_takes_no_notice_of_the_picture(self) -> None:
        self.assertLess(difference(picture(self.with_adapter("ip_adapter_scale:0"), src=self.source), self.plain), 0.1)

    def test_a_second_picture_is_the_source_of_image_to_image(self) -> None:
        model = self.with_adapter()
        both = picture(model, src=self.source, ref_images=[self.source])
        self.assertGreater(difference(both, picture(load(self.model), src=self.source)), 1)

    def test_several_adapters_take_a_picture_and_a_scale_each(self) -> None:
        second = self.folder / "second.safetensors"
        adapter_files.save(
            {key: tensor * 0.5 for key, tensor in adapter_files.weights_of(self.folder / "ip").items()}, second
        )
        model = load(self.model, ModelPath=str(self.folder), Options=["ip_adapter:ip, second.safetensors"])
        both = {"src": self.source, "ref_images": [self.source]}
        self.assertGreater(difference(picture(model, **both), self.plain), 1)
        self.assertEqual(difference(picture(model), self.plain), 0)
        with self.assertRaisesRegex(InvalidRequest, "2 IP-Adapters, and the request brings 1"):
            picture(model, src=self.source)
        scaled = ['ip_adapter:["ip","second.safetensors"]', "ip_adapter_scale:[1.0,0.0]"]
        model = load(self.model, ModelPath=str(self.folder), Options=scaled)
        one = picture(self.with_adapter(), src=self.source)
        self.assertLess(difference(picture(model, **both), one), 1)

    def test_a_scale_may_differ_by_block(self) -> None:
        off = picture(self.with_adapter('ip_adapter_scale:{"down":0.0,"mid":0.0,"up":0.0}'), src=self.source)
        self.assertEqual(difference(off, self.plain), 0)
        some = picture(self.with_adapter('ip_adapter_scale:{"up":{"block_1":[0.0,1.0]}}'), src=self.source)
        self.assertGreater(difference(some, self.plain), 1)
        for scale in ("much", "[1,2]", '{"sideways":1}'):
            with self.assertRaisesRegex(LoadError, "ip_adapter"):
                self.with_adapter(f"ip_adapter_scale:{scale}")

    def test_an_adapter_that_is_fed_by_faces_is_refused_with_the_way_out(self) -> None:
        file = adapter_files.save(
            {
                "image_proj.proj.0.weight": torch.zeros(4, 4),
                "image_proj.norm.weight": torch.zeros(4),
                "ip_adapter.0.to_k_lora.down.weight": torch.zeros(4, 4),
            },
            self.folder / "face.safetensors",
        )
        with self.assertRaisesRegex(LoadError, "FaceID.*insightface.*plus-face"):
            load(self.model, Options=[f"ip_adapter:{file}"])

    def test_weights_without_an_image_encoder_say_what_is_missing(self) -> None:
        lone = shutil.copy(self.folder / "ip" / "ip-adapter.safetensors", self.folder / "lone.safetensors")
        with self.assertRaisesRegex(LoadError, "image_encoder:"):
            load(self.model, Options=[f"ip_adapter:{lone}"])
        encoder = self.folder / "ip" / "image_encoder"
        model = load(self.model, Options=[f"ip_adapter:{lone}", f"image_encoder:{encoder}"])
        self.assertGreater(difference(picture(model, src=self.source), self.plain), 1)

    def test_weights_of_another_sort_are_refused(self) -> None:
        vae = next((self.model / "vae").glob("*.safetensors"))
        with self.assertRaisesRegex(LoadError, "is no IP-Adapter"):
            load(self.model, Options=[f"ip_adapter:{vae}"])

    def test_one_made_for_another_image_encoder_is_refused_with_the_way_out(self) -> None:
        layers = {"image_proj.proj.weight": (256, 48), "ip_adapter.1.to_k_ip.weight": (32, 32)}
        plus = {"image_proj.proj_in.weight": (64, 48), "ip_adapter.1.to_k_ip.weight": (32, 32)}
        for name, shapes, entry in (("plain", layers, "projection_dim"), ("plus", plus, "hidden_size")):
            folder = shutil.copytree(self.folder / "ip", self.folder / f"of-{name}")
            tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
            adapter_files.save(tensors, folder / "ip-adapter.safetensors")
            with self.assertRaisesRegex(LoadError, f"reads 48 numbers .* {entry} 32: .*options: image_encoder:"):
                load(self.model, ModelPath=str(self.folder), Options=[f"ip_adapter:of-{name}"])

    def test_one_of_another_family_is_refused_before_the_load(self) -> None:
        file = shutil.copytree(self.folder / "ip", self.folder / "of-another-family") / "wide.safetensors"
        adapter_files.save({"ip_adapter.1.to_k_ip.weight": torch.zeros(32, 99)}, file)
        with self.assertRaisesRegex(LoadError, "attends to 99 numbers, and this model's denoiser to 32"):
            load(self.model, Options=[f"ip_adapter:{file}"])

    def test_a_pipeline_without_ip_adapters_says_so(self) -> None:
        with self.assertRaisesRegex(LoadError, "DDPMPipeline takes no IP-Adapter"):
            load(checkpoint("DDPMPipeline"), Options=[f"ip_adapter:{self.folder / 'ip'}"])


class TextualInversionTest(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.model = checkpoint("StableDiffusionPipeline")

    def embedding(self, name: str, key: str, width: int = 32, rows: int = 1) -> None:
        torch.manual_seed(0)
        adapter_files.save({key: torch.randn(rows, width) * 3}, self.folder / name)

    def inverted(self, option: str) -> Any:
        return load(self.model, ModelPath=str(self.folder), Options=[f"textual_inversion:{option}"])

    def test_a_new_word_changes_only_the_prompts_that_use_it(self) -> None:
        self.embedding("cat.safetensors", "<cat>")
        model, plain = self.inverted("cat.safetensors"), load(self.model)
        self.assertGreater(difference(picture(model, "a <cat>"), picture(plain, "a <cat>")), 0.5)
        self.assertEqual(difference(picture(model, "a circle"), picture(plain, "a circle")), 0)

    def test_embeddings_without_a_word_take_the_files_name(self) -> None:
        self.embedding("dog.safetensors", "emb_params", rows=2)
        model = self.inverted("dog.safetensors")
        self.assertIn("dog may be used", " ".join(model.notes))
        self.assertGreater(difference(picture(model, "a dog"), picture(load(self.model), "a dog")), 0.5)

    def test_embeddings_of_another_width_are_an_error(self) -> None:
        self.embedding("bad.safetensors", "<bad>", width=33)
        with self.assertRaisesRegex(LoadError, "bad.safetensors.*does not fit"):
            self.inverted("bad.safetensors")


if __name__ == "__main__":
    unittest.main()
