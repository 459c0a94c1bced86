# SPDX-License-Identifier: MIT
"""What is put on a loaded pipeline: LoRAs, textual inversions, an IP-Adapter.

Found and checked once, before the load (:func:`plan`), put on before the pipeline gets its place (:func:`apply`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from localai_diffusers.loading.adapters import ip_adapter, lora, textual_inversion
from localai_diffusers.loading.adapters.ip_adapter import IPAdapter
from localai_diffusers.loading.adapters.lora import Lora
from localai_diffusers.loading.adapters.textual_inversion import Inversion
from localai_diffusers.loading.files.skeletons import Skeletons
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec


@dataclass(frozen=True)
class Adapters:
    """All that goes onto one pipeline."""

    loras: tuple[Lora, ...] = ()
    inversions: tuple[Inversion, ...] = ()
    ip_adapter: IPAdapter | None = None


def plan(spec: LoadSpec, cls: type, settings: Settings, model: Skeletons) -> Adapters:
    """The adapters of ``spec``, each an intact file on this machine that fits ``model``, whose modules are known from
    its configs. Nothing is loaded.

    Raises LoadError for a file that is missing, broken or of another model, and for a pipeline class that does not take
    such an adapter.
    """
    inversions = textual_inversion.plan(spec, cls, settings)
    pictures = ip_adapter.plan(spec, cls, settings)
    ip_adapter.check_base(pictures, model)
    return Adapters(lora.plan(spec, cls, settings, model), inversions, pictures)


def apply(pipeline: Any, adapters: Adapters) -> list[str]:
    """Put them on, before any offload is set up; notes. Raises LoadError for what does not fit the pipeline."""
    notes = textual_inversion.apply(pipeline, adapters.inversions)
    ip_adapter.apply(pipeline, adapters.ip_adapter)
    return notes + lora.apply(pipeline, adapters.loras)
