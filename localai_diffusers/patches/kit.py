# SPDX-License-Identifier: MIT
"""What patches share: a foreign name replaced for a while, and what a pipeline is made of."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """``owner`` with other attributes inside the block; afterwards with its own again, without those that it only
    inherits. Where one cannot be set, none is."""
    own = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    done: list[str] = []
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
            done.append(name)
        yield
    finally:
        for name in done:
            if name in own:
                setattr(owner, name, own[name])
            else:
                delattr(owner, name)


def has(pipeline: Any, *classes: str) -> bool:
    """Whether a component is of one of these classes, or of one derived from them; nothing is imported to tell."""
    parts = getattr(pipeline, "components", {}).values()
    return any(kind.__name__ in classes for part in parts for kind in type(part).__mro__)


def modules_of(pipeline: Any) -> list[Any]:
    """The modules of the pipeline's class and its bases, of its parts, and of a modular one's blocks."""
    parts = [*vars(pipeline).values(), *_blocks(getattr(pipeline, "_blocks", None))]
    names = [*(kind.__module__ for kind in type(pipeline).__mro__), *(type(part).__module__ for part in parts)]
    return [sys.modules[name] for name in dict.fromkeys(names) if name.startswith("diffusers.") and name in sys.modules]


def _blocks(block: Any) -> Iterator[Any]:
    for part in (getattr(block, "sub_blocks", None) or {}).values():
        yield part
        yield from _blocks(part)
