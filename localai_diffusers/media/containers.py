# SPDX-License-Identifier: MIT
"""PyAV's containers, opened so that neither a bad file coming in nor a full disk going out can surprise."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

# Containers that hold their media themselves. libav also knows playlists (hls, concat, dash), and what those
# name is fetched: from the disk of this machine or from the net.
_DEMUXERS = ",".join(
    (
        "mov",
        "mp4",
        "matroska",
        "webm",
        "avi",
        "gif",
        "apng",
        "webp_pipe",
        "mpegts",
        "mpeg",
        "mpegvideo",
        "m4v",
        "h264",
        "hevc",
        "ivf",
        "flv",
        "asf",
        "ogg",
        "wav",
        "w64",
        "flac",
        "mp3",
        "aac",
        "aiff",
        "au",
        "caf",
    )
)


def open_payload(content: bytes) -> Any:
    """An open PyAV container over ``content``, of a format that refers to nothing outside itself."""
    return av.open(io.BytesIO(content), "r", options={"format_whitelist": _DEMUXERS})


@contextmanager
def open_output(path: Path, format: str, options: dict[str, str] | None = None, comment: str = "") -> Iterator[Any]:
    """An open PyAV container that writes ``format`` to ``path``; raises OSError where a byte could not be
    written. ``comment`` stands among its tags.

    libav's own file writer drops an error of its last buffer, and so would leave a short file on a full disk.
    """
    with open(path, "w+b", buffering=0) as file:
        sink = _Sink(file)
        try:
            # faststart reads the finished file once more, through io_open
            with av.open(sink, "w", format=format, container_options=options or {}, io_open=sink.reopen) as output:
                if comment:
                    output.metadata["comment"] = comment
                yield output
        finally:
            if sink.error is not None:
                raise sink.error


class _Sink:
    """A file that writes all or fails, and remembers that it failed."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.name = str(file.name)
        self.error: OSError | None = None
        self.seek, self.tell, self.read = file.seek, file.tell, file.read

    def write(self, data: bytes) -> int:
        """Write every byte of ``data``: a raw file may take only a part of it."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = self.error or error
            raise
        return len(data)

    def reopen(self, url: str, flags: int, options: dict[str, str]) -> io.BufferedReader:
        """A second, reading view of the same file."""
        return open(os.fspath(self._file.name), "rb")
