# SPDX-License-Identifier: MIT
"""What the prompt libraries share: families of text encoders, the texts of a call, and what an empty one stands for."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

TEXTS = ("prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")


class Family(NamedTuple):
    """A function of a prompt library: patterns of the text encoders' class names, what the signature must have and may
    not have, and the function's name.

    ``main`` and ``style``: the tokenizers that read compel's texts of these names, "" for one that it does not take;
    ``skips``: whether compel's encoders may leave out their last layers.
    """

    encoders: tuple[str, ...]
    takes: tuple[str, ...]
    lacks: tuple[str, ...]
    function: str
    main: str = "tokenizer"
    style: str = ""
    skips: bool = False

    def fits(self, encoders: Sequence[str], parameters: Container[str]) -> bool:
        """Whether it is for a pipeline of text encoders of these classes that takes these parameters."""
        return (
            len(encoders) == len(self.encoders)
            and all(map(fnmatchcase, encoders, self.encoders))
            and all(name in parameters for name in self.takes)
            and not any(name in parameters for name in self.lacks)
        )


# The families that both libraries know: encoders, what the signature has, what it lacks.
SD = (("CLIPTextModel",), ("prompt_embeds",), ("pooled_prompt_embeds", "prompt_attention_mask"))
XL = (
    ("CLIPTextModel", "CLIPTextModelWithProjection"),
    ("prompt_embeds", "pooled_prompt_embeds"),
    ("prompt_attention_mask",),
)
FLUX = (("CLIPTextModel", "T5EncoderModel"), ("prompt_embeds", "pooled_prompt_embeds"), ("prompt_attention_mask",))


class NotKnown(Exception):
    """What a prompt library does not take; its text follows the library's name."""


def is_blank(text: Any) -> bool:
    """Whether there is no text, or nothing but white space in it."""
    return not text or (isinstance(text, str) and not text.strip())


def zeroes_empty(arguments: Mapping[str, Any], pipeline: Any) -> bool:
    """Whether the pipeline takes zeros for a missing negative prompt (SDXL's config says so)."""
    return not arguments.get("negative_prompt") and bool(pipeline.config.get("force_zeros_for_empty_prompt"))


def zeroed(embeddings: Mapping[str, Any]) -> dict[str, Any]:
    """The embeddings with zeros for those of the negative prompt."""
    return {
        name: value * 0 if name.startswith("negative_") and value is not None else value
        for name, value in embeddings.items()
    }
