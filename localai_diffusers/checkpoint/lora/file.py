# SPDX-License-Identifier: MIT
"""A LoRA's file: its header, what goes with it (PEFT's adapter_config.json, the metadata of diffusers), its tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import headers, model_files, weights
from localai_diffusers.checkpoint.headers import Header
from localai_diffusers.checkpoint.lora import differences, pieces
from localai_diffusers.checkpoint.lora.fit import Change
from localai_diffusers.checkpoint.lora.pieces import Sorted
from localai_diffusers.errors import LoadError

PEFT_CONFIG = "adapter_config.json"
_METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's config in a safetensors header, by component
_SERVED_TYPES = ("LORA", "LOHA", "LOKR")
# Dtypes that hold no weights by themselves: whole numbers, and scales of packed ones.
_NO_WEIGHTS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F8_E8M0", "F4", "C64")
# Settings of PEFT that make another computation of the same tensors.
_FOREIGN_SETTINGS = ("use_qalora", "layer_replication", "alora_invocation_tokens", "arrow_config", "target_parameters")


@dataclass(frozen=True)
class LoraFile:
    """``configs``: PEFT's config by component, "" for the one of the whole file; ``alphas``: the file's single numbers
    by key."""

    header: Header
    sorted: Sorted
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape."""
        return {key: tensor.shape for key, tensor in self.header.tensors.items()}

    def factor(self, change: Change) -> float:
        """What a layer's difference is multiplied by at full strength: alpha by rank, as the file says it for the
        layer, else as the config does, else 1."""
        shapes = {piece: self.shapes[key] for piece, key in change.pieces.items()}
        rank = differences.rank(shapes)
        if "alpha" in change.pieces:
            return self.alphas[change.pieces["alpha"]] / rank if rank else 1.0
        config = self.configs.get(change.place.component) or self.configs.get("") or {}
        return _configured(config, change.layer, rank)

    def tensors(self, keys: Collection[str]) -> dict[str, Any]:
        """The tensors of these keys, in the file's own dtypes."""
        found = weights.tensors(self.header, keys)
        return {key: weights.unpacked(tensor) for key, tensor in found.items()}


def read(path: Path, allow_pickle: bool) -> LoraFile:
    """The file's header, its keys sorted, and the config that goes with it; nothing but single numbers is read.

    Raises LoadError for a file that is broken, a pickle that nobody trusts, and a method that is not served.
    """
    header = headers.read(path, allow_pickle)
    whole = [key for key, tensor in header.tensors.items() if tensor.dtype in _NO_WEIGHTS and not _is_number(key)]
    found = pieces.sort(header.tensors.keys() - set(whole), whole)
    alphas = [key for its in found.layers.values() if (key := its.get("alpha"))]
    numbers = {key: float(tensor) for key, tensor in _single(header, alphas).items()}
    broken = next((key for key, number in numbers.items() if not math.isfinite(number)), None)
    if broken:
        raise LoadError(f"{path}: {broken} is {numbers[broken]}, which is no number: the file is broken")
    return LoraFile(header, found, _configs(header), numbers)


def _is_number(key: str) -> bool:
    return key.endswith("alpha")


def _single(header: Header, keys: Sequence[str]) -> dict[str, Any]:
    alone = [key for key in keys if math.prod(header.tensors[key].shape) == 1]
    return weights.tensors(header, alone) if alone else {}


def _configs(header: Header) -> Mapping[str, Mapping[str, Any]]:
    """PEFT's config from the file's own metadata, else from the adapter_config.json beside it."""
    try:
        flat = json.loads(header.metadata.get(_METADATA, "{}"))
    except ValueError:
        raise LoadError(f"{header.path}: its metadata {_METADATA} is no JSON: the file is broken") from None
    beside = header.path.parent / PEFT_CONFIG
    found: dict[str, dict[str, Any]] = {}
    if isinstance(flat, dict) and flat:
        for name, value in flat.items():
            component, _, setting = name.partition(".")
            found.setdefault(component if setting else "", {})[setting or name] = value
    elif beside.is_file() and _is_of_peft(header):
        found[""] = model_files.read_json(beside)
    for config in found.values():
        _check(config, header.path)
    return found


def _check(config: Mapping[str, Any], path: Path) -> None:
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2].upper()
    if kind not in _SERVED_TYPES:
        raise LoadError(f"{path} is an adapter of PEFT's method {kind}: {', '.join(_SERVED_TYPES)} are served")
    foreign = next((setting for setting in _FOREIGN_SETTINGS if config.get(setting)), None)
    if foreign:
        raise LoadError(f"{path} was trained with PEFT's {foreign}, which is not served")


def _configured(config: Mapping[str, Any], layer: str, rank: int | None) -> float:
    """alpha by rank (by its root with use_rslora) as PEFT's config has it for this layer; 1 where it says no alpha."""
    alpha = config.get("lora_alpha", config.get("alpha"))
    if alpha is None:
        return 1.0
    from peft.utils.other import get_pattern_key

    name = layer.removeprefix("base_model.model.")
    alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    alpha = float(alphas.get(get_pattern_key(list(alphas), name), alpha))
    said = ranks.get(get_pattern_key(list(ranks), name), config.get("r"))
    count = float(rank or said or 1)
    return alpha / math.sqrt(count) if config.get("use_rslora") else alpha / count


def _is_of_peft(header: Header) -> bool:
    """Whether the file is one that PEFT saves: another may lie beside the config of a LoRA that it has no part in."""
    return header.path.stem.startswith("adapter_model") or any(
        ".lora_A" in key or key.startswith("base_model.") for key in header.tensors
    )
