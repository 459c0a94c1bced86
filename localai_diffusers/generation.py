"""One generation on the loaded model: the right pipeline, its arguments, the call, the file."""
from __future__ import annotations

import logging
import math
import re
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import call_arguments, compat, ip_adapter, progress, prompts, tasks
from .call_arguments import Call
from .errors import BackendError, InvalidRequest, NotSupported, is_out_of_memory
from .loaded_model import LoadedModel
from .metadata import parameters_text
from .requests import GenerationRequest
from .signatures import LAST_IMAGE, image_parameters, parameters_of

if TYPE_CHECKING:
    from .jobs import Job
    from .media.payloads import Payload

log = logging.getLogger(__name__)

_QUOTED = re.compile(r"[`'\"](\w+)[`'\"]")
_DIVISIBLE = re.compile(r"(?:divisible by|multiples? of)\D{0,3}(\d+)")
# What pipelines raise for arguments that they cannot use.
_REFUSALS = (ValueError, TypeError, AttributeError, IndexError)
_FALLBACK_FPS = 8.0  # diffusers' export_to_video assumes 10, its GIF export 10; the video models' examples mostly 8


@dataclass(frozen=True)
class Outcome:
    """What a generation made ("PNG 512x512"), the seed of its noise, and what was decided on the way."""

    description: str
    seed: int
    notes: tuple[str, ...] = ()

    def message(self) -> str:
        """For Result.message: the seed, then the notes."""
        return "; ".join((f"{self.description}, seed {self.seed}", *self.notes))


def generate(model: LoadedModel, request: GenerationRequest, job: Job) -> Outcome:
    """Run ``request`` on the model and write its ``dst``.

    Raises InvalidRequest for what the pipeline refuses, NotSupported for an output that is no file, Cancelled when
    ``job`` is cancelled, OutputError for a ``dst`` that cannot be written.
    """
    began = time.monotonic()
    request, extra = ip_adapter.split(model, request)
    pipeline = model.pipeline_as(tasks.class_for(request, model.pipeline))
    call = call_arguments.build(request, pipeline, model.defaults)
    ip_adapter.add(call.arguments, extra, pipeline)
    call.notes.extend(prompts.embed(call.arguments, pipeline, model.settings))
    for note in call.notes:
        log.info("%s: %s", request.rpc, note)
    output = _output(model, pipeline, call, job)
    job.check()
    outcome = write(model, request, pipeline, call, _payload(pipeline, output), job)
    log.info("%s took %.2f s", request.rpc, time.monotonic() - began)
    return outcome


def _output(model: LoadedModel, pipeline: Any, call: Call, job: Job) -> Any:
    """The pipeline's output. Weights may fit a sibling's components and not its input (Wan's for text have 16 channels in,
    those for pictures 36): no config tells beforehand, so what fails before the first step is told as the request's."""
    try:
        return call_pipeline(pipeline, call, job)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        several = {name: len(value) for name in image_parameters(parameters_of(pipeline))
                   if isinstance(value := call.arguments.get(name), list) and len(value) > 1}
        if job.step or is_out_of_memory(error) or (isinstance(error, BackendError) and not several):
            raise
        own = type(model.pipeline)
        if several:
            name, count = next(iter(several.items()))
            raise InvalidRequest(f"the request brings {count} pictures for {name}, of which {type(pipeline).__name__} takes 1 "
                                 f"({error})") from error
        if type(pipeline) is not own:
            raise InvalidRequest(f"these weights run as {own.__name__} ({tasks.described_inputs(own)}) and not as "
                                 f"{type(pipeline).__name__}, which the request needs: {error}") from error
        if LAST_IMAGE in call.arguments:
            raise InvalidRequest(f"end_image: these weights take no last picture ({error})") from error
        raise


def call_pipeline(pipeline: Any, call: Call, job: Job) -> Any:
    """Call the pipeline under the step hook; once more with a rounded size if it says what that must be divisible by."""
    try:
        return _call(pipeline, call, job)
    except _REFUSALS as error:
        rounded = _rounded_size(call.arguments, str(error))
        if rounded is None:
            raise _refused(error, pipeline, call, job) from error
        call.notes.append(f"size is rounded to {rounded['width']}x{rounded['height']}")
        call.arguments.update(rounded)  # the pipeline refused before it drew any noise
    try:
        return _call(pipeline, call, job)
    except _REFUSALS as error:
        raise _refused(error, pipeline, call, job) from error


def _call(pipeline: Any, call: Call, job: Job) -> Any:
    import torch

    torch.manual_seed(call.seed)  # a few pipelines draw some of their noise without the generator
    with progress.watched(pipeline, job) as hooks, compat.clip_text_model():
        try:
            if call.inversion is not None:
                pipeline.invert(**call.inversion)
            return pipeline(**call.arguments, **hooks)
        except BaseException:
            pipeline.maybe_free_model_hooks()  # the pipeline does so at its end, which it did not reach
            raise


def _rounded_size(arguments: dict[str, Any], text: str) -> dict[str, int] | None:
    """Width and height to the nearest multiple that the pipeline's refusal names, None if it is about something else."""
    found = _DIVISIBLE.search(text)
    sides = {name: arguments.get(name) for name in ("width", "height")}
    if not found or not all(isinstance(side, int) for side in sides.values()):
        return None
    multiple = int(found[1])
    rounded = {name: max(multiple, round(side / multiple) * multiple) for name, side in sides.items()}
    return None if rounded == sides else rounded


def _refused(error: Exception, pipeline: Any, call: Call, job: Job) -> Exception:
    """The pipeline's complaint as InvalidRequest where it is about the request, else as it is: the unexpected.

    ``check_inputs`` judges arguments, and so does what names one of them before the first step. A pipeline that edits
    pictures but has None as the default of its picture fails on its way to the first step.
    """
    functions = [frame.f_code.co_name for frame, _line in traceback.walk_tb(error.__traceback__)]
    if too_many := _too_many_steps(pipeline, call):
        return InvalidRequest(f"{too_many} ({error})")
    parameters = parameters_of(pipeline)
    is_named = isinstance(error, ValueError) and job.step == 0 and parameters.keys() & set(_QUOTED.findall(str(error)))
    unfilled = tasks.unfilled_pictures(type(pipeline), call.arguments, optional_too="NoneType" in str(error))
    if "check_inputs" in functions or is_named:
        return InvalidRequest(f"the pipeline refuses the request: {error}" + (f" ({unfilled})" if unfilled else ""))
    if unfilled and job.step == 0:
        return InvalidRequest(f"{unfilled}; it failed with: {error}")
    return error


def _too_many_steps(pipeline: Any, call: Call) -> str:
    """Schedulers that walk through the training's timesteps have no more than those; DDIM fails with an IndexError."""
    scheduler, steps = getattr(pipeline, "scheduler", None), call.arguments.get("num_inference_steps")
    config = getattr(scheduler, "config", {})
    most = config.get("num_train_timesteps")
    if not isinstance(most, int) or not isinstance(steps, int) or steps + int(config.get("steps_offset") or 0) <= most:
        return ""
    return f"step={steps} is more than {type(scheduler).__name__} can take: it was trained on {most}"


def _payload(pipeline: Any, output: Any) -> Payload:
    """What came out. Raises NotSupported for what no file holds, naming the pipeline that uses it."""
    from .media import payloads

    hint = "video" if tasks.makes_video(type(pipeline)) else None
    payload = payloads.payload_from_output(output, sampling_rate=payloads.sampling_rate_of(pipeline), hint=hint)
    if payload.kind in ("embeddings", "text"):
        name = type(pipeline).__name__
        raise NotSupported(f"{name} makes {payload.kind}, not a file{tasks.combined_hint(name)}")
    return payload


def write(model: LoadedModel, request: GenerationRequest, pipeline: Any, call: Call, payload: Payload, job: Job) -> Outcome:
    """Write ``payload`` to the request's ``dst``, with the facts of its making where the format holds text."""
    from .media import payloads

    metadata = None
    if model.settings.metadata != "off" and payload.images:
        metadata = {"parameters": parameters_text(request, model, pipeline, call, payload.images[0].size)}
    description = payloads.write_payload(payload, request.dst, fps=_frame_rate(model, request, pipeline), metadata=metadata,
                                         check=job.check)
    asked = tuple(call.arguments.get(name) for name in ("width", "height"))
    if payload.images and all(isinstance(side, int) for side in asked) and payload.images[0].size != asked:
        call.notes.append(f"{asked[0]}x{asked[1]} was asked for: the pipeline chose a size of its own")
    log.info("%s: %s, seed %d", request.rpc, description, call.seed)
    return Outcome(description, call.seed, tuple(call.notes))


def _frame_rate(model: LoadedModel, request: GenerationRequest, pipeline: Any) -> float:
    """Frames a second: the request's, the model's own, for a video made through GenerateImage the FPS variable."""
    from .media import payloads

    own = payloads.frame_rate_of(pipeline)
    if request.fps:
        return request.fps
    if request.rpc == "GenerateImage":
        return float(model.settings.fps)
    return own if own and math.isfinite(own) else _FALLBACK_FPS
