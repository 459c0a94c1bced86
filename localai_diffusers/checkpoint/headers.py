# SPDX-License-Identifier: MIT
"""The header of a file of weights: what its tensors are called, their shapes and dtypes, and what its metadata says.

A file's kind is told by its content, whatever its name: safetensors and GGUF have a header of their own; whatever is
neither is a pickle, which has none, so that one that is trusted is read by torch's restricted unpickler, mapped
from the disk where its format allows it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from localai_diffusers.errors import LoadError, is_out_of_memory

SAFETENSORS, GGUF, PICKLE = "safetensors", "gguf", "pickle"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
_GGUF_MAGIC = b"GGUF"
_PICKLES = (b"PK", b"\x80")  # torch's archives since 1.6, and what it wrote before
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
# Where ComfyUI's converter keeps the shape of a tensor that it flattened for GGUF's blocks.
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file. ``dtype`` is safetensors' name of it (F16, BF16, F8_E4M3 …), or GGUF's (Q8_0 …)."""

    shape: tuple[int, ...]
    dtype: str
    size: int = 0


@dataclass(frozen=True)
class Header:
    """What a file of weights says before its weights are read.

    ``form`` is SAFETENSORS, GGUF or PICKLE; ``metadata`` its texts; ``others`` the entries of a pickle that are no
    tensors (``global_step``); ``mapped``: its weights are mapped from the disk, not read into memory first.
    """

    path: Path
    form: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    others: tuple[str, ...] = ()
    mapped: bool = True

    @property
    def main_dtype(self) -> str:
        """The dtype of most of the bytes, "" for a file without tensors."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
        return max(sizes, key=sizes.__getitem__, default="")


def form_of(path: Path) -> str:
    """SAFETENSORS, GGUF or PICKLE by the file's first bytes: what is neither of the first two counts as a pickle.

    Raises LoadError for a file that cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error}): download it again") from None
    if start[:4] == _GGUF_MAGIC:
        return GGUF
    length = int.from_bytes(start[:8], "little")
    return SAFETENSORS if start[8:] == b"{" and length <= _LONGEST_HEADER else PICKLE


def is_pickled(path: Path) -> bool:
    """Whether the file begins as torch's pickles do; what is none and no other form either is no file of weights."""
    with path.open("rb") as stream:
        return stream.read(2).startswith(_PICKLES)


def read(path: Path, allow_pickle: bool = False) -> Header:
    """The header of the file. A pickle is read whole (its tensors mapped from the disk), only with ``allow_pickle``.

    Raises LoadError for a file that is empty, broken, or a pickle that may not be read.
    """
    form = check(path, allow_pickle)
    if form == SAFETENSORS:
        return _of_safetensors(path)
    return _of_gguf(path) if form == GGUF else _of_pickle(path)


def check(path: Path, allow_pickle: bool) -> str:
    """The file's form. Raises LoadError for one that is empty, broken, or a pickle that may not be read."""
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty: download it again")
    form, suffix = form_of(path), path.suffix.lower()
    if form == SAFETENSORS:
        _check_safetensors(path)
    elif form == PICKLE and suffix in (".safetensors", ".gguf"):
        raise LoadError(f"{path} is no intact {suffix[1:]} file (by its first bytes): download it again")
    elif form == PICKLE and not is_pickled(path) and (allow_pickle or suffix not in PICKLE_SUFFIXES):
        raise LoadError(f"{path} is no checkpoint: by its first bytes it is neither safetensors nor GGUF nor a pickle")
    elif form == PICKLE and not allow_pickle:
        raise LoadError(
            f"{path} is a pickle, which can carry code, and there is no .safetensors beside it. Convert "
            "it, or if you trust it set SAFETENSORS=0, options: use_safetensors:false or trust_remote_code: true"
        )
    return form


# --- safetensors -------------------------------------------------------------------------------------------------


def _identity(path: Path) -> tuple[int, ...]:
    """What a file that was written anew does not have."""
    known: os.stat_result = path.stat()
    return known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns


# A load asks three times for the header of each file, and the next load of the same model asks again.
_KEPT = 64


def _check_safetensors(path: Path) -> None:
    """Raise LoadError where the library refuses the header: it checks offsets and shapes against the file's length."""
    _checked_safetensors(path, _identity(path))


@functools.lru_cache(_KEPT)
def _checked_safetensors(path: Path, _file: tuple[int, ...]) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(f"{path} is no intact safetensors file ({error}): download it again") from None


def _of_safetensors(path: Path) -> Header:
    return _read_safetensors(path, _identity(path))


@functools.lru_cache(_KEPT)
def _read_safetensors(path: Path, _file: tuple[int, ...]) -> Header:
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        found = parse_local_safetensors_file_metadata(path)
    except (SafetensorsParsingError, OSError, ValueError) as error:
        raise LoadError(f"{path} is no intact safetensors file ({error}): download it again") from None
    tensors = {
        name: TensorInfo(tuple(tensor.shape), tensor.dtype, tensor.data_offsets[1] - tensor.data_offsets[0])
        for name, tensor in found.tensors.items()
    }
    texts = {name: str(text) for name, text in (found.metadata or {}).items()}
    return Header(path, SAFETENSORS, MappingProxyType(tensors), MappingProxyType(texts))


# --- GGUF --------------------------------------------------------------------------------------------------------


def _of_gguf(path: Path) -> Header:
    with gguf_package():
        from gguf import GGUFReader
    try:
        reader = GGUFReader(path)
        metadata = dict(_gguf_texts(reader))
        tensors = {tensor.name: _gguf_tensor(tensor, reader) for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise LoadError(f"{path} is no intact GGUF file ({error}): download it again") from None
    return Header(path, GGUF, tensors, metadata)


def _gguf_texts(reader: Any) -> Iterator[tuple[str, str]]:
    from gguf import GGUFValueType

    return ((part.name, part.contents()) for part in reader.fields.values() if part.types == [GGUFValueType.STRING])


def _gguf_tensor(tensor: Any, reader: Any) -> TensorInfo:
    """GGUF lists the fastest dimension first, and says of a tensor that ComfyUI flattened what it was."""
    original = reader.get_field(_ORIGINAL_SHAPE + tensor.name)
    shape = original.contents() if original is not None else reversed(tensor.shape.tolist())
    return TensorInfo(tuple(int(size) for size in shape), tensor.tensor_type.name, int(tensor.n_bytes))


@contextlib.contextmanager
def gguf_package() -> Iterator[None]:
    """An import of the gguf package; LoadError that says how to get it where it is missing."""
    try:
        yield
    except ImportError as error:
        raise LoadError(f"a .gguf file needs the gguf package ({error}): pip install gguf") from error


# --- pickles -----------------------------------------------------------------------------------------------------


def unpickled(path: Path) -> Mapping[str, Any]:
    """A trusted pickle's entries by torch's restricted unpickler, out of their ``state_dict`` where they have one.

    Raises LoadError for one that holds other objects than tensors and plain values, or no names.
    """
    import pickle

    import torch

    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            found = torch.load(path, mmap=True, **options)
        except RuntimeError as error:  # the format before torch 1.6 cannot be mapped
            if is_out_of_memory(error):
                raise
            found = torch.load(path, **options)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise LoadError(f"{path} holds no weights that torch's restricted unpickler reads ({reason})") from error
    while isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise LoadError(f"{path} holds a {type(found).__name__}, not weights by name")
    return {str(name): value for name, value in found.items()}


def _of_pickle(path: Path) -> Header:
    import torch

    entries = unpickled(path)
    tensors = {
        name: TensorInfo(tuple(value.shape), dtype_name(value.dtype), value.numel() * value.element_size())
        for name, value in entries.items()
        if isinstance(value, torch.Tensor)
    }
    return Header(path, PICKLE, tensors, others=tuple(name for name in entries if name not in tensors))


# --- dtypes ------------------------------------------------------------------------------------------------------

_DTYPES = MappingProxyType(
    {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U8": "uint8",
        "BOOL": "bool",
    }
)


def dtype_name(dtype: Any) -> str:
    """safetensors' name of a torch dtype."""
    text = str(dtype).removeprefix("torch.")
    return next((name for name, known in _DTYPES.items() if known == text), text)


def torch_dtype(name: str) -> Any:
    """The torch dtype of safetensors' name; float32 for GGUF's blocks, which stand for such numbers."""
    import torch

    return getattr(torch, _DTYPES.get(name, "float32"))
