# SPDX-License-Identifier: MIT
"""The modules of a model that is not loaded yet: a component is built from its config on the meta device when asked.

So that what is to be put on a model can be judged before the earlier model is dropped.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from localai_diffusers.checkpoint import headers
from localai_diffusers.checkpoint.lora.names import Layers, layers_of
from localai_diffusers.checkpoint.model_files import ModelFacts
from localai_diffusers.loading import components
from localai_diffusers.loading.components import Replacement

log = logging.getLogger(__name__)

_LIBRARIES = ("diffusers", "transformers")


class Unknown(Exception):
    """The modules of a component cannot be told before it is loaded: its config is not on this machine."""


class Skeletons(Mapping[str, Layers]):
    """Component name -> its modules' names and shapes, for every component of ``cls`` that is a torch module.

    Built once, at the first look-up, which raises :class:`Unknown` for one whose config is not known, and for one that
    the pipeline makes another model of (AnimateDiff's U-Net).
    """

    def __init__(
        self, cls: type, facts: ModelFacts, parts: Iterable[Replacement] = (), quantized: Iterable[str] = ()
    ) -> None:
        self._cls = cls
        self._facts = facts
        self._replaced = {part.component: part for part in parts}
        self._quantized = frozenset(quantized)
        self._built: dict[str, Layers] = {}

    @cached_property
    def _classes(self) -> dict[str, type]:
        found = ((name, _module_class(*kind)) for name, kind in self._facts.components.items())
        return {name: cls for name, cls in found if cls}

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __getitem__(self, name: str) -> Layers:
        if name not in self._built:
            if self._is_remade(name):
                raise Unknown(name)
            self._built[name] = layers_of(_built(self._classes[name], self._folder(name)))
        return self._built[name]

    def _is_remade(self, name: str) -> bool:
        """Whether the constructor also takes a kind that is made of the component's own."""
        taken = self._cls._get_signature_types() if hasattr(self._cls, "_get_signature_types") else {}
        others = [kind for kind in taken.get(name, ()) if kind is not self._classes[name]]
        return any(hasattr(kind, "from_unet2d") or hasattr(kind, "from_unet") for kind in others)

    def is_consumed(self, name: str) -> bool:
        """Whether the constructor makes another model of the component, alone or with others (AnimateDiff's U-Net and
        motion adapter): that takes plain weights."""
        taken = self._cls._get_signature_types() if hasattr(self._cls, "_get_signature_types") else {}
        kinds = [kind for part in filter(self._is_remade, self._classes) for kind in taken[part]]
        makers = [getattr(kind, how) for kind in kinds for how in ("from_unet2d", "from_unet") if hasattr(kind, how)]
        return any(name in inspect.signature(maker).parameters for maker in makers)

    def is_quantized(self, name: str) -> bool:
        """Whether the component's weights are packed, as far as its files and config say."""
        part = self._replaced.get(name)
        files = part.files if part else [file for file in self._facts.files if file.component == name]
        packed = any(headers.form_of(file.path) == headers.GGUF for file in files)
        return packed or name in self._quantized or bool(self._facts.config(name).get("quantization_config"))

    def _folder(self, name: str) -> Path:
        """Where the component's config is: beside its own files, else in the model's folder."""
        part = self._replaced.get(name)
        beside = [file.path.parent for file in part.files] if part else []
        for folder in (*beside, (self._facts.configs or self._facts.path) / name):
            if (folder / "config.json").is_file():
                return folder
        raise Unknown(name)


def _module_class(library: str, class_name: str) -> type | None:
    """The class of a component that is a torch module, None for one of another sort, or of a library whose import would
    run what a model's file names."""
    import torch

    own = library in _LIBRARIES or (library.isidentifier() and find_spec(f"diffusers.pipelines.{library}"))
    found = components.component_class(library, class_name) if own and class_name else None
    return found if isinstance(found, type) and issubclass(found, torch.nn.Module) else None


def _built(cls: Any, folder: Path) -> Any:
    """The component without weights."""
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=True):
            if not hasattr(cls, "from_config"):  # a model of transformers, or written as one
                return cls(cls.config_class.from_pretrained(str(folder)))
            return cls.from_config(cls.load_config(str(folder)))
    except Exception as error:  # a class may need what only a real load has
        log.info("%s of %s cannot be described before it is loaded: %s", cls.__name__, folder, error)
        raise Unknown(folder.name) from error


class Loaded(Mapping[str, Layers]):
    """The same of a pipeline that is loaded."""

    def __init__(self, pipeline: Any) -> None:
        import torch

        parts = getattr(pipeline, "components", {})
        self._modules = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
        self._seen: dict[str, Layers] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, name: str) -> Layers:
        if name not in self._seen:
            self._seen[name] = layers_of(self._modules[name])
        return self._seen[name]
