# SPDX-License-Identifier: MIT
"""GLM-Image's features of pictures are rows, (patches, channels) a picture.

For: diffusers 0.42.1, whose pipeline joins them so, with transformers 5.23, which gives (channels, height, width): the
pictures to edit fail with "expected input[1, 1, 2, 2] to have 16 channels". The tokens are made patch by patch: any
form will do.
May go: when the pipeline flattens them itself.
"""

from __future__ import annotations

import functools
import sys
from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import has, replaced

_MODULE = "transformers.models.glm_image.modeling_glm_image"


def applies(pipeline: Any) -> bool:
    return _MODULE in sys.modules and has(pipeline, "GlmImageTransformer2DModel")


def applied() -> AbstractContextManager[None]:
    model_class: Any = sys.modules[_MODULE].GlmImageModel
    features, tokens = model_class.get_image_features, model_class.get_image_tokens

    @functools.wraps(features)
    def rows(model: Any, *args: Any, **named: Any) -> Any:
        found = features(model, *args, **named)
        found.pooler_output = [picture.flatten(1).T for picture in found.pooler_output]
        return found

    @functools.wraps(tokens)
    def of_rows(model: Any, pictures: Any, *args: Any) -> Any:
        parts = pictures if isinstance(pictures, list) else [pictures]
        return tokens(model, [part.T[:, :, None] for part in parts], *args)

    return replaced(model_class, get_image_features=rows, get_image_tokens=of_rows)
