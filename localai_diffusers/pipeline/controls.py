# SPDX-License-Identifier: MIT
"""The ControlNets that a pipeline holds, and how many pictures they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The argument that says which of a union's nets are meant.
MODE = "control_mode"


def nets_of(pipeline: Any, component: str = "controlnet", inside: str = "nets") -> list[Any]:
    """The loaded ControlNets, those inside a Multi form too; [] where there are none (or no place for them)."""
    net = getattr(pipeline, component, None)
    return [] if net is None else list(getattr(net, inside, [net]))


def modes_of(net: Any) -> int | None:
    """How many nets a union is, None for a net that is one."""
    config = getattr(net, "config", {})
    return config.get("num_control_type") or config.get("num_mode")


def controls_of(pipeline: Any, arguments: Mapping[str, Any]) -> int:
    """How many pictures the ControlNets take: one each, and a lone union one for each of the modes that are said."""
    nets, modes = nets_of(pipeline), arguments.get(MODE)
    if len(nets) == 1 and modes_of(nets[0]) and isinstance(modes, list):
        return len(modes)
    return len(nets)
