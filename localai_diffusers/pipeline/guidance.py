# SPDX-License-Identifier: MIT
"""Where a guidance scale goes, and what it is when nobody says."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from localai_diffusers.pipeline.kept import kept
from localai_diffusers.pipeline.quirks import source_of
from localai_diffusers.pipeline.signatures import Parameters, parameters_of
from localai_diffusers.pipeline.sizes import config_value

# What distilled models are called: two words mean nothing else; the others are words of ordinary names too, and count
# as publishers write them: SDXL-Turbo, Hyper-SD15-1step, Hyper-FLUX.1-dev-8steps, Z-Image-Turbo, Wan2.2-Lightning.
_SURE_TOKENS, _USUAL_TOKENS = frozenset({"schnell", "lcm"}), frozenset({"turbo", "lightning", "hyper"})
_BASE = re.compile(r"sdv?\d*|\w*xl|flux\d*|\d+steps?")
# What may stand between a family's name and such a word: a version, a size, a task.
_BETWEEN = re.compile(r"v?\d+\w?|a?\d+b|large|medium|small|base|dev|alpha|edit|plus|[ti]{1,2}2[vi]")
_MOST_PARTS = 4  # of a family's name: "stable", "diffusion", "x", "l"
_DISTILLED_FLAGS = ("is_distilled", "distilled")
# How the pipelines' code says from which scale on there is a second pass; a property has the underscore.
_ABOVE = (re.compile(r"_guidance_scale\s*>\s*(\d+(?:\.\d+)?)"), re.compile(r"guidance_scale\s*>\s*(\d+(?:\.\d+)?)"))
# Other names of the argument that says how much the prompt counts, where there is none called guidance_scale.
_OTHER_NAMES = ("distilled_guidance_scale", "prior_guidance_scale", "decoder_guidance_scale")


def is_distilled(names: Iterable[str], index: Mapping[str, Any]) -> bool:
    """Whether a name of the model says so, or its model_index.json has a flag."""
    return bool(distilled_name(names)) or any(index.get(flag) is True for flag in _DISTILLED_FLAGS)


def distilled_name(names: Iterable[str]) -> str:
    """The first of the model's names that says that it is distilled, "" where none does."""
    return next((name for name in names if _says_distilled(re.findall(r"[a-z0-9]+", name.lower()))), "")


def _says_distilled(tokens: list[str]) -> bool:
    if _SURE_TOKENS & set(tokens):
        return True
    places = [at for at, token in enumerate(tokens) if token in _USUAL_TOKENS]
    return any(_is_of_base(tokens[:at][::-1], tokens[at + 1 :]) for at in places)


def _is_of_base(before: list[str], after: list[str]) -> bool:
    """Whether the word stands beside a base model, a family or a number of steps: ``before`` it (nearest first), or
    ``after`` it."""
    beside = [*before[:1], *after[:1]]
    if any(_BASE.fullmatch(token) for token in beside) or (after[1:2] in (["step"], ["steps"]) and after[0].isdigit()):
        return True
    families = _families()
    for start in range(len(before)):
        heads = ("".join(before[start : start + parts][::-1]) for parts in range(1, _MOST_PARTS + 1))
        if _BASE.fullmatch(before[start]) or any(re.sub(r"\d+$", "", head) in families for head in heads):
            return True
        if not _BETWEEN.fullmatch(before[start]):
            break
    tails = ("".join(after[:parts]) for parts in range(1, _MOST_PARTS + 1))
    return any(re.sub(r"\d+$", "", tail) in families for tail in tails)


@kept(512)
def _families() -> frozenset[str]:
    """The names of diffusers' families of pipelines, as its folders have them, without what separates their words."""
    import diffusers.pipelines

    folders = pkgutil.iter_modules(diffusers.pipelines.__path__)
    return frozenset(re.sub(r"[^a-z]|\d+$", "", entry.name) for entry in folders if entry.ispkg)


def embeds_guidance(pipeline: Any) -> bool:
    """Whether the denoiser takes the guidance scale as an input (Flux dev, LCM), so that it costs no second pass."""
    transformer, unet = getattr(pipeline, "transformer", None), getattr(pipeline, "unet", None)
    return bool(config_value(transformer, "guidance_embeds")) or config_value(unet, "time_cond_proj_dim") is not None


@dataclass(frozen=True)
class GuidanceStyle:
    """``names``: the arguments that take the scale. ``own_default``: whether the pipeline's default is right for a
    distilled model too. ``by_guider``: whether a component has the scale instead. ``is_idle``: whether the scale counts
    nothing, since the denoiser was trained without. ``wakes``: the argument whose value above ``threshold`` lets a
    negative prompt count, "" where none does, None where that is not known."""

    names: tuple[str, ...]
    own_default: bool
    by_guider: bool = False
    is_idle: bool = False
    wakes: str | None = None
    threshold: float = 1.0

    def arguments(self, chosen: float | None, distilled: bool) -> dict[str, float]:
        """Where the scale goes. ``chosen`` is what the request or the model's options say, None if neither does.

        Without a choice a distilled model gets 0, unless the pipeline's own default is right for it; any other gets
        that default.
        """
        if chosen is None and (self.own_default or not distilled):
            return {}
        return dict.fromkeys(self.names, 0.0 if chosen is None else chosen)

    def idle_negative(self, arguments: Mapping[str, Any], parameters: Parameters) -> list[str]:
        """A note where the negative prompt among a call's arguments counts nothing: the scale that would wake it."""
        given = arguments.get("negative_prompt") or arguments.get("neg_prompt")
        if not given or self.wakes is None:
            return []
        if not self.wakes:
            return ["the negative prompt counts nothing on this model, whose guidance is part of its training"]
        scale = arguments.get(self.wakes, parameters[self.wakes].default)
        if not isinstance(scale, (int, float)) or scale > self.threshold:
            return []
        also = " (cfg_scale)" if self.wakes == "guidance_scale" else ""
        return [
            f"the negative prompt counts nothing at {self.wakes}={scale:g}: a {self.wakes}{also} above "
            f"{self.threshold:g} would wake it"
        ]


def guidance_of(pipeline: Any) -> GuidanceStyle:
    """The style of a pipeline: ``true_cfg_scale`` is classifier-free guidance where it is not embedded, and takes the
    scale where it is on by default (Qwen-Image); where it is off (Flux) only who names it turns it on."""
    wakes, threshold = _waking(pipeline)
    return replace(_style(pipeline), wakes=wakes, threshold=threshold)


def _waking(pipeline: Any) -> tuple[str | None, float]:
    """The argument, and its value, above which the pipeline's code turns classifier-free guidance on."""
    parameters, source = parameters_of(pipeline), source_of(type(pipeline))
    if "true_cfg_scale" in parameters:
        return "true_cfg_scale", 1.0
    found = next(filter(None, (pattern.search(source) for pattern in _ABOVE)), None)
    if found is None or "guidance_scale" not in parameters:
        return None, 1.0
    return "" if embeds_guidance(pipeline) else "guidance_scale", float(found[1])


def _style(pipeline: Any) -> GuidanceStyle:
    parameters, embedded = parameters_of(pipeline), embeds_guidance(pipeline)
    if getattr(pipeline, "guider", None) is not None and not embedded and "guidance_scale" not in parameters:
        return GuidanceStyle((), own_default=True, by_guider=True)
    other = next((name for name in _OTHER_NAMES if name in parameters), None)
    if other and not {"guidance_scale", "true_cfg_scale"} & parameters.keys():
        return GuidanceStyle((other,), own_default=True)
    true = parameters["true_cfg_scale"].default if "true_cfg_scale" in parameters and not embedded else None
    is_on = true is not None and (true > 1 or "guidance_scale" not in parameters)
    names = ["true_cfg_scale"] if is_on else []
    if "guidance_scale" in parameters and not (names and parameters["guidance_scale"].default is None):
        names.append("guidance_scale")
    return GuidanceStyle(tuple(names), own_default=embedded, is_idle=true is not None and not is_on)
