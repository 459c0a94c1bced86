"""Where a guidance scale goes, and what it is when nobody says."""

from __future__ import annotations

import functools
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.pipeline.sizes import config_value

# What distilled models are called: two words mean nothing else; the others are words of ordinary names too, and count
# as publishers write them: SDXL-Turbo, Hyper-SD15-1step, Hyper-FLUX.1-dev-8steps, Z-Image-Turbo, Wan2.2-Lightning.
_SURE_TOKENS, _USUAL_TOKENS = frozenset({"schnell", "lcm"}), frozenset({"turbo", "lightning", "hyper"})
_BASE = re.compile(r"sdv?\d*|\w*xl|flux\d*|\d+steps?")
# What may stand between a family's name and such a word: a version, a size, a task.
_BETWEEN = re.compile(r"v?\d+\w?|a?\d+b|large|medium|small|base|dev|alpha|edit|plus|[ti]{1,2}2[vi]")
_MOST_PARTS = 4  # of a family's name: "stable", "diffusion", "x", "l"
_DISTILLED_FLAGS = ("is_distilled", "distilled")
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


@functools.cache
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
