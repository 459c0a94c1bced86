"""Logging to stderr: one format, a level from the environment, and known noise of the libraries left out."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback

# What the libraries say at every start and nobody can act on: (logger, a part of the message).
_NOISE = (
    # torch's CPU build has no matching torchvision; a pipeline that needs it gets an error that names it.
    ("transformers.utils.import_utils", "requires torchvision"),
)


def _lacks(text: str, record: logging.LogRecord) -> bool:
    return text not in record.getMessage()


def configure(level: str) -> None:
    """Send all logging to stderr at ``level``. Call before the libraries are imported: they read it then."""
    line = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=level, format=line)
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
