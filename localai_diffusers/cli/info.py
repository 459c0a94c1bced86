# SPDX-License-Identifier: MIT
"""``info``: what a file that the backend made says of itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from localai_diffusers.cli import model_yaml
from localai_diffusers.cli.terminal import WRONG, Fault, say
from localai_diffusers.media import comments


def add(commands: Any) -> None:
    parser = commands.add_parser("info", help="what made a picture, a clip or a sound, as the file says")
    parser.add_argument("file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    path = Path(options.file).expanduser()
    if not path.is_file():
        raise Fault(f"there is no file {options.file}. {model_yaml.nearest(path)}".rstrip(), WRONG)
    text = comments.read(path)
    if text is None:
        raise Fault(f"{options.file} is no picture, clip, sound or mesh")
    if not text:
        raise Fault(f"{options.file} says nothing of how it was made")
    say(text)
    return 0
