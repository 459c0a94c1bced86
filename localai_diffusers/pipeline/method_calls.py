# SPDX-License-Identifier: MIT
"""Classes without ``__call__``, which have a method for each of their tasks (VersatileDiffusionPipeline)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.patches import exchanged_modules
from localai_diffusers.pipeline.kept import kept
from localai_diffusers.pipeline.signatures import EMPTY, task_methods
from localai_diffusers.wire.requests import GenerationRequest


def called_for(request: GenerationRequest, pipeline_class: type) -> type:
    """``pipeline_class`` as a class whose call is its method for what the request brings.

    Raises InvalidRequest naming the methods where there is none for that.
    """
    brings = {"prompt"} if request.prompt or not request.images else set()
    brings |= {"image"} if request.images else set()
    for method in task_methods(pipeline_class):
        if _needs(method) == brings and not (request.is_inpainting or request.video):
            return _with_call(pipeline_class, method)
    offers = "; ".join(f"{method.__name__} ({', '.join(_needs(method))})" for method in task_methods(pipeline_class))
    raise InvalidRequest(
        f"{pipeline_class.__name__} cannot do what the request asks for: it offers {offers or 'nothing'}"
    )


def _needs(method: Callable[..., Any]) -> set[str]:
    known = inspect.signature(method).parameters
    return {name for name, parameter in known.items() if parameter.default is EMPTY} - {"self"}


@kept(512)
def _with_call(pipeline_class: type, method: Callable[..., Any]) -> type:
    """``pipeline_class`` with ``method`` as its call. What the method exchanges in the shared modules is put back where
    it fails (Versatile Diffusion swaps attention blocks between its UNets, and back at the end)."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with exchanged_modules.put_back(self):
            return method(self, *args, **kwargs)

    return type(pipeline_class.__name__, (pipeline_class,), {"__call__": call, "__module__": pipeline_class.__module__})
