# SPDX-License-Identifier: MIT
"""``ClapModel.get_text_features`` returns the features themselves, a tensor.

For: diffusers 0.42.1 with transformers 5, which wraps them in an output object. AudioLDM 2 knows both forms; MusicLDM
knows the tensor alone, and fails: "'BaseModelOutputWithPooling' object has no attribute 'to'".
May go: when MusicLDM reads ``pooler_output``, or goes itself.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from localai_diffusers.patches.kit import has, replaced


def applies(pipeline: Any) -> bool:
    return has(pipeline, "ClapModel")


def applied() -> AbstractContextManager[None]:
    from transformers import ClapModel

    theirs: Any = ClapModel.get_text_features

    @functools.wraps(theirs)
    def features(model: Any, *args: Any, **named: Any) -> Any:
        found = theirs(model, *args, **named)
        return getattr(found, "pooler_output", found)

    return replaced(ClapModel, get_text_features=features)
