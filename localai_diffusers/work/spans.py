# SPDX-License-Identifier: MIT
"""A span of OpenTelemetry for each RPC, where its SDK is installed and its own variables name a collector."""

from __future__ import annotations

import functools
import importlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from localai_diffusers.settings import Settings

log = logging.getLogger(__name__)

_SERVICE = "backend.Backend"
_settings = Settings()


def set_up(settings: Settings) -> None:
    """Where spans go from now on; nowhere, where no collector is named."""
    global _settings
    _settings = settings
    _tracer.cache_clear()


def answered(method: str, status: tuple[int, str], seconds: float, request_id: str, headers: Mapping[str, str]) -> None:
    """Tell of an RPC that ended now, with its gRPC ``status`` (number and name). ``headers``: its metadata, of which a
    ``traceparent`` is the span that it belongs to. No word of the request is told."""
    tracer = _tracer()
    if tracer is None:
        return
    from opentelemetry import propagate, trace

    number, name = status
    span = tracer.start_span(
        f"{_SERVICE}/{method}",
        context=propagate.extract(headers),
        kind=trace.SpanKind.SERVER,
        start_time=time.time_ns() - int(seconds * 1e9),
        attributes={
            "rpc.system": "grpc",
            "rpc.service": _SERVICE,
            "rpc.method": method,
            "rpc.grpc.status_code": number,
            "localai.request_id": request_id,
        },
    )
    if number:
        span.set_status(trace.StatusCode.ERROR, name)
    span.end()


@functools.cache
def _tracer() -> Any:
    """None where no collector is named, and where the packages are not there."""
    if not _settings.spans_endpoint:
        return None
    way = _settings.spans_protocol.partition("/")[0]
    try:
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        exporter = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{way}.trace_exporter")
    except ImportError as error:
        log.warning("no spans: %s (pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-%s)", error, way)
        return None
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.BatchSpanProcessor(exporter.OTLPSpanExporter()))
    return provider.get_tracer("localai_diffusers")
