# SPDX-License-Identifier: MIT
"""How large a call's argument may be that comes by options or params: the bounds of the request's own fields, by name.

The request's fields are checked as they are read; the same arguments come by other ways as well, and many more that are
no field. A name's words tell what its number counts, so there is no table of pipelines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.settings import Settings

MAX_GUIDANCE = 100.0
MAX_CLIP_SKIP = 64
MAX_FPS = 240
MAX_SIDE = 16384  # pixels: no model makes more, and a picture of 1 x 16 million pixels is nobody's
MAX_BATCH = 64
MAX_BATCH_WAIT_MS = 10_000
_MOST_OUTPUTS = 64
# No argument of diffusers that is a list has a thousand items, or lists in lists in lists in lists.
_MOST_ITEMS, _DEEPEST = 1000, 4
_LARGEST = 2**31 - 1  # what an int field of a request holds


class _Limit(NamedTuple):
    """What the whole name matches, the least number, and the largest by the settings."""

    names: re.Pattern[str]
    least: float
    most: Callable[[Settings], float]


def _limit(names: str, least: float, most: Callable[[Settings], float]) -> _Limit:
    return _Limit(re.compile(names), least, most)


# The first that matches counts.
_LIMITS = (
    _limit(r"(.*_)?inference_steps|steps", 1, lambda settings: settings.max_steps),
    _limit(r".*_steps", 0, lambda settings: settings.max_steps),
    _limit(r"(.*_)?(width|height)|.*resolution", 0, lambda _: MAX_SIDE),
    _limit(r"max_area", 1, lambda settings: settings.max_pixels),
    _limit(r"(.*num_)?frames(_.*)?|video_length", 0, lambda settings: settings.max_frames),
    _limit(r"num_.*_per_prompt|(.*_)?batch_size|ensemble_size|decode_chunk_size", 1, lambda _: _MOST_OUTPUTS),
    _limit(r"max_sequence_length|.*max_(new_tokens|length)|gen_length", 1, lambda settings: settings.max_prompt_bytes),
    _limit(r"fps|frame_rate", 0, lambda _: MAX_FPS),
    _limit(r".*seconds|.*(length|end)_in_s|(audio_)?duration(_s)?", 0, lambda settings: settings.max_audio_seconds),
    _limit(r"(.*_)?(guidance|cfg)_scale(_\d)?", 0, lambda _: MAX_GUIDANCE),
    _limit(r"(inpaint_)?strength", 0, lambda _: 1),
    _limit(r"clip_skip", 0, lambda _: MAX_CLIP_SKIP),
    _limit(r"(?s:.*)", -_LARGEST, lambda _: _LARGEST),
)


def check(values: Mapping[str, Any], settings: Settings, shown: str) -> None:
    """Raise InvalidRequest for a number out of its range and for a list that is too long or too deep.

    ``shown``: how a message calls an argument, with {} for its name.
    """
    for name, value in values.items():
        limit = next(limit for limit in _LIMITS if limit.names.fullmatch(name))
        for leaf in _leaves(value, shown.format(name)):
            if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
                _check_number(shown.format(name), leaf, limit, settings)


def check_texts(values: Mapping[str, Any], settings: Settings, shown: str) -> None:
    """Raise InvalidRequest for a text among ``values`` that is too long or holds a NUL."""
    for name, value in values.items():
        for leaf in _leaves(value, shown.format(name)):
            if isinstance(leaf, str):
                check_text(shown.format(name), leaf, settings)


def _leaves(value: Any, shown: str, depth: int = 0) -> Iterator[Any]:
    """The plain values in lists and objects, keys too."""
    if not isinstance(value, (list, tuple, dict)):
        yield value
        return
    if depth == _DEEPEST or len(value) > _MOST_ITEMS:
        raise InvalidRequest(
            f"{shown} is a list of {len(value)} items, {depth + 1} deep: at most {_MOST_ITEMS} items and {_DEEPEST} "
            "levels are taken"
        )
    for part in (*value, *value.values()) if isinstance(value, dict) else value:
        yield from _leaves(part, shown, depth + 1)


def _check_number(shown: str, value: float, limit: _Limit, settings: Settings) -> None:
    most = limit.most(settings)
    if not math.isfinite(value) or not limit.least <= value <= most:
        raise InvalidRequest(f"{shown}={value:.20g} must be a number between {limit.least:g} and {most:.10g}")


def check_text(name: str, text: str, settings: Settings) -> str:
    """``text`` itself. Raises InvalidRequest where it is longer than the settings allow, or holds a NUL."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > settings.max_prompt_bytes:
        raise InvalidRequest(
            f"{name} is {size} bytes long: at most {settings.max_prompt_bytes} are taken "
            "(LOCALAI_DIFFUSERS_MAX_PROMPT_BYTES)"
        )
    if "\0" in text:
        raise InvalidRequest(f"{name} holds a NUL character: remove it")
    return text


def check_area(size: tuple[int, int], settings: Settings, name: str = "width x height") -> tuple[int, int]:
    """``size`` itself. Raises InvalidRequest for a side above MAX_SIDE and for more pixels than the settings allow."""
    if max(size) > MAX_SIDE:
        raise InvalidRequest(f"{name} = {size[0]}x{size[1]}: a side has at most {MAX_SIDE} pixels")
    if size[0] * size[1] > settings.max_pixels:
        raise InvalidRequest(
            f"{name} = {size[0]}x{size[1]} is {size[0] * size[1]} pixels: at most {settings.max_pixels} "
            "are made (LOCALAI_DIFFUSERS_MAX_PIXELS)"
        )
    return size
