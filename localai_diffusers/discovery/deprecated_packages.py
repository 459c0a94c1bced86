# SPDX-License-Identifier: MIT
"""diffusers finds component classes of its deprecated pipelines.

For: diffusers 0.42.1. Models name such classes by their package ("unclip"); it looks for that package as an attribute
of `diffusers.pipelines`, and those that it moved into `pipelines.deprecated` are not there. Itself it saves classes of
other folders called so (a scheduler's) as of the package "deprecated", which has them not either.
May go: when diffusers looks in `pipelines.deprecated` too. (Not in patches/: discovery imports nothing of ours.)
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from localai_diffusers.discovery.source import catalog, import_lock


def expose_deprecated(components: Iterable[tuple[str, str]]) -> None:
    """Enter the packages of those component classes, (library, class), that diffusers would not find.

    Nothing but packages of diffusers itself is imported.
    """
    home = "diffusers.pipelines.deprecated"
    moved = {record.module.split(".")[3] for record in catalog().values() if record.module.startswith(home + ".")}
    wanted = sorted(row for row in components if row[0] in {*moved, "deprecated"})
    if not wanted:
        return
    with import_lock:
        diffusers, pipelines = importlib.import_module("diffusers"), importlib.import_module("diffusers.pipelines")
        for library, name in wanted:
            if library in moved and not hasattr(pipelines, library):
                setattr(pipelines, library, importlib.import_module(f"{home}.{library}"))
            elif library == "deprecated" and hasattr(diffusers, name):
                setattr(importlib.import_module(home), name, getattr(diffusers, name))
