# SPDX-License-Identifier: MIT
"""Depth: a depth-estimation pipeline's map, for the response's arrays and for exported files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localai_diffusers.errors import InvalidRequest, NotSupported
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.generation.pipeline_call import call_pipeline
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest
from localai_diffusers.work.jobs import Job

if TYPE_CHECKING:
    import numpy as np

# The core's client takes messages of 50 MB: 3.4 million floats over all the maps of a response.
MAX_FLOATS = 3_400_000


@dataclass(frozen=True)
class DepthMap:
    """``values``: float32 (height, width), in the pipeline's own units; ``exports``: files written."""

    values: np.ndarray
    exports: tuple[str, ...] = ()


def estimate(model: LoadedModel, request: GenerationRequest, exports: tuple[str, ...], job: Job[Any]) -> DepthMap:
    """Run the model on ``request.images[0]``; the map is shrunk where it would not fit into a response.

    Raises NotSupported for a pipeline without a depth map, InvalidRequest for an unknown export.
    """
    from localai_diffusers.media import files, payloads

    unknown = [name for name in exports if name not in EXPORTS]
    if unknown:
        raise InvalidRequest(f"exports {unknown[0]!r} is unknown: use {', '.join(EXPORTS)}")
    if exports and not request.dst:
        raise InvalidRequest("dst is empty: exports need a folder to write to")
    done = model.profile.tasks
    if (
        done and "depth-estimation" not in done
    ):  # told before the model runs; of a class of unknown tasks the output tells
        raise _no_depth(model)
    call = call_arguments.build(request, model.profile, model.defaults, Intake(model.settings))
    payload = payloads.payload_from_output(
        call_pipeline(model.pipeline_as(type(model.pipeline)), call, job), sampling_rate=None
    )
    if not payload.arrays:
        raise _no_depth(model)
    values = payload.arrays[0]
    if exports:
        files.make_folder(request.dst, "dst")
    return DepthMap(_within_limit(values), tuple(EXPORTS[name](values, request.dst) for name in exports))


def _no_depth(model: LoadedModel) -> NotSupported:
    return NotSupported(
        f"{type(model.pipeline).__name__} estimates no depth: load a depth-estimation pipeline (Marigold)"
    )


def _within_limit(values: np.ndarray) -> np.ndarray:
    """Every n-th value in both directions, with the least n that fits a response."""
    step = 1
    while values[::step, ::step].size > MAX_FLOATS:
        step += 1
    return values[::step, ::step]


def _export_png(values: np.ndarray, dst: str) -> str:
    from localai_diffusers.media import payloads

    path = str(Path(dst) / "depth.png")
    payloads.write_payload(
        payloads.Payload("depth", arrays=(values,)), path, fps=1.0, metadata=None, check=lambda: None
    )
    return path


def _export_npy(values: np.ndarray, dst: str) -> str:
    import numpy

    from localai_diffusers.media import files

    path = str(Path(dst) / "depth.npy")
    with files.atomic_output(path) as temporary, temporary.open("wb") as stream:
        numpy.save(stream, values)
    return path


# Format -> writer(values, dst), which returns the path it wrote, in the folder dst (backend.proto: "output directory").
EXPORTS: Mapping[str, Callable[[Any, str], str]] = {"png": _export_png, "npy": _export_npy}
