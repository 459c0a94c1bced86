# SPDX-License-Identifier: MIT
"""The libraries' own bars of a load are ours: plain lines in the log, and a stop where the load is cancelled.

For: diffusers 0.42.1, which has no hook for its bars, so that its factory is replaced; transformers has one.
May go: when diffusers has a hook too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from localai_diffusers.patches.kit import replaced


@contextlib.contextmanager
def applied(bar: Callable[..., Any]) -> Iterator[None]:
    """``bar`` takes what tqdm takes."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    previous = transformers_logging.set_tqdm_hook(lambda _factory, args, kwargs: bar(*args, **kwargs))
    try:
        with replaced(diffusers_logging, tqdm=bar):
            yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
