# SPDX-License-Identifier: MIT
"""What a pipeline and its components were like after the load, to be so again after each request, however it ends.

Pipelines of diffusers change what they are given for the length of a call and put it back at its end, which a call that
is cancelled or fails does not reach: a VAE in fp32 for the decode, attention processors of a guidance, a scheduler's
counters. Nothing is known of the single ways: every attribute that was there and is another object now is set back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class AsLoaded:
    """A record of a pipeline, its scheduler and other plain components, and every module of the rest.

    It holds references, no copies: of weights the dtypes alone, which casting changes under the same name. Hooks are
    left alone: transformers hangs its own onto a model at its first call, for good.
    """

    def __init__(self, pipeline: Any) -> None:
        modules = [module for part in _modules(pipeline) for module in part.modules()]
        self._attributes = [(thing, dict(vars(thing))) for thing in (*_plain(pipeline), *modules)]
        self._parts = [(module._modules, dict(module._modules)) for module in modules]
        self._dtypes = [
            (module, table, name, tensor.dtype)
            for module in modules
            for table in (module._parameters, module._buffers)
            for name, tensor in table.items()
            if tensor is not None and tensor.is_floating_point()
        ]

    def restore(self) -> list[str]:
        """Set back what changed; what that was, as class and attribute. What is new stays: caches are made anew."""
        changed = [name for thing, before in self._attributes for name in _set_back(thing, before)]
        for table, parts in self._parts:
            if table != parts:
                changed += [f"submodule {name}" for name in parts if table.get(name) is not parts[name]]
                table.clear()
                table.update(parts)
        for module, table, name, dtype in self._dtypes:
            tensor = table.get(name)
            if tensor is not None and tensor.dtype is not dtype:  # fp16 -> fp32 -> fp16 loses nothing
                tensor.data = tensor.data.to(dtype)
                changed.append(f"{type(module).__name__}.{name}")
        return changed


def _plain(pipeline: Any) -> Iterator[Any]:
    """The pipeline and its components that are no modules: schedulers, tokenizers, processors."""
    import torch

    yield pipeline
    for part in pipeline.components.values():
        if hasattr(part, "__dict__") and not isinstance(part, (torch.nn.Module, type)):
            yield part


def _modules(pipeline: Any) -> list[Any]:
    import torch

    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def _set_back(thing: Any, before: Mapping[str, Any]) -> list[str]:
    now = vars(thing)
    if _is_same(now, before):
        return []
    changed = [name for name, value in before.items() if now.get(name, now) is not value]
    now.update((name, before[name]) for name in changed)
    return [f"{type(thing).__name__}.{name}" for name in changed]


def _is_same(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether nothing changed, told in one comparison: of hundreds of modules most are as they were, and Python looks
    for the same object before it asks for equality."""
    try:
        return now == before
    except Exception:  # noqa: BLE001 - a tensor beside another answers with a tensor, and others as they like
        return False
