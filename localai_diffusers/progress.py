"""The step hook: told of every inference step, it can stop the work there, and it says how far it is.

There are three ways in: ``callback_on_step_end`` where the signature has it, the pipeline's ``progress_bar``, and a
hook before every component runs, which reaches those that have neither. On a terminal the bar is tqdm's; elsewhere it is a plain log line now and then, because the core
tails stderr line by line and a carriage return would make one enormous line of it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .signatures import parameters_of

if TYPE_CHECKING:
    from .jobs import Job

log = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 5.0


@functools.cache
def _bar_class() -> type:
    """tqdm with our checks in it; made on first use, for tqdm comes with the libraries that load late."""
    from tqdm import tqdm

    class StepBar(tqdm):
        """A progress bar that asks the job before each step whether to go on."""

        job: Job | None = None
        monitor_interval = 0  # no thread that looks after each class of bars

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._logged_at = self._began_at = time.monotonic()
            self._count = 0
            kwargs["disable"] = not sys.stderr.isatty()
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


def step_bar(job: Job | None, iterable: Iterable[Any] | None = None, total: int | None = None, **kwargs: Any) -> Any:
    """A bar over ``iterable`` or with ``total`` steps that checks ``job`` at each."""
    cls = _bar_class()
    bar = cls(iterable, total=total if total is not None else _length(iterable), **kwargs)
    if bar.disable:  # tqdm leaves these unset on a disabled bar
        bar.total = total if total is not None else _length(iterable)
        bar.iterable, bar.desc = iterable, kwargs.get("desc", "")
    bar.job = job
    return bar


@contextlib.contextmanager
def watched(pipeline: Any, job: Job) -> Iterator[dict[str, Any]]:
    """While the block runs, ``pipeline`` asks ``job`` at each step and before each component whether to go on.

    Yields the keyword arguments for the call (its step callback, by the name that its signature has).
    """
    own_bar = "progress_bar" in vars(pipeline)
    previous = vars(pipeline).get("progress_bar")
    object.__setattr__(pipeline, "progress_bar", lambda iterable=None, total=None, **_: step_bar(job, iterable, total))
    if hasattr(pipeline, "set_progress_bar_config"):  # some draw further bars of their own by it (AnyFlow's chunks)
        pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
    handles = [module.register_forward_pre_hook(lambda *_: job.check()) for module in _stoppable(pipeline)]
    try:
        yield _callbacks(parameters_of(pipeline), job)
    finally:
        for handle in handles:
            handle.remove()
        if own_bar:
            object.__setattr__(pipeline, "progress_bar", previous)
        else:
            vars(pipeline).pop("progress_bar", None)


def _callbacks(parameters: Any, job: Job) -> dict[str, Any]:
    """Not the legacy ``callback``: the bar and the hooks on the components stop those pipelines as well, and one of them
    (Paradigms) breaks when it is given one."""

    def on_step_end(_pipeline: Any, _step: int, _timestep: Any, _values: dict[str, Any]) -> dict[str, Any]:
        job.check()
        return {}  # nothing changes: a pipeline may take other latents back than it hands over (LTX's long videos)

    return {"callback_on_step_end": on_step_end} if "callback_on_step_end" in parameters else {}


def _stoppable(pipeline: Any) -> list[Any]:
    """The components and their first-level parts: a text encoder, a VAE's decoder. Not compiled ones: a hook there
    would break the compiled graph."""
    import torch

    modules: list[Any] = []
    for component in getattr(pipeline, "components", {}).values():
        compiled = getattr(component, "_compiled_call_impl", None) is not None
        if isinstance(component, torch.nn.Module) and not compiled:
            modules += [component, *component.children()]
    return modules


@contextlib.contextmanager
def watched_loading(job: Job) -> Iterator[None]:
    """While the block runs, diffusers' and transformers' own bars log plain lines and stop when ``job`` is cancelled.

    transformers has a hook for it; diffusers none, so its factory is replaced for the while.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    def bar(iterable: Iterable[Any] | None = None, total: int | None = None, desc: str | None = None, **_: Any) -> Any:
        return step_bar(job, iterable, total, desc=desc or "")

    original = diffusers_logging.tqdm
    previous = transformers_logging.set_tqdm_hook(lambda _factory, args, kwargs: bar(*args, **kwargs))
    diffusers_logging.tqdm = bar
    try:
        yield
    finally:
        diffusers_logging.tqdm = original
        transformers_logging.set_tqdm_hook(previous)
