"""The one loaded model and the one thread that works on it: queue, run, cancel, Free, Status.

A diffusers pipeline keeps state (scheduler steps, hooks), so two calls at once give wrong pictures. Every load, free
and generation is a job of one worker thread, first come first served; the gRPC handlers only wait for their job, so
that a client that leaves gets its answer at once while the work stops at its next step.
"""
from __future__ import annotations

import gc
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from .errors import (BackendError, Cancelled, GenerationFailed, ModelMismatch, ModelNotLoaded, OutOfMemory, QueueFull,
                     is_out_of_memory, status_message)

log = logging.getLogger(__name__)
T = TypeVar("T")


class State(Enum):
    """What Status says; names are those of ``StatusResponse.State``."""

    UNINITIALIZED = "UNINITIALIZED"
    BUSY = "BUSY"
    READY = "READY"


class Job(Generic[T]):
    """One piece of work for the worker thread, and the handle to wait for it or to cancel it."""

    def __init__(self, work: Callable[[Job], T], name: str, is_load: bool = False) -> None:
        self.name = name
        self.is_load = is_load
        self.step = 0
        self.total_steps = 0
        self.started_at = 0.0
        self._work = work
        self._reason = ""
        self._cancelled = threading.Event()
        self._settled = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None

    def cancel(self, reason: str) -> None:
        """Ask the work to stop at its next :meth:`check`; whoever waits is answered at once."""
        self._reason = self._reason or reason
        self._cancelled.set()
        self._settled.set()

    def check(self) -> None:
        """Raise Cancelled if somebody asked for it. Called between steps, components and frames."""
        if self._cancelled.is_set():
            raise Cancelled(f"{self.name} was cancelled: {self._reason}")

    def report(self, step: int, total: int) -> None:
        """Note how far the denoising is, in inference steps."""
        self.step, self.total_steps = step, total
        self.check()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def failed(self) -> bool:
        return self._error is not None

    def run(self) -> None:
        """Do the work on the calling thread and keep its result or error until :meth:`settle`."""
        self.started_at = time.monotonic()
        try:
            self.check()
            self._result = self._work(self)
        except BaseException as error:  # noqa: BLE001 - kept for the one who waits
            self._error = _ours(error, self.name)
            for kept in (error, self._error):  # their frames hold the pipeline's tensors
                kept.__traceback__ = kept.__context__ = kept.__cause__ = None

    def settle(self) -> None:
        """Let whoever waits have the result."""
        self._settled.set()

    def wait(self, timeout: float | None = None) -> T:
        """The work's result. Raises its error, Cancelled when cancelled first, TimeoutError after ``timeout`` s."""
        if not self._settled.wait(timeout):
            raise TimeoutError(f"{self.name} still runs after {timeout} s")
        if self._error is not None:
            raise self._error
        self.check()
        return self._result  # type: ignore[return-value]


def _ours(error: BaseException, name: str) -> BackendError:
    """The error as one of ours; the unexpected with its traceback in the log."""
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
        log.error("%s ran out of memory: %s", name, status_message(error))
        return OutOfMemory(f"{name} ran out of memory ({status_message(error)}). Ask for a smaller size, fewer frames, or "
                           "load with low_vram: true, options: offload:sequential or vae_tiling:true")
    if isinstance(error, BackendError):
        return error
    log.error("%s failed\n%s", name, "".join(traceback.format_exception(error)))
    return GenerationFailed(status_message(error))


@dataclass
class Metrics:
    """Of the last finished generation: inference steps taken and seconds they took."""

    steps: int = 0
    seconds: float = 0.0

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds > 0 else 0.0


@dataclass
class _Slot:
    """What is loaded: the core's identity string for it, and the model."""

    identity: str = ""
    model: Any = None


class Engine:
    """Serializes all work on one model. ``max_queue`` jobs may wait behind the running one."""

    def __init__(self, max_queue: int, warm_up: Callable[[], None] | None = None) -> None:
        self._max_queue = max_queue
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._closed = False
        self._slot = _Slot()
        self.metrics = Metrics()
        if warm_up is not None:
            self._queue.append(Job(lambda _job: warm_up(), "import of the libraries"))
        self._thread = threading.Thread(target=self._loop, name="pipeline", daemon=True)
        self._thread.start()

    # What the handlers ask for

    def submit(self, work: Callable[[Job], T], name: str, is_load: bool = False) -> Job[T]:
        """Queue ``work``. Raises QueueFull when ``max_queue`` jobs wait already, Cancelled when shutting down."""
        job: Job[T] = Job(work, name, is_load)
        with self._changed:
            if self._closed:
                raise Cancelled("the backend is shutting down")
            self._queue = deque(waiting for waiting in self._queue if not waiting.cancelled)
            if len(self._queue) >= self._max_queue:
                raise QueueFull(f"{len(self._queue)} requests wait already (LOCALAI_DIFFUSERS_MAX_QUEUE="
                                f"{self._max_queue}): try again later")
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def load(self, identity: str, prepare: Callable[[Job, Any], Callable[[], Any]]) -> Job[Any]:
        """Queue a load in two halves.

        ``prepare(job, current_model)`` checks all that can be checked and returns the second half; its failure leaves
        the earlier model serving. Then the earlier model is dropped and the second half builds the new one; a failure
        there leaves none. The job's result is the new model.
        """
        def work(job: Job) -> Any:
            build = prepare(job, self._slot.model)
            had_model = self._slot.model is not None
            self._drop()
            try:
                model = build()
                job.check()
            except BaseException as error:
                model = None
                self._drop()
                raise _after_drop(error, had_model, job.name) from None
            self._slot = _Slot(identity, model)
            return model

        return self.submit(work, f"load of {identity!r}", is_load=True)

    def generate(self, work: Callable[[Job, Any], T], name: str, identity: str = "") -> Job[T]:
        """Queue ``work(job, model)`` on the model that is loaded when its turn comes.

        ``identity``: the model that the request means; another one may have been loaded while it waited.
        """
        self.require_model()

        def on_model(job: Job) -> T:
            if self._slot.model is None:
                raise ModelNotLoaded()
            if identity and self._slot.identity and identity != self._slot.identity:
                raise ModelMismatch(self._slot.identity, identity)
            result = work(job, self._slot.model)
            self.metrics = Metrics(job.step, time.monotonic() - job.started_at)
            return result

        return self.submit(on_model, name)

    def require_model(self) -> None:
        """Raise ModelNotLoaded unless a model is loaded or a load is under way."""
        if self._slot.model is None and not self._load_pending():
            raise ModelNotLoaded()

    def free(self, timeout: float) -> bool:
        """Cancel everything, drop the model, give the memory back. False if it still winds down after ``timeout`` s."""
        dropped = Job(lambda _job: self._drop(), "Free")
        with self._changed:
            self._cancel_all("the model is being freed")
            self._queue.appendleft(dropped)
            self._changed.notify_all()
        try:
            dropped.wait(timeout)
        except TimeoutError:
            return False
        return True

    def shutdown(self, timeout: float) -> bool:
        """Cancel everything and take no more work. False if the running job has not stopped after ``timeout`` s."""
        with self._changed:
            self._closed = True
            self._cancel_all("the backend is shutting down")
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # What Status and the interceptors read; none of it waits for a job

    @property
    def identity(self) -> str:
        return self._slot.identity

    @property
    def model(self) -> Any:
        return self._slot.model

    @property
    def running(self) -> Job | None:
        return self._running

    @property
    def state(self) -> State:
        if self._running is not None:
            return State.BUSY
        return State.UNINITIALIZED if self._slot.model is None else State.READY

    # The worker thread

    def _loop(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            if job.failed:
                release_memory()
            with self._changed:
                self._running = None
            job.settle()

    def _next(self) -> Job | None:
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            self._running = self._queue.popleft()
            return self._running

    def _load_pending(self) -> bool:
        with self._changed:
            jobs = (*self._queue, *([self._running] if self._running else ()))
            return any(job.is_load and not job.cancelled for job in jobs)

    def _cancel_all(self, reason: str) -> None:
        for job in (*self._queue, *([self._running] if self._running else ())):
            job.cancel(reason)
        self._queue.clear()

    def _drop(self) -> None:
        if self._slot.model is not None:
            log.info("freeing %s", self._slot.identity)
        self._slot = _Slot()
        release_memory()


def _after_drop(error: BaseException, had_model: bool, name: str) -> BackendError:
    ours = _ours(error, name)
    if had_model and not isinstance(ours, Cancelled):
        ours.args = (f"{ours} (the earlier model was freed already: no model is loaded now)",)
    return ours


def release_memory() -> None:
    """Collect garbage and hand the accelerator's cached blocks back. Imports nothing that is not there already."""
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    for name in ("cuda", "xpu", "mps"):
        device = getattr(torch, name, None)
        if device is not None and getattr(device, "is_available", lambda: name == "mps" and _has_mps(torch))():
            device.empty_cache()


def _has_mps(torch: Any) -> bool:
    return torch.backends.mps.is_available()
