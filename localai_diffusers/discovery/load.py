# SPDX-License-Identifier: MIT
"""A class and a model -> a pipeline, from a folder, a single file, a URL or a repo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localai_diffusers.discovery.aliases import known_alias
from localai_diffusers.discovery.deprecated_packages import expose_deprecated
from localai_diffusers.discovery.errors import HubError, MissingModelError
from localai_diffusers.discovery.hub import hub_error_within, hub_options, huggingface_hub, inspect_model
from localai_diffusers.discovery.index import INDEX_FILE, read_index
from localai_diffusers.discovery.resolve import class_for, resolve_checkpoint_class, resolve_pipeline_class
from localai_diffusers.discovery.source import AUTO_PREFIX, ROOT_CLASS
from localai_diffusers.discovery.tasks import pipeline_tasks

# The dtype of stored weights -> the one that they compute in; 8-bit floats are storage only, and become bf16.
_STORED_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt", ".gguf", ".pt", ".pth", ".bin")


def load_diffusers_pipeline(
    class_name: str | None = None,
    task: str | None = None,
    model_id: str | None = None,
    from_single_file: bool = False,
    device: str | None = None,
    **kwargs: Any,
) -> Any:
    """Load a pipeline from a local folder, a single checkpoint file, a URL of one, or a Hub repo id.

    The class is `class_name`, else the one that does `task` on this model, else the model's own.
    `from_single_file` is implied by a path or URL of a checkpoint. `device` None leaves the pipeline where
    diffusers puts it (the CPU), "auto" takes CUDA (or ROCm), else XPU, else MPS, else CPU, and any other
    value is passed to `.to()`. `kwargs` go to `from_pretrained` or `from_single_file` as they are:
    `dtype`, `variant`, `token`, `config`, …. Without a `dtype` and with a `device`, all components get one: fp32 on the
    CPU, that of the model's stored weights on an accelerator (transformers alone would keep the files' own).

    Raises ValueError for a name that is unknown or a model that can't be loaded this way,
    PipelineImportError, GatedModelError, MissingModelError, UnreachableHubError, and what diffusers raises.
    """
    if not model_id:
        raise ValueError("model_id is required to load: a local folder, a checkpoint file or a repo id")
    model_id, device = os.fspath(model_id), pick_device() if device == "auto" else device
    try:
        if from_single_file or _looks_single(model_id):
            pipeline = _load_single_file(class_name, task, model_id, _with_dtype(model_id, device, kwargs))
        else:
            pipeline = _load_pretrained(class_name, task, model_id, device, kwargs)
    except HubError:
        raise
    except Exception as error:
        clear = hub_error_within(model_id, error)
        if clear is None:
            raise
        raise clear from error
    return pipeline.to(device) if device else pipeline


def _with_dtype(path: str, device: str | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """``kwargs`` with one dtype for all components, where a device is named and no dtype."""
    if device is None or kwargs.keys() & {"dtype", "torch_dtype"}:
        return dict(kwargs)
    import torch

    stored = None if device == "cpu" else _stored_dtype(path)
    return {**kwargs, "dtype": getattr(torch, stored or "float32")}


def _stored_dtype(path: str) -> str | None:
    """The torch name of the dtype of most weights in the largest .safetensors file at or below ``path``."""
    hub = huggingface_hub()
    files = [Path(path)] if os.path.isfile(path) else list(Path(path).rglob("*.safetensors"))
    files = [file for file in files if file.suffix == ".safetensors"]
    if not files:
        return None
    largest = max(files, key=lambda file: file.stat().st_size)
    counts = hub.parse_local_safetensors_file_metadata(largest).parameter_count
    return _STORED_DTYPES.get(max(counts, key=counts.__getitem__), "bfloat16") if counts else None


def pick_device() -> str:
    """The first of `cuda` (ROCm too), `xpu`, `mps` that torch can use here, else `cpu`."""
    import torch

    accelerators = {"cuda": torch.cuda, "xpu": getattr(torch, "xpu", None), "mps": torch.backends.mps}
    return next((name for name, found in accelerators.items() if found and found.is_available()), "cpu")


def _looks_single(model_id: str) -> bool:
    """Whether this is a checkpoint: an existing file, or a URL or missing path that ends like one."""
    if os.path.isdir(model_id):
        return False
    return os.path.isfile(model_id) or model_id.partition("?")[0].lower().endswith(_SINGLE_FILE_SUFFIXES)


def _load_pretrained(
    class_name: str | None, task: str | None, model_id: str, device: str | None, kwargs: Mapping[str, Any]
) -> Any:
    chosen: Any
    if class_name:
        chosen = resolve_pipeline_class(class_name=class_name)
    else:
        alias = known_alias(task) if task else ""  # a wrong task is told before the Hub is asked
        facts = inspect_model(model_id, **hub_options(kwargs))
        if facts.modular:
            raise ValueError(
                f"'{model_id}' is a modular pipeline ({facts.class_name}); load it with "
                "diffusers.ModularPipeline.from_pretrained"
            )
        if facts.source == "folder" and not facts.class_name:
            raise ValueError(f"'{model_id}' can't be loaded as a pipeline: {facts.note}")
        chosen = class_for(alias, facts)
    if not hasattr(chosen, "from_pretrained"):
        raise ValueError(f"{chosen.__name__} has no from_pretrained")
    expose_deprecated(_component_classes(model_id, kwargs))
    folder = model_id
    if device not in (None, "cpu") and not os.path.isdir(model_id):  # what is stored decides the dtype
        folder = chosen.download(model_id, **kwargs)
    return chosen.from_pretrained(folder, **_with_dtype(folder, device, kwargs))


def _component_classes(model_id: str, kwargs: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Library and class of each component in a model's index; empty where no index can be read."""
    folder = model_id
    if not os.path.isdir(model_id):
        try:
            path = huggingface_hub().hf_hub_download(model_id, INDEX_FILE, **hub_options(kwargs))
        except Exception:  # from_pretrained meets the same trouble and tells it better
            return set()
        folder = os.path.dirname(path)
    index = read_index(folder)
    return set() if index is None else set(index.components.values())


def _load_single_file(class_name: str | None, task: str | None, model_id: str, kwargs: Mapping[str, Any]) -> Any:
    if os.path.isdir(model_id):
        raise ValueError(f"'{model_id}' is a folder, not a checkpoint file: load it without from_single_file")
    if model_id.startswith(("/", "./", "../")) and not os.path.exists(model_id):
        raise MissingModelError(f"'{model_id}' does not exist on this machine")
    chosen = resolve_pipeline_class(class_name=class_name) if class_name else None
    if chosen is not None and hasattr(chosen, "from_single_file"):
        return chosen.from_single_file(model_id, **kwargs)
    named = chosen.__name__ if chosen is not None else ""
    if named and named != ROOT_CLASS and not named.startswith(AUTO_PREFIX):
        raise ValueError(
            f"{named} can't load a single file (it has no from_single_file): give the model's folder or repo id"
        )
    if named.startswith(AUTO_PREFIX):
        task = pipeline_tasks(named)[0]
    chosen = resolve_checkpoint_class(model_id, task, **kwargs)
    if not hasattr(chosen, "from_single_file"):
        raise ValueError(
            f"'{model_id}' belongs to {chosen.__name__}, which can't load a single file: give "
            "the model's folder or repo id"
        )
    return chosen.from_single_file(model_id, **kwargs)
