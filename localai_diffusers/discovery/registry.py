# SPDX-License-Identifier: MIT
"""The mapping class name -> class: names are free, looking one up imports its defining module."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from localai_diffusers.discovery.aliases import extract_task_keywords
from localai_diffusers.discovery.errors import PipelineImportError
from localai_diffusers.discovery.names import known_name, lower_names, unknown_pipeline
from localai_diffusers.discovery.source import (
    AUTO_PREFIX,
    ROOT_CLASS,
    ClassRecord,
    all_records,
    catalog,
    import_lock,
    once_a_process,
    subclasses,
)
from localai_diffusers.discovery.spelling import did_you_mean
from localai_diffusers.discovery.tasks import pipeline_tasks
from localai_diffusers.discovery.traits import traits_of
from localai_diffusers.discovery.words import PIP_NAMES

log = logging.getLogger(__name__)


class PipelineRegistry(Mapping[str, type]):
    """Read-only mapping class name -> class; names are free, looking one up imports its defining module.

    `registry[name]` raises KeyError for an unknown name and PipelineImportError, which names the missing
    package, for a class that can't be imported here.
    """

    def __init__(self, records: Mapping[str, ClassRecord]) -> None:
        self._records = dict(sorted(records.items()))

    def __getitem__(self, name: str) -> type:
        return import_class(self._records[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records  # Mapping's own would import the class

    def __repr__(self) -> str:
        return f"<PipelineRegistry of {len(self)} classes>"


_class_registries: dict[tuple[str, bool], dict[str, type]] = {}


def import_class(record: ClassRecord) -> type:
    """Import the defining module, one thread at a time: diffusers' lazy modules don't take a race well."""
    try:
        with import_lock:
            return getattr(importlib.import_module(record.module), record.name)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise _import_error(record, error) from error


def _import_error(record: ClassRecord, error: BaseException) -> PipelineImportError:
    cause: BaseException | None = error
    while cause is not None:
        package = (getattr(cause, "name", None) or "").partition(".")[0]
        if isinstance(cause, ModuleNotFoundError) and package and package != "diffusers":
            hint = f"install it with: pip install {PIP_NAMES.get(package, package)}"
            return PipelineImportError(
                f"{record.name} can't be imported: the package '{package}' is missing; {hint}", name=package
            )
        cause = cause.__cause__ or cause.__context__
    package = (getattr(error, "name", None) or "").partition(".")[0]
    hint = f"; try: pip install --upgrade {PIP_NAMES.get(package, package)}" if package else ""
    return PipelineImportError(f"{record.name} can't be imported: {error}{hint}", name=package or None)


@once_a_process
def get_pipeline_registry() -> PipelineRegistry:
    """The mapping of all pipelines (and AutoPipelines) by class name: one object a process, no imports."""
    return PipelineRegistry(catalog())


def get_available_pipelines() -> list[str]:
    """Sorted names of all pipeline classes; imports neither torch nor diffusers."""
    return sorted(get_pipeline_registry())


def discover_diffusers_classes(base_class_name: str, include_base: bool = True) -> dict[str, type]:
    """All classes of diffusers below a base (`SchedulerMixin`, `ModelMixin`, …), imported: name -> class.

    Every class is imported from its own module; those that can't be are left out, and logged at DEBUG. The
    same dict each time for the same arguments. Raises ValueError when diffusers has no such base class.
    """
    key = (base_class_name, include_base)
    with import_lock:
        if key not in _class_registries:
            _class_registries[key] = _discover(base_class_name, include_base)
        return _class_registries[key]


def _base_record(class_name: str) -> ClassRecord:
    """Where the base class is. ValueError with the closest name where there is none."""
    found = next((record for record in all_records() if record.name == class_name), None)
    if found is None:
        names = sorted({record.name for record in all_records()})
        raise ValueError(f"Could not find base class '{class_name}' in diffusers. {did_you_mean(class_name, names)}")
    return found


def _discover(base_class_name: str, include_base: bool) -> dict[str, type]:
    base = import_class(_base_record(base_class_name))
    found = {base_class_name: base} if include_base else {}
    for record in subclasses(all_records(), base_class_name):
        try:
            candidate = import_class(record)
        except PipelineImportError as error:
            log.debug("left out of %s: %s", base_class_name, error)
            continue
        if isinstance(candidate, type) and issubclass(candidate, base) and candidate is not base:
            found.setdefault(record.name, candidate)
    return found


def get_available_classes(base_class_name: str) -> list[str]:
    """Sorted names of all classes of diffusers below a base, itself included; imports neither torch nor diffusers.

    Those of `discover_diffusers_classes`, and any that can't be imported because a package of theirs is missing.
    Raises ValueError when diffusers has no such base class.
    """
    base = _base_record(base_class_name)
    return sorted({base.name, *(record.name for record in subclasses(all_records(), base.name))})


def get_pipeline_info(class_name: str) -> dict[str, Any]:
    """What a pipeline is and takes; imports the class.

    Keys: `name`, `aliases`, `tasks`, `module`, `deprecated`, `docstring`, `supports_single_file`,
    `supports_lora`, `inputs` and `components` (parameter -> {"required", "default", "type"}), `output`
    (what comes out). Raises UnknownPipelineError (`Unknown pipeline: …`) and PipelineImportError.
    """
    if class_name.strip().lower() not in lower_names():
        raise unknown_pipeline(class_name, "Unknown pipeline: '{}'. ")
    name = known_name(class_name)
    record = catalog()[name]
    cls: Any = get_pipeline_registry()[name]
    auto = name.startswith(AUTO_PREFIX) or name == ROOT_CLASS
    return {
        "name": name,
        "aliases": extract_task_keywords(name),
        "tasks": list(pipeline_tasks(name)),
        "module": record.module,
        "deprecated": record.deprecated,
        "docstring": (cls.__doc__ or "").strip(),
        "supports_single_file": hasattr(cls, "from_single_file"),
        "supports_lora": hasattr(cls, "load_lora_weights"),
        "inputs": {} if auto else _describe(cls.__call__),
        "output": "" if auto else traits_of(name).kind,
        "components": {} if auto else _describe(cls.__init__, getattr(cls, "_optional_components", ())),
    }


def _describe(function: Callable[..., Any] | None, optional: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Parameter -> whether it is required, its default (None when required) and its type as text."""
    import inspect

    if function is None:
        return {}
    empty, optional = inspect.Parameter.empty, set(optional)
    rows = {}
    for name, item in inspect.signature(function).parameters.items():
        if name != "self" and item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL):
            known = item.annotation is not empty
            rows[name] = {
                "required": item.default is empty and name not in optional,
                "default": None if item.default is empty else item.default,
                "type": inspect.formatannotation(item.annotation) if known else "",
            }
    return rows
