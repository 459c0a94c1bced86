# SPDX-License-Identifier: MIT
"""Encoded prompts that are kept: a text encoder that was given the same before is not run again.

What is kept is the answer of an encoder's forward, by everything that enters it: the tensors (token ids, masks, pixels
of a picture that it reads), the other arguments, and the scales of the LoRAs on it. What a pipeline makes of the answer
(skipped layers, pooling, repeats) it makes anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.placing.encoder_offload import is_text_encoder, text_encoders
from localai_diffusers.wire.options import Options

# Hooks of these packages are the model's own, or look for a cancel: they want nothing of a call that is spared.
_OWN_HOOKS = (__name__.partition(".")[0], "transformers", "accelerate", "peft", "torch")
_CACHE = "past_key_values"
_PLAIN = (type(None), bool, int, float, str)


def check(options: Options, facts: ModelFacts) -> None:
    """Raise LoadError where there is no text encoder whose answers could be kept."""
    if options.prompt_cache and not any(is_text_encoder(*part) for part in facts.components.items()):
        raise LoadError("option prompt_cache: this model has no text encoder of transformers: leave the option out")


class PromptCache:
    """At most ``most_bytes`` of encoders' answers, on the devices that they were made on; the oldest in use goes first.

    ``hits`` and ``misses`` count forwards that were and were not spared. ``is_watched``: an encoder had to run, for
    who called it looks into it.
    """

    def __init__(self, most_bytes: int) -> None:
        self.hits = self.misses = self.bytes = 0
        self.is_watched = False
        self._most = most_bytes
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def put_on(self, pipeline: Any) -> None:
        """Let the text encoders of ``pipeline`` be asked here first: outermost, so that one that waits on the host
        stays there. Before each call: diffusers hangs the hooks of an offload up anew after it, and takes this off."""
        for encoder in text_encoders(pipeline):
            if not isinstance(encoder.forward, _Remembered):
                encoder.forward = _Remembered(self, encoder)
            encoder.forward.lora = _lora_layers(encoder)

    def notes(self) -> list[str]:
        """What is to be told of the calls since it was asked last."""
        watched, self.is_watched = self.is_watched, False
        told = "option prompt_cache is off for this request: the pipeline looks into its text encoder, which has to run"
        return [told] if watched else []

    def find(self, key: str) -> Any:
        """The answer of ``key``, a copy of its own, None where it is not kept."""
        if key not in self._kept:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return _copied(self._kept[key][0])

    def keep(self, key: str, answer: Any) -> None:
        """Keep a copy of ``answer``; not one that alone is too large, or that holds what cannot be copied."""
        copied = _copied(answer)
        if not _is_whole(copied):
            return
        size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(copied))
        if size > self._most:
            return
        self._kept[key] = copied, size
        self.bytes += size
        while self.bytes > self._most:
            _key, (_answer, freed) = self._kept.popitem(last=False)
            self.bytes -= freed


class _Remembered:
    """An encoder's forward that is run only for what is not kept."""

    def __init__(self, cache: PromptCache, encoder: Any) -> None:
        self.__wrapped__: Callable[..., Any] = encoder.forward  # pipelines ask for its signature
        self._cache, self._encoder = cache, encoder
        self._name = str(id(encoder))  # by identity: siblings have the encoders in another order
        self.lora: tuple[Any, ...] = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        scales = [(layer.active_adapters, layer.disable_adapters, layer.scaling) for layer in self.lora]
        key = _key([self._name, arguments, sorted(named.items()), repr(scales)])
        watched = _is_watched(self._encoder)
        self._cache.is_watched |= watched
        if watched or not key:
            return self.__wrapped__(*arguments, **named)
        answer = self._cache.find(key)
        if answer is None:
            answer = self.__wrapped__(*arguments, **named)
            self._cache.keep(key, answer)
        return answer


def _is_watched(encoder: Any) -> bool:
    """Whether somebody looks into the encoder by hooks on it or its layers, which run with it alone."""
    on_layers = ((layer._forward_hooks, layer._forward_pre_hooks) for layer in encoder.modules())
    hooks = (hook for both in on_layers for kept in both for hook in kept.values())
    return any((getattr(hook, "__module__", None) or "").partition(".")[0] not in _OWN_HOOKS for hook in hooks)


def _lora_layers(encoder: Any) -> tuple[Any, ...]:
    if not getattr(encoder, "peft_config", None):
        return ()
    from peft.tuners.tuners_utils import BaseTunerLayer

    return tuple(module for module in encoder.modules() if isinstance(module, BaseTunerLayer))


def _key(values: Any) -> str:
    """A digest of ``values``, "" where something in them may change (a cache of earlier tokens)."""
    digest = hashlib.sha256()
    try:
        for part in _parts(values):
            digest.update(part)
    except TypeError:
        return ""
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    import torch

    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)} {value.device}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} {len(value)}".encode()
        for part in value:
            yield from _parts(part)
    elif isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}\n".encode()
    else:
        raise TypeError(type(value))


def _copied(answer: Any) -> Any:
    """With tensors of its own, for a pipeline may write into them; without the cache of a text that goes on, which no
    pipeline reads of an encoder and which takes as much again."""
    import torch
    from torch.utils._pytree import tree_map

    copied = tree_map(lambda part: part.clone() if isinstance(part, torch.Tensor) else part, answer)
    if isinstance(copied, dict) and copied.get(_CACHE) is not None:
        copied[_CACHE] = None
    return copied


def _is_whole(copied: Any) -> bool:
    """Whether nothing is in it but tensors, which are counted, and what takes no memory."""
    import torch
    from torch.utils._pytree import tree_leaves

    return all(isinstance(part, (torch.Tensor, *_PLAIN)) for part in tree_leaves(copied))


def _tensors(answer: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [part for part in tree_leaves(answer) if isinstance(part, torch.Tensor)]
