"""max_batch: queued requests of equal shape run as one call, each with its own prompt, seed and answer."""
from __future__ import annotations

import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

import backend_pb2
import grpc
from PIL import Image

from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, Backend

PROMPTS = [("red", "circle", "blue"), ("yellow", "square", "black"), ("green", "triangle", "white"), ("blue", "square", "yellow")]


class Batching(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = Backend()
        result = cls.backend.load(SHAPES_MODEL, Options=["max_batch:4", "guidance_scale:5"])
        assert result.success, result.message

    @classmethod
    def tearDownClass(cls) -> None:
        cls.backend.stop()

    def request(self, number: int, **fields: object) -> backend_pb2.GenerateImageRequest:
        color, shape, background = PROMPTS[number % len(PROMPTS)]
        values = {"positive_prompt": f"a {color} {shape} on a {background} background", "width": 64, "height": 64, "step": 20,
                  "seed": number + 1, "dst": str(self.backend.folder / f"{self.id()}-{number}.png")}
        return backend_pb2.GenerateImageRequest(**{**values, **fields})

    def behind_a_long_one(self) -> grpc.Future:
        """A running request of another shape, so that those after it queue."""
        blocker = self.backend.stub.GenerateImage.future(self.request(90, step=60))
        while self.backend.stub.Status(backend_pb2.HealthMessage()).state != backend_pb2.StatusResponse.BUSY:
            threading.Event().wait(0.01)
        return blocker

    def test_queued_requests_run_as_one_call_and_each_gets_its_own_picture(self) -> None:
        blocker = self.behind_a_long_one()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.backend.stub.GenerateImage, [self.request(number) for number in range(4)]))
        blocker.result()
        self.assertIn("4 requests ran as one call", self.backend.log)
        for number, (color, shape, background) in enumerate(PROMPTS):
            verdict = judge(Image.open(self.request(number).dst))
            self.assertEqual((verdict.color, verdict.shape, verdict.background), (color, shape, background))

    def test_a_picture_of_a_batch_is_that_of_its_seed(self) -> None:
        blocker = self.behind_a_long_one()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.backend.stub.GenerateImage, [self.request(number) for number in range(2)]))
        blocker.result()
        alone = self.request(0, dst=str(self.backend.folder / "alone.png"))
        self.backend.stub.GenerateImage(alone)
        pairs = zip(Image.open(alone.dst).tobytes(), Image.open(self.request(0).dst).tobytes(), strict=True)
        self.assertLess(max(abs(one - other) for one, other in pairs), 8)

    def test_a_cancelled_member_does_not_spoil_the_others(self) -> None:
        blocker = self.behind_a_long_one()
        futures = [self.backend.stub.GenerateImage.future(self.request(number)) for number in range(3)]
        blocker.result()
        futures[1].cancel()
        self.assertTrue(futures[0].result().success and futures[2].result().success)
        self.assertEqual(judge(Image.open(self.request(2).dst)).shape, "triangle")

    def test_a_failing_member_does_not_spoil_the_others(self) -> None:
        folder = self.backend.folder / "gone"
        folder.mkdir()
        blocker = self.behind_a_long_one()
        bad = self.backend.stub.GenerateImage.future(self.request(1, dst=str(folder / "x.png")))
        good = self.backend.stub.GenerateImage.future(self.request(0))
        threading.Event().wait(0.2)
        folder.rmdir()
        blocker.result()
        self.assertTrue(good.result().success)
        self.assertEqual(bad.exception().code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_max_batch_out_of_range_fails_the_load(self) -> None:
        result = self.backend.load(SHAPES_MODEL, Options=["max_batch:0"])
        self.assertFalse(result.success)
        self.assertIn("max_batch:0", result.message)


if __name__ == "__main__":
    unittest.main()
