# SPDX-License-Identifier: MIT
"""What a pipeline's folder says it is: its model_index.json, or of a modular pipeline modular_model_index.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX_FILE = "model_index.json"
MODULAR_INDEX_FILE = "modular_model_index.json"


@dataclass(frozen=True)
class Index:
    """``class_name``: of the pipeline, "" where none is named; ``is_custom``: it is code beside the index.

    ``components``: name -> (library, class) of those that are there; ``entries``: all of it as it is written.
    """

    class_name: str = ""
    is_modular: bool = False
    is_custom: bool = False
    components: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    entries: Mapping[str, Any] = field(default_factory=dict)


def read_index(folder: str | os.PathLike[str]) -> Index | None:
    """The index of ``folder``, None where there is none. Raises ValueError for a file that is no JSON object."""
    for name in (INDEX_FILE, MODULAR_INDEX_FILE):
        path = Path(folder, name)
        if path.is_file():
            return index_of(json_object(path), is_modular=name == MODULAR_INDEX_FILE)
    return None


def index_of(entries: Mapping[str, Any], is_modular: bool = False) -> Index:
    """``is_modular``: it is so whatever its class is called."""
    named = entries.get("_class_name")
    is_custom = isinstance(named, (list, tuple))  # ["module", "Class"]: a Python file inside the repo
    if isinstance(named, (list, tuple)):
        named = named[-1] if named else ""
    # diffusers reads Flax folders as their PyTorch class as well
    name = named.removeprefix("Flax") if isinstance(named, str) else ""
    parts = {part: _library_and_class(value) for part, value in entries.items() if not part.startswith("_")}
    components = {part: value for part, value in parts.items() if value is not None}
    return Index(name, is_modular or "ModularPipeline" in name, is_custom, components, entries)


def _library_and_class(value: Any) -> tuple[str, str] | None:
    """Of an entry of an index, None for one that is no component or none that is there.

    A modular index has a third part, which says what a component that was not loaded when it was written should be.
    """
    if not isinstance(value, list) or len(value) < 2:
        return None
    if value[0] is None and len(value) > 2 and isinstance(value[2], dict):
        value = value[2].get("type_hint") or value
    return (str(value[0]), str(value[1])) if len(value) >= 2 and value[0] is not None else None


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; ValueError naming it for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))  # no byte order mark: diffusers refuses one
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value
