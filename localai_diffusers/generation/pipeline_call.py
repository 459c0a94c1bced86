# SPDX-License-Identifier: MIT
"""The call of a pipeline under the step hook, and what its errors mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localai_diffusers import patches, privacy
from localai_diffusers.errors import BackendError, GenerationFailed, InvalidRequest
from localai_diffusers.generation import refusals, step_hook
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.work.ranks import group

if TYPE_CHECKING:
    from localai_diffusers.work.jobs import Control
    from localai_diffusers.work.ranks.peer import Peer


def call_pipeline(pipeline: Any, call: Call, job: Control, own: type | None = None) -> Any:
    """What the pipeline returns. ``own`` is the class that the weights were loaded as, where ``pipeline`` is a sibling.

    Raises InvalidRequest for what it cannot do with the request, MissingPackage for what is not installed.
    """
    try:
        return _on_every_rank(pipeline, call, job)
    except Exception as error:
        told = refusals.told(error, pipeline, own or type(pipeline), call.arguments, job.step)
        if told is error:
            raise
        raise told from error


def _on_every_rank(pipeline: Any, call: Call, job: Control) -> Any:
    """The call here, and where the model has ranks, the same call on each of them."""
    ranks = group.current()
    if ranks is None:
        return _call(pipeline, call, job)
    inversion = None if call.inversion is None else dict(call.inversion)
    same = replace(call, arguments=dict(call.arguments), inversion=inversion, notes=(), repaint=None)
    return ranks.run(lambda control: _call(pipeline, call, control), call_as_peer, type(pipeline), same, control=job)


def call_as_peer(peer: Peer, control: Control, cls: type, call: Call) -> None:
    """The call on a peer, whose share of it is in the other ranks' results: what comes out here is let go."""
    values = [part for value in call.arguments.values() for part in (value if isinstance(value, list) else [value])]
    with privacy.confidential(values):
        try:
            _call(peer.model.pipeline_as(cls), call, control)
        finally:
            peer.model.restore()


def _call(pipeline: Any, call: Call, job: Control) -> Any:
    import numpy
    import torch

    job.restart()
    invalid: list[str] = []  # what numpy says of NaN that diffusers makes pixels of
    _seed_everything(call.seed)
    given = call.arguments.get("generator")
    for generator in given if isinstance(given, list) else [given]:
        if isinstance(generator, torch.Generator):
            generator.manual_seed(generator.initial_seed())  # a batch's member may have drawn from it
    with (
        step_hook.watched(pipeline, job) as hooks,
        patches.during_calls(pipeline),
        _guided(pipeline, call.guider_scale),
    ):
        try:
            with numpy.errstate(invalid="call", call=lambda kind, _flag: invalid.append(kind)):
                inverted = _inverted(pipeline, call)
                job.restart()
                output = pipeline(**call.arguments, **inverted, **hooks)
        except BaseException:
            pipeline.maybe_free_model_hooks()  # the pipeline does so at its end, which it did not reach
            raise
    if invalid and _is_blank(output):
        raise _all_nan(call)
    return output


def _seed_everything(seed: int) -> None:
    """A few pipelines draw some of their noise without the generator. torch.manual_seed takes a tenth of a millisecond
    to tell accelerators that are not there."""
    import torch

    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def _guided(pipeline: Any, scale: float | None) -> Iterator[None]:
    """The pipeline with its guider's like at that scale, and its own again afterwards."""
    if scale is None or pipeline.guider.config.guidance_scale == scale:
        yield
        return
    own = pipeline.guider
    pipeline.guider = own.new(guidance_scale=scale)
    try:
        yield
    finally:
        pipeline.guider = own


def _all_nan(call: Call) -> BackendError:
    """What to do about a picture without a pixel: a schedule of a single step divides by zero in some schedulers."""
    if call.arguments.get("num_inference_steps") == 1:
        return InvalidRequest(
            "step=1: the picture is nothing but NaN, as schedulers that need two steps make it: send 2 or more"
        )
    return GenerationFailed(
        "the picture is black, since all of it is NaN: where the weights overflow in this dtype, load the model with "
        "options: torch_dtype:bf16 or torch_dtype:fp32"
    )


def _is_blank(output: Any) -> bool:
    """Whether pictures came out, each of them of one color."""
    found = getattr(output, "images", None)
    pictures = [picture for picture in found if is_picture(picture)] if isinstance(found, list) else []
    return bool(pictures) and all(picture.getcolors(1) for picture in pictures)


def _inverted(pipeline: Any, call: Call) -> dict[str, Any]:
    """Invert the picture where the pipeline edits one that way: it keeps the latents, or takes them as an argument."""
    if call.inversion is None:
        return {}
    found = pipeline.invert(**call.inversion)
    return {"image_latents": found.latents} if "image_latents" in parameters_of(pipeline) else {}
