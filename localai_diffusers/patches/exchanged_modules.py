# SPDX-License-Identifier: MIT
"""What a call exchanges in its components' modules is put back where it fails.

For: diffusers 0.42.1. Versatile Diffusion's methods swap attention blocks between its UNets and register other configs,
and undo it at their end alone; the components are shared with the calls after.
May go: when it does so in a ``finally``, or goes itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def put_back(pipeline: Any) -> Iterator[None]:
    parts = [part for part in pipeline.components.values() if hasattr(part, "modules")]
    children = [(module, dict(module._modules)) for part in parts for module in part.modules()]
    configs = [(part, part._internal_dict) for part in parts if hasattr(part, "_internal_dict")]
    try:
        yield
    except BaseException:
        for module, own in children:
            module._modules.update(own)
        for part, config in configs:
            part._internal_dict = config
        raise
