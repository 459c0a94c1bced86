# SPDX-License-Identifier: MIT
"""What a person wrote stays out of the log, whoever writes there: libraries quote prompts in warnings, at every level.

While a request runs, its texts are known here. A record of another logger than ours, a warning or a printed line that
quotes a word of them keeps only what its source says in letters, without what was filled in.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import linecache
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

_OURS = ("localai_diffusers", "backend")
_LEVELS = ("debug", "info", "warning", "warn", "error", "critical", "exception", "log", "warning_once")
_LEFT_OUT = "a line that may quote the prompt is left out"
_SHORT = 3  # letters of Latin and the like; a shorter part of a word tells nothing
_lock = threading.RLock()
_texts: list[str] = []  # of the requests that run, letters and digits alone


@contextlib.contextmanager
def confidential(texts: Iterable[Any]) -> Iterator[None]:
    """Keep ``texts`` (what is no text is nothing) out of what libraries log, warn of and print inside the block."""
    found = ["".join(_words(text)) for text in texts if isinstance(text, str) and text.strip()]
    with _lock:
        _watch_records()
        _texts.extend(found)
    try:
        with _screened("stdout"), _screened("stderr"):
            yield
    finally:
        with _lock:
            for text in found:
                _texts.remove(text)


def quotes(line: str, known: str = "") -> bool:
    """Whether a word of ``line`` that is not in ``known`` is of a text of a running request."""
    words = set(_words(line)) - set(_words(known))
    telling = [word for word in words if not word.isdigit() and (len(word) >= _SHORT or not word.isascii())]
    return any(word in text for word in telling for text in tuple(_texts))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


# --- records -------------------------------------------------------------------------------------------------------


class _Records:
    """A factory of records around the one before."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._before(*arguments, **named)
        if _texts and record.name.partition(".")[0] not in _OURS:
            _screen(record)
        return record


def _watch_records() -> None:
    before = logging.getLogRecordFactory()
    if not isinstance(before, _Records):
        logging.setLogRecordFactory(_Records(before))


def _screen(record: logging.LogRecord) -> None:
    try:
        said = record.getMessage()
    except (TypeError, ValueError, KeyError):  # which the handler tells, with the arguments
        said = f"{record.msg} {record.args}"
    known = _fixed_part(record.pathname, record.lineno)
    if quotes(said, known):
        record.msg, record.args = known or _LEFT_OUT, None
    if record.exc_info and record.exc_info[1] is not None and quotes(str(record.exc_info[1])):
        record.exc_info = None


@functools.lru_cache(maxsize=256)
def _fixed_part(file: str, line: int) -> str:
    """What the source of a log line says without what is filled in, "" where that cannot be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args and _is_at(node, line)]
    nearest = min(calls, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, default=None)
    return "…".join(_constants(nearest.args[0])).strip() if nearest is not None else ""


def _is_at(node: ast.Call, line: int) -> bool:
    named = isinstance(node.func, ast.Attribute) and node.func.attr in _LEVELS
    return named and node.lineno <= line <= (node.end_lineno or node.lineno)


def _constants(node: ast.expr) -> list[str]:
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]


# --- printed lines -------------------------------------------------------------------------------------------------


class _Screen(io.TextIOBase):
    """A stream that passes on the lines that quote nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        lines = re.split(r"(?<=[\n\r])", self._begun + text)
        self._begun = lines.pop()
        for line in lines:
            self._pass_on(line)
        return len(text)

    def flush(self) -> None:
        begun, self._begun = self._begun, ""
        self._pass_on(begun)
        self._stream.flush()

    def _pass_on(self, line: str) -> None:
        self._stream.write(f"{_LEFT_OUT}\n" if quotes(line, _LEFT_OUT) else line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextlib.contextmanager
def _screened(name: str) -> Iterator[None]:
    """``sys.stdout`` or ``sys.stderr`` as such a stream; handlers that have the real one keep it."""
    before = getattr(sys, name)
    if isinstance(before, _Screen) or before is None:
        yield
        return
    screen = _Screen(before)
    setattr(sys, name, screen)
    try:
        yield
    finally:
        screen.flush()
        if getattr(sys, name) is screen:
            setattr(sys, name, before)
