# SPDX-License-Identifier: MIT
"""UpscaleImage: exact sizes, tiles that bound the memory and leave no seam, and what happens on other models."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
from PIL import Image

import backend_pb2
from localai_diffusers.generation import upscaling
from tests.rpc import RpcCase
from tests.support import new_job, zoo_model

UPSCALERS = ("StableDiffusionUpscalePipeline", "StableDiffusionLatentUpscalePipeline", "LDMSuperResolutionPipeline")


def gradient(width: int, height: int) -> Image.Image:
    """A picture that gets lighter from left to right and from top to bottom, a little from pixel to pixel."""
    row, column = numpy.mgrid[0:height, 0:width]
    pixels = numpy.stack([column * 255 / width, row * 255 / height, (row + column) * 255 / (width + height)], axis=-1)
    return Image.fromarray(pixels.astype("uint8"))


class SizeTest(RpcCase):
    def upscale(self, size: tuple[int, int], scale: int, name: str = "out.png", **fields: Any) -> Image.Image:
        source, dst = self.path("source.png"), self.path(name)
        gradient(*size).save(source)
        request = backend_pb2.UpscaleImageRequest(**{"src": str(source), "dst": str(dst), "scale": scale, **fields})
        self.message = self.stub.UpscaleImage(request, timeout=120).message
        with Image.open(dst) as made:
            made.load()
            return made

    def test_the_scale_that_is_asked_for_is_made_exactly(self) -> None:
        for model in UPSCALERS:
            self.load(model)
            for size, scale in (((64, 48), 2), ((50, 70), 4)):
                with self.subTest(model, size=size, scale=scale):
                    self.assertEqual(self.upscale(size, scale).size, (size[0] * scale, size[1] * scale))

    def test_without_a_scale_it_is_the_models_own(self) -> None:
        for model, factor in zip(UPSCALERS, (4, 2, 4), strict=True):
            self.load(model)
            self.assertEqual(self.upscale((64, 64), 0).size, (64 * factor, 64 * factor), model)

    def test_a_pipeline_that_makes_one_size_of_any_source_counts_tile_by_tile(self) -> None:
        """DeepFloyd IF: the output has the size it was trained on, four times that of a tile."""
        self.load("IFSuperResolutionPipeline")
        self.assertEqual(self.upscale((16, 12), 4).size, (64, 48))
        self.assertNotIn("Lanczos", self.message)

    def test_a_model_that_cannot_upscale_leaves_it_to_lanczos_and_says_so(self) -> None:
        for model in (
            "StableDiffusionPipeline",
            "IFImg2ImgSuperResolutionPipeline",
        ):  # the latter needs the original too
            self.load(model)
            made = self.upscale((40, 30), 4)
            self.assertEqual(made.size, (160, 120))
            self.assertIn(f"{model} cannot upscale: the picture was enlarged with Lanczos", self.message)
            reference = gradient(40, 30).resize((160, 120), Image.Resampling.LANCZOS)
            self.assertTrue((numpy.asarray(made) == numpy.asarray(reference)).all())

    def test_transparency_is_enlarged_beside_the_colors(self) -> None:
        """RGBA, gray with alpha, and a palette with a transparent entry; by the model and by Lanczos."""
        picture = gradient(64, 48)
        alpha = Image.new("L", (64, 48), 0)
        alpha.paste(255, (20, 0, 64, 48))
        alpha.paste(120, (40, 20, 64, 48))
        clear = picture.copy()
        clear.putalpha(alpha)
        palette = picture.quantize(16)
        palette.info["transparency"] = palette.getpixel((60, 40))
        gray = picture.convert("L")
        gray.putalpha(alpha)
        for model in ("StableDiffusionPipeline", "LDMSuperResolutionPipeline", "StableDiffusionUpscalePipeline"):
            self.load(model)
            for source in (clear, gray, palette):
                with self.subTest(model, mode=source.mode):
                    source.save(self.path("clear.png"))
                    made = self.upscale((64, 48), 4, src=str(self.path("clear.png")))
                    self.assertEqual((made.mode, made.size), ("RGBA", (256, 192)))
                    right = source.convert("RGBA").getchannel("A").resize((256, 192), Image.Resampling.LANCZOS)
                    off = numpy.asarray(made.getchannel("A"), int) - numpy.asarray(right, int)
                    self.assertLessEqual(numpy.abs(off).max(), 1)

    def test_the_colors_are_those_of_the_opaque_picture(self) -> None:
        picture = gradient(64, 48)
        clear = picture.copy()
        clear.putalpha(Image.new("L", (64, 48), 200))
        clear.save(self.path("clear.png"))
        self.load("StableDiffusionUpscalePipeline")
        opaque, seen = (
            numpy.asarray(self.upscale((64, 48), 4, **fields).convert("RGB"), int)
            for fields in ({}, {"src": str(self.path("clear.png"))})
        )
        self.assertEqual(numpy.abs(opaque - seen).max(), 0)

    def test_an_edge_mixes_with_no_hidden_color_and_a_jpeg_is_on_white(self) -> None:
        source = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
        source.paste((250, 240, 230, 255), (32, 0, 64, 48))
        source.save(self.path("clear.png"))
        self.load("StableDiffusionPipeline")
        made = numpy.asarray(self.upscale((64, 48), 4, src=str(self.path("clear.png"))), int)
        self.assertLessEqual(numpy.abs(made[made[..., 3] > 30][:, :3] - (250, 240, 230)).max(), 8)
        made = self.upscale((64, 48), 4, name="out.jpg", src=str(self.path("clear.png")))
        self.assertGreater(min(made.getpixel((10, 10))), 250)
        self.assertIn("a JPEG holds no transparency", self.message)

    def test_what_would_be_too_large_is_refused_before_the_work(self) -> None:
        self.load("StableDiffusionUpscalePipeline")
        self.assertRegex(self.refusal(self.upscale, (1500, 1500), 8), "scale=8 makes 12000x12000.*at most")
        self.assertRegex(self.refusal(self.upscale, (1500, 2), 16), "scale=16 makes 24000x32.*a side has at most 16384")

    def test_bad_fields_are_refused(self) -> None:
        self.load("StableDiffusionUpscalePipeline")
        self.assertIn("scale=-1", self.refusal(self.upscale, (64, 64), -1))
        self.assertIn("src is empty", self.refusal(self.upscale, (64, 64), 2, src=""))
        self.assertIn("src", self.refusal(self.upscale, (64, 64), 2, src="/nowhere.png"))


class TilesTest(unittest.TestCase):
    def test_tiles_cover_everything_and_overlap(self) -> None:
        for width, height, side in ((64, 64, 64), (150, 90, 64), (1000, 700, 256), (40, 30, 8)):
            covered = numpy.zeros((height, width), int)
            plan = upscaling.tiles(width, height, side)
            for tile in plan:
                covered[tile.top : tile.top + side, tile.left : tile.left + side] += 1
            self.assertGreaterEqual(covered.min(), 1)
            starts = sorted({tile.left for tile in plan})
            self.assertTrue(all(after - before < side for before, after in zip(starts, starts[1:], strict=False)))

    def test_the_model_sees_tiles_only_however_large_the_source(self) -> None:
        """Memory is bounded by the tile: the pipeline is never given more."""
        seen, result = self.enlarged(gradient(700, 500))
        side = upscaling._tile_side(zoo_model(UPSCALERS[0]).profile)
        self.assertEqual({image.size for image in seen}, {(side, side)})
        self.assertEqual(len(seen), len(upscaling.tiles(700, 500, side)))
        self.assertEqual(result.size, (2800, 2000))

    def test_no_seam_shows(self) -> None:
        """Of a model that enlarges faithfully, save that each tile comes out a little lighter or darker than its
        neighbor."""
        _, result = self.enlarged(gradient(300, 200))
        reference = numpy.asarray(gradient(300, 200).resize((1200, 800), Image.Resampling.BICUBIC), float)
        error = numpy.asarray(result, float) - reference
        self.assertLess(abs(error).max(), 10)
        steps = [numpy.abs(numpy.diff(error, axis=axis)).max() for axis in (0, 1)]
        self.assertLess(max(steps), 4, "each tile is 6 levels off: a seam would jump by up to 12")

    def enlarged(self, source: Image.Image) -> tuple[list[Image.Image], Image.Image]:
        """What the pipeline was given, and what came of a stand-in for its network: bicubic, a bit off in each tile."""
        seen: list[Image.Image] = []

        def stand_in(_pipeline: Any, call: Any, _job: Any) -> Any:
            image = call.arguments["image"]
            seen.append(image)
            off = 6 if len(seen) % 2 else -6
            large = (
                numpy.asarray(image.resize((image.width * 4, image.height * 4), Image.Resampling.BICUBIC), int) + off
            )
            return {"images": [Image.fromarray(large.clip(0, 255).astype("uint8"))]}

        from tempfile import TemporaryDirectory

        from localai_diffusers.settings import Settings
        from localai_diffusers.wire import requests

        with TemporaryDirectory() as folder, mock.patch.object(upscaling, "call_pipeline", stand_in):
            source.save(Path(folder) / "in.png")
            dst = Path(folder) / "out.png"
            message = backend_pb2.UpscaleImageRequest(src=str(Path(folder) / "in.png"), dst=str(dst), scale=4)
            upscaling.upscale(zoo_model(UPSCALERS[0]), requests.from_upscale_request(message, Settings()), 4, new_job())
            with Image.open(dst) as made:
                return seen, made.convert("RGB")


if __name__ == "__main__":
    unittest.main()
