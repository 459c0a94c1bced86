# SPDX-License-Identifier: MIT
"""COMPEL=1: weighted and long prompts as embeddings, by compel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localai_diffusers.generation.prompts.prompt_families import FLUX, SD, XL, Family, zeroed, zeroes_empty
from localai_diffusers.patches import inversion_words
from localai_diffusers.pipeline.signatures import parameters_of

_INSTRUCTION = "complex_human_instruction"
_GEMMA = ("Gemma2*",)
# Flux's main text is T5's: compel's is the one that the embeddings are of.
FAMILIES: tuple[Family, ...] = (
    Family(*SD, "CompelForSD", skips=True),
    Family(*XL, "CompelForSDXL", style="tokenizer_2", skips=True),
    Family(*FLUX, "CompelForFlux", main="tokenizer_2", style="tokenizer"),
    Family(_GEMMA, ("prompt_attention_mask", "complex_human_instruction"), (), "CompelForSana"),
    Family(_GEMMA, ("prompt_attention_mask", "system_prompt"), (), "CompelForLumina2"),
)


def embeddings(family: Family, arguments: Mapping[str, Any], pipeline: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The call's embeddings by compel, the negative prompt padded to the length of the prompt, and notes."""
    import compel

    encoder = getattr(compel, family.function)(pipeline, device=str(pipeline._execution_device))
    instructed = arguments.get(_INSTRUCTION, getattr(parameters_of(pipeline).get(_INSTRUCTION), "default", None))
    notes: tuple[str, ...] = (f"COMPEL puts no {_INSTRUCTION} before the prompt",) if instructed else ()
    texts = _texts(family, arguments, pipeline)
    made = encoder(**texts)
    embeds = made.embeds
    if clip_skip := arguments.get("clip_skip"):  # of the prompt alone, as diffusers does
        if family.skips:
            embeds = _skipping(encoder, clip_skip)(**texts).embeds
        else:
            notes += (f"clip_skip {clip_skip} has no effect with COMPEL on this model",)
    made_of = {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": made.pooled_embeds,
        "prompt_attention_mask": made.attention_mask,
        "negative_prompt_embeds": made.negative_embeds,
        "negative_pooled_prompt_embeds": made.negative_pooled_embeds,
        "negative_prompt_attention_mask": made.negative_attention_mask,
    }
    return (zeroed(made_of) if zeroes_empty(arguments, pipeline) else made_of), notes


def _negative(arguments: Mapping[str, Any], pipeline: Any) -> str | None:
    """The negative prompt; where guidance needs one anyway an empty one, so that both are of the same length."""
    given = arguments.get("negative_prompt")
    if isinstance(given, str):
        return given
    parameters = parameters_of(pipeline)
    return "" if "negative_prompt_embeds" in parameters and "true_cfg_scale" not in parameters else None


def _texts(family: Family, arguments: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """What compel's wrapper takes: new words are written out for the tokenizer that reads each text. Of two, diffusers'
    ``prompt`` is the first tokenizer's and ``prompt_2`` the second's."""
    prompt, negative = arguments["prompt"], _negative(arguments, pipeline)
    second = None if negative is None else arguments.get("negative_prompt_2") or negative
    texts = {"tokenizer": (prompt, negative), "tokenizer_2": (arguments.get("prompt_2") or prompt, second)}

    def read(tokenizer: str) -> list[str | None]:
        return [_read(text, pipeline, tokenizer) for text in texts[tokenizer]]

    if not family.style:
        return dict(zip(("prompt", "negative_prompt"), read(family.main), strict=True))
    names = ("main_prompt", "negative_prompt", "style_prompt", "negative_style_prompt")
    return dict(zip(names, read(family.main) + read(family.style), strict=True))


def _read(text: str | None, pipeline: Any, tokenizer: str) -> str | None:
    return text and inversion_words.written_out(text, getattr(pipeline, tokenizer, None))


def _skipping(encoder: Any, layers: int) -> Any:
    """``encoder`` whose text encoders leave out their last ``layers`` from now on; diffusers counts them so."""
    for part in (getattr(encoder, name, None) for name in ("compel", "compel_1", "compel_2")):
        if part is not None:
            part.conditioning_provider.text_encoder = _Shortened(part.conditioning_provider.text_encoder, layers)
    return encoder


class _Shortened:
    """A CLIP text encoder that gives its hidden states without the last ones; what it pools is of all of them."""

    def __init__(self, whole: Any, layers: int) -> None:
        self._whole, self._layers = whole, layers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        output = self._whole(*arguments, **{**named, "output_hidden_states": True})
        output.hidden_states = output.hidden_states[: len(output.hidden_states) - self._layers]
        output.last_hidden_state = self._whole.text_model.final_layer_norm(output.hidden_states[-1])
        return output
