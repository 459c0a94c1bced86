# SPDX-License-Identifier: MIT
"""A cache on the denoisers of a loaded model, and what of it depends on the request."""

from __future__ import annotations

import contextlib
import dis
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from localai_diffusers.pipeline.kept import kept

# Fields of diffusers' configs that a request decides, and no option.
PER_REQUEST = frozenset({"num_inference_steps", "is_guidance_distilled", "current_timestep_callback"})
# Those of a state for each context (prompt, negative prompt); the others mix two calls of one step up.
_BY_CONTEXT = frozenset({"first_block", "taylorseer", "mag"})
_NO_TIME = 1001.0
# How arguments of a denoiser begin that make its first step another than the later ones.
_KEYS_AND_VALUES = "kv_cache"


@kept(512)
def contexts_of(cls: type) -> int:
    """At how many places the class whose call it is opens a cache context: one for each kind of its denoiser's runs."""
    owner = next(base for base in cls.__mro__ if "__call__" in vars(base))
    codes = [code for function in vars(owner).values() if (code := _code(function)) is not None]
    return sum(instruction.argval == "cache_context" for code in codes for instruction in _instructions(code))


def _code(function: Any) -> CodeType | None:
    while hasattr(function, "__wrapped__"):  # torch.no_grad
        function = function.__wrapped__
    return getattr(function, "__code__", None)


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _instructions(inner)


@dataclass
class BlockCache:
    """A cache that is put on ``denoisers`` once, so that what is compiled stays, and switched by each call.

    ``kind``: the option's word. ``config``: of diffusers; its hooks read some of it at each step.
    """

    kind: str
    config: Any
    denoisers: tuple[Any, ...]
    _hooks: list[tuple[Any, Any, Any]] = field(default_factory=list)  # module, hook, and what the hook calls
    _running: Any = None

    def __post_init__(self) -> None:
        self.ratios = getattr(self.config, "mag_ratios", None)

    def put_on(self, denoiser: Any) -> int:
        """Enable the cache. How many hooks it hung onto the model."""
        before = {id(hook) for _module, hook in _all_hooks(denoiser)}
        if hasattr(self.config, "current_timestep_callback"):
            self.config.current_timestep_callback = self.timestep
        denoiser.enable_cache(self.config)
        new = [(module, hook) for module, hook in _all_hooks(denoiser) if id(hook) not in before]
        self._hooks += [(module, hook, hook.fn_ref.forward) for module, hook in new]
        return sum(module is not denoiser for module, _hook in new)

    def timestep(self) -> float:
        """The pipeline's current timestep; far from every range where it has none."""
        now = getattr(self._running, "current_timestep", None)
        return _NO_TIME if now is None else float(now)

    @contextlib.contextmanager
    def during(self, pipeline: Any) -> Iterator[list[str]]:
        """The cache as a call of ``pipeline`` needs it, of no state before and after, however the call ends.

        Yields the notes, whole at the end: that it is off, and why.
        """
        use = _Use(self, pipeline)
        self._running = pipeline
        self._reset()
        handles = [denoiser.register_forward_pre_hook(use.before_step, with_kwargs=True) for denoiser in self.denoisers]
        try:
            if not contexts_of(type(pipeline)):
                use.off(f"{type(pipeline).__name__} opens no cache context")
            yield use.notes
        finally:
            for handle in handles:
                handle.remove()
            self._reset()
            self.switch(True)
            self._running = None

    def switch(self, on: bool) -> None:
        """Whether the hooks do what they are for, or hand the call on. They stay: what wraps them, and graphs of them,
        stay right."""
        for _module, hook, own in self._hooks:
            hook.fn_ref.forward = own if on else hook.fn_ref.original_forward

    def _reset(self) -> None:
        for module, hook, _own in self._hooks:
            if hook._is_stateful:
                hook.reset_state(module)

    def set_for_request(self, name: str, value: Any) -> None:
        """Give every hook that has it this attribute."""
        for _module, hook, _own in self._hooks:
            if hasattr(hook, name):
                setattr(hook, name, value)


class _Use:
    """One call: the cache is set at the first run of a denoiser, when the pipeline knows its steps and guidance."""

    def __init__(self, cache: BlockCache, pipeline: Any) -> None:
        self.notes: list[str] = []
        self._cache = cache
        self._pipeline = pipeline
        self._begun = False
        self._last: dict[int, Any] = {}  # by denoiser, the timestep of its last run

    def off(self, reason: str) -> None:
        self._cache.switch(False)
        self.notes.append(f"option cache:{self._cache.kind} is off for this request: {reason}")

    def before_step(self, denoiser: Any, _arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self.notes:
            return
        if any(value is not None for name, value in named.items() if name.startswith(_KEYS_AND_VALUES)):
            self.off(
                "the model itself keeps what its first step made of the prompt, and has fewer tokens in the later ones "
                "(use_kv_cache:false, where the pipeline takes it, leaves it to this cache)"
            )
            return
        if not self._begun:
            self._begun = True
            self._begin(named)
        if self._cache.kind in _BY_CONTEXT:
            return
        timestep = getattr(self._pipeline, "current_timestep", None)
        if timestep is not None and self._last.get(id(denoiser)) is timestep:
            self.off("the model runs more than once a step here, and this cache would mix those runs up")
        self._last[id(denoiser)] = timestep

    def _begin(self, named: dict[str, Any]) -> None:
        begin = {"mag": self._count_steps, "faster": self._tell_guidance}.get(self._cache.kind)
        if begin is not None:
            begin(named)

    def _count_steps(self, _named: dict[str, Any]) -> None:
        """The ratios stretched over the steps that this call really takes."""
        config = self._cache.config
        told = {name: getattr(config, name) for name in vars(config)} | {"mag_ratios": self._cache.ratios}
        vars(config).update(vars(type(config)(**told | {"num_inference_steps": self._pipeline.num_timesteps})))

    def _tell_guidance(self, named: dict[str, Any]) -> None:
        """Whether prompt and negative prompt run as one batch, which this cache splits."""
        pipeline, config = self._pipeline, self._cache.config
        halves = contexts_of(type(pipeline)) == 1 and bool(getattr(pipeline, "do_classifier_free_guidance", False))
        self._cache.set_for_request("is_guidance_distilled", not halves)
        if not halves and self._cache.timestep() < config.spatial_attention_timestep_skip_range[1]:
            self.off("without guidance it needs a first step outside its range, and this request begins within")
        elif halves and getattr(named.get("hidden_states"), "ndim", 0) != len(config.tensor_format):
            self.off(f"with guidance it takes latents of the form {config.tensor_format}, and this model's are another")


def _all_hooks(denoiser: Any) -> list[tuple[Any, Any]]:
    registries = ((module, getattr(module, "_diffusers_hook", None)) for module in denoiser.modules())
    return [(module, hook) for module, registry in registries if registry for hook in registry.hooks.values()]
