# SPDX-License-Identifier: MIT
"""Where a load's files come from: a folder, a checkpoint, or the Hub, downloaded as diffusers does it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers_dynamic_loader as loader
from localai_diffusers.checkpoint import artifacts, model_files
from localai_diffusers.checkpoint.model_files import Location, ModelFacts
from localai_diffusers.errors import LoadError
from localai_diffusers.loading import pipeline_class
from localai_diffusers.settings import Settings
from localai_diffusers.wire.load_spec import LoadSpec

log = logging.getLogger(__name__)

_NO_WEIGHTS = "Could not find the necessary"  # how diffusers 0.42.1 says that a repo has no files of a variant


def facts_of(spec: LoadSpec, location: Location, brought: bool = False) -> ModelFacts:
    """What is known of the model before its weights are here: for a repo, its own index.

    ``brought``: a folder's weights, or some, come from elsewhere.
    """
    subfolder = spec.options.subfolder
    if location.kind == "folder":
        return model_files.folder_facts(location.place, subfolder, brought)
    if location.kind == "file":
        return _file_facts(spec, location.place)
    if location.kind == "repo_file":
        return _file_facts(spec, download_file(spec, location))
    known = loader.inspect_model(
        location.repo,
        revision=_revision(spec, location),
        local_files_only=spec.options.local_files_only,
    )
    return ModelFacts(Path(location.repo), known.class_name, known.modular, known.custom)


def _file_facts(spec: LoadSpec, path: Path) -> ModelFacts:
    """A checkpoint's facts, with those of the class that its weights show."""
    facts = model_files.file_facts(path)
    own = class_of_weights(spec, path)
    if own is None:
        return facts
    return replace(
        facts, class_name=own.__name__, components=dict.fromkeys(pipeline_class.required_components(own), ("", ""))
    )


def class_of_weights(spec: LoadSpec, path: Path) -> type | None:
    """The class of the family that the weights show, which the Hub must be asked for.

    None where it cannot be asked and the model's YAML names a class; LoadError where it names none.
    """
    options = spec.options
    try:
        return loader.resolve_checkpoint_class(
            str(path), config=options.config or None, local_files_only=options.local_files_only
        )
    except (loader.HubError, ValueError) as error:
        if not pipeline_class.is_class_name(spec.pipeline_type):
            raise LoadError(str(error)) from error
        log.info("%s is taken for what PipelineType says: %s", path, error)
        return None


def with_weights(
    spec: LoadSpec,
    location: Location,
    facts: ModelFacts,
    cls: type[Any],
    settings: Settings,
    replaced: Iterable[str] = (),
) -> ModelFacts:
    """For a repo: its files downloaded as diffusers does it (resumable, only what ``cls`` needs), as a folder's facts.

    Of the ``replaced`` components only the configs.
    """
    if location.kind != "repo":
        return facts
    import diffusers

    options = {
        "revision": _revision(spec, location),
        "local_files_only": spec.options.local_files_only,
        "use_safetensors": None if artifacts.allows_pickle(spec, settings) else True,
        "trust_remote_code": spec.trust_remote_code,
    }
    options = {name: value for name, value in options.items() if value is not None} | dict.fromkeys(replaced)
    known = facts.class_name in loader.get_available_pipelines() or not hasattr(cls, "download")
    download = (diffusers.DiffusionPipeline if known else cls).download
    folder = _in_a_variant(lambda variant: download(location.repo, variant=variant, **options), spec)
    _download_configs(spec, location, replaced)
    return model_files.folder_facts(Path(folder), spec.options.subfolder)


def _in_a_variant(download: Callable[[str | None], str], spec: LoadSpec) -> str:
    """The folder that ``download`` makes of the variant that is asked for, which must exist; else of the first that
    does: f16 asks for fp16 files and does not need them, and a repo may hold nothing else."""
    if spec.options.variant:
        return download(spec.options.variant)
    first, second = ("fp16", None) if spec.f16 else (None, "fp16")
    try:
        return download(first)
    except (ValueError, OSError) as error:
        if not (isinstance(error, ValueError) or _NO_WEIGHTS in str(error)):
            raise
        try:
            return download(second)
        except (ValueError, OSError):
            if _NO_WEIGHTS in str(error):
                raise LoadError(
                    f"{spec.identity} has not all of its weights as .safetensors, and pickles can carry code. If you "
                    "trust it set SAFETENSORS=0, options: use_safetensors:false or trust_remote_code: true"
                ) from error
            raise error from None


def snapshot(spec: LoadSpec, location: Location, ignored: Iterable[str] = ()) -> Path:
    """The whole repo but the files that ``ignored`` matches, as a folder."""
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            location.repo,
            revision=_revision(spec, location),
            ignore_patterns=list(ignored),
            local_files_only=spec.options.local_files_only,
        )
    )


def _download_configs(spec: LoadSpec, location: Location, names: Iterable[str]) -> None:
    """The configs of components whose weights come from elsewhere; a component may have none."""
    import huggingface_hub

    for name in names:
        with contextlib.suppress(OSError, ValueError):
            huggingface_hub.hf_hub_download(
                location.repo,
                f"{name}/config.json",
                revision=_revision(spec, location),
                local_files_only=spec.options.local_files_only,
            )


def download_file(spec: LoadSpec, location: Location) -> Path:
    import huggingface_hub

    only_local = spec.options.local_files_only
    return Path(
        huggingface_hub.hf_hub_download(
            location.repo, location.file, revision=_revision(spec, location), local_files_only=only_local
        )
    )


def _revision(spec: LoadSpec, location: Location) -> str | None:
    return spec.options.revision or location.revision
