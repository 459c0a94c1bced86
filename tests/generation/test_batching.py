# SPDX-License-Identifier: MIT
"""max_batch: queued requests of equal shape run as one call, each with its own prompt, seed and answer, whatever
becomes of the others.
"""

from __future__ import annotations

import atexit
import functools
import signal
import time
import unittest
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

import backend_pb2
from localai_diffusers.generation import batching
from localai_diffusers.wire import requests
from tests import adapter_files, zoo
from tests.every_pipeline.test_zoo_server import options_of
from tests.gated import CODE, GatedBackend, ServerCase, pixels
from tests.shapes_judge import judge
from tests.support import SHAPES_MODEL, FolderCase, load, new_job, repainting
from tests.zoo import checkpoint

PROMPTS = (
    "a red circle on a blue background",
    "a yellow square on a black background",
    "a green triangle on a white background",
    "a blue square on a yellow background",
)
NEAR = 2  # of 255; measured: 1 in one pixel of 10,000, for the matrices' products are summed in another order
HEARD = 0.2  # seconds in which the server has heard that a client left, on a busy machine too
TOGETHER = "requests ran as one call"
ALONE = "each runs alone"


@functools.cache
def batching_backend() -> GatedBackend:
    """One server for all tests here; the last one ends it."""
    backend = GatedBackend()
    atexit.register(backend.stop)
    return backend


class BatchCase(ServerCase):
    """A test on a server whose calls take four requests, and a way to have them queue."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = batching_backend()

    def load_batching(self, **fields: Any) -> None:
        self.backend.load_shapes(**{"Options": ["max_batch:4"], **fields})

    def setUp(self) -> None:
        self.addCleanup(self.backend.release)
        self.backend.wait_for_state("READY", "UNINITIALIZED")
        if self.backend.state == "UNINITIALIZED":
            self.load_batching()
        for path in self.backend.folder.glob("*.png"):
            path.unlink()
        self.before = self.backend.outputs()
        self.seen = len(self.backend.log)

    @property
    def new_log(self) -> str:
        return self.backend.log[self.seen :]

    def queued(self, *requests: dict[str, Any], at: str = "") -> list[grpc.Future]:
        """Calls that came in this order while another ran; they run now, or stand ``at`` the gate of a phase.

        Each has its own prompt and seed and writes ``<number>.png``.
        """
        self.backend.hold("generate")
        blocker = self.backend.start("blocker.png", step=1)
        self.backend.wait_at("generate")
        calls = []
        for number, fields in enumerate(requests):
            start = functools.partial(self.backend.start, **self.fields(number, **fields))
            calls.append(self.backend.queue(start))
        if at:
            self.backend.hold(at)
        blocker.cancel()
        self.backend.release("generate")
        if at:
            self.backend.wait_at(at)
        return calls

    def fields(self, number: int, **fields: Any) -> dict[str, Any]:
        return {"name": f"{number}.png", "prompt": PROMPTS[number % 4], "seed": number + 1, **fields}

    def assert_all_right(self, calls: list[grpc.Future], *numbers: int) -> None:
        for number in numbers or range(len(calls)):
            self.assertTrue(calls[number].result().success)
            self.assert_right(self.backend.folder / f"{number}.png", PROMPTS[number % 4])

    def assert_near(self, one: Path, other: Path) -> None:
        first, second = (np.asarray(Image.open(path), int) for path in (one, other))
        self.assertLessEqual(np.abs(first - second).max(), NEAR)
        self.assertLess((first != second).mean(), 0.01)


class TogetherTest(BatchCase):
    def test_queued_requests_run_as_one_call_and_each_gets_its_own_picture(self) -> None:
        before = self.steps_since_the_start()
        calls = self.queued({}, {}, {}, {})
        self.assert_all_right(calls)
        self.assertIn(f"4 {TOGETHER}", self.new_log)
        self.assertLess(self.steps_since_the_start() - before, 2 * 20, "the steps of one call, not of four")

    def steps_since_the_start(self) -> int:
        return self.backend.stub.GetMetrics(backend_pb2.MetricsRequest()).tokens_generated

    def test_a_picture_of_a_batch_is_that_of_its_seed(self) -> None:
        calls = self.queued(
            {"seed": 5}, {"seed": 6, "prompt": PROMPTS[0]}, {"seed": -1}, {"seed": 5, "negative_prompt": ""}
        )
        seeds = [int(call.result().message.partition("seed ")[2].split(";")[0]) for call in calls]
        self.assertIn(f"4 {TOGETHER}", self.new_log)
        for number, seed in enumerate(seeds):
            prompt = PROMPTS[0] if number == 1 else PROMPTS[number]
            alone = self.backend.picture("alone.png", prompt, seed=seed)
            self.assert_near(alone, self.backend.folder / f"{number}.png")
        self.assertNotEqual(pixels(self.backend.folder / "0.png"), pixels(self.backend.folder / "1.png"))

    def test_with_a_lora_and_clip_skip_they_are_as_near(self) -> None:
        file = adapter_files.lora(SHAPES_MODEL, self.backend.folder / "lora.safetensors", size=0.5)
        self.addCleanup(self.load_batching)
        self.load_batching(LoraAdapter=str(file), CLIPSkip=1)
        without = pixels(self.backend.picture("other.png", PROMPTS[0], seed=1, CLIPSkip=2))
        for call in self.queued({}, {}, {"CLIPSkip": 2, "seed": 1, "prompt": PROMPTS[0]}):
            call.result()
        self.assertIn(f"2 {TOGETHER}", self.new_log)
        self.assertEqual(pixels(self.backend.folder / "2.png"), without)
        for number in range(2):
            alone = self.backend.picture("alone.png", PROMPTS[number], seed=number + 1)
            self.assert_near(alone, self.backend.folder / f"{number}.png")

    def test_each_picture_to_repaint_stays_its_own(self) -> None:
        """At a strength that leaves shape and ground as they are, though the prompt is that of another."""
        self.addCleanup(self.load_batching)
        self.load_batching(Options=["max_batch:4", "strength:0.05"])
        sources = [self.backend.picture(**self.fields(number, name=f"source{number}.png")) for number in range(4)]
        for call in self.queued(*[{"src": str(path), "prompt": PROMPTS[0]} for path in sources]):
            self.assertTrue(call.result().success)
        self.assertIn(f"4 {TOGETHER}", self.new_log)
        for number, source in enumerate(sources):
            seen, wanted = (judge(Image.open(path)) for path in (self.backend.folder / f"{number}.png", source))
            self.assertEqual((seen.shape, seen.background), (wanted.shape, wanted.background))

    def test_each_masked_picture_is_repainted_by_its_own_prompt_where_its_own_mask_says(self) -> None:
        self.addCleanup(self.load_batching)
        self.load_batching()
        pairs = [self.masked(number) for number in range(3)]
        calls = self.queued(*[{"src": path} for path in pairs])
        for number, call in enumerate(calls):
            self.assertTrue(call.result().success)
            alone = self.backend.picture("alone.png", PROMPTS[number], seed=number + 1, src=pairs[number])
            self.assert_near(alone, self.backend.folder / f"{number}.png")
        self.assertIn(f"3 {TOGETHER}", self.new_log)

    def masked(self, number: int) -> str:
        """Path of an inpainting request: a picture of the model, of which one of three strips is white in the mask."""
        picture = self.backend.picture(f"source{number}.png", PROMPTS[number + 1], seed=number + 2)
        mask = Image.new("L", (64, 64))
        mask.paste(255, (0, 20 * number, 64, 20 * number + 20))
        return repainting(self.backend.folder / f"pair{number}.json", Image.open(picture), mask)

    def test_requests_with_tags_of_loras_run_together_without_them(self) -> None:
        calls = self.queued(*[{"prompt": f"{text} <lora:style:0.5>"} for text in PROMPTS[:2]])
        self.assert_all_right(calls)
        self.assertIn(f"2 {TOGETHER}", self.new_log)
        self.assertIn("<lora:…>", calls[1].result().message)

    def test_of_a_pipeline_that_changes_pictures_in_a_batch_each_request_runs_alone(self) -> None:
        """The panorama batches its views by itself, and mixes them with the prompts."""
        name = "StableDiffusionPanoramaPipeline"
        self.addCleanup(self.load_batching)
        result = self.backend.load(zoo.checkpoint(name), Options=[*options_of(zoo.ENTRIES[name]), "max_batch:4"])
        self.assertTrue(result.success, result.message)
        small: dict[str, Any] = {"width": 64, "height": 64, "step": 2}
        for _ in range(2):
            for call in self.queued(
                {"prompt": "a cat", **small}, {"prompt": "a long tale of " + "a dog in the snow " * 3, **small}
            ):
                call.result()
            alone = self.backend.picture("alone.png", "a cat", seed=1, **small)
            self.assertEqual(pixels(alone), pixels(self.backend.folder / "0.png"))
        self.assertEqual(self.new_log.count("changes pictures in a batch"), 1)
        self.assertNotIn(TOGETHER, self.new_log)

    def test_only_neighbors_of_equal_shape_run_together_and_order_is_kept(self) -> None:
        source = self.backend.picture("source.png")
        other: dict[str, Any] = {"src": str(source)}
        kinds = [
            {},
            {"step": 12},
            {"step": 12},
            {"width": 32},
            {},
            other,
            {},
            {},
            {"negative_prompt": "x"},
            {"CLIPSkip": 1},
        ]
        calls = self.queued(*kinds)
        for call in calls:
            self.assertTrue(call.result().success)
        self.assertEqual(
            [line.split(": ")[1] for line in self.new_log.splitlines() if TOGETHER in line], [f"2 {TOGETHER}"] * 2
        )
        written = [(self.backend.folder / f"{number}.png").stat().st_mtime_ns for number in range(len(kinds))]
        self.assertEqual(written, sorted(written))

    def test_a_fifth_waits_for_the_next_call(self) -> None:
        self.assert_all_right(self.queued(*[{}] * 6))
        self.assertEqual([line.split(": ")[1][0] for line in self.new_log.splitlines() if TOGETHER in line], ["4", "2"])

    def test_with_batch_wait_ms_the_first_waits_for_another(self) -> None:
        self.addCleanup(self.load_batching)
        self.load_batching(Options=["max_batch:2", "batch_wait_ms:10000"])
        start = [functools.partial(self.backend.start, **self.fields(number)) for number in range(2)]
        self.assert_all_right([self.backend.queue(call) for call in start])
        self.assertIn(f"2 {TOGETHER}", self.new_log)

    def test_batch_wait_ms_without_max_batch_is_told(self) -> None:
        self.addCleanup(self.load_batching)
        result = self.backend.load(SHAPES_MODEL, Options=["batch_wait_ms:50"])
        self.assertIn("batch_wait_ms:50 has nothing to do without max_batch", result.message)

    def test_max_batch_out_of_range_fails_the_load(self) -> None:
        for value in ("0", "65", "two", "1.5"):
            result = self.backend.load(SHAPES_MODEL, Options=[f"max_batch:{value}"])
            self.assertFalse(result.success)
            self.assertIn(f"max_batch:{value}", result.message)


class CacheTest(FolderCase):
    def test_each_is_told_that_the_cache_is_off_for_all(self) -> None:
        """FLUX's image-to-image opens no cache context."""
        model = load(checkpoint("FluxPipeline"), Options=["cache:taylorseer", "max_batch:2"])
        source, jobs = self.picture(size=(32, 32)), []
        for number in range(2):
            fields = {"src": source, "dst": str(self.folder / f"{number}.png"), "seed": number, "step": 3}
            message = backend_pb2.GenerateImageRequest(positive_prompt="a cat", width=32, height=32, **fields)
            job, request = new_job(), requests.from_image_request(message, model.settings)
            job.batch = batching.batch_for(model, request, model.spec.identity)
            jobs.append(job)
        self.assertTrue(jobs[0].batch.run(jobs, model))
        for job in jobs:
            job.settle()
            self.assertIn("cache:taylorseer is off for this request", job.wait(10).message())


class FaultsTest(BatchCase):
    """Something becomes of one member, or of all, while they run as one call."""

    def test_a_cancelled_member_does_not_spoil_the_others(self) -> None:
        for phase in ("step", "decode"):
            with self.subTest(phase):
                calls = self.queued({}, {}, {}, at=phase)
                calls[1].cancel()
                time.sleep(HEARD)
                self.backend.release()
                self.assert_all_right(calls, 0, 2)
                self.assertIn(f"3 {TOGETHER}", self.new_log)
                self.assertFalse((self.backend.folder / "1.png").exists())

    def test_a_member_whose_deadline_passes_is_answered_at_once_and_spoils_none(self) -> None:
        calls = self.queued({}, {"timeout": 1.0}, {}, at="step")
        began = time.monotonic()
        self.assert_code(calls[1].exception(), CODE.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - began, 1.3)
        time.sleep(HEARD)
        self.backend.release()
        self.assert_all_right(calls, 0, 2)
        self.assertFalse((self.backend.folder / "1.png").exists())

    def test_when_all_have_left_the_work_stops_at_its_next_step(self) -> None:
        calls = self.queued(*[{"step": 900}] * 3, at="step")
        for call in calls:
            call.cancel()
        time.sleep(HEARD)
        self.backend.release()
        self.backend.wait_for_state("READY", seconds=1)
        self.assert_nothing_written()
        self.assertNotIn(ALONE, self.new_log)
        self.assert_serves()

    def test_free_ends_all_at_once(self) -> None:
        calls = self.queued({}, {}, {}, at="step")
        freeing = self.backend.stub.Free.future(backend_pb2.HealthMessage(), timeout=10)
        for call in calls:
            self.assert_code(call.exception(), CODE.CANCELLED, "freed")
        self.backend.release()
        self.assertTrue(freeing.result().success)
        self.assertEqual(self.backend.state, "UNINITIALIZED")
        self.assert_nothing_written()

    def test_a_member_that_is_refused_does_not_spoil_the_others(self) -> None:
        folder = self.backend.folder / "gone"
        folder.mkdir()
        calls = self.queued({}, {"dst": str(folder / "x.png")}, {}, at="step")
        folder.rmdir()
        self.backend.release()
        self.assert_all_right(calls, 0, 2)
        self.assert_code(calls[1].exception(), CODE.INVALID_ARGUMENT, "dst")

    def test_members_that_the_pipeline_refuses_are_told_each_by_itself(self) -> None:
        for fields, word in (({"CLIPSkip": 60}, "CLIPSkip=60"), ({"step": 1000}, "step=1000")):
            with self.subTest(word):
                for call in self.queued(fields, fields):
                    self.assert_code(call.exception(), CODE.INVALID_ARGUMENT, word)
                self.assertIn(ALONE, self.new_log)
        self.assert_serves()

    def test_where_memory_is_too_short_for_all_at_once_each_runs_alone(self) -> None:
        """Guidance takes two samples a request: memory for two of them is enough for each alone,
        for one not even so."""
        self.backend.short_of_memory_at("step", 2)
        self.assert_all_right(self.queued({}, {}, {}, {}))
        self.assertIn(ALONE, self.new_log)
        self.backend.short_of_memory_at("step", 1)
        for call in self.queued({}, {}):
            self.assert_code(call.exception(), CODE.RESOURCE_EXHAUSTED, "smaller size")
        self.backend.release()
        self.assert_serves()

    def test_a_request_for_another_model_is_told_so_though_its_neighbors_run(self) -> None:
        """The interceptor let it in, then a load took its model away."""
        self.backend.hold("generate")
        blocker = self.backend.start("blocker.png", step=1)
        self.backend.wait_at("generate")
        load = self.backend.start_load(Model="other", Options=["max_batch:4"])
        time.sleep(0.1)
        calls = [self.backend.start(f"{number}.png", ModelIdentity=str(SHAPES_MODEL)) for number in range(2)]
        time.sleep(0.2)
        blocker.cancel()
        self.backend.release()
        self.assertTrue(load.result().success)
        self.addCleanup(self.load_batching)
        for call in calls:
            self.assert_code(call.exception(), CODE.NOT_FOUND, "mismatch")


class UntimelyEndTest(BatchCase):
    """Last by its name as well: it ends the server."""

    def test_sigterm_answers_all_and_leaves_nothing(self) -> None:
        calls = self.queued(*[{"step": 900, "width": 128, "height": 128}] * 3, at="step")
        self.backend.process.send_signal(signal.SIGTERM)
        self.backend.release()
        for call in calls:
            self.assert_code(call.exception(), CODE.CANCELLED)
        self.assertEqual(self.backend.process.wait(5), 0)
        self.assert_nothing_written()


if __name__ == "__main__":
    unittest.main()
