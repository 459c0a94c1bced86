"""What is put on a loaded pipeline: LoRAs, textual inversions, an IP-Adapter.

Found and checked before the load (:func:`plan`), put on before the pipeline gets its place (:func:`apply`).
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import artifacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading.adapters import ip_adapter, textual_inversion
from localai_diffusers.loading.adapters.ip_adapter import IPAdapter
from localai_diffusers.loading.adapters.textual_inversion import Inversion
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

_USUAL_LORA_NAMES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")


@dataclass(frozen=True)
class Lora:
    """One LoRA: the name that its layers get, its file, its scale, and how the YAML called it."""

    name: str
    file: Path
    scale: float
    label: str


@dataclass(frozen=True)
class Adapters:
    """All that goes onto one pipeline."""

    loras: tuple[Lora, ...] = ()
    inversions: tuple[Inversion, ...] = ()
    ip_adapter: IPAdapter | None = None


def plan(spec: LoadSpec, cls: type, settings: Settings) -> Adapters:
    """The adapters of ``spec``, each an intact file on this machine. Nothing is loaded.

    Raises LoadError for a missing or broken file, and for a pipeline class that does not take such an adapter.
    """
    inversions = textual_inversion.plan(spec, cls, settings)
    return Adapters(_loras(spec, cls, settings), inversions, ip_adapter.plan(spec, cls, settings))


def apply(pipeline: Any, adapters: Adapters) -> list[str]:
    """Put them on, before any offload is set up; notes. Raises LoadError for what does not fit the pipeline."""
    notes = textual_inversion.apply(pipeline, adapters.inversions)
    ip_adapter.apply(pipeline, adapters.ip_adapter)
    _apply_loras(pipeline, adapters.loras)
    return notes


def _loras(spec: LoadSpec, cls: type, settings: Settings) -> tuple[Lora, ...]:
    if not spec.loras:
        return ()
    if not _takes_lora(cls):
        raise LoadError(
            f"LoraAdapter(s) {', '.join(name for name, _scale in spec.loras)}: {cls.__name__} takes no LoRA"
        )
    wanted = artifacts.weight_names(spec.options.lora_weight_name, "lora_weight_name", len(spec.loras), "LoRAs")
    return tuple(
        _lora(spec, index, name, scale, wanted[index], settings) for index, (name, scale) in enumerate(spec.loras)
    )


def _takes_lora(cls: type) -> bool:
    """By the mixin; the root class stands for a single file whose own class is known only when it is loaded."""
    return (
        hasattr(cls, "load_lora_weights")
        or not hasattr(cls, "_optional_components")
        or cls.__name__ == "DiffusionPipeline"
    )


def _lora(spec: LoadSpec, index: int, name: str, scale: float, weight_name: str, settings: Settings) -> Lora:
    location = artifacts.find(spec, name, "LoraAdapter")
    file = artifacts.weight_in(spec, location, "LoraAdapter", weight_name, _USUAL_LORA_NAMES)
    artifacts.check_weights(file, spec, settings)
    # A torch module's name may hold no dot; the index keeps two files of one name apart.
    return Lora(f"{index}_{re.sub(r'[^A-Za-z0-9_-]', '_', file.stem)}", file, scale, name)


def _apply_loras(pipeline: Any, loras: tuple[Lora, ...]) -> None:
    """Load the LoRAs and set their scales. A file that fits no layer is an error here: diffusers only warns."""
    if not loras:
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise LoadError(f"LoraAdapter {loras[0].label!r}: {type(pipeline).__name__} takes no LoRA")
    for lora in loras:
        _load(pipeline, lora)
    pipeline.set_adapters([lora.name for lora in loras], [lora.scale for lora in loras])


def _load(pipeline: Any, lora: Lora) -> None:
    try:
        with _plain_weight_names(pipeline):
            pipeline.load_lora_weights(str(lora.file.parent), weight_name=lora.file.name, adapter_name=lora.name)
    except ImportError as error:
        raise LoadError(f"LoraAdapter {lora.label!r} needs peft: {error}") from error
    except Exception as error:  # converters of foreign formats fail with anything on a file they don't know
        raise LoadError(
            f"LoraAdapter {lora.label!r} does not fit {type(pipeline).__name__}: {_first_lines(error)}"
        ) from error
    fitted = [part for part, names in pipeline.get_list_adapters().items() if lora.name in names]
    if not fitted:
        raise LoadError(
            f"LoraAdapter {lora.label!r} fits no layer of {type(pipeline).__name__}: it was made for another model"
        )
    log.info("LoRA %s on %s, scale %g", lora.label, ", ".join(fitted), lora.scale)


@contextlib.contextmanager
def _plain_weight_names(pipeline: Any) -> Iterator[None]:
    """While a LoRA loads, a quantized linear layer's ``weight`` is in its model's state dict.

    optimum-quanto stores its parts alone (``weight._data``), and diffusers looks the plain name up for its shape.
    """
    import torch

    def add(module: Any, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
        for name, layer in module.named_modules():
            key = f"{prefix}{name}.weight"
            if isinstance(layer, torch.nn.Linear) and f"{key}._data" in state:
                state.setdefault(key, layer.weight)

    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    handles = [model.register_state_dict_post_hook(add) for model in models]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_lines(error: Exception) -> str:
    """The head of a message that goes on to list every tensor."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " …"
