# SPDX-License-Identifier: MIT
"""The text by which a file says how it was made: where each format keeps it, and how it is read again."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def text_of(metadata: Mapping[str, str] | None) -> str:
    """The one text of a format that has room for one: that of "parameters", else all, a line each."""
    known = metadata or {}
    return known.get("parameters") or "\n".join(f"{key}: {value}" for key, value in known.items())


def append_riff_comment(path: Path, text: str) -> None:
    """Add ``text`` to a RIFF file as the comment (ICMT) of its INFO list, and the list to the file's own length."""
    content = text.encode() + b"\0"
    content += b"\0" * (len(content) % 2)
    body = b"INFO" + struct.pack("<4sI", b"ICMT", len(content)) + content
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        padding = end % 2  # a chunk begins at an even place
        file.write(b"\0" * padding + struct.pack("<4sI", b"LIST", len(body)) + body)
        file.seek(4)
        file.write(struct.pack("<I", end + padding + 8 + len(body) - 8))


def read(path: Path) -> str | None:
    """The text that a picture, clip, sound or mesh carries, "" where it carries none; None for what is none of these.

    Raises OSError for a file that cannot be read.
    """
    found = (reader(path) for reader in (_of_picture, _of_mesh, _of_media))
    return next((text for text in found if text is not None), None)


def _of_picture(path: Path) -> str | None:
    """The ``parameters`` chunk of PNG, the EXIF comment of JPEG and WebP, the comment of GIF."""
    from PIL import ExifTags, Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            text = picture.info.get("parameters") or picture.info.get("comment", "")
            comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except UnidentifiedImageError:
        return None
    if isinstance(comment, bytes):
        return comment.removeprefix(b"UNICODE\0").decode("utf-16-be", errors="replace")
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _of_mesh(path: Path) -> str | None:
    """``asset.extras.parameters`` of binary glTF."""
    with path.open("rb") as file:
        head = file.read(20)
        if len(head) < 20 or head[:4] != b"glTF":
            return None
        try:
            asset: Any = json.loads(file.read(struct.unpack("<I", head[12:16])[0])).get("asset", {})
        except ValueError:
            return None
    return str((asset.get("extras") or {}).get("parameters", ""))


def _of_media(path: Path) -> str | None:
    """The comment of a container that PyAV knows, of the file or of its first stream (Ogg)."""
    import av

    try:
        with av.open(str(path)) as container:
            tags = [container.metadata, *(stream.metadata for stream in container.streams)]
    except (av.FFmpegError, ValueError):
        return None
    return next((text for of in tags for key, text in of.items() if key.lower() == "comment"), "")
