# SPDX-License-Identifier: MIT
"""What a folder, a Hub repo or a checkpoint says of itself, and the Hub's answers as clear errors."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from localai_diffusers.discovery.errors import GatedModelError, HubError, MissingModelError, UnreachableHubError
from localai_diffusers.discovery.index import INDEX_FILE, MODULAR_INDEX_FILE, Index, index_of, read_index

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedPipeline:
    """Which pipeline a folder, a repo or a checkpoint says it is.

    `class_name` is the class of its `model_index.json` ("" when none is named); `modular` marks one that
    runs as a ModularPipeline, `custom` one whose class is code in the repo; `source` is `folder`, `file`,
    `hub` or `cache`; `note` says why nothing is known.
    """

    model_id: str
    source: str
    class_name: str = ""
    pipeline_tag: str = ""
    modular: bool = False
    custom: bool = False
    note: str = ""


def inspect_model(
    model_id: str,
    token: str | bool | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> NamedPipeline:
    """Find out which pipeline class a model names; nothing but small JSON files is read.

    A local folder is read from `model_index.json` or `modular_model_index.json`. For a repo id the Hub is
    asked (HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count, as huggingface_hub does it); what the cache holds
    is used when the Hub can't or mustn't be asked. Raises GatedModelError, MissingModelError,
    UnreachableHubError.
    """
    if os.path.isdir(model_id):
        return _named_in_folder(model_id, model_id, "folder")
    if os.path.isfile(model_id):
        return NamedPipeline(model_id, "file", note="a single file names no class")
    if model_id.startswith(("/", "./", "../", "~")):
        raise MissingModelError(f"'{model_id}' does not exist on this machine")
    try:
        if local_files_only:
            raise UnreachableHubError(f"'{model_id}' is not in the local cache, and local_files_only is set")
        return _named_in_repo(model_id, token, revision, cache_dir)
    except HubError as error:
        cached = _named_in_cache(model_id, revision, cache_dir)
        if cached is None:
            raise
        log.info("%s: using the cached copy (%s)", model_id, type(error).__name__)
        return cached


def _named_in_folder(folder: str, model_id: str, source: str) -> NamedPipeline:
    index = read_index(folder)
    if index is None:
        return NamedPipeline(model_id, source, note=f"it has no {INDEX_FILE}")
    return _named_in_index(model_id, source, index)


def _named_in_index(model_id: str, source: str, index: Index) -> NamedPipeline:
    note = "" if index.class_name else f"its {INDEX_FILE} names no class"
    return NamedPipeline(
        model_id, source, index.class_name, modular=index.is_modular, custom=index.is_custom, note=note
    )


def _named_in_repo(
    model_id: str, token: str | bool | None, revision: str | None, cache_dir: str | None
) -> NamedPipeline:
    hub = huggingface_hub()
    with _told_clearly(model_id):
        info = hub.model_info(model_id, token=token, revision=revision, timeout=10)
    config = (getattr(info, "config", None) or {}).get("diffusers") or {}
    tag = getattr(info, "pipeline_tag", None) or ""
    files = {sibling.rfilename for sibling in getattr(info, "siblings", None) or ()}
    facts = _named_in_index(model_id, "hub", index_of(config))
    for file in (INDEX_FILE, MODULAR_INDEX_FILE):
        if not facts.class_name and file in files:
            facts = _named_in_file(hub, model_id, file, token=token, revision=revision, cache_dir=cache_dir)
    if not facts.class_name and "modular_config.json" in files:  # the code of a modular pipeline's blocks, and no index
        facts = NamedPipeline(model_id, "hub", "ModularPipeline", modular=True, custom=True)
    note = "" if facts.class_name else f"the Hub names no class for it (pipeline tag: '{tag or 'none'}')"
    return NamedPipeline(model_id, "hub", facts.class_name, tag, facts.modular, facts.custom, note)


def _named_in_file(hub: Any, model_id: str, file: str, **where: Any) -> NamedPipeline:
    with _told_clearly(model_id):
        path = hub.hf_hub_download(model_id, file, **where)
    return _named_in_folder(os.path.dirname(path), model_id, "hub")


def _named_in_cache(model_id: str, revision: str | None, cache_dir: str | None) -> NamedPipeline | None:
    try:
        hub = huggingface_hub()
        paths = [
            hub.try_to_load_from_cache(model_id, file, cache_dir=cache_dir, revision=revision)
            for file in (INDEX_FILE, MODULAR_INDEX_FILE)
        ]
    except (HubError, ValueError):
        return None
    found = next((path for path in paths if isinstance(path, str)), None)
    return _named_in_folder(os.path.dirname(found), model_id, "cache") if found else None


def huggingface_hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UnreachableHubError(
            "the Hub can't be asked: the package 'huggingface_hub' is missing; install "
            "it with: pip install huggingface_hub, or give a local folder"
        ) from error


@contextlib.contextmanager
def _told_clearly(model_id: str) -> Iterator[None]:
    """Raise errors of huggingface_hub and its HTTP client in their clear form, any other as it is."""
    try:
        yield
    except Exception as error:
        clear = _hub_error(model_id, error)
        if clear is None:
            raise
        raise clear from error


def _hub_error(model_id: str, error: BaseException) -> HubError | None:
    """The clear form of an error of huggingface_hub or its HTTP client; None for an error of another sort.

    The cause's own text stays out of the message: LocalAI's core reads some of its phrases as signals.
    """
    from huggingface_hub import constants, errors

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    where = "the Hugging Face Hub" if constants.ENDPOINT == constants._HF_DEFAULT_ENDPOINT else constants.ENDPOINT
    hidden = isinstance(error, errors.RepositoryNotFoundError)  # the Hub answers 401 for what may not exist
    if isinstance(error, (errors.GatedRepoError, errors.DisabledRepoError)) or status in (401, 403) and not hidden:
        return GatedModelError(
            f"'{model_id}' is gated or not open to this token (HTTP {status}): accept its "
            f"terms at {where}, then set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        file = str(getattr(response, "url", "")).rpartition("/")[2]
        return MissingModelError(f"'{model_id}' has no file '{file}' on {where}: is it a diffusers pipeline?")
    if hidden or isinstance(error, errors.RevisionNotFoundError) or status == 404:
        return MissingModelError(
            f"'{model_id}' was not found on {where} (HTTP {status}): check its spelling "
            "and revision; for a private model set HF_TOKEN"
        )
    if isinstance(error, errors.HFValidationError):
        return MissingModelError(f"'{model_id}' is neither a path on this machine nor a repo id (owner/name)")
    if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return UnreachableHubError(
            f"'{model_id}' is not in the local cache and {where} can't be asked: "
            "unset HF_HUB_OFFLINE, check the network, or give a local folder"
        )
    # Its HTTP client's own errors, by package: which client it is changes with huggingface_hub's version.
    network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests", "urllib3")
    if status is not None or network or isinstance(error, (ConnectionError, TimeoutError)):
        said = f"HTTP {status}" if status is not None else type(error).__name__
        return UnreachableHubError(
            f"{where} gave no answer about '{model_id}' ({said}): check the network "
            "and HF_ENDPOINT, or give a local folder"
        )
    return None


def hub_error_within(model_id: str, error: BaseException) -> HubError | None:
    """The Hub's error behind one of diffusers, which wraps it in an OSError; None behind any other."""
    cause = error if isinstance(error, OSError) or _hub_error(model_id, error) else None
    while cause is not None:
        if found := _hub_error(model_id, cause):
            return found
        cause = cause.__cause__ or cause.__context__
    return None


def hub_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    known = ("token", "revision", "cache_dir", "local_files_only")
    return {key: kwargs[key] for key in known if key in kwargs}
