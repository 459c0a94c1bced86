"""Prompts with weights, and longer than a text encoder's window: turned into embeddings before the call.

COMPEL=1 goes through compel, SD_EMBED=1 through sd_embed (A1111's syntax; it comes from git, so it may be missing).
Which of their functions fits is told by the types of the pipeline's text encoders and by its signature. What neither
knows keeps its plain prompt, with a note.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from localai_diffusers.generation.prompts import compel_prompts, sd_embed_prompts
from localai_diffusers.generation.prompts.prompt_families import TEXTS, Family, NotKnown, is_blank
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.settings import Settings

log = logging.getLogger(__name__)

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")


def embed(arguments: dict[str, Any], pipeline: Any, settings: Settings) -> list[str]:
    """Replace the texts among a call's ``arguments`` by embeddings where a library is switched on and knows the model.

    Changes ``arguments``; returns notes. A prompt that cannot be embedded stays as it is: it is never lost.
    """
    if not isinstance(arguments.get("prompt"), str) or all(is_blank(arguments.get(name)) for name in TEXTS):
        return []
    notes = []
    for is_on, variable, library in (
        (settings.sd_embed, "SD_EMBED", sd_embed_prompts),
        (settings.compel, "COMPEL", compel_prompts),
    ):
        if not is_on:
            continue
        family = _family(library.FAMILIES, pipeline)
        if family is None:
            notes.append(f"{variable} does not know {type(pipeline).__name__}: the prompt is taken as plain text")
            continue
        embeddings = _attempt(variable, library.embeddings, family, arguments, pipeline, notes)
        if embeddings is not None:
            _put(arguments, embeddings, pipeline)
            return notes
    return notes


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
        log.debug("%s failed on a prompt", variable, exc_info=error)  # its message may quote the text
        notes.append(f"{variable} could not read the prompt ({type(error).__name__}): it is taken as plain text")
    return None


def _put(arguments: dict[str, Any], embeddings: Mapping[str, Any], pipeline: Any) -> None:
    """The embeddings in place of the texts, in the dtype and on the device that the denoiser computes in."""
    parameters = parameters_of(pipeline)
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    for name in TEXTS:
        arguments.pop(name, None)
        if name in parameters and parameters[name].default is not None:  # required, or "" (Sana's negative prompt)
            arguments[name] = None
    for name, value in embeddings.items():
        if value is None or name not in parameters:
            continue
        dtype = denoiser.dtype if denoiser is not None and value.is_floating_point() else value.dtype
        arguments[name] = value.to(device=pipeline._execution_device, dtype=dtype)
