# SPDX-License-Identifier: MIT
"""A component that is read from one file is quantized while it is read.

For: diffusers 0.42.1, whose ``from_single_file`` makes its quantizer as if the file's weights were quantized already:
torchao's leaves them as they are, optimum-quanto's finds none of them by name.
May go: when ``from_single_file`` asks the weights, as ``from_pretrained`` asks the config.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import replaced


def applied() -> AbstractContextManager[None]:
    """Inside the block what ``from_single_file`` is to quantize is plain."""
    from diffusers.loaders import single_file_model

    class Fresh(single_file_model.DiffusersAutoQuantizer):
        @classmethod
        def from_config(cls, quantization_config: Any, **kwargs: Any) -> Any:
            return super().from_config(quantization_config, **{**kwargs, "pre_quantized": False})

    return replaced(single_file_model, DiffusersAutoQuantizer=Fresh)
