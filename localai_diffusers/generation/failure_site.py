"""Where an error was raised: the innermost frame, and the source of the very expression that failed."""

from __future__ import annotations

import ast
import itertools
import linecache
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

LIBRARY = "diffusers"


@dataclass(frozen=True)
class FailureSite:
    """The innermost frame of an error (past ``__getattr__``), its module and local values, and the syntax tree of its
    expression or ``raise`` statement, None where the source is not at hand."""

    where: TracebackType
    module: str
    values: Mapping[str, Any]
    tree: ast.AST | None

    def is_in_library(self) -> bool:
        return self.module.partition(".")[0] == LIBRARY

    def is_raised(self) -> bool:
        """Whether the code raised it on purpose, by a ``raise``."""
        return isinstance(self.tree, ast.Module) and isinstance(self.tree.body[0], ast.Raise)

    def names(self) -> list[str]:
        return [node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)] if self.tree else []

    def place(self) -> str:
        return f"{Path(self.where.tb_frame.f_code.co_filename).name}:{self.where.tb_lineno}"


def site_of(error: BaseException) -> FailureSite | None:
    """The place where ``error`` was raised, None for one that never was."""
    following, last = error.__traceback__, None
    while following is not None:
        if following.tb_frame.f_code.co_name not in ("__getattr__", "__getattribute__"):
            last = following
        following = following.tb_next
    if last is None:
        return None
    return FailureSite(last, str(last.tb_frame.f_globals.get("__name__")), last.tb_frame.f_locals, _tree_at(last))


def _tree_at(where: TracebackType) -> ast.AST | None:
    """The expression (or ``raise`` statement) that raised; None where its source is not at hand."""
    code = where.tb_frame.f_code
    line, end_line, column, end_column = next(itertools.islice(code.co_positions(), where.tb_lasti // 2, None))
    if line is None or end_line is None or column is None or end_column is None:
        return None
    source = [linecache.getline(code.co_filename, number).encode() for number in range(line, end_line + 1)]
    source[-1] = source[-1][:end_column]  # first the end: it may be the same line
    source[0] = source[0][column:]
    text = b"".join(source)
    for candidate in (text, b"(" + text + b")"):  # in brackets: an expression over several lines
        try:
            return ast.parse(candidate)
        except SyntaxError:
            continue
    return None
