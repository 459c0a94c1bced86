# SPDX-License-Identifier: MIT
"""Another rounding for every network of the process: pytest -p tests.rounding (PYTEST_PLUGINS=tests.rounding).

The sums of a layer come out a little otherwise on another processor, or where its weights lie at another place in
memory. Here each layer's output is off by some last digits, always the same for one layer and for each layer others.
So what two loads of a model make differs as it does between two processors, and a test that tells them apart depends on
the last digits of a network. A server's networks are as they are: it is another process.
"""

from __future__ import annotations

import itertools
from typing import Any

_OFF_BY = 1e-6  # relative; a sum of some hundred products in fp32 is off by a third of that


def pytest_configure() -> None:
    """pytest's hook: from here on, in this process."""
    import torch

    seeds = itertools.count(1)
    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)

    def rounded(layer: Any, _args: Any, output: Any) -> Any:
        if not isinstance(layer, layers) or getattr(output, "dtype", None) != torch.float32:
            return None
        if "_rounding" not in vars(layer):
            vars(layer)["_rounding"] = next(seeds)
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(vars(layer)["_rounding"]))
        return output * (1 + _OFF_BY * noise.to(output.device))

    torch.nn.modules.module.register_module_forward_hook(rounded)
