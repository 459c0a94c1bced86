# SPDX-License-Identifier: MIT
"""``python -m localai_diffusers.cli``: the arguments, and the command that they name."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import NoReturn

from localai_diffusers.cli import check, demo, environment, generate, info, pipelines, serve, server, show
from localai_diffusers.cli.terminal import WRONG, guarded, tell

COMMANDS = (generate, serve, check, show, pipelines, info, demo, environment)


class _Parser(argparse.ArgumentParser):
    """A wrong argument is one line, as every other fault."""

    def error(self, message: str) -> NoReturn:
        tell(f"error: {message} ({self.prog} --help says what there is)")
        raise SystemExit(WRONG)


def parser_of(arguments: list[str] | None = None) -> argparse.ArgumentParser:
    """What reads the arguments of every command; they are asked only whether a version is wanted."""
    parser = _Parser(
        prog="python -m localai_diffusers", description="LocalAI's diffusers backend, for a person at a terminal"
    )
    parser.add_argument(
        "--version", action="version", version=_version() if "--version" in (arguments or sys.argv) else ""
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parser = parser_of(arguments)
    options, rest = parser.parse_known_args(arguments)
    # argparse gives a command's words up at the first option among them.
    if rest and (any(word.startswith("-") for word in rest) or not hasattr(options, "words")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.words += rest
    return guarded(lambda: options.run(options))


def _version() -> str:
    """The commit, since the project has no versions of its own, and that of diffusers."""
    asked = ["git", "-C", str(server.HOME), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found = "of no known commit"
    return f"localai-diffusers {found}, diffusers {environment.version_of('diffusers')}"


if __name__ == "__main__":
    sys.exit(main())
