# SPDX-License-Identifier: MIT
"""A command in this process: its exit code, and what it wrote."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

from localai_diffusers.cli import __main__ as cli


class Said(NamedTuple):
    code: int
    out: str
    err: str


def command(*arguments: str) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(list(arguments))
        except SystemExit as end:  # argparse's
            code = int(end.code or 0)
    return Said(code, out.getvalue(), err.getvalue())
