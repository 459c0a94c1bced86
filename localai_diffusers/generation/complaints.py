"""What an error inside a pipeline says about its call, read from the very expression that failed.

``check_inputs`` says what it refuses. Many pipelines check nothing, or elsewhere, and then fail on their way to the
first step: on a None that they take for a number, an index beyond a list, code that is not there.
"""

from __future__ import annotations

import ast
import linecache
import re
import traceback
from collections.abc import Mapping
from typing import Any

from localai_diffusers.errors import BackendError, InvalidRequest, NotSupported, is_out_of_memory
from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.generation.failure_site import LIBRARY, FailureSite, site_of
from localai_diffusers.pipeline import tasks
from localai_diffusers.pipeline.signatures import (
    LAST_IMAGE,
    TENSOR_WORDS,
    Parameters,
    image_parameters,
    parameters_of,
    takes_media,
    takes_only_tensor,
)
from localai_diffusers.pipeline.sizes import FRAME_COUNTS

_LONG_PROMPT = 300  # characters: some 77 tokens
_QUOTED = re.compile(r"[`'\"](\w+)[`'\"]")
_PLAIN = (bool, int, float, str, list, tuple, dict)
# What Python says of a call that a function's signature does not fit, of a name or an attribute that is not there.
_NO_SUCH_ARGUMENT = re.compile(r"got an unexpected keyword argument|takes \d+ positional argument|required positional")
_NO_SUCH_THING = (NameError, NotImplementedError, ImportError)
# What torch says of tensors that do not fit one another.
_SHAPES = re.compile(
    r"size of tensor|[Ss]izes of tensors|shape '.*' is invalid|shapes cannot be multiplied|negative dimension|"
    r"[Kk]ernel size|[Pp]adding size|[Ee]xpected .*(?:size|channels|dimension)|size mismatch|must match|out of bounds|"
    r"[Oo]utput size is too small|height and width must be|cannot reshape|no elements|exceeds dimension size|non-empty"
)
# Who says so by another error than RuntimeError: torch, and Pillow of a picture that is rounded to nothing.
_SHAPE_MAKERS = ("torch.cat()", "height and width must be")
# What torch says of tensors of another dtype than the weights.
_DTYPES = re.compile(
    r"[Ii]nput type \(.*should be the same|same dtype|expected scalar type|must match dtype|"
    r"not implemented for '(?:BFloat16|Half)'"
)
# What every request has: no suspects.
_USUAL = frozenset(
    {"prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "width", "height", *FRAME_COUNTS}
)
_MEASURES = ("width", "height", *FRAME_COUNTS)


def of_refusal(error: Exception, pipeline: Any, call: Call, step: int) -> Exception:
    """The pipeline's complaint as InvalidRequest where it is about the request, else as it is: the unexpected.

    ``check_inputs`` judges arguments, and so does what names one of them before the first step. A pipeline that edits
    pictures but has None as the default of its picture fails on its way to the first step.
    """
    functions = [frame.f_code.co_name for frame, _line in traceback.walk_tb(error.__traceback__)]
    if too_many := _too_many_steps(pipeline, call):
        return InvalidRequest(f"{too_many} ({error})")
    parameters = parameters_of(pipeline)
    is_named = isinstance(error, ValueError) and step == 0 and parameters.keys() & set(_QUOTED.findall(str(error)))
    on_none = "NoneType" in str(error) or "preprocess" in functions  # an image processor names what it takes instead
    unfilled = tasks.unfilled_pictures(type(pipeline), call.arguments, optional_too=on_none)
    if "check_inputs" in functions or is_named:
        return InvalidRequest(f"the pipeline refuses the request: {error}" + (f" ({unfilled})" if unfilled else ""))
    if broken := of_code(error, pipeline):
        return broken
    if unfilled and step == 0:
        return InvalidRequest(f"{unfilled}; it failed with: {error}")
    if step:
        return error
    prompt = str(call.arguments.get("prompt") or "")
    if len(prompt) > _LONG_PROMPT and any("encode_prompt" in name for name in functions):
        return InvalidRequest(f"{type(pipeline).__name__} cannot take a prompt of {len(prompt)} characters ({error})")
    return of_arguments(error, pipeline, call.arguments) or of_scheduler(error, pipeline) or error


def of_weights(error: Exception, pipeline: Any, own: type, call: Call, step: int) -> InvalidRequest | None:
    """The error as ours where the weights, loaded as ``own``, do not fit what the request made of them; None otherwise.

    They may fit a sibling's components and not its input (Wan's for text have 16 channels in, those for pictures 36):
    no config tells beforehand, so what fails before the first step is told as the request's.
    """
    several = _several_pictures(pipeline, call.arguments)
    if is_out_of_memory(error) or (isinstance(error, BackendError) and not several):
        return None
    misfit = of_shapes(error, pipeline, call.arguments) or of_dtypes(error, pipeline)
    name = type(pipeline).__name__
    if step:
        return misfit
    if several:
        argument, count = several
        told_itself = argument in _QUOTED.findall(str(error))  # how many it takes, or of what
        brought = f"the request brings {count} pictures for {argument}, of which {name} takes 1 ({error})"
        return None if told_itself else InvalidRequest(brought)
    if type(pipeline) is not own:
        return InvalidRequest(
            f"these weights run as {own.__name__} ({tasks.described_inputs(own)}) and not as {name}, which the request "
            f"needs: {error}"
        )
    if LAST_IMAGE in call.arguments:
        return InvalidRequest(f"end_image: these weights take no last picture ({error})")
    return misfit


def _several_pictures(pipeline: Any, arguments: Mapping[str, Any]) -> tuple[str, int] | None:
    """The argument that holds several pictures, and how many; None where there is none."""
    values = {name: arguments.get(name) for name in image_parameters(parameters_of(pipeline))}
    counts = ((name, len(value)) for name, value in values.items() if isinstance(value, list) and len(value) > 1)
    return next(counts, None)


def of_code(error: Exception, pipeline: Any) -> NotSupported | None:
    """The error as ours where diffusers' own code cannot run: a package,
    an attribute or an argument that is not there."""
    missing = missing_code(error) or _absent_component(error, pipeline)
    return NotSupported(f"{type(pipeline).__name__} cannot do this: {missing}") if missing else None


def _absent_component(error: Exception, pipeline: Any) -> str:
    """The component that a method of the pipeline asked something of, and that this model was published without."""
    failure = site_of(error) if "NoneType" in str(error) else None
    if failure is None or failure.tree is None or failure.values.get("self") is not pipeline:
        return ""
    parts = getattr(pipeline, "components", {})
    asked = [node.attr for node in ast.walk(failure.tree) if isinstance(node, ast.Attribute) and node.attr in parts]
    return next((f"this model has no {name} ({error})" for name in asked if parts[name] is None), "")


def missing_code(error: Exception) -> str:
    """What diffusers' own code lacks that the error came of, and where; "" for an error of another cause."""
    failure = site_of(error)
    in_library = failure is not None and failure.is_in_library() or isinstance(error, ModuleNotFoundError)
    if failure is None or not in_library or not _is_missing_code(error):
        return ""
    return f"{_what_is_missing(error, failure)} ({failure.place()})"


def of_arguments(error: Exception, pipeline: Any, arguments: Mapping[str, Any]) -> InvalidRequest | None:
    """The error as ours where it is about the call's arguments: what diffusers raises on purpose, and what a method of
    the pipeline fails to compute with them. Only for an error before the first step."""
    failure = site_of(error)
    if failure is None:
        return None
    if isinstance(error, ValueError) and failure.is_raised() and failure.is_in_library():
        return InvalidRequest(f"the pipeline refuses the request: {error}")
    parameters = parameters_of(pipeline)
    used = [name for name in dict.fromkeys(failure.names()) if name in parameters and name in failure.values]
    blamed = _missing(failure, used, parameters, arguments) if failure.is_in_library() else ""
    if not blamed and failure.values.get("self") is pipeline:
        blamed = _unusable(failure, used) or _suspected(parameters, arguments)
    return InvalidRequest(f"{type(pipeline).__name__} {blamed} ({error})") if blamed else None


def _suspected(parameters: Parameters, arguments: Mapping[str, Any]) -> str:
    """What the request or the model's options set beyond the usual, where a method of the pipeline fails and does not
    say of what (Helios unpacks its ``history_sizes`` far from where they come in); "" where nothing is."""
    unusual = [
        f"{name}={arguments[name]!r}"
        for name in parameters.keys() & arguments.keys() - _USUAL
        if isinstance(arguments[name], _PLAIN) and not takes_media(name, parameters) and not _is_text(name)
        if arguments[name] != parameters[name].default
    ]
    return f"fails with {', '.join(sorted(unusual))}" if unusual else ""


def _is_text(name: str) -> bool:
    """Whether it holds what a person wrote, which belongs in no log."""
    return "prompt" in name or name == "lyrics"


def of_shapes(error: Exception, pipeline: Any, arguments: Mapping[str, Any]) -> InvalidRequest | None:
    """The error as ours where torch's tensors did not fit one another: then by the sizes that were asked for,
    or came."""
    by_torch = isinstance(error, RuntimeError) or any(maker in str(error) for maker in _SHAPE_MAKERS)
    what = measures(arguments) or "what the request brings"
    if isinstance(error, ZeroDivisionError):  # a size that is a part of a patch, a schedule of one step
        steps = arguments.get("num_inference_steps", "its default")
        return InvalidRequest(f"{type(pipeline).__name__} cannot work with {what} in {steps} step(s) ({error})")
    if not by_torch or not _SHAPES.search(str(error)):
        return None
    return InvalidRequest(f"{type(pipeline).__name__} cannot work with {what}: try its default sizes ({error})")


def measures(arguments: Mapping[str, Any]) -> str:
    """ "width=64, height=64, image=32x32": the sizes among a call's arguments, its own and its media's."""
    sizes = [f"{name}={arguments[name]}" for name in _MEASURES if isinstance(arguments.get(name), int)]
    for name, value in arguments.items():
        first = value[0] if isinstance(value, list) and value else value
        if hasattr(first, "size") and hasattr(first, "convert"):
            count = f"{len(value)} of " if isinstance(value, list) else ""
            sizes.append(f"{name}={count}{first.width}x{first.height}")
    return ", ".join(sizes)


def of_dtypes(error: Exception, pipeline: Any) -> InvalidRequest | None:
    """The error as ours where the pipeline's code makes tensors of another dtype than its weights were loaded in
    (Karras VE draws its noise in fp32, whatever they are)."""
    if not isinstance(error, RuntimeError) or not _DTYPES.search(str(error)):
        return None
    name = type(pipeline).__name__
    return InvalidRequest(
        f"{name} does not run in this dtype: load it with f16: false, options: torch_dtype:fp32 ({error})"
    )


def of_scheduler(error: Exception, pipeline: Any) -> InvalidRequest | None:
    """The error as ours where the scheduler could not lay out the steps that the pipeline told it."""
    functions = [frame.f_code.co_name for frame, _line in traceback.walk_tb(error.__traceback__)]
    if "set_timesteps" not in functions:
        return None
    names = type(pipeline).__name__, type(getattr(pipeline, "scheduler", None)).__name__
    return InvalidRequest(f"{names[0]} cannot use {names[1]} this way: choose another scheduler_type or step ({error})")


def _missing(failure: FailureSite, used: list[str], parameters: Parameters, arguments: Mapping[str, Any]) -> str:
    """What the failing expression computed with although it is None, there and in the call; "" where nothing is.

    SkyReels V2 negates its ``overlap_history``, whose default is None; ConsisID hands the face's ``id_cond`` on.
    """
    for name in used:
        if failure.values[name] is not None or arguments.get(name, parameters[name].default) is not None:
            continue
        if name.endswith(TENSOR_WORDS) or takes_only_tensor(parameters[name]):
            asked = measures(arguments) or "its defaults"
            return f"is left without {name}: only other models make that, or {asked} leave it no step to make"
        return (
            f"needs {name}, which has no usable default: set it in the model's options (options: {name}:...) or, in a "
            "video request, in params"
        )
    return ""


def _unusable(failure: FailureSite, used: list[str]) -> str:
    """The plain values of the call that a method of the pipeline computed with: Text2Video-Zero counts ``t1`` steps
    from the end."""
    plain = [name for name in used if isinstance(failure.values[name], _PLAIN) and not _is_text(name)]
    said = ", ".join(f"{name}={failure.values[name]!r}" for name in plain)
    return (
        f"cannot use {said} here: set another in the model's options or, in a video request, in params" if said else ""
    )


def _is_missing_code(error: Exception) -> bool:
    if isinstance(error, AttributeError):
        return "NoneType" not in str(error)
    return isinstance(error, _NO_SUCH_THING) or (
        isinstance(error, TypeError) and bool(_NO_SUCH_ARGUMENT.search(str(error)))
    )


def _what_is_missing(error: Exception, failure: FailureSite) -> str:
    """The package that is missing, or that the failing name is imported from where it is installed; else what Python
    says of diffusers' code."""
    package = error.name if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, NameError):
        package = _package_of(str(error.name), failure)
    if package:
        return f"it needs the Python package {package}, which is not installed"
    from importlib.metadata import version

    return f"its code in {LIBRARY} {version(LIBRARY)} does not run with this model and these inputs: {error}"


def _package_of(name: str, failure: FailureSite) -> str:
    """ "torchvision" for a name that the failing module imports from it if it is there, "" for any other name."""
    source = "".join(linecache.getlines(failure.where.tb_frame.f_code.co_filename))
    found = re.search(rf"^[ \t]+(?:from (\w+)[\w.]* import [^\n]*\b{name}\b|import ({name})\b)", source, re.MULTILINE)
    guarded = rf"^if is_(\w+)_available\(\):\n(?:[ \t]+[^\n]*\n)*?[ \t]+from \.[^\n]* import [^\n]*\b{name}\b"
    found = found or re.search(guarded, source, re.MULTILINE)  # a module of diffusers' own that needs the package
    return next((group for group in found.groups() if group), "") if found else ""


def _too_many_steps(pipeline: Any, call: Call) -> str:
    """Schedulers that walk through the training's timesteps have no more than those; DDIM fails with an IndexError."""
    scheduler, steps = getattr(pipeline, "scheduler", None), call.arguments.get("num_inference_steps")
    config = getattr(scheduler, "config", {})
    most = config.get("num_train_timesteps")
    if not isinstance(most, int) or not isinstance(steps, int) or steps + int(config.get("steps_offset") or 0) <= most:
        return ""
    return f"step={steps} is more than {type(scheduler).__name__} can take: it was trained on {most}"
