# SPDX-License-Identifier: MIT
"""Opt-in (``options: max_batch:``): queued requests of equal shape run as one call of the pipeline.

Each keeps its own prompt, seed, source and mask, and is answered by itself. A member that was cancelled is left out of
the answer; if the call fails, or memory is too short for all at once, every member runs alone, so that one bad member
does not spoil the others.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from localai_diffusers import privacy
from localai_diffusers.errors import BackendError, Cancelled
from localai_diffusers.generation import generation, merging, pipeline_call
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.generation.prompts import prompts, readings
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.media.payloads import Payload, payload_from_output
from localai_diffusers.pipeline import tasks
from localai_diffusers.pipeline.inputs import inputs_of
from localai_diffusers.pipeline.roles import Role, role_of
from localai_diffusers.pipeline.signatures import parameters_of, takes_list
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest
from localai_diffusers.work.engine import release_memory
from localai_diffusers.work.jobs import Batch, Job, JobGroup

log = logging.getLogger(__name__)


class _Key(NamedTuple):
    """What must be equal in the requests of one call. ``cls``: the class that they run as. ``sizes``: of the source
    and the mask."""

    model: int
    identity: str
    cls: type
    sizes: tuple[tuple[int, int], ...]
    is_masked: bool
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    clip_skip: int
    has_negative_prompt: bool


def batch_for(model: LoadedModel | None, request: GenerationRequest, identity: str = "") -> Batch | None:
    """How ``request`` may run with its neighbors, None where it may not.

    It may where the model's options allow it, the request is a text, with or without one picture to repaint and its
    mask, and the class that runs makes a picture of that and takes a list of each. ``identity``: the model that the
    request names.
    """
    limit = 1 if model is None else model.spec.options.max_batch
    if model is None or limit < 2 or not _is_plain(request) or _is_made_by_hand(model):
        return None
    cls = _class_for(model, request)
    if cls is None or not _takes_lists(cls, request):
        return None
    key = _Key(
        id(model),
        identity,
        cls,
        tuple(picture.size for picture in (*request.images, request.mask) if picture is not None),
        request.mask is not None,
        request.width,
        request.height,
        request.steps,
        request.guidance,
        request.clip_skip,
        bool(request.negative_prompt),
    )
    return Batch(key, limit, request, _run, model.spec.options.batch_wait_ms / 1000)


def _is_plain(request: GenerationRequest) -> bool:
    """Whether it is a text, or that with one picture and perhaps its mask."""
    others = (request.video, request.audio, request.last_image, request.animation, request.params)
    return request.rpc == "GenerateImage" and len(request.images) <= 1 and not any(others)


def _is_made_by_hand(model: LoadedModel) -> bool:
    """Whether prompts are embedded one at a time, a picture is brought for an adapter, or each makes several."""
    several = any(name in model.defaults.options for name in call_arguments.COUNTS)
    return bool(model.settings.compel or model.settings.sd_embed or model.spec.options.ip_adapter or several)


def _class_for(model: LoadedModel, request: GenerationRequest) -> type | None:
    """The class that the request runs as; None where there is none, which it is told when its turn comes."""
    try:
        return tasks.class_for(request, model.pipeline, model.defaults.options)
    except BackendError:
        return None


def _takes_lists(cls: type, request: GenerationRequest) -> bool:
    """Whether the class makes pictures, and takes a list of all that each request has of its own. Of sources alone:
    several references are for one picture."""
    parameters, takes, main = parameters_of(cls), inputs_of(cls), inputs_of(cls).images[:1]
    names = ["prompt", "generator"]
    if request.images:
        if not main or role_of(main[0], cls) is not Role.SOURCE or (request.mask is not None and not takes.masks):
            return False
        names += [*main, *(takes.masks[:1] if request.mask is not None else ())]
    return tasks.makes(cls, "image") and all(name in parameters and takes_list(parameters[name]) for name in names)


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
    payload = payload if call.repaint is None else call.repaint.finished(payload)
    return generation.write(model, _request(job), model.profile_as(_key(job).cls), call, payload, job)


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
        texts = [text for job in jobs for text in generation.texts_of(_request(job))]
        with privacy.confidential(texts), readings.watched() as read:
            made = _made(model, _calls(jobs, model), _key(jobs[0]).cls, JobGroup(jobs))
            return [(replace(call, notes=call.notes + read.notes(call.arguments)), image) for call, image in made]
    except Cancelled:
        return []
    except Exception as error:  # noqa: BLE001 - whatever it is, alone it is told to the one it is about
        log.warning("%d requests as one call failed (%s): each runs alone", len(jobs), type(error).__name__)
    release_memory()  # the error and its frames, which hold the call's tensors, are gone here
    return []


def _calls(jobs: Sequence[Job[Any]], model: LoadedModel) -> list[Call]:
    """Each job's own call."""
    profile, limits = model.profile_as(_key(jobs[0]).cls), Intake(model.settings)
    calls = [call_arguments.build(_request(job), profile, model.defaults, limits) for job in jobs]
    return [_plain(call, profile.pipeline) for call in calls]


def _made(model: LoadedModel, calls: list[Call], cls: type, group: JobGroup) -> list[tuple[Call, Any]]:
    """The calls with their pictures; [] where they cannot be one call, or a picture is not what it is alone."""
    pipeline = model.pipeline_as(cls)
    kind = merging.likeness(calls, pipeline)
    whole = merging.merged(calls, cls) if model.faithful.get(kind, True) else None
    if whole is None:
        return []
    images, uncached = _images(model, pipeline, whole, group)
    told = [replace(call, notes=call.notes + tuple(uncached)) for call in calls]
    made = list(zip(told, images, strict=True))
    if kind in model.faithful:
        return made

    def alone(call: Call) -> Any:
        return _images(model, pipeline, call, group)[0][0]

    return made if merging.is_faithful(model, pipeline, kind, made, alone) else []


def _plain(call: Call, pipeline: Any) -> Call:
    """The call without the weights in its texts, where no library reads them."""
    arguments, notes = prompts.plain(call.arguments, pipeline)
    return replace(call, arguments=arguments, notes=call.notes + notes)


def _images(model: LoadedModel, pipeline: Any, call: Call, group: JobGroup) -> tuple[Sequence[Any], list[str]]:
    """The pictures, and what is to be told about the denoiser's cache."""
    with model.cached(pipeline) as uncached:
        output = pipeline_call.call_pipeline(pipeline, call, group)
    return payload_from_output(output, sampling_rate=None).images, uncached


def _request(job: Job[Any]) -> GenerationRequest:
    assert job.batch is not None  # only such jobs come here
    return job.batch.item


def _key(job: Job[Any]) -> _Key:
    assert job.batch is not None and isinstance(job.batch.key, _Key)
    return job.batch.key


def _is_for(model: LoadedModel, job: Job[Any]) -> bool:
    """Whether ``model`` is the one that was loaded when the job came, and that its request names; alone, it is told."""
    key = _key(job)
    return key.model == id(model) and key.identity in ("", model.spec.identity)
