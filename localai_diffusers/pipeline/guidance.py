"""Where a guidance scale goes, and what it is when nobody says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.pipeline.sizes import config_value

DISTILLED_TOKENS = frozenset({"turbo", "lightning", "schnell", "lcm", "hyper"})
# Classes made for distilled models bring the right default of their own.
_DISTILLED_CLASS_WORDS = ("Turbo", "Lightning", "Schnell", "LCM", "Hyper", "Consistency", "Sprint", "Distilled")
_DISTILLED_FLAGS = ("is_distilled", "distilled")
# Other names of the argument that says how much the prompt counts, where there is none called guidance_scale.
_OTHER_NAMES = ("distilled_guidance_scale", "prior_guidance_scale", "decoder_guidance_scale")
# A scale for each step, which stands in for the one for all (Ideogram 4 takes no two of them).
GUIDANCE_SCHEDULE = "guidance_schedule"


def is_distilled(names: Iterable[str], index: Mapping[str, Any]) -> bool:
    """Whether a name of the model has a whole distillation token, or its model_index.json a flag."""
    tokens = {token for name in names for token in re.split(r"[^a-z0-9]+", name.lower())}
    return bool(tokens & DISTILLED_TOKENS) or any(index.get(flag) is True for flag in _DISTILLED_FLAGS)


def embeds_guidance(pipeline: Any) -> bool:
    """Whether the denoiser takes the guidance scale as an input (Flux dev, LCM), so that it costs no second pass."""
    transformer, unet = getattr(pipeline, "transformer", None), getattr(pipeline, "unet", None)
    return bool(config_value(transformer, "guidance_embeds")) or config_value(unet, "time_cond_proj_dim") is not None


def guidance_arguments(pipeline: Any, chosen: float | None, distilled: bool) -> dict[str, float | None]:
    """Where the guidance scale goes. ``chosen`` is what the request or the model's options say, None if neither does.

    Without a choice a distilled model gets 0, unless its guidance is embedded or its class was made for such models;
    any other gets the pipeline's own default. ``true_cfg_scale`` is classifier-free guidance where it is not embedded.
    """
    parameters = parameters_of(pipeline)
    embedded = embeds_guidance(pipeline)
    other = next((name for name in _OTHER_NAMES if name in parameters), None)
    if chosen is not None and other and not {"guidance_scale", "true_cfg_scale"} & parameters.keys():
        return {other: chosen}
    if chosen is None:
        own_class = any(word in type(pipeline).__name__ for word in _DISTILLED_CLASS_WORDS)
        if not distilled or embedded or own_class:
            return {}
        chosen = 0.0
    is_true_cfg = "true_cfg_scale" in parameters and not embedded
    arguments: dict[str, float | None] = {"true_cfg_scale": chosen} if is_true_cfg else {}
    if "guidance_scale" in parameters and not (is_true_cfg and parameters["guidance_scale"].default is None):
        arguments["guidance_scale"] = chosen
    return arguments | ({GUIDANCE_SCHEDULE: None} if GUIDANCE_SCHEDULE in parameters else {})
