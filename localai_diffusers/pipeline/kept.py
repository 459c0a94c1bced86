# SPDX-License-Identifier: MIT
"""Facts about a class, found out once a process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def kept(most: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """``functools.lru_cache`` of ``most`` entries whose function keeps its signature: mypy takes no ``type[Any]`` for
    hashable."""
    return functools.lru_cache(maxsize=most)  # type: ignore[return-value]
