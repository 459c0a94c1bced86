# SPDX-License-Identifier: MIT
"""RPCs that wait for a job never starve those that do not: Health, Status, Free and the refusal of one too many."""

from __future__ import annotations

import functools
import unittest

import grpc

import backend_pb2
from tests.gated import GatedBackend, ServerCase

QUEUE, BATCH = 64, 64  # LOCALAI_DIFFUSERS_MAX_QUEUE's default, and the largest max_batch
AT_ONCE = 2.0  # seconds; measured 0.01, with 128 requests on two busy cores


class PoolsTest(ServerCase):
    backend: GatedBackend

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = GatedBackend()
        cls.addClassCleanup(cls.backend.stop)
        cls.backend.load_shapes(Options=[f"max_batch:{BATCH}"])

    def fill(self) -> list[grpc.Future]:
        """Requests, one after the other, until one is refused: those that wait."""
        waiting: list[grpc.Future] = []
        while len(waiting) <= 2 * QUEUE:
            call = self.backend.queue(functools.partial(self.backend.start, f"{len(waiting)}.png", step=1))
            if call.done():
                self.assertIs(call.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
                break
            waiting.append(call)
        return waiting

    def test_all_are_answered_while_the_largest_batch_runs_and_the_queue_is_full(self) -> None:
        self.addCleanup(self.backend.release)
        self.backend.hold("encode")
        first = self.backend.start("first.png", step=1)
        self.backend.wait_at("encode")
        batch = self.fill()
        self.backend.hold("step")
        self.backend.release("encode")
        first.result(30)
        self.backend.wait_at("step")
        waiting = self.fill()
        self.assertEqual((len(batch), len(waiting)), (BATCH, QUEUE))
        self.backend.stub.Health(backend_pb2.HealthMessage(), timeout=AT_ONCE)
        self.backend.stub.Status(backend_pb2.HealthMessage(), timeout=AT_ONCE)
        with self.assertRaises(grpc.RpcError) as refused:
            self.backend.start("late.png", step=1).result(AT_ONCE)
        self.assertIs(refused.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.backend.stub.Free(backend_pb2.HealthMessage(), timeout=5)
        self.assertEqual({call.code() for call in (*batch, *waiting)}, {grpc.StatusCode.CANCELLED})


if __name__ == "__main__":
    unittest.main()
