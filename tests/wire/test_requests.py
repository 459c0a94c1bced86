# SPDX-License-Identifier: MIT
"""GenerateImageRequest -> GenerationRequest: bad fields refused by name, pictures decoded, unset told from 0."""

from __future__ import annotations

import os
import unittest
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import backend_pb2
from localai_diffusers.errors import InvalidRequest, OutputError
from localai_diffusers.settings import Settings
from localai_diffusers.wire import requests
from tests.support import FolderCase, image_request


class FieldsTest(FolderCase):
    def test_zeros_mean_the_pipelines_default(self) -> None:
        found = image_request("a cat")
        self.assertEqual(
            (found.width, found.height, found.steps, found.guidance, found.clip_skip), (None, None, None, None, 0)
        )

    def test_seed_0_is_a_seed_and_a_negative_one_random(self) -> None:
        self.assertEqual(image_request(seed=0).seed, 0)
        self.assertEqual(image_request(seed=2**31 - 1).seed, 2**31 - 1)
        for seed in (-1, -(2**31)):
            self.assertIsNone(image_request(seed=seed).seed)

    def test_seed_0_is_random_with_the_inpainting_json_and_in_video(self) -> None:
        self.assertIsNone(image_request(**self.inpainting()).seed)
        self.assertEqual(image_request(**{**self.inpainting(), "seed": 5}).seed, 5)
        video = backend_pb2.GenerateVideoRequest(prompt="x", dst=str(self.folder / "a.mp4"), seed=0)
        self.assertIsNone(requests.from_video_request(video, Settings()).seed)

    def test_fields_out_of_bounds_are_refused_by_name_and_value(self) -> None:
        for field, value in (
            ("step", -1),
            ("step", 1001),
            ("width", -8),
            ("height", -1),
            ("CLIPSkip", -1),
            ("CLIPSkip", 65),
            ("width", 2**31 - 1),
            ("height", 16385),
        ):
            with self.assertRaisesRegex(InvalidRequest, f"{field}={value}"):
                image_request(**{field: value})

    def test_too_many_pixels_are_refused_though_each_side_is_small_enough(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "2048x2048.*LOCALAI_DIFFUSERS_MAX_PIXELS"):
            image_request(settings=Settings(max_pixels=2**20), width=2048, height=2048)

    def test_prompts_are_bounded_and_hold_no_nul(self) -> None:
        with self.assertRaisesRegex(InvalidRequest, "positive_prompt.*LOCALAI_DIFFUSERS_MAX_PROMPT_BYTES"):
            image_request("x" * 40_000)
        with self.assertRaisesRegex(InvalidRequest, "negative_prompt.*NUL"):
            image_request("a", negative_prompt="a\0b")
        self.assertEqual(image_request("日本語 🎨 \u202e").prompt, "日本語 🎨 \u202e")

    def test_a_destination_that_cannot_be_written_is_refused_before_the_work(self) -> None:
        for dst in ("", str(self.folder / "missing" / "a.png"), str(self.folder)):
            with self.assertRaises((OutputError, InvalidRequest)):
                image_request("a", dst=dst)

    def test_enable_parameters_is_read_and_has_no_effect(self) -> None:
        dst = str(self.folder / "a.png")
        self.assertEqual(
            image_request("a", dst=dst, EnableParameters="negative_prompt,foo"), image_request("a", dst=dst)
        )

    @given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
    def test_any_numbers_are_taken_or_refused_as_ours(self, width: int, step: int, seed: int) -> None:
        try:
            image_request("a", dst="/tmp/x.png", width=width, height=width, step=step, seed=seed, CLIPSkip=step)
        except InvalidRequest:
            pass


class PicturesTest(FolderCase):
    def test_src_and_ref_images_come_in_order(self) -> None:
        names = [self.picture(name, (8 * (number + 1), 8)) for number, name in enumerate("abc")]
        found = image_request(src=names[0], ref_images=names[1:])
        self.assertEqual([image.width for image in found.images], [8, 16, 24])
        self.assertEqual((found.mask, found.is_inpainting), (None, False))

    def test_the_inpainting_json_gives_image_and_mask_and_its_copies_are_skipped(self) -> None:
        fields = self.inpainting((40, 24))
        fields["ref_images"].append(self.picture("style", (16, 16)))
        found = image_request(**fields)
        self.assertEqual([image.size for image in found.images], [(40, 24), (16, 16)])
        self.assertEqual((found.mask.mode, found.mask.size, found.is_inpainting), ("L", (40, 24), True))

    def test_pictures_are_upright_rgb(self) -> None:
        path = self.folder / "phone.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("L", (40, 20)).save(path, exif=exif)
        found = image_request(src=str(path)).images[0]
        self.assertEqual((found.size, found.mode), ((20, 40), "RGB"))

    def test_only_regular_readable_pictures_are_taken(self) -> None:
        os.mkfifo(self.folder / "fifo")
        (self.folder / "text").write_text("hello")
        (self.folder / "broken.json").write_text('{"image": "')
        (self.folder / "half").write_bytes(Path(self.picture("whole", (300, 300))).read_bytes()[:100])
        for name in ("fifo", "text", "broken.json", "half", "missing", "."):
            with self.assertRaisesRegex(InvalidRequest, "src"):
                image_request(src=str(self.folder / name))
        with self.assertRaisesRegex(InvalidRequest, "ref_images"):
            image_request(ref_images=["/dev/zero"])

    def test_pictures_are_bounded_in_pixels_and_bytes(self) -> None:
        path = self.picture(size=(100, 100))
        for settings in (Settings(max_source_pixels=9999), Settings(max_source_bytes=50)):
            with self.assertRaisesRegex(InvalidRequest, "src"):
                image_request(settings=settings, src=path)


class OtherRequestsTest(FolderCase):
    def video(self, **fields: Any) -> requests.GenerationRequest:
        message = backend_pb2.GenerateVideoRequest(dst=str(self.folder / "a.mp4"), **fields)
        return requests.from_video_request(message, Settings())

    def test_guidance_of_0_means_unset_and_a_bad_one_is_refused(self) -> None:
        self.assertIsNone(self.video(cfg_scale=0).guidance)
        self.assertEqual(self.video(cfg_scale=4.5).guidance, 4.5)
        for value in (-1.0, float("nan"), float("inf"), 1e6):
            with self.assertRaisesRegex(InvalidRequest, "cfg_scale"):
                self.video(cfg_scale=value)

    def test_params_are_typed_as_options_are(self) -> None:
        found = self.video(params={"eta": "0.5", "num_videos_per_prompt": "2", "x": "a:b"})
        self.assertEqual(dict(found.params), {"eta": 0.5, "num_videos_per_prompt": 2, "x": "a:b"})

    def test_start_and_end_image_may_be_paths(self) -> None:
        found = self.video(start_image=self.picture("a"), end_image=self.picture("b", (8, 8)))
        self.assertEqual((found.images[0].size, found.last_image.size), ((64, 64), (8, 8)))

    def test_upscaling_needs_a_source_and_a_sane_scale(self) -> None:
        for fields, says in (
            ({}, "src is empty"),
            ({"src": self.picture(), "scale": -2}, "scale=-2"),
            ({"src": self.picture(), "scale": 99}, "scale=99"),
        ):
            with self.assertRaisesRegex(InvalidRequest, says):
                requests.from_upscale_request(
                    backend_pb2.UpscaleImageRequest(dst=str(self.folder / "a.png"), **fields), Settings()
                )


if __name__ == "__main__":
    unittest.main()
