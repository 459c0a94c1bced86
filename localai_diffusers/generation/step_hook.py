# SPDX-License-Identifier: MIT
"""The step hook: told of every inference step, it can stop the work there.

There are three ways in: ``callback_on_step_end`` where the signature has it, the pipeline's ``progress_bar``, and a
hook before every component runs, which reaches those that have neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.work.progress import are_drawn, step_bar

if TYPE_CHECKING:
    from localai_diffusers.work.jobs import Control


@contextlib.contextmanager
def watched(pipeline: Any, job: Control) -> Iterator[dict[str, Any]]:
    """While the block runs, ``pipeline`` asks ``job`` at each step and before each component whether to go on.

    Yields the keyword arguments for the call (its step callback, by the name that its signature has).
    """
    own_bar = "progress_bar" in vars(pipeline)
    previous = vars(pipeline).get("progress_bar")
    object.__setattr__(pipeline, "progress_bar", lambda iterable=None, total=None, **_: step_bar(job, iterable, total))
    if hasattr(pipeline, "set_progress_bar_config"):  # some draw further bars of their own by it (AnyFlow's chunks)
        pipeline.set_progress_bar_config(disable=not are_drawn())
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


def _callbacks(parameters: Any, job: Control) -> dict[str, Any]:
    """Not the legacy ``callback``: the bar and the hooks on the components stop those pipelines as well, and one of
    them (Paradigms) breaks when it is given one."""

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
