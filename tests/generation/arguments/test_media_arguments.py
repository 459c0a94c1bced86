# SPDX-License-Identifier: MIT
"""Which picture fills which argument, and at what size: asked of real tiny pipelines."""

from __future__ import annotations

import copy
import unittest
from typing import Any

from PIL import Image

import backend_pb2
from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation.arguments.asked import Asked
from localai_diffusers.generation.arguments.media_arguments import media_arguments, output_size
from localai_diffusers.pipeline.defaults import ModelDefaults
from localai_diffusers.pipeline.profile import profile_of
from localai_diffusers.settings import Settings
from localai_diffusers.wire import requests
from localai_diffusers.wire.intake import Intake
from tests.rpc import write_wave
from tests.support import FolderCase, image_request, zoo_model


def asked_of(model: Any, request: Any) -> Asked:
    return Asked(request, model.profile, model.defaults, Intake(Settings()), seed=0)


def media(name: str, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Media and size arguments for the zoo's pipeline ``name``, and the notes."""
    asked = asked_of(zoo_model(name), image_request("a cat", **fields))
    found = media_arguments(asked, {})
    sized = output_size(asked, found.arguments)
    return {**found.arguments, **sized.arguments}, found.notes + sized.notes


class ArgumentsTest(FolderCase):
    def test_one_picture_is_the_image(self) -> None:
        found, _ = media("StableDiffusionImg2ImgPipeline", src=self.picture(color="red"))
        self.assertEqual(found["image"].getpixel((0, 0)), (255, 0, 0))

    def test_two_pictures_are_image_and_mask_where_there_is_a_mask_parameter(self) -> None:
        pair = [self.picture("a", color="red"), self.picture("b", color="white")]
        found, _ = media("StableDiffusionInpaintPipeline", ref_images=pair)
        self.assertEqual((found["image"].mode, found["mask_image"].mode), ("RGB", "L"))
        found, _ = media("QwenImageEditPlusPipeline", ref_images=pair)
        self.assertEqual([image.getpixel((0, 0)) for image in found["image"]], [(255, 0, 0), (255, 255, 255)])

    def test_an_editor_of_several_pictures_takes_a_gray_one_of_two_for_its_mask(self) -> None:
        red, white = self.picture("a", color="red"), self.picture("b", color="white")
        found, _ = media("BriaFibo2Pipeline", ref_images=[red, white])
        self.assertEqual((found["image"].mode, found["mask"].mode), ("RGB", "L"))
        for pictures in ([red, self.picture("c", color="blue")], [red, white, white]):
            found, _ = media("BriaFibo2Pipeline", ref_images=pictures)
            self.assertEqual((len(found["image"]), "mask" in found), (len(pictures), False))

    def test_the_jsons_mask_goes_to_the_mask_and_its_image_to_the_image(self) -> None:
        found, _ = media("StableDiffusionXLInpaintPipeline", **self.inpainting())
        self.assertEqual(found["image"].getpixel((0, 0)), (255, 0, 0))
        self.assertEqual(found["mask_image"].getpixel((0, 0)), 255)

    def test_a_control_image_comes_second(self) -> None:
        pair = [self.picture("a", color="red"), self.picture("b", color="blue")]
        found, _ = media("StableDiffusionControlNetImg2ImgPipeline", ref_images=pair)
        self.assertEqual(
            [found[name].getpixel((0, 0)) for name in ("image", "control_image")], [(255, 0, 0), (0, 0, 255)]
        )

    def test_more_pictures_than_the_pipeline_takes_are_refused(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, r"brings 2 pictures .*takes 1 \(image\)"):
            media("StableDiffusionImg2ImgPipeline", ref_images=[self.picture("a"), self.picture("b")])


class TensorsTest(FolderCase):
    def test_a_sound_beside_a_picture_is_brought_to_no_size(self) -> None:
        """A tensor has a ``resize`` and a ``size``, too; no class of 0.42.1 takes both, one of a model's own may."""
        import torch

        def call(
            self: Any, image: Image.Image, audio: torch.Tensor | None = None, width: int = 64, height: int = 64
        ) -> None: ...

        call.__annotations__ = {"image": Image.Image, "audio": torch.Tensor | None, "width": int, "height": int}
        pipeline = copy.copy(zoo_model("WanImageToVideoPipeline").pipeline)
        pipeline.__class__ = type("TalkingPipeline", (type(pipeline),), {"__call__": call})
        sound, picture = self.folder / "sound.wav", self.picture(size=(96, 64))
        write_wave(sound, 1)
        message = backend_pb2.GenerateVideoRequest(
            prompt="x", dst=str(self.folder / "x.mp4"), start_image=picture, audio=str(sound), width=32, height=32
        )
        request, profile = requests.from_video_request(message, Settings()), profile_of(pipeline)
        found = media_arguments(Asked(request, profile, ModelDefaults(), Intake(Settings()), seed=0), {}).arguments
        self.assertEqual(found["image"].size, (32, 32))
        self.assertGreater(found["audio"].numel(), 10_000)


class SizeTest(FolderCase):
    def test_image_to_image_keeps_the_sources_aspect_within_the_request(self) -> None:
        found, notes = media("FluxImg2ImgPipeline", src=self.picture(size=(200, 100)), width=64, height=64)
        self.assertEqual((found["image"].size, found["width"], found["height"]), ((64, 32), 64, 32))
        self.assertIn("200x100 is taken at 64x32", notes[0])

    def test_a_small_source_is_not_enlarged(self) -> None:
        found, _ = media("StableDiffusionImg2ImgPipeline", src=self.picture(size=(64, 48)), width=512, height=512)
        self.assertEqual(found["image"].size, (64, 48))

    def test_a_source_is_rounded_to_what_the_model_takes(self) -> None:
        for name in ("StableDiffusionImg2ImgPipeline", "StableDiffusion3Img2ImgPipeline", "FluxImg2ImgPipeline"):
            from localai_diffusers.pipeline.sizes import size_multiple

            found, _ = media(name, src=self.picture(size=(101, 67)))
            self.assertEqual(
                [side % size_multiple(zoo_model(name).pipeline) for side in found["image"].size], [0, 0], name
            )

    def test_inpainting_takes_the_pictures_own_size_not_the_cores_512(self) -> None:
        """Larger and smaller than 512, and not square; also where the two pictures come as a list."""
        for size in ((96, 64), (640, 320)):
            pair = [self.picture("a", size), self.picture("b", (32, 32))]
            for fields in (self.inpainting(size), {"ref_images": pair, "width": 64, "height": 64}):
                found, _ = media("FluxInpaintPipeline", **fields)
                self.assertEqual(
                    (found["image"].size, found["mask_image"].size, (found["width"], found["height"])), (size,) * 3
                )

    def test_a_control_picture_does_not_decide(self) -> None:
        for name, key in (
            ("StableDiffusionControlNetPipeline", "image"),
            ("StableDiffusionXLControlNetPipeline", "image"),
            ("FluxControlNetPipeline", "control_image"),
            ("FluxControlPipeline", "control_image"),
            ("StableDiffusion3ControlNetPipeline", "control_image"),
            ("StableDiffusionAdapterPipeline", "image"),
            ("SanaControlNetPipeline", "control_image"),
        ):
            with self.subTest(name):
                found, notes = media(name, src=self.picture(size=(32, 48)), width=128, height=128)
                self.assertEqual((found[key].size, found["width"], found["height"], notes), ((32, 48), 128, 128, ()))

    def test_a_picture_to_vary_or_to_look_like_does_not_decide(self) -> None:
        for name, key in (
            ("StableDiffusionImageVariationPipeline", "image"),
            ("StableUnCLIPImg2ImgPipeline", "image"),
            ("StableCascadeCombinedPipeline", "images"),
        ):
            with self.subTest(name):
                found, _ = media(name, src=self.picture(size=(32, 48)), width=128, height=256)
                self.assertEqual((found[key].size, found["width"], found["height"]), ((32, 48), 128, 256))

    def test_a_reference_that_is_edited_goes_as_it_is_and_gives_its_aspect(self) -> None:
        for name in ("FluxKontextPipeline", "Flux2Pipeline", "Flux2KleinPipeline", "QwenImageEditPipeline"):
            for size, made in (((640, 320), (128, 64)), ((32, 64), (64, 128)), ((48, 48), (128, 128))):
                with self.subTest(name, size=size):
                    found, _ = media(name, src=self.picture(size=size), width=128, height=128)
                    self.assertEqual((found["image"].size, found["width"], found["height"]), (size, *made))

    def test_of_several_references_none_decides(self) -> None:
        pair = [self.picture("a", (64, 64)), self.picture("b", (256, 128))]
        for name in ("QwenImageEditPlusPipeline", "Flux2KleinPipeline", "JoyImageEditPlusPipeline"):
            with self.subTest(name):
                found, _ = media(name, ref_images=pair, width=128, height=192)
                pictures = next(value for value in found.values() if isinstance(value, list))
                sizes = [picture.size for picture in pictures]
                self.assertEqual((sizes, found["width"], found["height"]), ([(64, 64), (256, 128)], 128, 192))

    def test_a_picture_with_no_size_in_the_signature_decides_only_where_it_is_worked_on(self) -> None:
        source = self.picture(size=(101, 67))
        found, _ = media("StableDiffusionInstructPix2PixPipeline", src=source, width=64, height=64)
        self.assertEqual(found["image"].size, (64, 40))
        found, _ = media("LongCatImageEditPipeline", src=source, width=64, height=64)
        self.assertEqual(found["image"].size, (101, 67))

    def test_an_upscalers_source_stays_as_it_is(self) -> None:
        found, notes = media("StableDiffusionUpscalePipeline", src=self.picture(size=(100, 50)), width=64, height=64)
        self.assertEqual((found["image"].size, notes), ((100, 50), ()))

    def test_a_requested_size_is_rounded_to_the_nearest_and_noted(self) -> None:
        from localai_diffusers.pipeline.sizes import size_multiple

        multiple = size_multiple(zoo_model("FluxPipeline").pipeline)
        found, notes = media("FluxPipeline", width=10 * multiple + 1, height=8 * multiple - 1)
        self.assertEqual((found["width"], found["height"]), (10 * multiple, 8 * multiple))
        self.assertIn("is rounded to", notes[0])

    def test_without_a_size_the_pipelines_default_stands(self) -> None:
        self.assertEqual(media("FluxPipeline"), ({}, ()))

    def test_one_side_alone_is_passed_on(self) -> None:
        self.assertEqual(media("FluxPipeline", width=64)[0], {"width": 64})

    def test_a_pipeline_without_a_size_gets_none(self) -> None:
        found, _ = media("StableDiffusionUpscalePipeline", src=self.picture(), width=64, height=64)
        self.assertEqual(found.keys(), {"image"})


if __name__ == "__main__":
    unittest.main()
