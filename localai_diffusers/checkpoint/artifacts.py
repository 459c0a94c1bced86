# SPDX-License-Identifier: MIT
"""Files that a model's YAML names beside the model (LoRA, ControlNet, VAE …): found on disk or on the Hub, and checked.

A relative name stands under ModelPath, or beside the model's own file where that lies inside ModelPath, and may not
leave it; what is not there is taken as a Hub repo.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localai_diffusers import paths
from localai_diffusers.checkpoint import model_files
from localai_diffusers.checkpoint.model_files import Location
from localai_diffusers.errors import LoadError
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

WEIGHT_SUFFIXES = model_files.SAFE_SUFFIXES + model_files.PICKLE_SUFFIXES
# What a component needs beside its weights.
CONFIG_PATTERNS = ("*.json", "*.txt", "*.model", "*/*.json", "*/*.txt", "*/*.model")


@dataclass(frozen=True)
class Wish:
    """What the YAML wants as a component: the field that says so, its text, and the subfolder to look in.

    ``fit`` is how the model's own file fills it, where it does.
    """

    field: str
    name: str
    subfolder: str = ""
    fit: Any = dataclasses.field(default=None, compare=False)


def find(spec: LoadSpec, name: str, field: str) -> Location:
    """The file or folder on this machine, or the Hub repo (or file of one), that ``name`` means; nothing is downloaded.

    Raises LoadError naming ``field`` for a name that leaves ModelPath, and for one that is neither.
    """
    local = _on_disk(spec, name, field)
    if local is not None:
        return Location("folder" if local.is_dir() else "file", path=local)
    nowhere = LoadError(
        f"{field} {name!r} is neither a file or folder under ModelPath {spec.model_path!r} nor a Hub repo id "
        "(owner/name)"
    )
    deep = name.count("/") > 1 and "://" not in name  # owner/name/path/to/file
    if os.path.isabs(name) or (name.endswith(WEIGHT_SUFFIXES) and "://" not in name and not deep):
        raise nowhere
    try:
        return model_files.hub_location(f"huggingface://{name}" if deep else name)
    except LoadError:
        raise nowhere from None


def _on_disk(spec: LoadSpec, name: str, field: str) -> Path | None:
    if os.path.isabs(name):
        return Path(name) if os.path.exists(name) else None
    for root in _roots(spec):
        found = paths.resolve(name, root, field)
        if os.path.isabs(found):
            return Path(found)
    return None


def _roots(spec: LoadSpec) -> Iterator[str]:
    """ModelPath, then the folder of the model's file, from which the incumbent resolved LoraAdapter."""
    if spec.model_path:
        yield spec.model_path
    beside = os.path.dirname(spec.model_file)
    if beside and os.path.isdir(beside):
        inside = not spec.model_path or Path(beside).resolve().is_relative_to(Path(spec.model_path).resolve())
        if inside:
            yield beside


def fetch(
    spec: LoadSpec, location: Location, field: str, patterns: Iterable[str] = (), ignored: Iterable[str] = ()
) -> Path:
    """The path on this machine, downloaded where it is a Hub repo: its files that match ``patterns`` and none of
    ``ignored``, as a folder.

    Raises LoadError naming ``field`` for a repo or file that the Hub does not give.
    """
    if location.path is not None:
        return location.path
    import huggingface_hub

    options = {"revision": location.revision, "local_files_only": spec.options.local_files_only}
    try:
        if location.kind == "repo_file":
            return Path(huggingface_hub.hf_hub_download(location.repo, location.file, **options))
        wanted = {"allow_patterns": list(patterns) or None, "ignore_patterns": list(ignored) or None}
        return Path(huggingface_hub.snapshot_download(location.repo, **wanted, **options))
    except (OSError, ValueError) as error:
        raise LoadError(
            f"{field} {str(location)!r} is not on this machine, and the Hub did not give it: {error}"
        ) from error


def weight_in(spec: LoadSpec, location: Location, field: str, wanted: str, usual: Iterable[str]) -> Path:
    """The one file of weights that ``location`` stands for: itself, ``wanted`` in it, one of the ``usual`` names, or
    its only one. Raises LoadError listing what there is where that does not decide."""
    if location.kind in ("file", "repo_file"):
        return fetch(spec, location, field)
    name = wanted or _the_weight(list(_listed(spec, location, field)), str(location), field, usual)
    folder = fetch(spec, location, field, [name])
    if not (folder / name).is_file():
        raise LoadError(f"{field} {str(location)!r} has no file {name}")
    return folder / name


def weight_names(said: tuple[str, ...], option: str, count: int, what: str) -> list[str]:
    """What ``*_weight_name`` (or ``lora_targets``) says for each of ``count`` adapters: one name for all, or one each.

    Raises LoadError for another number of names.
    """
    names = list(said) or [""]
    if len(names) not in (1, count):
        raise LoadError(f"option {option} has {len(names)} names for {count} {what}: give one for all, or one each")
    return names * count if len(names) == 1 else names


def _listed(spec: LoadSpec, location: Location, field: str) -> Iterator[str]:
    """Names of the weight files in a folder or repo. Offline, those of a repo that are in the cache."""
    if location.path is None:
        names = _listed_on_hub(spec, location, field)
    else:
        names = [file.name for file in sorted(location.path.iterdir())]
    yield from (name for name in names if name.endswith(WEIGHT_SUFFIXES))


def _listed_on_hub(spec: LoadSpec, location: Location, field: str) -> list[str]:
    import huggingface_hub

    if not spec.options.local_files_only:
        try:
            return huggingface_hub.list_repo_files(location.repo, revision=location.revision)
        except OSError:
            pass  # no network, or no such repo: the cache decides, and its error says which
    folder = fetch(spec, location, field, ["*.json"])
    return [file.name for file in sorted(folder.iterdir())]


def _the_weight(names: list[str], place: str, field: str, usual: Iterable[str]) -> str:
    safe = [name for name in names if name.endswith(model_files.SAFE_SUFFIXES)] or names
    chosen = next((name for name in usual if name in safe), None) or (safe[0] if len(safe) == 1 else None)
    if chosen is None:
        have = f"holds {', '.join(safe[:8])}" if safe else "holds no weights"
        raise LoadError(
            f"{field} {place!r} {have}: name the one to load ({field} with its file, or the weight_name option)"
        )
    return chosen


def check_weights(path: Path, spec: LoadSpec, settings: Settings) -> None:
    """Raise LoadError for weights (a file, or all in a folder) that are broken, or a pickle that nobody trusts."""
    for file in [path] if path.is_file() else model_files.weights_in(path):
        model_files.check_intact(file, allows_pickle(spec, settings))


def allows_pickle(spec: LoadSpec, settings: Settings) -> bool:
    """Whether weights that are not safetensors may be read: pickles can carry code. The option is before the
    environment and before trust in code."""
    said = spec.options.use_safetensors
    return not said if said is not None else not settings.safetensors or spec.trust_remote_code


def weight_keywords(
    spec: LoadSpec, settings: Settings, cls: type, dtype: Any, variant: str | None = None
) -> dict[str, Any]:
    """Keywords of ``from_pretrained`` for weights that ``cls``, a pipeline's class or a component's, reads.

    ``dtype``: a torch dtype, or one for each component of a pipeline. Where pickles are trusted, safetensors are taken
    where they are.
    """
    of_diffusers = cls.__module__.partition(".")[0] != "transformers"  # which has none of these
    return said(
        dtype=dtype,
        variant=variant,
        use_safetensors=None if allows_pickle(spec, settings) else True,
        low_cpu_mem_usage=spec.options.low_cpu_mem_usage if of_diffusers else None,
        disable_mmap=spec.options.disable_mmap if of_diffusers else None,
    )


def said(**keywords: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in keywords.items() if value is not None}
