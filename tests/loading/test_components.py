# SPDX-License-Identifier: MIT
"""Components from elsewhere: VAE, text encoder, companion artifacts and ControlNets replace or join the model's own."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch

from localai_diffusers.errors import InvalidRequest, LoadError
from tests import adapter_files
from tests.adapter_files import difference
from tests.support import generate, load
from tests.zoo import checkpoint

SIZE = {"width": 32, "height": 32, "step": 2, "seed": 1}


def picture(model: Any, **fields: Any) -> Any:
    return generate(model, "red circle", **{**SIZE, **fields})[0]


class ReplacementTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="components-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.model, cls.flux = checkpoint("StableDiffusionPipeline"), checkpoint("FluxPipeline")
        adapter_files.component("StableDiffusionPipeline", "vae", cls.folder / "vae")
        shutil.copy(next((cls.folder / "vae").glob("*.safetensors")), cls.folder / "vae.safetensors")
        adapter_files.component("StableDiffusionPipeline", "text_encoder", cls.folder / "clip")
        shutil.copytree(cls.model, cls.folder / "pipeline")
        shutil.rmtree(cls.folder / "pipeline" / "text_encoder")
        shutil.copytree(cls.folder / "clip", cls.folder / "pipeline" / "text_encoder")
        adapter_files.component("FluxPipeline", "text_encoder_2", cls.folder / ".artifacts" / "t5")
        cls.plain = picture(load(cls.model))

    def made(self, **fields: Any) -> Any:
        return picture(load(self.model, ModelPath=str(self.folder), **fields))

    def changed(self, **fields: Any) -> float:
        return difference(self.made(**fields), self.plain)

    def test_the_models_own_vae_by_option_changes_nothing(self) -> None:
        self.assertEqual(self.changed(Options=[f"vae:{self.model / 'vae'}"]), 0)

    def test_vae_takes_a_folder_a_file_and_a_whole_pipeline(self) -> None:
        by_folder = self.made(Options=["vae:vae"])
        self.assertGreater(difference(by_folder, self.plain), 1)
        self.assertEqual(difference(self.made(Options=["vae:vae.safetensors"]), by_folder), 0)
        self.assertEqual(self.changed(Options=["vae:pipeline"]), 0)

    def test_a_lone_file_of_a_text_encoder_is_read_whole_or_not_at_all(self) -> None:
        text, vae = (next((self.folder / part).glob("*.safetensors")) for part in ("clip", "vae"))
        self.assertEqual(difference(self.made(Options=[f"text_encoder:{text}"]), self.made(CLIPModel="clip")), 0)
        with self.assertRaisesRegex(LoadError, "that can be read as a CLIPTextModel"):
            self.changed(Options=[f"text_encoder:{vae}"])
        with self.assertRaisesRegex(LoadError, "that can be read as a AutoencoderKL"):
            self.changed(Options=[f"vae:{text}"])

    def test_a_vae_keeps_to_the_dtype_of_the_load(self) -> None:
        model = load(self.model, ModelPath=str(self.folder), Options=["vae:vae", "torch_dtype:bf16"])
        self.assertEqual(model.pipeline.vae.dtype, torch.bfloat16)

    def test_clip_model_replaces_the_text_encoder(self) -> None:
        by_folder = self.made(CLIPModel="clip")
        self.assertGreater(difference(by_folder, self.plain), 1)
        for fields in (
            {"CLIPModel": "pipeline"},
            {"CLIPModel": "pipeline", "CLIPSubfolder": "text_encoder"},
            {"Options": ["clip_model:clip"]},
        ):
            self.assertEqual(difference(self.made(**fields), by_folder), 0, fields)

    def test_a_companion_artifact_reaches_the_component_of_its_name(self) -> None:
        model = load(self.flux, ModelPath=str(self.folder), Options=["text_encoder_2:.artifacts/t5"])
        self.assertGreater(difference(picture(model), picture(load(self.flux))), 0.5)

    def test_another_familys_component_is_an_error_that_says_so(self) -> None:
        for option, words in (
            (f"vae:{self.flux / 'vae'}", "latent_channels 16"),
            (f"vae:{self.model / 'unet'}", "UNet2DConditionModel"),
            (f"clip_model:{self.flux / 'text_encoder_2'}", "of type t5"),
        ):
            with self.assertRaisesRegex(LoadError, words):
                load(self.model, Options=[option])

    def test_a_missing_component_names_the_field_and_stays_inside(self) -> None:
        for fields, words in (
            ({"Options": ["vae:nope"]}, "option vae 'nope' is neither"),
            ({"CLIPModel": "nope"}, "CLIPModel 'nope'"),
            ({"Options": ["vae:../vae"]}, "option vae '../vae' leaves"),
            ({"CLIPModel": "pipeline", "CLIPSubfolder": "no"}, "no folder 'no'"),
        ):
            with self.assertRaisesRegex(LoadError, words):
                load(self.model, ModelPath=str(self.folder), **fields)

    def test_a_pipeline_without_that_component_says_what_it_has(self) -> None:
        with self.assertRaisesRegex(LoadError, "DDPMPipeline has no component vae. It has scheduler, unet"):
            load(checkpoint("DDPMPipeline"), ModelPath=str(self.folder), Options=["vae:vae"])


class ControlNetTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="controlnet-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        adapter_files.controlnet("StableDiffusionControlNetPipeline", cls.folder / "sd")
        adapter_files.controlnet("StableDiffusionXLControlNetPipeline", cls.folder / "xl")
        adapter_files.controlnet("FluxControlNetPipeline", cls.folder / "flux")
        cls.model = checkpoint("StableDiffusionPipeline")
        cls.plain = picture(load(cls.model))
        cls.source = str(cls.folder / "src.png")
        cls.plain.rotate(90).save(cls.source)
        cls.control = cls.folder / "control.png"
        cls.plain.resize((64, 64)).save(cls.control)

    def controlled(self, net: str, model: str = "StableDiffusionPipeline", **fields: Any) -> Any:
        return load(checkpoint(model), ControlNet=net, ModelPath=str(self.folder), **fields)

    def test_the_pipeline_becomes_its_sibling_with_a_controlnet(self) -> None:
        for net, model in (
            ("sd", "StableDiffusionPipeline"),
            ("xl", "StableDiffusionXLPipeline"),
            ("flux", "FluxPipeline"),
        ):
            loaded = self.controlled(net, model)
            self.assertEqual(type(loaded.pipeline).__name__, model.replace("Pipeline", "ControlNetPipeline"))
            self.assertEqual(picture(loaded, src=self.source).size, (32, 32))

    def test_the_scale_option_sets_its_strength(self) -> None:
        off = self.controlled("sd", Options=["controlnet_conditioning_scale:0.0"])
        self.assertLess(difference(picture(off, src=self.source), self.plain), 0.1)
        self.assertGreater(difference(picture(self.controlled("sd"), src=self.source), self.plain), 1)

    def test_several_are_taken_together(self) -> None:
        loaded = self.controlled("sd, sd")
        self.assertEqual(len(loaded.pipeline.controlnet.nets), 2)
        self.assertEqual(picture(loaded, ref_images=[self.source, self.source]).size, (32, 32))

    def test_each_net_takes_a_picture_and_a_scale(self) -> None:
        loaded = self.controlled("sd, sd", Options=["controlnet_conditioning_scale:[0.0,0.0]"])
        two = {"src": self.source, "ref_images": [self.source]}
        self.assertLess(difference(picture(loaded, **two), self.plain), 0.1)
        for fields in ({"src": self.source}, {"src": self.source, "ref_images": [self.source] * 4}):
            with self.assertRaisesRegex(InvalidRequest, "2 ControlNets and the request brings [15] picture"):
                picture(loaded, **fields)
        with self.assertRaisesRegex(InvalidRequest, "3 scales for 2 ControlNets"):
            picture(self.controlled("sd, sd", Options=["controlnet_conditioning_scale:[1,1,1]"]), **two)

    def test_one_scale_counts_for_all_whatever_the_family(self) -> None:
        made = []
        for scale in ("0.5", "[0.5,0.5]", "[0.5,0.0]"):
            loaded = self.controlled("flux, flux", "FluxPipeline", Options=[f"controlnet_conditioning_scale:{scale}"])
            made.append(picture(loaded, src=self.source, ref_images=[self.source]))
        self.assertEqual(difference(made[0], made[1]), 0)
        self.assertGreater(difference(made[0], made[2]), 0.1)

    def test_pictures_beyond_the_nets_are_the_source_and_its_mask(self) -> None:
        mask = str(self.folder / "mask.png")
        self.plain.convert("L").point(lambda level: 255).save(mask)
        for pictures, task in (([], ""), ([self.source], "Img2Img"), ([mask, self.source], "Inpaint")):
            loaded = self.controlled("sd")
            self.assertEqual(picture(loaded, src=self.source, ref_images=pictures, step=4).size, (32, 32))
            self.assertEqual(type(loaded._active).__name__, f"StableDiffusionControlNet{task}Pipeline")

    def test_inpainting_without_a_picture_for_control_says_so(self) -> None:
        pair = json.dumps(
            {name: base64.b64encode(Path(self.source).read_bytes()).decode() for name in ("image", "mask_image")}
        )
        source = self.folder / "inpaint.json"
        source.write_text(pair, encoding="utf-8")
        with self.assertRaisesRegex(InvalidRequest, "1 ControlNet and the request brings 0 pictures for control"):
            picture(self.controlled("sd"), src=str(source))

    def test_a_union_of_nets_is_told_which(self) -> None:
        adapter_files.controlnet("StableDiffusionXLControlNetUnionPipeline", self.folder / "union")
        with self.assertRaisesRegex(InvalidRequest, "a union of 6: .*control_mode:0"):
            picture(self.controlled("union", "StableDiffusionXLPipeline"), src=self.source)
        loaded = self.controlled("union", "StableDiffusionXLPipeline", Options=["control_mode:1"])
        self.assertEqual(picture(loaded, src=self.source).size, (32, 32))

    def test_a_picture_for_each_mode_of_a_union_is_a_control(self) -> None:
        """Against plain diffusers with the same weights, in both families that say modes; none is a source."""
        import diffusers
        from diffusers.utils import load_image

        pictures = [self.source, self.mask_of_control()]
        given = [load_image(path) for path in pictures]
        adapter_files.controlnet("StableDiffusionXLControlNetUnionPipeline", self.folder / "several")
        self.flux_union(self.folder / "flux-several")
        xl, flux = diffusers.StableDiffusionXLControlNetUnionPipeline, diffusers.FluxControlNetPipeline
        cases = (
            ("several", "StableDiffusionXLPipeline", xl, diffusers.ControlNetUnionModel, lambda net: net),
            ("flux-several", "FluxPipeline", flux, diffusers.FluxControlNetModel, lambda net: [net, net]),
        )
        for name, model, cls, kind, form in cases:
            with self.subTest(model):
                loaded = self.controlled(name, model, Options=["control_mode:[0,2]"])
                made = picture(loaded, src=pictures[0], ref_images=pictures[1:])
                parts = diffusers.DiffusionPipeline.from_pretrained(checkpoint(model)).components
                plain = cls(**parts, controlnet=form(kind.from_pretrained(self.folder / name)))
                call = dict(
                    prompt="red circle", control_image=given, control_mode=[0, 2], width=32, height=32,
                    num_inference_steps=2, controlnet_conditioning_scale=[1.0, 1.0],
                )  # fmt: skip
                right = plain(**call, generator=torch.Generator().manual_seed(1)).images[0]
                self.assertEqual(difference(made, right), 0)
                other = plain(
                    **{**call, "control_image": given[:1] * 2}, generator=torch.Generator().manual_seed(1)
                ).images
                self.assertGreater(difference(made, other[0]), 0)
                with self.assertRaisesRegex(
                    InvalidRequest, "control_mode says 2 modes and the request brings 1 picture"
                ):
                    picture(loaded, src=pictures[0])

    def mask_of_control(self) -> str:
        path = self.folder / "second.png"
        self.plain.transpose(0).rotate(90).save(path)
        return str(path)

    def flux_union(self, folder: Path) -> None:
        """The zoo's Flux ControlNet as a union of four."""
        import diffusers

        config = diffusers.FluxControlNetModel.load_config(checkpoint("FluxControlNetPipeline") / "controlnet")
        torch.manual_seed(0)
        net = diffusers.FluxControlNetModel.from_config({**config, "num_mode": 4})
        for parameter in net.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.5)
        net.save_pretrained(folder)

    def test_a_lone_file_takes_its_config_from_beside_it_or_from_the_option(self) -> None:
        by_folder = picture(self.controlled("sd"), src=self.source)
        file = next((self.folder / "sd").glob("*.safetensors"))
        shutil.copy(file, self.folder / "lone.safetensors")
        shutil.copy(next((self.folder / "flux").glob("*.safetensors")), self.folder / "lone-flux.safetensors")
        for net, option in ((str(file), []), ("lone.safetensors", ["controlnet_config:sd"])):
            self.assertEqual(difference(picture(self.controlled(net, Options=option), src=self.source), by_folder), 0)
        flux = self.controlled("lone-flux.safetensors", "FluxPipeline", Options=["controlnet_config:flux"])
        self.assertEqual(type(flux.pipeline.controlnet).__name__, "FluxControlNetModel")

    def test_a_lone_file_that_is_none_or_says_nothing_is_an_error_with_the_way_out(self) -> None:
        shutil.copy(next((self.model / "vae").glob("*.safetensors")), self.folder / "vae.safetensors")
        shutil.copy(next((self.folder / "flux").glob("*.safetensors")), self.folder / "lone-flux.safetensors")
        with self.assertRaisesRegex(LoadError, "vae.safetensors' lacks some of the weights of a ControlNetModel"):
            self.controlled("vae.safetensors", Options=["controlnet_config:sd"])
        with self.assertRaisesRegex(LoadError, "no ControlNet or T2I-Adapter for this model .*controlnet_config:"):
            self.controlled("lone-flux.safetensors")
        flux = self.controlled("lone-flux.safetensors", "FluxPipeline")
        self.assertEqual(type(flux.pipeline.controlnet).__name__, "FluxControlNetModel")
        with self.assertRaisesRegex(LoadError, "'sd/../..*' leaves|has no config.json"):
            self.controlled("vae.safetensors", Options=["controlnet_config:."])

    def test_img2img_and_an_explicit_class_keep_their_task(self) -> None:
        by_flag = type(self.controlled("sd", IMG2IMG=True).pipeline)
        self.assertEqual(by_flag.__name__, "StableDiffusionControlNetImg2ImgPipeline")
        asked = "StableDiffusionControlNetInpaintPipeline"
        self.assertEqual(type(self.controlled("sd", PipelineType=asked).pipeline).__name__, asked)

    def test_a_t2i_adapter_is_taken_in_a_controlnets_place(self) -> None:
        for model in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
            named = model.replace("Pipeline", "AdapterPipeline")
            net, plain = str(checkpoint(named) / "adapter"), picture(load(checkpoint(model)), width=64, height=64)
            one, off = (
                self.controlled(net, model, Options=options) for options in ([], ["adapter_conditioning_scale:0.0"])
            )
            self.assertEqual(type(one.pipeline).__name__, named)
            control = {"src": str(self.control), "width": 64, "height": 64}
            self.assertGreater(difference(picture(one, **control), plain), 1)
            self.assertEqual(difference(picture(off, **control), plain), 0)
            two = self.controlled(f"{net}, {net}", model)
            self.assertEqual(picture(two, ref_images=[str(self.control)], **control).size, (64, 64))
            with self.assertRaisesRegex(InvalidRequest, "2 T2I-Adapters and the request brings 1 picture"):
                picture(two, **control)

    def test_another_familys_controlnet_is_an_error_that_says_which(self) -> None:
        with self.assertRaisesRegex(LoadError, "cross_attention_dim 64, and this model's unet 32"):
            self.controlled("xl")
        with self.assertRaisesRegex(LoadError, "is a ControlNetModel; .*FluxPipeline.* take FluxControlNetModel"):
            self.controlled("sd", "FluxPipeline")

    def test_what_is_no_controlnet_is_an_error(self) -> None:
        with self.assertRaisesRegex(LoadError, "is a UNet2DConditionModel"):
            self.controlled(str(self.model / "unet"))
        with self.assertRaisesRegex(LoadError, "ControlNet 'nope'"):
            self.controlled("nope")
        with self.assertRaisesRegex(LoadError, "DDPMPipeline"):
            self.controlled("sd", "DDPMPipeline")


if __name__ == "__main__":
    unittest.main()
