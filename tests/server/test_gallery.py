# SPDX-License-Identifier: MIT
"""Every YAML of LocalAI's documentation and gallery, as its core sends it, on a tiny stand-in,
through a real server."""

from __future__ import annotations

import atexit
import base64
import functools
import io
import re
import shutil
import tempfile
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests import gallery, single_file, zoo
from tests.adapter_files import difference
from tests.support import Backend
from tests.zoo import call as zoo_call

PROMPT = "a red circle on a blue background"
_TRIED: set[str] = set()  # names of the YAMLs that a test has run


def base64_png(picture: Any) -> str:
    """A picture as the request's JSON carries it."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def picture() -> str:
    return base64_png(zoo_call.picture())


@functools.cache
def _scratch() -> Path:
    folder = tempfile.mkdtemp(prefix="gallery-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def deep_stable_diffusion() -> Path:
    """Stable Diffusion with the twelve text layers of the real one, which ``clip_skip: 11`` counts on."""
    from tests.zoo import components

    pipeline = zoo.ENTRIES["StableDiffusionPipeline"].build()
    pipeline.register_modules(text_encoder=components.clip_text(layers=12))
    pipeline.save_pretrained(_scratch() / "deep")
    return _scratch() / "deep"


@functools.cache
def schnell() -> Path:
    """FLUX.1 schnell: no guidance goes into its transformer."""
    from tests.zoo import image_dit

    pipeline = zoo.ENTRIES["FluxPipeline"].build()
    pipeline.register_modules(transformer=image_dit.flux_transformer(guidance_embeds=False))
    pipeline.save_pretrained(_scratch() / "schnell")
    return _scratch() / "schnell"


@functools.cache
def checkpoint_file(folder: Path) -> tuple[Path, Path]:
    """The pipeline in ``folder`` as one file in the original layout, and its configs."""
    target = _scratch() / f"{folder.name}-file"
    return single_file.write_checkpoint(folder, target / "model.safetensors"), single_file.write_configs(
        folder, target / "configs"
    )


@dataclass(frozen=True)
class Made:
    """What the backend said and the file that it wrote, with the facts in the picture's ``parameters`` chunk."""

    loaded: str
    said: str
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @property
    def image(self) -> Any:
        from PIL import Image

        with Image.open(self.path) as image:
            image.load()
        return image

    @property
    def facts(self) -> dict[str, str]:
        """{"Steps": "25", "Sampler": "EulerDiscreteScheduler", "CFG scale": "7.5", "Pipeline": …}"""
        return dict(re.findall(r"([\w ]+): ([^,]+)(?:, |$)", self.image.info["parameters"]))


class GalleryTest(unittest.TestCase):
    """One server; every test loads its YAML anew, as a request for another model does."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = Backend(OMP_NUM_THREADS="1")
        cls.models = cls.backend.folder / "models"
        cls.models.mkdir()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.backend.stop()

    def load(self, name: str, stand_in: Path, *more: str) -> tuple[gallery.Config, str]:
        """LoadModel of the YAML with ``more`` options; the YAML and the message."""
        _TRIED.add(name)
        config = gallery.config(name)
        options = gallery.model_options(config, self.models, gallery.install(stand_in, config, self.models))
        options.Options.extend(more)
        result = self.backend.stub.LoadModel(options, timeout=60)
        self.assertTrue(result.success, result.message)
        return config, result.message

    def run_yaml(
        self,
        name: str,
        stand_in: str | Path,
        *more: str,
        rpc: str = "GenerateImage",
        request: Callable[..., Any] = gallery.image_request,
        **body: Any,
    ) -> Made:
        """Load the YAML on the stand-in (a class of the zoo or a path) and answer one request of the core's."""
        path = stand_in if isinstance(stand_in, Path) else zoo.checkpoint(stand_in)
        config, loaded = self.load(name, path, *more)
        if request is gallery.image_request:
            body = {"size": "64x64", "seed": 7, **body}
        message = request(config, body, self.backend.folder)
        result = getattr(self.backend.stub, rpc)(message, timeout=60)
        return Made(loaded, result.message, Path(message.dst))

    def run_file(self, name: str, folder: Path, **body: Any) -> Made:
        """The same for a single file; its configs stand where the Hub's would be found."""
        file, configs = checkpoint_file(folder)
        return self.run_yaml(name, file, f"config:{configs}", **body)

    def check_picture(self, made: Made, size: tuple[int, int] = (64, 64), **facts: str) -> None:
        """A PNG of that size that is not one color, made as ``facts`` say."""
        self.assertEqual((made.image.format or "PNG", made.image.size), ("PNG", size))
        self.assertEqual(made.data[:8], b"\x89PNG\r\n\x1a\n")
        self.assertTrue(any(low != high for low, high in made.image.convert("RGB").getextrema()))
        for name, value in facts.items():
            self.assertEqual(made.facts.get(name.replace("_", " ")), value, (name, made.facts))

    def check_video(self, made: Made, sound: bool = False) -> int:
        """An MP4, with a sound track where ``sound`` says so. Its number of frames."""
        import av

        self.assertEqual(made.data[4:8], b"ftyp")
        with av.open(str(made.path)) as container:
            self.assertEqual([stream.type for stream in container.streams], ["video", "audio"] if sound else ["video"])
            return sum(1 for _ in container.decode(video=0))

    # docs/content/features/image-generation.md

    def test_animagine_without_a_pipeline_type_is_what_the_repo_says(self) -> None:
        made = self.run_yaml("animagine-xl-cpu", "StableDiffusionXLPipeline", prompt=f"{PROMPT}|blurry")
        self.check_picture(
            made, Pipeline="StableDiffusionXLPipeline", Sampler="EulerAncestralDiscreteScheduler", Steps="15"
        )

    def test_animagine_with_top_level_cuda_and_f16_runs_the_same(self) -> None:
        made = self.run_yaml("animagine-xl", "StableDiffusionXLPipeline", prompt=f"{PROMPT}|blurry", step=4)
        self.check_picture(
            made, Pipeline="StableDiffusionXLPipeline", Sampler="EulerAncestralDiscreteScheduler", Steps="4"
        )

    def test_toonyou_as_a_single_file_takes_its_scheduler_guidance_and_clip_skip(self) -> None:
        made = self.run_file("toonyou", deep_stable_diffusion(), prompt=f"{PROMPT}|blurry")
        self.check_picture(made, Sampler="DPMSolverSinglestepScheduler", CFG_scale="8.0", Steps="30")
        without = self.run_file("toonyou", deep_stable_diffusion(), prompt=f"{PROMPT}|blurry", clip_skip=1)
        self.assertGreater(difference(made.image, without.image), 0)

    def test_a_clip_skip_beyond_the_text_encoders_layers_is_refused(self) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            self.run_yaml("cfg_scale-option", "StableDiffusionPipeline", prompt=PROMPT, clip_skip=12)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("CLIPSkip=12 must be at most 2", caught.exception.details())

    def test_a_cfg_scale_among_the_options_is_the_guidance(self) -> None:
        made = self.run_yaml("cfg_scale-option", "StableDiffusionPipeline", prompt=PROMPT)
        self.check_picture(made, CFG_scale="6.0", Steps="15")
        self.assertNotIn("ignored", made.loaded)

    def test_ghibli_changes_the_picture_that_is_sent(self) -> None:
        made = self.run_yaml("ghibli", "StableDiffusionPipeline", prompt=PROMPT, file=picture(), size="512x512")
        self.check_picture(made, Pipeline="StableDiffusionImg2ImgPipeline", Steps="25")

    def test_ghibli_without_a_picture_draws_from_the_text(self) -> None:
        made = self.run_yaml("ghibli", "StableDiffusionPipeline", prompt=PROMPT)
        self.check_picture(made, Pipeline="StableDiffusionPipeline")

    def test_depth2img_runs_on_the_picture_alone(self) -> None:
        made = self.run_yaml(
            "depth2img", "StableDiffusionDepth2ImgPipeline", prompt=f"{PROMPT}|bad", file=picture(), size="512x512"
        )
        self.check_picture(made, Pipeline="StableDiffusionDepth2ImgPipeline", CFG_scale="6.0", Steps="50")

    def test_a_picture_and_no_prompt_make_a_video_in_the_image_endpoints_file(self) -> None:
        made = self.run_yaml("img2vid", "StableVideoDiffusionPipeline", file=picture())
        self.assertEqual(made.path.suffix, ".png")
        self.assertGreater(self.check_video(made), 1)

    def test_video_diffusion_makes_a_video_in_the_image_endpoints_file(self) -> None:
        made = self.run_yaml("txt2vid", "TextToVideoSDPipeline", "num_frames:5", prompt=PROMPT, size="32x32")
        self.assertEqual(made.path.suffix, ".png")
        self.assertEqual(self.check_video(made), 5)

    def test_video_diffusion_makes_sixty_four_frames_unless_told_otherwise(self) -> None:
        made = self.run_yaml("txt2vid", "TextToVideoSDPipeline", prompt=PROMPT, size="32x32", step=1)
        self.assertEqual(self.check_video(made), 64)

    def test_a_model_that_cannot_upscale_leaves_it_to_lanczos_and_says_so(self) -> None:
        from PIL import Image

        made = self.run_yaml(
            "cfg_scale-option",
            "StableDiffusionPipeline",
            rpc="UpscaleImage",
            request=gallery.upscale_request,
            image=picture(),
            scale=4,
        )
        self.assertIn("Lanczos", made.said)
        expected = zoo_call.picture().resize((256, 256), Image.Resampling.LANCZOS)
        self.assertEqual(made.image.tobytes(), expected.tobytes())

    def test_inpainting_changes_the_white_of_the_mask_at_the_pictures_own_size(self) -> None:
        made = self.run_yaml(
            "cfg_scale-option",
            "StableDiffusionPipeline",
            request=gallery.inpainting_request,
            prompt=PROMPT,
            image=picture(),
            mask=base64_png(zoo_call.mask()),
            steps=4,
        )
        self.check_picture(made, Pipeline="StableDiffusionInpaintPipeline", Steps="4")

    def test_an_imported_sdxl_repo_loads_as_its_own_class_and_says_so(self) -> None:
        made = self.run_yaml("imported-xl", "StableDiffusionXLPipeline", prompt=f"{PROMPT}|blurry")
        self.check_picture(made, Pipeline="StableDiffusionXLPipeline")
        self.assertRegex(made.loaded, "StableDiffusionPipeline does not fit .* loaded as StableDiffusionXLPipeline")

    def test_an_imported_flux_repo_loads_as_its_own_class_and_says_so(self) -> None:
        made = self.run_yaml("imported-flux", "FluxPipeline", prompt=PROMPT)
        self.check_picture(made, Pipeline="FluxPipeline", CFG_scale="3.5")
        self.assertRegex(made.loaded, "StableDiffusionPipeline does not fit .* loaded as FluxPipeline")

    # gallery/index.yaml

    def test_chroma_takes_its_guidance(self) -> None:
        made = self.run_yaml("chroma1-hd", "ChromaPipeline", prompt=PROMPT)
        self.check_picture(made, Pipeline="ChromaPipeline", CFG_scale="3.0", Steps="40")

    def test_the_x4_upscaler_upscales_by_the_scale_that_is_asked_for(self) -> None:
        for scale in (2, 4):
            made = self.run_yaml(
                "stable-diffusion-x4-upscaler",
                "StableDiffusionUpscalePipeline",
                "num_inference_steps:2",
                rpc="UpscaleImage",
                request=gallery.upscale_request,
                image=picture(),
                scale=scale,
            )
            self.check_picture(made, (64 * scale, 64 * scale))
            self.assertNotIn("Lanczos", made.said)

    def test_z_image_takes_its_guidance(self) -> None:
        made = self.run_yaml("z-image-diffusers", "ZImagePipeline", prompt=PROMPT)
        self.check_picture(made, Pipeline="ZImagePipeline", CFG_scale="3.0", Steps="35")

    def test_z_image_turbo_runs_without_guidance(self) -> None:
        for name in ("z-image-turbo-diffusers", "qa-z-image-turbo"):
            made = self.run_yaml(name, "ZImagePipeline", prompt=PROMPT)
            self.check_picture(made, Pipeline="ZImagePipeline", CFG_scale="0.0", Steps="9")

    def test_qwen_image_keeps_true_guidance_at_a_cfg_scale_of_zero(self) -> None:
        made = self.run_yaml("qwen-image", "QwenImagePipeline", prompt=f"{PROMPT}|blurry")
        self.check_picture(made, Pipeline="QwenImagePipeline", True_CFG_scale="4.0", Steps="50")

    def test_qwen_image_edit_changes_the_picture_that_is_sent(self) -> None:
        made = self.run_yaml("qwen-image-edit", "QwenImageEditPipeline", prompt=PROMPT, file=picture(), step=2)
        self.check_picture(made, Pipeline="QwenImageEditPipeline", True_CFG_scale="4.0")

    def test_qwen_image_edit_2509_is_the_class_that_its_repo_says_and_takes_several_pictures(self) -> None:
        made = self.run_yaml(
            "qwen-image-edit-2509",
            "QwenImageEditPlusPipeline",
            prompt=PROMPT,
            step=2,
            ref_images=[picture(), base64_png(zoo_call.picture(seed=2))],
        )
        self.check_picture(made, Pipeline="QwenImageEditPlusPipeline", True_CFG_scale="4.0")
        self.assertIn("PipelineType QwenImageEditPipeline is taken as QwenImageEditPlusPipeline", made.loaded)

    def test_ltx2_makes_a_video_with_sound_of_text_alone(self) -> None:
        for name in ("ltx-2", "ltx-2.3"):
            made = self.run_yaml(
                name,
                "LTX2ImageToVideoPipeline",
                rpc="GenerateVideo",
                request=gallery.video_request,
                prompt=PROMPT,
                width=64,
                height=64,
                num_frames=9,
                step=2,
            )
            self.assertEqual(self.check_video(made, sound=True), 9)
            self.assertIn("LTX2ImageToVideoPipeline runs as LTX2Pipeline", self.backend.log)

    def test_ltx2_starts_from_the_picture_that_is_sent(self) -> None:
        made = [
            self.run_yaml(
                "ltx-2",
                "LTX2ImageToVideoPipeline",
                rpc="GenerateVideo",
                request=gallery.video_request,
                prompt=PROMPT,
                start_image=start,
                width=64,
                height=64,
                num_frames=9,
                step=2,
                seed=7,
            )
            for start in (picture(), base64_png(zoo_call.picture(seed=3)))
        ]
        self.assertEqual([self.check_video(one, sound=True) for one in made], [9, 9])
        self.assertNotEqual(made[0].data, made[1].data)

    def test_dreamshaper_as_a_single_file_makes_the_folders_picture(self) -> None:
        folder = zoo.checkpoint("StableDiffusionPipeline")
        for name in ("dreamshaper", "qa-dreamshaper"):
            made = self.run_file(name, folder, prompt=f"{PROMPT}|blurry")
            self.check_picture(
                made, Pipeline="StableDiffusionPipeline", Sampler="DPMSolverMultistepScheduler", Steps="25"
            )
        self.assertEqual(difference(made.image, self.of_folder("dreamshaper", folder).image), 0)

    def of_folder(self, name: str, folder: Path) -> Made:
        """The YAML's picture where its model is a folder."""
        config = gallery.config(name)
        self.backend.stub.LoadModel(gallery.model_options(config, self.models, folder), timeout=60)
        message = gallery.image_request(
            config, {"prompt": f"{PROMPT}|blurry", "size": "64x64", "seed": 7}, self.backend.folder
        )
        return Made("", self.backend.stub.GenerateImage(message, timeout=60).message, Path(message.dst))

    def test_stable_diffusion_3_keeps_the_pipelines_own_guidance(self) -> None:
        made = self.run_yaml("stable-diffusion-3-medium", "StableDiffusion3Pipeline", prompt=f"{PROMPT}|blurry")
        self.check_picture(made, Pipeline="StableDiffusion3Pipeline", CFG_scale="7.0", Steps="25")

    def test_flux_dev_takes_its_embedded_guidance_and_no_second_pass(self) -> None:
        for name in ("flux.1-dev", "flux.1dev-abliteratedv2", "qa-flux.1-dev"):
            made = self.run_yaml(name, "FluxPipeline", prompt=PROMPT)
            self.check_picture(made, Pipeline="FluxPipeline", CFG_scale="1.0", Steps="25")
            self.assertNotIn("True CFG scale", made.facts)

    def test_flux_schnell_runs_with_the_gallerys_guidance_of_one(self) -> None:
        made = self.run_yaml("flux.1-schnell", schnell(), prompt=PROMPT, step=4)
        self.check_picture(made, Pipeline="FluxPipeline", CFG_scale="1.0", Steps="4")

    # what holds for all

    def test_a_request_for_another_model_is_refused_as_the_core_expects(self) -> None:
        self.load("cfg_scale-option", zoo.checkpoint("StableDiffusionPipeline"))
        message = gallery.image_request(gallery.config("flux.1-dev"), {"prompt": PROMPT}, self.backend.folder)
        with self.assertRaises(grpc.RpcError) as caught:
            self.backend.stub.GenerateImage(message, timeout=60)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertIn("model identity mismatch", caught.exception.details())

    def test_zz_every_yaml_has_been_run(self) -> None:
        if len(_TRIED) > 3:  # not where one test is run by itself
            self.assertEqual(set(gallery.YAMLS) - _TRIED, set())


if __name__ == "__main__":
    unittest.main()
