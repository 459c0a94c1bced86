# SPDX-License-Identifier: MIT
"""The step hook: stops every kind of pipeline at its next step, and tells how far it is in plain lines."""

from __future__ import annotations

import functools
import io
import logging
import sys
import unittest
from typing import Any
from unittest import mock

from localai_diffusers.errors import Cancelled
from localai_diffusers.generation import step_hook
from localai_diffusers.generation.arguments import call_arguments
from localai_diffusers.pipeline.signatures import parameters_of
from localai_diffusers.wire.intake import Intake
from localai_diffusers.wire.requests import GenerationRequest
from localai_diffusers.work import progress
from localai_diffusers.work.jobs import Job
from tests.support import SHAPES_MODEL, load, new_job, spec_of, zoo_model

STEPS = 40


class CountingJob(Job):
    """Cancels itself when the work reports step ``stop_at``; ``stop_at`` None lets it run."""

    def __init__(self, stop_at: int | None) -> None:
        super().__init__(lambda _job: None, "test")
        self.stop_at = stop_at

    def report(self, step: int, total: int) -> None:
        if step == self.stop_at:
            self.cancel("the client left")
        super().report(step, total)


@functools.cache
def shapes() -> Any:
    """The shipped model, loaded once."""
    return load(SHAPES_MODEL)


def run(name: str, job: Job, steps: int = STEPS) -> Any:
    """The zoo's pipeline ``name`` (or the shipped model) for a prompt, watched by ``job``."""
    model = shapes() if name == "shapes" else zoo_model(name)
    pipeline = model.pipeline
    request = GenerationRequest(
        "GenerateImage", "x.png", "a cat", seed=1, steps=steps, width=32, height=32, num_frames=2
    )
    call = call_arguments.build(request, model.profile, model.defaults, Intake(model.settings))
    with step_hook.watched(pipeline, job) as hooks:
        return pipeline(**call.arguments, **hooks)


class StopTest(unittest.TestCase):
    def test_every_kind_of_pipeline_stops_at_its_next_step(self) -> None:
        """With callback_on_step_end, with the legacy callback only, and with nothing but a progress bar."""
        kinds = {
            "StableDiffusionPipeline": "callback_on_step_end",
            "FluxPipeline": "callback_on_step_end",
            "LDMTextToImagePipeline": "",
            "DDPMPipeline": "",
            "TextToVideoSDPipeline": "callback",
            "SanaPipeline": "callback_on_step_end",
        }
        for name, way in kinds.items():
            taken = [
                way for way in ("callback_on_step_end", "callback") if way in parameters_of(zoo_model(name).pipeline)
            ]
            self.assertEqual(taken[:1], [way] if way else [], name)
            job = CountingJob(stop_at=3)
            with self.assertRaisesRegex(Cancelled, "the client left"):
                run(name, job)
            self.assertEqual(job.step, 3, name)

    def test_a_job_cancelled_before_does_no_step(self) -> None:
        job = CountingJob(None)
        job.cancel("early")
        with self.assertRaises(Cancelled):
            run("StableDiffusionPipeline", job)
        self.assertEqual(job.step, 0)

    def test_the_decoder_is_stopped_too(self) -> None:
        job = CountingJob(stop_at=2)
        with self.assertRaises(Cancelled):
            run("StableDiffusionPipeline", job, steps=2)

    def test_every_step_is_counted(self) -> None:
        for name in ("shapes", "FluxPipeline", "LDMTextToImagePipeline"):
            job = CountingJob(None)
            run(name, job, steps=4)
            self.assertEqual((job.step, job.total_steps), (4, 4), name)

    def test_a_stopped_pipeline_works_again_and_carries_no_hook(self) -> None:
        before = run("shapes", CountingJob(None), steps=3).images[0].tobytes()
        model = shapes()
        with self.assertRaises(Cancelled), step_hook.watched(model.pipeline, CountingJob(1)) as hooks:
            model.pipeline("a cat", num_inference_steps=3, **hooks)
        self.assertNotIn("progress_bar", vars(model.pipeline))
        self.assertFalse(any(module._forward_pre_hooks for module in model.pipeline.unet.modules()))
        self.assertEqual(run("shapes", CountingJob(None), steps=3).images[0].tobytes(), before)


class LinesTest(unittest.TestCase):
    def lines(self, name: str, steps: int, every: float) -> list[str]:
        shapes()  # a load logs lines of its own
        with (
            mock.patch.object(progress, "LOG_EVERY_SECONDS", every),
            self.assertLogs("localai_diffusers.work.progress", logging.INFO) as logs,
        ):
            run(name, CountingJob(None), steps)
        return [record.getMessage() for record in logs.records]

    def test_without_a_terminal_progress_is_plain_lines(self) -> None:
        stderr = io.StringIO()
        with mock.patch.object(sys, "stderr", stderr):
            lines = self.lines("shapes", 5, 0)
        self.assertRegex(lines[0], r"^1/5, \d+\.\d\d it/s$")
        self.assertRegex(lines[-1], r"^5/5, ")
        self.assertEqual(stderr.getvalue(), "")

    def test_lines_come_now_and_then_and_at_the_end(self) -> None:
        self.assertEqual([line.partition(",")[0] for line in self.lines("shapes", 5, 60)], ["5/5"])

    def test_on_a_terminal_it_is_a_bar(self) -> None:
        self.assertIn("3/3", self.drawn_at(logging.INFO))

    def test_a_log_level_without_progress_has_no_bar(self) -> None:
        self.assertNotIn("3/3", self.drawn_at(logging.ERROR))

    def drawn_at(self, level: int) -> str:
        """What a run writes to a terminal at that log level."""

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        terminal, logger = Terminal(), logging.getLogger("localai_diffusers.work.progress")
        self.addCleanup(logger.setLevel, logger.level)
        logger.setLevel(level)
        with mock.patch.object(sys, "stderr", terminal):
            run("shapes", CountingJob(None), steps=3)
        return terminal.getvalue()


class LoadingTest(unittest.TestCase):
    def test_a_load_is_stopped_between_components(self) -> None:
        from localai_diffusers.loading import pipelines
        from localai_diffusers.settings import Settings

        job = new_job()
        build = pipelines.prepare(spec_of(SHAPES_MODEL), Settings(), job)
        job.cancel("the client left")
        with self.assertRaises(Cancelled):
            build()

    def test_the_libraries_bars_are_theirs_again_afterwards(self) -> None:
        from diffusers.utils import logging as diffusers_logging

        before = diffusers_logging.tqdm
        with self.assertRaises(ValueError), progress.watched_loading(new_job()):
            self.assertIsNot(diffusers_logging.tqdm, before)
            raise ValueError
        self.assertIs(diffusers_logging.tqdm, before)


if __name__ == "__main__":
    unittest.main()
