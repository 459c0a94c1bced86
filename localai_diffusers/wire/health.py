# SPDX-License-Identifier: MIT
"""``grpc.health.v1``: what Kubernetes and load balancers ask, beside LocalAI's own Health."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

_CHECK = "/grpc.health.v1.Health/Check"


class HealthChecks(grpc.ServerInterceptor):
    """Answers ``Check`` by itself, before any guard: probes of Kubernetes send no token, and learn nothing but that
    the process serves."""

    def __init__(self) -> None:
        from grpc_health.v1 import health_pb2

        self._messages: Any = health_pb2

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        if details.method != _CHECK:
            return continuation(details)
        return grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=self._messages.HealthCheckRequest.FromString,
            response_serializer=self._messages.HealthCheckResponse.SerializeToString,
        )

    def _check(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.service not in ("", "backend.Backend"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return self._messages.HealthCheckResponse(status=self._messages.HealthCheckResponse.SERVING)
