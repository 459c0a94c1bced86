# SPDX-License-Identifier: MIT
"""Several GPUs of one host that compute each step together: ``parallel:``, and TensorParallelSize where it can serve.

Every rank loads the same pipeline by the same LoadSpec, then diffusers shares the denoiser out by the model's own plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.discovery.words import DENOISERS
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.loading.placing import devices, memory_plan, switches
from localai_diffusers.loading.placing.placement import DevicePlan
from localai_diffusers.wire.load_spec import LoadSpec
from localai_diffusers.wire.options import OPTIONS
from localai_diffusers.work.ranks import group
from localai_diffusers.work.ranks.peer import Peer

# The attribute of a model's class that says how it is shared out.
_PLANS = {"context": "_cp_plan", "ring": "_cp_plan", "tensor": "_tp_plan"}
# What was never tried together, moves or wraps weights that are shared out, or lets a rank decide by its own share.
_ALONE = (
    "device_map",
    "text_encoder_offload",
    "max_batch",
    "quantization",
    "cache",
    "compile",
    "layerwise_casting",
    "fuse_qkv",
    "generator_device",
    "custom_pipeline",
    "ip_adapter",
)


@dataclass(frozen=True)
class Shares:
    """How the denoiser is shared (context, ring or tensor), and among how many ranks."""

    way: str
    count: int

    @property
    def note(self) -> str:
        return (
            f"{self.count} GPUs compute together ({self.way} parallel of diffusers): its launcher is tested on CPUs, "
            "the sharing itself was not tried on several GPUs"
        )


def plan(spec: LoadSpec, facts: ModelFacts, where: DevicePlan, weight_bytes: int) -> Shares | None:
    """How the model is shared out, None where one process serves it.

    Raises LoadError where ``parallel`` is asked for and cannot be, saying why and what would serve.
    """
    if not spec.options.parallel:
        return _by_size(spec, facts, where, weight_bytes)
    shares = Shares(*next(iter(spec.options.parallel.items())))
    if reason := next(_reasons(spec, facts, where, shares), ""):
        raise LoadError(f"option parallel:{shares.way}={shares.count} {reason}")
    return shares


def refuse(spec: LoadSpec, kind: str) -> None:
    """Raise LoadError where ``parallel`` is asked for ``kind`` of models, which is never shared out."""
    if spec.options.parallel:
        raise LoadError(f"option parallel cannot share out {kind}: drop it, one GPU serves")


def _by_size(spec: LoadSpec, facts: ModelFacts, where: DevicePlan, weight_bytes: int) -> Shares | None:
    """By TensorParallelSize, where nothing speaks against it; else ``balanced`` serves, also where a model does not
    fit into one GPU: every rank loads the whole before it is shared out."""
    free = devices.free_memory(where.device) if where.device_map else None
    if spec.gpus < 2 or spec.options.device_map or free is None or free < memory_plan.with_room(weight_bytes):
        return None
    ways = (Shares(way, spec.gpus) for way in ("tensor", "context"))
    return next((one for one in ways if not next(_reasons(spec, facts, where, one), "")), None)


def _reasons(spec: LoadSpec, facts: ModelFacts, where: DevicePlan, shares: Shares) -> Iterator[str]:
    """What speaks against it, with the way out."""
    there = devices.device_count(where.device)
    if there < shares.count:
        yield f"needs {shares.count} GPUs, and this model has {there} (it runs on {where.device}): drop the option"
    if where.device.partition(":")[2] not in ("", "0"):
        yield f"takes the first {shares.count} GPUs, not {where.device}: choose them by CUDA_VISIBLE_DEVICES"
    kinds = {facts.components[name][1] for name in DENOISERS if name in facts.components}
    without = sorted(kind for kind in kinds if not _plan_of(kind, shares.way))
    if without or not kinds:
        yield f"needs diffusers' plan, and {', '.join(without) or 'this model'} has none: device_map:balanced serves"
    if where.offload != "none":
        yield f"cannot be combined with offload:{where.offload} (or low_vram): drop one"
    options = (name for name in _ALONE if name in OPTIONS and getattr(spec.options, name) != OPTIONS[name].default)
    yield from (f"cannot be combined with option {name}: drop one" for name in options)
    if spec.controlnets:
        yield "cannot be combined with a ControlNet, which is not shared out: drop one"
    if spec.loras and shares.way == "tensor":
        yield "cannot be combined with a LoRA: use context"
    heads = {facts.config(name).get("num_attention_heads") for name in DENOISERS if name in facts.components}
    if shares.way == "tensor" and any(count % shares.count for count in heads if isinstance(count, int)):
        yield f"does not divide the model's attention heads ({', '.join(map(str, heads))}): use a divisor, or context"


def _plan_of(kind: str, way: str) -> Any:
    import diffusers

    return getattr(getattr(diffusers, kind, None), _PLANS[way], None)


def alone(spec: LoadSpec, device: str) -> LoadSpec:
    """The spec by which a peer loads the whole model on ``device``."""
    return replace(spec, gpus=1, options=replace(spec.options, parallel={}, device=device))


def on_every_rank(
    build: Callable[[], LoadedModel],
    shares: Shares,
    where: DevicePlan,
    load: Callable[..., None],
    *arguments: Any,
    log_format: str,
    check: Callable[[], None],
) -> Callable[[], LoadedModel]:
    """``build`` on this rank while ``load(peer, control, *arguments)`` does so on its peers; then all share it out."""

    def everywhere() -> LoadedModel:
        ranks = group.start(shares.count, where.kind, log_format)
        try:
            ranks.ask(load, *arguments)
            model = build()
            ranks.answers(check)
            ranks.join()
            ranks.run(lambda _control: share(model.pipeline, shares), share_as_peer, shares)
        except BaseException:
            group.end()
            raise
        return model

    return everywhere


def share(pipeline: Any, shares: Shares) -> None:
    """Share the denoisers out; every rank must. Raises ValueError in diffusers' words for what it cannot."""
    from diffusers import ContextParallelConfig, TensorParallelConfig

    ways: dict[str, Callable[[], Any]] = {  # "anything": sizes and heads that the ranks do not divide
        "context": lambda: ContextParallelConfig(ulysses_degree=shares.count, ulysses_anything=True),
        "ring": lambda: ContextParallelConfig(ring_degree=shares.count, ring_anything=True),
        "tensor": lambda: TensorParallelConfig(tp_degree=shares.count),
    }
    for denoiser in switches.denoisers(pipeline):
        denoiser.enable_parallelism(config=ways[shares.way]())


def share_as_peer(peer: Peer, _control: Any, shares: Shares) -> None:
    """:func:`share` on a peer."""
    share(peer.model.pipeline, shares)
