# SPDX-License-Identifier: MIT
"""Opt-in (``options: max_batch:``): queued requests of equal shape run as one call of the pipeline.

Each keeps its own prompt and seed and is answered by itself. A member that was cancelled is left out of the answer; if
the call fails, or memory is too short for all at once, every member runs alone, so that one bad member does not spoil
the others.

No signature tells whether a pipeline gives each its own picture: some pad short prompts to the longest without a mask,
or mix up what they batch by themselves. So a model's first call is compared with one member's picture made alone.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from localai_diffusers import privacy
from localai_diffusers.errors import Cancelled
from localai_diffusers.generation import generation, pipeline_call
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.generation.prompts import prompts, readings
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.media.payloads import Payload, payload_from_output
from localai_diffusers.pipeline import tasks
from localai_diffusers.pipeline.signatures import takes_list
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest
from localai_diffusers.work.engine import release_memory
from localai_diffusers.work.jobs import Batch, Job, JobGroup

log = logging.getLogger(__name__)

_LISTED = ("prompt", "negative_prompt", "generator")
# How far a batched picture may be from the one made alone, in levels of 255 on average: matrices of another shape are
# summed in another order, which in 16 bits adds up over the steps. Another prompt's picture is tens of levels away.
_NEAR, _NEAR_IN_HALF = 0.5, 5.0


class _Key(NamedTuple):
    """What must be equal in the requests of one call."""

    model: int
    identity: str
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    clip_skip: int
    has_negative_prompt: bool


def batch_for(model: LoadedModel | None, request: GenerationRequest, identity: str = "") -> Batch | None:
    """How ``request`` may run with its neighbors, None where it may not.

    It may where the model's options allow it, the request is text alone, and the loaded class makes a picture of that
    and takes lists of prompts and of generators. ``identity``: the model that the request names.
    """
    limit = 1 if model is None else model.spec.options.max_batch
    if model is None or limit < 2 or not _is_text_alone(request) or not _takes_lists(model, request):
        return None
    key = _Key(
        id(model),
        identity,
        request.width,
        request.height,
        request.steps,
        request.guidance,
        request.clip_skip,
        bool(request.negative_prompt),
    )
    return Batch(key, limit, request, _run, model.spec.options.batch_wait_ms / 1000)


def _is_text_alone(request: GenerationRequest) -> bool:
    media = (request.images, request.video, request.audio, request.last_image, request.mask)
    return request.rpc == "GenerateImage" and not any(media) and not request.params


def _takes_lists(model: LoadedModel, request: GenerationRequest) -> bool:
    profile, parameters = model.profile, model.profile.parameters
    # These embed one prompt at a time, or bring a picture of their own.
    by_hand = model.settings.compel or model.settings.sd_embed or model.spec.options.ip_adapter
    several = any(name in model.defaults.options for name in call_arguments.COUNTS)
    return (
        not (by_hand or several)
        and all(name in parameters and takes_list(parameters[name]) for name in ("prompt", "generator"))
        and tasks.makes(profile.cls, "image")
        and tasks.wanted_task(request, profile.cls) is None
    )


def _run(jobs: Sequence[Job[Any]], model: LoadedModel | None) -> bool:
    """The jobs as one call; each alone where that cannot be, or fails. Keeps each one's result or error."""
    wanted = [job for job in jobs if not job.cancelled]
    made = _together(wanted, model) if len(wanted) > 1 and model is not None and _is_for(model, wanted[0]) else []
    if model is None or not made:
        _each_alone(jobs, model)
        return False
    log.info("%d requests ran as one call", len(wanted))
    for job, (call, image) in zip(wanted, made, strict=True):
        job.run(functools.partial(_written, model, call, image))
    return True


def _written(model: LoadedModel, call: Call, image: Any, job: Job[Any]) -> generation.Outcome:
    payload = Payload("image", images=(image,))
    return generation.write(model, _request(job), model.profile, call, payload, job)


def _each_alone(jobs: Sequence[Job[Any]], model: LoadedModel | None) -> None:
    """One after the other, each told as soon as it is done; the engine tells the last."""
    for job in jobs:
        if model is not None:
            model.restore()
        job.step = 0
        job.run()
        if job.failed:
            release_memory()
        if job is not jobs[-1]:
            job.settle()


def _together(jobs: Sequence[Job[Any]], model: LoadedModel) -> list[tuple[Call, Any]]:
    """Each job's call and its picture, of one call for all; [] where that fails: then each job tells its own error."""
    try:
        pipeline = model.pipeline_as(type(model.pipeline))
        limits = Intake(model.settings)
        calls = [call_arguments.build(_request(job), model.profile, model.defaults, limits) for job in jobs]
        calls = [_plain(call, pipeline) for call in calls]
        same = _are_the_same(calls)
        if not model.faithful.get(same, True):
            return []
        texts = [text for job in jobs for text in generation.texts_of(_request(job))]
        with privacy.confidential(texts), readings.watched() as read:
            made = list(zip(calls, _images(model, pipeline, _merged(calls), JobGroup(jobs)), strict=True))
            made = [(replace(call, notes=call.notes + read.notes(call.arguments)), image) for call, image in made]
            return made if same in model.faithful or _is_faithful(model, made, JobGroup(jobs)) else []
    except Cancelled:
        return []
    except Exception as error:  # noqa: BLE001 - whatever it is, alone it is told to the one it is about
        log.warning("%d requests as one call failed (%s): each runs alone", len(jobs), type(error).__name__)
    release_memory()  # the error and its frames, which hold the call's tensors, are gone here
    return []


def _plain(call: Call, pipeline: Any) -> Call:
    """The call without the weights in its texts, where no library reads them."""
    arguments, notes = prompts.plain(call.arguments, pipeline)
    return replace(call, arguments=arguments, notes=call.notes + notes)


def _images(model: LoadedModel, pipeline: Any, call: Call, group: JobGroup) -> Sequence[Any]:
    with model.cached(pipeline):
        return payload_from_output(pipeline_call.call_pipeline(pipeline, call, group), sampling_rate=None).images


def _is_faithful(model: LoadedModel, made: list[tuple[Call, Any]], group: JobGroup) -> bool:
    """Whether the member with the shortest prompt, which padding would change, has the picture that it has alone.

    What is found is kept for the model, unless it says nothing: prompts of the same length have no padding.
    """
    import numpy as np

    lengths = [_token_counts(model.pipeline, call) for call, _picture in made]
    call, together = min(zip(lengths, made, strict=True), key=lambda pair: sum(pair[0]))[1]
    alone = _images(model, model.pipeline, call, group)[0]
    both = [np.asarray(picture.convert("RGB"), np.float32) for picture in (together, alone)]
    near = both[0].shape == both[1].shape and float(np.abs(both[0] - both[1]).mean()) < _nearness(model)
    calls = [pair[0] for pair in made]
    if not near or _are_the_same(calls) or len(set(lengths)) > 1:
        model.faithful[_are_the_same(calls)] = near
    if not near:
        log.warning("%s changes pictures in a batch: requests run alone", type(model.pipeline).__name__)
    return near


def _token_counts(pipeline: Any, call: Call) -> tuple[int, ...]:
    """Tokens of the prompts for each tokenizer: they tell what is padded, and words do not (Chinese has no spaces)."""
    parts = pipeline.components.items()
    tokenizers = [part for name, part in parts if name.startswith("tokenizer") and callable(part)]
    texts = [str(call.arguments.get(name) or "") for name in ("prompt", "negative_prompt")]
    return tuple(len(tokenizer(text)["input_ids"]) for tokenizer in tokenizers for text in texts)


def _nearness(model: LoadedModel) -> float:
    return _NEAR if str(model.where.dtype).endswith("float32") else _NEAR_IN_HALF


def _are_the_same(calls: list[Call]) -> bool:
    """Whether the prompts are, so that none is padded."""
    return len({(call.arguments.get("prompt"), call.arguments.get("negative_prompt")) for call in calls}) == 1


def _merged(calls: list[Call]) -> Call:
    """One call with the prompts and generators of all; the other arguments are the same in each."""
    listed = {name: [call.arguments[name] for call in calls] for name in _LISTED if name in calls[0].arguments}
    return replace(calls[0], arguments={**calls[0].arguments, **listed}, notes=())


def _request(job: Job[Any]) -> GenerationRequest:
    assert job.batch is not None  # only such jobs come here
    return job.batch.item


def _is_for(model: LoadedModel, job: Job[Any]) -> bool:
    """Whether ``model`` is the one that was loaded when the job came, and that its request names; alone, it is told."""
    assert job.batch is not None and isinstance(job.batch.key, _Key)
    return job.batch.key.model == id(model) and job.batch.key.identity in ("", model.spec.identity)
