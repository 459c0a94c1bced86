# SPDX-License-Identifier: MIT
"""Promises of localai_diffusers.media.videos: what is encoded decodes again, frame by frame."""

from __future__ import annotations

import io
import os
import tempfile
import unittest
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from localai_diffusers.errors import Cancelled, GenerationFailed, InvalidRequest
from localai_diffusers.media import videos
from localai_diffusers.media.audio import AudioTrack, encode_audio
from localai_diffusers.media.files import atomic_output

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (10, 200, 90)]
TONE = AudioTrack(np.sin(np.arange(24_000) * 2 * np.pi * 440 / 24_000)[np.newaxis].astype(np.float32) / 2, 24_000)


def solid(size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    return [Image.new("RGB", size, color) for color in COLORS]


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.path = Path(holder.name, "clip.tmp")

    def encode(self, frames: Any, fps: float = 8, container: str = "mp4", **rest: Any) -> tuple[int, int]:
        return videos.encode_video(frames, fps, self.path, container, **rest)

    def read(self, data: Any = None, max_frames: int = 100, max_pixels: int = 10**6) -> list[Image.Image]:
        return videos.read_video(data or self.path, "video", max_frames=max_frames, max_pixels=max_pixels)

    def assert_colors(self, frames: Sequence[Image.Image], colors: Sequence[tuple[int, int, int]]) -> None:
        self.assertEqual(len(frames), len(colors))
        for frame, color in zip(frames, colors, strict=True):
            middle = np.asarray(frame.getpixel((frame.width // 2, frame.height // 2)), int)
            self.assertLess(np.abs(middle - color).max(), 8, (middle, color))


class Encoding(InFolder):
    def test_the_extension_chooses_among_three_containers_and_else_mp4(self) -> None:
        cases = {"a.mp4": "mp4", "a.tmp": "mp4", "a.png": "mp4", "a": "mp4", "a.GIF": "gif", "a.webm": "webm"}
        for dst, container in cases.items():
            self.assertEqual(videos.video_container(dst), container)

    def test_mp4_is_h264_yuv420p_of_the_asked_rate_whatever_the_file_is_called(self) -> None:
        self.assertEqual(self.encode(solid(), 23.976), (64, 48))
        with av.open(str(self.path)) as source:
            stream = source.streams.video[0]
            told = (stream.codec.name, stream.pix_fmt, stream.width, stream.height, stream.frames)
            self.assertEqual(told, ("h264", "yuv420p", 64, 48, 6))
            self.assertAlmostEqual(float(stream.average_rate), 23.976, places=3)
        data = self.path.read_bytes()
        self.assertLess(data.find(b"moov"), data.find(b"mdat"), "the index comes first (faststart)")

    def test_every_container_gives_back_frames_and_colors(self) -> None:
        for container in ("mp4", "webm", "gif"):
            self.encode(solid(), 8, container)
            self.assert_colors(self.read(), COLORS)

    def test_webm_is_vp9_and_a_gif_keeps_its_pace(self) -> None:
        self.encode(solid(), 12, "webm")
        with av.open(str(self.path)) as source:
            self.assertEqual((source.streams.video[0].codec.name, source.streams.video[0].average_rate), ("vp9", 12))
        self.encode(solid(), 10, "gif")
        with Image.open(self.path) as gif:
            self.assertEqual((gif.n_frames, gif.info["duration"], gif.info["loop"]), (6, 100, 0))

    def test_no_frame_of_a_gif_ends_more_than_a_hundredth_of_a_second_off(self) -> None:
        frames = [Image.new("RGB", (8, 8), (5 * index, 200 - index, index)) for index in range(48)]
        for fps in (6, 7.5, 8, 12, 15, 16, 23.976, 24, 25, 30, 50, 60, 100):
            self.encode(frames, fps, "gif")
            ends, end = [], 0
            with Image.open(self.path) as gif:
                self.assertEqual(gif.n_frames, 48, fps)
                for index in range(48):
                    gif.seek(index)
                    end += gif.info["duration"]
                    ends.append(end)
            off = [abs(end - 1000 * (index + 1) / fps) for index, end in enumerate(ends)]
            self.assertLessEqual(max(off), 10, fps)

    def test_a_gif_faster_than_its_clock_leaves_frames_out_and_keeps_its_length(self) -> None:
        frames = [Image.new("RGB", (8, 8), (index, 0, 255 - index)) for index in range(240)]
        self.encode(frames, 240, "gif")
        with Image.open(self.path) as gif:
            self.assertEqual(gif.n_frames, 100)

    def test_arrays_of_any_kind_are_frames(self) -> None:
        base = np.stack([np.asarray(frame) for frame in solid()])
        for frames in (
            base,
            base.astype(np.float32) / 255,
            list(base),
            np.concatenate([base, base[..., :1]], -1),
        ):
            self.encode(frames)
            self.assert_colors(self.read(), COLORS)
        self.encode(base[..., 0])
        self.assert_colors(self.read(), [(red, red, red) for red, _, _ in COLORS])

    def test_odd_sizes_lose_the_last_row_and_column(self) -> None:
        for size, even in (((65, 49), (64, 48)), ((1, 1), (2, 2)), ((17, 1), (16, 2))):
            for container in ("mp4", "webm"):
                self.assertEqual(self.encode(solid(size), 8, container), even)
                self.assertEqual({frame.size for frame in self.read()}, {even})

    def test_a_single_frame_is_a_video(self) -> None:
        self.encode(solid()[:1])
        self.assert_colors(self.read(), COLORS[:1])

    def test_sound_is_muxed_and_as_long_as_it_was(self) -> None:
        for container, codec, rate in (("mp4", "aac", 24_000), ("webm", "opus", 48_000)):
            self.encode(solid(), 6, container, audio=TONE)
            with av.open(str(self.path)) as source:
                sound = source.streams.audio[0]
                self.assertEqual((sound.codec.name, sound.rate, sound.channels), (codec, rate, 1))
                seconds = sum(frame.samples for frame in source.decode(sound)) / Fraction(rate)
            self.assertAlmostEqual(float(seconds), TONE.seconds, delta=0.1)
            self.assert_colors(self.read(), COLORS)

    def test_stereo_and_odd_rates_are_muxed(self) -> None:
        for rate in (7_000, 11_025, 44_100, 192_000):
            track = AudioTrack(np.zeros((2, rate // 2), np.float32), rate)
            self.encode(solid(), 8, "mp4", audio=track)
            with av.open(str(self.path)) as source:
                self.assertEqual(source.streams.audio[0].channels, 2)

    def test_the_stop_check_runs_before_each_frame_and_nothing_is_left(self) -> None:
        for container in ("mp4", "webm", "gif"):
            calls: list[int] = []

            def stop(calls: list[int] = calls) -> None:
                calls.append(1)
                if len(calls) == 3:
                    raise Cancelled("the client left")

            with self.assertRaises(Cancelled), atomic_output(str(self.path)) as path:
                videos.encode_video(solid(), 8, path, container, TONE, check=stop)
            self.assertEqual((len(calls), os.listdir(self.path.parent)), (3, []))

    def test_no_frames_and_senseless_rates_are_refused(self) -> None:
        with self.assertRaises(GenerationFailed):
            self.encode([])
        for fps in (0, -1, float("nan"), float("inf"), 1e9):
            with self.assertRaisesRegex(InvalidRequest, "fps"):
                self.encode(solid(), fps)


class Reading(InFolder):
    def test_only_as_many_frames_as_asked_are_read(self) -> None:
        for container in ("mp4", "gif"):
            self.encode(solid(), 8, container)
            self.assert_colors(self.read(max_frames=2), COLORS[:2])

    def test_bytes_animated_webp_and_a_still_are_read(self) -> None:
        self.encode(solid())
        self.assert_colors(self.read(self.path.read_bytes()), COLORS)
        buffer = io.BytesIO()
        frames = solid()
        frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
        self.assert_colors(self.read(buffer.getvalue()), COLORS)
        frames[1].save(self.path, "PNG")
        self.assert_colors(self.read(), COLORS[1:2])

    def refused(self, data: Any, words: str, **limits: int) -> None:
        with self.assertRaisesRegex(InvalidRequest, words) as caught:
            self.read(data, **limits)
        self.assertTrue(str(caught.exception).startswith("video"), caught.exception)

    def test_broken_and_foreign_files_are_refused(self) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
        self.encode(noise)
        data = self.path.read_bytes()
        for bad in (data[: len(data) // 3], data[:60], b"text " * 100, os.urandom(2000)):
            self.refused(bad, "isn't a video|no pictures|no frames")
        self.refused("/dev/zero", "a device")
        encode_audio(TONE, self.path, "wav")
        self.refused(self.path, "no pictures")

    def test_too_many_pixels_are_refused(self) -> None:
        for container in ("mp4", "gif"):
            self.encode(solid(), 8, container)
            self.refused(self.path, "64x48 pixels, the limit is 100", max_pixels=100)

    def test_a_playlist_cannot_name_other_files(self) -> None:
        self.encode(solid())
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{self.path}\n#EXT-X-ENDLIST\n"
        for text in (playlist, f"ffconcat version 1.0\nfile '{self.path}'\n"):
            self.refused(text.encode(), "isn't a video")


if __name__ == "__main__":
    unittest.main()
