# SPDX-License-Identifier: MIT
"""While a pipeline is loaded, a file without a dot in its name (LICENSE) beside a component's weights does no harm.

For: diffusers 0.42.1, which looks for a variant's files by ``name.split(".")[1]``, an IndexError for such a name.
May go: when ``_identify_model_variants`` looks at files of weights alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from localai_diffusers.patches.kit import replaced


def applied(variant_of: Callable[[str], str]) -> AbstractContextManager[None]:
    """``variant_of`` tells the variant in a file's name, "" where there is none."""
    from diffusers.pipelines import pipeline_utils

    def by_component(folder: str, variant: str | None, config: dict[str, Any]) -> dict[str, str]:
        """Component -> ``variant``, for those that have files of it."""
        if not variant:
            return {}
        parts = [part for part in Path(folder).iterdir() if part.is_dir() and part.name in config]
        return {
            part.name: variant for part in parts if any(variant_of(file.name) == variant for file in part.iterdir())
        }

    return replaced(pipeline_utils, _identify_model_variants=by_component)
