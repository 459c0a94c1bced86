# SPDX-License-Identifier: MIT
"""Sound: read what users send as float samples, write WAV, FLAC, OGG (Opus) or MP3, through PyAV."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from localai_diffusers.errors import BackendError, GenerationFailed, InvalidRequest
from localai_diffusers.media.comments import append_riff_comment
from localai_diffusers.media.containers import open_output, open_payload
from localai_diffusers.media.files import DEFAULT_MAX_BYTES, read_regular_file, shown
from localai_diffusers.media.tracks import AudioTrack

__all__ = [
    "AAC_RATES",
    "AudioTrack",
    "add_audio_stream",
    "audio_container",
    "encode_audio",
    "encoded_packets",
    "read_audio",
]


@dataclass(frozen=True)
class _Format:
    """How PyAV names a container and its codec, the sample format and the rates that the codec takes."""

    container: str
    codec: str
    sample_format: str
    rates: tuple[int, ...] = ()


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_FORMATS = {
    "flac": _Format("flac", "flac", "s16"),
    "ogg": _Format("ogg", "libopus", "flt", _OPUS_RATES),
    "opus": _Format("ogg", "libopus", "flt", _OPUS_RATES),
    "mp3": _Format("mp3", "libmp3lame", "fltp", _MP3_RATES),
}
_LAYOUTS = {1: "mono", 2: "stereo"}
_BLOCK = 1 << 15  # samples handed to an encoder at a time
_SLOWEST_SOURCE = 1000  # Hz: a file of 1 Hz would grow by the factor of the wanted rate


def audio_container(dst: str) -> str:
    """ "flac", "ogg", "opus" or "mp3" where ``dst`` ends so, else "wav"."""
    extension = Path(dst).suffix.lower().removeprefix(".")
    return extension if extension in _FORMATS else "wav"


def encode_audio(track: AudioTrack, path: Path, container: str, comment: str = "") -> None:
    """Write ``track`` to ``path`` as ``container``: 16-bit samples, clipped to -1..1, at the track's own
    rate; ``comment`` among its tags.

    Opus and MP3 know few rates: the sound is resampled to the next one up. More than two channels become one.
    """
    if not track.samples.size:
        raise GenerationFailed("the pipeline returned a sound without samples; ask for a longer one")
    if container == "wav":
        return _write_wav(track, path, comment)
    target = _FORMATS[container]
    with open_output(path, target.container, comment=comment) as output:
        stream = add_audio_stream(output, target.codec, track, target.rates)
        for packet in encoded_packets(stream, track, target.sample_format):
            output.mux(packet)


def to_sixteen_bits(samples: np.ndarray) -> np.ndarray:
    """Float samples as int16, clipped, never wrapped."""
    return np.rint(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")


def _write_wav(track: AudioTrack, path: Path, comment: str) -> None:
    with open(path, "wb") as file, wave.open(file, "wb") as sink:
        sink.setnchannels(len(track.samples))
        sink.setsampwidth(2)
        sink.setframerate(track.rate)
        sink.writeframes(np.ascontiguousarray(to_sixteen_bits(track.samples).T).tobytes())
    if comment:
        append_riff_comment(path, comment)


def add_audio_stream(output: Any, codec: str, track: AudioTrack, rates: tuple[int, ...] = ()) -> Any:
    """A stream of ``codec`` for ``track`` in the open PyAV container ``output``, at the nearest rate up."""
    rate = next((rate for rate in rates if rate >= track.rate), rates[-1]) if rates else track.rate
    stream = output.add_stream(codec, rate=rate)
    stream.layout = _LAYOUTS.get(len(track.samples), "mono")
    return stream


def encoded_packets(stream: Any, track: AudioTrack, sample_format: str) -> Iterator[Any]:
    """The packets of ``track`` encoded by ``stream``, resampled to the stream's rate and format, flushed."""
    samples = track.samples if len(track.samples) in _LAYOUTS else track.samples.mean(axis=0, keepdims=True)
    samples = np.clip(samples, -1.0, 1.0).astype(np.float32)
    resampler = av.AudioResampler(
        format=sample_format, layout=stream.layout, rate=stream.rate, frame_size=stream.frame_size or None
    )
    for start in range(0, samples.shape[1], _BLOCK):
        block = np.ascontiguousarray(samples[:, start : start + _BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=_LAYOUTS[len(block)])
        frame.sample_rate, frame.pts = track.rate, start
        for resampled in resampler.resample(frame):
            yield from stream.encode(resampled)
    for resampled in resampler.resample(None):
        yield from stream.encode(resampled)
    yield from stream.encode(None)


def read_audio(
    data: bytes | str | Path,
    field: str,
    rate: int | None = None,
    *,
    max_seconds: float,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> AudioTrack:
    """The sound in ``data`` (bytes, or the path of a file), resampled to ``rate`` Hz if given; one or two
    channels.

    A video's sound track is taken too. Raises InvalidRequest naming ``field`` for what holds no sound, is
    broken, or plays longer than ``max_seconds``.
    """
    name = f"{field}: the payload" if isinstance(data, bytes) else f"{field}: {shown(data)}"
    content = data if isinstance(data, bytes) else read_regular_file(data, field, max_bytes)
    try:
        with open_payload(content) as source:
            if not source.streams.audio:
                raise InvalidRequest(f"{name} has no sound; send a WAV, FLAC, OGG, MP3 or AAC file")
            return _decoded(source, name, rate, max_seconds)
    except (BackendError, MemoryError):
        raise
    except Exception as error:  # PyAV raises a class of its own for every errno, and ValueError
        raise InvalidRequest(
            f"{name} isn't a sound that can be read ({error}); send a whole WAV, FLAC, OGG or MP3 file"
        ) from error


def _decoded(source: Any, name: str, rate: int | None, max_seconds: float) -> AudioTrack:
    stream = source.streams.audio[0]
    if stream.rate < _SLOWEST_SOURCE:
        raise InvalidRequest(f"{name} has {stream.rate} samples a second; send a sound of at least {_SLOWEST_SOURCE}")
    rate = rate or stream.rate
    resampler = av.AudioResampler(format="fltp", layout=_LAYOUTS.get(stream.channels, "stereo"), rate=rate)
    blocks, count = [], 0
    for frame in _with_end(source.decode(stream)):
        for resampled in resampler.resample(frame):
            blocks.append(resampled.to_ndarray())
            count += blocks[-1].shape[1]
        if count > max_seconds * rate:
            raise InvalidRequest(f"{name} plays longer than {max_seconds:g} s; send a shorter sound")
    if not count:
        raise InvalidRequest(f"{name} has no samples; send a sound that isn't empty")
    return AudioTrack(np.concatenate(blocks, axis=1).astype(np.float32), rate)


def _with_end(frames: Iterator[Any]) -> Iterator[Any]:
    """``frames``, then None: what a PyAV resampler takes as the end."""
    yield from frames
    yield None
