# SPDX-License-Identifier: MIT
"""A first call at the load, so that the first request waits for no compilation: ``options: warmup:true``."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from localai_diffusers.errors import BackendError, Cancelled, one_line
from localai_diffusers.generation import generation
from localai_diffusers.loading.loaded_model import LoadedModel
from localai_diffusers.wire.requests import GenerationRequest
from localai_diffusers.work.jobs import Job

log = logging.getLogger(__name__)

_STEPS = 2  # the second runs what the first compiled


def first_call(model: LoadedModel, job: Job[LoadedModel]) -> None:
    """Where the option says so, make something of two steps at the model's own size, and drop it.

    A model that needs a picture has none here: a note says that it was not warmed up, and why. Raises Cancelled.
    """
    if not model.spec.options.warmup:
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="localai-warm-up-") as folder:
        request = GenerationRequest("GenerateImage", str(Path(folder) / "made"), "warm-up", steps=_STEPS, seed=0)
        try:
            generation.generate(model, request, job)
        except Cancelled:
            raise
        except BackendError as error:
            note = f"option warmup: the first call was refused, so nothing is warm ({one_line(error)[:300]})"
            log.warning("%s: %s", model.spec.identity, note)
            model.notes += (note,)
    model.restore()
    job.step = 0  # of no request
    log.info("%s: warmed up in %.1f s", model.spec.identity, time.monotonic() - began)
