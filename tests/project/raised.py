# SPDX-License-Identifier: MIT
"""The words of every error that the backend makes, read from its source: each field of a text is an ellipsis."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from localai_diffusers import errors
from localai_diffusers.discovery import errors as of_discovery
from tests.support import HOME

FIELD = "…"
TERMINAL = "terminal"
_DISCOVERY = {name for name, kind in vars(of_discovery).items() if isinstance(kind, type)}
_OURS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
# Errors whose class has the words.
_OF_CLASS = (errors.ModelNotLoaded(), errors.ModelMismatch(FIELD, FIELD))
_TOLD = re.compile(r"[A-Za-z]{2,}\W+[A-Za-z]{2,}")  # a text without two words passes another error's on


@dataclass(frozen=True)
class Raised:
    """What an error says, and where; ``status``: the name of its gRPC status, or TERMINAL."""

    where: str
    status: str
    words: str


def raised() -> list[Raised]:
    """Every error with words of its own, in the order of the source."""
    paths = (*sorted((HOME / "localai_diffusers").rglob("*.py")), HOME / "backend.py")
    found = itertools.chain.from_iterable(map(_of_module, paths))
    own = [Raised("localai_diffusers/errors.py", errors.status_name(error), str(error)) for error in _OF_CLASS]
    return own + [one for one in found if _TOLD.search(one.words)]


def _of_module(path: Path) -> Iterator[Raised]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    scope = _Scope(tree)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for call in _calls(function):
                status = _status(call)
                for words in scope.texts(call.args, function) if status else ():
                    yield Raised(f"{path.relative_to(HOME)}:{call.lineno}", status, words)


def _calls(function: ast.FunctionDef) -> Iterator[ast.Call]:
    """The calls of a function's own body, in the source's order; those of functions inside it are theirs."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.Call):
            yield node
        todo = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.FunctionDef)] + todo


def _status(call: ast.Call) -> str:
    """The status of the error that a call makes; "" for a call of anything else."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "__init__":  # super's, of an error whose class has the words
        return ""
    if name == "Fault":
        return TERMINAL
    if name in _DISCOVERY:
        return errors.STATUS_CODES[errors.LoadError]
    kinds = _OURS[name].__mro__ if name in _OURS else ()
    return next((errors.STATUS_CODES[kind] for kind in kinds if kind in errors.STATUS_CODES), "")


class _Scope:
    """The texts that a module's expressions can mean, as far as the module itself says."""

    def __init__(self, tree: ast.Module) -> None:
        self._functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self._constants: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                self._constants |= {
                    target.id: str(node.value.value) for target in node.targets if isinstance(target, ast.Name)
                }

    def texts(self, arguments: Sequence[ast.expr], function: ast.FunctionDef) -> list[str]:
        return self._of(arguments[0], function) if arguments else []

    def _of(self, node: ast.expr, function: ast.FunctionDef, followed: bool = False) -> list[str]:
        """The alternatives of a text; a name or a function of the module's own is followed once."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                inner = [part.value if isinstance(part, ast.FormattedValue) else part for part in parts]
                return self._joined(inner, function)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined([left, right], function)
            case ast.IfExp(body=body, orelse=other):
                return self._of(body, function, followed) + self._of(other, function, followed)
            case ast.Call(func=ast.Attribute(value=inner, attr="rstrip")):
                return self._of(inner, function, followed)
            case ast.Name(id=name) if name in self._constants:
                return [self._constants[name]]
            case ast.Name(id=name) if not followed:
                return self._alternatives(_assigned(name, function), function)
            case ast.Call(func=ast.Name(id=name)) if name in self._functions and not followed:
                callee = self._functions[name]
                returned = [node.value for node in ast.walk(callee) if isinstance(node, ast.Return) and node.value]
                return self._alternatives(returned, callee)
        return [FIELD]

    def _alternatives(self, nodes: Sequence[ast.expr], function: ast.FunctionDef) -> list[str]:
        return [text for node in nodes for text in self._of(node, function, followed=True)] or [FIELD]

    def _joined(self, parts: Sequence[ast.expr], function: ast.FunctionDef) -> list[str]:
        """Of an f-string or a sum; a name among its parts is a field, whatever it was set to."""
        choices = [self._of(part, function, followed=True) for part in parts]
        return ["".join(choice) for choice in itertools.product(*choices)]


def _assigned(name: str, function: ast.FunctionDef) -> list[ast.expr]:
    found = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    return [node.value for node in found if any(isinstance(to, ast.Name) and to.id == name for to in node.targets)]


def pattern(quoted: str) -> re.Pattern[str]:
    """What finds words that a page quotes, in which an ellipsis stands for anything."""
    return re.compile(".*".join(map(re.escape, quoted.split(FIELD))), re.DOTALL)


__all__ = ["FIELD", "TERMINAL", "Raised", "pattern", "raised"]
