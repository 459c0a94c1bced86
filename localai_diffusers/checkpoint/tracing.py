# SPDX-License-Identifier: MIT
"""What a converter of names does with a file's tensors, found out by running it on tensors that remember their origin.

diffusers' converters rename, split and join; some swallow what they do not know, so that what they leave over
proves nothing. Run on tensors without data, each of which carries the keys that it was made of, they show which key of
the file reached which weight of the model. A converter that looks at values is run on the real ones.

Imports torch: import it where it is used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

_lock = threading.Lock()
Converter = Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Output:
    """A tensor that a converter made: its shape, and the keys of the file that it was made of (none: made up)."""

    shape: tuple[int, ...]
    keys: frozenset[str]


@dataclass(frozen=True)
class Trace:
    """What a converter made, by name, and the keys whose values it computed with as plain numbers (a LoRA's alpha)."""

    outputs: Mapping[str, Output]
    read: frozenset[str]

    @property
    def keys(self) -> frozenset[str]:
        """Every key of the file that counts in what was made."""
        return self.read.union(*(output.keys for output in self.outputs.values()))


# What looks at values, which tensors without data do not have.
_VALUE = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__int__,
    torch.Tensor.__index__,
    torch.Tensor.equal,
    torch.Tensor.allclose,
    torch.equal,
    torch.allclose,
}
_IN_PLACE = {torch.Tensor.__setitem__, torch.Tensor.copy_}


class _ValueNeeded(BaseException):
    """A converter looks at the values of what was made of these keys. No Exception, which converters may catch."""

    def __init__(self, keys: frozenset[str]) -> None:
        self.keys = keys


class _Traced(torch.Tensor):
    """A tensor that knows its keys; what is computed from it knows them too."""

    keys: frozenset[str] = frozenset()
    looked_at: set[str] = set()  # of the run in progress; one at a time, under the lock

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        traced = [value for value in tree_leaves((args, kwargs or {})) if isinstance(value, cls)]
        keys = frozenset().union(*(value.keys for value in traced))
        if func in _VALUE:
            if any(value.is_meta for value in traced):
                raise _ValueNeeded(keys)
            cls.looked_at |= keys
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func in _IN_PLACE:
            args[0].keys = keys
        return tree_map(lambda value: _traced(value, keys) if isinstance(value, torch.Tensor) else value, result)


def _traced(tensor: torch.Tensor, keys: frozenset[str]) -> _Traced:
    found = tensor if isinstance(tensor, _Traced) else tensor.as_subclass(_Traced)
    found.keys = keys
    return found


def trace(
    convert: Converter,
    shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    read: Callable[[list[str]], Mapping[str, torch.Tensor]],
) -> Trace:
    """What ``convert`` makes, and of what.

    ``shapes`` says of each of the file's keys its shape and dtype; ``read`` gives the real tensors of those keys whose
    values are looked at, and of no others. Raises what ``convert`` raises.
    """
    given = {key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in shapes.items()}
    while True:
        try:
            return _run(convert, given)
        except _ValueNeeded as needed:
            given |= read(sorted(needed.keys))


def _run(convert: Converter, tensors: Mapping[str, torch.Tensor]) -> Trace:
    marked = {key: _traced(tensor.detach().view_as(tensor), frozenset({key})) for key, tensor in tensors.items()}
    with _lock:
        _Traced.looked_at = set()
        made = convert(marked)
        looked_at = frozenset(_Traced.looked_at)
    outputs = {
        name: Output(tuple(value.shape), getattr(value, "keys", frozenset()))
        for name, value in made.items()
        if isinstance(value, torch.Tensor)
    }
    return Trace(outputs, looked_at)
