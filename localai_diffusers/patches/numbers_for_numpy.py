# SPDX-License-Identifier: MIT
"""A bf16 tensor becomes a numpy array of fp32.

For: diffusers 0.42.1. numpy has no bf16, and the older pipelines (DDPM, VQ-Diffusion) hand it their output as it is:
"Got unsupported ScalarType BFloat16". Only for a pipeline of such code that is in bf16.
May go: when they say ``.float().numpy()`` as diffusers' image processor does.
"""

from __future__ import annotations

import inspect
import re
from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import modules_of, replaced

_AS_IT_IS = re.compile(r"^(?!\s*>>>)(?!.*\.float\(\)).*\.numpy\(\)", re.MULTILINE)


def applies(pipeline: Any) -> bool:
    return _in_bf16(pipeline) and any(_AS_IT_IS.search(inspect.getsource(module)) for module in modules_of(pipeline))


def _in_bf16(pipeline: Any) -> bool:
    import torch

    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return any(tensor.dtype is torch.bfloat16 for part in parts for tensor in part.parameters())


def applied() -> AbstractContextManager[None]:
    import torch

    theirs: Any = torch.Tensor.numpy

    def numpy(tensor: Any, **how: Any) -> Any:
        return theirs(tensor.float() if tensor.dtype is torch.bfloat16 else tensor, **how)

    return replaced(torch.Tensor, numpy=numpy)
