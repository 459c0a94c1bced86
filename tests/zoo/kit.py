# SPDX-License-Identifier: MIT
"""How every zoo component is made: by class name and configuration, seeded by both, once a process.

torch, diffusers and transformers are imported inside the functions, so that importing the zoo costs nothing.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MODELS: dict[str, Any] = {}  # named cache: one module per class and configuration


def silent() -> None:
    """Quieten both libraries: a zoo of random weights earns no advice about real ones."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@functools.cache
def resolve(name: str) -> type:
    """The class called `name` in diffusers, its pipeline modules or transformers.

    diffusers shows a stand-in for a class whose optional dependency is missing; its own module still has the
    real one. Raises LookupError when nobody defines it.
    """
    import diffusers
    import transformers

    found = getattr(diffusers, name, None)
    if found is not None and "dummy" not in found.__module__:
        return found
    for root in ("pipelines", "models", "schedulers"):
        for file in sorted((Path(diffusers.__file__).parent / root).rglob("*.py")):
            if re.search(rf"^class {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE):
                parts = file.relative_to(Path(diffusers.__file__).parent).with_suffix("").parts
                return getattr(importlib.import_module(".".join(("diffusers", *parts))), name)
    if not hasattr(transformers, name):
        raise LookupError(f"neither diffusers nor transformers defines {name}")
    return getattr(transformers, name)


def _construct(cls: type, config: dict[str, Any]) -> Any:
    """A transformers model takes its configuration object, a diffusers model takes keywords."""
    named = config.pop("config_class", None)
    config_class = resolve(named) if named else getattr(cls, "config_class", None)
    return cls(config_class(**config)) if config_class else cls(**config)


def _wake(module: Any) -> None:
    """Give every weight matrix that starts as zeros random values of the size that keeps a signal's strength.

    ControlNets, adapters and some output layers start at zero: untouched, a control image would change
    nothing and a test of it could not fail. A ControlNet's eight convolutions over the picture would lose it,
    too, at the usual start: they get three times that.
    """
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            elif "controlnet_cond_embedding" in name and parameter.ndim > 1:
                parameter.mul_(3.0)


def model(name: str, **config: Any) -> Any:
    """The module of class `name` with random weights; the seed comes from the name and the configuration.

    `config_class` names the configuration's class where the model's own attribute doesn't.
    """
    import torch

    key = f"{name} {json.dumps(config, sort_keys=True, default=str)}"
    if key not in _MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(key.encode()))
            module = _construct(resolve(name), dict(config)).eval()
            _wake(module)
        _MODELS[key] = module
    return _MODELS[key]


def from_config(name: str, make: Callable[[type], Any]) -> Any:
    """The module that `make` builds from the class `name`, seeded by the name."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        module = make(resolve(name)).eval()
        _wake(module)
    return module


def _moved(index: dict[str, Any]) -> dict[str, str]:
    """Components whose class went to `diffusers.pipelines.deprecated`, and its folder there."""
    classes = {
        key: resolve(value[1]).__module__.split(".")
        for key, value in index.items()
        if isinstance(value, list) and value[0] == "diffusers"
    }
    return {key: parts[3] for key, parts in classes.items() if parts[1:3] == ["pipelines", "deprecated"]}


def as_published(folder: Path) -> None:
    """Name the library of each component in model_index.json as the repositories on the Hub do.

    They were saved before their families moved to `diffusers.pipelines.deprecated`: `["wuerstchen",
    "PaellaVQModel"]`. diffusers 0.42.1 writes "diffusers" for those classes and can load neither form;
    `restore_moved` helps the first. A scheduler of `diffusers.schedulers.deprecated` it writes as of a library
    "deprecated".
    """
    file = folder / "model_index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    for value in index.values():
        if isinstance(value, list) and value[0] == "deprecated":
            value[0] = "diffusers"
    for key, library in _moved(index).items():
        index[key][0] = library
    file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def restore_moved(folder: Path) -> list[str]:
    """Make known to diffusers the libraries that `folder` names and that moved; returns them."""
    import diffusers.pipelines

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    place = Path(diffusers.pipelines.__file__).parent / "deprecated"
    rows = [value for value in index.values() if isinstance(value, list)]
    names = sorted({row[0] for row in rows if row and isinstance(row[0], str)})
    moved = [name for name in names if name.isidentifier() and (place / name).is_dir()]
    for name in moved:
        setattr(diffusers.pipelines, name, importlib.import_module(f"diffusers.pipelines.deprecated.{name}"))
    return moved


def scheduler(name: str, **config: Any) -> Any:
    """A new scheduler: never shared, because some pipelines change its configuration."""
    return resolve(name)(**config)


def assemble(name: str, parts: dict[str, Any]) -> Any:
    """The pipeline of class `name` out of the parts that its constructor takes; what it lacks stays None or
    default.

    A family hands over everything that it has, so that all of its classes are built from the same parts.
    Raises KeyError when a part that the class requires is missing.
    """
    cls = resolve(name)
    optional = set(getattr(cls, "_optional_components", []))
    chosen: dict[str, Any] = {}
    for key, parameter in inspect.signature(cls.__init__).parameters.items():
        if key == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if key in parts:
            chosen[key] = parts[key]
        elif parameter.default is parameter.empty and key not in optional:
            raise KeyError(f"{name} requires {key}; this family has {sorted(parts)}")
        elif parameter.default is parameter.empty:
            chosen[key] = None
    return cls(**chosen)
