# SPDX-License-Identifier: MIT
"""Environment variables, read once at start and checked there: a bad one ends the start with its name and value.

Each row of :data:`VARIABLES` is one variable; the README's table is made from the same rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

METADATA_MODES = ("default", "full", "off")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in _TRUE + _FALSE:
        raise ValueError(f"must be one of {', '.join(_TRUE + _FALSE[1:])}")
    return lowered in _TRUE


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError("must be a number above 0")
    return number


def _choice(*values: str, upper: bool = False) -> Callable[[str], str]:
    def read(text: str) -> str:
        word = text.strip().upper() if upper else text.strip().lower()
        if word not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return word

    return read


def parse_address(text: str) -> tuple[str, int, int]:
    """Host, first and last port. Raises ValueError for what is none."""
    host, _, ports = text.strip().rpartition(":")
    first, _, last = ports.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise ValueError("must be a port, host:port, host:first-last, or host:0")
    bounds = int(first), int(last or first)
    if not 0 <= bounds[0] <= bounds[1] <= 65535:
        raise ValueError("ports lie between 0 and 65535, the first before the last")
    return host.strip("[]") or "127.0.0.1", *bounds


def _address(text: str) -> str:
    parse_address(text)
    return text.strip()


@dataclass(frozen=True)
class Settings:
    """What the environment says, typed. Defaults here are the defaults of the product."""

    max_workers: int = 1
    log_level: str = "INFO"
    log_format: str = "text"
    metrics_addr: str = ""
    spans_endpoint: str = ""
    spans_protocol: str = "grpc"
    auth_token: str = ""
    reflection: bool = False
    device: str = ""
    auto: bool = True
    metadata: str = "default"
    max_queue: int = 64
    max_pixels: int = 4096 * 4096
    max_source_pixels: int = 8192 * 8192
    max_source_bytes: int = 256 * 2**20
    max_source_memory: int = 4 * 2**30
    max_frames: int = 2048
    max_steps: int = 1000
    max_prompt_bytes: int = 32 * 1024
    max_audio_seconds: float = 600.0
    compel: bool = False
    sd_embed: bool = False
    xpu: bool = False
    clip_skip: bool = True
    safetensors: bool = True
    chunk_size: int = 8
    fps: int = 7
    frames: int | None = None
    disable_cpu_offload: bool = False
    bfl_repo: str = "ChuckMcSneed/FLUX.1-dev"
    parent_watch: bool = True
    parent_watch_interval: float = 2.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read every row of :data:`VARIABLES`.

        Raises ValueError naming the variable, its value and what it may be.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for row in VARIABLES:
            text = environ.get(row.name)
            if text is None or text == "":
                continue
            try:
                values[row.field] = row.read(text)
            except ValueError as error:
                shown = "***" if row.secret else repr(text)
                raise ValueError(f"environment variable {row.name}={shown}: {error}") from None
        return cls(**values)


class Variable(NamedTuple):
    """One environment variable: its name, the field it fills, how it is read, and what it means."""

    name: str
    field: str
    read: Callable[[str], Any]
    meaning: str
    secret: bool = False


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "PYTHON_GRPC_MAX_WORKERS",
        "max_workers",
        _positive,
        "Least number of gRPC threads. Jobs on the pipeline are serialized whatever it says.",
    ),
    Variable(
        "LOCALAI_DIFFUSERS_LOG_LEVEL",
        "log_level",
        _choice(*LOG_LEVELS, upper=True),
        "Level of the log on stderr; above INFO a terminal has no bars of progress either.",
    ),
    Variable("LOCALAI_DIFFUSERS_LOG_FORMAT", "log_format", _choice("text", "json"), "Lines of the log: text or json."),
    Variable(
        "LOCALAI_DIFFUSERS_METRICS_ADDR",
        "metrics_addr",
        _address,
        "Prometheus endpoint: host:port, host:first-last, host:0 for any free port, or a port of loopback.",
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "spans_endpoint",
        str.strip,
        "OpenTelemetry's collector, a URL: each RPC is a span. Its SDK's other variables hold too.",
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "spans_protocol",
        _choice("grpc", "http/protobuf"),
        "How spans are sent: grpc or http/protobuf.",
    ),
    Variable("LOCALAI_GRPC_AUTH_TOKEN", "auth_token", str, "Bearer token that every RPC must carry.", secret=True),
    Variable(
        "LOCALAI_DIFFUSERS_REFLECTION",
        "reflection",
        _flag,
        "1 lets clients such as grpcurl ask which RPCs there are, with the token if there is one.",
    ),
    Variable("LOCALAI_DIFFUSERS_DEVICE", "device", str.strip, "Device for every model: cpu, cuda, cuda:1, xpu, mps."),
    Variable(
        "LOCALAI_DIFFUSERS_AUTO",
        "auto",
        _flag,
        "0 turns `options: auto:` off where a model's YAML does not say it: nothing is chosen by size and machine.",
    ),
    Variable(
        "LOCALAI_DIFFUSERS_METADATA",
        "metadata",
        _choice(*METADATA_MODES),
        "What a file says of how it was made: `default` without prompts, `full` with them, `off`.",
    ),
    Variable("LOCALAI_DIFFUSERS_MAX_QUEUE", "max_queue", _positive, "Jobs that may wait; one more is refused at once."),
    Variable("LOCALAI_DIFFUSERS_MAX_PIXELS", "max_pixels", _positive, "Largest width x height of an output."),
    Variable(
        "LOCALAI_DIFFUSERS_MAX_SOURCE_PIXELS",
        "max_source_pixels",
        _positive,
        "Largest width x height of a picture that comes in.",
    ),
    Variable(
        "LOCALAI_DIFFUSERS_MAX_SOURCE_BYTES", "max_source_bytes", _positive, "Largest file that is read as an input."
    ),
    Variable(
        "LOCALAI_DIFFUSERS_MAX_SOURCE_MEMORY",
        "max_source_memory",
        _positive,
        "Bytes that the decoded inputs of all requests may take, those that wait included.",
    ),
    Variable("LOCALAI_DIFFUSERS_MAX_FRAMES", "max_frames", _positive, "Most frames of a video."),
    Variable("LOCALAI_DIFFUSERS_MAX_STEPS", "max_steps", _positive, "Most inference steps of a request."),
    Variable("LOCALAI_DIFFUSERS_MAX_PROMPT_BYTES", "max_prompt_bytes", _positive, "Longest prompt, in UTF-8 bytes."),
    Variable("LOCALAI_DIFFUSERS_MAX_AUDIO_SECONDS", "max_audio_seconds", _positive_float, "Longest audio, in seconds."),
    Variable("COMPEL", "compel", _flag, "Weighted, long prompts by compel (SD, XL, Flux, Sana, Lumina 2)."),
    Variable("SD_EMBED", "sd_embed", _flag, "Weighted, long prompts by sd_embed, if installed (SD, XL, SD3, Flux)."),
    Variable("XPU", "xpu", _flag, "Prefer an Intel XPU as the accelerator."),
    Variable("CLIPSKIP", "clip_skip", _flag, "0 ignores clip_skip altogether."),
    Variable("SAFETENSORS", "safetensors", _flag, "0 allows weights that are not safetensors (pickles run code)."),
    Variable("CHUNK_SIZE", "chunk_size", _positive, "decode_chunk_size of pipelines that have one."),
    Variable("FPS", "fps", _positive, "Frame rate of a video made through GenerateImage."),
    Variable(
        "FRAMES",
        "frames",
        _positive,
        "Frames of a video for which neither the request nor the model's options name a number.",
    ),
    Variable("DISABLE_CPU_OFFLOAD", "disable_cpu_offload", _flag, "1 turns the offload of low_vram off."),
    Variable("BFL_REPO", "bfl_repo", str.strip, "Base repo or folder of the quantized FluxTransformer2DModel path."),
    Variable("LOCALAI_BACKEND_PARENT_WATCH", "parent_watch", _flag, "0 lets the process outlive its parent."),
    Variable(
        "LOCALAI_BACKEND_PARENT_WATCH_INTERVAL",
        "parent_watch_interval",
        _positive_float,
        "Seconds between two looks at the parent.",
    ),
)
