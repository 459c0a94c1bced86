# SPDX-License-Identifier: MIT
"""What the operator reads: a line when ready, loaded and done, and one for each request that is not served, with its
request id; never a prompt."""

from __future__ import annotations

import json
import unittest

import grpc

import backend_pb2
from tests.gated import GatedBackend, ServerCase, wait_until

SECRET = "a purple zebra of the moon"


class LogLinesTest(ServerCase):
    backend: GatedBackend

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = GatedBackend(LOCALAI_DIFFUSERS_LOG_FORMAT="json", LOCALAI_DIFFUSERS_MAX_QUEUE="1")
        cls.addClassCleanup(cls.backend.stop)
        cls.backend.load_shapes()

    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.backend.log.splitlines() if line.startswith("{")]

    def ask(self, request_id: str, **fields: object) -> grpc.Future:
        request = self.backend.request("out.png", SECRET, step=2, **fields)
        return self.backend.stub.GenerateImage.future(request, metadata=(("x-request-id", request_id),), timeout=60)

    def of(self, request_id: str) -> list[str]:
        return [line["message"] for line in self.lines() if line.get("request") == request_id]

    def test_ready_loaded_and_done(self) -> None:
        self.ask("first-1").result()
        messages = [line["message"] for line in self.lines()]
        self.assertEqual(sum(message.startswith("ready: ") for message in messages), 1)
        loaded = r"is loaded as StableDiffusionPipeline on cpu in float32, [\d,]+ MiB in "
        self.assertRegex("\n".join(messages), loaded)
        done = r"^GenerateImage done: PNG 64x64 in [\d.]+ s, 2 steps at .* it/s, seed 1"
        self.assertRegex(self.of("first-1")[-1], done)

    def test_refused_and_full_queue_and_a_client_that_leaves(self) -> None:
        self.assertEqual(self.ask("bad-1", width=-1).code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.backend.hold("generate")
        self.addCleanup(self.backend.release)
        running = self.ask("gone-1")
        self.backend.wait_at("generate")
        waiting = self.backend.queue(lambda: self.ask("waits-1"))
        self.assertEqual(self.ask("full-1").code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        running.cancel()
        waiting.cancel()
        wait_until(lambda: self.of("gone-1") and self.of("waits-1"), 10, "no line of who left")
        self.assertIn("INVALID_ARGUMENT: width=-1", self.of("bad-1")[-1])
        self.assertIn("RESOURCE_EXHAUSTED", self.of("full-1")[-1])
        self.assertIn("CANCELLED", self.of("gone-1")[-1])

    def test_a_bad_id_of_a_caller_is_replaced(self) -> None:
        self.ask("x y; z").result()
        self.assertNotIn("x y; z", self.backend.log)

    def tearDown(self) -> None:
        self.assertNotIn("zebra", self.backend.log)


class TextLinesTest(ServerCase):
    def test_an_id_of_ours_stands_before_the_message(self) -> None:
        self.backend.load_shapes()
        self.backend.picture(step=1)
        self.assertRegex(self.backend.log, r"INFO backend: \[[0-9a-f]{8}\] GenerateImage done")

    def test_health_writes_nothing(self) -> None:
        before = len(self.backend.log)
        self.backend.stub.Health(backend_pb2.HealthMessage())
        self.assertEqual(len(self.backend.log), before)


if __name__ == "__main__":
    unittest.main()
