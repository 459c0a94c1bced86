# SPDX-License-Identifier: MIT
"""The memory of what requests bring is bounded, and given back by whatever way a request ends."""

from __future__ import annotations

import functools
import io
import re
import time
import unittest
from pathlib import Path

import grpc
from PIL import Image

import backend_pb2
from localai_diffusers.errors import InvalidRequest, QueueFull
from localai_diffusers.settings import Settings
from localai_diffusers.wire import requests
from localai_diffusers.wire.intake import Intake, SourceMemory
from tests.gated import CODE, SOURCE_MEMORY, ServerCase
from tests.support import FolderCase, image_request

SIDES = (2500, 2000)  # 20 MB when decoded, twice that while it is
HELD = 4 * SIDES[0] * SIDES[1]


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, "red").save(stream, "PNG")
    return stream.getvalue()


class CountTest(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.memory = SourceMemory(1_200_000)

    def intake(self) -> Intake:
        return Intake(Settings(), self.memory)

    def test_a_picture_counts_as_long_as_its_intake_lives(self) -> None:
        path = self.picture(size=(300, 300))
        message = backend_pb2.GenerateImageRequest(positive_prompt="x", src=path, dst=str(self.folder / "a.png"))
        held = [self.intake() for _ in range(2)]
        for intake in held:
            requests.from_image_request(message, Settings(), intake)
        del intake
        self.assertEqual([intake.size for intake in held], [360_000] * 2)
        with self.assertRaisesRegex(
            QueueFull, r"src.*take 720000 bytes of 1200000.*MAX_SOURCE_MEMORY.*try again later"
        ):
            requests.from_image_request(message, Settings(), self.intake())
        del held[0]
        requests.from_image_request(message, Settings(), self.intake())

    def test_one_request_that_is_too_large_by_itself_is_invalid(self) -> None:
        path = self.picture(size=(300, 300))
        with self.assertRaisesRegex(
            InvalidRequest, "ref_images.*LOCALAI_DIFFUSERS_MAX_SOURCE_MEMORY.*fewer or smaller"
        ):
            image_request(settings=Settings(max_source_memory=1_000_000), ref_images=[path] * 3)

    def test_what_cannot_be_read_leaves_nothing_counted(self) -> None:
        bad, intake = self.folder / "bad", self.intake()
        bad.write_bytes(png((300, 300))[:200])
        for read in (intake.picture_file, intake.picture, intake.start):
            with self.assertRaises(InvalidRequest):
                read("src", str(bad))
            self.assertEqual(intake.size, 0)

    def test_of_transparency_and_of_a_mask_the_result_counts(self) -> None:
        clear, gray = self.folder / "clear", self.folder / "gray"
        clear.write_bytes(png((100, 100), "RGBA"))
        gray.write_bytes(png((100, 100), "L"))
        for path, mode, size in ((clear, "RGB", 40_000), (gray, "L", 10_000), (gray, "RGB", 40_000)):
            intake = self.intake()
            intake.picture("src", str(path), mode)
            self.assertEqual(intake.size, size)

    def test_the_frames_of_a_clip_are_counted_before_they_are_decoded(self) -> None:
        clip, intake = self.folder / "clip.gif", self.intake()
        frames = [
            Image.new("RGB", (210, 210), color) for color in ("red", "green", "blue", "white", "black", "gray", "pink")
        ]
        frames[0].save(clip, save_all=True, append_images=frames[1:])
        with self.assertRaisesRegex(InvalidRequest, "start_image.*MAX_SOURCE_MEMORY"):
            intake.video("start_image", clip.read_bytes())
        self.assertEqual(intake.size, 0)


class QueueTest(ServerCase):
    """More pictures than memory come in at once; the server's bound is SOURCE_MEMORY."""

    def setUp(self) -> None:
        super().setUp()
        self.source = self.backend.folder / "large"
        self.source.write_bytes(png(SIDES))
        self.addCleanup(self.source.unlink)

    def flood(self, count: int) -> list[grpc.Future]:
        fields = {"src": str(self.source), "step": 2}
        return [self.backend.start(f"{number}.png", **fields) for number in range(count)]

    def high_water(self) -> int:
        """The most memory in RAM since :meth:`reset`, in bytes."""
        status = Path(f"/proc/{self.backend.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def reset(self) -> None:
        Path(f"/proc/{self.backend.process.pid}/clear_refs").write_text("5")

    def test_many_large_pictures_fill_no_more_than_the_bound_and_those_that_fit_are_served(self) -> None:
        self.backend.hold("generate")
        first = self.backend.start("first.png", step=1)
        self.backend.wait_at("generate")
        self.reset()
        before, began = self.high_water(), time.monotonic()
        calls = self.flood(40)
        refused = [call for call in calls if self.ends_soon(call)]
        self.assertLess(time.monotonic() - began, 5)
        self.assertLess(self.high_water() - before, SOURCE_MEMORY + (64 << 20))
        self.assertTrue(3 <= len(calls) - len(refused) <= SOURCE_MEMORY // HELD, len(refused))
        for call in refused:
            self.assert_code(call.exception(), CODE.RESOURCE_EXHAUSTED, "LOCALAI_DIFFUSERS_MAX_SOURCE_MEMORY")
        self.backend.release()
        self.assertTrue(all(call.result().success for call in (first, *calls) if call not in refused))
        self.assert_serves()

    def ends_soon(self, call: grpc.Future) -> bool:
        try:
            call.exception(timeout=0.5)
        except grpc.FutureTimeoutError:
            return False
        return True

    def test_by_whatever_way_requests_end_their_memory_is_there_for_the_next(self) -> None:
        fields = {"src": str(self.source), "step": 2}
        most = SOURCE_MEMORY // HELD
        for _ in range(most):  # refused after its picture was read
            self.assert_status(
                CODE.INVALID_ARGUMENT, lambda: self.backend.picture("never.png", **{**fields, "CLIPSkip": 60})
            )
        self.backend.hold("generate")
        first = self.backend.start("first.png", step=1)
        self.backend.wait_at("generate")
        for _ in range(3):  # cancelled in the queue
            start = functools.partial(self.backend.start, "never.png", **fields)
            calls = [self.backend.queue(start) for _ in range(2)]
            for call in calls:
                call.cancel()
            time.sleep(0.1)
        last = self.backend.queue(functools.partial(self.backend.start, "last.png", **fields))
        self.backend.release()
        self.assertTrue(first.result().success and last.result().success)


if __name__ == "__main__":
    unittest.main()
