# SPDX-License-Identifier: MIT
"""What a model's size and a device's free memory decide where the YAML says nothing: dtype, offload, tiling.

A pure function of figures: nothing here asks torch or looks at a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

GIB = 2**30
# Weights that just fit leave no room for what they compute: what must stay free beside them.
_ROOM_FACTOR, _ROOM_BYTES = 1.2, 2 * GIB
# Beside one part alone, which is gone when the next one comes, and while a prompt is encoded.
_PART_FACTOR, _PART_ROOM_BYTES = 1.05, 3 * GIB // 2


def with_room(weight_bytes: int) -> float:
    """Bytes that weights need of an accelerator together with what they compute."""
    return weight_bytes * _ROOM_FACTOR + _ROOM_BYTES


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights by component, in the dtype that they would have; ``encoders`` are the names of those
    that are idle once the prompt is read."""

    sizes: Mapping[str, int]
    encoders: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    @property
    def largest(self) -> int:
        return max(self.sizes.values(), default=0)

    @property
    def without_encoders(self) -> int:
        return sum(size for name, size in self.sizes.items() if name not in self.encoders)

    def described(self) -> str:
        """ "33.7 GiB (transformer 23.8, text_encoder_2 9.5)": those that count."""
        large = sorted(((size, name) for name, size in self.sizes.items() if size * 20 >= self.total), reverse=True)
        parts = ", ".join(f"{name or 'one file'} {size / GIB:.1f}" for size, name in large)
        return f"{self.total / GIB:.1f} GiB ({parts})"


def _all(weights: Weights) -> float:
    return with_room(weights.total)


def _encoders_first(weights: Weights) -> float:
    """All lie there while the prompt is read, and the encoders' room is what the steps compute in."""
    return max(weights.total + _PART_ROOM_BYTES, with_room(weights.without_encoders))


def _one_part(weights: Weights) -> float:
    return weights.largest * _PART_FACTOR + _PART_ROOM_BYTES


def _one_layer(_weights: Weights) -> float:
    return float(_ROOM_BYTES)


# The ways to offload, fastest first, and the bytes that each needs of the device. A component that waits on the host
# is moved once a picture, layers at every step: so whole components come before layers, where the largest one fits.
LADDER: Mapping[str, Callable[[Weights], float]] = {
    "none": _all,
    "text_encoders": _encoders_first,
    "model": _one_part,
    "group": _one_layer,
}


@dataclass(frozen=True)
class Choice:
    """``offload``: a row of :data:`LADDER`. ``halved``: fp32 weights are taken in half precision. ``tiling``: the VAE
    decodes in tiles. ``why``: one sentence with the figures, "" where all fits as it is."""

    offload: str = "none"
    halved: bool = False
    tiling: bool = False
    why: str = ""


def choose(weights: Weights, free: int, device: str, ways: frozenset[str], can_halve: bool) -> Choice:
    """The fastest way to run ``weights`` in ``free`` bytes of ``device``; the most sparing where none is sure to fit.

    ``ways``: those of :data:`LADDER` that this model can take. ``can_halve``: its weights are fp32, and nobody asked
    for that.
    """
    order = _in_order(weights, ways, can_halve)
    way, halved = next(((way, halved) for way, halved in order if _needed(weights, way, halved) <= free), order[-1])
    return Choice(way, halved, way in ("model", "group"), _why(weights, free, device, way, halved))


def _needed(weights: Weights, way: str, halved: bool) -> float:
    return LADDER[way](_half(weights) if halved else weights)


def _in_order(weights: Weights, ways: frozenset[str], can_halve: bool) -> list[tuple[str, bool]]:
    """Half precision is faster than any offload, and comes before them."""
    known = [way for way in LADDER if way in ways and (way != "text_encoders" or weights.encoders)]
    plain = [("none", False)] if can_halve else []
    return plain + [(way, can_halve) for way in known]


def _half(weights: Weights) -> Weights:
    return Weights({name: size // 2 for name, size in weights.sizes.items()}, weights.encoders)


_WORDS = {
    "none": "",
    "text_encoders": "the text encoders wait on the host once the prompt is read",
    "model": "each component waits on the host until it is its turn",
    "group": "layers wait on the host until it is their turn",
}


def _why(weights: Weights, free: int, device: str, way: str, halved: bool) -> str:
    done = " and ".join(filter(None, ("they are taken in half precision" if halved else "", _WORDS[way])))
    if not done:
        return ""
    faster = [] if way == "none" else ["options: quantization:int8 would need less memory"]
    faster.append(f"{with_room(weights.total) / GIB:.0f} GiB free would hold all as it is")
    return (
        f"the weights take {weights.described()} and {device} has {free / GIB:.1f} GiB free, so {done} "
        f"({'; '.join(faster)}; auto:false takes the model as it is)"
    )


def sparing(weights: Weights, ways: frozenset[str]) -> str:
    """The fastest way that keeps at most half of the weights on the device at once: what ``low_vram`` means."""
    by_layers = "group" in ways and (weights.largest * 2 > weights.total or "model" not in ways)
    return "group" if by_layers else "model"
