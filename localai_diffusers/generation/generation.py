# SPDX-License-Identifier: MIT
"""One generation on the loaded model: the right pipeline, its arguments, the call, the file."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localai_diffusers import patches, privacy
from localai_diffusers.errors import InvalidRequest, NothingMade, NotSupported
from localai_diffusers.generation import pipeline_call, refusals
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.generation.metadata import parameters_text
from localai_diffusers.generation.prompts import prompts, readings, tags
from localai_diffusers.loading.adapters import ip_adapter
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.pipeline import tasks
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest

if TYPE_CHECKING:
    from localai_diffusers.media.payloads import Payload
    from localai_diffusers.work.jobs import Job

log = logging.getLogger(__name__)

_FALLBACK_FPS = 8.0  # diffusers' export_to_video assumes 10, its GIF export 10; the video models' examples mostly 8


@dataclass(frozen=True)
class Outcome:
    """What a generation made ("PNG 512x512"), the seed of its noise, and what was decided on the way."""

    description: str
    seed: int
    notes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    steps: int = 0

    def facts(self) -> dict[str, Any]:
        """For Result.metadata: what is known, by name."""
        size = f"{self.size[0]}x{self.size[1]}" if self.size else None
        known = {"output": self.description, "seed": self.seed, "size": size, "steps": self.steps or None}
        return {name: value for name, value in (*known.items(), ("notes", list(self.notes))) if value is not None}

    def line(self, seconds: float) -> str:
        """For the log: what was made, how fast, with which seed."""
        pace = f", {self.steps} steps at {self.steps / seconds:.2f} it/s" if self.steps else ""
        return f"{self.description} in {seconds:.2f} s{pace}, seed {self.seed}"

    def message(self) -> str:
        """For Result.message: the seed, then the notes."""
        return "; ".join((f"{self.description}, seed {self.seed}", *self.notes))


def generate(model: LoadedModel, request: GenerationRequest, job: Job[Any], intake: Intake | None = None) -> Outcome:
    """Run ``request`` on the model and write its ``dst``. ``intake`` reads the media that its params name.

    Raises InvalidRequest for what the pipeline refuses, NotSupported for an output that is no file, Cancelled when
    ``job`` is cancelled, OutputError for a ``dst`` that cannot be written.
    """
    with privacy.confidential(texts_of(request)):
        return _generated(model, request, job, intake or Intake(model.settings))


def texts_of(request: GenerationRequest) -> list[Any]:
    """What a person wrote in a request."""
    return [request.prompt, request.negative_prompt, *request.params.values(), *request.fields.values()]


def _generated(model: LoadedModel, request: GenerationRequest, job: Job[Any], intake: Intake) -> Outcome:
    request = tasks.with_clip(request, type(model.pipeline), intake)
    request, extra = ip_adapter.split(model.spec, model.profile, request)
    profile = model.profile_as(tasks.class_for(request, model.pipeline, model.defaults.options))
    pipeline = model.pipeline_as(type(profile.pipeline))
    call = call_arguments.build(request, profile, model.defaults, intake)
    arguments = {**call.arguments, **{name: value for name, value in extra.items() if name in profile.parameters}}
    with readings.watched() as read:
        with patches.during_calls(pipeline):  # sd_embed asks for what they add too
            embedded, said = prompts.embedded(arguments, pipeline, model.settings)
        with model.cached(pipeline) as uncached:
            made = _made(model, profile, replace(call, arguments=embedded), job)
    notes = call.notes + said + read.notes(arguments) + tuple(uncached)
    return write(model, request, profile, replace(call, arguments=embedded, notes=notes), made, job)


def _made(model: LoadedModel, profile: PipelineProfile, call: Call, job: Job[Any]) -> Payload:
    """What the call makes, or the source where the request changes nothing of it."""
    from localai_diffusers.media.payloads import Payload

    if call.unchanged is not None:
        return Payload("image", images=(call.unchanged,))
    output = pipeline_call.call_pipeline(profile.pipeline, call, job, type(model.pipeline))
    job.check()
    payload = _payload(profile, output, call)
    if call.repaint is None:
        return payload
    return call.repaint.finished(payload)


def _payload(profile: PipelineProfile, output: Any, call: Call) -> Payload:
    """What came out. Raises NotSupported for what no file holds, naming the pipeline that uses it; InvalidRequest where
    the sizes that were asked for left nothing."""
    from localai_diffusers.media import payloads

    hint = next((kind for kind in ("video", "image") if tasks.makes(profile.cls, kind)), None)
    try:
        payload = payloads.payload_from_output(output, sampling_rate=profile.sampling_rate, hint=hint)
    except NothingMade as error:
        if asked := refusals.described(call.arguments):
            raise InvalidRequest(f"{profile.name} makes nothing of {asked} ({error})") from error
        raise
    _check_one(payload, profile, call)
    if payload.kind in ("embeddings", "text"):
        raise NotSupported(f"{profile.name} makes {payload.kind}, not a file{tasks.combined_hint(profile.name)}")
    return payload


def _check_one(payload: Payload, profile: PipelineProfile, call: Call) -> None:
    """Raise InvalidRequest where the pipeline took several pictures for as many requests, of which one has a file."""
    for name in profile.inputs.images:
        given = call.arguments.get(name)
        if isinstance(given, list) and 1 < len(given) == len(payload.images or ()):
            raise InvalidRequest(
                f"the request brings {len(given)} pictures for {name}, of which {profile.name} takes 1: "
                "it makes a picture of each"
            )


def write(
    model: LoadedModel,
    request: GenerationRequest,
    profile: PipelineProfile,
    call: Call,
    payload: Payload,
    job: Job[Any],
) -> Outcome:
    """Write ``payload`` to the request's ``dst``, with the facts of its making where the format holds text."""
    from localai_diffusers.media import payloads

    new = [note for note in call.notes if note not in model.told]
    model.told |= tags.ONCE & set(new)
    size = payload.images[0].size if payload.images else None
    notes = [*new, *_fewer(call, len(payload.answers())), *_of_another_size(call, size)]
    metadata = None
    if model.settings.metadata != "off":
        metadata = {"parameters": parameters_text(request, model, profile, call, size, notes)}
    how: dict[str, Any] = {
        "fps": _frame_rate(model, request, profile),
        "metadata": metadata,
        "check": job.check,
    }
    description = payloads.write_payload(payload, request.dst, **how)
    notes.append(payloads.write_others(payload, request.dst, **how))
    return Outcome(description, call.seed, tuple(filter(None, notes)), size, job.step)


def _of_another_size(call: Call, size: tuple[int, int] | None) -> list[str]:
    """A note where the picture is not of the size that the call named."""
    width, height = (call.arguments.get(name) for name in ("width", "height"))
    if call.repaint is not None or size is None or not (isinstance(width, int) and isinstance(height, int)):
        return []
    is_own = size != (width, height)
    return [f"{width}x{height} was asked for: the pipeline chose a size of its own"] if is_own else []


def _fewer(call: Call, made: int) -> list[str]:
    """A note where the pipeline made fewer than it was told to: some set the count to 1 themselves (AnimateDiff)."""
    asked = {name: call.arguments.get(name) for name in call_arguments.COUNTS}
    few = {name: count for name, count in asked.items() if isinstance(count, int) and count > made}
    return [f"{name}={count} was asked for: the pipeline makes {made}" for name, count in few.items()]


def _frame_rate(model: LoadedModel, request: GenerationRequest, profile: PipelineProfile) -> float:
    """Frames a second: the request's, its params', the model's options'; for a video made through GenerateImage the FPS
    variable; the model's own, or what it published; of a clip that a model without a rate of its own works on, the
    clip's."""
    if (asked := call_arguments.frame_rate_asked(request, model.defaults)) is not None:
        return asked
    if request.rpc == "GenerateImage":
        return float(model.settings.fps)
    own = profile.frame_rate
    return own if own and math.isfinite(own) else request.video_rate or _FALLBACK_FPS
