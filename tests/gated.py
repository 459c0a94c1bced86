# SPDX-License-Identifier: MIT
"""A backend process that a test can hold at a chosen moment, and what the tests of the server share."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import resource
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

import backend_pb2
from tests.support import HOME, SHAPES_MODEL, Backend

PROMPT = "a red circle on a blue background"
CODE = grpc.StatusCode
SOURCE_MEMORY = 128 << 20  # of the shared server, so that a test can fill it
EMPTY = backend_pb2.HealthMessage()


class GatedBackend(Backend):
    """A backend with the gates of tests/faults in it: :meth:`hold` a phase, :meth:`wait_at` it,
    :meth:`release` it.
    """

    def __init__(self, **environ: str) -> None:
        gates = tempfile.TemporaryDirectory(prefix="gates-", ignore_cleanup_errors=True)
        self.gates, self._gates = Path(gates.name), gates  # goes with this object
        paths = os.pathsep.join((str(HOME / "tests" / "faults"), str(HOME)))
        super().__init__(
            **{
                "OMP_NUM_THREADS": "1",
                "PYTHON_GRPC_MAX_WORKERS": "4",
                "MALLOC_ARENA_MAX": "2",  # each more takes 64 MB of the address space that limit_memory bounds
                "PYTHONPATH": paths,
                "TEST_GATES": str(self.gates),
                **environ,
            }
        )

    def hold(self, *phases: str) -> None:
        for phase in phases:
            (self.gates / f"at-{phase}").unlink(missing_ok=True)
            (self.gates / f"hold-{phase}").touch()

    def crash_at(self, phase: str) -> None:
        """Let the process die in native code when it comes to ``phase``."""
        (self.gates / f"crash-{phase}").touch()

    def lose_accelerator_at(self, phase: str) -> None:
        """Let ``phase`` fail as torch does where a kernel's assertion failed."""
        (self.gates / f"lost-{phase}").touch()

    def fail_at(self, phase: str) -> None:
        """Let ``phase`` raise; until :meth:`release`."""
        (self.gates / f"at-{phase}").unlink(missing_ok=True)
        (self.gates / f"fail-{phase}").touch()

    def came_to(self, phase: str) -> bool:
        """Whether the work stood before a shut gate of ``phase``, or failed there."""
        return (self.gates / f"at-{phase}").exists()

    def short_of_memory_at(self, phase: str, samples: int) -> None:
        """Let the allocator fail in ``phase`` for more than ``samples`` at once; until :meth:`release`."""
        (self.gates / f"short-{phase}").write_text(str(samples))

    def release(self, *phases: str) -> None:
        """Open the gates of these phases, or all."""
        kinds = ("hold", "short", "fail")
        names = [path.name for kind in kinds for phase in phases or "*" for path in self.gates.glob(f"{kind}-{phase}")]
        for name in names:
            (self.gates / name).unlink(missing_ok=True)

    def wait_at(self, phase: str, seconds: float = 20.0) -> None:
        """Return when the work stands before the gate of ``phase``."""
        wait_until((self.gates / f"at-{phase}").exists, seconds, f"nothing came to {phase!r}\n{self.log[-2000:]}")

    def load_shapes(self, **fields: Any) -> None:
        result = self.load(SHAPES_MODEL, **{"CFGScale": 5.0, **fields})
        if not result.success:
            raise AssertionError(result.message)

    def start_load(self, **fields: Any) -> Any:
        """A LoadModel of the shapes model that runs while the test goes on."""
        options = [*fields.pop("Options", []), "device:cpu"]
        values = {"Model": str(SHAPES_MODEL), "ModelFile": str(SHAPES_MODEL), "CFGScale": 5.0, **fields}
        return self.stub.LoadModel.future(backend_pb2.ModelOptions(Options=options, **values), timeout=60)

    def request(self, name: str = "out.png", prompt: str = PROMPT, **fields: Any) -> Any:
        """A GenerateImageRequest for a right picture; ``name`` is of a file in the folder, or a whole path."""
        values = {"width": 64, "height": 64, "step": 20, "seed": 1, "dst": str(self.folder / name), **fields}
        return backend_pb2.GenerateImageRequest(positive_prompt=prompt, **values)

    def start(self, name: str = "out.png", timeout: float = 60, **fields: Any) -> Any:
        """A GenerateImage that runs while the test goes on: its ``cancel``, ``result`` and ``code`` are at
        hand.
        """
        return self.stub.GenerateImage.future(self.request(name, **fields), timeout=timeout)

    def queue(self, start: Callable[[], grpc.Future]) -> grpc.Future:
        """The call that ``start`` began, once its job has its place in the queue: what is queued next comes after it,
        for sure.
        """
        before = self._submitted()
        call = start()
        wait_until(lambda: self._submitted() > before or call.done(), 20, "the call was not queued")
        return call

    def _submitted(self) -> int:
        told = self.gates / "submitted"
        return told.stat().st_size if told.exists() else 0

    def picture(self, name: str = "out.png", prompt: str = PROMPT, **fields: Any) -> Path:
        """GenerateImage, waited for; the file that it wrote."""
        request = self.request(name, prompt, **fields)
        self.result = self.stub.GenerateImage(request, timeout=60)
        return Path(request.dst)

    @property
    def state(self) -> str:
        answer = self.stub.Status(backend_pb2.HealthMessage(), timeout=5)
        return backend_pb2.StatusResponse.State.Name(answer.state)

    def wait_for_state(self, *states: str, seconds: float = 20.0) -> None:
        wait_until(lambda: self.state in states, seconds, f"the state is {self.state}, not {states}")

    def free(self) -> Any:
        return self.stub.Free(backend_pb2.HealthMessage(), timeout=10)

    def outputs(self) -> set[str]:
        """Names of all files in the folder of outputs, hidden ones too, without the log."""
        return set(os.listdir(self.folder)) - {self.log_file.name}


@functools.cache
def _shared() -> list[GatedBackend]:
    return []


def shapes_backend() -> GatedBackend:
    """One server for all tests that leave it as they found it, with the shapes model; a new one if it died."""
    running = _shared()
    if running and running[-1].process.poll() is None:
        return running[-1]
    started = GatedBackend(LOCALAI_DIFFUSERS_MAX_SOURCE_MEMORY=str(SOURCE_MEMORY))
    atexit.register(started.stop)
    running.append(started)
    return started


class Prober:
    """Asks for Health every few milliseconds while the block runs; ``times``: the seconds of each,
    ``missed``: errors.
    """

    def __init__(self, backend: GatedBackend, interval: float = 0.004) -> None:
        self.times: list[float] = []
        self._interval = interval
        self.missed: list[str] = []
        self._backend = backend
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe, daemon=True)

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _probe(self) -> None:
        while not self._stop.wait(self._interval):
            began = time.perf_counter()
            try:
                self._backend.stub.Health(EMPTY, timeout=2)  # what the worker gives it
            except grpc.RpcError as error:
                self.missed.append(str(error))
            self.times.append(time.perf_counter() - began)

    def percentile(self, share: float) -> float:
        return sorted(self.times)[min(int(len(self.times) * share), len(self.times) - 1)]


@dataclass(frozen=True)
class FirstRun:
    """What a fresh process left that loaded a model and made pictures under SECRET and SECRET_TOKEN."""

    prober: Prober
    log: str
    picture: bytes


SECRET, SECRET_TOKEN = "quokka", "hf_zebrafinchzebrafinch"


@functools.cache
def first_run() -> FirstRun:
    """The life of one process, probed from its first answer on; told once for all tests that look at it."""
    with GatedBackend(HF_TOKEN=SECRET_TOKEN) as backend, Prober(backend) as prober:
        backend.load_shapes()
        path = backend.picture(prompt=f"a {SECRET}", negative_prompt=f"no {SECRET}", step=8)
        for fields in ({"step": -1}, {"src": "/missing"}, {"dst": ""}):
            with contextlib.suppress(grpc.RpcError):
                backend.picture(prompt=SECRET, **fields)
        picture, log = path.read_bytes(), backend.log
    return FirstRun(prober, log, picture)


class ServerCase(unittest.TestCase):
    """A test on the shared server: the model is loaded when it begins, no gate is shut when it ends."""

    backend: GatedBackend
    heavy = True

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = shapes_backend()

    def setUp(self) -> None:
        self.addCleanup(self.backend.release)
        self.backend.wait_for_state("READY", "UNINITIALIZED")
        if self.backend.state == "UNINITIALIZED":
            self.backend.load_shapes()
        self.before = self.backend.outputs()

    def assert_status(self, code: grpc.StatusCode, call: Callable[[], Any], words: str = "") -> str:
        """The call fails with ``code`` and a text that holds ``words``; the text."""
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        return self.assert_code(caught.exception, code, words)

    def assert_code(self, error: Any, code: grpc.StatusCode, words: str = "") -> str:
        self.assertEqual(error.code(), code, error.details())
        self.assertIn(words, error.details())
        return error.details()

    def assert_right(self, path: Path, prompt: str = PROMPT) -> None:
        """The picture shows what the prompt asks for."""
        self.assertEqual(shown_in(path), prompt)

    def assert_nothing_written(self) -> None:
        """No file more than at the test's begin, hidden and temporary ones included."""
        self.assertEqual(self.backend.outputs() - self.before, set())

    def assert_serves(self) -> None:
        """The server goes on as if nothing had been: a right picture. It leaves no file."""
        path = self.backend.picture("serves.png")
        self.assert_right(path)
        path.unlink()


def shown_in(path: Path) -> str:
    """The prompt that the picture at ``path`` is a right answer to, by the judge's rule."""
    from PIL import Image

    from tests.shapes_judge import judge

    with Image.open(path) as image:
        return judge(image).prompt()


def pixels(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.tobytes()


def resident_bytes(pid: int) -> int:
    """Memory of the process in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def limit_memory(test: ServerCase, more: int) -> None:
    """Let the test's server have ``more`` bytes beside what it has: a machine with little memory,
    until the test ends."""
    pid = test.backend.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_AS)
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used + more, limits[1]))
    test.addCleanup(resource.prlimit, pid, resource.RLIMIT_AS, limits)


def assert_within(test: unittest.TestCase, seconds: float, measure: Callable[[], float]) -> None:
    """``measure()`` gives less than ``seconds`` in one of three tries: a machine that others use as well holds anything
    up once, and what is too slow by itself is so each time.
    """
    measured: list[float] = []
    while len(measured) < 3:
        measured.append(measure())
        if measured[-1] < seconds:
            return
    test.fail(f"{measured} s, not once within {seconds} s")


def wait_until(happened: Callable[[], bool], seconds: float, message: str) -> float:
    """Seconds until ``happened()``; AssertionError with ``message`` after ``seconds``."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{message} within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - began
