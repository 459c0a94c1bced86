# SPDX-License-Identifier: MIT
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

import backend_pb2
import backend_pb2_grpc
from tests import zoo
from tests.gated import CODE, EMPTY, GatedBackend, ServerCase, assert_within, pixels, resident_bytes
from tests.support import Backend

AT_ONCE = 0.1  # seconds; measured 0.01 to 0.03
HEARD = 0.2  # in which the server has heard that a client left, on a busy machine too
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
                time.sleep(HEARD)
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
            time.sleep(HEARD)
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
        first = self.held_at("generate", "runs.png")
        second = self.backend.queue(lambda: self.backend.start("left.png"))
        third = self.backend.start("stays.png")
        second.cancel()
        time.sleep(0.3)
        self.backend.release()
        first.result()
        third.result()
        made = self.backend.outputs() - self.before
        self.assertEqual(made, {"runs.png", "stays.png"})
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

    def test_after_a_hundred_cancellations_pictures_are_right_and_memory_is_where_it_was(self) -> None:
        expected = pixels(self.backend.picture("expected.png"))
        self.cancel_many(20)
        before = resident_bytes(self.backend.process.pid)
        self.cancel_many(80)
        for _ in range(3):
            self.assertEqual(pixels(self.backend.picture("after.png")), expected)
        self.assertLess(resident_bytes(self.backend.process.pid) - before, 10e6)
        self.assertNotIn("never.png", self.backend.outputs())

    def cancel_many(self, count: int) -> None:
        """Each at another moment: in the queue, or between any two steps."""
        for number in range(count):
            call = self.backend.start("never.png", seed=number, step=50)
            time.sleep(0.002 * (number % 30))
            call.cancel()


class DeadlineTest(ServerCase):
    def test_a_deadline_ends_the_call_at_once_in_every_phase_and_in_the_queue(self) -> None:
        for phase in ("generate", *PHASES):
            with self.subTest(phase=phase):
                assert_within(self, AT_ONCE, lambda phase=phase: self.too_late(phase))
        self.assert_serves()

    def too_late(self, phase: str) -> float:
        """How many seconds after their deadline a running and a queued call end."""
        self.backend.hold(phase)
        running, queued = (self.backend.start(name, timeout=0.5) for name in ("out.png", "queued.png"))
        began = time.monotonic()
        for call in (running, queued):
            self.assert_code(call.exception(), CODE.DEADLINE_EXCEEDED)
        late = time.monotonic() - began - 0.5
        time.sleep(HEARD)
        self.backend.release()
        self.backend.wait_for_state("READY", seconds=2)
        self.assert_nothing_written()
        return late

    def test_while_its_pictures_are_read_a_request_whose_deadline_passed_never_starts(self) -> None:
        source = self.backend.picture("source.png", step=1)
        self.before, steps = self.backend.outputs(), self.steps_made()
        self.backend.hold("read")
        call = self.backend.start(src=str(source), timeout=0.5)
        self.backend.wait_at("read")
        self.assert_code(call.exception(), CODE.DEADLINE_EXCEEDED)
        self.assertEqual((self.backend.state, self.steps_made()), ("READY", steps))
        self.backend.release()
        self.assert_serves()
        self.assert_nothing_written()

    def steps_made(self) -> int:
        return self.backend.stub.GetMetrics(backend_pb2.MetricsRequest()).tokens_generated


class VideoTest(ServerCase):
    """A video model on the same server, held between two frames of its file."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self.backend.load_shapes)
        self.load_model()

    def load_model(self) -> None:
        self.assertTrue(self.backend.load(zoo.checkpoint("WanPipeline")).success)

    def started(self, name: str) -> grpc.Future:
        dst = str(self.backend.folder / name)
        message = backend_pb2.GenerateVideoRequest(
            prompt="x", dst=dst, width=32, height=32, num_frames=9, step=1, seed=1
        )
        return self.backend.stub.GenerateVideo.future(message, timeout=30)

    def held(self, name: str) -> grpc.Future:
        self.backend.hold("frame")
        call = self.started(name)
        self.backend.wait_at("frame")
        return call

    def test_a_client_that_leaves_while_a_video_is_written_leaves_no_part_of_it(self) -> None:
        self.assertTrue(self.started("whole.gif").result().success)
        whole = self.backend.folder / "whole.gif"
        self.before = self.backend.outputs()
        for name in ("part.mp4", "part.webm", "part.gif"):
            self.held(name).cancel()
            time.sleep(HEARD)
            self.backend.release()
            self.backend.wait_for_state("READY", seconds=1)
            self.assert_nothing_written()
        self.assertTrue(self.started("next.gif").result().success)
        self.assertEqual((self.backend.folder / "next.gif").read_bytes(), whole.read_bytes())

    def test_free_while_a_video_is_written_ends_the_call_at_once(self) -> None:
        assert_within(self, AT_ONCE, self.freed)

    def freed(self) -> float:
        """The seconds from Free, sent between two frames, to the answer of the call."""
        if self.backend.state == "UNINITIALIZED":
            self.load_model()
        call = self.held("part.mp4")
        began = time.monotonic()
        freeing = self.backend.stub.Free.future(EMPTY, timeout=10)
        self.assert_code(call.exception(), CODE.CANCELLED, "freed")
        took = time.monotonic() - began
        self.backend.release()
        self.assertTrue(freeing.result().success)
        self.assert_nothing_written()
        return took


class FreeTest(ServerCase):
    def test_free_ends_running_and_queued_calls_at_once(self) -> None:
        for phase in ("step", "decode", "encode"):
            with self.subTest(phase):
                assert_within(self, AT_ONCE, lambda phase=phase: self.freed(phase))

    def freed(self, phase: str) -> float:
        """The seconds from Free, sent in ``phase``, to the last answer of one running and two queued calls."""
        if self.backend.state == "UNINITIALIZED":
            self.backend.load_shapes()
        self.backend.hold(phase)
        calls = [self.backend.start(f"{number}.png", step=2) for number in range(3)]
        self.backend.wait_at(phase)
        began = time.monotonic()
        freeing = self.backend.stub.Free.future(EMPTY, timeout=10)
        for call in calls:
            self.assert_code(call.exception(), CODE.CANCELLED, "freed")
        took = time.monotonic() - began
        self.backend.release()
        self.assertTrue(freeing.result().success)
        self.assertEqual(self.backend.state, "UNINITIALIZED")
        self.assert_nothing_written()
        return took

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
        assert_within(self, AT_ONCE, self.freed_in_a_load)

    def freed_in_a_load(self) -> float:
        """The seconds from Free to the answer of the load."""
        self.backend.hold("load")
        load = self.backend.start_load()
        self.backend.wait_at("load")
        began = time.monotonic()
        freeing = self.backend.stub.Free.future(EMPTY, timeout=10)
        result = load.result()
        took = time.monotonic() - began
        self.assertFalse(result.success)
        self.backend.release()
        self.assertTrue(freeing.result().success)
        self.assertEqual(self.backend.state, "UNINITIALIZED")
        return took


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
        assert_within(self, AT_ONCE, lambda: self.answered("load"))

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

    def test_during_a_decode_and_the_writing_of_a_file_that_do_not_end(self) -> None:
        for phase in ("decode", "encode"):
            with self.subTest(phase):
                assert_within(self, AT_ONCE, lambda phase=phase: self.answered(phase))

    def answered(self, phase: str) -> float:
        """The seconds from SIGTERM, sent in ``phase``, to the answer of the call; the process ends within five."""
        with GatedBackend() as backend:
            if phase != "load":
                backend.load_shapes()
            before = backend.outputs()
            backend.hold(phase)
            call = backend.start_load() if phase == "load" else backend.start(step=1)
            backend.wait_at(phase)
            began, ends = time.monotonic(), []
            call.add_done_callback(lambda _call: ends.append(time.monotonic()))
            self.assertLess(self.ended_in(backend), 5)
            if phase == "load":
                self.assertTrue(call.exception() is not None or not call.result().success)
            else:
                self.assert_cancelled(call)
            self.assertEqual(backend.outputs(), before)
            return ends[0] - began

    def assert_cancelled(self, call: grpc.Future) -> None:
        self.assertEqual(call.exception().code(), CODE.CANCELLED, call.exception().details())


if __name__ == "__main__":
    unittest.main()
