# SPDX-License-Identifier: MIT
"""What diffusers' packages add to transformers stays.

For: transformers 5.23, which runs its ``__init__`` a second time, and puts another module in its place, when its
``processing_utils`` is first imported. diffusers' PRX package has set ``transformers.T5GemmaEncoder`` by then, which
its text encoder is loaded by: where it is the first pipeline of the process, the class would be gone.
May go: when transformers keeps its module.
"""

from __future__ import annotations

import importlib


def settle() -> None:
    """Have it happen before any pipeline is imported."""
    importlib.import_module("transformers.processing_utils")
