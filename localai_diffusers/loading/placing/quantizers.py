# SPDX-License-Identifier: MIT
"""How a component is quantized while it is read: the backend of each word of ``quantization:``, and where it can run.

The linear layers alone are quantized, one by one as their weights come from the file, so that a component never lies in
memory whole in both forms. diffusers and transformers do that, each for its own classes, by a config of its own.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.errors import LoadError

log = logging.getLogger(__name__)

_FILE = "requirements-quantization.txt"


@dataclass(frozen=True)
class Backend:
    """A package that quantizes, the oldest version that serves, and the ways to offload that move its weights."""

    package: str
    least: str
    offloads: frozenset[str]


@dataclass(frozen=True)
class Scheme:
    """A word: bytes a weight, ``config`` of a library (diffusers or transformers) for a dtype, and ``cannot``, which
    says why it does not run on a device (of diffusers' models, or of transformers'), "" where it does."""

    backend: Backend
    size: float
    config: Callable[[Any, Any], Any]
    cannot: Callable[[str, bool], str] = lambda _device, _of_diffusers: ""


def _torchao(name: str) -> Callable[[Any, Any], Any]:
    def config(library: Any, _dtype: Any) -> Any:
        known = importlib.import_module("torchao.quantization")
        return library.TorchAoConfig(getattr(known, name)())

    return config


def _bitsandbytes(**arguments: Any) -> Callable[[Any, Any], Any]:
    def config(library: Any, dtype: Any) -> Any:
        computes = {"bnb_4bit_compute_dtype": dtype} if "load_in_4bit" in arguments else {}
        return library.BitsAndBytesConfig(**arguments, **computes)

    return config


def _quanto(weights: str) -> Callable[[Any, Any], Any]:
    def config(library: Any, _dtype: Any) -> Any:
        key = "weights_dtype" if library.__name__ == "diffusers" else "weights"
        return library.QuantoConfig(**{key: weights})

    return config


def _without_gpu(device: str, of_diffusers: bool) -> str:
    if of_diffusers and device == "cpu":
        return "bitsandbytes quantizes diffusers' models on a GPU alone; int8, fp8, qint8 and qfloat8 run on a CPU"
    return ""


def _without_kernels(device: str, _of_diffusers: bool) -> str:
    """Where torchao has kernels for 4 bits it packs weights that lie on the GPU, and they are read to the host here."""
    return f"torchao packs 4 bits on a GPU alone, and weights are read to the host here (for {device}): nf4 or qint4"


def _without_compiler(device: str, _of_diffusers: bool) -> str:
    """optimum-quanto unpacks 4 bits by an extension of its own, which it compiles at the first use."""
    from torch.utils import cpp_extension

    compiler, why = cpp_extension.get_cxx_compiler(), "optimum-quanto compiles an extension for it, and there is no"
    if shutil.which(compiler) is None:
        return f"{why} C++ compiler {compiler} here"
    if not cpp_extension.is_ninja_available():
        return f"{why} ninja here: pip install ninja"
    if device.startswith("cuda") and cpp_extension.CUDA_HOME is None:
        return f"{why} CUDA toolkit (nvcc) here"
    return _compiled("quanto_cpp", "quanto_cuda" if device.startswith("cuda") else "quanto_cpp")


def _compiled(*names: str) -> str:
    """Why these extensions of optimum-quanto cannot be compiled, "" where they are: now, not in the first picture."""
    from optimum.quanto.library.extensions.extension import get_extension

    try:
        for name in names:
            log.info("optimum-quanto's extension %s: compiled at its first use, which takes a minute or more", name)
            get_extension(name).lib  # noqa: B018 - a property that compiles
    except (RuntimeError, OSError, ImportError, KeyError) as error:
        return f"optimum-quanto's extension for it could not be compiled ({' '.join(str(error).split())[:300]})"
    return ""


# Of the ways to offload, sequential makes each weight anew as a plain one, and group sets `.data`, which a wrapped
# tensor does not follow: diffusers exchanges torchao's as a whole, and no other's.
_BY_COMPONENT = frozenset({"none", "text_encoders", "model"})
TORCHAO = Backend("torchao", "0.15.0", _BY_COMPONENT | {"group"})
BITSANDBYTES = Backend("bitsandbytes", "0.46.1", _BY_COMPONENT)
QUANTO = Backend("optimum-quanto", "0.2.6", _BY_COMPONENT)

SCHEMES: Mapping[str, Scheme] = {
    "int8": Scheme(TORCHAO, 1, _torchao("Int8WeightOnlyConfig")),
    "fp8": Scheme(TORCHAO, 1, _torchao("Float8WeightOnlyConfig")),
    "int4": Scheme(TORCHAO, 0.5, _torchao("Int4WeightOnlyConfig"), _without_kernels),
    "nf4": Scheme(BITSANDBYTES, 0.5, _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"), _without_gpu),
    "bnb_int8": Scheme(BITSANDBYTES, 1, _bitsandbytes(load_in_8bit=True), _without_gpu),
    "qfloat8": Scheme(QUANTO, 1, _quanto("float8")),
    "qint8": Scheme(QUANTO, 1, _quanto("int8")),
    "qint4": Scheme(QUANTO, 0.5, _quanto("int4"), _without_compiler),
}


def library_of(cls: type) -> str:
    """The library that reads and quantizes a component of this class, "" for one that neither does."""
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    if issubclass(cls, ModelMixin):
        return "diffusers"
    return "transformers" if issubclass(cls, PreTrainedModel) else ""


def keywords(word: str | None, cls: type, dtype: Any) -> dict[str, Any]:
    """For whatever reads a component of ``cls`` in ``dtype``, a torch dtype; nothing without a word."""
    if not word:
        return {}
    library = importlib.import_module(library_of(cls))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers means to drop optimum-quanto at its 1.0
        return {"quantization_config": SCHEMES[word].config(library, dtype)}


def check(words: Mapping[str, str], classes: Mapping[str, type], device: str, offload: str) -> None:
    """Raise LoadError for a word whose backend is missing, too old, or cannot work on ``device`` or be offloaded so.

    ``classes``: of the components of ``words``.
    """
    for component, word in words.items():
        scheme, option = SCHEMES[word], f"option quantization:{component}:{word}"
        _check_installed(scheme.backend, option)
        reason = scheme.cannot(device, library_of(classes[component]) == "diffusers")
        if reason:
            raise LoadError(f"{option}: {reason}")
        if offload not in scheme.backend.offloads:
            ways = " or ".join(sorted(scheme.backend.offloads))
            raise LoadError(f"{option}: offload:{offload} cannot move such weights: offload:{ways} can")


def _check_installed(backend: Backend, option: str) -> None:
    from packaging.version import Version

    way_out = f'pip install -r {_FILE} (or pip install "{backend.package}>={backend.least}")'
    try:
        found = importlib.metadata.version(backend.package)
    except importlib.metadata.PackageNotFoundError:
        raise LoadError(f"{option} needs the Python package {backend.package}: {way_out}") from None
    if Version(found) < Version(backend.least):
        raise LoadError(f"{option} needs {backend.package} of at least {backend.least}, and here is {found}: {way_out}")


# --- weights that are quantized ------------------------------------------------------------------------------------


def is_plain(weight: Any) -> bool:
    """Whether the numbers of a weight are its own: not blocks, nor a wrapper of a quantized tensor."""
    import torch

    return type(weight) in (torch.nn.Parameter, torch.Tensor) and weight.dtype.is_floating_point


def bytes_of(tensor: Any) -> int:
    """Bytes that a tensor takes; of a wrapper, those of the tensors in it."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if not is_traceable_wrapper_subclass(tensor):
        return int(tensor.numel() * tensor.element_size())
    return sum(bytes_of(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
