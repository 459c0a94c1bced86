# SPDX-License-Identifier: MIT
"""A class that diffusers reads from folders alone can be read from one file, its keys as they are.

For: diffusers 0.42.1, whose ``from_single_file`` asks a table of classes how each one's keys are converted, and refuses
what is not in it (PRX, Sana and twenty more transformers).
May go: when every model class can be read from a file of its own keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def applied(component: type, keys: Callable[..., Any]) -> Iterator[None]:
    """Inside the block ``component`` is in the table, with ``keys`` to convert by, unless it is one of the table's."""
    import diffusers
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as table

    known = any(issubclass(component, getattr(diffusers, name)) for name in table)
    name = component.__name__
    if known or getattr(diffusers, name, None) is not component:
        yield
        return
    table[name] = {"checkpoint_mapping_fn": keys}
    try:
        yield
    finally:
        table.pop(name, None)
