# SPDX-License-Identifier: MIT
"""Gaps between the pinned libraries, each closed in a file of its own; look here first when a pin moves.

Here: what replaces or adds to a foreign name, with its reason, the version that it is For, when it May go. Not here:
rules about single models (pipeline/quirks.py). Nothing of ours is imported, so that every room may close a gap.

A patch of calls has ``applies(pipeline)``, asked once a pipeline, and ``applied()``, which holds during a call: a
pipeline that needs none is called as it is. The others are entered where what they are for is loaded, read or called.
"""

from __future__ import annotations

import contextlib
import importlib
import weakref
from collections.abc import Iterator
from typing import Any

OF_CALLS = (
    "clip_text_model",
    "clap_text_features",
    "absent_flags",
    "dual_attention",
    "numbers_for_numpy",
    "glm_image_rows",
    "singular_covariance",
    "inversion_words",
)
_needed: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = weakref.WeakKeyDictionary()


def needed(pipeline: Any) -> tuple[Any, ...]:
    """The patches of calls, as modules, that ``pipeline`` needs: found out at its first call."""
    if pipeline not in _needed:
        every = (importlib.import_module(f"{__name__}.{name}") for name in OF_CALLS)
        _needed[pipeline] = tuple(patch for patch in every if patch.applies(pipeline))
    return _needed[pipeline]


@contextlib.contextmanager
def during_calls(pipeline: Any) -> Iterator[None]:
    """All that holds while ``pipeline`` is called; where one patch cannot be entered, none stays."""
    with contextlib.ExitStack() as entered:
        for patch in needed(pipeline):
            entered.enter_context(patch.applied())
        yield
