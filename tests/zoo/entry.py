# SPDX-License-Identifier: MIT
"""One line of the zoo's catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Parts = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """How to build one tiny checkpoint and how to call it.

    pipeline: the class that model_index.json names.
    build: makes the pipeline in memory.
    kind: what comes out: image, video, video+audio, audio, mesh, depth, normals, intrinsics or embeds.
    needs: media and text inputs by their parameter names in `__call__` (prompt, image, mask_image, ...).
    arguments: the smallest settings: height, width, num_frames, num_inference_steps, ...; the family's, so a
    class
        may not take all of them (its signature says).
    family: the architecture, shared by the classes built from the same parts.
    """

    pipeline: str
    build: Callable[[], Any]
    kind: str
    needs: tuple[str, ...] = ("prompt",)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""


def entries(
    family: str,
    parts: Parts,
    kind: str,
    arguments: Mapping[str, Any],
    *rows: tuple[str, str] | tuple[str, str, Mapping[str, Any]],
) -> dict[str, Entry]:
    """Catalogue lines of one family: rows of (class, its inputs in one string, arguments of its own)."""
    from .kit import assemble

    found: dict[str, Entry] = {}
    for name, inputs, *own in rows:
        call = {**arguments, **(own[0] if own else {})}
        found[name] = Entry(name, lambda name=name: assemble(name, parts()), kind, tuple(inputs.split()), call, family)
    return found
