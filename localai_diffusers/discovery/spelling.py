# SPDX-License-Identifier: MIT
"""Names that people write: what spellings have in common, the nearest ones, and a list that ends in time."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def squeeze(text: str) -> str:
    """Letters and digits in lower case: what spellings of one name have in common."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def nearest(word: str, choices: Iterable[str], count: int = 5) -> list[str]:
    """The nearest of ``choices``, at most ``count``; spelling and case differences count little."""
    spelled = {squeeze(form): name for name in choices for form in (name, name.replace("Pipeline", ""))}
    squeezed = squeeze(word)
    found = difflib.get_close_matches(squeezed, spelled, n=count, cutoff=0.6)
    found += [key for key in spelled if len(squeezed) > 3 and squeezed in key]
    return list(dict.fromkeys(spelled[key] for key in found))[:count]


def did_you_mean(word: str, choices: Iterable[str], count: int = 5) -> str:
    """`Did you mean …?` with the nearest names, or nothing."""
    names = nearest(word, choices, count)
    return f"Did you mean {', '.join(names)}? " if names else ""


def first_of(names: list[str], hint: str, count: int = 20) -> str:
    """The first ``count`` names in a row, and how many more there are; ``hint`` says where."""
    rest = f", and {len(names) - count} more ({hint})" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
