# SPDX-License-Identifier: MIT
"""``maybe_convert_prompt`` writes out a new word's embeddings: all of them, whatever its case, as a whole word.

For: diffusers 0.42.1. It looks for the word among tokens that the tokenizer has put into lower case, so one with a
capital keeps its first embedding alone; it replaces a word inside others, and several words in the order of a set.
May go: when ``_maybe_convert_prompt`` reads whole words as they are written; the tokenizers' words then go with it.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import replaced

# On a tokenizer: each new word, in lower case, with the tokens of its embeddings.
_WORDS = "_inversion_words"


def applies(pipeline: Any) -> bool:
    return any(hasattr(part, _WORDS) for part in getattr(pipeline, "components", {}).values())


def applied() -> AbstractContextManager[None]:
    from diffusers.loaders import TextualInversionLoaderMixin

    def convert(_pipeline: Any, prompt: Any, tokenizer: Any) -> Any:
        if isinstance(prompt, list):
            return [written_out(text, tokenizer) for text in prompt]
        return written_out(prompt, tokenizer)

    return replaced(TextualInversionLoaderMixin, maybe_convert_prompt=convert)


def words_of(tokenizer: Any) -> dict[str, list[str]]:
    """The tokenizer's new words, in lower case, and the tokens of their embeddings."""
    return getattr(tokenizer, _WORDS, {})


def add(tokenizer: Any, word: str, tokens: list[str]) -> None:
    """Have the tokenizer know ``word``. The tokens are such as nobody writes: what is a word is decided here."""
    setattr(tokenizer, _WORDS, {**words_of(tokenizer), word.lower(): tokens})


def written_out(text: str, tokenizer: Any) -> str:
    """The text with each new word as the tokens of its embeddings; several with a sign of a weight behind them stand in
    parentheses, so that it is the weight of all."""
    words = words_of(tokenizer)
    if not words or not text:
        return text
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))

    def tokens(found: re.Match[str]) -> str:
        spelled = words[found[1].lower()]
        return f"({' '.join(spelled)}){found[2]}" if found[2] and len(spelled) > 1 else " ".join(spelled) + found[2]

    return re.sub(rf"(?<!\w)({longest_first})(?!\w)(\++|-+(?!\w)|)", tokens, text, flags=re.IGNORECASE)
