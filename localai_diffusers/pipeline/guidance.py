"""Where a guidance scale goes, and what it is when nobody says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.pipeline.sizes import config_value

DISTILLED_TOKENS = frozenset({"turbo", "lightning", "schnell", "lcm", "hyper"})
_DISTILLED_FLAGS = ("is_distilled", "distilled")
# Other names of the argument that says how much the prompt counts, where there is none called guidance_scale.
_OTHER_NAMES = ("distilled_guidance_scale", "prior_guidance_scale", "decoder_guidance_scale")


def is_distilled(names: Iterable[str], index: Mapping[str, Any]) -> bool:
    """Whether a name of the model has a whole distillation token, or its model_index.json a flag."""
    tokens = {token for name in names for token in re.split(r"[^a-z0-9]+", name.lower())}
    return bool(tokens & DISTILLED_TOKENS) or any(index.get(flag) is True for flag in _DISTILLED_FLAGS)


def embeds_guidance(pipeline: Any) -> bool:
    """Whether the denoiser takes the guidance scale as an input (Flux dev, LCM), so that it costs no second pass."""
    transformer, unet = getattr(pipeline, "transformer", None), getattr(pipeline, "unet", None)
    return bool(config_value(transformer, "guidance_embeds")) or config_value(unet, "time_cond_proj_dim") is not None


@dataclass(frozen=True)
class GuidanceStyle:
    """``names``: the arguments that take the scale. ``own_default``: whether the pipeline's default is right for a
    distilled model too."""

    names: tuple[str, ...]
    own_default: bool

    def arguments(self, chosen: float | None, distilled: bool) -> dict[str, float]:
        """Where the scale goes. ``chosen`` is what the request or the model's options say, None if neither does.

        Without a choice a distilled model gets 0, unless the pipeline's own default is right for it; any other gets
        that default.
        """
        if chosen is None and (self.own_default or not distilled):
            return {}
        return dict.fromkeys(self.names, 0.0 if chosen is None else chosen)


def guidance_of(pipeline: Any) -> GuidanceStyle:
    """The style of a pipeline: ``true_cfg_scale`` is classifier-free guidance where it is not embedded."""
    parameters, embedded = parameters_of(pipeline), embeds_guidance(pipeline)
    other = next((name for name in _OTHER_NAMES if name in parameters), None)
    if other and not {"guidance_scale", "true_cfg_scale"} & parameters.keys():
        return GuidanceStyle((other,), own_default=True)
    names = ["true_cfg_scale"] if "true_cfg_scale" in parameters and not embedded else []
    if "guidance_scale" in parameters and not (names and parameters["guidance_scale"].default is None):
        names.append("guidance_scale")
    return GuidanceStyle(tuple(names), own_default=embedded)
