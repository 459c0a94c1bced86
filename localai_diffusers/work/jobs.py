# SPDX-License-Identifier: MIT
"""One piece of work for the pipeline's thread: its control while it runs, and the handle of whoever waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from localai_diffusers import logs
from localai_diffusers.errors import (
    AcceleratorLost,
    BackendError,
    Cancelled,
    GenerationFailed,
    OutOfMemory,
    is_accelerator_lost,
    is_out_of_memory,
    of_machine,
    status_message,
)

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """How a job may run together with its neighbors in the queue: those of the same ``key``, at most ``limit``.

    ``item`` is what this job brings; ``run(jobs, model)`` does the work of all, keeps each job's result or error, and
    says whether it was one call. ``wait``: seconds from when it came that it waits for others, if it is the first.
    """

    key: Hashable
    limit: int
    item: Any
    run: Callable[[Sequence[Job[Any]], Any], bool]
    wait: float = 0.0


def _gone(job: Job[Any]) -> Any:
    """The work of a job that is over: what it held is let go."""
    job.check()


class Job(Generic[T]):
    """One piece of work for the worker thread, and the handle to wait for it or to cancel it."""

    def __init__(
        self, work: Callable[[Job[Any]], T], name: str, is_load: bool = False, batch: Batch | None = None
    ) -> None:
        self.name = name
        self.is_load = is_load
        self.batch = batch
        self.step = 0
        self.total_steps = 0
        self.created_at, self.started_at = time.monotonic(), 0.0
        self.request_id = logs.request_id.get()
        self.on_cancel: Callable[[], None] = lambda: None
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
        self._work = _gone  # what the work holds (decoded pictures) need not wait for its turn in the queue
        self.on_cancel()

    def check(self) -> None:
        """Raise Cancelled if somebody asked for it. Called between steps, components and frames."""
        if self._cancelled.is_set():
            raise Cancelled(f"{self.name} was cancelled: {self._reason}")

    def restart(self) -> None:
        """Count the steps of another call from none: a tile's, a batch's, the one after an inversion."""
        self.step = self.total_steps = 0

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

    @property
    def lost_the_accelerator(self) -> bool:
        """Whether it failed in a way after which nothing can be computed in this process."""
        return isinstance(self._error, AcceleratorLost)

    def run(self, work: Callable[[Job[Any]], T] | None = None) -> None:
        """Do the work (or the rest of it that ``work`` is) on this thread; keep its result or error for the waiter."""
        self.started_at = time.monotonic()
        for_whom = logs.request_id.set(self.request_id)
        try:
            self.check()
            self._result = (work or self._work)(self)
        except BaseException as error:  # noqa: BLE001 - kept for the one who waits
            self._error = as_ours(error, self.name)
            forget_frames(error, self._error)
        finally:
            logs.request_id.reset(for_whom)
            self._work = _gone  # who waits may keep the job for long, and with it what its work holds

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


def as_ours(error: BaseException, name: str) -> BackendError:
    """The error as one of ours; the unexpected, and what a refusal came from, with its traceback in the log."""
    ours = _ours(error, name)
    if ours is not error:
        log.error("%s failed\n%s", name, logs.without_values(error))
    elif (cause := error.__cause__) is not None and not isinstance(cause, BackendError):
        log.info("%s was refused\n%s", name, logs.without_values(error))
    log.debug("%s: %s", name, error)
    return ours


def _ours(error: BaseException, name: str) -> BackendError:
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
        return OutOfMemory(
            f"{name} ran out of memory ({status_message(error)}). Ask for a smaller size, fewer frames, or "
            "load with low_vram: true, options: offload:sequential or vae_tiling:true"
        )
    if isinstance(error, BackendError):
        return error
    if ours := of_machine(error, name):
        log.error("%s", ours)
        return ours
    if is_accelerator_lost(error):
        return AcceleratorLost(f"{status_message(error)}: this backend ends, and the next request starts another")
    return GenerationFailed(status_message(error))


def forget_frames(*errors: BaseException) -> None:
    """Let go of what the errors' frames hold, a pipeline's weights and tensors among it; their texts stay."""
    for error in errors:
        error.__traceback__ = error.__context__ = error.__cause__ = None


class JobGroup:
    """The control of several jobs that run as one call: it goes on as long as one of them is wanted."""

    def __init__(self, jobs: Sequence[Job[Any]]) -> None:
        self.jobs = jobs

    @property
    def step(self) -> int:
        return self.jobs[0].step

    def check(self) -> None:
        """Raise Cancelled once all the jobs are."""
        if all(job.cancelled for job in self.jobs):
            self.jobs[0].check()

    def restart(self) -> None:
        """As :meth:`Job.restart`, for every job."""
        for job in self.jobs:
            job.restart()

    def report(self, step: int, total: int) -> None:
        """Note how far the denoising is, for every job."""
        for job in self.jobs:
            job.step, job.total_steps = step, total
        self.check()


class Control(Protocol):
    """What a call asks whether to go on, and tells how far it is: a job, several of one call, or that of all ranks."""

    @property
    def step(self) -> int: ...

    def check(self) -> None: ...

    def restart(self) -> None: ...

    def report(self, step: int, total: int) -> None: ...
