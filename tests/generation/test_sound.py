# SPDX-License-Identifier: MIT
"""SoundGeneration, through a real server: lengths, fields, sounds that are given, and the formats of the file."""

from __future__ import annotations

import unittest
import wave
from pathlib import Path
from typing import Any

import av

from localai_diffusers.media import comments
from tests.rpc import RpcCase
from tests.support import call_of, zoo_model

RATE = 16000  # of every sound of the zoo
MODELS = (
    "AudioLDMPipeline",
    "AudioLDM2Pipeline",
    "StableAudioPipeline",
    "AceStepPipeline",
    "DanceDiffusionPipeline",
    "LongCatAudioDiTPipeline",
)


def seconds(path: Path) -> float:
    with wave.open(str(path)) as source:
        return source.getnframes() / source.getframerate()


class LengthTest(RpcCase):
    def test_the_duration_goes_to_whatever_the_pipeline_calls_it(self) -> None:
        for model in MODELS:
            self.load(model)
            with self.subTest(model):
                self.assertAlmostEqual(seconds(self.sound(duration=0.8)), 0.8, delta=0.05)

    def test_the_rate_is_the_models_own(self) -> None:
        self.load("StableAudioPipeline")
        with wave.open(str(self.sound(duration=0.5))) as source:
            self.assertEqual((source.getframerate(), source.getnchannels(), source.getsampwidth()), (RATE, 2, 2))

    def test_a_length_out_of_bounds_is_refused(self) -> None:
        self.load("AudioLDMPipeline")
        for duration in (-1.0, 1e6, float("nan")):
            self.assertIn("duration", self.refusal(self.sound, duration=duration))


class FormatTest(RpcCase):
    def test_the_extension_decides(self) -> None:
        self.load("AudioLDMPipeline")
        for name, codec, head in (
            ("a.wav", "pcm_s16le", b"RIFF"),
            ("a.flac", "flac", b"fLaC"),
            ("a.ogg", "opus", b"OggS"),
            ("a.tmp", "pcm_s16le", b"RIFF"),
        ):
            path = self.sound(name=name, duration=0.7)
            self.assertEqual(path.read_bytes()[:4], head, name)
            with av.open(str(path)) as source:
                stream = source.streams.audio[0]
                self.assertIn(codec, stream.codec_context.name)
                samples = sum(frame.samples for frame in source.decode(stream)) / stream.rate
            self.assertAlmostEqual(samples, 0.7, delta=0.06, msg=name)


class FieldsTest(RpcCase):
    """ACE-Step has arguments for most fields; AudioLDM for none but text and duration."""

    FIELDS: dict[str, Any] = {
        "lyrics": "[verse] la la",
        "bpm": 120,
        "language": "en",
        "keyscale": "C major",
        "timesignature": "3",
    }

    def test_temperature_is_guidance_where_there_is_no_temperature(self) -> None:
        """As LocalAI's documentation says of prompt_influence, which the core sends by that name."""
        self.load("AudioLDM2Pipeline")
        self.assertIn("CFG scale: 6.25, ", comments.read(self.sound(duration=0.7, temperature=6.25)) or "")

    def test_the_fields_arrive_under_the_pipelines_names_and_types(self) -> None:
        import backend_pb2
        from localai_diffusers.settings import Settings
        from localai_diffusers.wire import requests

        message = backend_pb2.SoundGenerationRequest(text="rain", dst="/tmp/x.wav", duration=1.5, **self.FIELDS)
        model = zoo_model("AceStepPipeline")
        found = call_of(model, requests.from_sound_request(message, Settings())).arguments
        expected = {
            "prompt": "rain",
            "lyrics": "[verse] la la",
            "bpm": 120,
            "vocal_language": "en",
            "keyscale": "C major",
            "timesignature": "3",
            "audio_duration": 1.5,
        }
        self.assertEqual({name: found.get(name) for name in expected}, expected)

    def test_they_run(self) -> None:
        self.load("AceStepPipeline")
        self.assertGreater(seconds(self.sound(duration=1.0, **self.FIELDS)), 0.9)
        self.assertNotIn("ignored", self.message)

    def test_a_field_that_the_pipeline_lacks_is_ignored_with_a_note(self) -> None:
        self.load("AudioLDMPipeline")
        self.sound(**self.FIELDS)
        self.assertIn("this pipeline has no argument for bpm: it is ignored", self.message)

    def test_a_caption_stands_in_for_the_text_and_instrumental_for_lyrics(self) -> None:
        import backend_pb2
        from localai_diffusers.settings import Settings
        from localai_diffusers.wire import requests

        message = backend_pb2.SoundGenerationRequest(dst="/tmp/x.wav", caption="soft rain", instrumental=True)
        model, request = zoo_model("AceStepPipeline"), requests.from_sound_request(message, Settings())
        call = call_of(model, request)
        self.assertEqual((call.arguments["prompt"], call.arguments["lyrics"]), ("soft rain", "[Instrumental]"))
        self.assertEqual(call.notes, ())


class SourceTest(RpcCase):
    def test_a_given_sound_is_brought_to_the_models_rate_and_channels(self) -> None:
        for model in ("StableAudioPipeline", "AceStepPipeline"):
            self.load(model)
            for name in ("mono.wav", "stereo.wav"):
                with self.subTest(model, name=name):
                    self.assertGreater(seconds(self.sound(src=str(self.folder / name), duration=0.5)), 0.4)

    def test_a_model_that_takes_no_sound_says_so(self) -> None:
        self.load("AudioLDMPipeline")
        self.assertIn("AudioLDMPipeline takes no sound", self.refusal(self.sound, src=str(self.folder / "mono.wav")))

    def test_what_is_no_sound_is_refused(self) -> None:
        self.load("StableAudioPipeline")
        self.assertIn("src", self.refusal(self.sound, src=self.picture))

    def test_a_model_of_pictures_makes_no_sound(self) -> None:
        self.load("StableDiffusionPipeline")
        self.assertIn("SoundGeneration is for models that make audio", self.refusal(self.sound))


if __name__ == "__main__":
    unittest.main()
