"""COMPEL=1: weighted and long prompts as embeddings, by compel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localai_diffusers.generation.prompts.prompt_families import FLUX, SD, XL, Family, zeroed, zeroes_empty
from localai_diffusers.pipeline.signatures import parameters_of

_INSTRUCTION = "complex_human_instruction"
FAMILIES: tuple[Family, ...] = (
    Family(*SD, "CompelForSD"),
    Family(*XL, "CompelForSDXL"),
    Family(*FLUX, "CompelForFlux"),
    Family(("Gemma2",), ("prompt_attention_mask", "complex_human_instruction"), (), "CompelForSana"),
    Family(("Gemma2",), ("prompt_attention_mask", "system_prompt"), (), "CompelForLumina2"),
)


def embeddings(family: Family, arguments: Mapping[str, Any], pipeline: Any, notes: list[str]) -> dict[str, Any]:
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
    made_of = {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": made.pooled_embeds,
        "prompt_attention_mask": made.attention_mask,
        "negative_prompt_embeds": made.negative_embeds,
        "negative_pooled_prompt_embeds": made.negative_pooled_embeds,
        "negative_prompt_attention_mask": made.negative_attention_mask,
    }
    return zeroed(made_of) if zeroes_empty(arguments, pipeline) else made_of


def _negative(arguments: Mapping[str, Any], pipeline: Any) -> str | None:
    """The negative prompt; where guidance needs one anyway an empty one, so that both are of the same length."""
    given = arguments.get("negative_prompt")
    if isinstance(given, str):
        return given
    parameters = parameters_of(pipeline)
    return "" if "negative_prompt_embeds" in parameters and "true_cfg_scale" not in parameters else None


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
