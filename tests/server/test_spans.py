# SPDX-License-Identifier: MIT
"""Spans of OpenTelemetry: a real server tells a real collector of each RPC, and nothing of what was asked."""

from __future__ import annotations

import threading
import time
import unittest
from concurrent import futures
from typing import Any
from unittest import mock

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from localai_diffusers.settings import Settings
from localai_diffusers.work import spans
from tests.support import SHAPES_MODEL, Backend

PROMPT = "a red circle on a blue background"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that are told to it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self._told = threading.Condition()
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request: Any, context: Any) -> Any:
        with self._told:
            self.spans += [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
            self._told.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, count: int) -> list[Any]:
        end = time.monotonic() + 30
        with self._told:
            while len(self.spans) < count and time.monotonic() < end:
                self._told.wait(1)
            return list(self.spans)


class SpansTest(unittest.TestCase):
    def test_each_rpc_is_a_span_with_its_status_under_the_callers_own(self) -> None:
        collector = Collector()
        self.addCleanup(collector.server.stop, 0)
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with Backend(**told) as backend:
            backend.load(SHAPES_MODEL)
            backend.image(PROMPT, width=64, height=64, step=2)
            with self.assertRaises(grpc.RpcError):
                backend.stub.GenerateImage(
                    self.refused(), metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "mine"))
                )
            found = collector.wait_for(3)
        self.assertEqual(
            [(span.name, self.of(span)["rpc.grpc.status_code"].int_value) for span in found],
            [
                ("backend.Backend/LoadModel", 0),
                ("backend.Backend/GenerateImage", 0),
                ("backend.Backend/GenerateImage", 3),
            ],
        )
        refused = found[-1]
        self.assertEqual((refused.trace_id.hex(), refused.parent_span_id.hex()), (TRACE, PARENT))
        self.assertEqual(self.of(refused)["localai.request_id"].string_value, "mine")
        self.assertGreater(found[1].end_time_unix_nano, found[1].start_time_unix_nano)
        self.assertNotIn("circle", str(found))

    def refused(self) -> Any:
        import backend_pb2

        return backend_pb2.GenerateImageRequest(positive_prompt=PROMPT, dst="", step=2)

    def of(self, span: Any) -> dict[str, Any]:
        return {one.key: one.value for one in span.attributes}

    def test_without_the_packages_a_warning_says_what_to_install(self) -> None:
        spans.set_up(Settings(spans_endpoint="http://127.0.0.1:1"))
        self.addCleanup(spans.set_up, Settings())
        with (
            mock.patch.dict("sys.modules", {"opentelemetry.sdk.trace": None}),
            self.assertLogs(spans.log, "WARNING") as said,
        ):
            spans.answered("Depth", (0, "OK"), 1.0, "id", {})
        self.assertIn("pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc", said.output[0])


if __name__ == "__main__":
    unittest.main()
