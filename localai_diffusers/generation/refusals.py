# SPDX-License-Identifier: MIT
"""Whose an error inside a pipeline is: the request's, the accelerator's, a package's that is missing, or nobody's.

What is known of a pipeline's needs is settled before its call: by its signature, its configs and the rows of quirks.
The rest is told by where the error comes from, never by its words: raised by other code than ours before the first step
has ended, it is about what the request brought. ``check_inputs`` refuses on purpose; many pipelines check nothing and
fail on their way to the first step, on a size or a None that they cannot compute with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from localai_diffusers.errors import (
    BackendError,
    MissingPackage,
    NotSupported,
    PipelineRefusal,
    is_of_accelerator,
    is_out_of_memory,
    missing_package,
    one_line,
)
from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline import tasks

_OURS = __name__.partition(".")[0]
_PATCHES = f"{_OURS}.patches"  # which call what they stand for
_QUANTIZERS = frozenset({"torchao", "optimum", "bitsandbytes"})  # whose weights stand for plain ones
_FIELDS = {"num_inference_steps": "step", "last_image": "end_image"}  # what requests call them
_UNTOLD = ("generator", "output_type")  # ours
_WORDS = 600  # characters of the pipeline's own


def told(error: Exception, pipeline: Any, own: type, arguments: Mapping[str, Any], step: int) -> Exception:
    """The error of a pipeline's call as what the user is told, or itself where it is nobody's fault.

    ``own`` is the class that the weights were loaded as, ``arguments`` are the call's, ``step`` counts those ended.
    """
    if isinstance(error, BackendError) or is_out_of_memory(error) or is_of_accelerator(error):
        return error
    name = type(pipeline).__name__
    if package := missing_package(error):
        return MissingPackage(f"{name} cannot do this here: {package}")
    if _raised_by(error) in _QUANTIZERS:
        return NotSupported(
            f"{name} computes with its weights in a way that quantized ones cannot ({one_line(str(error))[:_WORDS]}): "
            "another word of option quantization may serve, or name the components that can be quantized"
        )
    if step or isinstance(error, OSError) or _raised_by(error) == _OURS:
        return error
    brought = f"the request gave it {described(arguments) or 'nothing'}"
    if type(pipeline) is not own:
        brought += f"; these weights run as {own.__name__} ({tasks.described_inputs(own)}) and not as {name}"
    elif unfilled := tasks.unfilled_pictures(own, arguments, optional_too=True):
        brought = f"{brought}; {unfilled}"
    words = one_line(f"{type(error).__name__}: {error}")[:_WORDS]
    return PipelineRefusal(f"{name} refuses the request: {words} ({brought})")


def described(arguments: Mapping[str, Any]) -> str:
    """ "width=64, height=64, image=32x32, prompt": numbers by their values, media by their sizes, anything else by its
    name alone, for it may be a text that no log should hold."""
    return ", ".join(
        _described(_FIELDS.get(name, name), value)
        for name, value in arguments.items()
        if value is not None and name not in _UNTOLD
    )


def _described(name: str, value: Any) -> str:
    if isinstance(value, (bool, int, float)):
        return f"{name}={value}"
    pictures = [part for part in (value if isinstance(value, list) else [value]) if is_picture(part)]
    if not pictures:
        return name
    size = f"{pictures[0].width}x{pictures[0].height}"
    return f"{name}={len(pictures)} of {size}" if isinstance(value, list) else f"{name}={size}"


def _raised_by(error: BaseException) -> str:
    """The package whose code raised it; this backend's own where a pipeline or a library under it has no part."""
    modules = [module for module in _modules(error) if not module.startswith(_PATCHES)]
    return modules[-1].partition(".")[0] if modules else _OURS


def _modules(error: BaseException) -> Iterator[str]:
    """Names of the modules that the error came through, the one that raised it last."""
    place = error.__traceback__
    while place is not None:
        yield str(place.tb_frame.f_globals.get("__name__"))
        place = place.tb_next
