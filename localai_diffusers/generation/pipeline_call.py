"""The call of a pipeline under the step hook, and again where its refusal says what would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localai_diffusers.errors import BackendError, GenerationFailed, InvalidRequest
from localai_diffusers.generation import complaints, second_try, step_hook
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.patches import compat
from localai_diffusers.pipeline.signatures import parameters_of

if TYPE_CHECKING:
    from localai_diffusers.work.jobs import Job

_AMENDMENTS = 3  # of a call, each by what the refusal of the one before says
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
    """Call a pipeline that may be a sibling of ``own``, the class that the weights were loaded as."""
    try:
        return call_pipeline(pipeline, call, job)
    except (RuntimeError, ValueError, TypeError, AssertionError, ZeroDivisionError) as error:
        told = complaints.of_weights(error, pipeline, own, call, job.step)
        if told is None:
            raise
        raise told from error


def call_pipeline(pipeline: Any, call: Call, job: Job) -> Any:
    """Call the pipeline under the step hook; again with other arguments where its refusal says what would do."""
    left = _AMENDMENTS
    while True:
        try:
            return _call(pipeline, call, job)
        except Exception as error:
            refused = _is_refusal(error)
            may_do = left and job.step == 0 and (refused or isinstance(error, RuntimeError))
            change = second_try.amended(error, pipeline, call) if may_do else None
            if change is None and refused:
                raise complaints.of_refusal(error, pipeline, call, job.step) from error
            if change is None:
                raise
        change.apply(call)
        left -= 1


def _is_refusal(error: Exception) -> bool:
    """Whether the error judges values: one of Python's, or huggingface_hub's of a processor's arguments (no
    ValueError)."""
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
    with step_hook.watched(pipeline, job) as hooks, compat.during_calls():
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
