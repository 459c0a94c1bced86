# SPDX-License-Identifier: MIT
"""What a checkpoint says of its own training, in marks: keys without weights, and lines of its metadata.

A scheduler's config has to follow, or every picture is noise: a UNet that predicts velocity looks like one that
predicts noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localai_diffusers.checkpoint import weights
from localai_diffusers.checkpoint.headers import Header
from localai_diffusers.wire.load_spec import LoadSpec

# modelspec.prediction_type (Stability's ModelSpec, and what kohya's trainer writes) -> diffusers' word.
_PREDICTIONS = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "vpred": "v_prediction",
    "epsilon": "epsilon",
    "eps": "epsilon",
    "sample": "sample",
}
# The schedules of the two families that are published as EDM checkpoints: CosXL and Playground 2.5, by their authors.
_EDM_VELOCITY = {"_class_name": "EDMEulerScheduler", "sigma_data": 1.0, "prediction_type": "v_prediction"}
_EDM_VELOCITY |= {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_schedule": "exponential"}
_EDM = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}


@dataclass(frozen=True)
class Marks:
    """What a file or an option says: entries for the scheduler's config (``_class_name`` among them where its class is
    said too), and for the VAE's."""

    scheduler: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)


def of_header(header: Header) -> Marks:
    """The marks of a checkpoint, none for most."""
    found: dict[str, Any] = {}
    named = _PREDICTIONS.get(header.metadata.get("modelspec.prediction_type", "").strip().lower())
    if named:
        found["prediction_type"] = named
    if "v_pred" in header.tensors:
        found["prediction_type"] = "v_prediction"
    if "ztsnr" in header.tensors:
        found["rescale_betas_zero_snr"] = True
    if "edm_vpred.sigma_max" in header.tensors:
        return Marks(found | _EDM_VELOCITY | _sigmas(header))
    return Marks(found | _EDM, _latents(header)) if "edm_mean" in header.tensors else Marks(found)


def _sigmas(header: Header) -> dict[str, float]:
    keys = [key for key in ("edm_vpred.sigma_max", "edm_vpred.sigma_min") if header.tensors.get(key) is not None]
    stored = weights.tensors(header, [key for key in keys if header.tensors[key].shape in ((), (1,))])
    return {key.rpartition(".")[2]: float(tensor) for key, tensor in stored.items()}


def _latents(header: Header) -> dict[str, list[float]]:
    """Mean and spread of the latents, which such a checkpoint brings as keys and diffusers keeps in the VAE's
    config."""
    names = {"edm_mean": "latents_mean", "edm_std": "latents_std"}
    stored = weights.tensors(header, [key for key in names if key in header.tensors])
    return {names[key]: [float(number) for number in tensor.flatten()] for key, tensor in stored.items()}


def of_options(spec: LoadSpec) -> Marks:
    """What ``options: prediction_type:`` and ``rescale_betas_zero_snr:`` say."""
    said = {
        "prediction_type": spec.options.prediction_type or None,
        "rescale_betas_zero_snr": spec.options.rescale_betas_zero_snr,
    }
    return Marks({name: value for name, value in said.items() if value is not None})


def applied(pipeline: Any, marks: Marks) -> list[str]:
    """Give the pipeline's scheduler and VAE what the marks say; notes on entries that the scheduler's class does not
    know.

    Changes ``pipeline.scheduler``, a new object, and the VAE's config.
    """
    import inspect

    import diffusers

    if marks.vae and getattr(pipeline, "vae", None) is not None:
        pipeline.vae.register_to_config(**marks.vae)
    current, said = getattr(pipeline, "scheduler", None), marks.scheduler
    if current is None or not said:
        return [f"{name}:{value} has no effect: the pipeline has no scheduler" for name, value in said.items()]
    cls = getattr(diffusers, str(said.get("_class_name", "")), type(current))
    known = inspect.signature(cls.__init__).parameters
    entries = {name: value for name, value in said.items() if name in known}
    pipeline.scheduler = cls.from_config(current.config, **entries) if cls is type(current) else cls(**entries)
    return [
        f"{name}:{value} has no effect: {cls.__name__} does not know it"
        for name, value in said.items()
        if name not in known and name != "_class_name"
    ]
