"""What a pipeline's refusal asks for that can be given: the arguments of a second call.

Read from the error's text and the functions that it came through, since no signature says these things.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.pipeline.signatures import image_parameters, parameters_of
from localai_diffusers.pipeline.sizes import round_size

_DIVISIBLE = re.compile(r"(?:divisible by|multiples? of|factor of)\D{0,3}(\d+)")
# What Python says of one picture where the code wants a list of them.
_ONE_FOR_LIST = re.compile(r"of type '\w*Image\w*' has no len|'\w*Image\w*' object is not (?:subscriptable|iterable)")
# What torch says of tensors that do not fit one another.
_SHAPES = re.compile(r"size of tensor|[Ss]izes of tensors|shape '.*' is invalid|cannot reshape")
_BINNING, _SAMPLE_SIZE = "use_resolution_binning", re.compile(r"sample[ _]size")
_SIDES = re.compile(r"\b(?:height|width|target_h|target_w)\b")
_COARSE = 64  # pixels: what every model of pictures divides by
# Forms of a prompt that a pipeline insists on, by its words (Bria Fibo Edit documents an object of this one key).
_PROMPT_FORMS: Mapping[str, Callable[[str], str]] = {
    "has to be a valid edit JSON": lambda prompt: json.dumps({"edit_instruction": prompt}),
}


@dataclass(frozen=True)
class Amendment:
    """Arguments that replace those of the first call and of its inversion, and what to say of it ("" for nothing)."""

    arguments: dict[str, Any]
    note: str = ""
    inversion: dict[str, Any] = field(default_factory=dict)

    def apply(self, call: Call) -> None:
        """Change ``call``, and note it there."""
        call.arguments.update(self.arguments)
        (call.inversion or {}).update(self.inversion)
        call.notes.extend([self.note] if self.note else [])


def amended(error: Exception, pipeline: Any, call: Call) -> Amendment | None:
    """What to change for a second call, None where the error does not say."""
    rules = (_rounded, _with_negative_prompt, _in_lists, _in_form, _two_steps, _unbinned, _with_size, _coarse)
    found = (rule(error, pipeline, call) for rule in rules)
    return next((change for change in found if change is not None), None)


def _rounded(error: Exception, _pipeline: Any, call: Call) -> Amendment | None:
    """Width and height to the nearest multiple that the refusal names."""
    found = _DIVISIBLE.search(str(error))
    if not found:
        return None
    picture = (call.inversion or {}).get("image")
    return _resized(call.arguments, int(found[1])) if picture is None else _resized_inversion(picture, int(found[1]))


def _resized_inversion(picture: Any, multiple: int) -> Amendment | None:
    """The picture to invert (LEDITS++ takes no other size for its output) at the nearest multiples."""
    size = round_size(*picture.size, multiple)
    note = f"the source of {picture.width}x{picture.height} is taken at {size[0]}x{size[1]}"
    return None if size == picture.size else Amendment({}, note, {"image": picture.resize(size)})


def _coarse(error: Exception, _pipeline: Any, call: Call) -> Amendment | None:
    """Width, height and references to a multiple that every model takes, where tensors of the first call did not fit
    one another."""
    if not isinstance(error, RuntimeError) or not _SHAPES.search(str(error)):
        return None
    change = _resized(call.arguments, _COARSE)
    references = _references(call.arguments, _COARSE)
    said = [change.note] if change else []
    said += [f"the pictures of {name} are taken at multiples of {_COARSE} pixels" for name in references]
    return Amendment({**(change.arguments if change else {}), **references}, "; ".join(said)) if said else None


def _references(arguments: Mapping[str, Any], multiple: int) -> dict[str, list[Any]]:
    """Lists of pictures of sizes of their own, each at the nearest multiples; without lists that are so already."""
    found = {}
    for name, value in arguments.items():
        if isinstance(value, list) and value and all(hasattr(picture, "resize") for picture in value):
            sizes = [round_size(*picture.size, multiple) for picture in value]
            if sizes != [picture.size for picture in value]:
                found[name] = [picture.resize(size) for picture, size in zip(value, sizes, strict=True)]
    return found


def _resized(arguments: Mapping[str, Any], multiple: int) -> Amendment | None:
    """The nearest multiples, and the pictures of the old size at the new one; None where the size is one already."""
    width, height = arguments.get("width"), arguments.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    size = round_size(width, height, multiple)
    if size == (width, height):
        return None
    pictures = {
        name: value.resize(size)
        for name, value in arguments.items()
        if hasattr(value, "resize") and getattr(value, "size", None) == (width, height)
    }
    return Amendment({"width": size[0], "height": size[1], **pictures}, f"size is rounded to {size[0]}x{size[1]}")


def _with_negative_prompt(error: Exception, pipeline: Any, call: Call) -> Amendment | None:
    """An empty negative prompt where the texts could not be encoded without (EasyAnimate iterates over its default,
    None)."""
    takes_one = "negative_prompt" in parameters_of(pipeline) and call.arguments.get("negative_prompt") is None
    wanted = (
        isinstance(error, TypeError) and "NoneType" in str(error) and "encode_prompt" in _through(error) and takes_one
    )
    return Amendment({"negative_prompt": ""}) if wanted else None


def _two_steps(error: Exception, pipeline: Any, call: Call) -> Amendment | None:
    """Two steps where a schedule from the first to the last cannot be one step long (UnCLIP, Mochi divide by zero), or
    one step is another method altogether (PixArt's distilled form, by a scheduler that it does not have)."""
    if not isinstance(error, (ZeroDivisionError, IndexError)):
        return None
    steps = {
        name: 2
        for name in parameters_of(pipeline)
        if name.endswith("num_inference_steps") and call.arguments.get(name) == 1
    }
    return Amendment(steps, f"{', '.join(steps)} of 1 is too few for the scheduler: 2 are taken") if steps else None


def _unbinned(error: Exception, pipeline: Any, call: Call) -> Amendment | None:
    """The size as it is where a pipeline would move it to the nearest of its family's sizes and has none for this model
    (PixArt, Sana and PRX know those of the published sample sizes)."""
    known = parameters_of(pipeline).get(_BINNING)
    if known is None or not call.arguments.get(_BINNING, known.default):
        return None
    return Amendment({_BINNING: False}) if isinstance(error, ValueError) and _SAMPLE_SIZE.search(str(error)) else None


def _through(error: Exception) -> list[str]:
    """Names of the functions that the error came through."""
    return [frame.f_code.co_name for frame, _line in traceback.walk_tb(error.__traceback__)]


def _in_lists(error: Exception, pipeline: Any, call: Call) -> Amendment | None:
    """One picture in a list, where the annotation admits both and the code only lists (GLM-Image)."""
    names = image_parameters(parameters_of(pipeline))
    single = {name: [value] for name in names if hasattr(value := call.arguments.get(name), "resize")}
    return Amendment(single) if single and isinstance(error, TypeError) and _ONE_FOR_LIST.search(str(error)) else None


def _with_size(error: Exception, pipeline: Any, call: Call) -> Amendment | None:
    """The model's own size where the code has None for a default and cannot do without one (GLM-Image)."""
    parameters, sides = parameters_of(pipeline), ("width", "height")
    latents, factor = (getattr(pipeline, name, None) for name in ("default_sample_size", "vae_scale_factor"))
    left = all(name in parameters and call.arguments.get(name, parameters[name].default) is None for name in sides)
    if not left or not isinstance(latents, int) or not isinstance(factor, int) or not _SIDES.search(str(error)):
        return None
    side = latents * factor
    return Amendment(dict.fromkeys(sides, side), f"no size was asked for: the model's own, {side}x{side}, is taken")


def _in_form(error: Exception, _pipeline: Any, call: Call) -> Amendment | None:
    """A plain prompt in the form that the refusal names."""
    prompt = call.arguments.get("prompt")
    form = next((make for words, make in _PROMPT_FORMS.items() if words in str(error)), None)
    if form is None or not isinstance(prompt, str) or prompt.lstrip().startswith("{"):
        return None
    return Amendment({"prompt": form(prompt)}, "the prompt is put into the JSON that this pipeline takes")
