# SPDX-License-Identifier: MIT
"""What a decoded picture shows, against littleCMS, numpy and the standards, in every reader."""

from __future__ import annotations

import io
import struct
import unittest
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

from localai_diffusers.media import images, videos

COLORS = (
    np.array([(200, 80, 60), (60, 160, 70), (50, 90, 200), (128, 128, 128)], np.uint8).repeat(4, 0).reshape(4, 4, 3)
)
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def profile(colorants: tuple[tuple[float, ...], ...], gamma: float = 2.2) -> bytes:
    """An ICC profile of three colorants (rows of XYZ under D50) and one gamma; of gray where there are no colorants."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 80,
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249),
    }
    for name, row in zip((b"r", b"g", b"b"), colorants, strict=False):
        tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + fixed(*row), name + b"TRC": curve}
    if not colorants:
        tags[b"kTRC"] = curve
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    space = b"RGB " if colorants else b"GRAY"
    head = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(body), b"test", 0x02100000, b"mntr", space, b"XYZ ", b"", b"acsp"
    )
    head = head.ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def still(data: bytes, mode: str = "RGB") -> Image.Image:
    return images.read_image(data, "src", max_pixels=10**6, mode=mode)


def first_frame(data: bytes) -> Image.Image:
    return videos.read_video(data, "video", max_frames=9, max_pixels=10**6)[0]


def last_frame(data: bytes) -> Image.Image:
    return videos.read_video(data, "video", max_frames=9, max_pixels=10**6)[-1]


READERS: tuple[Callable[[bytes], Image.Image], ...] = (still, first_frame)


def clip(frames: list[np.ndarray], codec: str, container: str, pixels: str, **settings: Any) -> bytes:
    """Frames (H, W, 3 or 4) in a container; ``settings``: attributes and metadata of the stream."""
    sink, given = io.BytesIO(), "rgba" if frames[0].shape[-1] == 4 else "rgb24"
    with av.open(sink, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(8))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = settings.get("options", {})
        if "turn" in settings:
            stream.set_display_rotation(*settings["turn"])
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=given).reformat(format=pixels)))
        output.mux(stream.encode(None))
    return sink.getvalue()


class ProfilesTest(unittest.TestCase):
    def right(self, image: Image.Image, icc: bytes) -> np.ndarray:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        made = ImageCms.profileToProfile(image, opened, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return np.asarray(made, int)

    def test_wide_colors_become_srgb_in_every_reader_and_format(self) -> None:
        image = Image.fromarray(COLORS)
        for icc in (profile(DISPLAY_P3), profile(ADOBE_RGB)):
            right = self.right(image, icc)
            self.assertGreater(np.abs(right - COLORS).mean(), 3)
            for format in ("PNG", "TIFF", "WEBP"):
                options = {"lossless": True} if format == "WEBP" else {}
                for read in READERS:
                    made = np.asarray(read(encoded(image, format, icc_profile=icc, **options)), int)
                    self.assertLessEqual(np.abs(made - right).max(), 1, (format, read))

    def test_a_later_frame_of_an_animation_is_converted_too(self) -> None:
        image, icc = Image.fromarray(COLORS), profile(DISPLAY_P3)
        data = encoded(Image.new("RGB", (4, 4)), save_all=True, append_images=[image], icc_profile=icc, duration=100)
        self.assertLessEqual(np.abs(np.asarray(last_frame(data), int) - self.right(image, icc)).max(), 1)

    def test_gray_and_palettes_are_converted(self) -> None:
        gray, icc = Image.fromarray(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)), profile((), 1.8)
        made = np.asarray(still(encoded(gray, icc_profile=icc)), int)
        self.assertLessEqual(np.abs(made - self.right(gray, icc)).max(), 1)
        wide, colors = profile(ADOBE_RGB), Image.fromarray(COLORS)
        made = np.asarray(still(encoded(colors.quantize(4), icc_profile=wide)), int)
        self.assertLessEqual(np.abs(made - self.right(colors.quantize(4).convert("RGB"), wide)).max(), 1)

    def test_transparency_is_on_white_after_the_conversion(self) -> None:
        icc, image = profile(DISPLAY_P3), Image.fromarray(COLORS).convert("RGBA")
        image.putpixel((0, 0), (200, 80, 60, 0))
        made = np.asarray(still(encoded(image, icc_profile=icc)), int)
        right = self.right(Image.fromarray(COLORS), icc)
        right[0, 0] = 255
        self.assertLessEqual(np.abs(made - right).max(), 1)

    def test_a_broken_profile_and_one_of_other_channels_are_ignored(self) -> None:
        image = Image.fromarray(COLORS)
        for icc in (b"no profile at all", profile((), 1.8)):
            self.assertTrue((np.asarray(still(encoded(image, icc_profile=icc))) == COLORS).all())

    def test_a_mask_is_data(self) -> None:
        gray = Image.fromarray(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4))
        made = np.asarray(still(encoded(gray, icc_profile=profile((), 1.0)), mode="L"))
        self.assertTrue((made == np.asarray(gray)).all())


class DepthTest(unittest.TestCase):
    RAMP = np.arange(16 * 16).reshape(16, 16) / 255

    def deep_tiff(self, samples: np.ndarray) -> bytes:
        """16-bit RGB as libtiff's users write it; Pillow writes none."""
        encoder = av.CodecContext.create("tiff", "w")
        encoder.height, encoder.width = samples.shape[:2]
        encoder.pix_fmt, encoder.time_base = "rgb48le", Fraction(1)
        frame = av.VideoFrame.from_ndarray(samples, format="rgb48le")
        return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))

    def test_the_bits_that_a_camera_fills_are_the_whole_range(self) -> None:
        for bits in (10, 12, 14, 16):
            samples = np.rint(self.RAMP * (2**bits - 1)).astype(np.uint16)
            colors = np.stack([samples, samples[::-1], samples.T], -1)
            for data, right in (
                (encoded(Image.fromarray(samples), "TIFF"), np.stack([self.RAMP] * 3, -1)),
                (self.deep_tiff(colors), np.stack([self.RAMP, self.RAMP[::-1], self.RAMP.T], -1)),
            ):
                self.assertLess(np.abs(np.asarray(still(data), float) - right * 255).max(), 1.01, bits)

    def test_the_tag_for_the_largest_sample_counts(self) -> None:
        samples = np.rint(self.RAMP * 1500).astype(np.uint16)
        data = encoded(Image.fromarray(samples), "TIFF", tiffinfo={281: 3000})
        self.assertLess(np.abs(np.asarray(still(data), float)[..., 0] - self.RAMP * 127.5).max(), 1.01)

    def test_a_dark_png_of_16_bits_stays_dark(self) -> None:
        data = encoded(Image.fromarray(np.full((4, 4), 4000, np.uint16)))
        for read in READERS:
            self.assertEqual(read(data).getpixel((0, 0)), (16, 16, 16))

    def test_deep_samples_keep_orientation_and_profile(self) -> None:
        samples = np.zeros((4, 8), np.uint16)
        samples[:, :4] = 40000
        made = still(encoded(Image.fromarray(samples), "TIFF", tiffinfo={274: 6}, icc_profile=profile((), 1.0)))
        self.assertEqual((made.size, made.getpixel((0, 0))[0] > 180, made.getpixel((0, 7))[0]), ((4, 8), True, 0))


class TurnsTest(unittest.TestCase):
    """A display matrix turns and mirrors the frames of a clip, EXIF those of an animation."""

    QUARTERS = (
        np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8).repeat(16, 0).repeat(32, 1)
    )

    def corners(self, picture: Image.Image) -> str:
        """Names of the corners' colors, row by row."""
        width, height = picture.size
        names = {(True, False, False): "r", (False, True, False): "g", (False, False, True): "b", (True,) * 3: "w"}
        places = [(x, y) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
        return "".join(names[tuple(value > 128 for value in picture.getpixel(place))] for place in places)

    def test_every_turn_and_mirror(self) -> None:
        """libav's own reading of the matrix: counterclockwise degrees, then the mirrors."""
        for turn, mirrors, right in (
            (0, (), "rgbw"),
            (90, (), "gwrb"),
            (-90, (), "brwg"),
            (180, (), "wbgr"),
            (0, (True, False), "grwb"),
            (0, (False, True), "bwrg"),
        ):
            data = clip([self.QUARTERS] * 2, "libx264", "mp4", "yuv420p", turn=(turn, *mirrors))
            made = first_frame(data)
            self.assertEqual((made.size, self.corners(made)), ((64, 32) if turn % 180 == 0 else (32, 64), right), turn)

    def test_every_frame_of_an_animation_is_upright(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.fromarray(self.QUARTERS)
        for format in ("WEBP", "PNG"):
            data = encoded(image, format, exif=exif, save_all=True, append_images=[image.transpose(0)], duration=90)
            self.assertEqual(self.corners(first_frame(data)), "brwg", format)
            self.assertEqual(self.corners(last_frame(data)), "wgbr", format)


class PaperTest(unittest.TestCase):
    """What is transparent in a clip is white, as in a still."""

    def assert_white_beside_red(self, picture: Image.Image, what: str) -> None:
        self.assertLess(np.abs(np.asarray(picture.getpixel((8, 16)), int) - (255, 255, 255)).max(), 12, what)
        self.assertLess(np.abs(np.asarray(picture.getpixel((24, 16)), int) - (220, 30, 40)).max(), 16, what)

    def frames(self) -> list[np.ndarray]:
        frame = np.zeros((32, 32, 4), np.uint8)
        frame[:, 16:] = (220, 30, 40, 255)
        frame[4:8, 28:] = 0  # libwebp crops a frame to what is seen, and tells of no transparency around it
        return [frame, frame.copy()]

    def test_of_videos(self) -> None:
        for codec, container, pixels in (
            ("prores_ks", "mov", "yuva444p10le"),
            ("qtrle", "mov", "argb"),
            ("png", "mov", "rgba"),
        ):
            self.assert_white_beside_red(last_frame(clip(self.frames(), codec, container, pixels)), codec)

    def test_of_webm_whose_alpha_is_a_stream_beside(self) -> None:
        for codec in ("libvpx-vp9", "libvpx"):
            self.assert_white_beside_red(
                last_frame(clip(self.frames(), codec, "webm", "yuva420p", options={"auto-alt-ref": "0"})), codec
            )

    def test_of_animations(self) -> None:
        pictures = [Image.fromarray(frame, "RGBA") for frame in self.frames()]
        pictures[1].putpixel((0, 0), (0, 0, 255, 255))  # what equals the frame before is left out
        for format in ("GIF", "WEBP", "PNG"):
            options = {"lossless": True} if format == "WEBP" else {"disposal": 2} if format == "GIF" else {}
            data = encoded(pictures[0], format, save_all=True, append_images=pictures[1:], duration=90, **options)
            self.assert_white_beside_red(first_frame(data), format)
            self.assert_white_beside_red(last_frame(data), format)


if __name__ == "__main__":
    unittest.main()
