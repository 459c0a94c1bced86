# SPDX-License-Identifier: MIT
"""SD_EMBED=1: weighted and long prompts in A1111's syntax as embeddings, by sd_embed, which comes from git."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from localai_diffusers.generation.prompts.prompt_families import (
    FLUX,
    SD,
    TEXTS,
    XL,
    Family,
    NotKnown,
    is_blank,
    zeroed,
    zeroes_empty,
)
from localai_diffusers.patches import inversion_words

FAMILIES: tuple[Family, ...] = (
    Family(*SD, "get_weighted_text_embeddings_sd15"),
    Family(*XL, "get_weighted_text_embeddings_sdxl"),
    Family(
        ("CLIPTextModelWithProjection", "CLIPTextModelWithProjection", "T5EncoderModel"),
        ("prompt_embeds", "pooled_prompt_embeds"),
        (),
        "get_weighted_text_embeddings_sd3",
    ),
    Family(*FLUX, "get_weighted_text_embeddings_flux1"),
)


def embeddings(family: Family, arguments: Mapping[str, Any], pipeline: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The call's embeddings by sd_embed, and notes. It returns a tuple: prompt, negative, pooled, negative pooled.

    Its function for Flux returns those of one text, so it is called for each.
    """
    from sd_embed import embedding_funcs

    function = getattr(embedding_funcs, family.function)
    known = inspect.signature(function).parameters
    options, clip_skip = _options(arguments, known, pipeline), arguments.get("clip_skip")
    ignored = clip_skip and "clip_skip" not in options
    notes = (f"clip_skip {clip_skip} has no effect with SD_EMBED on this model",) if ignored else ()
    prompt, negative = arguments["prompt"], arguments.get("negative_prompt")
    if "neg_prompt" in known:
        options |= {"prompt": _text(prompt, pipeline), "neg_prompt": _text(negative, pipeline)}
        made = _embedded(function, pipeline, **options)
        if options.pop("clip_skip", None):  # of the prompt alone, as diffusers does
            made = (made[0], _embedded(function, pipeline, **options)[1])
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        found = dict(zip(names, made, strict=False))
        return (zeroed(found) if zeroes_empty(arguments, pipeline) else found), notes
    options |= _two_texts(prompt, arguments.get("prompt_2"), pipeline)
    found = dict(zip(("prompt_embeds", "pooled_prompt_embeds"), _embedded(function, pipeline, **options), strict=False))
    if isinstance(negative, str):
        options |= _two_texts(negative, arguments.get("negative_prompt_2"), pipeline)
        of_negative = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
        found |= dict(zip(of_negative, _embedded(function, pipeline, **options), strict=False))
        found |= _of_one_length(found["prompt_embeds"], found["negative_prompt_embeds"])
    return found, notes


def _options(arguments: Mapping[str, Any], known: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """What its function takes of the call. NotKnown where a text would be lost."""
    extra = [name for name in TEXTS[1:3] + TEXTS[4:] if arguments.get(name)]
    if extra and "prompt2" not in known:
        raise NotKnown(f"takes no {', '.join(extra)} for this model")
    options: dict[str, Any] = {}
    if "pad_last_block" in known:  # to 77 tokens, as the model learned and diffusers does; for SD it is off by default
        options["pad_last_block"] = True
    if "device" in known:  # its default is where the weights rest, which under an offload is not where they compute
        options["device"] = pipeline._execution_device
    if arguments.get("clip_skip") and "clip_skip" in known:
        options["clip_skip"] = arguments["clip_skip"]
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
    return " " if text is None or is_blank(text) else _with_inversions(text, pipeline)


def _two_texts(first: str, second: str | None, pipeline: Any) -> dict[str, str]:
    """What its function for Flux takes: CLIP's text, which must have a token (the end of text is what CLIP's padding is
    made of), and T5's, which is CLIP's where a call gives none."""
    clip = pipeline.tokenizer.eos_token if is_blank(first) else _with_inversions(first, pipeline)
    return {"prompt": clip, "prompt2": next((text for text in (second, first) if text and text.strip()), " ")}


def _with_inversions(text: str, pipeline: Any) -> str:
    """A text with each new word as the tokens of its embeddings, as diffusers writes it before it tokenizes."""
    return inversion_words.written_out(text, pipeline.tokenizer)
