"""The call of a pipeline under the step hook, and what its complaints mean: the request's fault, or the unexpected."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING, Any

from . import compat, complaints, progress, second_try, tasks
from .call_arguments import Call
from .errors import BackendError, GenerationFailed, InvalidRequest, is_out_of_memory
from .signatures import LAST_IMAGE, image_parameters, parameters_of

if TYPE_CHECKING:
    from .jobs import Job

_AMENDMENTS = 3  # of a call, each by what the refusal of the one before says
_LONG_PROMPT = 300  # characters: some 77 tokens
_QUOTED = re.compile(r"[`'\"](\w+)[`'\"]")
# What pipelines raise for arguments that they cannot use.
_REFUSALS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    NameError,
    NotImplementedError,
    ImportError,
)


def call_on_weights(pipeline: Any, own: type, call: Call, job: Job) -> Any:
    """Call a pipeline that may be a sibling of ``own``, the class that the weights were loaded as.

    Weights may fit a sibling's components and not its input (Wan's for text have 16 channels in, those for pictures 36):
    no config tells beforehand, so what fails before the first step is told as the request's.
    """
    try:
        return call_pipeline(pipeline, call, job)
    except (RuntimeError, ValueError, TypeError, AssertionError, ZeroDivisionError) as error:
        several = {
            name: len(value)
            for name in image_parameters(parameters_of(pipeline))
            if isinstance(value := call.arguments.get(name), list) and len(value) > 1
        }
        if is_out_of_memory(error) or (isinstance(error, BackendError) and not several):
            raise
        misfit = complaints.of_shapes(error, pipeline, call.arguments) or complaints.of_dtypes(error, pipeline)
        if job.step and misfit is not None:
            raise misfit from error
        if job.step:
            raise
        if several:
            name, count = next(iter(several.items()))
            if name in _QUOTED.findall(str(error)):  # it says itself how many it takes, or of what
                raise
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
        if misfit is not None:
            raise misfit from error
        raise


def call_pipeline(pipeline: Any, call: Call, job: Job) -> Any:
    """Call the pipeline under the step hook; again with other arguments where its refusal says what would do."""
    for _ in range(_AMENDMENTS):
        try:
            return _call(pipeline, call, job)
        except Exception as error:
            refused = _is_refusal(error)
            may_do = job.step == 0 and (refused or isinstance(error, RuntimeError))
            change = second_try.amended(error, pipeline, call) if may_do else None
            if change is None and refused:
                raise _refused(error, pipeline, call, job) from error
            if change is None:
                raise
            call.arguments.update(change.arguments)
            (call.inversion or {}).update(change.inversion)
            call.notes.extend([change.note] if change.note else [])
    try:
        return _call(pipeline, call, job)
    except _REFUSALS as error:
        raise _refused(error, pipeline, call, job) from error


def _is_refusal(error: Exception) -> bool:
    """Whether the error judges values: one of Python's, or huggingface_hub's of a processor's arguments (no ValueError)."""
    strict = any(kind.__name__ == "StrictDataclassError" for kind in type(error).__mro__)
    return isinstance(error, _REFUSALS) or strict


def _call(pipeline: Any, call: Call, job: Job) -> Any:
    import numpy
    import torch

    invalid: list[str] = []  # what numpy says of NaN that diffusers makes pixels of
    torch.manual_seed(call.seed)  # a few pipelines draw some of their noise without the generator
    given = call.arguments.get("generator")
    for generator in given if isinstance(given, list) else [given]:
        if isinstance(generator, torch.Generator):
            generator.manual_seed(generator.initial_seed())  # a call that failed may have drawn from it
    with progress.watched(pipeline, job) as hooks, compat.during_calls():
        try:
            with numpy.errstate(invalid="call", call=lambda kind, _flag: invalid.append(kind)):
                output = pipeline(**call.arguments, **_inverted(pipeline, call), **hooks)
        except BaseException:
            pipeline.maybe_free_model_hooks()  # the pipeline does so at its end, which it did not reach
            raise
    if invalid and _is_blank(output):
        raise _all_nan(call)
    return output


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
    pictures = [picture for picture in found if hasattr(picture, "getcolors")] if isinstance(found, list) else []
    return bool(pictures) and all(picture.getcolors(1) for picture in pictures)


def _inverted(pipeline: Any, call: Call) -> dict[str, Any]:
    """Invert the picture where the pipeline edits one that way: it keeps the latents, or takes them as an argument."""
    if call.inversion is None:
        return {}
    found = pipeline.invert(**call.inversion)
    return {"image_latents": found.latents} if "image_latents" in parameters_of(pipeline) else {}


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
    on_none = "NoneType" in str(error) or "preprocess" in functions  # an image processor names what it takes instead
    unfilled = tasks.unfilled_pictures(type(pipeline), call.arguments, optional_too=on_none)
    if "check_inputs" in functions or is_named:
        return InvalidRequest(f"the pipeline refuses the request: {error}" + (f" ({unfilled})" if unfilled else ""))
    if broken := complaints.of_code(error, pipeline):
        return broken
    if unfilled and job.step == 0:
        return InvalidRequest(f"{unfilled}; it failed with: {error}")
    if job.step:
        return error
    prompt = str(call.arguments.get("prompt") or "")
    if len(prompt) > _LONG_PROMPT and any("encode_prompt" in name for name in functions):
        return InvalidRequest(f"{type(pipeline).__name__} cannot take a prompt of {len(prompt)} characters ({error})")
    return complaints.of_arguments(error, pipeline, call.arguments) or complaints.of_scheduler(error, pipeline) or error


def _too_many_steps(pipeline: Any, call: Call) -> str:
    """Schedulers that walk through the training's timesteps have no more than those; DDIM fails with an IndexError."""
    scheduler, steps = getattr(pipeline, "scheduler", None), call.arguments.get("num_inference_steps")
    config = getattr(scheduler, "config", {})
    most = config.get("num_train_timesteps")
    if not isinstance(most, int) or not isinstance(steps, int) or steps + int(config.get("steps_offset") or 0) <= most:
        return ""
    return f"step={steps} is more than {type(scheduler).__name__} can take: it was trained on {most}"
