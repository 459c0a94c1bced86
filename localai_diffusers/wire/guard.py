# SPDX-License-Identifier: MIT
"""Who may call (bearer token), for which model (ModelIdentity), and whether our parent still lives.

Inside LocalAI's tree its own ``common/grpc_auth.py`` does all three, so that they stay LocalAI's; alone, this room
does what the core's contract says of them.
"""

from __future__ import annotations

import hmac
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from localai_diffusers.errors import ModelMismatch
from localai_diffusers.media import files
from localai_diffusers.settings import Settings

log = logging.getLogger(__name__)

_LOAD_METHOD = "/backend.Backend/LoadModel"


def interceptors(settings: Settings, loaded_identity: Callable[[], str], home: Path) -> list[grpc.ServerInterceptor]:
    """LocalAI's interceptors where its ``common`` folder is at hand, else ours. Arms the parent watch either way.

    ``home`` is the folder of backend.py; ``loaded_identity`` gives the Model of the last successful load, or "".
    """
    shared = _localai_common(home)
    if shared is not None:
        return list(shared.get_auth_interceptors())
    if settings.parent_watch:
        watch_parent(settings.parent_watch_interval)
    ours: list[grpc.ServerInterceptor] = [TokenInterceptor(settings.auth_token)] if settings.auth_token else []
    return [*ours, IdentityInterceptor(loaded_identity)]


def _localai_common(home: Path) -> Any | None:
    """LocalAI's ``grpc_auth`` module: ``common`` stands beside backend.py in an image, one level up in the tree."""
    for folder in (home / "common", home.parent / "common"):
        if (folder / "grpc_auth.py").is_file():
            sys.path.insert(0, str(folder))
            return importlib.import_module("grpc_auth")
    return None


class TokenInterceptor(grpc.ServerInterceptor):
    """Refuses every RPC, Health too, that lacks ``authorization: Bearer <token>``."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def intercept_service(
        self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        given = dict(details.invocation_metadata).get("authorization", "")
        given = given if isinstance(given, bytes) else str(given).encode()
        handler = continuation(details)
        if hmac.compare_digest(given, self._expected):
            return handler
        return _of_its_kind(handler, _refuse_token)


def _refuse_token(_request: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid token")


def _of_its_kind(handler: grpc.RpcMethodHandler | None, behavior: Callable[..., Any]) -> grpc.RpcMethodHandler:
    """A handler for calls of the same kind, unary or streams, that does ``behavior``: one of another kind would read
    the call's messages wrongly. Of a call that nothing handles, a unary one."""
    if handler is not None and handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(behavior)
    if handler is not None and handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(behavior)
    if handler is not None and handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(behavior)
    return grpc.unary_unary_rpc_method_handler(behavior)


class IdentityInterceptor(grpc.ServerInterceptor):
    """Refuses a request whose ModelIdentity names another model than the loaded one; empty on a side is accepted."""

    def __init__(self, loaded_identity: Callable[[], str]) -> None:
        self._loaded_identity = loaded_identity

    def intercept_service(
        self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        handler = continuation(details)
        if handler is None or handler.request_streaming or details.method == _LOAD_METHOD:
            return handler  # a stream of requests names no model before it is read
        kind = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return kind(
            self._guarded(handler.unary_stream or handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guarded(self, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            requested, loaded = getattr(request, "ModelIdentity", ""), self._loaded_identity()
            if requested and loaded and requested != loaded:
                context.abort(grpc.StatusCode.NOT_FOUND, str(ModelMismatch(loaded, requested)))
            return behavior(request, context)

        return guarded


def watch_parent(interval: float) -> threading.Thread:
    """End this process when its parent dies, looking every ``interval`` seconds.

    A dead parent leaves us to init or a subreaper, so a changed ppid is the sign. ``os._exit``: nothing of ours may
    hold up the exit of an orphan (a running generation would).
    """
    parent = os.getppid()

    def look() -> None:
        pause = threading.Event()
        while not pause.wait(interval):
            if os.getppid() != parent:
                log.error("the parent process %d is gone: exiting", parent)
                files.discard_unfinished()
                logging.shutdown()
                os._exit(1)

    thread = threading.Thread(target=look, name="parent-watch", daemon=True)
    thread.start()
    return thread
