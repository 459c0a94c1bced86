# SPDX-License-Identifier: MIT
"""A component's config answers None for a flag of other models that it lacks.

For: diffusers 0.42.1. ChromaInpaintPipeline, copied from Flux's, asks its transformer's config for ``guidance_embeds``,
which ChromaTransformer2DModel has not, and fails: "'FrozenDict' object has no attribute 'guidance_embeds'". An entry of
a config is an attribute of its own and comes first.
May go: when ChromaInpaintPipeline does not ask.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import has, replaced


def applies(pipeline: Any) -> bool:
    return has(pipeline, "ChromaTransformer2DModel")


def applied() -> AbstractContextManager[None]:
    from diffusers.configuration_utils import FrozenDict

    return replaced(FrozenDict, guidance_embeds=None)
