"""Prompts with weights, and longer than a text encoder's window: turned into embeddings before the call.

COMPEL=1 goes through compel, SD_EMBED=1 through sd_embed (A1111's syntax; it comes from git, so it may be missing).
Which of their functions fits is told by the types of the pipeline's text encoders and by its signature. What neither
knows keeps its plain prompt, with a note.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .settings import Settings
from .signatures import parameters_of

log = logging.getLogger(__name__)

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
_INSTRUCTION = "complex_human_instruction"
_TEXTS = ("prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")


class Family(NamedTuple):
    """A function of a prompt library: what the text encoders' class names begin with, what the signature must have and
    may not have, and the function's name."""

    encoders: tuple[str, ...]
    takes: tuple[str, ...]
    lacks: tuple[str, ...]
    function: str


_SD = (("CLIPTextModel",), ("prompt_embeds",), ("pooled_prompt_embeds", "prompt_attention_mask"))
_XL = (
    ("CLIPTextModel", "CLIPTextModelWithProjection"),
    ("prompt_embeds", "pooled_prompt_embeds"),
    ("prompt_attention_mask",),
)
_FLUX = (("CLIPTextModel", "T5EncoderModel"), ("prompt_embeds", "pooled_prompt_embeds"), ("prompt_attention_mask",))
_COMPEL: tuple[Family, ...] = (
    Family(*_SD, "CompelForSD"),
    Family(*_XL, "CompelForSDXL"),
    Family(*_FLUX, "CompelForFlux"),
    Family(("Gemma2",), ("prompt_attention_mask", "complex_human_instruction"), (), "CompelForSana"),
    Family(("Gemma2",), ("prompt_attention_mask", "system_prompt"), (), "CompelForLumina2"),
)
_SD_EMBED: tuple[Family, ...] = (
    Family(*_SD, "get_weighted_text_embeddings_sd15"),
    Family(*_XL, "get_weighted_text_embeddings_sdxl"),
    Family(
        ("CLIPTextModelWithProjection", "CLIPTextModelWithProjection", "T5EncoderModel"),
        ("prompt_embeds", "pooled_prompt_embeds"),
        (),
        "get_weighted_text_embeddings_sd3",
    ),
    Family(*_FLUX, "get_weighted_text_embeddings_flux1"),
)


class NotKnown(Exception):
    """What a prompt library does not take; its text follows the library's name."""


def embed(arguments: dict[str, Any], pipeline: Any, settings: Settings) -> list[str]:
    """Replace the texts among a call's ``arguments`` by embeddings where a library is switched on and knows the model.

    Changes ``arguments``; returns notes. A prompt that cannot be embedded stays as it is: it is never lost.
    """
    if not isinstance(arguments.get("prompt"), str) or all(_is_blank(arguments.get(name)) for name in _TEXTS):
        return []
    notes = []
    for is_on, variable, families, build in (
        (settings.sd_embed, "SD_EMBED", _SD_EMBED, _by_sd_embed),
        (settings.compel, "COMPEL", _COMPEL, _by_compel),
    ):
        if not is_on:
            continue
        family = _family(families, pipeline)
        if family is None:
            notes.append(f"{variable} does not know {type(pipeline).__name__}: the prompt is taken as plain text")
            continue
        embeddings = _attempt(variable, build, family, arguments, pipeline, notes)
        if embeddings is not None:
            _put(arguments, embeddings, pipeline)
            return notes
    return notes


def _is_blank(text: Any) -> bool:
    return not text or (isinstance(text, str) and not text.strip())


def _family(families: tuple[Family, ...], pipeline: Any) -> Family | None:
    components, parameters = getattr(pipeline, "components", {}), parameters_of(pipeline)
    names = [type(components[name]).__name__ for name in _ENCODERS if components.get(name) is not None]
    for family in families:
        fits = len(names) == len(family.encoders) and all(
            name == own or (own == "Gemma2" and name.startswith(own))
            for name, own in zip(names, family.encoders, strict=True)
        )
        if (
            fits
            and all(name in parameters for name in family.takes)
            and not any(name in parameters for name in family.lacks)
        ):
            return family
    return None


def _attempt(
    variable: str,
    build: Callable[..., Mapping[str, Any]],
    family: Family,
    arguments: Mapping[str, Any],
    pipeline: Any,
    notes: list[str],
) -> Mapping[str, Any] | None:
    try:
        return build(family, arguments, pipeline, notes)
    except NotKnown as error:
        notes.append(f"{variable} {error}: the prompt is taken as plain text")
    except ImportError as error:
        notes.append(f"{variable} is set and its library is not installed ({error}): the prompt is taken as plain text")
    except Exception as error:  # another's parser on any text: the plain prompt still works
        log.warning("%s failed on a prompt", variable, exc_info=error)
        notes.append(f"{variable} could not read the prompt ({type(error).__name__}): it is taken as plain text")
    return None


def _put(arguments: dict[str, Any], embeddings: Mapping[str, Any], pipeline: Any) -> None:
    """The embeddings in place of the texts, in the dtype and on the device that the denoiser computes in."""
    parameters = parameters_of(pipeline)
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    for name in _TEXTS:
        arguments.pop(name, None)
        if name in parameters and parameters[name].default is not None:  # required, or "" (Sana's negative prompt)
            arguments[name] = None
    for name, value in embeddings.items():
        if value is None or name not in parameters:
            continue
        dtype = denoiser.dtype if denoiser is not None and value.is_floating_point() else value.dtype
        arguments[name] = value.to(device=pipeline._execution_device, dtype=dtype)


# --- compel ----------------------------------------------------------------------------------------------------------


def _by_compel(family: Family, arguments: Mapping[str, Any], pipeline: Any, notes: list[str]) -> dict[str, Any]:
    """The call's embeddings by compel, the negative prompt padded to the length of the prompt."""
    import compel

    manager = compel.DiffusersTextualInversionManager(pipeline) if hasattr(pipeline, "maybe_convert_prompt") else None
    device = str(pipeline._execution_device)
    encoder = getattr(compel, family.function)(pipeline, textual_inversion_manager=manager, device=device)
    negative = _negative(arguments, pipeline)
    if arguments.get(_INSTRUCTION, getattr(parameters_of(pipeline).get(_INSTRUCTION), "default", None)):
        notes.append(f"COMPEL puts no {_INSTRUCTION} before the prompt")
    styles = {}
    if family.function in ("CompelForSDXL", "CompelForFlux"):
        second = arguments.get("negative_prompt_2") if negative is not None else None
        styles = {"style_prompt": arguments.get("prompt_2"), "negative_style_prompt": second}
    made = encoder(arguments["prompt"], negative_prompt=negative, **styles)
    embeds = made.embeds
    if _skips_layers(encoder, family, arguments.get("clip_skip"), notes):  # of the prompt alone, as diffusers does
        embeds = encoder(arguments["prompt"], negative_prompt=negative).embeds
    embeddings = {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": made.pooled_embeds,
        "prompt_attention_mask": made.attention_mask,
        "negative_prompt_embeds": made.negative_embeds,
        "negative_pooled_prompt_embeds": made.negative_pooled_embeds,
        "negative_prompt_attention_mask": made.negative_attention_mask,
    }
    return _zeroed(embeddings) if _zeroes_empty(arguments, pipeline) else embeddings


def _negative(arguments: Mapping[str, Any], pipeline: Any) -> str | None:
    """The negative prompt; where guidance needs one anyway an empty one, so that both are of the same length."""
    given = arguments.get("negative_prompt")
    if isinstance(given, str):
        return given
    parameters = parameters_of(pipeline)
    return "" if "negative_prompt_embeds" in parameters and "true_cfg_scale" not in parameters else None


def _zeroes_empty(arguments: Mapping[str, Any], pipeline: Any) -> bool:
    """Whether the pipeline takes zeros for a missing negative prompt (SDXL's config says so)."""
    return not arguments.get("negative_prompt") and bool(pipeline.config.get("force_zeros_for_empty_prompt"))


def _zeroed(embeddings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value * 0 if name.startswith("negative_") and value is not None else value
        for name, value in embeddings.items()
    }


def _skips_layers(encoder: Any, family: Family, clip_skip: int | None, notes: list[str]) -> bool:
    """Whether ``encoder`` leaves out CLIP's last layer from now on: compel can do no more, and diffusers ignores
    clip_skip when it gets embeddings."""
    if not clip_skip:
        return False
    if clip_skip != 1 or family.function != "CompelForSD":
        notes.append(f"clip_skip {clip_skip} has no effect with COMPEL on this model")
        return False
    from compel import ReturnedEmbeddingsType

    provider = encoder.compel.conditioning_provider
    provider.returned_embeddings_type = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NORMALIZED
    return True


# --- sd_embed --------------------------------------------------------------------------------------------------------


def _by_sd_embed(family: Family, arguments: Mapping[str, Any], pipeline: Any, notes: list[str]) -> dict[str, Any]:
    """The call's embeddings by sd_embed, which returns them as a tuple: prompt, negative, pooled, negative pooled.

    Its function for Flux returns those of one text, so it is called for each.
    """
    from sd_embed import embedding_funcs

    function = getattr(embedding_funcs, family.function)
    known = inspect.signature(function).parameters
    options = _sd_embed_options(arguments, known, pipeline, notes)
    prompt, negative = arguments["prompt"], arguments.get("negative_prompt")
    if "neg_prompt" in known:
        options |= {"prompt": _text(prompt, pipeline), "neg_prompt": _text(negative, pipeline)}
        made = _embedded(function, pipeline, **options)
        if options.pop("clip_skip", None):  # of the prompt alone, as diffusers does
            made = (made[0], _embedded(function, pipeline, **options)[1])
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        found = dict(zip(names, made, strict=False))
        return _zeroed(found) if _zeroes_empty(arguments, pipeline) else found
    options |= _two_texts(prompt, arguments.get("prompt_2"), pipeline)
    found = dict(zip(("prompt_embeds", "pooled_prompt_embeds"), _embedded(function, pipeline, **options), strict=False))
    if isinstance(negative, str):
        options |= _two_texts(negative, arguments.get("negative_prompt_2"), pipeline)
        of_negative = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
        found |= dict(zip(of_negative, _embedded(function, pipeline, **options), strict=False))
        found |= _of_one_length(found["prompt_embeds"], found["negative_prompt_embeds"])
    return found


def _sd_embed_options(
    arguments: Mapping[str, Any], known: Mapping[str, Any], pipeline: Any, notes: list[str]
) -> dict[str, Any]:
    """What its function takes of the call. NotKnown where a text would be lost."""
    extra = [name for name in _TEXTS[1:3] + _TEXTS[4:] if arguments.get(name)]
    if extra and "prompt2" not in known:
        raise NotKnown(f"takes no {', '.join(extra)} for this model")
    options: dict[str, Any] = {}
    if "pad_last_block" in known:  # to 77 tokens, as the model learned and diffusers does; for SD it is off by default
        options["pad_last_block"] = True
    if "device" in known:  # its default is where the weights rest, which under an offload is not where they compute
        options["device"] = pipeline._execution_device
    clip_skip = arguments.get("clip_skip")
    if clip_skip and "clip_skip" in known:
        options["clip_skip"] = clip_skip
    elif clip_skip:
        notes.append(f"clip_skip {clip_skip} has no effect with SD_EMBED on this model")
    return options


def _embedded(function: Callable[..., Any], pipeline: Any, **options: Any) -> tuple[Any, ...]:
    """The function's tensors. Without its inference mode, which would leave tensors, and under an offload weights, that
    nothing may change afterwards."""
    import torch

    encoder = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder).encoder
    layers = encoder.layers
    try:
        with torch.no_grad():
            return inspect.unwrap(function)(pipe=pipeline, **options)
    finally:
        encoder.layers = layers  # it cuts them for clip_skip, and where it fails they would stay cut


def _of_one_length(prompt: Any, negative: Any) -> dict[str, Any]:
    """Both embeddings (1, tokens, width), the shorter one ended by zeros as sd_embed does for SD3: diffusers' Flux
    refuses two lengths."""
    from torch.nn.functional import pad

    length = max(prompt.shape[1], negative.shape[1])
    made = {"prompt_embeds": prompt, "negative_prompt_embeds": negative}
    return {name: pad(tensor, (0, 0, 0, length - tensor.shape[1])) for name, tensor in made.items()}


def _text(text: str | None, pipeline: Any) -> str:
    """A text as sd_embed reads it: an empty one is to be a space, for instead of "" it embeds the word "empty"."""
    return " " if text is None or _is_blank(text) else _with_inversions(text, pipeline)


def _two_texts(first: str, second: str | None, pipeline: Any) -> dict[str, str]:
    """What its function for Flux takes: CLIP's text, which must have a token (the end of text is what CLIP's padding is
    made of), and T5's, which is CLIP's where a call gives none."""
    clip = pipeline.tokenizer.eos_token if _is_blank(first) else _with_inversions(first, pipeline)
    return {"prompt": clip, "prompt2": next((text for text in (second, first) if text and text.strip()), " ")}


def _with_inversions(text: str, pipeline: Any) -> str:
    """A text with each new word of several embeddings written out, as diffusers does before it tokenizes."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return convert(text, pipeline.tokenizer) if text and convert is not None else text
