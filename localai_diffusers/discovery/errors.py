# SPDX-License-Identifier: MIT
"""What discovery raises: an unknown name, no sibling, a class that cannot be imported, and what the Hub answered."""

from __future__ import annotations


class UnknownPipelineError(ValueError):
    """No pipeline class has this name."""


class UnknownTaskError(ValueError):
    """No task, family or Hub tag has this name."""


class NoSiblingError(ValueError):
    """No class of the model's own family does the wanted task."""


class PipelineImportError(ImportError):
    """A listed class can't be imported; `name` is the missing package when one is missing."""


class HubError(OSError):
    """The Hub gave no answer about a model. See the three kinds below."""


class GatedModelError(HubError):
    """The model exists, but not for this (or no) token."""


class MissingModelError(HubError):
    """Neither a local path nor a repo that the Hub shows to this token."""


class UnreachableHubError(HubError):
    """The Hub can't be asked: network, server error, offline mode, or huggingface_hub is not installed."""
