# SPDX-License-Identifier: MIT
"""The one loaded model and the one thread that works on it: queue, run, cancel, Free, Status.

A diffusers pipeline keeps state (scheduler steps, hooks), so two calls at once give wrong pictures. Every load, free
and generation is a job of one worker thread, first come first served; the gRPC handlers only wait for their job, so
that a client that leaves gets its answer at once while the work stops at its next step.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from localai_diffusers.errors import (
    AcceleratorLost,
    BackendError,
    Cancelled,
    ModelMismatch,
    ModelNotLoaded,
    status_message,
)
from localai_diffusers.work.jobs import Batch, Job, as_ours, forget_frames
from localai_diffusers.work.waiting_line import Clock, WaitingLine

log = logging.getLogger(__name__)
T = TypeVar("T")


class State(Enum):
    """What Status says; names are those of ``StatusResponse.State``."""

    UNINITIALIZED = "UNINITIALIZED"
    BUSY = "BUSY"
    READY = "READY"


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


@dataclass(frozen=True)
class Upkeep:
    """What is done around the work, on its thread: the engine knows when, not what."""

    after_work: Callable[[Any], None] = lambda _model: None  # on the model, once who waited has the answer
    between_models: Callable[[], None] = lambda: None  # no model is loaded: before a build, and at Free
    on_lost: Callable[[], None] = lambda: None  # nothing more can be computed in this process


class Engine:
    """Serializes all work on one model. ``max_queue`` jobs may wait behind the running one."""

    def __init__(
        self,
        max_queue: int,
        warm_up: Callable[[], None] | None = None,
        upkeep: Upkeep | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._upkeep, self._clock = upkeep or Upkeep(), clock or Clock()
        self._queue = WaitingLine(max_queue, self._clock)
        self._changed = threading.Condition()
        self._running: tuple[Job[Any], ...] = ()
        self._closed = False
        self._slot = _Slot()
        self._frozen_modules = 0
        self.metrics = Metrics()
        self.on_ran: Callable[[str, float, int], None] = lambda *_: None  # a job's name, seconds in the queue, steps
        self.on_batch: Callable[[int], None] = lambda _count: None
        self._steps = 0
        if warm_up is not None:
            self._queue.add(Job(lambda _job: warm_up(), "import of the libraries"))
        self._thread = threading.Thread(target=self._loop, name="pipeline", daemon=True)
        self._thread.start()

    # What the handlers ask for

    def submit(
        self, work: Callable[[Job[Any]], T], name: str, is_load: bool = False, batch: Batch | None = None
    ) -> Job[T]:
        """Queue ``work``. Raises QueueFull when ``max_queue`` jobs wait already, Cancelled when shutting down."""
        job: Job[T] = Job(work, name, is_load, batch)
        with self._changed:
            if self._closed:
                raise Cancelled("the backend is shutting down")
            self._queue.check_room()
            job.created_at, job.on_cancel = self._clock.now(), self._wake
            self._queue.add(job)
            self._changed.notify_all()
        return job

    def _wake(self) -> None:
        """The thread may wait for others to join a job that is cancelled now."""
        with self._changed:
            self._changed.notify_all()

    def require_room(self) -> None:
        """Raise QueueFull where one more job could not wait: asked before a request's pictures are read, so that one
        too many is told at once."""
        with self._changed:
            self._queue.check_room()

    def load(self, identity: str, prepare: Callable[[Job[Any], Any], Callable[[], Any]]) -> Job[Any]:
        """Queue a load in two halves.

        ``prepare(job, current_model)`` checks all that can be checked and returns the second half; its failure leaves
        the earlier model serving. Then the earlier model is dropped and the second half builds the new one; a failure
        there leaves none. The job's result is the new model.
        """

        def work(job: Job[Any]) -> Any:
            build = prepare(job, self._slot.model)
            had_model = self._slot.model is not None
            self._drop()
            model, failure = _built(build, job)
            if failure is not None:
                if not isinstance(failure, AcceleratorLost):
                    self._drop()
                raise _after_drop(failure, had_model)
            self._slot = _Slot(identity, model)
            return model

        return self.submit(work, f"load of {identity!r}", is_load=True)

    def generate(
        self, work: Callable[[Job[Any], Any], T], name: str, identity: str = "", batch: Batch | None = None
    ) -> Job[T]:
        """Queue ``work(job, model)`` on the model that is loaded when its turn comes.

        ``identity``: the model that the request means; another one may have been loaded while it waited. ``batch``:
        how the work may be done together with that of its neighbors in the queue.
        """
        self.require_model()

        def on_model(job: Job[Any]) -> T:
            if self._slot.model is None:
                raise ModelNotLoaded()
            if identity and self._slot.identity and identity != self._slot.identity:
                raise ModelMismatch(self._slot.identity, identity)
            result = work(job, self._slot.model)
            self.metrics = Metrics(job.step, time.monotonic() - job.started_at)
            return result

        return self.submit(on_model, name, batch=batch)

    def require_model(self) -> None:
        """Raise ModelNotLoaded unless a model is loaded or a load is under way."""
        if self._slot.model is None and not self._load_pending():
            raise ModelNotLoaded()

    def free(self, timeout: float) -> bool:
        """Cancel everything, drop the model, give the memory back. False if it still winds down after ``timeout`` s."""
        dropped = Job(lambda _job: self._drop(), "Free")
        with self._changed:
            self._cancel_all("the model is being freed")
            self._queue.put_first(dropped)
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
    def running(self) -> tuple[Job[Any], ...]:
        """The job that runs, or the jobs that run as one call."""
        return self._running

    @property
    def waiting(self) -> int:
        return len(list(self._queue))

    @property
    def steps(self) -> int:
        """Inference steps since the start, those of the running job too."""
        return self._steps + max((job.step for job in self._running), default=0)

    @property
    def state(self) -> State:
        if self._running or self.waiting:
            return State.BUSY
        return State.UNINITIALIZED if self._slot.model is None else State.READY

    # The worker thread

    def _loop(self) -> None:
        while jobs := self._next():
            together = False
            if len(jobs) > 1 and jobs[0].batch is not None:
                began = time.monotonic()
                together = jobs[0].batch.run(jobs, self._slot.model)
                if together:
                    self.metrics = Metrics(jobs[0].step, time.monotonic() - began)
            else:
                jobs[0].run()
            lost = any(job.lost_the_accelerator for job in jobs)
            if not lost and any(job.failed for job in jobs):
                release_memory()
            self._count(jobs, together)
            self._finish(jobs)
            if lost:  # and nothing of it is tidied up: that would wait for what it computes
                log.error("the accelerator is lost to this process: it ends, for another to be started")
                return self._upkeep.on_lost()
            self._tidy_up()

    def _count(self, jobs: tuple[Job[Any], ...], together: bool) -> None:
        """``together``: in one call, whose steps count once."""
        if jobs[0].batch is not None:
            self.on_batch(len(jobs) if together else 1)
        for job in jobs:
            steps = 0 if together and job is not jobs[0] else job.step
            self._steps += steps
            if job.started_at:
                self.on_ran(job.name, job.started_at - job.created_at, steps)

    def _finish(self, jobs: tuple[Job[Any], ...]) -> None:
        """Tell the waiters. Not in the loop above: its loop variable would keep the last job, and the model that it
        loaded, alive until the next one ends."""
        with self._changed:
            self._running = ()
        for job in jobs:
            job.settle()

    def _tidy_up(self) -> None:
        """After the answer and before the next job; what fails here is no request's error."""
        if self._slot.model is not None:
            try:
                self._upkeep.after_work(self._slot.model)
            except Exception as error:  # noqa: BLE001 - the thread must live on
                log.error("tidying up failed: %s", status_message(error))

    def _next(self) -> tuple[Job[Any], ...]:
        """The next job, with those right behind it that may run in the same call; () at the end."""
        with self._changed:
            while not self._closed and (seconds := self._queue.patience()) != 0:
                self._clock.wait(self._changed, seconds)
            self._running = () if self._closed else self._queue.take()
            return self._running

    def _load_pending(self) -> bool:
        with self._changed:
            jobs = (*self._queue, *self._running)
            return any(job.is_load and not job.cancelled for job in jobs)

    def _cancel_all(self, reason: str) -> None:
        for job in (*self._queue, *self._running):
            job.cancel(reason)
        self._queue.clear()

    def _drop(self) -> None:
        if self._slot.model is not None:
            log.info("freeing %s", self._slot.identity)
        self._slot = _Slot()
        release_memory()
        self._upkeep.between_models()
        self._freeze_imports()

    def _freeze_imports(self) -> None:
        """What a model's modules made stays for good: later collections, which hold up Health, need not look at it.

        Between two models, so that neither is taken for a part of it.
        """
        if len(sys.modules) > self._frozen_modules:
            gc.freeze()
            self._frozen_modules = len(sys.modules)


def _built(build: Callable[[], T], job: Job[Any]) -> tuple[T | None, BackendError | None]:
    """The model, or why there is none: without the frames that hold half of one, for what :meth:`Engine._drop` finds
    held stays for good."""
    try:
        model = build()
        job.check()
        return model, None
    except BaseException as error:  # noqa: BLE001 - told by whoever drops what was before
        ours = as_ours(error, job.name)
        forget_frames(error, ours)
        return None, ours


def _after_drop(error: BackendError, had_model: bool) -> BackendError:
    if had_model and not isinstance(error, Cancelled):
        error.args = (f"{error} (the earlier model was freed already: no model is loaded now)",)
    return error


def release_memory() -> None:
    """Collect garbage and hand the accelerator's cached blocks back. Imports nothing that is not there already."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        with contextlib.suppress(RuntimeError):  # of an accelerator that is lost
            torch.accelerator.empty_cache()
