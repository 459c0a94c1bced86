# SPDX-License-Identifier: MIT
"""The server on a real port with the shipped model: start, load, generate, Free, Status, and who may call."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
from PIL import Image

import backend_pb2
import backend_pb2_grpc
from tests.gated import CODE, EMPTY, PROMPT, ServerCase, first_run, pixels, shown_in
from tests.shapes_judge import nearest_color
from tests.support import HOME, SHAPES_MODEL, Backend, free_port

SECONDS_TO_HEALTH = 3.0  # 0.9 s where nothing else runs; the core's budget is 40 s


class StartTest(unittest.TestCase):
    def test_health_answers_within_a_second_or_so_of_the_start(self) -> None:
        with Backend() as backend:
            self.assertEqual(backend.stub.Health(EMPTY).message, b"OK")
            self.assertLess(backend.seconds_to_health, SECONDS_TO_HEALTH)

    def test_health_and_status_answer_while_torch_is_imported(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "torch.py").write_text("import time\ntime.sleep(60)\n")  # an import that takes for ever
            with Backend(PYTHONPATH=os.pathsep.join((folder, str(HOME)))) as backend:
                self.assertLess(backend.seconds_to_health, SECONDS_TO_HEALTH)
                self.assertEqual(backend.stub.Health(EMPTY, timeout=1).message, b"OK")
                self.assertEqual(backend.stub.Status(EMPTY, timeout=1).state, backend_pb2.StatusResponse.BUSY)

    def test_importing_the_server_imports_no_torch(self) -> None:
        heavy = "('torch', 'diffusers', 'numpy')"
        code = f"import backend, sys; print([name for name in {heavy} if name in sys.modules])"
        command = [sys.executable, "-c", code]
        shown = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True).stdout
        self.assertEqual(shown.strip(), "[]")

    def test_a_port_in_use_ends_the_process_with_a_message(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            ended = start_and_end(address)
        self.assertNotEqual(ended.returncode, 0)
        self.assertIn(f"cannot listen on {address}", ended.stderr.strip().splitlines()[-1])

    def test_a_bad_address_ends_the_process_with_a_message(self) -> None:
        ended = start_and_end("nonsense:notaport")
        self.assertNotEqual(ended.returncode, 0)
        self.assertIn("nonsense:notaport", ended.stderr.strip().splitlines()[-1])

    def test_a_bad_environment_variable_ends_the_process_with_its_name(self) -> None:
        ended = start_and_end(f"127.0.0.1:{free_port()}", PYTHON_GRPC_MAX_WORKERS="many")
        self.assertNotEqual(ended.returncode, 0)
        self.assertIn("PYTHON_GRPC_MAX_WORKERS='many'", ended.stderr.strip().splitlines()[-1])


def start_and_end(address: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A backend that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, str(HOME / "backend.py"), "--addr", address],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HOME), **environ},
        timeout=20,
        check=False,
    )


class LoadAndGenerateTest(ServerCase):
    """The shipped model under each name that a user may give it."""

    def test_load_answers_exactly_the_words_of_the_contract(self) -> None:
        result = self.backend.load(SHAPES_MODEL, CFGScale=5.0)
        self.assertEqual((result.success, result.message), (True, "Model loaded successfully"))

    def test_every_pipeline_type_gives_a_right_picture(self) -> None:
        for name in ("", "StableDiffusionPipeline", "stable-diffusion", "text-to-image"):
            with self.subTest(pipeline_type=name):
                self.backend.load_shapes(PipelineType=name)
                self.assert_right(self.backend.picture())

    def test_img2img_follows_its_source(self) -> None:
        prompt = "a red square on a white background"
        source = self.backend.folder / "source"
        picture = Image.new("RGB", (64, 64), "white")
        picture.paste((220, 30, 40), (4, 4, 28, 28))  # in a corner, where text alone seldom puts it
        picture.save(source, "PNG")
        self.backend.load_shapes(PipelineType="img2img", Options=["strength:0.4"])
        self.addCleanup(self.backend.load_shapes)
        path = self.backend.picture(prompt=prompt, src=str(source))
        self.assert_right(path, prompt)
        with Image.open(path) as made:
            self.assertEqual(
                [nearest_color(np.array(made.getpixel(at))) for at in ((14, 14), (50, 50))], ["red", "white"]
            )

    def test_src_on_a_text_to_image_model_runs_image_to_image(self) -> None:
        source = self.backend.picture("source", prompt="a green triangle on a white background", seed=1)
        without = pixels(self.backend.picture("without.png"))
        self.assertNotEqual(pixels(self.backend.picture("with.png", src=str(source))), without)
        self.assert_serves()

    def test_the_same_seed_gives_the_same_pixels(self) -> None:
        first = pixels(self.backend.picture("a.png", seed=5, step=4))
        self.assertEqual(pixels(self.backend.picture("b.png", seed=5, step=4)), first)
        self.assertNotEqual(pixels(self.backend.picture("c.png", seed=6, step=4)), first)

    def test_a_random_seed_is_told_and_gives_the_picture_again(self) -> None:
        first = pixels(self.backend.picture("a.png", seed=-1, step=2))
        seed = int(self.backend.result.message.partition("seed ")[2].split(";")[0])
        self.assertEqual(pixels(self.backend.picture("b.png", seed=seed, step=2)), first)

    def test_sixteen_requests_from_four_clients_give_sixteen_right_pictures(self) -> None:
        prompts = [
            f"a {color} {shape} on a white background" for color in ("red", "blue") for shape in ("circle", "square")
        ]
        alone = {prompt: pixels(self.backend.picture(prompt=prompt, step=12)) for prompt in prompts}
        channels = [self.backend.new_channel() for _ in range(4)]
        stubs = [backend_pb2_grpc.BackendStub(channel) for channel in channels]

        def one(number: int) -> tuple[str, Path]:
            request = self.backend.request(f"many-{number}.png", prompts[number // 4], step=12)
            stubs[number % 4].GenerateImage(request, timeout=60)
            return prompts[number // 4], Path(request.dst)

        with futures.ThreadPoolExecutor(16) as pool:
            made = list(pool.map(one, range(16)))
        for channel in channels:
            channel.close()
        self.assertEqual([shown_in(path) for _, path in made], [prompt for prompt, _ in made])
        self.assertTrue(all(pixels(path) == alone[prompt] for prompt, path in made))

    def test_fifty_clients_at_once_get_fifty_right_pictures(self) -> None:
        alone = [pixels(self.backend.picture(seed=seed, step=3)) for seed in range(5)]

        def one(number: int) -> bytes:
            request = self.backend.request(f"fifty-{number}.png", seed=number % 5, step=3)
            with self.backend.new_channel() as channel:
                backend_pb2_grpc.BackendStub(channel).GenerateImage(request, timeout=60)
            return pixels(Path(request.dst))

        with futures.ThreadPoolExecutor(50) as pool:
            made = list(pool.map(one, range(50)))
        self.assertEqual([made[number] == alone[number % 5] for number in range(50)], [True] * 50)

    def test_a_bad_request_is_an_invalid_argument(self) -> None:
        self.assert_status(CODE.INVALID_ARGUMENT, lambda: self.backend.picture("never.png", step=-1), "step=-1")
        self.assert_nothing_written()

    def test_a_message_of_more_than_50_megabytes_is_refused_and_one_below_is_read(self) -> None:
        def ask(size: int) -> None:
            self.backend.stub.GenerateImage(self.backend.request(prompt="x" * size), timeout=30)

        self.assert_status(CODE.INVALID_ARGUMENT, lambda: ask(49 << 20), "LOCALAI_DIFFUSERS_MAX_PROMPT_BYTES")
        self.assert_status(CODE.RESOURCE_EXHAUSTED, lambda: ask(51 << 20), "message")
        self.assert_serves()

    def test_the_log_holds_no_warning_and_no_carriage_return(self) -> None:
        log = first_run().log
        self.assertNotIn("\r", log)
        lines = [line for line in log.splitlines() if re.match(r"\d{4}-", line) and " INFO " not in line]
        self.assertEqual([line for line in lines if "ended with INVALID_ARGUMENT" not in line], [], "it was asked for")


class StateTest(ServerCase):
    def test_status_tells_the_state_and_the_memory_by_part(self) -> None:
        answer = self.backend.stub.Status(EMPTY)
        self.assertEqual(answer.state, backend_pb2.StatusResponse.READY)
        self.assertEqual(set(answer.memory.breakdown), {"process", "unet", "vae", "text_encoder"})
        components = (answer.memory.breakdown[name] for name in ("unet", "vae", "text_encoder"))
        self.assertEqual(answer.memory.total, sum(components))
        self.assertGreater(answer.memory.breakdown["unet"], 1_000_000)

    def test_status_is_busy_while_a_generation_runs(self) -> None:
        self.backend.hold("step")
        call = self.backend.start()
        self.backend.wait_at("step")
        self.assertEqual(self.backend.state, "BUSY")
        self.backend.release()
        call.result()
        self.backend.wait_for_state("READY", seconds=1)

    def test_metrics_tell_the_steps_since_the_start(self) -> None:
        before = self.backend.stub.GetMetrics(backend_pb2.MetricsRequest()).tokens_generated
        self.backend.picture(step=7)
        metrics = self.backend.stub.GetMetrics(backend_pb2.MetricsRequest())
        self.assertEqual(metrics.tokens_generated - before, 7)
        self.assertGreater(metrics.tokens_per_second, 0)

    def test_after_free_there_is_no_model_until_the_next_load(self) -> None:
        began = time.monotonic()
        self.assertTrue(self.backend.free().success)
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(self.backend.state, "UNINITIALIZED")
        self.assert_status(CODE.FAILED_PRECONDITION, self.backend.picture, "model not loaded")
        self.backend.load_shapes()
        self.assert_serves()

    def test_free_without_a_model_succeeds(self) -> None:
        self.assertTrue(self.backend.free().success)
        self.assertTrue(self.backend.free().success)

    def test_every_media_rpc_says_that_no_model_is_loaded(self) -> None:
        self.backend.free()
        for rpc, message in MEDIA.items():
            with self.subTest(rpc=rpc):
                self.assert_status(
                    CODE.FAILED_PRECONDITION,
                    lambda rpc=rpc, message=message: getattr(self.backend.stub, rpc)(message),
                    "model not loaded",
                )

    def test_a_load_that_fails_answers_with_a_result(self) -> None:
        result = self.backend.load("/no/such/model")
        self.assertFalse(result.success)
        self.assertIn("/no/such/model", result.message)
        self.assert_serves()


MEDIA = {
    "GenerateImage": backend_pb2.GenerateImageRequest(positive_prompt=PROMPT, dst="/tmp/x.png"),
    "GenerateVideo": backend_pb2.GenerateVideoRequest(prompt=PROMPT, dst="/tmp/x.mp4"),
    "SoundGeneration": backend_pb2.SoundGenerationRequest(text="rain", dst="/tmp/x.wav"),
    "Generate3D": backend_pb2.Generate3DRequest(dst="/tmp/x.glb"),
    "UpscaleImage": backend_pb2.UpscaleImageRequest(src="/tmp/x", dst="/tmp/x.png"),
    "Depth": backend_pb2.DepthRequest(src="x"),
}


class IdentityTest(ServerCase):
    def test_another_model_is_not_found_in_the_words_of_the_router(self) -> None:
        text = self.assert_status(CODE.NOT_FOUND, lambda: self.backend.picture(ModelIdentity="another"))
        self.assertEqual(text, f"model identity mismatch: loaded '{SHAPES_MODEL}', requested 'another'")

    def test_the_loaded_one_and_none_are_served(self) -> None:
        for identity in (str(SHAPES_MODEL), ""):
            self.backend.picture(ModelIdentity=identity, step=1)

    def test_without_a_model_any_identity_is_a_failed_precondition(self) -> None:
        self.backend.free()
        self.assert_status(CODE.FAILED_PRECONDITION, lambda: self.backend.picture(ModelIdentity="another"))


class TokenTest(unittest.TestCase):
    """No model is needed to be turned away."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = Backend(LOCALAI_GRPC_AUTH_TOKEN="s3cret-word")
        cls.addClassCleanup(cls.backend.stop)

    def test_every_rpc_without_the_token_is_unauthenticated(self) -> None:
        calls = {
            "Health": EMPTY,
            "Status": EMPTY,
            "Free": EMPTY,
            "GetMetrics": backend_pb2.MetricsRequest(),
            "LoadModel": backend_pb2.ModelOptions(Model="x"),
            **MEDIA,
        }
        for rpc, message in calls.items():
            for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "s3cret-word"),)):
                with self.subTest(rpc=rpc, metadata=metadata), self.assertRaises(grpc.RpcError) as caught:
                    getattr(self.backend.stub, rpc)(message, metadata=metadata, timeout=5)
                self.assertEqual(caught.exception.code(), CODE.UNAUTHENTICATED)

    def test_every_rpc_of_the_contract_is_tried(self) -> None:
        served = {name for name in vars(backend_pb2_grpc.BackendServicer) if name[0].isupper()}
        self.assertEqual(served, {"Health", "Status", "Free", "GetMetrics", "LoadModel", *MEDIA})

    def test_the_right_token_is_let_in_and_the_token_is_not_in_the_log(self) -> None:
        metadata = (("authorization", "Bearer s3cret-word"),)
        self.assertEqual(self.backend.stub.Health(EMPTY, metadata=metadata, timeout=5).message, b"OK")
        self.assertNotIn("s3cret-word", self.backend.log)


if __name__ == "__main__":
    unittest.main()
