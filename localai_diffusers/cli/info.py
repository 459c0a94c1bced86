# SPDX-License-Identifier: MIT
"""``info``: what a file that the backend made says of itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from localai_diffusers.cli import model_yaml
from localai_diffusers.cli.terminal import WRONG, Fault, say

# Tags of whatever wrote the container, not of what is in it.
_WRITERS = ("major_brand", "minor_version", "compatible_brands", "encoder")


def add(commands: Any) -> None:
    parser = commands.add_parser("info", help="what made a picture, a clip or a sound, as the file says")
    parser.add_argument("file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    path = Path(options.file).expanduser()
    if not path.is_file():
        raise Fault(f"there is no file {options.file}. {model_yaml.nearest(path)}".rstrip(), WRONG)
    found = _of_picture(path)
    text = _of_media(path) if found is None else found
    if text is None:
        raise Fault(f"{options.file} is no picture, clip or sound")
    if not text:
        raise Fault(f"{options.file} says nothing of how it was made")
    say(text)
    return 0


def _of_picture(path: Path) -> str | None:
    """The ``parameters`` text: a chunk of PNG, the EXIF comment of JPEG and WebP; None for what is no picture."""
    from PIL import ExifTags, Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            text = picture.info.get("parameters")
            comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except (UnidentifiedImageError, OSError):
        return None
    if text or not isinstance(comment, bytes):
        return str(text or "")
    return comment.removeprefix(b"UNICODE\0").decode("utf-16-be", errors="replace")


def _of_media(path: Path) -> str | None:
    """The container's tags, a line each; None for what is no clip or sound."""
    import av

    try:
        with av.open(str(path)) as container:
            said = {key: value for key, value in container.metadata.items() if key.lower() not in _WRITERS}
    except (av.FFmpegError, OSError):
        return None
    return "\n".join(f"{key}: {value}" for key, value in said.items())
