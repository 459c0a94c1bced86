# SPDX-License-Identifier: MIT
"""Which cache of diffusers stands on a denoiser: what each needs of the model, checked, and the cache put on.

A cache keeps what a denoiser's blocks or attentions made at one step and uses it again at the next, in place of
computing it. What depends on the request is ``cache_use``'s.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.discovery.spelling import did_you_mean
from localai_diffusers.discovery.words import DENOISERS
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.placing.cache_use import PER_REQUEST, BlockCache, contexts_of
from localai_diffusers.loading.placing.precision import DTYPES
from localai_diffusers.wire.option_values import Named
from localai_diffusers.wire.options import Options


@dataclass(frozen=True)
class Kind:
    """``config``: its class in ``diffusers.hooks``. ``by_blocks``: it skips whole blocks, which diffusers has to know.
    ``spans_batch``: it decides once for all pictures of a call. ``by_order``: it was measured step by step."""

    config: str
    by_blocks: bool = False
    spans_batch: bool = False
    by_order: bool = False


KINDS: Mapping[str, Kind] = {
    "first_block": Kind("FirstBlockCacheConfig", by_blocks=True, spans_batch=True),
    "taylorseer": Kind("TaylorSeerCacheConfig"),
    "pyramid": Kind("PyramidAttentionBroadcastConfig"),
    "faster": Kind("FasterCacheConfig"),
    "mag": Kind("MagCacheConfig", by_blocks=True, by_order=True),
}


def check(options: Options, cls: type, kinds: Mapping[str, type]) -> None:
    """Raise LoadError for a cache that a pipeline ``cls`` cannot have, from what is known before its weights are read.

    ``kinds``: the classes of its components, as far as they are known.
    """
    said = options.cache
    if said is None:
        return
    _config_of(said)
    if KINDS[said.name].spans_batch and options.max_batch > 1:
        raise LoadError(
            f"option cache:{said.name} decides once for all pictures of a call, which would depend on their neighbors "
            f"with max_batch:{options.max_batch}: leave one of the two out, or use cache:taylorseer"
        )
    if not contexts_of(cls):
        raise _refused(said, f"the call of {cls.__name__} opens no cache context, by which a cache tells its states")
    found = {name: kinds[name] for name in DENOISERS if name in kinds}
    for name, kind in found.items():
        if not hasattr(kind, "enable_cache"):
            raise _refused(said, f"{name} ({kind.__name__}) takes no cache (it is no CacheMixin of diffusers)")
    if KINDS[said.name].by_order and len(found) > 1:
        raise _refused(said, f"{' and '.join(found)} share the steps, and its ratios are those of one", "taylorseer")


def enabled(pipeline: Any, options: Options) -> BlockCache | None:
    """The cache that ``options`` say, on every denoiser of ``pipeline``; None where they say none.

    Raises LoadError for what :func:`check` refuses, and for denoisers whose blocks the cache does not know.
    """
    said = options.cache
    if said is None:
        return None
    check(options, type(pipeline), {name: type(part) for name, part in pipeline.components.items() if part is not None})
    denoisers = {name: part for name in DENOISERS if (part := pipeline.components.get(name)) is not None}
    cache = BlockCache(said.name, _config_of(said), tuple(denoisers.values()))
    for name, denoiser in denoisers.items():
        if KINDS[said.name].by_blocks:
            _check_blocks(said, name, denoiser)
        if not cache.put_on(denoiser):
            what = f"{name} ({type(denoiser).__name__}) has no layer that it is for"
            raise _refused(said, what, "first_block")
    return cache


def _refused(said: Named, reason: str, instead: str = "") -> LoadError:
    way_out = f"cache:{instead} may serve, or " if instead and instead != said.name else ""
    return LoadError(
        f"option cache:{said.name}: {reason}: {way_out}leave the option out (compile:true and attention_backend speed "
        "such a model up)"
    )


# --- blocks ----------------------------------------------------------------------------------------------------------


def _check_blocks(said: Named, name: str, denoiser: Any) -> None:
    """Raise LoadError for blocks of which diffusers does not know what goes in and out."""
    blocks = list(_blocks(denoiser))
    reason = "it has fewer than two blocks" if len(blocks) < 2 else ""
    kinds = dict.fromkeys(type(block) for block in blocks)
    reason = reason or next(filter(None, (_misfit(said, kind) for kind in kinds)), "")
    if said.name == "first_block" and not reason and len({_returns_two(kind) for kind in kinds}) > 1:
        reason = "some of its blocks return the prompt's states, and others do not"
    if reason:
        raise _refused(said, f"{name} ({type(denoiser).__name__}): {reason}", "taylorseer")


def _blocks(denoiser: Any) -> Iterator[Any]:
    """What diffusers takes for a model's row of blocks."""
    import torch
    from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS

    for name, part in denoiser.named_children():
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS and isinstance(part, torch.nn.ModuleList):
            yield from part


def _metadata(kind: type) -> Any:
    from diffusers.hooks._helpers import TransformerBlockRegistry

    return TransformerBlockRegistry.get(kind)


def _returns_two(kind: type) -> bool:
    return _metadata(kind).return_encoder_hidden_states_index is not None


def _misfit(said: Named, kind: type) -> str:
    """Why blocks of ``kind`` cannot be skipped, "" where they can: the names are those that the hooks ask for."""
    try:
        states = _metadata(kind).hidden_states_argument_name
    except ValueError:
        return f"its {kind.__name__} is not registered with diffusers"
    wanted = {states if said.name == "mag" else "hidden_states"}
    wanted |= {"encoder_hidden_states"} if _returns_two(kind) else set()
    missing = sorted(wanted - inspect.signature(kind.forward).parameters.keys())  # type: ignore[attr-defined]
    return f"its {kind.__name__} takes no {missing[0]}" if missing else ""


# --- parameters ------------------------------------------------------------------------------------------------------


def _config_of(said: Named) -> Any:
    """The config with the option's parameters, which are its class's fields. Raises LoadError naming what is wrong."""
    import diffusers.hooks

    cls: Any = getattr(diffusers.hooks, KINDS[said.name].config)
    hints = typing.get_type_hints(cls)
    fields = [field.name for field in dataclasses.fields(cls) if _is_settable(field.name, hints[field.name])]
    for name in said.arguments:
        if name not in fields:
            raise LoadError(
                f"option cache:{said.name} has no parameter {name!r}. {did_you_mean(name, fields)}"
                f"It takes {', '.join(fields)}"
            )
    if said.name == "mag" and not (said.arguments.get("mag_ratios") or said.arguments.get("calibrate")):
        raise LoadError(
            "option cache:mag needs mag_ratios, which are each checkpoint's own: cache:mag(calibrate=true) prints them "
            "after a picture, and cache:mag(mag_ratios=[1.0, …]) takes them; cache:taylorseer needs none"
        )
    return cls(**{name: _coerced(said, name, value, hints[name]) for name, value in said.arguments.items()})


def _is_settable(name: str, hint: Any) -> bool:
    return not (name.startswith("_") or name in PER_REQUEST or "Callable" in str(hint))


def _coerced(said: Named, name: str, value: Any, hint: Any) -> Any:
    """``value`` as the field takes it."""
    import torch

    kinds = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    if torch.dtype in kinds and value in DTYPES:
        return getattr(torch, DTYPES[value])
    if not any(_is_a(value, kind) for kind in kinds):
        taken = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds if kind is not type(None))
        least = " of at least 1" if int in kinds else ""
        raise LoadError(f"option cache:{said.name}({name}={value!r}): it takes {taken}{least}")
    return value


def _is_a(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        least = 1 if kind is int else 0
        return not isinstance(value, bool) and isinstance(value, (int, kind)) and value >= least
    inner, outer = typing.get_args(kind), typing.get_origin(kind)
    if outer not in (list, tuple):
        return isinstance(kind, type) and isinstance(value, kind)
    many = outer is list or Ellipsis in inner
    item: Any = (int, float) if inner[0] in (int, float) else inner[0]
    return (
        isinstance(value, (list, tuple))
        and (many or len(value) == len(inner))
        and all(isinstance(part, item) for part in value)
    )
