# SPDX-License-Identifier: MIT
"""DualTransformer2DModel takes the attention mask of the text that it is handed.

For: diffusers 0.42.1, which hands its UNets' attention blocks an ``encoder_attention_mask`` (None in these pipelines);
this one's ``forward`` has no such parameter: Versatile Diffusion's dual guidance fails with a TypeError.
May go: when ``forward`` has it, or Versatile Diffusion goes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import has, replaced


def applies(pipeline: Any) -> bool:
    return has(pipeline, "UNetFlatConditionModel")


def applied() -> AbstractContextManager[None]:
    from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel

    theirs: Any = DualTransformer2DModel.forward

    def forward(model: Any, *args: Any, encoder_attention_mask: Any = None, **kwargs: Any) -> Any:
        return theirs(model, *args, **kwargs)

    return replaced(DualTransformer2DModel, forward=forward)
