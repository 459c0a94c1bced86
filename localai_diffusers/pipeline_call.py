"""The call of a pipeline under the step hook, and what its complaints mean: the request's fault, or the unexpected."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Any

from . import compat, progress, tasks
from .call_arguments import Call
from .errors import BackendError, InvalidRequest, is_out_of_memory
from .signatures import LAST_IMAGE, image_parameters, parameters_of

if TYPE_CHECKING:
    from .jobs import Job

_QUOTED = re.compile(r"[`'\"](\w+)[`'\"]")
_DIVISIBLE = re.compile(r"(?:divisible by|multiples? of)\D{0,3}(\d+)")
# What pipelines raise for arguments that they cannot use.
_REFUSALS = (ValueError, TypeError, AttributeError, IndexError)


def call_on_weights(pipeline: Any, own: type, call: Call, job: Job) -> Any:
    """Call a pipeline that may be a sibling of ``own``, the class that the weights were loaded as.

    Weights may fit a sibling's components and not its input (Wan's for text have 16 channels in, those for pictures 36):
    no config tells beforehand, so what fails before the first step is told as the request's.
    """
    try:
        return call_pipeline(pipeline, call, job)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        several = {
            name: len(value)
            for name in image_parameters(parameters_of(pipeline))
            if isinstance(value := call.arguments.get(name), list) and len(value) > 1
        }
        if job.step or is_out_of_memory(error) or (isinstance(error, BackendError) and not several):
            raise
        if several:
            name, count = next(iter(several.items()))
            raise InvalidRequest(
                f"the request brings {count} pictures for {name}, of which {type(pipeline).__name__} takes 1 ({error})"
            ) from error
        if type(pipeline) is not own:
            raise InvalidRequest(
                f"these weights run as {own.__name__} ({tasks.described_inputs(own)}) and not as "
                f"{type(pipeline).__name__}, which the request needs: {error}"
            ) from error
        if LAST_IMAGE in call.arguments:
            raise InvalidRequest(f"end_image: these weights take no last picture ({error})") from error
        raise


def call_pipeline(pipeline: Any, call: Call, job: Job) -> Any:
    """Call the pipeline under the step hook; once more with a rounded size if it says what that must be divisible by, or
    with an empty negative prompt if it cannot do without one."""
    try:
        return _call(pipeline, call, job)
    except _REFUSALS as error:
        rounded = _rounded_size(call.arguments, str(error))
        if rounded is not None:
            call.notes.append(f"size is rounded to {rounded['width']}x{rounded['height']}")
        elif not _wants_negative_prompt(error, pipeline, call):
            raise _refused(error, pipeline, call, job) from error
        # the pipeline refused before it drew any noise
        call.arguments.update(rounded or {"negative_prompt": ""})
    try:
        return _call(pipeline, call, job)
    except _REFUSALS as error:
        raise _refused(error, pipeline, call, job) from error


def _call(pipeline: Any, call: Call, job: Job) -> Any:
    import torch

    torch.manual_seed(call.seed)  # a few pipelines draw some of their noise without the generator
    with progress.watched(pipeline, job) as hooks, compat.clip_text_model():
        try:
            return pipeline(**call.arguments, **_inverted(pipeline, call), **hooks)
        except BaseException:
            pipeline.maybe_free_model_hooks()  # the pipeline does so at its end, which it did not reach
            raise


def _inverted(pipeline: Any, call: Call) -> dict[str, Any]:
    """Invert the picture where the pipeline edits one that way: it keeps the latents, or takes them as an argument."""
    if call.inversion is None:
        return {}
    found = pipeline.invert(**call.inversion)
    return {"image_latents": found.latents} if "image_latents" in parameters_of(pipeline) else {}


def _wants_negative_prompt(error: Exception, pipeline: Any, call: Call) -> bool:
    """Whether the texts could not be encoded for lack of a negative prompt (EasyAnimate iterates over its default, None)."""
    functions = [frame.f_code.co_name for frame, _line in traceback.walk_tb(error.__traceback__)]
    takes_one = "negative_prompt" in parameters_of(pipeline) and call.arguments.get("negative_prompt") is None
    return isinstance(error, TypeError) and "NoneType" in str(error) and "encode_prompt" in functions and takes_one


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
