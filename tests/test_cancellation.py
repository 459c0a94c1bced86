"""Cancellation in every phase: the RPC ends at once, the work at its next step, nothing is left, the next
job is right.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
import unittest

import grpc

import backend_pb2_grpc
from tests.gated import CODE, EMPTY, GatedBackend, ServerCase, pixels
from tests.support import Backend

AT_ONCE = 1.0  # seconds; measured 0.01 to 0.03
PHASES = ("step", "decode", "encode")


class ClientGoneTest(ServerCase):
    """The client cancels its call, or its connection breaks."""

    def held_at(self, phase: str, name: str = "out.png") -> grpc.Future:
        """A generation that stands before the gate of ``phase``."""
        self.backend.hold(phase)
        call = self.backend.start(name)
        self.backend.wait_at(phase)
        return call

    def test_in_every_phase_nothing_is_written_and_the_next_is_right(self) -> None:
        for phase in PHASES:
            with self.subTest(phase=phase):
                call = self.held_at(phase)
                call.cancel()
                self.backend.release(phase)
                self.backend.wait_for_state("READY", seconds=2)
                self.assert_nothing_written()
        self.assert_serves()

    def test_an_older_file_at_dst_stays_as_it_was(self) -> None:
        older = self.backend.folder / "older.png"
        older.write_bytes(b"older")
        self.addCleanup(older.unlink)
        for phase in PHASES:
            self.held_at(phase, "older.png").cancel()
            self.backend.release()
            self.backend.wait_for_state("READY", seconds=2)
            self.assertEqual(older.read_bytes(), b"older")

    def test_the_work_stops_at_its_next_step(self) -> None:
        began = time.monotonic()
        call = self.backend.start(step=900, width=128, height=128)  # a minute of work
        self.backend.wait_for_state("BUSY")
        time.sleep(0.3)
        call.cancel()
        self.backend.wait_for_state("READY", seconds=2)
        self.assertLess(time.monotonic() - began, 4)
        self.assert_nothing_written()

    def test_a_queued_job_of_a_client_that_left_never_starts(self) -> None:
        first = self.held_at("generate", "first.png")
        second, third = self.backend.start("second.png"), self.backend.start("third.png")
        time.sleep(0.3)
        second.cancel()
        time.sleep(0.3)
        self.backend.release()
        first.result()
        third.result()
        made = self.backend.outputs() - self.before
        self.assertEqual(made, {"first.png", "third.png"})
        for name in made:
            (self.backend.folder / name).unlink()

    def test_a_broken_connection_cancels_too(self) -> None:
        self.backend.hold("step")
        with self.backend.new_channel() as channel:
            call = backend_pb2_grpc.BackendStub(channel).GenerateImage.future(self.backend.request())
            self.backend.wait_at("step")
        self.assertTrue(call.done())
        self.backend.release()
        self.backend.wait_for_state("READY", seconds=2)
        self.assert_nothing_written()

    def test_pictures_after_many_cancellations_are_right(self) -> None:
        expected = pixels(self.backend.picture("expected.png"))
        for number in range(20):
            call = self.backend.start("never.png", seed=number)
            time.sleep(0.01 * number)  # at a different moment each time
            call.cancel()
        for _ in range(3):
            self.assertEqual(pixels(self.backend.picture("after.png")), expected)
        self.assertNotIn("never.png", self.backend.outputs())


class DeadlineTest(ServerCase):
    def test_a_deadline_ends_the_call_at_once_in_every_phase_and_in_the_queue(self) -> None:
        for phase in ("generate", *PHASES):
            with self.subTest(phase=phase):
                self.backend.hold(phase)
                running, queued = (
                    self.backend.start(timeout=0.6),
                    self.backend.start("queued.png", timeout=0.6),
                )
                began = time.monotonic()
                for call in (running, queued):
                    self.assert_code(call.exception(), CODE.DEADLINE_EXCEEDED)
                self.assertLess(time.monotonic() - began, 0.6 + AT_ONCE)
                self.backend.release()
                self.backend.wait_for_state("READY", seconds=2)
                self.assert_nothing_written()
        self.assert_serves()


class FreeTest(ServerCase):
    def test_free_ends_running_and_queued_calls_at_once(self) -> None:
        self.backend.hold("step")
        calls = [self.backend.start(f"{number}.png") for number in range(3)]
        self.backend.wait_at("step")
        began = time.monotonic()
        freeing = self.backend.stub.Free.future(EMPTY, timeout=10)
        for call in calls:
            self.assert_code(call.exception(), CODE.CANCELLED, "freed")
        self.assertLess(time.monotonic() - began, AT_ONCE)
        self.backend.release()
        self.assertTrue(freeing.result().success)
        self.assertEqual(self.backend.state, "UNINITIALIZED")
        self.assert_nothing_written()

    def test_free_does_not_wait_for_a_step_that_never_ends(self) -> None:
        self.backend.hold("step")
        call = self.backend.start()
        self.backend.wait_at("step")
        began = time.monotonic()
        self.assertTrue(self.backend.free().success)
        self.assertLess(time.monotonic() - began, 5)
        self.assert_code(call.exception(), CODE.CANCELLED)
        self.backend.release()
        self.backend.wait_for_state("UNINITIALIZED", seconds=2)

    def test_free_during_a_load_stops_it_and_leaves_no_model(self) -> None:
        self.backend.hold("load")
        load = self.backend.start_load()
        self.backend.wait_at("load")
        freeing = self.backend.stub.Free.future(EMPTY, timeout=10)
        result = load.result()
        self.assertFalse(result.success)
        self.backend.release()
        self.assertTrue(freeing.result().success)
        self.assertEqual(self.backend.state, "UNINITIALIZED")


class LoadTest(ServerCase):
    def test_a_load_whose_client_left_stops_and_the_next_load_serves(self) -> None:
        for phase in ("prepare", "load"):
            with self.subTest(phase=phase):
                self.backend.hold(phase)
                load = self.backend.start_load()
                self.backend.wait_at(phase)
                load.cancel()
                self.backend.release()
                self.backend.wait_for_state("READY", "UNINITIALIZED", seconds=3)
                self.backend.load_shapes()
                self.assert_serves()

    def test_a_load_that_is_cancelled_before_it_allocates_leaves_the_earlier_model(self) -> None:
        self.backend.hold("prepare")
        load = self.backend.start_load()
        self.backend.wait_at("prepare")
        load.cancel()
        self.backend.release()
        self.backend.wait_for_state("READY", seconds=3)
        self.assert_serves()


class SigtermTest(unittest.TestCase):
    """As the core stops a backend: to the process group, and SIGKILL after 15 s."""

    def ended_in(self, backend: GatedBackend) -> float:
        began = time.monotonic()
        backend.process.send_signal(signal.SIGTERM)
        try:
            code = backend.process.wait(10)
        except subprocess.TimeoutExpired:
            backend.process.kill()
            raise
        self.assertEqual(code, 0, backend.log[-1000:])
        return time.monotonic() - began

    def test_while_the_libraries_are_imported(self) -> None:
        with GatedBackend() as backend:
            self.assertLess(self.ended_in(backend), 5)

    def test_that_the_kernel_gives_to_another_thread_than_the_main_one(self) -> None:
        tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
        if tgkill is None:
            self.skipTest("no tgkill here")
        with Backend() as backend:
            process = backend.process
            threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
            self.assertEqual(tgkill(process.pid, max(threads), signal.SIGTERM), 0)
            self.assertEqual(process.wait(8), 0)

    def test_during_a_load_that_does_not_end(self) -> None:
        with GatedBackend() as backend:
            backend.hold("load")
            load = backend.start_load()
            backend.wait_at("load")
            self.assertLess(self.ended_in(backend), 5)
            self.assertTrue(load.exception() is not None or not load.result().success)

    def test_during_a_generation_with_others_in_the_queue(self) -> None:
        with GatedBackend() as backend:
            backend.load_shapes()
            before = backend.outputs()
            calls = [backend.start(f"{number}.png", step=900, width=128, height=128) for number in range(3)]
            backend.wait_for_state("BUSY")
            time.sleep(0.3)
            self.assertLess(self.ended_in(backend), 3)
            for call in calls:
                self.assert_cancelled(call)
            self.assertEqual(backend.outputs(), before)

    def test_during_the_writing_of_a_file_that_does_not_end(self) -> None:
        with GatedBackend() as backend:
            backend.load_shapes()
            before = backend.outputs()
            backend.hold("encode")
            call = backend.start(step=1)
            backend.wait_at("encode")
            self.assertLess(self.ended_in(backend), 5)
            self.assert_cancelled(call)
            self.assertEqual(backend.outputs(), before)

    def assert_cancelled(self, call: grpc.Future) -> None:
        self.assertEqual(call.exception().code(), CODE.CANCELLED, call.exception().details())


if __name__ == "__main__":
    unittest.main()
