# SPDX-License-Identifier: MIT
"""How a command speaks: lines on stdout, one line on stderr for what went wrong, and an exit code that tells.

0: done. 1: it could not be done. 2: the arguments are wrong. 130: cancelled. 141: whoever read the output left.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence

FAILED, WRONG, CANCELLED, NO_READER = 1, 2, 130, 141


class Fault(Exception):
    """What ends a command: its one line for the user, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """A line beside the output: stdout may be a picture."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def guarded(command: Callable[[], int]) -> int:
    """The exit code of ``command``; how it ends is a line, never a traceback, save for a fault of our own."""
    from localai_diffusers.errors import BackendError, one_line

    try:
        return command()
    except Fault as fault:
        tell(f"error: {fault}" if fault.code != CANCELLED else str(fault))
        return fault.code
    except BackendError as error:
        tell(f"error: {one_line(error)}")
        return FAILED
    except KeyboardInterrupt:
        tell("Cancelled")
        return CANCELLED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end, and would say that it cannot.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text; on a terminal no line is longer than that is wide."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return "\n".join(_fitted(line.rstrip() for line in lines))


def _fitted(lines: Iterable[str]) -> list[str]:
    if not sys.stdout.isatty():
        return list(lines)
    width = shutil.get_terminal_size().columns
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines]
