"""What loads change for the whole process, and set back before the next one and at Free.

torch and diffusers keep some settings in global variables: diffusers' attention backend of one model is every other's
too. A load begins as the first one did.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

_LIBRARIES = ("diffusers", "transformers", "huggingface_hub", "accelerate", "peft", "torch")


def baseline() -> Callable[[], None]:
    """Record the settings as they are now; the function that sets them back. Imports nothing that is not there."""
    levels = {name: logging.getLogger(name).level for name in _LIBRARIES}
    environment = dict(os.environ)
    settings = [(holder, name, getattr(holder, name)) for holder, name in _settings()]
    calls = [(setter, value) for setter, value in _calls()]

    def restore() -> None:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        for holder, name, value in settings:
            if getattr(holder, name) != value:
                setattr(holder, name, value)
        for setter, value in calls:
            setter(value)

    return restore


def _settings() -> Iterator[tuple[Any, str]]:
    """Global attributes that options of a load change, as (holder, name)."""
    torch = sys.modules.get("torch")
    if torch is not None:
        yield torch.backends.cuda.matmul, "allow_tf32"
        yield torch.backends.cudnn, "allow_tf32"
        yield torch.backends.cudnn, "benchmark"
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    if dispatch is not None:
        yield dispatch._AttentionBackendRegistry, "_active_backend"


def _calls() -> Iterator[tuple[Callable[[Any], None], Any]]:
    """Settings that have a function: (the function, the value now)."""
    torch = sys.modules.get("torch")
    if torch is not None:
        yield torch.set_num_threads, torch.get_num_threads()
