# SPDX-License-Identifier: MIT
"""batch_wait_ms in the engine: how long a first request waits for others, by a clock that the test turns."""

from __future__ import annotations

import threading
import unittest
from collections.abc import Callable, Sequence
from typing import Any

from localai_diffusers.errors import Cancelled, QueueFull
from localai_diffusers.work.engine import Engine, State
from localai_diffusers.work.jobs import Batch, Job
from localai_diffusers.work.waiting_line import Clock

WAIT = 20.0  # seconds after which a test gives up
PATIENCE = 100.0  # seconds of the turned clock that a first request waits


class TurnedClock(Clock):
    """Time goes on when the test says so; ``waits``: one more each time that the engine's thread begins to wait."""

    def __init__(self) -> None:
        self.time = 0.0
        self.waits = threading.Semaphore(0)
        self._changed: Any = None

    def now(self) -> float:
        return self.time

    def wait(self, changed: threading.Condition, seconds: float | None) -> None:
        self._changed = changed
        self.waits.release()
        changed.wait()

    def turn(self, seconds: float) -> None:
        with self._changed:
            self.time += seconds
            self._changed.notify_all()


class PatienceTest(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = TurnedClock()
        self.engine = Engine(max_queue=8, clock=self.clock)
        self.addCleanup(self.engine.shutdown, WAIT)
        self.idle()
        self.ran: list[int] = []  # how many jobs each call had
        self.engine.load("model", lambda _job, _current: lambda: object()).wait(WAIT)
        self.idle()

    def idle(self) -> None:
        """Return once the engine's thread waits anew."""
        self.assertTrue(self.clock.waits.acquire(timeout=WAIT))

    def first_and_late_second(self) -> tuple[Job[Any], Job[Any]]:
        """Two that wait; the second came a second before the first has waited for long enough."""
        first = self.request()
        self.idle()
        self.clock.turn(PATIENCE - 1)
        self.idle()
        second = self.request()
        self.idle()
        return first, second

    def request(self, key: str = "a", limit: int = 3) -> Job[Any]:
        """A request that waits for its like, and says with how many it ran."""

        def run(jobs: Sequence[Job[Any]], _model: Any) -> bool:
            self.ran.append(len(jobs))
            for job in jobs:
                job.run(lambda _job: len(jobs))
            return True

        def alone(_job: Job[Any], _model: Any) -> int:
            self.ran.append(1)
            return 1

        return self.engine.generate(alone, "x", batch=Batch(key, limit, None, run, PATIENCE))

    def test_a_first_request_waits_so_long_and_no_longer(self) -> None:
        job = self.request()
        self.idle()
        self.clock.turn(PATIENCE - 1)
        self.idle()
        self.assertEqual((self.ran, self.engine.state), ([], State.BUSY))
        self.clock.turn(1)
        self.assertEqual(job.wait(WAIT), 1)

    def test_those_that_come_meanwhile_run_with_it_and_do_not_prolong_the_wait(self) -> None:
        first, second = self.first_and_late_second()
        self.clock.turn(1)
        self.assertEqual((first.wait(WAIT), second.wait(WAIT)), (2, 2))

    def test_a_full_batch_waits_for_nothing(self) -> None:
        jobs = [self.request() for _ in range(3)]
        self.assertEqual([job.wait(WAIT) for job in jobs], [3, 3, 3])
        self.assertEqual(self.clock.time, 0)

    def test_what_it_waited_behind_another_call_counts(self) -> None:
        running, go = threading.Event(), threading.Event()
        self.engine.submit(lambda _job: (running.set(), go.wait(WAIT)), "long")
        self.assertTrue(running.wait(WAIT))
        job = self.request()
        self.clock.turn(PATIENCE)
        go.set()
        self.assertEqual(job.wait(WAIT), 1)

    def test_a_load_or_a_request_that_cannot_join_is_not_held_up(self) -> None:
        first = self.request()
        self.idle()
        load = self.engine.load("other", lambda _job, _current: lambda: object())
        load.wait(WAIT)
        self.idle()
        self.assertEqual(first.wait(0), 1)
        first = self.request()
        self.idle()
        other = self.request("b", limit=1)
        self.assertEqual((first.wait(WAIT), other.wait(WAIT)), (1, 1))

    def test_a_cancel_ends_the_wait_at_once(self) -> None:
        """The client's, and that of a deadline that passed: the gRPC server tells both so."""
        job = self.request()
        self.idle()
        job.cancel("its deadline passed")
        with self.assertRaisesRegex(Cancelled, "deadline"):
            job.wait(0)
        self.idle()
        self.assertEqual((self.engine.waiting, self.engine.state, self.ran), (0, State.READY, []))

    def test_of_two_that_wait_the_one_that_is_left_waits_on_for_its_own_time(self) -> None:
        first, second = self.first_and_late_second()
        first.cancel("left")
        self.idle()
        self.clock.turn(1)
        self.idle()
        self.assertEqual(self.ran, [])
        self.clock.turn(PATIENCE)
        self.assertEqual(second.wait(WAIT), 1)

    def test_free_ends_the_wait_at_once(self) -> None:
        self.assert_ended_by(self.engine.free, "freed")

    def test_a_shutdown_ends_the_wait_at_once(self) -> None:
        self.assert_ended_by(self.engine.shutdown, "shutting down")

    def assert_ended_by(self, end: Callable[[float], bool], words: str) -> None:
        job = self.request()
        self.idle()
        self.assertTrue(end(WAIT))
        with self.assertRaisesRegex(Cancelled, words):
            job.wait(0)
        self.assertEqual(self.ran, [])

    def test_those_that_wait_for_others_count_in_the_queue(self) -> None:
        for _ in range(8):
            self.request(limit=64)
        with self.assertRaises(QueueFull):
            self.request(limit=64)


if __name__ == "__main__":
    unittest.main()
