"""Logging to stderr: one format, a level from the environment, and known noise of the libraries left out."""
from __future__ import annotations

import logging
import os
import sys

# What the libraries say at every start and nobody can act on: (logger, a part of the message).
_NOISE = (
    # The CPU build of torch has no matching torchvision; a pipeline that needs it gets an error that names it.
    ("transformers.utils.import_utils", "requires torchvision"),
)


def configure(level: str) -> None:
    """Send all logging to stderr at ``level``. Call before the libraries are imported: they read their settings then."""
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    for name, text in _NOISE:
        logging.getLogger(name).addFilter(lambda record, text=text: text not in record.getMessage())
    if not sys.stderr.isatty():
        # Bars with carriage returns make one enormous line where the core reads lines.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
