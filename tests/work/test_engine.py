# SPDX-License-Identifier: MIT
"""One thread, one model: order, cancelling, freeing, and memory that is really given back."""

from __future__ import annotations

import gc
import sys
import threading
import time
import types
import unittest
import weakref
from collections.abc import Callable
from typing import Any

from localai_diffusers.errors import (
    Cancelled,
    GenerationFailed,
    InvalidRequest,
    LoadError,
    ModelMismatch,
    ModelNotLoaded,
    OutOfMemory,
    QueueFull,
)
from localai_diffusers.work.engine import Engine, Job, State

WAIT = 20.0


class Model:
    """Stands for a loaded model; a weak reference tells when it is gone."""


class EngineCase(unittest.TestCase):
    """A test with an engine, and work that runs until it is let go."""

    def setUp(self) -> None:
        self.engine = Engine(max_queue=4)
        self.go = threading.Event()
        self.addCleanup(self.engine.shutdown, WAIT)
        self.addCleanup(self.go.set)

    def load(self, identity: str = "owner/name", model: Any = None) -> None:
        self.engine.load(identity, lambda _job, _current: lambda: model or Model()).wait(WAIT)

    def block(self) -> Job:
        """A job that runs until ``go``, stopping at its check; returned once it runs."""
        started = threading.Event()

        def work(job: Job) -> str:
            started.set()
            while not self.go.wait(0.01):
                job.check()
            return "done"

        job = self.engine.submit(work, "block")
        self.assertTrue(started.wait(WAIT))
        return job

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it never came")
            time.sleep(0.005)


class OrderTest(EngineCase):
    def test_jobs_run_one_at_a_time_first_come_first_served(self) -> None:
        first, seen, running = self.block(), [], []

        def work(number: int) -> Callable[[Job], None]:
            def run(_job: Job) -> None:
                running.append(number)
                self.assertEqual(running, [number])
                seen.append(number)
                running.remove(number)

            return run

        jobs = [self.engine.submit(work(number), "x") for number in range(4)]
        self.go.set()
        for job in [first, *jobs]:
            job.wait(WAIT)
        self.assertEqual(seen, [0, 1, 2, 3])

    def test_a_full_queue_refuses_at_once_and_names_the_variable(self) -> None:
        self.block()
        for _ in range(4):
            self.engine.submit(lambda job: None, "waits")
        began = time.monotonic()
        with self.assertRaisesRegex(QueueFull, "4 requests wait already.*LOCALAI_DIFFUSERS_MAX_QUEUE=4"):
            self.engine.submit(lambda job: None, "one too many")
        self.assertLess(time.monotonic() - began, 1)

    def test_cancelled_jobs_make_room_in_the_queue(self) -> None:
        self.block()
        for job in [self.engine.submit(lambda job: None, "waits") for _ in range(4)]:
            job.cancel("left")
        self.engine.submit(lambda job: None, "fits")

    def test_a_job_on_the_model_gets_the_one_that_is_loaded_when_its_turn_comes(self) -> None:
        first, second = Model(), Model()
        self.load(model=first)
        self.block()
        load = self.engine.load("other", lambda _job, _current: lambda: second)
        generation = self.engine.generate(lambda _job, model: model, "x")
        self.go.set()
        self.assertIs(load.wait(WAIT), second)
        self.assertIs(generation.wait(WAIT), second)


class CancelTest(EngineCase):
    def test_cancelled_while_queued_it_never_runs(self) -> None:
        self.block()
        ran: list[int] = []
        job = self.engine.submit(lambda _job: ran.append(1), "x")
        job.cancel("the client left")
        with self.assertRaisesRegex(Cancelled, "x was cancelled: the client left"):
            job.wait(1)
        self.go.set()
        self.engine.submit(lambda _job: None, "after").wait(WAIT)
        self.assertEqual(ran, [])

    def test_cancelled_while_running_it_is_answered_at_once_and_stops_at_its_check(self) -> None:
        job = self.block()
        began = time.monotonic()
        job.cancel("the client left")
        with self.assertRaises(Cancelled):
            job.wait(WAIT)
        self.assertLess(time.monotonic() - began, 0.5)
        self.assertEqual(self.engine.submit(lambda _job: "next", "x").wait(WAIT), "next")

    def test_a_cancel_after_the_end_takes_nothing_back(self) -> None:
        job = self.engine.submit(lambda _job: 7, "x")
        self.assertEqual(job.wait(WAIT), 7)
        job.cancel("too late")
        self.assertEqual(self.engine.submit(lambda _job: 8, "y").wait(WAIT), 8)

    def test_waiting_can_time_out(self) -> None:
        with self.assertRaises(TimeoutError):
            self.block().wait(0.05)


class ErrorTest(EngineCase):
    def test_ours_pass_as_they_are_and_the_unexpected_as_one_line_with_its_traceback_in_the_log(self) -> None:
        def fail(error: Exception) -> Any:
            def work(_job: Job) -> None:
                raise error

            return self.engine.submit(work, "x").wait(WAIT)

        with self.assertRaisesRegex(InvalidRequest, "^width=3$"):
            fail(InvalidRequest("width=3"))
        with (
            self.assertLogs("localai_diffusers", "ERROR") as logs,
            self.assertRaisesRegex(GenerationFailed, "^KeyError: 'a b'$"),
        ):
            fail(KeyError("a b"))
        self.assertIn("raise error", logs.output[0])

    def test_what_a_refusal_came_from_is_in_the_log_without_its_words(self) -> None:
        def work(_job: Job) -> None:
            try:
                raise KeyError("what a prompt says")
            except KeyError as error:
                raise InvalidRequest("refused") from error

        with self.assertLogs("localai_diffusers", "INFO") as logs, self.assertRaisesRegex(InvalidRequest, "^refused$"):
            self.engine.submit(work, "x").wait(WAIT)
        self.assertIn('raise KeyError("what', logs.output[0])
        self.assertIn("builtins.KeyError", logs.output[0])
        self.assertNotIn("a prompt says'", logs.output[0])

    def test_running_out_of_memory_says_what_to_do(self) -> None:
        import torch

        def work(_job: Job) -> None:
            torch.empty(2**58)

        with self.assertRaisesRegex(OutOfMemory, "smaller size.*low_vram"):
            self.engine.submit(work, "GenerateImage").wait(WAIT)

    def test_the_thread_survives_anything(self) -> None:
        for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError("deep")):

            def work(_job: Job, error: BaseException = error) -> None:
                raise error

            with self.assertRaises(GenerationFailed):
                self.engine.submit(work, "x").wait(WAIT)
        self.assertEqual(self.engine.submit(lambda _job: 1, "x").wait(WAIT), 1)


class LoadTest(EngineCase):
    def test_nothing_is_loaded_at_first(self) -> None:
        self.assertEqual((self.engine.state, self.engine.identity, self.engine.model), (State.UNINITIALIZED, "", None))
        with self.assertRaisesRegex(ModelNotLoaded, "model not loaded"):
            self.engine.generate(lambda _job, _model: None, "x")

    def test_a_request_behind_a_load_waits_for_it(self) -> None:
        self.block()
        self.engine.load("a/b", lambda _job, _current: Model)
        job = self.engine.generate(lambda _job, model: type(model), "x")
        self.go.set()
        self.assertIs(job.wait(WAIT), Model)

    def test_a_request_behind_a_load_that_fails_is_told_so(self) -> None:
        self.block()

        def prepare(_job: Job, _current: Any) -> Any:
            raise LoadError("no such file")

        self.engine.load("a/b", prepare)
        job = self.engine.generate(lambda _job, _model: None, "x")
        self.go.set()
        with self.assertRaises(ModelNotLoaded):
            job.wait(WAIT)

    def test_a_failed_preparation_leaves_the_model(self) -> None:
        model = Model()
        self.load("first", model)

        def prepare(_job: Job, current: Any) -> Any:
            self.assertIs(current, model)
            raise LoadError("no such file")

        with self.assertRaisesRegex(LoadError, "^no such file$"):
            self.engine.load("second", prepare).wait(WAIT)
        self.assertEqual((self.engine.model, self.engine.identity, self.engine.state), (model, "first", State.READY))

    def test_a_failed_build_leaves_none_and_says_so(self) -> None:
        self.load("first")

        def build() -> Any:
            raise LoadError("shapes differ")

        with self.assertRaisesRegex(
            LoadError, r"shapes differ \(the earlier model was freed already: no model is loaded now\)"
        ):
            self.engine.load("second", lambda _job, _current: build).wait(WAIT)
        self.assertEqual((self.engine.model, self.engine.identity, self.engine.state), (None, "", State.UNINITIALIZED))

    def test_a_request_for_another_model_than_the_one_loaded_meanwhile_is_refused(self) -> None:
        self.load("first")
        self.block()
        self.engine.load("second", lambda _job, _current: Model)
        job = self.engine.generate(lambda _job, _model: None, "x", identity="first")
        self.go.set()
        with self.assertRaisesRegex(ModelMismatch, "second.*first"):
            job.wait(WAIT)

    def test_the_note_is_left_out_where_there_was_no_model(self) -> None:
        def build() -> Any:
            raise LoadError("shapes differ")

        with self.assertRaisesRegex(LoadError, "^shapes differ$"):
            self.engine.load("first", lambda _job, _current: build).wait(WAIT)

    def test_a_load_cancelled_during_its_build_leaves_none(self) -> None:
        self.load("first")
        building = threading.Event()

        def build() -> Any:
            building.set()
            self.go.wait(WAIT)
            return Model()

        load = self.engine.load("second", lambda _job, _current: build)
        self.assertTrue(building.wait(WAIT))
        load.cancel("the client left")
        self.go.set()
        with self.assertRaises(Cancelled):
            load.wait(WAIT)
        self.wait_until(lambda: not self.engine.running)
        self.assertIsNone(self.engine.model)


class MemoryTest(EngineCase):
    """A weak reference to the model dies: nothing keeps gigabytes alive."""

    def watched(self, identity: str = "first") -> weakref.ref:
        model = Model()
        self.load(identity, model)
        return weakref.ref(model)

    def test_the_earlier_model_is_gone_before_the_new_one_is_built(self) -> None:
        old = self.watched()
        alive = self.engine.load("second", lambda _job, _current: lambda: (old() is not None, Model())).wait(WAIT)[0]
        self.assertFalse(alive)

    def test_free_gives_the_memory_back(self) -> None:
        model = self.watched()
        self.assertTrue(self.engine.free(WAIT))
        gc.collect()
        self.assertIsNone(model())
        self.assertEqual(self.engine.state, State.UNINITIALIZED)

    def test_no_finished_or_failed_job_keeps_it(self) -> None:
        model = self.watched()

        def fail(_job: Job, held: Any) -> None:
            tensor = held  # in the frame that the traceback would keep
            raise RuntimeError(f"{type(tensor)}")

        jobs = [self.engine.generate(lambda _job, _model: 1, "x"), self.engine.generate(fail, "y")]
        jobs[0].wait(WAIT)
        with self.assertRaises(GenerationFailed):
            jobs[1].wait(WAIT)
        self.engine.free(WAIT)
        gc.collect()
        self.assertIsNone(model())

    def test_a_failed_build_keeps_neither_the_old_nor_a_part_of_the_new(self) -> None:
        old, parts = self.watched(), []

        def build() -> Any:
            half = Model()
            half.itself = half  # as modules and their hooks hold one another
            parts.append(weakref.ref(half))
            sys.modules["imported_by_the_build"] = types.ModuleType("imported_by_the_build")
            raise ValueError("the second half is missing")

        self.addCleanup(sys.modules.pop, "imported_by_the_build")

        with self.assertRaises(GenerationFailed):
            self.engine.load("second", lambda _job, _current: build).wait(WAIT)
        gc.collect()
        self.assertEqual((old(), parts[0]()), (None, None))

    def test_a_job_that_its_client_left_keeps_nothing(self) -> None:
        model = self.watched()
        running = threading.Event()

        def work(job: Job, held: Any) -> Any:
            running.set()
            self.go.wait(WAIT)
            return held

        job = self.engine.generate(work, "x")
        self.assertTrue(running.wait(WAIT))
        job.cancel("left")
        self.go.set()
        self.engine.free(WAIT)
        del job
        gc.collect()
        self.assertIsNone(model())


class FreeTest(EngineCase):
    def test_it_cancels_what_runs_and_what_waits(self) -> None:
        self.load()
        running = self.block()
        waiting = self.engine.generate(lambda _job, _model: None, "waits")
        began = time.monotonic()
        self.assertTrue(self.engine.free(5))
        self.assertLess(time.monotonic() - began, 2)
        for job in (running, waiting):
            with self.assertRaisesRegex(Cancelled, "being freed"):
                job.wait(1)
        self.assertIsNone(self.engine.model)

    def test_it_answers_in_time_though_a_step_goes_on_and_frees_when_it_ends(self) -> None:
        self.load()
        busy = threading.Event()
        self.engine.submit(lambda _job: (busy.set(), self.go.wait(WAIT)), "stubborn")
        busy.wait(WAIT)
        self.assertFalse(self.engine.free(0.1))
        self.go.set()
        self.wait_until(lambda: self.engine.model is None)

    def test_without_a_model_it_is_no_error(self) -> None:
        self.assertTrue(self.engine.free(5))

    def test_the_engine_loads_again_afterwards(self) -> None:
        self.load()
        self.engine.free(5)
        self.load("second")
        self.assertEqual(self.engine.identity, "second")


class StateTest(EngineCase):
    def test_it_never_waits_for_a_job(self) -> None:
        self.load()
        self.assertEqual(self.engine.state, State.READY)
        self.block()
        began = time.monotonic()
        self.assertEqual((self.engine.state, self.engine.identity), (State.BUSY, "owner/name"))
        self.assertLess(time.monotonic() - began, 0.1)

    def test_metrics_are_those_of_the_last_generation(self) -> None:
        self.load()

        def work(job: Job, _model: Any) -> None:
            time.sleep(0.05)
            job.report(10, 10)

        self.engine.generate(work, "x").wait(WAIT)
        self.assertEqual(self.engine.metrics.steps, 10)
        self.assertTrue(10 < self.engine.metrics.steps_per_second <= 200)

    def test_the_warm_up_runs_first(self) -> None:
        order: list[str] = []
        engine = Engine(4, lambda: order.append("warm-up"))
        self.addCleanup(engine.shutdown, WAIT)
        engine.submit(lambda _job: order.append("job"), "x").wait(WAIT)
        self.assertEqual(order, ["warm-up", "job"])


class ShutdownTest(EngineCase):
    def test_it_stops_what_runs_and_takes_no_more(self) -> None:
        running = self.block()
        waiting = self.engine.submit(lambda _job: None, "waits")
        self.assertTrue(self.engine.shutdown(5))
        for job in (running, waiting):
            with self.assertRaisesRegex(Cancelled, "shutting down"):
                job.wait(1)
        with self.assertRaisesRegex(Cancelled, "shutting down"):
            self.engine.submit(lambda _job: None, "late")

    def test_it_does_not_wait_longer_than_it_was_told(self) -> None:
        busy = threading.Event()
        self.engine.submit(lambda _job: (busy.set(), self.go.wait(WAIT)), "stubborn")
        busy.wait(WAIT)
        began = time.monotonic()
        self.assertFalse(self.engine.shutdown(0.2))
        self.assertLess(time.monotonic() - began, 2)


class ThreadsTest(EngineCase):
    def test_many_clients_at_once_lose_no_job(self) -> None:
        self.load()
        engine, results = Engine(max_queue=1000), []
        self.addCleanup(engine.shutdown, WAIT)

        def client(number: int) -> None:
            for turn in range(20):
                job = engine.submit(lambda job, value=(number, turn): value, "x")
                if turn % 5 == 0:
                    job.cancel("left")
                    continue
                results.append(job.wait(WAIT))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        self.assertEqual(sorted(results), [(number, turn) for number in range(8) for turn in range(20) if turn % 5])


if __name__ == "__main__":
    unittest.main()
