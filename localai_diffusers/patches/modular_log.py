# SPDX-License-Identifier: MIT
"""A modular pipeline logs nothing of its own while it is called.

For: diffusers 0.42.1, which logs the traceback of one error three times, a cancellation's and a refusal's too. Ours is
logged where it is caught.
May go: when it raises and leaves the log to whoever catches.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_LOGGER = logging.getLogger("diffusers.modular_pipelines.modular_pipeline")


@contextlib.contextmanager
def applied() -> Iterator[None]:
    previous = _LOGGER.level
    _LOGGER.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _LOGGER.setLevel(previous)
