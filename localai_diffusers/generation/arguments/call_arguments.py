# SPDX-License-Identifier: MIT
"""A request + a pipeline's signature -> the keyword arguments of the call.

Nothing is passed that the signature does not take, nothing is made up that the pipeline has a default for. Order of
who speaks: the request's fields, then the model's options, then the pipeline's own defaults.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from localai_diffusers.errors import InvalidRequest
from localai_diffusers.generation.arguments import control_arguments, media_forms, repainting, steps
from localai_diffusers.generation.arguments.asked import Asked, Part
from localai_diffusers.generation.arguments.media_arguments import media_arguments, output_size, picture_to_invert
from localai_diffusers.generation.arguments.repainting import Repaint, RepaintedClip
from localai_diffusers.generation.prompts import tags
from localai_diffusers.media.images import is_picture
from localai_diffusers.pipeline import sizes
from localai_diffusers.pipeline.argument_values import accepted_types, check_params, did_you_mean, fitted
from localai_diffusers.pipeline.defaults import ModelDefaults
from localai_diffusers.pipeline.profile import PipelineProfile
from localai_diffusers.pipeline.roles import Role, role_of
from localai_diffusers.pipeline.signatures import (
    VIDEO,
    check_complete,
    without_media,
)
from localai_diffusers.pipeline.tasks import combined_hint
from localai_diffusers.wire import argument_limits
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import SOUND_ARGUMENTS, GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

# One output a call, unless options or params say more: the core asks for several by several calls.
COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
# What the signatures call one thing.
_STEPS = ("num_inference_steps", "steps")
FRAME_RATES = ("frame_rate", "fps", "target_fps")
_NEGATIVE_PROMPTS = ("negative_prompt", "neg_prompt")
# Output types that must be asked for, by RPC; every other pipeline's default is told by what comes out.
_OUTPUT_TYPES: Mapping[str, str] = {"Generate3D": "mesh"}  # Shap-E's default is a video of its renders

# What LocalAI's core sends where a request for a picture names no size (openai/image.go).
_NO_SIZE = (512, 512)


@dataclass(frozen=True)
class Call:
    """Keyword arguments for a pipeline, the seed that they hold, and what there is to say of them. Nobody changes it:
    who adds to it makes another.

    ``inversion``: keyword arguments for its ``invert``, which comes first, where it edits a picture that way.
    ``guider_scale``: the guidance of a pipeline that has it in a component, None for the component's own.
    ``repaint``: how an inpainted picture is brought back onto its source. ``unchanged``: the source itself, where the
    request changes nothing of it, so that there is nothing to call.
    """

    arguments: Mapping[str, Any]
    seed: int
    notes: tuple[str, ...] = ()
    inversion: Mapping[str, Any] | None = None
    repaint: Repaint | RepaintedClip | None = None
    unchanged: Image.Image | None = None
    guider_scale: float | None = None


def build(request: GenerationRequest, profile: PipelineProfile, defaults: ModelDefaults, intake: Intake) -> Call:
    """The arguments of the call of the pipeline that ``profile`` describes, for ``request``.

    ``intake`` reads the media that ``params`` name, within its limits. Raises InvalidRequest naming the field when the
    request asks for what the pipeline does not take.
    """
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    request = _with_default_size(request, defaults)
    asked = Asked(request, profile, defaults, intake, seed)
    arguments, notes = _made(asked, _UP_TO_MEDIA, {}, ())
    on_canvas, repaint = repainting.plan(arguments, request, profile, defaults.said)
    arguments, notes = _made(asked, _AFTER_MEDIA, {**arguments, **on_canvas}, notes)
    check_complete(arguments, profile.parameters, profile.name, combined_hint(profile.name))
    inversion = _inversion(asked, {**defaults.options, **arguments})
    idle = tuple(profile.guidance.idle_negative(arguments, profile.parameters))
    unchanged, said = _unchanged(arguments, profile, repaint)
    guider_scale = _chosen_guidance(asked) if profile.guidance.by_guider else None
    return Call(MappingProxyType(arguments), seed, notes + idle + said, inversion, repaint, unchanged, guider_scale)


def _with_default_size(request: GenerationRequest, defaults: ModelDefaults) -> GenerationRequest:
    """The request with the YAML's size in the place of the core's word for "none"."""
    size = defaults.said.default_size
    if size is None or request.rpc != "GenerateImage" or (request.width, request.height) != _NO_SIZE:
        return request
    return replace(request, width=size[0], height=size[1])


def _made(
    asked: Asked, parts: Iterable[PartOf], arguments: Mapping[str, Any], notes: tuple[str, ...]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The arguments and notes with those of each of ``parts``, which sees what the ones before it made."""
    for part in parts:
        made = part(asked, arguments)
        arguments, notes = {**arguments, **made.arguments}, notes + made.notes
    return arguments, notes


def _options(asked: Asked, _arguments: Mapping[str, Any]) -> Part:
    """The model's options."""
    return Part({name: value for name, value in asked.defaults.options.items() if name in asked.profile.parameters})


def _params(asked: Asked, _arguments: Mapping[str, Any]) -> Part:
    """The request's params that are arguments, typed; an empty one says nothing. A frame rate may be the file's
    alone."""
    request, parameters = asked.request, asked.profile.parameters
    said = {
        name: value
        for name, value in request.params.items()
        if request.texts.get(name) != "" and (name in parameters or name not in FRAME_RATES)
    }
    argument_limits.check_texts(without_media(said, parameters), asked.settings, "params[{!r}]")
    return Part(check_params(said, request.texts, parameters, asked.profile.name))


def _untagged(_asked: Asked, arguments: Mapping[str, Any]) -> Part:
    """The prompts without tags of another program."""
    found = tags.without_tags(arguments)
    return Part(found, (tags.TAG_NOTE,) if found else ())


def _seeded(asked: Asked, _arguments: Mapping[str, Any]) -> Part:
    """The seed, and a generator of it: on a CPU it gives the same noise on every device; the incumbent's was the
    model's device. Both where a pipeline draws before it looks at the generator (LTX's long videos)."""
    import torch

    generator = torch.Generator(asked.defaults.generator_device).manual_seed(asked.seed)
    both = {"generator": generator, "seed": asked.seed}
    return Part({name: value for name, value in both.items() if name in asked.profile.parameters})


def _unchanged(
    arguments: Mapping[str, Any], profile: PipelineProfile, repaint: Repaint | RepaintedClip | None
) -> tuple[Image.Image | None, tuple[str, ...]]:
    """The source where the call would change nothing of it, and a note of that: nothing is white in its mask, or its
    strength is 0, which leaves most pipelines without a step to make.

    Raises InvalidRequest for a clip at strength 0.
    """
    parameters = profile.parameters
    if isinstance(repaint, Repaint) and repaint.is_empty:
        return repaint.source, ("nothing in the mask is white: the source is returned as it is",)
    strength = next(
        (arguments.get(name, parameters[name].default) for name in steps.STRENGTHS if name in parameters), None
    )
    if strength != 0 or profile.inputs.conditions:  # there it is how much a condition counts
        return None, ()
    name = next((name for name in profile.inputs.images if is_picture(arguments.get(name))), "")
    if arguments.get(VIDEO) is not None or (name and profile.makes_video):
        raise InvalidRequest("strength=0 changes nothing of the source: set one above 0, up to 1")
    if not name or role_of(name, profile.cls) is not Role.SOURCE:
        return None, ()
    source = repaint.source if isinstance(repaint, Repaint) else arguments[name]
    return source, ("strength=0 changes nothing: the source is returned as it is",)


def _for_this_model(asked: Asked, arguments: Mapping[str, Any]) -> Part:
    """What the rows of quirks that are true of the pipeline change."""
    changed: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for effect in asked.profile.calls:
        if (change := effect({**arguments, **changed}, asked.profile.subject)) is not None:
            changed |= change.arguments
            notes += (change.note,) if change.note else ()
    return Part(changed, notes)


def _inversion(asked: Asked, arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What ``invert`` takes of the request: the picture, and the options and call arguments that it has too (the steps
    among them: there are as many back as there were forth)."""
    request, profile = asked.request, asked.profile
    if not profile.inverts or not request.images:
        return None
    names = profile.inversion
    count = arguments.get("num_inference_steps") if "num_inference_steps" in profile.parameters else request.steps
    steps = {"num_inversion_steps": count} if "num_inversion_steps" in names and count else {}
    shared = {name: value for name, value in arguments.items() if name in names and name != "negative_prompt"}
    return {**shared, **steps, "image": picture_to_invert(asked)}


def _chosen_guidance(asked: Asked) -> float | None:
    """The scale as the request says, its params, or the model's options; None where none does."""
    said = (asked.request.guidance, asked.request.params.get("guidance_scale"), asked.defaults.guidance)
    return next((value for value in said if value is not None), None)


def _guidance(asked: Asked, arguments: Mapping[str, Any]) -> Part:
    """The scale by the arguments that take it. An explicit true_cfg_scale among the options or params stays as it
    is."""
    chosen, style = _chosen_guidance(asked), asked.profile.guidance
    notes: tuple[str, ...] = ()
    found = style.arguments(chosen, asked.defaults.distilled)
    if chosen is not None and not found and not style.by_guider:
        notes += ("this pipeline takes no guidance scale: it is ignored",)
    if chosen is not None and chosen > 1 and style.is_idle and "true_cfg_scale" not in arguments:
        notes += (
            f"guidance_scale={chosen:g} counts nothing on this model, which was trained without: a true_cfg_scale "
            "above 1 (options, or a video request's params) turns guidance on",
        )
    return Part(
        {name: value for name, value in found.items() if name == "guidance_scale" or name not in arguments}, notes
    )


def _text(asked: Asked, arguments: Mapping[str, Any]) -> Part:
    """Prompt and negative prompt. An empty text says nothing: that of the options stands.

    An empty negative prompt is passed only where true CFG is on: there None would switch it off (Qwen-Image, Flux).
    """
    request, profile = asked.request, asked.profile
    parameters = profile.parameters
    notes: tuple[str, ...] = ()
    found: dict[str, Any] = {}
    negative = next((name for name in _NEGATIVE_PROMPTS if name in parameters), None)
    prompt, unwanted = _split(request) if negative else (request.prompt, request.negative_prompt)
    if "prompt" in parameters:
        if prompt or "prompt" not in arguments:
            found["prompt"] = prompt  # an empty one too: an upscaler wants "", and None is refused
    elif prompt:
        found |= _other_text(prompt, profile, arguments)
        notes = () if found else ("this pipeline takes no prompt: it is ignored",)
    if negative:
        true_cfg = arguments.get("true_cfg_scale", profile.default("true_cfg_scale"))
        is_on = isinstance(true_cfg, (int, float)) and true_cfg > 1
        if unwanted or (is_on and negative not in arguments):
            found[negative] = unwanted
    elif unwanted:
        notes += ("this pipeline takes no negative prompt: it is ignored",)
    return Part(found, notes)


def _split(request: GenerationRequest) -> tuple[str, str]:
    """Prompt and negative prompt, which LocalAI's users write behind a ``|``: the core parts them for pictures alone,
    and a sound's request and an inpainting's have no field for the second."""
    if not request.negative_prompt and (request.rpc == "SoundGeneration" or request.is_inpainting):
        prompt, _, unwanted = request.prompt.partition("|")
        return prompt.strip() if unwanted else request.prompt, unwanted.strip()
    return request.prompt, request.negative_prompt


def _other_text(prompt: str, profile: PipelineProfile, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt where the signature has no ``prompt``: prompts by other names (what the picture shows, what is
    edited), or the class that it names, by number or label. What the options say of them stays."""
    parameters = profile.parameters
    names = [
        name for name in parameters if name.endswith("_prompt") and not name.startswith(("negative", "enable", "use"))
    ]
    found: dict[str, Any] = {name: prompt for name in names if name not in arguments or name == names[-1]}
    if "class_labels" in parameters and "class_labels" not in arguments:
        found |= _class_label(prompt.strip(), getattr(profile.pipeline, "labels", None) or {})
    return found


def _class_label(name: str, labels: Mapping[str, int]) -> dict[str, list[int]]:
    """The class of a class-conditional model by its number or label; {} where there are no labels to know it by."""
    if name.isdigit():
        return {"class_labels": [int(name)]}
    if labels and name not in labels:
        raise InvalidRequest(
            f"prompt {name!r} names no class of this model{did_you_mean(name, labels)}: give one of its {len(labels)} "
            "labels or a class's number"
        )
    return {"class_labels": [labels[name]]} if labels else {}


def _numbers(asked: Asked, _arguments: Mapping[str, Any]) -> Part:
    request, profile, defaults = asked.request, asked.profile, asked.defaults
    said, takes_skip = {**defaults.options, **request.params}, "clip_skip" in profile.parameters
    clip_skip = request.clip_skip or said.get("clip_skip") or defaults.clip_skip
    wanted: dict[str, Any] = {
        **dict.fromkeys(_STEPS, request.steps),
        "clip_skip": _clip_skip(clip_skip, profile) if takes_skip and defaults.use_clip_skip else None,
        "decode_chunk_size": None if "decode_chunk_size" in said else defaults.chunk_size,
        **{name: 1 for name in COUNTS if name not in said},
    }
    unset = {"clip_skip": None} if takes_skip and "clip_skip" in said else {}
    known = {name: value for name, value in wanted.items() if value is not None and name in profile.parameters}
    return Part(unset | known)


def _clip_skip(layers: int, profile: PipelineProfile) -> int | None:
    """How many of the text encoder's last layers are left out, None for 0. InvalidRequest for more than it has.

    Families with a second text encoder (SDXL, SD3) count from the last layer but one.
    """
    every = profile.config("text_encoder", "num_hidden_layers")
    if isinstance(every, int):
        most = every - 1 if "text_encoder_2" in profile.subject.components else every
        if layers > most:
            raise InvalidRequest(
                f"CLIPSkip={layers} must be at most {most}: this model's text encoder has {every} layers"
            )
    return layers or None


def frame_rate_asked(request: GenerationRequest, defaults: ModelDefaults) -> float | None:
    """Frames a second as the request says, its params, or the model's options; None where none does."""
    said = (request.fps, *(request.params.get(name) for name in FRAME_RATES), defaults.said.fps)
    return next((float(rate) for rate in said if isinstance(rate, (int, float)) and rate > 0), None)


def _frames(asked: Asked, _arguments: Mapping[str, Any]) -> Part:
    """Frame count and rate, by the names that the signature has; the count to what the VAE takes."""
    request, parameters = asked.request, asked.profile.parameters
    notes: tuple[str, ...] = ()
    found: dict[str, Any] = {}
    if request.num_frames is not None:
        frames = asked.profile.fit_frames(request.num_frames)
        if frames != request.num_frames:
            notes = (f"num_frames {request.num_frames} is rounded to {frames}",)
        found |= {name: frames for name in sizes.FRAME_COUNTS if name in parameters}
    if (rate := frame_rate_asked(request, asked.defaults)) is not None:
        found |= {name: _rate_for(parameters[name], rate) for name in FRAME_RATES if name in parameters}
    return Part(found, notes)


def _rate_for(parameter: inspect.Parameter, rate: float) -> float:
    """A whole number where the signature says so."""
    return rate if float in accepted_types(parameter) else round(rate)


def _fields(asked: Asked, _arguments: Mapping[str, Any]) -> Part:
    """A sound request's fields under the pipeline's own names, in the type that it takes; a note for one it has not."""
    profile, fields = asked.profile, dict(asked.request.fields)
    for effect in profile.fields:
        fields = effect(fields, profile.subject)
    found: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for name, value in fields.items():
        own = next((spelling for spelling in SOUND_ARGUMENTS[name] if spelling in profile.parameters), None)
        if own is None:
            notes += (f"this pipeline has no argument for {name}: it is ignored",)
        else:
            found[own] = fitted(f"{name}={value!r}", value, None, profile.parameters[own], profile.name)
    return Part(found, notes)


def _output_type(asked: Asked, _arguments: Mapping[str, Any]) -> Part:
    """The pipeline's default, save for the few rows above and where that is no picture yet, but latents."""
    is_latent = asked.profile.default("output_type") == "latent"
    wanted = _OUTPUT_TYPES.get(asked.request.rpc) or ("pil" if is_latent else "")
    return Part({"output_type": wanted} if wanted and "output_type" in asked.profile.parameters else {})


PartOf = Callable[[Asked, Mapping[str, Any]], Part]
# In this order: each sees the arguments that the ones before it made.
_UP_TO_MEDIA: tuple[PartOf, ...] = (_options, _params, _guidance, _text, media_arguments)
_AFTER_MEDIA: tuple[PartOf, ...] = (
    _numbers,
    steps.fitted,
    _frames,
    _fields,
    _output_type,
    output_size,
    control_arguments.completed,
    media_forms.in_form,
    _for_this_model,
    _untagged,
    _seeded,
)
