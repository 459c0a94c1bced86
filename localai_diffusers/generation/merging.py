# SPDX-License-Identifier: MIT
"""Several calls of one pipeline as one: what is listed, what must be equal, and whether each gets its own picture.

No signature tells the last: some pipelines pad short prompts to the longest without a mask, mix up what they batch by
themselves, or start every picture from the first of several. So a model's first such call is compared with members'
pictures made alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from localai_diffusers.generation.arguments.call_arguments import Call
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline.inputs import Inputs, inputs_of

log = logging.getLogger(__name__)

_LISTED = ("prompt", "negative_prompt", "generator")
# How far a batched picture may be from the one made alone, in levels of 255 on average: matrices of another shape are
# summed in another order, which in 16 bits adds up over the steps. Another prompt's picture is tens of levels away.
_NEAR, _NEAR_IN_HALF = 0.5, 5.0


class Likeness(NamedTuple):
    """In what the calls of a batch are alike: equal prompts cannot be mixed up, nor equal sources, and those of the
    same length have no padding. ``sources``: how many pictures each brings."""

    cls: type
    same_prompts: bool
    same_lengths: bool
    same_sources: bool
    sources: int


def likeness(calls: Sequence[Call], pipeline: Any) -> Likeness:
    """Of calls of ``pipeline``."""
    cls = type(pipeline)
    texts = {(call.arguments.get("prompt"), call.arguments.get("negative_prompt")) for call in calls}
    lengths = {_token_counts(pipeline, call) for call in calls}
    sources = [[call.arguments[name] for name in _pictures(call.arguments, inputs_of(cls))] for call in calls]
    same_sources = all(found == sources[0] for found in sources)
    return Likeness(cls, len(texts) == 1, len(lengths) == 1, same_sources, len(sources[0]))


def merged(calls: Sequence[Call], cls: type) -> Call | None:
    """One call with the prompts, generators, sources and masks of all. None where one has nothing to call for, or they
    differ in anything else."""
    first = calls[0].arguments
    names = [name for name in first if name in _LISTED] + _pictures(first, inputs_of(cls))
    if any(call.unchanged is not None or call.inversion is not None for call in calls):
        return None
    if any(call.arguments.keys() != first.keys() for call in calls):
        return None
    alike = [name for name in first if name not in names]
    if any(not _is_same(call.arguments[name], first[name]) for call in calls for name in alike):
        return None
    listed = {name: [call.arguments[name] for call in calls] for name in names}
    return replace(calls[0], arguments={**first, **listed}, notes=(), repaint=None)


def _pictures(arguments: Mapping[str, Any], takes: Inputs) -> list[str]:
    return [name for name in (*takes.images, *takes.masks) if is_picture(arguments.get(name))]


def _is_same(value: Any, other: Any) -> bool:
    return value is other or bool(value == other)


def is_faithful(
    model: LoadedModel, pipeline: Any, kind: Likeness, made: Sequence[tuple[Call, Any]], alone: Callable[[Call], Any]
) -> bool:
    """Whether the members that tell have the pictures that they have ``alone``; kept for the model's next calls of the
    same ``kind``."""
    calls = [call for call, _picture in made]
    near = all(_is_near(made[index][1], alone(calls[index]), model) for index in _telling(calls, pipeline, kind))
    model.faithful[kind] = near
    if not near:
        log.warning("%s changes pictures in a batch: requests run alone", type(pipeline).__name__)
    return near


def _telling(calls: Sequence[Call], pipeline: Any, kind: Likeness) -> set[int]:
    """The last member with the shortest prompt, which padding would change; with sources of their own also the last of
    all, which might have got the first's."""
    last = len(calls) - 1
    shortest = min(range(last, -1, -1), key=lambda index: sum(_token_counts(pipeline, calls[index])))
    return {shortest} if kind.same_sources else {shortest, last}


def _is_near(together: Any, alone: Any, model: LoadedModel) -> bool:
    import numpy as np

    both = [np.asarray(picture.convert("RGB"), np.float32) for picture in (together, alone)]
    most = _NEAR if str(model.where.dtype).endswith("float32") else _NEAR_IN_HALF
    return both[0].shape == both[1].shape and float(np.abs(both[0] - both[1]).mean()) < most


def _token_counts(pipeline: Any, call: Call) -> tuple[int, ...]:
    """Tokens of the prompts for each tokenizer: they tell what is padded, and words do not (Chinese has no spaces)."""
    parts = pipeline.components.items()
    tokenizers = [part for name, part in parts if "tokenizer" in name and callable(part)]
    texts = [str(call.arguments.get(name) or "") for name in ("prompt", "negative_prompt")]
    return tuple(len(tokenizer(text)["input_ids"]) for tokenizer in tokenizers for text in texts)
