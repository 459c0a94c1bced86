"""What a pipeline's refusal asks for that can be given: the arguments of a second call.

Read from the error's text and the functions that it came through, since no signature says these things.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.pipeline.sizes import round_size

_DIVISIBLE = re.compile(r"(?:divisible by|multiples? of|factor of)\D{0,3}(\d+)")
# What torch says of tensors that do not fit one another.
_SHAPES = re.compile(r"size of tensor|[Ss]izes of tensors|shape '.*' is invalid|cannot reshape")
_COARSE = 64  # pixels: what every model of pictures divides by


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
    rules = (_rounded, _coarse)
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
