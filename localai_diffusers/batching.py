"""Opt-in (``options: max_batch:``): queued requests of equal shape run as one call of the pipeline.

Each keeps its own prompt and seed and is answered by itself. A member that was cancelled is left out of the answer; if
the call fails, every member runs alone, so that one bad member does not spoil the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import call_arguments, generation, pipeline_call
from .call_arguments import Call
from .jobs import Batch, Job, JobGroup
from .loaded_model import LoadedModel
from .media.payloads import Payload, payload_from_output
from .requests import GenerationRequest
from .signatures import parameters_of, takes_list

log = logging.getLogger(__name__)

_LISTED = ("prompt", "negative_prompt", "generator")


def batch_for(model: LoadedModel | None, request: GenerationRequest) -> Batch | None:
    """How ``request`` may run with its neighbors, None where it may not.

    It may where the model's options allow it, the request is text alone, and the signature takes lists of prompts and
    of generators.
    """
    limit = 1 if model is None else int(model.spec.placement_options.get("max_batch") or 1)
    if model is None or limit < 2 or not _is_text_alone(request) or not _takes_lists(model):
        return None
    shape = (
        request.width,
        request.height,
        request.steps,
        request.guidance,
        request.clip_skip,
        bool(request.negative_prompt),
    )
    return Batch((id(model), *shape), limit, request, _run)


def _is_text_alone(request: GenerationRequest) -> bool:
    media = (request.images, request.video, request.audio, request.last_image, request.mask)
    return request.rpc == "GenerateImage" and not any(media) and not request.params


def _takes_lists(model: LoadedModel) -> bool:
    parameters = parameters_of(model.pipeline)
    by_hand = model.settings.compel or model.settings.sd_embed  # those embed one prompt at a time
    return not by_hand and all(name in parameters and takes_list(parameters[name]) for name in ("prompt", "generator"))


def _run(jobs: Sequence[Job], model: LoadedModel | None) -> None:
    """The jobs as one call; each alone where that cannot be, or fails."""
    wanted = [job for job in jobs if not job.cancelled]
    images: Sequence[Any] = ()
    if len(wanted) > 1 and model is not None and _key(wanted[0])[0] == id(model):
        calls = [call_arguments.build(_request(job), model.pipeline, model.defaults) for job in wanted]
        images = _images(model, calls, JobGroup(wanted))
    if len(images) != len(wanted) or model is None:
        for job in jobs:
            job.run()
        return
    log.info("%d requests ran as one call", len(wanted))
    for job, call, image in zip(wanted, calls, images, strict=True):
        job.run(
            lambda job, call=call, image=image: generation.write(
                model, _request(job), model.pipeline, call, Payload("image", images=(image,)), job
            )
        )


def _images(model: LoadedModel, calls: list[Call], group: JobGroup) -> Sequence[Any]:
    """The pictures of all the calls made as one, () where that fails: then each job tells its own error."""
    try:
        output = pipeline_call.call_pipeline(model.pipeline, _merged(calls), group)
        return payload_from_output(output, sampling_rate=None).images
    except Exception as error:
        log.warning("%d requests as one call failed (%s): each runs alone", len(calls), type(error).__name__)
        return ()


def _merged(calls: list[Call]) -> Call:
    """One call with the prompts and generators of all; the other arguments are the same in each."""
    listed = {name: [call.arguments[name] for call in calls] for name in _LISTED if name in calls[0].arguments}
    return replace(calls[0], arguments={**calls[0].arguments, **listed}, notes=[])


def _request(job: Job) -> GenerationRequest:
    assert job.batch is not None  # only such jobs come here
    return job.batch.item


def _key(job: Job) -> tuple[Any, ...]:
    assert job.batch is not None
    return job.batch.key  # type: ignore[return-value]
