# SPDX-License-Identifier: MIT
"""Metrics, Status and probes: what an operator scrapes and Kubernetes asks, of real servers."""

from __future__ import annotations

import re
import unittest
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import backend_pb2
from localai_diffusers.settings import parse_address
from tests.gated import GatedBackend, ServerCase, wait_until
from tests.support import Backend, free_port


def scraped(backend: Backend) -> str:
    """The text of the endpoint that the server's log names."""
    wait_until(lambda: "metrics at http://" in backend.log, 20, "no endpoint")
    url = re.search(r"metrics at (http://\S+)", backend.log)[1]
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


class MetricsTest(ServerCase):
    backend: GatedBackend

    @classmethod
    def setUpClass(cls) -> None:
        cls.port = free_port()
        cls.backend = GatedBackend(LOCALAI_DIFFUSERS_METRICS_ADDR=f"127.0.0.1:{cls.port}-{cls.port + 20}")
        cls.addClassCleanup(cls.backend.stop)
        cls.backend.load_shapes()

    def test_requests_steps_and_live_values_bear_the_model(self) -> None:
        self.backend.picture(step=3)
        with self.assertRaises(grpc.RpcError):
            self.backend.picture(width=-1)
        text = scraped(self.backend)
        model = r'model="[^"]*shapes-model"'
        self.assertRegex(text, rf'requests_total{{{model},rpc="GenerateImage",status="OK"}} [1-9]')
        self.assertRegex(text, rf'requests_total{{{model},rpc="GenerateImage",status="INVALID_ARGUMENT"}} 1.0')
        self.assertRegex(text, rf"steps_total{{{model}}} [1-9]")
        for series in (
            "queue_depth",
            "running",
            "request_seconds_bucket",
            "queue_seconds_bucket",
            "load_seconds_bucket",
        ):
            self.assertIn(f"localai_diffusers_{series}", text)
        self.assertRegex(text, rf'memory_bytes{{{model},part="process"}} [1-9]')

    def test_a_second_server_in_the_same_environment_takes_the_next_port(self) -> None:
        with Backend(LOCALAI_DIFFUSERS_METRICS_ADDR=f"127.0.0.1:{self.port}-{self.port + 20}") as other:
            self.assertIn("localai_diffusers_queue_depth", scraped(other))
            self.assertIn("localai_diffusers_queue_depth", scraped(self.backend))

    def test_two_servers_are_scraped_while_both_serve(self) -> None:
        with GatedBackend(LOCALAI_DIFFUSERS_METRICS_ADDR=f"127.0.0.1:{self.port}-{self.port + 20}") as other:
            other.load_shapes()
            both = (self.backend, other)
            for one in both:
                one.hold("step")
            calls = [one.start("held.png", step=2) for one in both]
            for one in both:
                one.wait_at("step")
            for one in both:
                self.assertRegex(scraped(one), r"localai_diffusers_running\{[^}]*\} 1\.0")
            for one in both:
                one.release("step")
            self.assertTrue(all(call.result().success for call in calls))

    def test_a_port_in_use_is_a_warning(self) -> None:
        with Backend(LOCALAI_DIFFUSERS_METRICS_ADDR=f"127.0.0.1:{self.backend.port}") as other:
            self.assertIn("no metrics are served", other.log)

    def test_steps_are_counted_from_the_start(self) -> None:
        before = self.backend.stub.GetMetrics(backend_pb2.MetricsRequest()).tokens_generated
        self.backend.picture(step=2)
        after = self.backend.stub.GetMetrics(backend_pb2.MetricsRequest())
        self.assertEqual(after.tokens_generated, before + 2)

    def test_status_tells_of_the_process_and_of_components(self) -> None:
        memory = self.backend.stub.Status(backend_pb2.HealthMessage()).memory
        self.assertGreater(memory.breakdown["process"], memory.breakdown["unet"])
        self.assertEqual(memory.total, sum(memory.breakdown[name] for name in ("unet", "vae", "text_encoder")))


class ProbeTest(unittest.TestCase):
    def test_check_needs_no_token_and_health_does(self) -> None:
        with Backend(LOCALAI_GRPC_AUTH_TOKEN="secret") as backend:
            stub = health_pb2_grpc.HealthStub(backend.channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
            with self.assertRaises(grpc.RpcError) as refused:
                backend.stub.Health(backend_pb2.HealthMessage(), timeout=10)
            self.assertIs(refused.exception.code(), grpc.StatusCode.UNAUTHENTICATED)


class AddressTest(unittest.TestCase):
    def test_forms(self) -> None:
        for text, found in (
            ("9100", ("127.0.0.1", 9100, 9100)),
            ("0.0.0.0:9100-9110", ("0.0.0.0", 9100, 9110)),
            ("[::1]:0", ("::1", 0, 0)),
        ):
            self.assertEqual(parse_address(text), found)

    def test_what_is_none(self) -> None:
        for text in ("host", "host:a", "host:2-1", "host:70000", ""):
            with self.assertRaises(ValueError):
                parse_address(text)


if __name__ == "__main__":
    unittest.main()
