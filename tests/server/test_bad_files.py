# SPDX-License-Identifier: MIT
"""Bad inputs and outputs through the server: the right status within a second, nothing left, nothing
harmed.
"""

from __future__ import annotations

import os
import socket
import struct
import time
import unittest
import zlib

import numpy as np
from PIL import Image

import backend_pb2
from tests import zoo
from tests.gated import CODE, ServerCase, pixels

SOON = 1.0  # seconds


class FilesCase(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.source = self.backend.folder / "source"
        self.addCleanup(self.remove_source)

    def remove_source(self) -> None:
        self.source.is_dir() and self.source.rmdir() or self.source.unlink(missing_ok=True)

    def refused(self, words: str, name: str = "never.png", **fields: object) -> None:
        """The request is refused soon, with these words, and leaves no file."""
        self.before = self.backend.outputs()
        began = time.monotonic()
        self.assert_status(CODE.INVALID_ARGUMENT, lambda: self.backend.picture(name, **fields), words)
        self.assertLess(time.monotonic() - began, SOON)
        self.assert_nothing_written()


class SourceTest(FilesCase):
    """Files that are no pictures."""

    def test_what_is_no_regular_file_is_never_opened(self) -> None:
        os.mkfifo(self.source)
        self.refused("named pipe", src=str(self.source))
        self.refused("device", src="/dev/zero")
        self.refused("folder", src=str(self.backend.folder))
        self.refused("no file", src=str(self.backend.folder / "missing"))

    def test_a_socket_is_refused(self) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.source))
            self.refused("socket", src=str(self.source))

    def test_what_is_no_picture_is_refused_by_name(self) -> None:
        whole = self.backend.folder / "whole"
        Image.effect_noise((64, 64), 90).save(whole, "PNG")
        broken = {
            "empty": b"",
            "text": b"a red circle",
            "random": os.urandom(4096),
            "truncated": whole.read_bytes()[:900],
            "pdf": b"%PDF-1.4\n",
            "json": b'{"image": 1}',
            "json cut": b'{"image": "',
            "svg": b"<svg xmlns='x'/>",
            "html": b"<html></html>",
            "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        }
        for name, content in broken.items():
            with self.subTest(name):
                self.source.write_bytes(content)
                self.refused("src", src=str(self.source))
        self.assert_serves()

    def test_a_bomb_is_refused_by_its_header(self) -> None:
        self.source.write_bytes(png_of(50_000, 50_000, b""))
        self.refused("50000x50000 pixels", src=str(self.source))

    def test_a_huge_file_is_refused_without_reading_it(self) -> None:
        with self.source.open("wb") as file:
            file.truncate(1 << 40)  # sparse
        self.refused("bytes", src=str(self.source))

    def test_one_bad_reference_among_good_ones_is_named(self) -> None:
        good = self.backend.folder / "good"
        Image.new("RGB", (64, 64), "red").save(good, "PNG")
        self.refused("missing", src=str(good), ref_images=[str(good), str(self.backend.folder / "missing")])


def png_of(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose header promises ``width`` x ``height``."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


class ModesTest(FilesCase):
    """Pictures of every kind that a user may send are read as what they show."""

    def test_every_mode_and_format_gives_a_picture(self) -> None:
        red = Image.new("RGB", (64, 64), (220, 30, 40))
        kinds = {
            "cmyk": (red.convert("CMYK"), "JPEG"),
            "palette": (red.convert("P"), "PNG"),
            "gray": (red.convert("L"), "PNG"),
            "alpha": (red.convert("RGBA"), "PNG"),
            "one bit": (red.convert("1"), "PNG"),
            "webp": (red, "WEBP"),
            "16 bit": (Image.fromarray(np.full((64, 64), 40_000, np.uint16)), "PNG"),
            "tiff": (red, "TIFF"),
        }
        for name, (image, kind) in kinds.items():
            with self.subTest(name):
                image.save(self.source, kind)
                self.backend.picture("kind.png", src=str(self.source), step=1)

    def test_of_an_animation_the_first_frame_counts(self) -> None:
        frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "green")]
        frames[0].save(self.source, "PNG")
        expected = pixels(self.backend.picture("still.png", src=str(self.source), step=2))
        frames[0].save(self.source, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        self.assertEqual(pixels(self.backend.picture("moving.png", src=str(self.source), step=2)), expected)


class DestinationTest(FilesCase):
    def test_what_cannot_be_written_is_told_before_the_work(self) -> None:
        folder = self.backend.folder
        for words, dst in (
            ("doesn't exist", f"{folder}/no/such/x.png"),
            ("a folder", str(folder)),
            ("isn't a path", ""),
            ("names a folder", f"{folder}/x/"),
            ("a device", "/dev/null"),
            ("dst", f"{folder}/{'x' * 300}.png"),
            ("dst", f"{folder}/source/x.png"),
        ):
            with self.subTest(dst=dst[:60]):
                self.source.touch()
                self.refused(words, dst=dst, step=900)
        self.source.unlink()
        os.mkfifo(self.source)
        self.refused("a named pipe", dst=str(self.source), step=900)

    def fill_the_disk(self) -> None:
        """A limit on the size of files stands for a full disk: both fail in the same write."""
        import resource

        limits = resource.prlimit(self.backend.process.pid, resource.RLIMIT_FSIZE)
        log_size = self.backend.log_file.stat().st_size
        resource.prlimit(self.backend.process.pid, resource.RLIMIT_FSIZE, (log_size + 3000, limits[1]))
        self.addCleanup(resource.prlimit, self.backend.process.pid, resource.RLIMIT_FSIZE, limits)

    def test_a_disk_that_fills_while_a_video_is_written_leaves_no_part_of_it(self) -> None:
        self.addCleanup(self.backend.load_shapes)
        self.assertTrue(self.backend.load(zoo.checkpoint("WanPipeline")).success)
        older = self.backend.folder / "older.gif"  # large, so that the log need not be small
        older.write_bytes(b"older")
        message = backend_pb2.GenerateVideoRequest(
            prompt="x", dst=str(older), width=256, height=256, num_frames=9, step=1
        )
        self.fill_the_disk()
        self.before = self.backend.outputs()
        ask = self.backend.stub.GenerateVideo
        self.assert_status(CODE.RESOURCE_EXHAUSTED, lambda: ask(message, timeout=30), "room")
        self.assertEqual(older.read_bytes(), b"older")
        self.assert_nothing_written()

    def test_a_full_disk_is_told_and_an_older_file_survives(self) -> None:
        older = self.backend.folder / "older.png"
        older.write_bytes(b"older")
        self.fill_the_disk()
        self.before = self.backend.outputs()
        self.assert_status(
            CODE.RESOURCE_EXHAUSTED,
            lambda: self.backend.picture("older.png", width=256, height=256, step=1),
            "room",
        )
        self.assertEqual(older.read_bytes(), b"older")
        self.assert_nothing_written()

    def test_the_mode_of_the_file_that_the_core_made_stays(self) -> None:
        path = self.backend.folder / "made.png"
        path.touch(mode=0o600)
        self.backend.picture("made.png", step=1)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertGreater(path.stat().st_size, 0)

    def test_a_dst_of_any_name_is_a_png(self) -> None:
        for name in ("localai-output-1.tmp", "plain", "a b.PNG", "ünï.png", "x.mp4"):
            path = self.backend.picture(name, step=1)
            with Image.open(path) as image:
                self.assertEqual(image.format, "PNG")

    def test_an_older_file_stays_when_the_request_is_refused(self) -> None:
        older = self.backend.folder / "older.png"
        older.write_bytes(b"older")
        self.refused("step", "older.png", step=-5)
        self.assertEqual(older.read_bytes(), b"older")


if __name__ == "__main__":
    unittest.main()
