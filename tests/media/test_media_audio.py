# SPDX-License-Identifier: MIT
"""Promises of localai_diffusers.media.audio: the same sound comes back, at the rate and length it had."""

from __future__ import annotations

import tempfile
import unittest
import wave
from pathlib import Path

import av
import numpy as np

from localai_diffusers.errors import GenerationFailed, InvalidRequest
from localai_diffusers.media import audio
from localai_diffusers.media.audio import AudioTrack


def tone(rate: int = 16_000, channels: int = 1, seconds: float = 1.0, hertz: float = 440.0) -> AudioTrack:
    wave_form = 0.5 * np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * hertz / rate)
    return AudioTrack(np.repeat(wave_form[np.newaxis], channels, axis=0).astype(np.float32), rate)


def pitch(track: AudioTrack) -> float:
    spectrum = np.abs(np.fft.rfft(track.samples[0]))
    return float(np.argmax(spectrum) * track.rate / track.samples.shape[1])


class Sound(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.path = Path(holder.name, "sound.tmp")

    def read(self, rate: int | None = None, max_seconds: float = 10) -> AudioTrack:
        return audio.read_audio(self.path, "audio", rate, max_seconds=max_seconds)

    def test_the_extension_chooses_the_container_and_else_wav(self) -> None:
        cases = {
            "a.wav": "wav",
            "a.tmp": "wav",
            "a": "wav",
            "a.FLAC": "flac",
            "a.ogg": "ogg",
            "a.opus": "opus",
            "a.mp3": "mp3",
            "a.png": "wav",
        }
        for dst, container in cases.items():
            self.assertEqual(audio.audio_container(dst), container)

    def test_wav_is_sixteen_bit_pcm_at_the_tracks_rate(self) -> None:
        track = tone(22_050, channels=2)
        audio.encode_audio(track, self.path, "wav")
        with wave.open(str(self.path)) as source:
            self.assertEqual(source.getparams()[:4], (2, 2, 22_050, 22_050))
        self.assertLess(np.abs(self.read().samples - track.samples).max(), 1e-4)

    def test_loud_samples_are_clipped_not_wrapped(self) -> None:
        audio.encode_audio(AudioTrack(np.array([[2.0, -2.0, 0.0] * 100], np.float32), 8_000), self.path, "wav")
        got = self.read().samples[0]
        self.assertGreater(got[0], 0.99)
        self.assertLess(got[1], -0.99)

    def test_every_container_keeps_pitch_length_and_channels(self) -> None:
        kept = {"wav": 44_100, "flac": 44_100, "ogg": 48_000, "opus": 48_000, "mp3": 44_100}
        for container, rate in kept.items():
            for channels in (1, 2):
                audio.encode_audio(tone(44_100, channels), self.path, container)
                got = self.read()
                self.assertEqual((got.rate, len(got.samples)), (rate, channels), container)
                self.assertAlmostEqual(got.seconds, 1.0, delta=0.08)
                self.assertAlmostEqual(pitch(got), 440, delta=5)

    def test_flac_is_lossless_to_sixteen_bits(self) -> None:
        audio.encode_audio(tone(), self.path, "flac")
        self.assertLess(np.abs(self.read().samples - tone().samples).max(), 1e-4)

    def test_reading_resamples_to_the_wanted_rate(self) -> None:
        audio.encode_audio(tone(44_100, 2), self.path, "wav")
        got = self.read(16_000)
        self.assertEqual((got.rate, got.samples.dtype, len(got.samples)), (16_000, np.float32, 2))
        self.assertAlmostEqual(got.seconds, 1.0, delta=0.01)
        self.assertAlmostEqual(pitch(got), 440, delta=3)

    def test_more_than_two_channels_are_mixed_for_the_compressed_formats(self) -> None:
        audio.encode_audio(tone(16_000, 4), self.path, "flac")
        self.assertEqual(len(self.read().samples), 1)

    def test_bytes_are_read_like_files(self) -> None:
        audio.encode_audio(tone(), self.path, "flac")
        got = audio.read_audio(self.path.read_bytes(), "audio", None, max_seconds=10)
        self.assertEqual(got.samples.shape, (1, 16_000))

    def test_nothing_to_write_is_an_error(self) -> None:
        with self.assertRaises(GenerationFailed):
            audio.encode_audio(AudioTrack(np.zeros((1, 0), np.float32), 8_000), self.path, "wav")

    def test_too_long_a_sound_is_refused(self) -> None:
        audio.encode_audio(tone(seconds=3), self.path, "wav")
        with self.assertRaisesRegex(InvalidRequest, "audio: .* longer than 2 s"):
            self.read(max_seconds=2)

    def test_broken_files_silent_pictures_and_playlists_are_refused(self) -> None:
        audio.encode_audio(tone(), self.path, "mp3")
        playlist = f"#EXTM3U\n#EXTINF:1,\nfile://{self.path}\n#EXT-X-ENDLIST\n".encode()
        for bad in (b"text " * 100, b"RIFF", np.random.default_rng(0).bytes(3000), playlist):
            with self.assertRaisesRegex(InvalidRequest, "audio: the payload"):
                audio.read_audio(bad, "audio", None, max_seconds=5)
        with av.open(str(self.path), "w", format="mp4") as output:
            stream = output.add_stream("libx264", rate=8)
            stream.width = stream.height = 16
            output.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
            output.mux(stream.encode(None))
        with self.assertRaisesRegex(InvalidRequest, "no sound"):
            self.read()

    def test_a_rate_that_would_blow_up_is_refused(self) -> None:
        audio.encode_audio(tone(rate=10, seconds=100), self.path, "wav")
        with self.assertRaisesRegex(InvalidRequest, "10 samples a second"):
            self.read(48_000, max_seconds=1000)


if __name__ == "__main__":
    unittest.main()
