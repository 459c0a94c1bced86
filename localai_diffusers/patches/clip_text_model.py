# SPDX-License-Identifier: MIT
"""``CLIPTextModel.text_model`` is the model itself.

For: diffusers 0.42.1 with transformers from 5.6 on, which took the inner ``text_model`` out of CLIPTextModel (its parts
are the model's own now). diffusers still asks for ``text_encoder.text_model.final_layer_norm`` in some thirty pipelines
as soon as clip_skip is set, and sd_embed always: "CLIPTextModel has no attribute text_model". Only while a call runs:
diffusers' loaders tell the two layouts apart by that very attribute. A property is no submodule: weights and hooks stay
as they are.
May go: when diffusers asks the model itself.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import has, replaced


def applies(pipeline: Any) -> bool:
    return has(pipeline, "CLIPTextModel")


def applied() -> AbstractContextManager[None]:
    from transformers import CLIPTextModel

    return replaced(CLIPTextModel, text_model=property(_itself))


def _itself(model: Any) -> Any:
    """The inner model where there still is one (older transformers), else the model."""
    return model._modules.get("text_model", model)
