# SPDX-License-Identifier: MIT
"""Promises of localai_diffusers.media.images: any picture becomes 8-bit RGB or a mask, and is written as
asked.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import tempfile
import time
import unittest
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from localai_diffusers.errors import InvalidRequest, OutputError
from localai_diffusers.media import images

PIXELS = 10_000
RAMP = np.linspace(0, 1, 256, dtype=np.float64).reshape(16, 16)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def read(data: bytes | str | Path, mode: str = "RGB") -> Image.Image:
    return images.read_image(data, "src", max_pixels=PIXELS, mode=mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be of this size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


class Reading(unittest.TestCase):
    def test_common_formats_come_out_as_rgb(self) -> None:
        image = Image.new("RGB", (20, 10), (200, 30, 90))
        for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
            got = read(encoded(image, format))
            self.assertEqual((got.mode, got.size), ("RGB", (20, 10)))
            self.assertLess(np.abs(np.asarray(got, int) - (200, 30, 90)).max(), 9, format)

    def test_orientation_from_exif_is_applied(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.new("RGB", (20, 10), "red")
        image.paste("blue", (0, 0, 10, 10))
        got = read(encoded(image, exif=exif))
        self.assertEqual((got.size, got.getpixel((5, 2)), got.getpixel((5, 17))), ((10, 20), (0, 0, 255), (255, 0, 0)))

    def test_sixteen_bits_are_scaled_not_clipped(self) -> None:
        deep = Image.fromarray(np.rint(RAMP * 65535).astype(np.uint16))
        for data in (encoded(deep), encoded(deep, "TIFF")):
            got = np.asarray(read(data), float)[..., 0]
            self.assertLess(np.abs(got - RAMP * 255).max(), 1.01)

    def test_a_sixteen_bit_pgm_and_a_float_tiff_are_scaled(self) -> None:
        pgm = b"P5 16 16 65535\n" + np.rint(RAMP * 65535).astype(">u2").tobytes()
        tiff = encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF")
        for data in (pgm, tiff):
            self.assertLess(np.abs(np.asarray(read(data), float)[..., 1] - RAMP * 255).max(), 1.01)

    def test_cmyk_is_converted(self) -> None:
        got = read(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
        self.assertLess(np.abs(np.asarray(got, int) - (255, 0, 0)).max(), 12)

    def test_transparency_shows_white_in_a_picture_and_black_in_a_mask(self) -> None:
        clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
        clear.putpixel((1, 1), (255, 255, 255, 255))
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([10, 20, 30, 255, 255, 255])
        palette.putpixel((1, 1), 1)
        for data in (
            encoded(clear),
            encoded(palette, transparency=0),
            encoded(palette, "GIF", transparency=0),
        ):
            self.assertEqual(read(data).getpixel((0, 0)), (255, 255, 255))
            mask = read(data, mode="L")
            self.assertEqual((mask.mode, mask.getpixel((0, 0)), mask.getpixel((1, 1))), ("L", 0, 255))

    def test_gray_and_one_bit_pictures_are_read(self) -> None:
        self.assertEqual(read(encoded(Image.new("L", (4, 4), 77))).getpixel((0, 0)), (77, 77, 77))
        self.assertEqual(read(encoded(Image.new("1", (4, 4), 1)), mode="L").getpixel((0, 0)), 255)

    def test_an_animation_gives_its_first_frame(self) -> None:
        first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
        for format in ("GIF", "WEBP", "PNG"):
            data = encoded(first, format, save_all=True, append_images=[second])
            self.assertGreater(read(data).getpixel((4, 4))[0], 240, format)

    def test_a_path_is_read_whatever_its_extension(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("staged", "wrong.txt", "a.png"):
                path = Path(folder, name)
                path.write_bytes(encoded(Image.new("RGB", (5, 6))))
                self.assertEqual(read(path).size, (5, 6))
                self.assertEqual(read(str(path)).size, (5, 6))


class Refusing(unittest.TestCase):
    def refused(self, data: bytes | str, words: str) -> None:
        with self.assertRaisesRegex(InvalidRequest, words) as caught:
            read(data)
        self.assertTrue(str(caught.exception).startswith("src"), caught.exception)

    def test_truncated_pictures_are_refused(self) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        for format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
            data = encoded(noise, format)
            for length in (len(data) // 2, 30):
                self.refused(data[:length], "isn't a picture that can be read")

    def test_texts_random_bytes_and_programs_for_a_printer_are_refused(self) -> None:
        postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
        for data in (
            b"hello world " * 50,
            bytes(np.random.default_rng(1).bytes(5000)),
            postscript,
            b"<svg/>",
            b"x",
        ):
            self.refused(data, "isn't a picture")

    def test_a_bomb_is_refused_from_its_header(self) -> None:
        start = time.monotonic()
        self.refused(png_header(60_000, 60_000), "60000x60000 pixels, the limit is 10000")
        self.assertLess(time.monotonic() - start, 0.5)

    def test_our_limit_counts_not_pillows(self) -> None:
        before = Image.MAX_IMAGE_PIXELS
        self.addCleanup(setattr, Image, "MAX_IMAGE_PIXELS", before)
        Image.MAX_IMAGE_PIXELS = 10
        self.assertEqual(read(encoded(Image.new("RGB", (100, 100)))).size, (100, 100))

    def test_the_path_is_named(self) -> None:
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(b"no picture at all")
            file.flush()
            self.refused(file.name, f"src: '{file.name}' isn't a picture")
        self.refused("/dev/zero", "a device")
        self.refused("/nowhere/a.png", "no file")


class InpaintJson(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.path = Path(holder.name, "inpaint_1234")
        self.image = base64.b64encode(encoded(Image.new("RGB", (8, 6), "red"))).decode()
        self.mask = base64.b64encode(encoded(Image.new("L", (8, 6), 255))).decode()

    def parsed(self, content: str | bytes) -> tuple[Image.Image, Image.Image] | None:
        self.path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return images.read_inpaint_json(str(self.path), "src", max_pixels=PIXELS, max_bytes=100_000)

    def test_the_cores_json_gives_picture_and_mask_without_an_extension(self) -> None:
        for prefix in ("", " \n", "\ufeff"):
            parts = self.parsed(prefix + json.dumps({"image": self.image, "mask_image": self.mask}))
            assert parts is not None
            self.assertEqual([(part.mode, part.size) for part in parts], [("RGB", (8, 6)), ("L", (8, 6))])

    def test_data_uris_are_taken(self) -> None:
        uri = "data:image/png;base64,"
        parts = self.parsed(json.dumps({"image": uri + self.image, "mask_image": uri + self.mask}))
        self.assertIsNotNone(parts)

    def test_a_picture_is_none_of_it(self) -> None:
        self.assertIsNone(self.parsed(encoded(Image.new("RGB", (8, 6)))))

    def test_broken_json_missing_keys_and_bad_pictures_are_refused(self) -> None:
        good = {"image": self.image, "mask_image": self.mask}
        cases = (
            ("{" * 100_000, "limit|begins like JSON"),
            ('{"image": "', "begins like JSON"),
            ("{}", "no 'image'"),
            (json.dumps({"image": self.image}), "no 'mask_image'"),
            (json.dumps(good | {"mask_image": "AAAA" * 20}), "src.mask_image"),
            (json.dumps(good | {"image": 5}), "no 'image'"),
            (json.dumps(good | {"image": "/etc/passwd"}), "src"),
        )
        for content, words in cases:
            with self.assertRaisesRegex(InvalidRequest, words):
                self.parsed(content)


class Writing(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.path = Path(holder.name, "x.tmp")
        values = np.random.default_rng(0).integers(0, 2, (33, 65, 3), dtype=np.uint8) * 255
        self.image = Image.fromarray(values)

    def test_the_extension_chooses_among_three_formats_and_else_png(self) -> None:
        cases = {
            "a.png": "PNG",
            "a.tmp": "PNG",
            "a": "PNG",
            "a.mp4": "PNG",
            "a.JPG": "JPEG",
            "a.jpeg": "JPEG",
            "a.webp": "WEBP",
            "b64.png.tmp": "PNG",
        }
        for dst, format in cases.items():
            self.assertEqual(images.image_format(dst), format)

    def test_a_png_keeps_every_pixel_and_its_texts(self) -> None:
        texts = {"parameters": "Steps: 4, Seed: 7\nhé 日本", "other": "x"}
        images.save_image(self.image, self.path, "PNG", texts)
        with Image.open(self.path) as got:
            self.assertEqual((got.format, got.text), ("PNG", texts))
            np.testing.assert_array_equal(np.asarray(got), np.asarray(self.image))

    def test_jpeg_and_webp_carry_the_parameters_in_exif(self) -> None:
        for format in ("JPEG", "WEBP"):
            images.save_image(self.image, self.path, format, {"parameters": "Steps: 4, 日本" + "x" * 90_000})
            with Image.open(self.path) as got:
                comment = got.getexif().get_ifd(0x8769)[0x9286]
                self.assertEqual((got.format, got.size), (format, (65, 33)))
            self.assertTrue(comment.startswith(b"UNICODE\0"))
            self.assertTrue(comment[8:].decode("utf-16-be").startswith("Steps: 4, 日本"))

    def test_every_mode_that_a_pipeline_makes_is_stored(self) -> None:
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I", "F", "CMYK"):
            for format in ("PNG", "JPEG", "WEBP"):
                images.save_image(Image.new(mode, (9, 7)), self.path, format)
                with Image.open(self.path) as got:
                    self.assertEqual((got.format, got.size), (format, (9, 7)))

    def test_png_keeps_transparency_and_sixteen_bits(self) -> None:
        images.save_image(Image.new("RGBA", (4, 4), (1, 2, 3, 4)), self.path, "PNG")
        self.assertEqual(Image.open(self.path).getpixel((0, 0)), (1, 2, 3, 4))
        images.save_image(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), self.path, "PNG")
        self.assertEqual(Image.open(self.path).getpixel((0, 0)), 40_000)

    def test_a_picture_too_wide_for_its_format_names_png(self) -> None:
        with self.assertRaisesRegex(OutputError, ".png"):
            images.save_image(Image.new("L", (17_000, 1)), self.path, "WEBP")


if __name__ == "__main__":
    unittest.main()
