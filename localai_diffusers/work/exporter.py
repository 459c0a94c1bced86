# SPDX-License-Identifier: MIT
"""Prometheus: what the operator counts, served by prometheus_client where LOCALAI_DIFFUSERS_METRICS_ADDR asks for it.

LocalAI's core starts one process a model, all in one environment, so an address may name a range of ports, or 0 for any
free one; every series carries the model.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from localai_diffusers.settings import parse_address

log = logging.getLogger(__name__)

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
_PREFIX = "localai_diffusers_"


class Exporter:
    """The series of one process. ``live``: (name, help, value) of what is read when it is asked for; ``model``: the
    label of now."""

    def __init__(self, model: Callable[[], str], live: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._model, self._live = model, live
        self.registry = CollectorRegistry()
        shared: Any = {"registry": self.registry}
        self._requests = Counter(_PREFIX + "requests", "RPCs by status", ("model", "rpc", "status"), **shared)
        self._latency = Histogram(
            _PREFIX + "request_seconds", "From request to answer", ("model", "rpc"), buckets=_SECONDS, **shared
        )
        self._queued = Histogram(
            _PREFIX + "queue_seconds", "Waiting for the pipeline", ("model", "rpc"), buckets=_SECONDS, **shared
        )
        self._steps = Counter(_PREFIX + "steps", "Inference steps", ("model",), **shared)
        self._loads = Histogram(_PREFIX + "load_seconds", "LoadModel", ("model",), buckets=_SECONDS, **shared)
        self._batches = Histogram(
            _PREFIX + "batch_size", "Requests in one call", ("model",), buckets=(1, 2, 4, 8, 16, 32, 64), **shared
        )
        self.registry.register(self)

    def answered(self, rpc: str, status: str, seconds: float) -> None:
        self._requests.labels(self._model(), rpc, status).inc()
        self._latency.labels(self._model(), rpc).observe(seconds)

    def ran(self, rpc: str, waited: float, steps: int) -> None:
        """A job that came to its turn, after so many seconds."""
        self._queued.labels(self._model(), rpc).observe(waited)
        self._steps.labels(self._model()).inc(steps)

    def loaded(self, seconds: float) -> None:
        self._loads.labels(self._model()).observe(seconds)

    def ran_together(self, count: int) -> None:
        self._batches.labels(self._model()).observe(count)

    def collect(self) -> Iterator[Any]:
        """prometheus_client's protocol of a collector: the live values."""
        from prometheus_client.core import GaugeMetricFamily

        families: dict[str, Any] = {}
        for name, help_text, value in self._live():
            series, _, part = name.partition(":")
            labels = ("model", "part") if part else ("model",)
            family = families.setdefault(series, GaugeMetricFamily(_PREFIX + series, help_text, labels=labels))
            family.add_metric([self._model(), part] if part else [self._model()], value)
        yield from families.values()


def resident_bytes() -> int:
    """Memory of this process, 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def serve(exporter: Exporter, address: str) -> int:
    """Serve the series at the first free port of ``address`` (``host:9100-9110``, ``host:0``, or a port of loopback).

    The port, 0 where none is free: that is a warning and never the end of the server.
    """
    from prometheus_client import start_http_server

    host, first, last = parse_address(address)
    for port in range(first, last + 1):
        try:
            server, _thread = start_http_server(port, host, exporter.registry)
        except OSError:
            continue
        log.info("metrics at http://%s:%d/metrics", host, server.server_port)
        return server.server_port
    log.warning("no port of %s is free: no metrics are served (LOCALAI_DIFFUSERS_METRICS_ADDR)", address)
    return 0
