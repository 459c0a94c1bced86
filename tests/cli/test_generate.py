# SPDX-License-Identifier: MIT
"""The commands at a terminal: arguments are checked before anything loads, and what is asked for is in the file."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import numpy
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from localai_diffusers.cli import demo, like, server
from tests import shapes_judge, zoo
from tests.cli.kit import Said, command
from tests.support import HOME, SHAPES_MODEL, Backend, free_port

PROMPT = "a red circle on a blue background"


def _opened(pair: tuple[str, Path]) -> tuple[str, Image.Image]:
    """Of a file that goes with its folder."""
    with Image.open(pair[1]) as picture:
        return pair[0], picture.convert("RGB")


def _strayed(picture: Image.Image, prompt: str) -> float:
    """The share of pixels whose color lies far from both colors of the prompt and what is between them."""
    words, pixels = prompt.split(), numpy.asarray(picture).astype(float)
    first, second = (numpy.array(shapes_judge.PALETTE[words[place]], float) for place in (1, 5))
    way = second - first
    share = numpy.clip((pixels - first) @ way / (way @ way), 0, 1)[..., None]
    return float((numpy.linalg.norm(pixels - first - share * way, axis=-1) > 60).mean())


def _interruptible() -> None:
    """In the child: what a shell starts in the background ignores Ctrl-C, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class BeforeAnythingLoads(unittest.TestCase):
    """No server is started: each answer comes at once."""

    def setUp(self) -> None:
        refused = mock.patch("localai_diffusers.cli.server.connected", side_effect=AssertionError("it loads"))
        refused.start()
        self.addCleanup(refused.stop)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(HOME)

    def test_a_wrong_argument_is_one_line_and_exit_code_2(self) -> None:
        model = "examples/shapes-model"
        for arguments, told in (
            (["generate"], "which model"),
            (["generate", "examples/shapes-mode", "x"], "Did you mean examples/shapes-model"),
            (["generate", model, "x", "y"], "'y' is one word too many"),
            (["generate", model, "x", "--size", "64"], "WIDTHxHEIGHT"),
            (["generate", model, "x", "--steps", "0"], "at least 1"),
            (["generate", model, "x", "--image", "READNE.md"], "Did you mean README.md"),
            (["generate", model, "x", "--mask", "README.md"], "--mask needs the --image"),
            (["generate", model, "x", "--lora", "./style.safetensors"], "no file ./style.safetensors"),
            (["generate", model, "x", "-o", "exampels/a.png"], "no folder exampels for exampels/a.png. Did you mean"),
            (["generate", model, "x", "--set", "strength"], "KEY=VALUE"),
            (["generate", model, "x", "--nope"], "unrecognized arguments: --nope"),
            (["pipelines", "--task", "text-to-imag"], "Did you mean text-to-image"),
            (["paint"], "invalid choice"),
        ):
            with self.subTest(arguments):
                said = command(*arguments)
                self.assertEqual((said.code, said.out, said.err.count("\n")), (2, "", 1), said.err)
                self.assertIn(told, said.err)
                self.assertTrue(said.err.startswith("error: "))


class Like(unittest.TestCase):
    """What is said of a file before anything loads."""

    def said(self, text: str | None, *arguments: str) -> Said:
        with tempfile.TemporaryDirectory() as folder:
            path, info = Path(folder, "made.png"), PngInfo()
            if text is not None:
                info.add_text("parameters", text)
            Image.new("RGB", (8, 8)).save(path, pnginfo=info)
            with mock.patch.object(server, "connected", side_effect=AssertionError("it loads")):
                return command("generate", "--like", str(path), *arguments)

    def test_what_the_file_does_not_hold_is_asked_for(self) -> None:
        public = 'Steps: 3, Seed: 5, Size: 8x8, Model: shapes-model, Versions: "diffusers 0.1"'
        for text, arguments, told in (
            (None, (), "does not say how it was made"),
            ("a cat", (), "does not say how it was made"),
            (public, (), "names its model 'shapes-model' without its place"),
            (public, (str(SHAPES_MODEL),), "does not hold its prompt"),
        ):
            said = self.said(text, *arguments)
            self.assertIn(told, said.err)
            self.assertNotEqual(said.code, 0)

    def test_the_text_is_read_as_it_was_written(self) -> None:
        found = like.read('a: b, "c"\nand more\nNegative prompt: fog\nrain\nSteps: 3, LoRA: "a 0.5, b 1", Seed: 5')
        self.assertEqual(found.facts, {"Steps": "3", "LoRA": "a 0.5, b 1", "Seed": "5"})
        self.assertEqual((found.prompt, found.negative), ('a: b, "c"\nand more', "fog\nrain"))


class Commands(unittest.TestCase):
    def run_module(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(HOME)}
        asked = [sys.executable, "-m", "localai_diffusers", *arguments]
        return subprocess.run(asked, env=environment, capture_output=True, text=True)

    def test_the_package_itself_is_the_command(self) -> None:
        self.assertRegex(self.run_module("--version").stdout, r"^localai-diffusers \S+.*, diffusers \d")

    def test_env_names_versions_and_memory(self) -> None:
        told = command("env").out
        for name in ("python", "torch", "diffusers", "transformers"):
            self.assertRegex(told, rf"(?m)^{name} +\d")
        self.assertRegex(told, r"(?m)^cpu +\d+ cores, [\d.]+ of [\d.]+ GiB free")

    def test_a_reader_that_leaves_is_no_traceback(self) -> None:
        asked = f"{sys.executable} -m localai_diffusers tasks --json | head -n 1"
        environment = {**os.environ, "PYTHONPATH": str(HOME)}
        found = subprocess.run(["bash", "-c", asked], env=environment, capture_output=True, text=True)
        self.assertEqual((found.stdout, found.stderr), ("{\n", ""))

    def test_tasks_name_the_class_that_each_means(self) -> None:
        self.assertRegex(command("tasks").out, r"(?m)^text-to-image +\d+ +AutoPipelineForText2Image")


class Generating(unittest.TestCase):
    """Against one server that runs."""

    heavy = True

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = Backend(LOCALAI_DIFFUSERS_METADATA="full")
        cls.folder = cls.backend.folder

    @classmethod
    def tearDownClass(cls) -> None:
        cls.backend.stop()

    def generate(self, *arguments: str, model: str = str(SHAPES_MODEL)) -> Said:
        return command("generate", model, PROMPT, "--addr", f"127.0.0.1:{self.backend.port}", *arguments)

    def parameters(self, path: Path) -> str:
        with Image.open(path) as picture:
            return picture.info["parameters"]

    def test_what_is_unset_is_the_models_own_and_the_picture_is_right(self) -> None:
        said = self.generate("--steps", "20", "--guidance", "5", "--seed", "1", "-o", str(self.folder / "plain"))
        self.assertEqual(said.code, 0, said.err)
        with Image.open(self.folder / "plain.png") as picture:
            self.assertEqual(picture.size, (64, 64))
            self.assertEqual(shapes_judge.judge(picture.convert("RGB")), shapes_judge.Verdict("circle", "red", "blue"))
        self.assertIn(f"{self.folder}/plain.png: PNG 64x64, seed 1", said.out)
        self.assertIn("Steps: 20", self.parameters(self.folder / "plain.png"))

    def test_a_yamls_keys_count_and_arguments_come_before_them(self) -> None:
        path = self.folder / "model.yaml"
        path.write_text(
            f"parameters: {{model: {SHAPES_MODEL}, seed: 9}}\nstep: 3\ncfg_scale: 4\n"
            "diffusers: {scheduler_type: euler}"
        )
        first = self.generate("-o", str(self.folder / "yaml.png"), model=str(path))
        self.assertIn("seed 9", first.out, first.err)
        told = self.parameters(self.folder / "yaml.png")
        for fact in ("Steps: 3", "Sampler: EulerDiscreteScheduler", "CFG scale: 4"):
            self.assertIn(fact, told)
        self.generate("--steps", "2", "--scheduler", "ddim", "-o", str(self.folder / "yaml.png"), model=str(path))
        self.assertRegex(self.parameters(self.folder / "yaml.png"), "Steps: 2, Sampler: DDIMScheduler")

    def test_as_localai_fills_what_the_core_fills(self) -> None:
        said = self.generate("--as-localai", "--size", "64x64", "-o", str(self.folder / "core.png"))
        self.assertIn("Steps: 15", self.parameters(self.folder / "core.png"), said.err)

    def test_what_nothing_takes_is_an_error_unless_lenient(self) -> None:
        steps = ("--steps", "2", "-o", str(self.folder / "lenient.png"))
        for argument, told in (
            (("--set", "no_such=1"), "no_such"),
            (("--frames", "9"), "--frames"),
            (("--fps", "8"), "--fps"),
        ):
            strict = self.generate(*argument, *steps)
            self.assertNotEqual(strict.code, 0)
            self.assertIn(told, strict.err)
            self.assertEqual(strict.err.splitlines()[-1][:7], "error: ")
            self.assertEqual(self.generate(*argument, *steps, "--lenient").code, 0)

    def test_an_extension_of_another_kind_is_refused(self) -> None:
        said = self.generate("--steps", "2", "-o", str(self.folder / "clip.mp4"))
        self.assertEqual(said.code, 2)
        self.assertIn("name it clip.png", said.err)

    def test_inpainting_and_negative_words_reach_the_pipeline(self) -> None:
        source, mask = self.folder / "source.png", self.folder / "mask.png"
        Image.new("RGB", (64, 64), "yellow").save(source)
        area = Image.new("L", (64, 64))
        area.paste(255, (32, 0, 64, 64))
        area.save(mask)
        target = self.folder / "masked.png"
        said = self.generate(
            "--image", str(source), "--mask", str(mask), "--steps", "3", "--negative", "green", "-o", str(target)
        )
        self.assertEqual(said.code, 0, said.err)
        with Image.open(target) as picture:
            self.assertEqual(picture.convert("RGB").getpixel((4, 32)), (255, 255, 0))
        self.assertIn("Pipeline: StableDiffusionInpaintPipeline", self.parameters(target))
        self.assertIn("Negative prompt: green", self.parameters(target))

    def test_stdout_is_the_file_itself(self) -> None:
        sink = mock.Mock(buffer=io.BytesIO(), isatty=lambda: False)
        with mock.patch.object(sys, "stdout", sink):
            from localai_diffusers.cli import __main__ as cli

            arguments = ["generate", str(SHAPES_MODEL), PROMPT, "--steps", "2", "-o", "-"]
            self.assertEqual(cli.main([*arguments, "--addr", f"127.0.0.1:{self.backend.port}"]), 0)
        with Image.open(io.BytesIO(sink.buffer.getvalue())) as picture:
            self.assertEqual((picture.format, picture.size), ("PNG", (64, 64)))

    def test_a_clip_and_a_mesh_come_in_files_of_their_kind(self) -> None:
        clip = ("--frames", "5", "--fps", "4", "--size", "32x32", "-o", str(self.folder / "clip"))
        said = self.generate("--steps", "2", *clip, model=str(zoo.checkpoint("WanPipeline")))
        self.assertIn("clip.mp4: MP4 5 frames at 4 fps 32x32", said.out, said.err)
        mesh = ("--steps", "2", "-o", str(self.folder / "mesh"))
        said = self.generate(*mesh, model=str(zoo.checkpoint("ShapEPipeline")))
        self.assertIn("mesh.glb: ", said.out, said.err)
        self.assertEqual((self.folder / "mesh.glb").read_bytes()[:4], b"glTF")

    def test_like_a_file_makes_it_again(self) -> None:
        """With the scheduler, the options and the negative words that it was made with; what is said comes first."""
        first, again = self.folder / "first.png", self.folder / "again.png"
        said = self.generate(
            *("--steps", "3", "--seed", "5", "--size", "48x64", "--negative", "fog", "--scheduler", "euler_a"),
            *("--guidance", "4", "--set", "guidance_rescale=0.5", "-o", str(first)),
        )
        self.assertEqual(said.code, 0, said.err)
        like = ("generate", "--like", str(first), "--addr", f"127.0.0.1:{self.backend.port}")
        said = command(*like, "-o", str(again))
        self.assertEqual(said.code, 0, said.err)
        self.assertEqual(*map(Path.read_bytes, (first, again)))
        command(*like, "--seed", "6", "-o", str(again))
        self.assertIn("Seed: 6, Size: 48x64", self.parameters(again))

    def test_like_a_file_that_was_made_from_a_picture_asks_for_it(self) -> None:
        source, first, again = (self.folder / f"{name}.png" for name in ("source", "edited", "edited-again"))
        Image.new("RGB", (64, 64), "yellow").save(source)
        self.generate("--image", str(source), "--steps", "3", "-o", str(first))
        like = ("generate", "--like", str(first), "--addr", f"127.0.0.1:{self.backend.port}", "-o", str(again))
        said = command(*like)
        self.assertEqual(said.code, 2)
        self.assertIn("was made from 1 picture(s), which it does not hold", said.err)
        self.assertEqual(command(*like, "--image", str(source)).code, 0)
        self.assertEqual(*map(Path.read_bytes, (first, again)))
        self.generate("--image", str(source), "--mask", str(source), "--steps", "3", "-o", str(first))
        said = command(*like, "--image", str(source))
        self.assertIn("was made from 2 picture(s)", said.err, "the mask is one of them")
        self.assertEqual(command(*like, "--image", str(source), "--mask", str(source)).code, 0)
        self.assertEqual(*map(Path.read_bytes, (first, again)))

    def test_like_with_a_model_of_ones_own_tells_what_that_leaves_out(self) -> None:
        first, again = self.folder / "with-ddim.png", self.folder / "with-its-own.png"
        self.generate("--steps", "2", "--scheduler", "euler_a", "-o", str(first))
        like = ("--like", str(first), "--addr", f"127.0.0.1:{self.backend.port}", "-o", str(again))
        said = command("generate", str(SHAPES_MODEL), *like)
        self.assertEqual(said.code, 0, said.err)
        self.assertIn("it was made with Sampler EulerAncestralDiscreteScheduler: what", said.err)

    def test_the_load_says_what_the_model_makes_and_takes(self) -> None:
        facts = server.load(self.backend.stub, {"Model": str(SHAPES_MODEL)})
        self.assertEqual((facts["class"], facts["makes"]), ("StableDiffusionPipeline", "image"))
        self.assertEqual(set(facts["takes"]), {"prompt", "negative_prompt", "size", "steps", "guidance"})

    def test_ctrl_c_says_how_far_it_was(self) -> None:
        asked = [sys.executable, "-m", "localai_diffusers", "generate", str(SHAPES_MODEL), PROMPT]
        asked += ["--steps", "900", "--size", "256x256", "--addr", f"127.0.0.1:{self.backend.port}"]
        environment = {**os.environ, "PYTHONPATH": str(HOME)}
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                asked, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=_interruptible
            )
            assert process.stderr is not None
            self.assertIn("loaded", process.stderr.readline())
            before = self.steps()
            while self.steps() < before + 3:
                self.assertIsNone(process.poll())
                time.sleep(0.05)  # asked without a pause, the server answers this alone
            process.send_signal(signal.SIGINT)
            told = process.communicate()[1]
            self.assertEqual(os.listdir(folder), [])
        self.assertTrue(re.fullmatch(r"Cancelled at step \d+ of 900\n", told), told)
        self.assertEqual(process.returncode, 130)

    def steps(self) -> int:
        import backend_pb2

        return self.backend.stub.GetMetrics(backend_pb2.MetricsRequest()).tokens_generated

    def test_the_demos_pictures_are_right_and_without_a_spot(self) -> None:
        drawn: list[tuple[str, Image.Image]] = []

        def kept(pairs: list[tuple[str, Path]]) -> mock.Mock:
            drawn.extend(map(_opened, pairs))
            return mock.Mock()

        with (
            mock.patch.object(server, "connected", lambda: contextlib.nullcontext(self.backend.stub)),
            mock.patch.object(
                demo, "sheet_of", side_effect=lambda pairs: drawn.extend(map(_opened, pairs)) or mock.Mock()
            ),
        ):
            self.assertEqual(command("demo").code, 0)
        self.assertEqual([shapes_judge.judge(picture).prompt() for _, picture in drawn], list(demo.PROMPTS))
        for prompt, picture in drawn:
            self.assertLess(_strayed(picture, prompt), 0.005, prompt)

    def test_serve_loads_the_model_and_ends_with_ctrl_c(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        asked = [sys.executable, "-m", "localai_diffusers", "serve", str(SHAPES_MODEL), "--addr", address]
        environment = {**os.environ, "PYTHONPATH": str(HOME)}
        process = subprocess.Popen(
            asked,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=_interruptible,
        )
        assert process.stdout is not None
        self.assertIn(f"is served at {address}", process.stdout.readline())
        target = self.folder / "served.png"
        with server.connected(address) as stub:
            import backend_pb2

            asked_for = {"positive_prompt": PROMPT, "step": 2, "dst": str(target)}
            server.generate(stub, "GenerateImage", backend_pb2.GenerateImageRequest(**asked_for))
        self.assertTrue(target.stat().st_size)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(30), 0)
        process.stdout.close()


if __name__ == "__main__":
    unittest.main()
