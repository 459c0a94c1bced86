"""Logging to stderr: one format, a level from the environment, and known noise of the libraries left out."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import select
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


_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
# Of sigaction(2) on Linux: the handler is given a siginfo; it is in force once, then the default is: death.
_SIGINFO, _ONCE = 0x4, -0x80000000
_LOOK_SECONDS = 0.5


class _Action(ctypes.Structure):
    """glibc's and musl's ``struct sigaction``."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def tell_of_crashes() -> None:
    """Have a crash in native code leave its stack on stderr, and as the last line what it was: "Segmentation
    fault".

    The core shows a dead backend's last line. faulthandler's own is a list of modules; then it hands over to
    the handler from before it, and that is libc's ``psignal``, which prints a signal's name. Its second
    argument, the text before the name, is the kernel's siginfo here: a byte with the signal's number, and a
    zero. Nothing of Python's runs in all this. Elsewhere than on Linux there is the stack alone.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            action = _Action(handler=ctypes.cast(libc.psignal, ctypes.c_void_p), flags=_SIGINFO | _ONCE)
            for number in _FAULTS:
                libc.sigaction(number, ctypes.byref(action), None)
    faulthandler.enable(all_threads=False)


def wait_for_byte(descriptor: int) -> None:
    """Block until ``descriptor`` can be read from; end the process by a fault's signal that came from outside.

    A fault meets the default when its instruction is tried again. After a signal that somebody sent nothing is tried
    again, whatever thread it came to, so it is looked for now and then.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    while not select.select([descriptor], [], [], _LOOK_SECONDS)[0]:
        if libc is not None:
            _die_of_a_fault(libc)


def _die_of_a_fault(libc: ctypes.CDLL) -> None:
    """Do what a fault's signal does by default, if it was told of: its handler, in force once, is gone then."""
    for number in _FAULTS:
        action = _Action()
        libc.sigaction(number, None, ctypes.byref(action))
        if not action.handler:
            os.kill(os.getpid(), number)
