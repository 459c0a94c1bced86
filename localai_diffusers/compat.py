"""Gaps between the pinned diffusers and transformers, closed in one place, each with its reason.

Look here first when a pin moves: what is no longer needed can go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def clip_text_model() -> Iterator[None]:
    """While a pipeline is called, ``CLIPTextModel.text_model`` is the model itself.

    transformers 5.6 took the inner ``text_model`` out of CLIPTextModel (its parts are the model's own now). diffusers
    0.42.1 still asks for ``text_encoder.text_model.final_layer_norm`` in some thirty pipelines as soon as clip_skip is
    set, and fails with "CLIPTextModel has no attribute text_model". Only while a call runs: its loaders tell the two
    layouts apart by that very attribute. A property is no submodule: weights and hooks stay as they are.
    """
    from transformers import CLIPTextModel

    cls: Any = CLIPTextModel
    cls.text_model = property(_itself)
    try:
        yield
    finally:
        del cls.text_model


def _itself(model: Any) -> Any:
    """The inner model where there still is one (older transformers), else the model."""
    return model._modules.get("text_model", model)
