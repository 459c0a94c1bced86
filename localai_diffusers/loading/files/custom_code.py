# SPDX-License-Identifier: MIT
"""``options: custom_pipeline:``: a pipeline class that comes as code, read before the model that serves is let go."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from localai_diffusers import paths
from localai_diffusers.errors import LoadError
from localai_diffusers.wire.load_spec import LoadSpec

_FIELD = "option custom_pipeline"
_FILE = "pipeline.py"  # what diffusers calls it in a folder or repo


def place_of(spec: LoadSpec) -> str:
    """The code's file or folder, a relative one under ModelPath, else the name of a Hub repo or of a pipeline of
    diffusers' community; "" where none is asked for.

    Raises LoadError without trust in code, and for a path that is not there.
    """
    name = spec.options.custom_pipeline
    if not name:
        return ""
    if not spec.trust_remote_code:
        raise LoadError(f"{_FIELD}:{name} is code, which is run only with trust_remote_code: true")
    place = Path(paths.resolve(name, spec.model_path, _FIELD))
    if place.is_dir() and not (place / _FILE).is_file():
        raise LoadError(f"{_FIELD}:{name}: {place} holds no {_FILE}")
    if not place.exists() and (os.path.isabs(name) or name.endswith(".py")):
        raise LoadError(f"{_FIELD}:{name} is no file or folder under ModelPath {spec.model_path!r}")
    return str(place) if place.exists() else name


def class_of(spec: LoadSpec) -> type | None:
    """The class that the code defines, None where no code is asked for.

    Raises LoadError for code that is not to be had, fails, or defines no pipeline.
    """
    place = place_of(spec)
    if not place:
        return None
    from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

    _forget_earlier()
    root, file = (str(Path(place).parent), Path(place).name) if place.endswith(".py") else (place, _FILE)
    try:
        return get_class_from_dynamic_module(
            root, module_file=file, local_files_only=spec.options.local_files_only, trust_remote_code=True
        )
    except Exception as error:  # whatever a stranger's code raises when it is imported
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise LoadError(f"{_FIELD}:{spec.options.custom_pipeline} gives no pipeline class ({reason})") from error


def _forget_earlier() -> None:
    """diffusers runs all local code in modules named by the file alone: the classes of another load's pipeline.py would
    still be in this one's (0.42.1, dynamic_modules_utils)."""
    for name in [name for name in sys.modules if name.startswith("diffusers_modules.")]:
        del sys.modules[name]
