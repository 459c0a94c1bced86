# SPDX-License-Identifier: MIT
"""The frame of every RPC: its request id, its line in the log, its status, and what is counted of it."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from localai_diffusers import errors, logs
from localai_diffusers.work import spans

if TYPE_CHECKING:
    from localai_diffusers.work.exporter import Exporter

log = logging.getLogger("backend")

_METHODS = {"ModelOptions": "LoadModel"}  # the others' messages are called as the RPCs
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")  # of a caller: it goes into the log


class Frame:
    """One RPC from its first line to its answer. Its lines in the log bear the caller's ``x-request-id``, else one of
    ours."""

    def __init__(self, request: Any, context: grpc.ServicerContext, exporter: Exporter | None = None) -> None:
        self._headers = {key: text for key, text in context.invocation_metadata() or () if isinstance(text, str)}
        given = self._headers.get("x-request-id", "")
        logs.request_id.set(given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(4))
        message = type(request).__name__
        self.name = _METHODS.get(message, message.removesuffix("Request"))
        self._context, self._exporter, self._began = context, exporter, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def succeeded(self) -> None:
        self.answered("OK")

    def abort(self, error: errors.BackendError) -> NoReturn:
        """End the RPC with the status that the one table says, and tell it. An INTERNAL error's text is all that an
        HTTP user sees: it names the request, whose lines in the log tell the rest."""
        code, message = errors.status_name(error), errors.status_message(error)
        log.warning("%s ended with %s: %s", self.name, code, errors.logged(error))
        self.answered(code)
        if code == "INTERNAL":
            message = f"{message} (request {logs.request_id.get()}: see the backend's log)"
        self._context.abort(getattr(grpc.StatusCode, code), message)
        raise AssertionError("abort raises")

    def answered(self, code: str) -> None:
        """Count the RPC, which ends with the status ``code``, and tell its span."""
        if self._exporter is not None:
            self._exporter.answered(self.name, code, self.seconds)
        number = getattr(grpc.StatusCode, code).value[0]
        spans.answered(self.name, (number, code), self.seconds, logs.request_id.get(), self._headers)
