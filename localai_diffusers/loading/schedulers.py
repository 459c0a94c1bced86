# SPDX-License-Identifier: MIT
"""SchedulerType -> a diffusers scheduler that can drive the loaded model.

Names are those of LocalAI's documentation and model editor with the incumbent's classes behind them, the usual names
of newer schedulers, and any scheduler class by its own name. ``k_`` in front asks for Karras sigmas.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import diffusers_dynamic_loader as loader
from localai_diffusers.discovery.spelling import did_you_mean
from localai_diffusers.errors import LoadError
from localai_diffusers.pipeline import scheduler_calls, scheduler_kinds

KARRAS_PREFIX = "k_"


class Scheduler(NamedTuple):
    """A scheduler class and the config entries that make it the named one."""

    class_name: str
    config: Mapping[str, Any] = MappingProxyType({})


def _dpm(algorithm: str) -> Mapping[str, Any]:
    return MappingProxyType({"algorithm_type": algorithm, "solver_order": 2})


# The first twelve are the incumbent's (names from A1111 and k-diffusion, see huggingface/diffusers#4167), then the
# model editor's three that the incumbent refuses, then what came later.
NAMES: Mapping[str, Scheduler] = MappingProxyType(
    {
        "ddim": Scheduler("DDIMScheduler"),
        "pndm": Scheduler("PNDMScheduler"),
        "heun": Scheduler("HeunDiscreteScheduler"),
        "unipc": Scheduler("UniPCMultistepScheduler"),
        "euler": Scheduler("EulerDiscreteScheduler"),
        "euler_a": Scheduler("EulerAncestralDiscreteScheduler"),
        "lms": Scheduler("LMSDiscreteScheduler"),
        "dpm_2": Scheduler("KDPM2DiscreteScheduler"),
        "dpm_2_a": Scheduler("KDPM2AncestralDiscreteScheduler"),
        "dpmpp_2m": Scheduler("DPMSolverMultistepScheduler", _dpm("dpmsolver++")),
        "dpmpp_sde": Scheduler("DPMSolverSinglestepScheduler"),
        "dpmpp_2m_sde": Scheduler("DPMSolverMultistepScheduler", _dpm("sde-dpmsolver++")),
        "ddpm": Scheduler("DDPMScheduler"),
        "dpm_multistep": Scheduler("DPMSolverMultistepScheduler"),
        "dpm_singlestep": Scheduler("DPMSolverSinglestepScheduler"),
        "deis": Scheduler("DEISMultistepScheduler"),
        "lcm": Scheduler("LCMScheduler"),
        "tcd": Scheduler("TCDScheduler"),
        "sa_solver": Scheduler("SASolverScheduler"),
        "flow_match_euler": Scheduler("FlowMatchEulerDiscreteScheduler"),
        "flow_match_heun": Scheduler("FlowMatchHeunDiscreteScheduler"),
        "flow_match_lcm": Scheduler("FlowMatchLCMScheduler"),
    }
)


def parse_name(name: str) -> tuple[Scheduler, bool]:
    """The scheduler that ``name`` means and whether Karras sigmas are asked for.

    Raises LoadError with the closest names for an unknown one.
    """
    wanted = name.strip()
    karras = wanted.lower().startswith(KARRAS_PREFIX)
    key = wanted.lower().removeprefix(KARRAS_PREFIX)
    if key in NAMES:
        return NAMES[key], karras
    classes = {known.lower(): known for known in _scheduler_classes()}
    for spelling in (wanted.lower(), key):
        if spelling in classes:
            return Scheduler(classes[spelling]), karras and spelling == key
    every = [*NAMES, *(KARRAS_PREFIX + known for known in NAMES), *classes.values()]
    hint = did_you_mean(wanted, every, 3)
    raise LoadError(
        f"SchedulerType {name!r} is unknown. {hint}Available: {', '.join(NAMES)}, each with {KARRAS_PREFIX} in front "
        "for Karras sigmas, and every diffusers scheduler class by name"
    )


def make(name: str, current: Any, in_latent_space: bool, cls: type | None = None) -> tuple[Any, list[str]]:
    """The scheduler ``name`` with the config of the pipeline's ``current`` one, and what there is to say of it.

    ``in_latent_space``: the pipeline has a VAE. ``cls``: the pipeline's class, whose code asks more of some schedulers.
    Raises LoadError if the named class cannot drive this model.
    """
    wanted, karras = parse_name(name)
    own = _scheduler_class(wanted.class_name)
    reason, made = _tried(wanted, karras, current, in_latent_space, cls)
    if reason:
        raise LoadError(
            f"SchedulerType {name!r} ({own.__name__}) cannot drive this model{reason}. Those that can: "
            f"{', '.join(_able(current, in_latent_space, cls)) or type(current).__name__}"
        )
    ignored = f"SchedulerType {name!r}: {own.__name__} has no Karras sigmas, the {KARRAS_PREFIX} prefix is ignored"
    no_karras = karras and "use_karras_sigmas" not in _parameters(own)
    return made, ([ignored] if no_karras else []) + _losses(made, current)


def check(name: str, config: Mapping[str, Any], cls: type[Any] | None = None) -> None:
    """Raise LoadError if ``name`` is unknown or cannot drive the model whose scheduler_config.json is ``config``.

    ``cls`` is the pipeline's class. A scheduler that is made only with the model is judged then.
    """
    parse_name(name)
    own: Any = loader.discover_diffusers_classes("SchedulerMixin").get(str(config.get("_class_name", "")))
    with contextlib.suppress(TypeError, ValueError, AttributeError, ImportError, NotImplementedError):
        current = own.from_config(dict(config)) if own is not None else None
        if current is not None:
            make(name, current, True, cls)


def _tried(
    wanted: Scheduler, karras: bool, current: Any, in_latent_space: bool, cls: type[Any] | None
) -> tuple[str, Any]:
    """Why the scheduler cannot drive the model, to be read after "this model"; or "" and the scheduler."""
    own = _scheduler_class(wanted.class_name)
    try:
        with scheduler_kinds.quiet():
            made = own.from_config(current.config, **_entries(own, wanted, karras, current, in_latent_space))
    except (TypeError, ValueError, NotImplementedError) as error:  # what the model's config lacks, or has of another's
        return f"{_kind(current)} ({str(error)[:200]})", None
    if not scheduler_kinds.drives(made, current) and not _is_named(own, cls, made, current):
        same = scheduler_kinds.kind_of(made) == scheduler_kinds.kind_of(current) is not None
        return (f": it does not take the steps that a {type(current).__name__} does" if same else _kind(current)), None
    lacks = "" if cls is None or type(made) is type(current) else scheduler_calls.misfit(cls, made)
    return (f": {cls.__name__} asks more of a scheduler ({lacks})" if cls and lacks else ""), made


def _kind(current: Any) -> str:
    kind = scheduler_kinds.kind_of(current)
    return f", which is {kind}" if kind else f", which is one for a {type(current).__name__} alone"


def _is_named(own: type[Any], cls: type[Any] | None, made: Any, current: Any) -> bool:
    """Whether the pipeline's own constructor names the scheduler's class beside others (CogVideoX takes two)."""
    asked: Any = getattr(cls, "_get_signature_types", dict)
    types = asked().get("scheduler", ())
    return own in types and scheduler_kinds.kind_of(made) == scheduler_kinds.kind_of(current)


# What a config says of the model, whatever class reads it; diffusers leaves out what is a class's default, as if that
# were the other class's default too.
_FACTS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "snr_shift_scale",
)
# How far a flow's steps are moved towards noise, by the names that the classes have for it.
_SHIFTS = ("shift", "flow_shift")


def _entries(cls: type, wanted: Scheduler, karras: bool, current: Any, in_latent_space: bool) -> dict[str, Any]:
    """The entries of the new scheduler's config that ``from_config`` would not take over by itself."""
    config, parameters = current.config, _parameters(cls)
    entries = {name: config[name] for name in _FACTS if name in config and name in parameters}
    if scheduler_kinds.kind_of(current) == scheduler_kinds.FLOW:
        shift = next((config[name] for name in _SHIFTS if config.get(name) is not None), 1.0)
        entries |= {name: shift for name in _SHIFTS if name in parameters}
        if "use_flow_sigmas" in parameters:
            entries |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if in_latent_space and "clip_sample" in parameters and "clip_sample" not in config:
        entries["clip_sample"] = False  # the class's default clips at +-1, which is right for pixels, not for latents
    if karras and "use_karras_sigmas" in parameters:
        entries["use_karras_sigmas"] = True
    return {**entries, **wanted.config}


_LOST = {
    "rescale_betas_zero_snr": "its zero terminal SNR (very dark and very bright pictures come out grayer)",
    "shift_terminal": "shift_terminal",
    "use_dynamic_shifting": "the shift that goes by the picture's size",
    "shift": "its shift",
    "flow_shift": "its flow_shift",
}
_CLEAN = 0.01


def _losses(made: Any, current: Any) -> list[str]:
    """Notes on what the model's own scheduler has and the new one has not."""
    name, parameters = type(made).__name__, _parameters(type(made))
    of_flow = scheduler_kinds.kind_of(current) == scheduler_kinds.FLOW
    set_here = {name for name, value in current.config.items() if value and (value is True or value != 1.0)}
    if not of_flow or any(shift in parameters for shift in _SHIFTS):
        set_here -= set(_SHIFTS)
    lost = [said for entry, said in _LOST.items() if entry in set_here and entry not in parameters]
    notes = [f"{name} does not keep what the model's own scheduler has: {', '.join(lost)}"] if lost else []
    left = _noise_left(made) if scheduler_kinds.kind_of(made) == scheduler_kinds.FLOW else 0.0
    if left > _CLEAN:
        notes.append(
            f"{name} ends with noise in a flow's picture (a part of {left:.2f} after 20 steps, less after more)"
        )
    return notes


def _noise_left(scheduler: Any) -> float:
    """The part of noise in what a flow scheduler ends with, 0 where it cannot be asked beforehand."""
    with contextlib.suppress(Exception), scheduler_kinds.quiet():  # of any class's code: it is a note
        copy = type(scheduler).from_config(scheduler.config)
        copy.set_timesteps(20, **({"mu": 1.0} if copy.config.get("use_dynamic_shifting") else {}))
        return float(copy.sigmas[-1])
    return 0.0


def _scheduler_classes() -> list[str]:
    """Names of diffusers' scheduler classes that sample (discovered from the package, not listed by hand): without the
    base class, and what a pipeline's folder calls a scheduler that is none (the spectrograms of its sound)."""
    every = loader.discover_diffusers_classes("SchedulerMixin")
    return [name for name, cls in every.items() if hasattr(cls, "from_config") and hasattr(cls, "set_timesteps")]


def _scheduler_class(class_name: str) -> type[Any]:
    return loader.discover_diffusers_classes("SchedulerMixin")[class_name]


def _parameters(cls: type[Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__init__).parameters


def _able(current: Any, in_latent_space: bool, cls: type | None = None) -> list[str]:
    """The names of those that can drive the model."""
    key = (type(current), repr(sorted(current.config.items(), key=str)), in_latent_space, cls)
    if key not in _known_able:
        tried = {name: _tried(known, False, current, in_latent_space, cls)[0] for name, known in NAMES.items()}
        _known_able[key] = [name for name, reason in tried.items() if not reason]
    return _known_able[key]


# By what a refusal is about: a second of constructors' work, that comes out the same.
_known_able: dict[Any, list[str]] = {}
