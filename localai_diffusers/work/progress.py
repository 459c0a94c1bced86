# SPDX-License-Identifier: MIT
"""Progress of a job: bars that ask it at each step whether to go on, and say how far it is.

On a terminal the bar is tqdm's, unless the log level leaves progress out; elsewhere it is a plain log line now and
then, because the core tails stderr line by line and a carriage return would make one enormous line of it.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from localai_diffusers.patches import loading_bars

if TYPE_CHECKING:
    from localai_diffusers.work.jobs import Control, Job

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 5.0


def are_drawn() -> bool:
    """Whether there are bars: on a terminal, and where progress is told at all."""
    return sys.stderr.isatty() and log.isEnabledFor(logging.INFO)


@functools.cache
def _bar_class() -> type:
    """tqdm with our checks in it; made on first use, for tqdm comes with the libraries that load late."""
    from tqdm import tqdm

    class StepBar(tqdm):
        """A progress bar that asks the job before each step whether to go on."""

        job: Control | None = None
        monitor_interval = 0  # no thread that looks after each class of bars

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._logged_at = self._began_at = time.monotonic()
            self._count = 0
            kwargs["disable"] = not are_drawn()
            super().__init__(*args, **kwargs)

        def __iter__(self) -> Iterator[Any]:
            for item in self.iterable:
                self._check()
                yield item
                self.update(1)
            self.close()

        def update(self, n: float | None = 1) -> bool | None:
            self._count += int(n or 0)
            self._report()
            return super().update(n)

        def _check(self) -> None:
            if self.job is not None:
                self.job.check()

        def _report(self) -> None:
            total = int(self.total or getattr(self, "_steps", 0) or 0)
            now = time.monotonic()
            if self.disable and (now - self._logged_at >= LOG_EVERY_SECONDS or self._count == total):
                self._logged_at = now
                rate = self._count / max(now - self._began_at, 1e-9)
                log.info(
                    "%s%d/%d, %.2f it/s",
                    f"{self.desc}: " if getattr(self, "desc", None) else "",
                    self._count,
                    total,
                    rate,
                )
            if self.job is not None:
                self.job.report(self._count, total)

    return StepBar


def _length(iterable: Iterable[Any] | None) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        return None


def step_bar(
    job: Control | None, iterable: Iterable[Any] | None = None, total: int | None = None, **kwargs: Any
) -> Any:
    """A bar over ``iterable`` or with ``total`` steps that checks ``job`` at each."""
    cls = _bar_class()
    bar = cls(iterable, total=total if total is not None else _length(iterable), **kwargs)
    if bar.disable:  # tqdm leaves these unset on a disabled bar
        bar.total = total if total is not None else _length(iterable)
        bar.iterable, bar.desc = iterable, kwargs.get("desc", "")
    bar.job = job
    return bar


def watched_loading(job: Job[Any]) -> AbstractContextManager[None]:
    """Inside the block diffusers' and transformers' own bars log plain lines, and stop when ``job`` is cancelled."""

    def bar(iterable: Iterable[Any] | None = None, total: int | None = None, desc: str | None = None, **_: Any) -> Any:
        return step_bar(job, iterable, total, desc=desc or "")

    return loading_bars.applied(bar)
