# SPDX-License-Identifier: MIT
"""What a class takes, the YAML that serves a model, and what a file says of itself."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from unittest import mock

import av
import numpy
import yaml

from localai_diffusers.cli import model_yaml, show
from localai_diffusers.media import images, payloads, tracks
from tests.cli.kit import command
from tests.support import SHAPES_MODEL, FolderCase


class Show(FolderCase):
    def test_a_class_in_any_case_says_what_it_takes_and_its_defaults(self) -> None:
        found = json.loads(command("show", "fluxpipeline", "--json").out)
        self.assertEqual((found["name"], found["output"], found["rpcs"]), ("FluxPipeline", "image", ["GenerateImage"]))
        self.assertEqual(found["arguments"]["guidance_scale"], "3.5")
        self.assertNotIn("generator", found["arguments"])

    def test_a_model_is_shown_as_its_class(self) -> None:
        self.assertRegex(command("show", str(SHAPES_MODEL)).out, r"class +StableDiffusionPipeline\n")

    def test_a_typo_in_a_class_is_answered(self) -> None:
        said = command("show", "FluxPipelin")
        self.assertEqual((said.code, said.err.count("\n")), (1, 1))
        self.assertIn("Did you mean FluxPipeline", said.err)


class Yaml(FolderCase):
    def test_the_yaml_of_a_model_is_fine_and_lists_its_use_case(self) -> None:
        path = self.folder / "model.yaml"
        path.write_text(command("yaml", str(SHAPES_MODEL)).out)
        config = yaml.safe_load(path.read_text())
        self.assertEqual(config["known_usecases"], ["image"])
        self.assertEqual(config["diffusers"], {"pipeline_type": "StableDiffusionPipeline"})
        self.assertEqual(model_yaml.of_yaml(path).faults, ())
        self.assertEqual(command("check", str(path)).code, 0)

    def test_a_model_that_takes_pictures_says_so_in_localais_words(self) -> None:
        found = {name: show._modalities(name) for name in ("StableDiffusionImg2ImgPipeline", "WanImageToVideoPipeline")}
        for name, made in (("StableDiffusionImg2ImgPipeline", "image"), ("WanImageToVideoPipeline", "video")):
            said = {"known_input_modalities": ["image", "text"], "known_output_modalities": [made]}
            self.assertEqual(found[name], said)
        self.assertEqual(show._modalities("StableDiffusionPipeline"), {})


class Info(FolderCase):
    def test_what_a_picture_says_comes_back_from_every_format(self) -> None:
        from PIL import Image

        text = "a red circle\nSteps: 3, Seed: 5"
        for name, format in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP")):
            path = Path(self.folder, name)
            images.save_image(Image.new("RGB", (8, 8)), path, format, {"parameters": text})
            self.assertEqual(command("info", str(path)).out, text + "\n", name)

    def test_clips_sounds_and_meshes_say_it_too(self) -> None:
        text = 'a red círcle\nSteps: 3, Seed: 5, Notes: "one, two"'
        track = tracks.AudioTrack(numpy.zeros((1, 4801), numpy.float32), 48000)
        frames, mesh = numpy.zeros((2, 32, 32, 3), numpy.uint8), mock.Mock(vertex_channels=None)
        mesh.verts, mesh.faces = numpy.eye(3, dtype=numpy.float32), numpy.array([[0, 1, 2]])
        of_kind = {
            payloads.Payload("video", videos=(frames,)): ("mp4", "webm", "gif"),
            payloads.Payload("audio", sounds=(track,)): ("wav", "flac", "ogg", "mp3"),
            payloads.Payload("mesh", meshes=(mesh,)): ("glb",),
        }
        for payload, extensions in of_kind.items():
            for extension in extensions:
                path = self.folder / f"a.{extension}"
                payloads.write_payload(payload, str(path), fps=8, metadata={"parameters": text}, check=lambda: None)
                self.assertEqual(command("info", str(path)).out, text + "\n", extension)
        with wave.open(str(self.folder / "a.wav")) as source:
            self.assertEqual(source.getnframes(), 4801)

    def test_a_file_that_says_nothing_or_is_none_is_one_line(self) -> None:
        plain, sound = self.picture("plain.png"), self.folder / "sound.wav"
        with wave.open(str(sound), "wb") as sink:
            sink.setnchannels(1), sink.setsampwidth(2), sink.setframerate(8000)
            sink.writeframes(bytes(800))
        (self.folder / "text.txt").write_text("no picture")
        clip = self.folder / "clip.mp4"
        with av.open(str(clip), "w") as container:
            stream = container.add_stream("libx264", rate=8, width=32, height=32, pix_fmt="yuv420p")
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
            container.mux(stream.encode())
        for path, told in (
            (clip, "says nothing"),
            (plain, "says nothing"),
            (sound, "says nothing"),
            (self.folder / "text.txt", "is no picture"),
        ):
            said = command("info", str(path))
            self.assertEqual((said.code, said.out, said.err.count("\n")), (1, "", 1), path)
            self.assertIn(told, said.err)
