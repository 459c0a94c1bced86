# SPDX-License-Identifier: MIT
"""What one answer cannot carry lies beside it, or is told."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from localai_diffusers.generation import generation
from tests.support import FolderCase, image_request, load, new_job
from tests.zoo import call, checkpoint

SMALL = {"width": 64, "height": 64, "step": 2, "seed": 7}


class SeveralTest(FolderCase):
    def made(
        self, name: str, dst: str = "out.png", options: tuple[str, ...] = (), **fields: Any
    ) -> tuple[list[Path], str]:
        """The files of a request, in order, and its message."""
        folder, model = Path(tempfile.mkdtemp(dir=self.folder)), load(checkpoint(name), Options=list(options))
        request = image_request("a cat", model.settings, dst=str(folder / dst), **fields)
        outcome = generation.generate(model, request, new_job())
        return sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)), outcome.message()

    def test_every_picture_of_a_prompt(self) -> None:
        for name in ("StableDiffusionPipeline", "FluxPipeline", "StableDiffusion3Pipeline"):
            with self.subTest(name):
                files, message = self.made(name, options=("num_images_per_prompt:3",), **SMALL)
                self.assertEqual([path.name for path in files], ["out.png", "out-2.png", "out-3.png"])
                self.assertIn("2 more beside it: out-2.png, out-3.png", message)
                pipeline = load(checkpoint(name)).pipeline
                right = pipeline(
                    "a cat", width=64, height=64, num_inference_steps=2, num_images_per_prompt=3,
                    generator=torch.Generator().manual_seed(7),
                ).images  # fmt: skip
                for path, picture in zip(files, right, strict=True):
                    off = numpy.asarray(Image.open(path), int) - numpy.asarray(picture, int)
                    self.assertEqual(numpy.abs(off).max(), 0, path.name)

    def test_every_picture_of_an_inpainting_is_brought_onto_the_source(self) -> None:
        source = call.picture(64).crop((0, 0, 60, 50))
        source.save(self.folder / "source.png")
        Image.new("L", (60, 50), 0).save(self.folder / "mask.png")
        mask = Image.new("L", (60, 50), 0)
        mask.paste(255, (0, 0, 9, 9))
        mask.save(self.folder / "mask.png")
        pair = [str(self.folder / name) for name in ("source.png", "mask.png")]
        options = ("num_images_per_prompt:2",)
        files, _ = self.made("StableDiffusionInpaintPipeline", options=options, ref_images=pair, step=2, seed=1)
        pictures = [Image.open(path).convert("RGB") for path in files]
        self.assertEqual([picture.size for picture in pictures], [(60, 50)] * 2)
        for picture in pictures:
            self.assertEqual(picture.crop((20, 20, 60, 50)).tobytes(), source.crop((20, 20, 60, 50)).tobytes())
        self.assertNotEqual(pictures[0].tobytes(), pictures[1].tobytes())

    def test_every_layer_and_every_intrinsic(self) -> None:
        call.picture(64).save(self.folder / "source.png")
        files, _ = self.made(
            "QwenImageLayeredPipeline", options=("layers:3",), src=str(self.folder / "source.png"), step=2
        )
        self.assertGreater(len(files), 2)
        files, message = self.made("MarigoldIntrinsicsPipeline", src=str(self.folder / "source.png"), step=1)
        self.assertEqual([path.name for path in files], ["out.png", "out-2.png"])
        self.assertIn("1 more beside it", message)

    def test_the_depth_of_a_picture(self) -> None:
        files, _ = self.made("StableDiffusionLDM3DPipeline", **SMALL)
        self.assertEqual([Image.open(path).mode for path in files], ["RGB", "I;16"])

    def test_every_video_and_every_sound(self) -> None:
        options = ("num_videos_per_prompt:2", "num_frames:5")
        files, _ = self.made("WanPipeline", "out.gif", options, **SMALL)
        self.assertEqual([Image.open(path).n_frames for path in files], [5, 5])
        files, message = self.made("AnimateDiffPipeline", "out.gif", options, **SMALL)
        self.assertEqual(len(files), 1)
        self.assertIn("num_videos_per_prompt=2 was asked for: the pipeline makes 1", message)
        files, _ = self.made("AudioLDMPipeline", "out.wav", ("num_waveforms_per_prompt:2",), step=2)
        self.assertEqual([path.name for path in files], ["out.wav", "out-2.wav"])

    def test_a_temporary_file_gets_none_beside_it_but_a_note(self) -> None:
        files, message = self.made("StableDiffusionPipeline", "out.tmp", ("num_images_per_prompt:3",), **SMALL)
        self.assertEqual([path.name for path in files], ["out.tmp"])
        self.assertIn("2 more came out and are not written", message)

    def test_one_answer_says_nothing_of_others(self) -> None:
        files, message = self.made("StableDiffusionPipeline", **SMALL)
        self.assertEqual(([path.name for path in files], "more" in message), (["out.png"], False))


if __name__ == "__main__":
    unittest.main()
