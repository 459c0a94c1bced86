# SPDX-License-Identifier: MIT
"""Which threads answer which RPC: those that wait for a job never take the threads of those that do not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc

# RPCs that are answered at once, or within seconds; every other waits for a job.
_PROMPT_METHODS = frozenset(f"/backend.Backend/{name}" for name in ("Health", "Status", "GetMetrics", "Free"))
PROMPT_THREADS = 16


class WaitingPool(grpc.ServerInterceptor):
    """Runs every RPC that waits for a job on threads of their own, so that Health, Status and Free always find one.

    gRPC asks the behavior for its pool (``_select_thread_pool_for_behavior``, grpcio 1.85): the outermost handler is
    the one that it sees, so this goes first among the interceptors.
    """

    def __init__(self, threads: int) -> None:
        self._pool = futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="waiting")

    def intercept_service(
        self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or details.method in _PROMPT_METHODS:
            return handler
        behavior = functools.partial(handler.unary_unary)  # takes attributes, which a bound method does not
        behavior.experimental_thread_pool = self._pool  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(
            behavior,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
