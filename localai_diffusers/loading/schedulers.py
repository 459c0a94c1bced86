"""SchedulerType -> a diffusers scheduler that can drive the loaded model.

Names are those of LocalAI's documentation and model editor with the incumbent's classes behind them, the usual names
of newer schedulers, and any scheduler class by its own name. ``k_`` in front asks for Karras sigmas.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import diffusers_dynamic_loader as loader
from localai_diffusers.errors import LoadError

log = logging.getLogger(__name__)

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
    close = difflib.get_close_matches(wanted, every, 3, 0.5)
    hint = f"Did you mean {', '.join(close)}? " if close else ""
    raise LoadError(
        f"SchedulerType {name!r} is unknown. {hint}Available: {', '.join(NAMES)}, each with {KARRAS_PREFIX} in front "
        "for Karras sigmas, and every diffusers scheduler class by name"
    )


def make(name: str, current: Any, in_latent_space: bool) -> tuple[Any, list[str]]:
    """The scheduler ``name`` with the config of the pipeline's ``current`` one, and what there is to say of it.

    ``in_latent_space``: the pipeline has a VAE. Raises LoadError if the named class cannot drive this model.
    """
    wanted, karras = parse_name(name)
    cls = _scheduler_class(wanted.class_name)
    flow = _is_flow(type(current), current.config)
    if not _can_drive(cls, flow):
        raise LoadError(
            f"SchedulerType {name!r} ({cls.__name__}) cannot drive this model, which is "
            f"{'a flow-matching' if flow else 'not a flow-matching'} one. Those that can: {', '.join(_able(flow))}"
        )
    extra = dict(wanted.config)
    parameters = inspect.signature(cls.__init__).parameters
    if flow and "use_flow_sigmas" in parameters:
        extra |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if in_latent_space and "clip_sample" in parameters and "clip_sample" not in current.config:
        extra["clip_sample"] = False  # the class's default clips at +-1, which is right for pixels, not for latents
    notes = []
    if karras and "use_karras_sigmas" not in parameters:
        notes.append(
            f"SchedulerType {name!r}: {cls.__name__} has no Karras sigmas, the {KARRAS_PREFIX} prefix is ignored"
        )
    elif karras:
        extra["use_karras_sigmas"] = True
    return cls.from_config(current.config, **extra), notes


def check(name: str, config: Mapping[str, Any]) -> None:
    """Raise LoadError if ``name`` is unknown or cannot drive the model whose scheduler_config.json is ``config``."""
    wanted, _ = parse_name(name)
    own = str(config.get("_class_name", ""))
    if not own:
        return
    flow = "FlowMatch" in own or _config_says_flow(config)
    if not _can_drive(_scheduler_class(wanted.class_name), flow):
        raise LoadError(
            f"SchedulerType {name!r} ({wanted.class_name}) cannot drive this model, whose own scheduler is {own}. "
            f"Those that can: {', '.join(_able(flow))}"
        )


def _scheduler_classes() -> list[str]:
    """Names of diffusers' scheduler classes that can be imported (discovered from the package, not listed by hand)."""
    return list(loader.discover_diffusers_classes("SchedulerMixin"))


def _scheduler_class(class_name: str) -> type:
    return loader.discover_diffusers_classes("SchedulerMixin")[class_name]


def _config_says_flow(config: Mapping[str, Any]) -> bool:
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _is_flow(cls: type, config: Mapping[str, Any]) -> bool:
    return "FlowMatch" in cls.__name__ or _config_says_flow(config)


def _can_drive(cls: type, flow: bool) -> bool:
    if "FlowMatch" in cls.__name__:
        return flow
    return not flow or "use_flow_sigmas" in inspect.signature(cls.__init__).parameters


def _able(flow: bool) -> list[str]:
    return [name for name, known in NAMES.items() if _can_drive(_scheduler_class(known.class_name), flow)]
