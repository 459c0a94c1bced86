# SPDX-License-Identifier: MIT
"""What loads change for the whole process, and set back before the next one and at Free.

torch and diffusers keep some settings in global variables: diffusers' attention backend of one model is every other's
too. A load begins as the first one did.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from localai_diffusers.work.ranks import group

_LIBRARIES = ("diffusers", "transformers", "huggingface_hub", "accelerate", "peft", "torch")


_restore: Callable[[], None] | None = None


def reset() -> None:
    """Set everything back to what it was before the first load: call it while no model is loaded.

    The first call after the libraries' import records it.
    """
    global _restore
    group.end()
    if _restore is not None:
        _restore()
    elif "torch" in sys.modules and "diffusers" in sys.modules:
        _restore = _recorded()


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """While a load is checked: its own environment variables, which a refused load leaves nothing of."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _recorded() -> Callable[[], None]:
    """The function that sets back what is recorded now."""
    levels = {name: logging.getLogger(name).level for name in _LIBRARIES}
    environment = dict(os.environ)
    values = [(setter, value()) for value, setter in _settings()]

    def restore() -> None:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        for setter, value in values:
            setter(value)

    return restore


def _settings() -> tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...]:
    """What options of a load change: how each is read, and how it is set."""
    import torch
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as attention

    return (
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (lambda: attention.get_active_backend()[0], attention.set_active_backend),
    )
