# SPDX-License-Identifier: MIT
"""Layers that wait on the host or on the disk until it is their turn, by diffusers' group offload.

diffusers names a file by its layers alone and takes one that is there for its own, so that two text encoders of one
pipeline, or two models after one another, would read each other's weights: every component gets a folder of its own,
which goes with the pipeline.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localai_diffusers import paths
from localai_diffusers.errors import LoadError

_DISK = "offload_to_disk_path"
_FIELD = "option group_offload"


def checked(said: Mapping[str, Any], model_path: str) -> Mapping[str, Any]:
    """diffusers' arguments as the YAML has them, the folder on the disk under ModelPath or absolute.

    Raises LoadError for a folder that cannot be written.
    """
    if not said.get(_DISK):
        return said
    named = str(said[_DISK])
    folder = paths.destination(named, model_path, f"{_FIELD}: {_DISK}")
    standing = next(place for place in (folder, *folder.parents) if place.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        raise LoadError(
            f"{_FIELD}: {_DISK} {named!r} cannot be written: name a folder under ModelPath, or an absolute one"
        )
    return {**said, _DISK: str(folder)}


def can_wait(cls: type | None) -> bool:
    """Whether the layers of a component of this class can wait by themselves: of some models diffusers says no."""
    return bool(getattr(cls, "_supports_group_offloading", True))


def put_on(pipeline: Any, device: str, said: Mapping[str, Any]) -> list[str]:
    """Let the layers of every component of ``pipeline`` come to ``device`` for their turn; notes on what cannot.

    ``said``: diffusers' own arguments, on those that serve most models. Raises LoadError for what diffusers refuses.
    """
    import torch

    arguments = {"offload_type": "leaf_level", "use_stream": device.startswith("cuda"), **said}
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    whole = [name for name, part in parts.items() if not can_wait(type(part))]
    kept = " and ".join(whole)
    notes = [f"offload:group: the layers of {kept} cannot wait, so all of {kept} stays on {device}"] if whole else []
    try:
        if arguments.get(_DISK):
            waiting = {name: part for name, part in parts.items() if name not in whole}
            notes += _on_disk(pipeline, waiting, device, arguments)
            for name in whole:
                parts[name].to(device)
        else:
            pipeline.enable_group_offload(onload_device=device, exclude_modules=whole, **arguments)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{_FIELD}: diffusers refuses it: {error}") from None
    return notes


def _on_disk(pipeline: Any, parts: Mapping[str, Any], device: str, arguments: Mapping[str, Any]) -> list[str]:
    import torch
    from diffusers.hooks import apply_group_offloading

    own = _own_folder(Path(arguments[_DISK]), pipeline)
    on_host = [name for name, part in parts.items() if _shares_weights(part)]
    for name, part in parts.items():
        place = {_DISK: None if name in on_host else str(own / name)}
        apply_group_offloading(part, torch.device(device), **{**arguments, **place})
    if not on_host:
        return []
    names = " and ".join(on_host)
    return [f"{_FIELD}: layers of {names} share weights, which diffusers loses on the disk: they wait on the host"]


def _shares_weights(part: Any) -> bool:
    """Whether two layers have a weight in common: the second one is written when the first has emptied it."""
    every = [id(weight) for _name, weight in part.named_parameters(remove_duplicate=False)]
    return len(set(every)) < len(every)


# --- folders of layers -----------------------------------------------------------------------------------------------

_PREFIX, _LOCK = "localai-diffusers-", "in-use"
_removals: set[Callable[[], Any]] = set()


def discard() -> None:
    """Remove the layers of models that are loaded: for the end of a process, which waits for no garbage collection."""
    while _removals:
        _removals.pop()()


def _own_folder(parent: Path, pipeline: Any) -> Path:
    """A folder that goes with ``pipeline``. Those of processes that were killed go now: nobody locks them."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), left.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = (own / "new").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (own / "new").rename(own / _LOCK)  # so that nobody meets it unlocked
    removal = weakref.finalize(pipeline, _remove, own, lock)
    _removals.add(removal)
    return own


def _remove(own: Path, lock: Any) -> None:
    shutil.rmtree(own, ignore_errors=True)
    lock.close()
