# SPDX-License-Identifier: MIT
"""What a LoRA's pieces add to a weight, as a matrix: for what no adapter library takes, and to tell what fits.

The rules are LyCORIS' (``lycoris.functional``) and PEFT's; a matrix has the rows of the weight, and the rest of its
dimensions as columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Shapes = Mapping[str, Sequence[int]]


class Kind(NamedTuple):
    """A way to write a difference: as people call it, the pieces that mark it, and those that it needs: of each need
    one of its choices, whole."""

    name: str
    marks: tuple[str, ...]
    needs: tuple[tuple[tuple[str, ...], ...], ...]


_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOKR_HALVES = tuple(((f"lokr_w{n}",), (f"lokr_w{n}_a", f"lokr_w{n}_b")) for n in (1, 2))
KINDS = (
    Kind("LoRA", ("down", "up", "mid"), ((("down", "up"),),)),
    Kind("LoHa", (*_LOHA, "hada_t1", "hada_t2"), ((_LOHA,),)),
    Kind(
        "LoKr",
        ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        _LOKR_HALVES,
    ),
    Kind("LoRA of an embedding", ("embedding_down", "embedding_up"), ((("embedding_down", "embedding_up"),),)),
    Kind("full difference", ("diff",), ()),
    Kind("whole tensor", ("set",), ()),
)
BIASES = frozenset(("diff_b", "set_b", "up_bias"))


def kinds(pieces: Mapping[str, Any]) -> list[Kind]:
    """The kinds of differences that a layer's pieces make."""
    return [kind for kind in KINDS if any(mark in pieces for mark in kind.marks)]


def lacking(pieces: Mapping[str, Any]) -> tuple[str, ...]:
    """The pieces that the layer lacks for those that it has to mean anything."""
    missing: list[str] = []
    for kind in kinds(pieces):
        for choices in kind.needs:
            if not any(all(piece in pieces for piece in choice) for choice in choices):
                wanted = max(choices, key=lambda choice: sum(piece in pieces for piece in choice))
                missing += [piece for piece in wanted if piece not in pieces]
    if not kinds(pieces) and not any(piece in pieces for piece in BIASES):
        missing.append("weights")
    return tuple(missing)


def sizes(pieces: Shapes) -> set[tuple[int, int]]:
    """Rows and columns of each difference that the pieces of these shapes make; one of no sense is (0, 0)."""
    try:
        return {_SIZES[kind.name](pieces) for kind in kinds(pieces)}
    except (IndexError, ValueError):
        return {(0, 0)}


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0] if shape else 1, math.prod(shape[1:])


def _agree(*numbers: int) -> None:
    if len(set(numbers)) > 1:
        raise ValueError("ranks differ")


def _size_of_lora(pieces: Shapes) -> tuple[int, int]:
    down, up, mid = pieces["down"], pieces["up"], pieces.get("mid")
    if not down[0]:
        raise ValueError("no rank")
    if mid is None:
        _agree(math.prod(up[1:]), down[0])
        return up[0], math.prod(down[1:])
    _agree(math.prod(up[1:]), mid[0])
    _agree(down[0], mid[1])
    return up[0], math.prod(down[1:]) * math.prod(mid[2:])


def _size_of_loha(pieces: Shapes) -> tuple[int, int]:
    halves = []
    for half in ("1", "2"):
        left, right, core = pieces[f"hada_w{half}_a"], pieces[f"hada_w{half}_b"], pieces.get(f"hada_t{half}")
        if core is None:
            _agree(left[1], right[0])
            halves.append((left[0], math.prod(right[1:])))
        else:
            _agree(left[0], core[0])
            _agree(right[0], core[1])
            halves.append((left[1], right[1] * math.prod(core[2:])))
    if halves[0] != halves[1]:
        raise ValueError("halves differ")
    return halves[0]


def _size_of_lokr(pieces: Shapes) -> tuple[int, int]:
    first, second = _lokr_half(pieces, "1"), _lokr_half(pieces, "2")
    return first[0] * second[0], math.prod(first[1:]) * math.prod(second[1:])


def _lokr_half(pieces: Shapes, half: str) -> tuple[int, ...]:
    if f"lokr_w{half}" in pieces:
        return tuple(pieces[f"lokr_w{half}"])
    left, right, core = pieces[f"lokr_w{half}_a"], pieces[f"lokr_w{half}_b"], pieces.get("lokr_t2")
    if half == "2" and core is not None:
        _agree(left[0], core[0])
        _agree(right[0], core[1])
        return (left[1], right[1], *core[2:])
    _agree(left[1], right[0])
    return (left[0], *right[1:])


def _size_of_embedding(pieces: Shapes) -> tuple[int, int]:
    down, up = pieces["embedding_down"], pieces["embedding_up"]
    _agree(down[0], up[1])
    return down[1], up[0]


_SIZES: dict[str, Callable[[Shapes], tuple[int, int]]] = {
    "LoRA": _size_of_lora,
    "LoHa": _size_of_loha,
    "LoKr": _size_of_lokr,
    "LoRA of an embedding": _size_of_embedding,
    "full difference": lambda pieces: _matrix(pieces["diff"]),
    "whole tensor": lambda pieces: _matrix(pieces["set"]),
}


def rank(pieces: Shapes) -> int | None:
    """The rank by which a layer's alpha counts; None for a LoKr of two whole factors and for full differences."""
    for piece, axis in (("down", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0), ("embedding_down", 0)):
        if piece in pieces:
            return int(pieces[piece][axis])
    return None


# --- the numbers -------------------------------------------------------------------------------------------------


def weight_difference(pieces: Mapping[str, Any], factor: float) -> Any:
    """What pieces (tensors of any dtype) add to the weight at full strength, rows by columns, in float32: the sum of
    what each kind makes, ``factor`` (alpha by rank) times, full differences as they are. None for other pieces."""
    pieces = {piece: tensor.float() for piece, tensor in pieces.items()}
    parts = [_MADE[kind.name](pieces) * factor for kind in kinds(pieces) if kind.name in _MADE]
    if "diff" in pieces:
        parts.append(pieces["diff"].reshape(_matrix(pieces["diff"].shape)))
    return sum(parts[1:], parts[0]) if parts else None


def _lora(pieces: Mapping[str, Any]) -> Any:
    down, up = pieces["down"], pieces["up"].flatten(1)
    if "mid" not in pieces:
        return up @ down.flatten(1)
    mid = pieces["mid"]
    inner = (mid.flatten(2).movedim(1, 2) @ down.flatten(1)).movedim(1, 2)  # rank, in, kernel
    return (up @ inner.flatten(1)).flatten(1)


def _loha(pieces: Mapping[str, Any]) -> Any:
    return _loha_half(pieces, "1") * _loha_half(pieces, "2")


def _loha_half(pieces: Mapping[str, Any], half: str) -> Any:
    left, right, core = pieces[f"hada_w{half}_a"], pieces[f"hada_w{half}_b"], pieces.get(f"hada_t{half}")
    return left @ right.flatten(1) if core is None else _tucker(core, left, right).flatten(1)


def _tucker(core: Any, left: Any, right: Any) -> Any:
    import torch

    return torch.einsum("i j ..., i p, j r -> p r ...", core, left, right)


def _lokr(pieces: Mapping[str, Any]) -> Any:
    import torch

    first = pieces.get("lokr_w1")
    first = pieces["lokr_w1_a"] @ pieces["lokr_w1_b"] if first is None else first
    second = pieces.get("lokr_w2")
    if second is None:
        left, right, core = pieces["lokr_w2_a"], pieces["lokr_w2_b"], pieces.get("lokr_t2")
        if core is not None:
            second = _tucker(core, left, right)
        else:
            second = (left @ right.flatten(1)).reshape(left.shape[0], *right.shape[1:])
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    return torch.kron(first, second.contiguous()).flatten(1)


def _embedding(pieces: Mapping[str, Any]) -> Any:
    return (pieces["embedding_up"] @ pieces["embedding_down"]).T


_MADE = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr, "LoRA of an embedding": _embedding}


def decomposed(shape: Sequence[int], moved: Any, magnitude: Any) -> Any:
    """DoRA: ``moved`` (rows by columns, of a weight of ``shape``) with the norms that ``magnitude`` says: of its rows
    (a vector, or a column), or of its inputs (a row)."""
    magnitude = magnitude.float()
    if magnitude.numel() == shape[0] and (magnitude.ndim < 2 or magnitude.shape[0] == shape[0]):
        norms = moved.norm(dim=1, keepdim=True)
        return moved * (magnitude.reshape(-1, 1) / norms.clamp_min(1e-12))
    inputs = moved.reshape(shape[0], shape[1], -1)
    norms = inputs.norm(dim=(0, 2), keepdim=True)
    return (inputs * (magnitude.reshape(1, -1, 1) / norms.clamp_min(1e-12))).reshape(moved.shape)
