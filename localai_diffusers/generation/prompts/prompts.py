# SPDX-License-Identifier: MIT
"""Prompts with weights, and longer than a text encoder's window: turned into embeddings before the call.

COMPEL=1 goes through compel, SD_EMBED=1 through sd_embed (A1111's syntax; it comes from git, so it may be missing).
Which of their functions fits is told by the types of the pipeline's text encoders and by its signature. What neither
knows keeps its plain prompt, with a note.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from localai_diffusers.generation.prompts import compel_prompts, sd_embed_prompts, tags
from localai_diffusers.generation.prompts.prompt_families import TEXTS, Family, NotKnown, is_blank
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.settings import Settings

log = logging.getLogger(__name__)

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")


def embedded(
    arguments: Mapping[str, Any], pipeline: Any, settings: Settings
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """A call's arguments with embeddings in place of the texts where a library is switched on and knows the model, and
    notes. A prompt that cannot be embedded stays as it is: it is never lost."""
    notes: tuple[str, ...] = ()
    if not isinstance(arguments.get("prompt"), str) or all(is_blank(arguments.get(name)) for name in TEXTS):
        return plain(arguments, pipeline)
    for is_on, variable, library in (
        (settings.sd_embed, "SD_EMBED", sd_embed_prompts),
        (settings.compel, "COMPEL", compel_prompts),
    ):
        if not is_on:
            continue
        family = _family(library.FAMILIES, pipeline)
        if family is None:
            notes += (f"{variable} does not know {type(pipeline).__name__}: the prompt is taken as plain text",)
            continue
        embeddings, said = _attempt(variable, library.embeddings, family, arguments, pipeline)
        notes += said
        if embeddings is not None:
            return _in_place(arguments, embeddings, pipeline), notes
    arguments, said = plain(arguments, pipeline)
    return arguments, notes + said


def plain(arguments: Mapping[str, Any], pipeline: Any) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The arguments without the weights in texts that no library reads, where CLIP does; notes."""
    found = tags.without_weights(arguments) if tags.clip_reads(pipeline) else {}
    return {**arguments, **found}, (tags.WEIGHT_NOTE,) if found else ()


def _family(families: tuple[Family, ...], pipeline: Any) -> Family | None:
    components, parameters = getattr(pipeline, "components", {}), parameters_of(pipeline)
    names = [type(components[name]).__name__ for name in _ENCODERS if components.get(name) is not None]
    return next((family for family in families if family.fits(names, parameters)), None)


def _attempt(
    variable: str,
    build: Callable[..., tuple[Mapping[str, Any], tuple[str, ...]]],
    family: Family,
    arguments: Mapping[str, Any],
    pipeline: Any,
) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    try:
        return build(family, arguments, pipeline)
    except NotKnown as error:
        return None, (f"{variable} {error}: the prompt is taken as plain text",)
    except ImportError as error:
        note = f"{variable} is set and its library is not installed ({error}): the prompt is taken as plain text"
        return None, (note,)
    except Exception as error:  # another's parser on any text: the plain prompt still works
        log.debug("%s failed on a prompt", variable, exc_info=error)  # its message may quote the text
        return None, (f"{variable} could not read the prompt ({type(error).__name__}): it is taken as plain text",)


def _in_place(arguments: Mapping[str, Any], embeddings: Mapping[str, Any], pipeline: Any) -> dict[str, Any]:
    """The arguments with the embeddings in place of the texts, in the dtype and on the device that the denoiser
    computes in."""
    parameters = parameters_of(pipeline)
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    found = {name: value for name, value in arguments.items() if name not in TEXTS}
    for name in TEXTS:
        if name in parameters and parameters[name].default is not None:  # required, or "" (Sana's negative prompt)
            found[name] = None
    for name, value in embeddings.items():
        if value is None or name not in parameters:
            continue
        dtype = denoiser.dtype if denoiser is not None and value.is_floating_point() else value.dtype
        found[name] = value.to(device=pipeline._execution_device, dtype=dtype)
    return found
