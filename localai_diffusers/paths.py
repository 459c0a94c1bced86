# SPDX-License-Identifier: MIT
"""Names from a model's YAML -> files: relative ones stand under ModelPath and stay inside it."""

from __future__ import annotations

import os
from pathlib import Path

from localai_diffusers.errors import LoadError


def resolve(name: str, base: str, field: str) -> str:
    """An existing path for ``name``, or ``name`` itself where nothing of that name exists (a Hub repo id then).

    An absolute path is the operator's own choice; a relative one may not leave ``base``, by ``..`` or by a symlink.
    A link keeps its own name: a Hub cache has the file's name there, and a hash behind it. Raises LoadError naming
    ``field`` for a name that leaves ``base``.
    """
    if os.path.isabs(name) or not base:
        return name
    root = Path(base).resolve()
    target = (root / name).resolve()
    if not target.is_relative_to(root):
        raise LoadError(f"{field} {name!r} leaves the models folder {base}: give a path inside it, or an absolute one")
    return str(root / name) if target.exists() else name


def destination(name: str, base: str, field: str) -> Path:
    """The path of what is to be written, by the same rules: it need not exist yet."""
    return Path(base, resolve(name, base, field))
