# SPDX-License-Identifier: MIT
"""What a file of weights holds once its packing is undone: the tensors as a model has them, whatever they are stored
in.

ComfyUI's scaled 8-bit floats are multiplied out: a weight, and beside it the number (or the number of each row) that
it was divided by. A form that nothing here reads is refused by the word that the file itself has for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.checkpoint import headers, weights
from localai_diffusers.checkpoint.headers import Header, TensorInfo
from localai_diffusers.errors import LoadError

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
# Before or behind the name of a weight: ``x.scale_weight`` and ``x.weight_scale`` belong to ``x.weight``.
_SCALE = re.compile(r"(?P<stem>.*\.)?(?:scale_weight|(?P<weight>(?:in_proj_)?weight)_scale)$")
# Keys of the packing that say nothing about the weights.
_ASIDE = (
    (re.compile(r"(.*\.)?(scale_input|input_scale)$"), "a scale of the activations, which are not packed here"),
    (re.compile(r"(.*\.)?scaled_fp8$"), "says that the weights are scaled"),
    (re.compile(r"(.*\.)?comfy_quant$"), "says how the weights are packed"),
    (re.compile(r"v_pred|ztsnr|edm_mean|edm_std|edm_vpred\..*"), "says how the model was trained: see marks"),
)
# Packings by the keys that only they have, with the word that their files have for them.
_PACKED = (
    (re.compile(r".*\.(wscales|wtscale|smooth_factor(_orig)?|smooth)$"), "svdq"),
    (re.compile(r".*\.quant_state\.bitsandbytes__(?P<word>\w+)$"), ""),
    (re.compile(r".*\.weight\.(absmax|quant_map|nested_absmax)$"), "nf4"),
    (re.compile(r".*\.SCB$"), "SCB (bitsandbytes int8)"),
    (re.compile(r".*\.weight_scale_2$"), "nvfp4"),
    (re.compile(r".*\.qzeros$"), "qzeros (gptq or awq)"),
    (re.compile(r".*\.weight_scale_inv$"), "weight_scale_inv (fp8 by blocks)"),
    (re.compile(r".*\.qweight$"), "qweight"),
)


@dataclass(frozen=True)
class Entry:
    """One tensor of a model as a file has it: under which key, and under which its scale, "" for none."""

    header: Header
    key: str
    shape: tuple[int, ...]
    dtype: str
    scale: str = ""

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the file that it is made of."""
        return frozenset(filter(None, (self.key, self.scale)))


@dataclass(frozen=True)
class Contents:
    """The tensors of a file (or of the shards of one) by name, and the keys of its packing with what they are for."""

    headers: tuple[Header, ...]
    entries: Mapping[str, Entry]
    aside: Mapping[str, str]

    @property
    def label(self) -> str:
        """How the file is called to a user."""
        return str(self.headers[0].path)

    @property
    def keys(self) -> list[str]:
        """Every key of the files, those of no tensors too."""
        return [key for header in self.headers for key in (*header.tensors, *header.others)]

    @property
    def is_scaled(self) -> bool:
        """Whether some of the weights are multiplied out."""
        return any(entry.scale for entry in self.entries.values())

    def read(self, names: Collection[str], dtype: Any = None) -> dict[str, Any]:
        """The tensors of ``names``: the scaled ones multiplied out in fp32 (then in ``dtype``), the others as they
        are."""
        found: dict[str, Any] = {}
        for header in self.headers:
            wanted = {name: self.entries[name] for name in names if self.entries[name].header is header}
            stored = weights.tensors(header, {key for entry in wanted.values() for key in entry.keys}) if wanted else {}
            found |= {name: _unscaled(entry, stored, dtype) for name, entry in wanted.items()}
        return found


def _unscaled(entry: Entry, stored: Mapping[str, Any], dtype: Any) -> Any:
    import torch

    tensor = stored[entry.key]
    if not entry.scale:
        return tensor
    scale = stored[entry.scale].to(torch.float32)
    scale = scale.reshape(-1, *[1] * (tensor.ndim - 1)) if scale.numel() > 1 else scale.reshape(())
    plain = tensor.to(torch.float32) * scale
    return plain if dtype is None else plain.to(dtype)


def contents(files: Iterable[Header]) -> Contents:
    """What the files hold together. Raises LoadError, with the file's own word, for a packing that is not read here."""
    files = tuple(files)
    entries: dict[str, Entry] = {}
    aside: dict[str, str] = {}
    for header in files:
        _refuse_packed(header)
        resting = {key: reason for key in header.tensors if (reason := _aside(key))}
        scales = {_scaled_by(key, header): key for key in header.tensors if _scaled_by(key, header)}
        for key, info in header.tensors.items():
            if key not in resting and key not in scales.values():
                entries[key] = _entry(header, key, info, scales.get(key, ""))
        aside |= resting
    return Contents(files, entries, aside)


def _aside(key: str) -> str:
    return next((reason for pattern, reason in _ASIDE if pattern.fullmatch(key)), "")


def _scaled_by(key: str, header: Header) -> str:
    """The key of the weight whose scale ``key`` is, "" where it is none."""
    found = _SCALE.fullmatch(key)
    weight = f"{found['stem'] or ''}{found['weight'] or 'weight'}" if found else ""
    return weight if weight in header.tensors else ""


def _entry(header: Header, key: str, info: TensorInfo, scale: str) -> Entry:
    if scale:
        numbers, rows = header.tensors[scale], info.shape[0] if info.shape else 0
        fits = numbers.shape in ((), (1,), (1, 1), (rows,), (rows, 1)) and info.dtype in _FLOAT8
        if info.dtype in _FLOAT8 and not fits:
            raise _packed(header, f"{scale.rpartition('.')[2]} of shape {list(numbers.shape)}")
        if not fits and info.dtype in ("I8", "U8", "I32"):
            raise _packed(header, f"{info.dtype} with {scale.rpartition('.')[2]}")
    return Entry(header, key, info.shape, info.dtype, scale)


# --- what is not read here ---------------------------------------------------------------------------------------


def _refuse_packed(header: Header) -> None:
    for pattern, word in _PACKED:
        found = next((match for key in header.tensors if (match := pattern.fullmatch(key))), None)
        if found:
            raise _packed(header, word or found["word"])
    for word in _named_formats(header):
        if not word.startswith("float8_e"):
            raise _packed(header, word)
    if header.form == headers.GGUF:
        _check_blocks(header)


def _named_formats(header: Header) -> set[str]:
    """The formats that the file itself names: in its metadata, or in a text (stored as bytes) beside each weight."""
    texts = [header.metadata.get("_quantization_metadata", "")]
    marks = [key for key, info in header.tensors.items() if key.endswith("comfy_quant") and info.dtype == "U8"]
    texts += [bytes(tensor.tolist()).decode(errors="replace") for tensor in weights.tensors(header, marks).values()]
    found: set[str] = set()
    for text in filter(None, dict.fromkeys(texts)):
        try:
            found |= set(_formats(json.loads(text)))
        except ValueError:
            found.add(text[:40])
    return found


def _formats(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from [part] if key == "format" and isinstance(part, str) else _formats(part)
    elif isinstance(value, list):
        for part in value:
            yield from _formats(part)


def _check_blocks(header: Header) -> None:
    """Raise LoadError for a GGUF in blocks that diffusers does not unpack."""
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    known = {kind.name for kind in SUPPORTED_GGUF_QUANT_TYPES} | {"F32", "F16"}
    other = next((info.dtype for info in header.tensors.values() if info.dtype not in known), None)
    if other:
        raise LoadError(
            f"{header.path} is packed as {other}, which diffusers does not unpack: {', '.join(sorted(known))}"
        )


def _packed(header: Header, word: str) -> LoadError:
    return LoadError(
        f"{header.path} is packed as {word}, which is not read from a lone file: take the file in fp16, bf16, fp8 or "
        "GGUF, or a diffusers folder whose config.json has the quantization_config"
    )
