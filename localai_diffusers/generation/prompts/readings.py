# SPDX-License-Identifier: MIT
"""What the text encoders read of each text: seen while their tokenizers are called, for each pipeline cuts its own way.

A prompt counts as cut where the encoder that reads most of it cuts it: Flux's CLIP reads 77 tokens and its T5 512.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from localai_diffusers.generation.prompts.tags import is_prompt
from localai_diffusers.patches import inversion_words
from localai_diffusers.patches.kit import replaced


class _Reading(NamedTuple):
    """A text as a pipeline gave it to a tokenizer, and how many tokens were left and would have been."""

    text: str
    tokenizer: Any
    kept: int
    total: int


@dataclass
class Readings:
    """The texts that were read."""

    found: list[_Reading] = field(default_factory=list)

    def notes(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """ "prompt cut at 77 of 100 tokens" for each of a call's texts that no encoder read whole."""
        texts = {name: value for name, value in arguments.items() if is_prompt(name) and isinstance(value, str)}
        said: tuple[str, ...] = ()
        for negative in (False, True):
            own = [text for name, text in texts.items() if name.startswith("neg") == negative and text.strip()]
            read = [reading for text in own for reading in self._of(text)]
            most = max((reading.kept for reading in read), default=0)
            total = max((reading.total for reading in read if reading.kept == most), default=0)
            if total > most:
                said += (f"{'negative ' if negative else ''}prompt cut at {most} of {total} tokens",)
        return said

    def _of(self, text: str) -> list[_Reading]:
        """The readings of ``text``: those that hold it and the least beside it, for each tokenizer. Another prompt may
        hold it too, and a template is around some."""
        holding = [reading for reading in self.found if _holds(reading, text)]
        least: dict[int, int] = {}
        for reading in holding:
            length = len(_letters(reading.text))
            least[id(reading.tokenizer)] = min(length, least.get(id(reading.tokenizer), length))
        return [reading for reading in holding if len(_letters(reading.text)) == least[id(reading.tokenizer)]]


def _holds(reading: _Reading, text: str) -> bool:
    """Whether what was read is the text: with a template around it, cleaned, or with new words written out."""
    read = _letters(reading.text)
    forms = (text, inversion_words.written_out(text, reading.tokenizer))
    return bool(read) and any(_letters(form) in read for form in forms)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


@contextlib.contextmanager
def watched() -> Iterator[Readings]:
    """What every tokenizer is given to cut inside the block."""
    from transformers import PreTrainedTokenizerBase

    readings, theirs = Readings(), PreTrainedTokenizerBase.__call__

    @functools.wraps(theirs)
    def call(tokenizer: Any, text: Any = None, *arguments: Any, **named: Any) -> Any:
        if named.get("truncation") not in (None, False) and text is not None:
            readings.found.extend(_readings(theirs, tokenizer, text, named))
        return theirs(tokenizer, text, *arguments, **named)

    with replaced(PreTrainedTokenizerBase, __call__=call):
        yield readings


def _readings(count: Any, tokenizer: Any, text: Any, named: Mapping[str, Any]) -> Iterator[_Reading]:
    kept = named.get("max_length") or getattr(tokenizer, "model_max_length", 0)
    special = {name: named[name] for name in ("add_special_tokens",) if name in named}
    for one in [text] if isinstance(text, str) else text:
        if isinstance(one, str) and kept:
            total = len(count(tokenizer, one, truncation=False, verbose=False, **special)["input_ids"])
            yield _Reading(one, tokenizer, kept, total)
