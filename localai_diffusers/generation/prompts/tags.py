# SPDX-License-Identifier: MIT
"""What people write in prompts for another program: tags of adapters, and weights where nothing here reads them.

``<lora:name:0.8>``, ``<hypernet:…>`` and ``<lyco:…>`` leave every prompt: which adapters there are the model says.
``(word:1.2)`` becomes ``word`` where CLIP reads the prompt and no library that knows weights does: CLIP would read the
number. Bare parentheses, ``AND`` and ``BREAK`` stay: they are words too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# A tag with the comma and the space before it: what is between its neighbors stays once.
_TAG = re.compile(r"\s*,?\s*<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r"(?<!\\)\(((?:[^()\\]|\\.)*):\s*(\d+(?:\.\d+)?|\.\d+)\s*\)")
_MOST = 3.0  # what is written behind a colon beyond it is a time or a proportion, no weight
TAG_NOTE = "<lora:…> and its like are taken out of the prompt: LoRAs are the model's (lora_adapters in its YAML)"
WEIGHT_NOTE = (
    "weights as in (word:1.2) are taken out of the prompt: start the backend with COMPEL=1 or SD_EMBED=1 for prompts "
    "with weights"
)
# Said once a load, since it is about how people write: not at each request.
ONCE = frozenset({WEIGHT_NOTE})


def is_prompt(name: str) -> bool:
    """Whether the argument ``name`` is a text that a person wrote for the model: prompt, negative_prompt_2."""
    return re.fullmatch(r"(\w+_)?prompt(_\d)?", name) is not None


def without_tags(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Those of the prompts among ``arguments`` that have tags, without them."""
    found = {name: _untagged(value) for name, value in arguments.items() if is_prompt(name) and isinstance(value, str)}
    return {name: text for name, text in found.items() if text != arguments[name]}


def without_weights(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Those of the prompts among ``arguments`` that have weights, without them: the words stay."""
    found = {name: unweighted(value) for name, value in arguments.items() if is_prompt(name) and isinstance(value, str)}
    return {name: text for name, text in found.items() if text != arguments[name]}


def _untagged(text: str) -> str:
    if not _TAG.search(text):
        return text
    return _TAG.sub("", text).lstrip(" ,").rstrip()


def unweighted(text: str) -> str:
    """The text with ``(word:1.2)`` as ``word``, from the inside outwards."""
    while (changed := _WEIGHT.sub(_word, text)) != text:
        text = changed
    return text


def _word(found: re.Match[str]) -> str:
    return found[1] if float(found[2]) <= _MOST else found[0]


def clip_reads(pipeline: Any) -> bool:
    """Whether one of the pipeline's text encoders is a CLIP's."""
    parts = getattr(pipeline, "components", {}).items()
    return any(name.startswith("text_encoder") and "CLIPText" in type(part).__name__ for name, part in parts)
