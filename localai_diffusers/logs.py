# SPDX-License-Identifier: MIT
"""Logging to stderr: one format, a level from the environment, and known noise of the libraries left out."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import traceback
from contextvars import ContextVar

# The request that the running code works for: every line of the log carries it, the libraries' too.
request_id: ContextVar[str] = ContextVar("request_id", default="")
# What the libraries say at every start and nobody can act on: (logger, a part of the message).
_NOISE = (
    # torch's CPU build has no matching torchvision; a pipeline that needs it gets an error that names it.
    ("transformers.utils.import_utils", "requires torchvision"),
    # torchao's wheel carries kernels for one kind of GPU each; a scheme that lacks its kernels is refused by name.
    ("torchao", "Failed to load"),
    ("torchao.kernel.intmm", "Detected no triton"),
    # Of torchao's own use of torch, told once at its import.
    ("torch.utils._pytree", "is an Enum subclass"),
)


def _lacks(text: str, record: logging.LogRecord) -> bool:
    return text not in record.getMessage()


class _Text(logging.Formatter):
    """One line: time, level, logger, the request that it belongs to, the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(request)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        request = request_id.get()
        record.request = f"[{request}] " if request else ""
        return super().format(record)


class _Json(logging.Formatter):
    """One JSON object a line, for collectors of logs."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "request": request_id.get() or None,
            "message": record.getMessage(),
            "traceback": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in facts.items() if value is not None}, ensure_ascii=False)


def configure(level: str, form: str = "text") -> None:
    """Send all logging to stderr at ``level``, as ``text`` or ``json`` lines. Call before the libraries are imported:
    they read the level then."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(True)
    for name, text in _NOISE:
        logging.getLogger(name).addFilter(functools.partial(_lacks, text))
    if not sys.stderr.isatty():
        # Bars with carriage returns make one enormous line where the core reads lines.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def without_values(error: BaseException) -> str:
    """The traceback of ``error`` and of what it came from: places in the code and classes of errors.

    Not the errors' own texts, which may quote a prompt: those are logged at DEBUG alone.
    """
    told, seen = [], set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        told.append(
            "".join(traceback.format_tb(cause.__traceback__)) + f"{type(cause).__module__}.{type(cause).__name__}"
        )
        cause = cause.__cause__ or cause.__context__
    return "\nwhich came from:\n".join(told)
