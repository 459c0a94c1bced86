# SPDX-License-Identifier: MIT
"""Class names in, class names out: any spelling of one is known, and an unknown one gets its near names."""

from __future__ import annotations

from collections.abc import Mapping

from localai_diffusers.discovery.errors import UnknownPipelineError
from localai_diffusers.discovery.source import catalog, once_a_process
from localai_diffusers.discovery.spelling import did_you_mean, first_of


def unknown_pipeline(name: str, start: str = "Unknown pipeline class '{}'. ") -> UnknownPipelineError:
    """The error for a name that no class has, with the nearest ones. ``start``: its first sentence, {} for the name."""
    names = sorted(catalog())
    listed = first_of(names, "get_available_pipelines() lists them")
    return UnknownPipelineError(f"{start.format(name)}{did_you_mean(name, names)}Available pipelines: {listed}")


@once_a_process
def lower_names() -> Mapping[str, str]:
    """Class name in lower case -> its own spelling."""
    return {name.lower(): name for name in catalog()}


def known_name(class_name: str) -> str:
    """The class name in its own spelling. Raises UnknownPipelineError."""
    found = lower_names().get(class_name.strip().lower())
    if found is None:
        raise unknown_pipeline(class_name)
    return found
