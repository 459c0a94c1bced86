"""Logging to stderr: one format, a level from the environment, and known noise of the libraries left out."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import sys

# What the libraries say at every start and nobody can act on: (logger, a part of the message).
_NOISE = (
    # torch's CPU build has no matching torchvision; a pipeline that needs it gets an error that names it.
    ("transformers.utils.import_utils", "requires torchvision"),
)


def configure(level: str) -> None:
    """Send all logging to stderr at ``level``. Call before the libraries are imported: they read it then."""
    line = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=level, format=line)
    logging.captureWarnings(True)
    for name, text in _NOISE:
        logging.getLogger(name).addFilter(lambda record, text=text: text not in record.getMessage())
    if not sys.stderr.isatty():
        # Bars with carriage returns make one enormous line where the core reads lines.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def tell_of_crashes() -> None:
    """Have a crash in native code leave its stack on stderr, and as the last line what it was: "Segmentation
    fault".

    The core shows a dead backend's last line. faulthandler's own is a list of modules; then it hands over to
    the handler from before it, and that is libc's ``psignal``, which prints a signal's name. Its second
    argument, the text before the name, is the kernel's siginfo here: a byte with the signal's number, and a
    zero.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        set_handler = libc.sysv_signal  # once only: the default, death, is next
        set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
            set_handler(number, ctypes.cast(libc.psignal, ctypes.c_void_p))
    faulthandler.enable(all_threads=False)
