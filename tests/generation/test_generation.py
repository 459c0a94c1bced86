# SPDX-License-Identifier: MIT
"""One generation on a loaded model: the right pipeline, the right picture, the file and its text."""

from __future__ import annotations

import dataclasses
import os
import shutil
import unittest
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, ImageChops, ImageStat

from localai_diffusers.errors import Cancelled, GenerationFailed, InvalidRequest, NotSupported
from localai_diffusers.generation import generation
from localai_diffusers.settings import Settings
from tests.adapter_files import difference
from tests.composites import laid_over
from tests.shapes_judge import PALETTE, judge
from tests.support import SHAPES_MODEL, FolderCase, arguments_of, generate, image_request, load, new_job, zoo_model
from tests.zoo import checkpoint

PROMPT = "a red circle on a blue background"


class ShapesCase(FolderCase):
    """Tests on the shipped, really trained model."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.model = load(SHAPES_MODEL, CFGScale=5)

    def make(self, prompt: str = PROMPT, model: Any = None, **fields: Any) -> tuple[Image.Image, Any]:
        fields.setdefault("dst", str(self.folder / "out.png"))
        return generate(model or self.model, prompt, **{"step": 15, "seed": 1, "width": 64, "height": 64, **fields})

    def drawing(self, name: str = "src", prompt: str = "a green square on a white background") -> str:
        """Path of a picture that the model made."""
        path = self.folder / name
        self.make(prompt)[0].save(path, "PNG")
        return str(path)


class TextToImageTest(ShapesCase):
    def test_the_picture_is_what_the_prompt_asks_for(self) -> None:
        for prompt in (PROMPT, "a yellow triangle on a black background", "a green square on a white background"):
            self.assertEqual(judge(self.make(prompt)[0]).prompt(), prompt)

    def test_the_same_seed_gives_the_same_pixels_and_another_others(self) -> None:
        first = self.make(seed=7)[0].tobytes()
        torch.rand(5)  # noise drawn elsewhere must not matter
        self.assertEqual(self.make(seed=7)[0].tobytes(), first)
        self.assertNotEqual(self.make(seed=8)[0].tobytes(), first)

    def test_seed_0_is_a_seed_and_a_negative_one_random_and_told(self) -> None:
        self.assertEqual(self.make(seed=0, step=2)[0].tobytes(), self.make(seed=0, step=2)[0].tobytes())
        image, outcome = self.make(seed=-1, step=2)
        self.assertRegex(outcome.message(), rf"PNG 64x64, seed {outcome.seed}$")
        self.assertEqual(self.make(seed=outcome.seed, step=2)[0].tobytes(), image.tobytes())

    def test_a_request_leaves_no_trace_in_the_next(self) -> None:
        before = self.make()[0].tobytes()
        self.make("a yellow triangle on a black background", src=self.drawing(), step=5)
        self.make(negative_prompt="a circle", CLIPSkip=1, width=96, height=40, step=3)
        self.assertEqual(self.make()[0].tobytes(), before)

    def test_a_size_is_rounded_to_the_nearest_and_told(self) -> None:
        image, outcome = self.make(width=67, height=61, step=2)
        self.assertEqual(image.size, (64, 64))
        self.assertIn("67x61 is rounded to 64x64", outcome.message())

    def test_a_negative_prompt_counts(self) -> None:
        self.assertGreater(difference(self.make(negative_prompt="a blue square", step=4)[0], self.make(step=4)[0]), 0)

    def test_clip_skip_counts_unless_the_variable_switches_it_off(self) -> None:
        plain = self.make(step=4)[0]
        self.assertGreater(difference(self.make(step=4, CLIPSkip=1)[0], plain), 0)
        without = load(SHAPES_MODEL, settings=Settings(clip_skip=False), CFGScale=5, CLIPSkip=1)
        self.assertEqual(difference(self.make(model=without, step=4, CLIPSkip=1)[0], plain), 0)


class PicturesInTest(ShapesCase):
    def test_src_with_a_text_to_image_model_runs_its_image_to_image_sibling(self) -> None:
        model = load(SHAPES_MODEL, CFGScale=5, Options=["strength:0.95"])
        image, _ = self.make(model=model, src=self.drawing(), step=20)
        self.assertEqual(judge(image).prompt(), PROMPT)
        self.assertIn("StableDiffusionImg2ImgPipeline", image.info["parameters"])

    def test_a_low_strength_keeps_more_of_the_source(self) -> None:
        source = Image.open(self.drawing()).convert("RGB")
        far = []
        for strength in (0.05, 0.95):
            model = load(SHAPES_MODEL, CFGScale=5, Options=[f"strength:{strength}"])
            image, _ = self.make(model=model, src=str(self.folder / "src"), step=20)
            far.append(sum(ImageStat.Stat(ImageChops.difference(image.convert("RGB"), source)).mean))
        self.assertLess(far[0], far[1] / 2)

    def test_the_source_keeps_its_aspect_and_the_size_bounds_it(self) -> None:
        image, outcome = self.make(src=self.picture("wide", (128, 64)), step=2)
        self.assertEqual(image.size, (64, 32))
        self.assertIn("128x64 is taken at 64x32", outcome.message())
        self.assertEqual(
            self.make(src=self.picture("small", (40, 64)), step=2, width=512, height=512)[0].size, (40, 64)
        )

    def test_the_inpainting_request_makes_what_plain_diffusers_makes_at_the_pictures_own_size(self) -> None:
        """Whatever the core's 512 says; what the mask leaves is the source's."""
        from diffusers import StableDiffusionInpaintPipeline

        mask = Image.new("L", (96, 64), 0)
        mask.paste(255, (32, 0, 96, 64))
        image, _ = self.make(**{**self.inpainting((96, 64), PALETTE["yellow"], mask), "seed": 1}, step=6)
        plain = StableDiffusionInpaintPipeline.from_pretrained(SHAPES_MODEL, dtype=torch.float32)
        source = Image.new("RGB", (96, 64), PALETTE["yellow"])
        expected = plain(
            PROMPT,
            source,
            mask,
            width=96,
            height=64,
            num_inference_steps=6,
            guidance_scale=5,
            generator=torch.Generator().manual_seed(1),
        ).images[0]
        self.assertEqual(image.size, (96, 64))
        off = numpy.abs(numpy.asarray(image, float) - laid_over(expected, source, mask, 1))
        self.assertLessEqual(off.max(), 1.51)  # half a level of the blend, and one that rounding may take the other way

    def test_seed_0_is_random_in_the_inpainting_request(self) -> None:
        seeds = {self.make(**self.inpainting(), step=1)[1].seed for _ in range(3)}
        self.assertEqual(len(seeds), 3)

    def test_an_image_to_image_class_without_a_picture_runs_its_text_sibling(self) -> None:
        model = load(SHAPES_MODEL, PipelineType="StableDiffusionImg2ImgPipeline", CFGScale=5)
        image, _ = self.make(model=model)
        self.assertEqual(difference(image, self.make()[0]), 0)

    def test_the_pixels_are_those_of_plain_diffusers(self) -> None:
        """Nothing of ours changes the picture: the same call on the same weights."""
        from diffusers import StableDiffusionImg2ImgPipeline

        path = self.drawing()
        plain = StableDiffusionImg2ImgPipeline.from_pretrained(SHAPES_MODEL, dtype=torch.float32)
        image = plain(
            PROMPT,
            Image.open(path).convert("RGB"),
            num_inference_steps=10,
            guidance_scale=5,
            generator=torch.Generator().manual_seed(1),
        ).images[0]
        self.assertEqual(difference(self.make(src=path, step=10)[0].convert("RGB"), image), 0)

    def test_a_model_that_takes_no_picture_refuses_one(self) -> None:
        with self.assertRaisesRegex(NotSupported, "DDPMPipeline takes"):
            generate(zoo_model("DDPMPipeline"), "x", src=self.picture())

    def test_a_model_that_edits_pictures_refuses_a_request_without_one(self) -> None:
        for name in (
            "QwenImageEditPipeline",
            "StableDiffusionInstructPix2PixPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionUpscalePipeline",
        ):
            with self.assertRaisesRegex(InvalidRequest, "image"):
                generate(zoo_model(name), "x", step=1, seed=1)


class FileTest(ShapesCase):
    def test_it_is_png_whatever_the_extension_but_jpg_and_webp(self) -> None:
        for name, expected in (
            ("a.png", "PNG"),
            ("localai-output-1.tmp", "PNG"),
            ("a", "PNG"),
            ("a.mp4", "PNG"),
            ("a.jpg", "JPEG"),
            ("a.webp", "WEBP"),
        ):
            dst = self.folder / name
            _, outcome = self.make(dst=str(dst), step=1)
            self.assertEqual(Image.open(dst).format, expected, name)
            self.assertTrue(outcome.description.startswith(expected))

    def test_the_mode_of_the_file_that_the_core_created_is_kept(self) -> None:
        dst = self.folder / "b64.png"
        dst.touch(mode=0o600)
        self.make(dst=str(dst), step=1)
        self.assertEqual(dst.stat().st_mode & 0o777, 0o600)
        self.assertEqual(os.listdir(self.folder), ["b64.png"])

    def test_a_cancelled_job_writes_nothing(self) -> None:
        job = new_job()
        job.cancel("the client left")
        request = image_request(PROMPT, dst=str(self.folder / "out.png"), step=2)
        with self.assertRaises(Cancelled):
            generation.generate(self.model, request, job)
        self.assertEqual(os.listdir(self.folder), [])

    def test_the_text_tells_how_it_was_made_without_the_prompt(self) -> None:
        text = self.make("a red circle on a blue background", negative_prompt="fog", step=3, seed=5)[0].info[
            "parameters"
        ]
        self.assertRegex(
            text,
            r"^Steps: 3, Sampler: DDIMScheduler, CFG scale: 5.0, Seed: 5, Size: 64x64, Model: shapes-model, "
            r'Pipeline: StableDiffusionPipeline, Device: cpu float32, Versions: "diffusers 0[^"]+"$',
        )

    def test_the_notes_of_the_load_and_of_the_generation_are_in_it_but_no_folder_and_nothing_a_person_wrote(
        self,
    ) -> None:
        noted = dataclasses.replace(self.model, notes=("/srv/secret/a.safetensors: idle", "the purple zebra is odd"))
        text = self.make("the purple zebra", model=noted, step=1, width=70, height=64)[0].info["parameters"]
        self.assertRegex(text, r'Notes: "a.safetensors: idle(; |")')
        self.assertNotRegex(text, "zebra|/srv")

    def test_the_prompts_are_in_it_on_demand_and_nothing_when_off(self) -> None:
        full = dataclasses.replace(self.model, settings=Settings(metadata="full"))
        text = self.make("circle (red)", model=full, negative_prompt="fog", step=1)[0].info["parameters"]
        self.assertRegex(text, r"^circle \(red\)\nNegative prompt: fog\nSteps: 1, ")
        off = dataclasses.replace(self.model, settings=Settings(metadata="off"))
        self.assertNotIn("parameters", self.make(model=off, step=1)[0].info)

    def test_the_models_path_is_never_in_it(self) -> None:
        self.assertNotIn(str(SHAPES_MODEL.parent), self.make(step=1)[0].info["parameters"])


class FamiliesTest(FolderCase):
    """Rules that show on other families' tiny models."""

    def test_a_turbo_by_name_runs_without_guidance(self) -> None:
        folder = Path(shutil.copytree(checkpoint("ZImagePipeline"), self.folder / "Z-Image-Turbo"))
        turbo = load(folder, CFGScale=0, PipelineType="ZImagePipeline", Options=["torch_dtype:bf16"])
        self.assertEqual(arguments_of(turbo, "a cat", step=9)["guidance_scale"], 0.0)
        self.assertNotIn("guidance_scale", arguments_of(load(checkpoint("ZImagePipeline")), "a cat"))
        self.assertRegex(
            generate(turbo, "a cat", step=2, seed=1, width=32, height=32)[0].info["parameters"], "CFG scale: 0"
        )

    def test_qwens_true_cfg_scale_makes_a_difference(self) -> None:
        one, two = (load(checkpoint("QwenImagePipeline"), Options=[f"true_cfg_scale:{scale}"]) for scale in (1.0, 4.0))
        fields = {"step": 2, "seed": 1, "width": 32, "height": 32}
        self.assertGreater(difference(*(generate(model, "a cat", **fields)[0] for model in (one, two))), 0)

    def test_a_size_is_kept_where_the_pipeline_knows_no_sizes_near_it_for_this_model(self) -> None:
        image, _ = generate(load(checkpoint("PixArtAlphaPipeline")), "a cat", step=2, seed=1, width=48, height=64)
        self.assertEqual(image.size, (48, 64))

    def test_a_size_is_rounded_to_what_the_code_asks_for_where_the_model_has_no_sizes_of_its_own(self) -> None:
        """Sana's video knows no sizes for this model, and wants multiples of 32."""
        model = load(checkpoint("SanaVideoPipeline"), Options=["frames:5"])
        request = image_request("a cat", dst=str(self.folder / "out.mp4"), width=48, height=64, step=2, seed=1)
        self.assertIn("64x64", generation.generate(model, request, new_job()).message())

    def test_a_prompt_that_is_too_long_to_be_encoded_is_the_requests_fault(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "refuses the request: .*the request gave it .*prompt, "):
            generate(load(checkpoint("LongCatImageEditPipeline")), "a cat " * 1000, src=self.picture(), step=1)

    def test_what_single_models_need_is_in_the_first_call(self) -> None:
        """Rows of quirks, each tested by itself in tests/pipeline/test_quirks.py."""
        self.assertEqual(
            arguments_of(zoo_model("FluxKontextPipeline"), "a cat", width=64, height=32)["max_area"], 64 * 32
        )
        listed = arguments_of(zoo_model("GlmImagePipeline"), "a cat", src=self.picture())["image"]
        self.assertEqual([picture.size for picture in listed], [(64, 64)])
        self.assertIn(
            "edit_instruction", arguments_of(zoo_model("BriaFiboEditPipeline"), "red", src=self.picture())["prompt"]
        )

    def test_a_prior_names_the_pipeline_to_load_whatever_the_request_brings(self) -> None:
        with self.assertRaisesRegex(NotSupported, "makes embeddings, not a file: load KandinskyV22CombinedPipeline"):
            generate(zoo_model("KandinskyV22PriorPipeline"), "a cat", src=self.picture())

    def test_a_picture_of_nothing_but_nan_is_no_picture(self) -> None:
        model = load(checkpoint("DDPMPipeline"))
        with torch.no_grad():
            model.pipeline.unet.conv_out.bias.fill_(float("nan"))
        with self.assertRaisesRegex(GenerationFailed, "NaN.*torch_dtype"):
            generate(model, step=2)
        with self.assertRaisesRegex(InvalidRequest, "step=1: the picture is nothing but NaN.*send 2 or more"):
            generate(zoo_model("KarrasVePipeline"), step=1)

    def test_every_size_is_taken_by_families_of_every_kind(self) -> None:
        for name in (
            "FluxPipeline",
            "StableDiffusion3Pipeline",
            "ZImagePipeline",
            "QwenImagePipeline",
            "StableDiffusionXLPipeline",
            "SanaPipeline",
        ):
            options = (
                {"use_resolution_binning": False, "complex_human_instruction": None} if name == "SanaPipeline" else {}
            )
            model = zoo_model(name)
            model = dataclasses.replace(model, defaults=dataclasses.replace(model.defaults, options=options))
            image, outcome = generate(model, "a cat", step=1, seed=1, width=70, height=45)
            self.assertTrue(abs(image.width - 70) <= 16 and abs(image.height - 45) <= 32, f"{name} {image.size}")
            self.assertIn("rounded", outcome.message())

    def test_a_pipelines_own_refusal_is_the_requests_fault(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "FluxPipeline refuses the request.*max_sequence_length"):
            model = load(checkpoint("FluxPipeline"), Options=["max_sequence_length:9999"])
            generate(model, "a cat", step=1)

    def test_text_to_video_through_generate_image_writes_a_video(self) -> None:
        """The documented txt2vid: VideoDiffusionPipeline through /v1/images/generations, a .png-named dst."""
        model = load(
            checkpoint("TextToVideoSDPipeline"), PipelineType="VideoDiffusionPipeline", Options=["num_frames:2"]
        )
        request = image_request("a cat", dst=str(self.folder / "out.png"), step=1, seed=1, width=32, height=32)
        outcome = generation.generate(model, request, new_job())
        self.assertNotIn("PNG", outcome.description)
        self.assertIn(b"ftyp", (self.folder / "out.png").read_bytes()[:16])

    def test_the_wan_vae_stays_fp32_in_a_video_of_its_sibling(self) -> None:
        from unittest import mock

        import diffusers

        from localai_diffusers.loading.placing import precision

        with mock.patch.object(precision, "_cpu_has_bf16", lambda: True):
            model = load(checkpoint("WanPipeline"), F16Memory=True)
        self.assertEqual(model.pipeline_as(diffusers.WanVideoToVideoPipeline).vae.dtype, torch.float32)
        self.assertEqual(model.pipeline_as(diffusers.WanVideoToVideoPipeline).transformer.dtype, torch.bfloat16)


if __name__ == "__main__":
    unittest.main()
