# SPDX-License-Identifier: MIT
"""Task aliases -> class names, best first.

Who wins a task: AutoPipelineFor… first, deprecated classes last, then diffusers' own mapping, then how many other
pipelines say "Copied from" this one: what others are modeled on is what an expert names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from localai_diffusers.discovery.errors import UnknownTaskError
from localai_diffusers.discovery.source import AUTO_PREFIX, ROOT_CLASS, auto_mappings, catalog, once_a_process
from localai_diffusers.discovery.spelling import did_you_mean, squeeze
from localai_diffusers.discovery.tasks import (
    FAMILY_STRIPS,
    base_family_of,
    camel_to_kebab,
    family_of,
    mapping_of,
    pipeline_tasks,
    task_index,
    tasks_by_name,
)
from localai_diffusers.discovery.traits import traits_of
from localai_diffusers.discovery.words import TASKS


def canonical_task(task: str) -> str:
    """The key of `TASKS` that any spelling or alias stands for: `img2img` -> `image-to-image`.

    Raises UnknownTaskError.
    """
    found = task_index().get(squeeze(task))
    if found is None:
        raise _unknown_task(task)
    return found


@once_a_process
def _copies() -> Counter[str]:
    """How many pipelines of other packages have code marked as copied from a class, or a `base_family_of`."""
    records = catalog()
    counts: Counter[str] = Counter()
    for record in sorted(records.values(), key=lambda record: record.path):
        for source in traits_of(record.name).copied_from & records.keys():
            if records[source].package != record.package:
                counts.update((source, base_family_of(source)))
    return counts


def rank(name: str, task: str = "") -> tuple[Any, ...]:
    """Sort key: the class that an expert would name for a task comes first."""
    record, traits = catalog()[name], traits_of(name)
    mapped = list(mapping_of(task).values()) if task else []
    return (
        not name.startswith(AUTO_PREFIX),
        record.deprecated,
        traits.onnx,
        bool(mapped) and name not in mapped,
        # Class labels are a condition: such a class is not the plain unconditional one.
        task.startswith("unconditional") and "class_labels" in traits.call,
        task != "controlnet" and "controlnet" in pipeline_tasks(name),
        -_copies()[base_family_of(name)],
        -_copies()[name],
        mapped.index(name) if name in mapped else len(mapped),
        len(traits.call),
        name,
    )


def _family_names(class_name: str) -> list[str]:
    """Kebab spellings of a class's family and of the class itself without `Pipeline`.

    A number gets both forms (`flux2`, `flux-2`), a ControlNet is one word, and so are `img2img` and its like.
    """
    family = family_of(class_name)
    rest = class_name.replace("Pipeline", "", 1)
    words = FAMILY_STRIPS.search(rest, 1)
    stems = [family, rest] + ([] if words is None else [f"{family}-{words[0].lower()}"])
    names = [camel_to_kebab(stem).replace("control-net", "controlnet") for stem in stems]
    names += [re.sub(r"([a-z])(\d+)$", r"\1-\2", name) for name in names[:1]]
    return list(dict.fromkeys(name.replace("--", "-").strip("-") for name in names if name))


def extract_task_keywords(class_name: str) -> list[str]:
    """Aliases of a class: its tasks in all their spellings, then its family and its own kebab name.

    A name that diffusers lacks is judged by its words alone.
    """
    known = class_name in catalog()
    tasks = pipeline_tasks(class_name) if known else tasks_by_name(class_name)
    names = [name for task in tasks for name in (task, *TASKS[task].aliases)]
    if known and (class_name.startswith(AUTO_PREFIX) or class_name == ROOT_CLASS):
        return list(dict.fromkeys(names))
    return list(dict.fromkeys(names + _family_names(class_name)))


@once_a_process
def get_task_aliases() -> dict[str, list[str]]:
    """Alias (a task, a Hub pipeline tag, a family like `stable-diffusion-xl`) -> class names, best first."""
    records = catalog()
    aliases: dict[str, list[str]] = {}
    for task, row in TASKS.items():
        doing = [name for name in records if task in pipeline_tasks(name)]
        doing.sort(key=lambda name: rank(name, task))
        aliases.update((alias, list(doing)) for alias in (task, *row.aliases) if doing)
    tasks = set(aliases)
    families: dict[str, list[str]] = {}
    for name in records:
        if not name.startswith(AUTO_PREFIX) and name != ROOT_CLASS:
            for alias in _family_names(name):
                families.setdefault(alias, []).append(name)
    for rows in auto_mappings().values():  # diffusers' own family keys, such as `qwenimage`
        for key, name in rows.items():
            families.setdefault(key.replace("_", "-"), []).append(name)
    for alias, names in families.items():
        if alias not in tasks:
            # the plain class, which bears the alias as its whole name, comes first
            plain = {name for name in names if squeeze(name.replace("Pipeline", "", 1)) == squeeze(alias)}
            known = records.keys() & set(names)
            aliases[alias] = sorted(known, key=lambda name: (name not in plain, rank(name)))
    return {alias: names for alias, names in aliases.items() if names}


def get_available_tasks() -> list[str]:
    """Sorted aliases that `resolve_pipeline_class(task=…)` takes; imports neither torch nor diffusers."""
    return sorted(get_task_aliases())


def _unknown_task(task: str) -> UnknownTaskError:
    return UnknownTaskError(
        f"Unknown task '{task}'. {did_you_mean(task, get_available_tasks())}"
        f"Available tasks: {', '.join(TASKS)}, and every model family "
        "(get_available_tasks() lists them)"
    )


@once_a_process
def alias_index() -> Mapping[str, str]:
    return {squeeze(alias): alias for alias in reversed(get_task_aliases())}


def known_alias(task: str) -> str:
    """The alias in the spelling of `get_task_aliases()`. Raises UnknownTaskError."""
    found = alias_index().get(squeeze(task))
    if found is None:
        raise _unknown_task(task)
    return found
