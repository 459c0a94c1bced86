# SPDX-License-Identifier: MIT
"""Life of the process and order in its queue: orphans, second starts, loads during loads, a full queue."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

import backend_pb2
import backend_pb2_grpc
from localai_diffusers.errors import GenerationFailed
from localai_diffusers.work.engine import Engine, Upkeep
from tests.gated import CODE, EMPTY, GatedBackend, ServerCase, resident_bytes, wait_until
from tests.support import HOME, SHAPES_MODEL, Backend, free_port

# Starts a backend as run.sh does (exec, so its parent is this process), tells its pid and waits to be killed.
PARENT = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, *sys.argv[1:]]); "
    "print(child.pid, flush=True); time.sleep(600)"
)


class OrphanTest(unittest.TestCase):
    def test_a_backend_whose_parent_was_killed_is_gone_within_four_seconds(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(HOME / "backend.py"), "--addr", address],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(HOME)},
        )
        self.addCleanup(parent.stdout.close)
        pid = int(parent.stdout.readline())
        with grpc.insecure_channel(address) as channel:
            backend_pb2_grpc.BackendStub(channel).Health(EMPTY, wait_for_ready=True, timeout=20)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until(lambda: not is_running(pid), 4, "the orphan still runs")


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie that nobody reaped does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class StartTest(unittest.TestCase):
    def test_a_second_start_on_the_same_port_ends_and_leaves_the_first_alone(self) -> None:
        with Backend() as first:
            second = subprocess.run(
                [sys.executable, str(HOME / "backend.py"), "--addr", f"127.0.0.1:{first.port}"],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            self.assertNotEqual(second.returncode, 0)
            self.assertIn("cannot listen", second.stderr.strip().splitlines()[-1])
            self.assertEqual(first.stub.Health(EMPTY, timeout=2).message, b"OK")

    def test_a_start_on_the_port_of_one_that_just_ended_succeeds(self) -> None:
        with Backend() as first:
            address = f"127.0.0.1:{first.port}"
        again = subprocess.Popen(
            [sys.executable, str(HOME / "backend.py"), "--addr", address], stderr=subprocess.DEVNULL
        )
        self.addCleanup(again.wait)
        self.addCleanup(again.terminate)
        with grpc.insecure_channel(address) as channel:
            answer = backend_pb2_grpc.BackendStub(channel).Health(EMPTY, wait_for_ready=True, timeout=20)
        self.assertEqual(answer.message, b"OK")

    def test_a_crash_in_native_code_leaves_its_stack_in_the_log(self) -> None:
        with GatedBackend() as backend:
            backend.crash_at("prepare")
            with self.assertRaises(grpc.RpcError):
                backend.load_shapes()
            self.assertEqual(backend.process.wait(10), -signal.SIGSEGV)
            self.assertIn("Segmentation fault", backend.log)
            self.assertIn("sitecustomize.py", backend.log)  # where it happened

    def test_a_fault_signal_from_outside_ends_the_process_by_it(self) -> None:
        with Backend() as backend:
            backend.process.send_signal(signal.SIGSEGV)
            self.assertEqual(backend.process.wait(5), -signal.SIGSEGV)
            self.assertIn("Segmentation fault", backend.log)


class LostAcceleratorTest(unittest.TestCase):
    """Nothing more can be computed in the process: who asked is told, and the core starts another."""

    def test_the_answer_comes_first_then_the_process_ends(self) -> None:
        for phase, ask in (("step", GatedBackend.picture), ("load", GatedBackend.start_load)):
            with self.subTest(phase), GatedBackend() as backend:
                if phase == "step":
                    backend.load_shapes()
                backend.lose_accelerator_at(phase)
                self.assertIn("device-side assert", answer_of(ask, backend))
                self.assertEqual(backend.process.wait(10), 0)
                self.assertIn("pipeline_stable_diffusion.py" if phase == "step" else "load_sub_model", backend.log)

    def test_an_error_that_leaves_the_accelerator_alive_ends_nothing(self) -> None:
        engine, ended = Engine(2, upkeep=Upkeep(on_lost=lambda: self.fail("ended"))), []
        self.addCleanup(engine.shutdown, 1)
        with self.assertRaises(GenerationFailed):
            engine.submit(_invalid_value, "work").wait(5)
        self.assertEqual(engine.submit(lambda _job: ended.append(1), "more").wait(5), None)


def answer_of(ask: Callable[[GatedBackend], Any], backend: GatedBackend) -> str:
    """The words of a refusal, by status or by LoadModel's Result."""
    try:
        return ask(backend).result().message
    except grpc.RpcError as error:
        return error.details()


def _invalid_value(_job: Any) -> None:
    import torch

    error = torch.AcceleratorError("CUDA error: invalid argument")
    error.error_code = 1
    raise error


class LoadDuringLoadTest(ServerCase):
    def test_the_later_load_wins_and_both_are_answered(self) -> None:
        self.backend.hold("load")
        first = self.backend.start_load()
        self.backend.wait_at("load")
        second = self.backend.start_load(Model="second", ModelFile=str(SHAPES_MODEL))
        self.backend.release()
        self.assertTrue(first.result().success, first.result().message)
        self.assertTrue(second.result().success, second.result().message)
        self.backend.picture(ModelIdentity="second", step=1)
        self.backend.load_shapes()

    def test_a_request_behind_a_load_is_served_by_the_model_that_it_names(self) -> None:
        self.backend.hold("prepare")
        load = self.backend.start_load()
        self.backend.wait_at("prepare")
        call = self.backend.start(ModelIdentity=str(SHAPES_MODEL))
        self.backend.release()
        self.assertTrue(load.result().success)
        self.assertTrue(call.result().success)

    def test_loads_and_frees_do_not_grow_the_process(self) -> None:
        for _ in range(5):
            self.backend.load_shapes()
            self.backend.free()
        before = resident_bytes(self.backend.process.pid)
        for _ in range(15):
            self.backend.load_shapes()
            self.backend.free()
        self.assertLess(resident_bytes(self.backend.process.pid) - before, 30e6)


class QueueTest(unittest.TestCase):
    """A server whose queue holds two."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = GatedBackend(LOCALAI_DIFFUSERS_MAX_QUEUE="2")
        cls.addClassCleanup(cls.backend.stop)
        cls.backend.load_shapes()

    def setUp(self) -> None:
        self.addCleanup(self.backend.release)
        self.backend.hold("generate")
        self.first = self.backend.start("first.png", step=2)
        self.backend.wait_at("generate")

    def queued(self, count: int) -> list[grpc.Future]:
        """Calls that wait, in this order for sure."""
        starts = (functools.partial(self.backend.start, f"queued-{number}.png", step=2) for number in range(count))
        return [self.backend.queue(start) for start in starts]

    def test_beyond_its_bound_a_request_is_refused_at_once_and_the_others_are_served(self) -> None:
        waiting = self.queued(2)
        began = time.monotonic()
        with self.assertRaises(grpc.RpcError) as caught:
            self.backend.picture("refused.png")
        self.assertLess(time.monotonic() - began, 0.5)
        self.assertEqual(caught.exception.code(), CODE.RESOURCE_EXHAUSTED)
        self.assertIn("LOCALAI_DIFFUSERS_MAX_QUEUE", caught.exception.details())
        self.assertFalse((self.backend.folder / "refused.png").exists())
        self.backend.release()
        self.assertTrue(all(call.result().success for call in (self.first, *waiting)))

    def test_order_is_first_come_first_served(self) -> None:
        waiting = self.queued(2)
        self.backend.release()
        for call in waiting:
            call.result()
        made = [(self.backend.folder / f"queued-{number}.png").stat().st_mtime_ns for number in range(2)]
        self.assertLess((self.backend.folder / "first.png").stat().st_mtime_ns, made[0])
        self.assertLess(made[0], made[1])

    def test_health_and_status_answer_when_the_queue_is_full(self) -> None:
        waiting = self.queued(2)
        flood = [self.backend.start(f"flood-{number}.png") for number in range(100)]
        self.assertEqual(self.backend.stub.Health(EMPTY, timeout=1).message, b"OK")
        self.assertEqual(self.backend.stub.Status(EMPTY, timeout=1).state, backend_pb2.StatusResponse.BUSY)
        for call in flood:
            self.assertEqual(call.exception().code(), CODE.RESOURCE_EXHAUSTED)
        self.backend.release()
        self.assertTrue(all(call.result().success for call in waiting))


if __name__ == "__main__":
    unittest.main()
