# SPDX-License-Identifier: MIT
"""The jobs that wait, in the order they came, and how long the first of them waits for others to join it.

The engine calls it with its lock held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from localai_diffusers.errors import QueueFull
from localai_diffusers.work.jobs import Job


class Clock:
    """The time in seconds, and how a thread waits for a change or until so many have passed; tests bring their own."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, changed: threading.Condition, seconds: float | None) -> None:
        """With the lock of ``changed`` held; None waits for a change alone."""
        changed.wait(seconds)


class WaitingLine:
    """At most ``most`` jobs, first come first served. ``clock`` is the one that the jobs' ``created_at`` is told by."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most, self._clock = most, clock
        self._jobs: deque[Job[Any]] = deque()

    def __iter__(self) -> Iterator[Job[Any]]:
        """Those that are still wanted."""
        return iter([job for job in tuple(self._jobs) if not job.cancelled])

    def check_room(self) -> None:
        """Raise QueueFull where one more job could not wait."""
        self._jobs = deque(self)
        if len(self._jobs) >= self._most:
            raise QueueFull(
                f"{len(self._jobs)} requests wait already (LOCALAI_DIFFUSERS_MAX_QUEUE={self._most}): try again later"
            )

    def add(self, job: Job[Any]) -> None:
        self._jobs.append(job)

    def put_first(self, job: Job[Any]) -> None:
        self._jobs.appendleft(job)

    def clear(self) -> None:
        self._jobs.clear()

    def patience(self) -> float | None:
        """Seconds until the first job runs if nothing changes: 0 for now, None where no job waits.

        It waits for others only where its batch says so, from when it came, and where nothing stands behind it that
        could not join: that would wait as well.
        """
        self._jobs = deque(self)
        if not self._jobs:
            return None
        batch, together = self._jobs[0].batch, self._together()
        if batch is None or together == batch.limit or together < len(self._jobs):
            return 0.0
        return max(0.0, self._jobs[0].created_at + batch.wait - self._clock.now())

    def take(self) -> tuple[Job[Any], ...]:
        """The first job, with those right behind it that may run in the same call."""
        return tuple(self._jobs.popleft() for _ in range(self._together()))

    def _together(self) -> int:
        """How many jobs from the first on may run as one call."""
        batch, count = self._jobs[0].batch, 1
        while batch is not None and count < min(batch.limit, len(self._jobs)):
            other = self._jobs[count].batch
            if other is None or other.key != batch.key:
                break
            count += 1
        return count
