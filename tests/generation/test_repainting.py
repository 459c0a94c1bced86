# SPDX-License-Identifier: MIT
"""Inpainting, against plain diffusers with the mask of cells and the composite made by hand."""

from __future__ import annotations

import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
from PIL import Image, ImageDraw

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation import generation
from localai_diffusers.media import videos
from tests.composites import laid_over
from tests.support import (
    SHAPES_MODEL,
    FolderCase,
    arguments_of,
    generate,
    image_request,
    load,
    new_job,
    repainting,
    zoo_model,
)
from tests.zoo import ENTRIES, call, checkpoint

# Of as many families as have one, with the side of what one value of the mask stands for in the model.
CELLS = {
    "StableDiffusionInpaintPipeline": 8,
    "StableDiffusionXLInpaintPipeline": 8,
    "StableDiffusion3InpaintPipeline": 8,
    "FluxInpaintPipeline": 8,
    "FluxFillPipeline": 8,
    "QwenImageInpaintPipeline": 8,
    "ZImageInpaintPipeline": 8,
    "ChromaInpaintPipeline": 8,
    "KandinskyV22InpaintCombinedPipeline": 4,  # the zoo's autoencoders of these two halve twice
    "AmusedInpaintPipeline": 4,
    "Flux2KleinInpaintPipeline": 16,
}


def drawn(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    mask = Image.new("L", size, 0)
    for box in boxes:
        ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


class RepaintingCase(FolderCase):
    def repaint(self, model: Any, source: Image.Image, mask: Image.Image, **fields: Any) -> tuple[Image.Image, Any]:
        """The answer to the core's inpainting request, which asks for 512x512 whatever the picture."""
        request = {**self.inpainting_json(source, mask), "width": 512, "height": 512, "seed": 7, "step": 2, **fields}
        return generate(model, "a cat", **request)

    def inpainting_json(self, source: Image.Image, mask: Image.Image) -> dict[str, Any]:
        return {"src": repainting(Path(tempfile.mkdtemp(dir=self.folder)) / "inpaint", source, mask)}


class FamiliesTest(RepaintingCase):
    def test_a_thin_line_is_repainted_in_every_family_and_the_rest_is_the_source(self) -> None:
        """A line of 3 pixels that no multiple of 8 meets, and a dot."""
        source, mask = call.picture(64), drawn((0, 33, 63, 35), (9, 9, 11, 11))
        white = numpy.asarray(mask) > 0
        for name in CELLS:
            if name not in ENTRIES:
                continue
            with self.subTest(name):
                made, _ = self.repaint(zoo_model(name), source, mask)
                off = numpy.abs(numpy.asarray(made.convert("RGB"), int) - numpy.asarray(source, int)).max(-1)
                self.assertEqual((made.size, off[~white].max()), ((64, 64), 0))
                self.assertGreater(off[33:36].mean(), 1)
                self.assertGreater(off[9:12, 9:12].mean(), 1)

    def test_the_pipeline_gets_the_mask_of_cells(self) -> None:
        mask = drawn((33, 17, 35, 18))
        for name, cell in CELLS.items():
            with self.subTest(name):
                given = self.arguments(name, call.picture(64), mask)["mask_image"]
                left, top = 33 // cell * cell, 17 // cell * cell
                right = drawn((left, top, 35 // cell * cell + cell - 1, 18 // cell * cell + cell - 1))
                self.assertEqual(given.tobytes(), right.tobytes())

    def arguments(self, name: str, source: Image.Image, mask: Image.Image) -> dict[str, Any]:
        return arguments_of(zoo_model(name), "a cat", **self.inpainting_json(source, mask), width=512, height=512)

    def test_what_plain_diffusers_makes_of_the_mask_of_cells_is_laid_over_the_source(self) -> None:
        import torch

        source, mask, cells = call.picture(64), drawn((33, 17, 50, 44)), drawn((32, 16, 55, 47))
        for name in ("StableDiffusionXLInpaintPipeline", "FluxInpaintPipeline", "StableDiffusion3InpaintPipeline"):
            with self.subTest(name):
                model = load(checkpoint(name), Options=["mask_blur:4"])
                made, _ = self.repaint(model, source, mask)
                torch.manual_seed(7)
                plain = model.pipeline(
                    prompt="a cat", image=source, mask_image=cells, width=64, height=64, num_inference_steps=2,
                    generator=torch.Generator().manual_seed(7),
                ).images[0]  # fmt: skip
                off = numpy.abs(numpy.asarray(made, float) - laid_over(plain, source, mask, 8))
                self.assertLessEqual(off.max(), 0.51)


class SizesTest(RepaintingCase):
    def test_the_answer_has_the_sources_size_whatever_it_is(self) -> None:
        for name in ("StableDiffusionInpaintPipeline", "FluxInpaintPipeline", "QwenImageInpaintPipeline"):
            for size in ((100, 70), (65, 97), (20, 30)):
                with self.subTest(name, size=size):
                    source, mask = call.picture(128).crop((0, 0, *size)), drawn((5, 5, 12, 12), size=size)
                    made, outcome = self.repaint(zoo_model(name), source, mask)
                    self.assertEqual(made.size, size)
                    self.assertEqual(made.crop((15, 0, *size)).tobytes(), source.crop((15, 0, *size)).tobytes())
                    self.assertNotIn("asked for", outcome.message())

    def test_two_pictures_are_an_inpainting_too(self) -> None:
        source, mask = self.picture("a", (100, 70), "blue"), self.picture("b", (100, 70), "white")
        model, fields = zoo_model("StableDiffusionInpaintPipeline"), {"width": 64, "height": 64, "step": 2}
        made, _ = generate(model, "a cat", ref_images=[source, mask], **fields)
        self.assertEqual(made.size, (100, 70))

    def test_what_lies_on_the_source_is_on_its_canvas_and_an_example_is_as_it_is(self) -> None:
        rest = [self.picture("c", (50, 50), "blue")]
        source, mask = call.picture(128).crop((0, 0, 100, 70)), drawn((5, 5, 12, 12), size=(100, 70))
        fields = self.inpainting_json(source, mask)
        given = arguments_of(
            zoo_model("StableDiffusionControlNetInpaintPipeline"), "", ref_images=[*rest, *rest, *rest], **fields
        )
        self.assertEqual([given[name].size for name in ("image", "mask_image", "control_image")], [(104, 72)] * 3)
        given = arguments_of(zoo_model("PaintByExamplePipeline"), "", ref_images=[*rest, *rest, *rest], **fields)
        self.assertEqual((given["image"].size, given["example_image"].size), ((104, 72), (50, 50)))


class NothingToDoTest(RepaintingCase):
    def test_a_mask_without_white_returns_the_source(self) -> None:
        source = call.picture(128).crop((0, 0, 100, 70))
        for name in ("StableDiffusionInpaintPipeline", "FluxFillPipeline"):
            made, outcome = self.repaint(zoo_model(name), source, Image.new("L", (100, 70), 0))
            self.assertEqual(made.tobytes(), source.tobytes())
            self.assertIn("nothing in the mask is white", outcome.message())

    def test_strength_0_returns_the_source(self) -> None:
        source = self.picture("a", (64, 48), "blue")
        for name in ("StableDiffusionPipeline", "FluxImg2ImgPipeline", "StableDiffusion3Img2ImgPipeline"):
            made, outcome = generate(load(checkpoint(name), Options=["strength:0"]), "a cat", src=source, step=2)
            self.assertEqual((made.size, made.getcolors()), ((64, 48), [(64 * 48, (0, 0, 255))]))
            self.assertIn("strength=0 changes nothing", outcome.message())

    def test_strength_0_says_nothing_of_a_text(self) -> None:
        generate(
            load(checkpoint("StableDiffusionPipeline"), Options=["strength:0"]), "a cat", step=1, width=64, height=64
        )

    def test_a_clip_at_strength_0_is_refused(self) -> None:
        for name in ("AnimateDiffVideoToVideoPipeline", "WanVideoToVideoPipeline", "CogVideoXVideoToVideoPipeline"):
            model = load(checkpoint(name), Options=["strength:0"])
            request = replace(image_request("a cat"), rpc="GenerateVideo", video=call.frames(9))
            with self.assertRaisesRegex(InvalidRequest, "strength=0 changes nothing"):
                generation.generate(model, request, new_job())


class InversionTest(RepaintingCase):
    def test_a_picture_that_is_inverted_is_composited_too_and_a_thin_mask_counts(self) -> None:
        source, mask = call.picture(128).crop((0, 0, 100, 70)), drawn((0, 33, 99, 35), size=(100, 70))
        model, fields = zoo_model("StableDiffusionDiffEditPipeline"), self.inpainting_json(source, mask)
        given = arguments_of(model, "a cat", **fields)["mask_image"]
        self.assertEqual(numpy.asarray(given).any(axis=1).sum(), 1)
        made, _ = self.repaint(model, source, mask)
        off = numpy.abs(numpy.asarray(made, int) - numpy.asarray(source, int)).max(-1)
        self.assertEqual((made.size, int(off[:32].max()), int(off[37:].max())), ((100, 70), 0, 0))
        self.assertGreater(off[33:36].mean(), 1)


class ClipsTest(RepaintingCase):
    def test_each_frame_keeps_its_own_pixels_outside_its_mask(self) -> None:
        frames, mask = call.frames(9, 64), drawn((3, 33, 60, 35))
        mask.save(self.folder / "mask.png")
        for name, key in (("WanVACEPipeline", "mask"), ("EasyAnimateInpaintPipeline", "mask_video")):
            with self.subTest(name):
                model = zoo_model(name)
                request = replace(
                    image_request("a cat", model.settings, dst=str(self.folder / "out.gif"), seed=7, step=2),
                    rpc="GenerateVideo", video=frames, width=64, height=64, num_frames=9,
                    params={key: str(self.folder / "mask.png")},
                )  # fmt: skip
                with mock.patch.object(videos, "encode_video", return_value=(64, 64)) as encode:
                    generation.generate(model, request, new_job())
                written = encode.call_args.args[0]
                self.assertEqual(len(written), 9)
                for made, source in zip(written, frames, strict=True):
                    off = numpy.abs(numpy.asarray(made, int) - numpy.asarray(source, int)).max(-1)
                    self.assertEqual((off[:32].max(), off[37:].max()), (0, 0))
                    self.assertGreater(off[33:36, 4:60].mean(), 1)


class WithoutCompositeTest(RepaintingCase):
    def test_composite_false_returns_what_the_model_makes(self) -> None:
        source, mask = call.picture(64), drawn((0, 0, 31, 63))
        model = load(checkpoint("StableDiffusionInpaintPipeline"), Options=["composite:false"])
        plain, _ = self.repaint(model, source, mask)
        composed, _ = self.repaint(zoo_model("StableDiffusionInpaintPipeline"), source, mask)
        self.assertEqual(composed.crop((0, 0, 32, 64)).tobytes(), plain.crop((0, 0, 32, 64)).tobytes())
        self.assertNotEqual(plain.crop((32, 0, 64, 64)).tobytes(), source.crop((32, 0, 64, 64)).tobytes())

    def test_the_shapes_model_paints_a_dot(self) -> None:
        """The trained model, and its own colors around the dot."""
        source, mask = Image.new("RGB", (64, 64), (245, 215, 40)), drawn((30, 30, 33, 33))
        made, _ = self.repaint(load(SHAPES_MODEL, Options=["cfg_scale:5"]), source, mask, step=6)
        off = numpy.abs(numpy.asarray(made, int) - numpy.asarray(source, int)).max(-1)
        self.assertGreater(off[30:34, 30:34].min(), 0)
        self.assertEqual(off.sum(), off[30:34, 30:34].sum())


if __name__ == "__main__":
    unittest.main()
