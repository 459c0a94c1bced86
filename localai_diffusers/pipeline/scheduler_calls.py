# SPDX-License-Identifier: MIT
"""What a pipeline's code asks of its scheduler, and what of that a scheduler does not have.

Pipelines pass ``sigmas`` or ``mu`` to ``set_timesteps``, and more to ``step``, depending on the scheduler at hand; no
signature says so. So the code of ``__call__`` is followed with the defaults of its arguments and with the scheduler in
question, as far as both decide which way it goes; what runs only on a way that they don't decide is not counted.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

# Calls that may be evaluated: they ask and change nothing.
_PURE = ("hasattr", "getattr", "isinstance", "len", "int", "float", "bool", "dict", "list", "max", "min")


class _Some:
    """A value that the code does not tell, and that is not None."""


class _Unknown:
    """A value of which nothing is known."""


_SOME, _UNKNOWN = _Some(), _Unknown()


def misfit(cls: type, scheduler: Any) -> str:
    """What the pipeline class passes to its scheduler, or asks of it, that ``scheduler`` does not have; "" for nothing.

    For a pipeline whose source cannot be read nothing is known, so nothing is said.
    """
    try:
        call = inspect.unwrap(cls.__call__)
        method: Any = ast.parse(textwrap.dedent(inspect.getsource(call))).body[0]
        body = method.body
    except (OSError, TypeError, SyntaxError, AttributeError, IndexError):
        return ""
    defaults = {
        name: _SOME if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in inspect.signature(call).parameters.items()
    }
    known = {**defaults, "self": SimpleNamespace(scheduler=scheduler)}
    walk = _Walk(cls, call.__globals__, scheduler, known)
    walk.run(body)
    return ", ".join(dict.fromkeys(walk.found))


@dataclass
class _Walk:
    """One way through the code: what is known of its names, and what was found missing on it."""

    cls: type
    globals: dict[str, Any]
    scheduler: Any
    known: dict[str, Any]
    found: list[str] = field(default_factory=list)

    def run(self, body: list[ast.stmt]) -> bool:
        """Follow the statements; False where they leave the function."""
        return all(self._step(statement) for statement in body)

    def _step(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.If):
            return self._branch(statement)
        self._look(statement)
        if isinstance(statement, (ast.For, ast.While, ast.With, ast.Try)):
            if isinstance(statement, (ast.For, ast.While)):
                self._forget(statement)
            return self.run(statement.body) or not isinstance(statement, (ast.With, ast.Try))
        if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            self._assign(statement)
        return not isinstance(statement, (ast.Return, ast.Raise))

    def _branch(self, statement: ast.If) -> bool:
        test = self._value(statement.test)
        if not isinstance(test, (_Some, _Unknown)):
            return self.run(statement.body if test else statement.orelse)
        ways = [_Walk(self.cls, self.globals, self.scheduler, dict(self.known)) for _ in range(2)]
        bodies = (statement.body, statement.orelse)
        ends = [way for way, body in zip(ways, bodies, strict=True) if way.run(body)]
        for name in {name for way in ends for name in way.known}:
            values = [way.known.get(name, _UNKNOWN) for way in ends]
            self.known[name] = values[0] if all(value is values[0] for value in values) else _UNKNOWN
        return bool(ends)

    def _forget(self, loop: ast.For | ast.While) -> None:
        """What a loop assigns may be anything in it."""
        for node in ast.walk(loop):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.known[node.id] = _UNKNOWN

    def _assign(self, statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        value = self._value(statement.value) if statement.value is not None else _UNKNOWN
        targets: list[Any] = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            held = self.known.get(target.value.id) if _is_entry(target) else None
            if isinstance(held, dict):
                self.known[target.value.id] = {**held, self._value(target.slice): value}
            elif isinstance(target, ast.Name):
                self.known[target.id] = value if isinstance(statement, ast.Assign) else _SOME
            else:
                names = (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
                self.known |= dict.fromkeys((name for name in names if name != "self"), _UNKNOWN)

    # Values

    def _value(self, node: ast.expr) -> Any:
        """What the expression is, as far as the defaults and the scheduler tell."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id, self.globals.get(node.id, _UNKNOWN))
        if isinstance(node, ast.IfExp):
            return self._choice(node)
        if isinstance(node, ast.BoolOp):
            return self._both(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            value = self._value(node.operand)
            return _UNKNOWN if isinstance(value, (_Some, _Unknown)) else not value
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            return self._identity(node)
        if isinstance(node, ast.Dict) and None not in node.keys:
            pairs = zip(node.keys, node.values, strict=True)
            return {self._value(key): self._value(value) for key, value in pairs if key is not None}
        return self._evaluated(node)

    def _choice(self, node: ast.IfExp) -> Any:
        test = self._value(node.test)
        if not isinstance(test, (_Some, _Unknown)):
            return self._value(node.body if test else node.orelse)
        values = self._value(node.body), self._value(node.orelse)
        return _UNKNOWN if any(value is None or value is _UNKNOWN for value in values) else _SOME

    def _both(self, node: ast.BoolOp) -> Any:
        stops = isinstance(node.op, ast.Or)
        values = [self._value(value) for value in node.values]
        decided = [value for value in values if not isinstance(value, (_Some, _Unknown))]
        if ends := [value for value in decided if bool(value) == stops]:
            return ends[0]
        return values[-1] if len(decided) == len(values) else _UNKNOWN

    def _identity(self, node: ast.Compare) -> Any:
        sides = self._value(node.left), self._value(node.comparators[0])
        if any(side is _UNKNOWN for side in sides) or all(side is _SOME for side in sides):
            return _UNKNOWN
        same = sides[0] is sides[1]
        return same if isinstance(node.ops[0], ast.Is) else not same

    def _evaluated(self, node: ast.expr) -> Any:
        calls = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        untold = any(isinstance(self.known.get(name), (_Some, _Unknown)) for name in names)
        pure = all(_is_pure(call) or self._makes_numbers(call, names) for call in calls)
        if untold or not pure:
            return _SOME if calls or isinstance(node, (ast.BinOp, ast.List, ast.Tuple, ast.JoinedStr)) else _UNKNOWN
        try:
            return eval(compile(ast.Expression(node), "<pipeline>", "eval"), self.globals, self.known)
        except Exception:  # what the stand-in for the pipeline does not have
            return _UNKNOWN

    def _makes_numbers(self, call: ast.expr, names: set[str]) -> bool:
        """Whether it is numpy's, or a function of diffusers' own, on numbers alone: a pipeline's sigmas."""
        values = [self.known[name] for name in names if name in self.known]
        on_numbers = all(isinstance(value, (int, float, type(None))) for value in values)
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name):
            return on_numbers and getattr(self.globals.get(call.value.id), "__name__", "") == "numpy"
        function = self.globals.get(call.id) if isinstance(call, ast.Name) else None
        return on_numbers and inspect.isfunction(function) and function.__module__.startswith("diffusers.pipelines")

    # What the scheduler is asked

    def _look(self, statement: ast.stmt) -> None:
        for node in _own_nodes(statement):
            if isinstance(node, ast.Attribute) and self._is_scheduler(node.value):
                self._need(node.attr)
            if isinstance(node, ast.Call):
                self._check(node)

    def _need(self, name: str) -> None:
        if not hasattr(self.scheduler, name):
            self.found.append(f"it has no {name}")

    def _look_into(self, method: Any) -> None:
        """What a method of the pipeline asks, unless it asks what the scheduler is or has."""
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))
        except (OSError, TypeError, SyntaxError):
            return
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if any(isinstance(call, ast.Name) and call.id in ("hasattr", "getattr", "isinstance") for call in calls):
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and self._is_scheduler(node.value):
                self._need(node.attr)

    def _is_scheduler(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            return False
        return node.attr == "scheduler" and node.value.id == "self"

    def _check(self, node: ast.Call) -> None:
        """The scheduler's methods, the pipeline's own, and the ``retrieve_timesteps`` that stands beside most."""
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            if node.func.value.id == "self" and inspect.isfunction(getattr(self.cls, node.func.attr, None)):
                self._look_into(getattr(self.cls, node.func.attr))
        if isinstance(node.func, ast.Attribute) and self._is_scheduler(node.func.value):
            method = getattr(self.scheduler, node.func.attr, None)
            if callable(method):
                self._compare(method, [keyword for keyword, value in self._keywords(node) if value is not None])
        if isinstance(node.func, ast.Name) and node.func.id.endswith("retrieve_timesteps") and node.args:
            function = self.globals.get(node.func.id)
            if function is None or not self._is_scheduler(node.args[0]):
                return
            order = list(inspect.signature(function).parameters)
            given = dict(zip(order, map(self._value, node.args), strict=False)) | dict(self._keywords(node))
            own = ("timesteps", "sigmas")  # passed on only where there are any
            told = {
                name: value
                for name, value in given.items()
                if name not in ("scheduler", "num_inference_steps", "device")
                if name not in own or not (value is None or value is _UNKNOWN)
            }
            if not self._compare(self.scheduler.set_timesteps, list(told)):
                self._try(told)

    def _keywords(self, node: ast.Call) -> Iterator[tuple[str, Any]]:
        for keyword in node.keywords:
            value = self._value(keyword.value)
            if keyword.arg is not None:
                yield keyword.arg, value
            elif isinstance(value, dict):
                yield from value.items()

    def _compare(self, method: Any, names: list[str]) -> list[str]:
        parameters = inspect.signature(method).parameters
        takes_any = any(known.kind is inspect.Parameter.VAR_KEYWORD for known in parameters.values())
        lacking = [] if takes_any else [name for name in names if name not in parameters]
        self.found.extend(f"its {method.__name__} takes no {name}" for name in lacking)
        return lacking

    def _try(self, told: dict[str, Any]) -> None:
        """Have a copy lay out the sigmas of the pipeline, where the code tells them: some schedulers take no list."""
        sigmas, mu = told.get("sigmas"), {"mu": 1.0} if told.get("mu") is not None else {}
        if sigmas is None or isinstance(sigmas, _Some) or told.keys() - {"sigmas", "mu"}:
            return
        try:
            type(self.scheduler).from_config(self.scheduler.config).set_timesteps(sigmas=sigmas, **mu)
        except TypeError:
            self.found.append(f"its set_timesteps cannot take sigmas as a {type(sigmas).__name__}")
        except (ValueError, AttributeError, IndexError, ZeroDivisionError):
            return  # of values that are not the call's


def _is_entry(target: ast.expr) -> bool:
    return isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name)


def _is_pure(call: ast.expr) -> bool:
    return (isinstance(call, ast.Name) and call.id in _PURE) or (isinstance(call, ast.Attribute) and call.attr == "get")


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement without those of the statements in it."""
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        yield node
        inner = ast.iter_child_nodes(node)
        stack.extend(child for child in inner if not isinstance(child, (ast.stmt, ast.ExceptHandler, ast.Lambda)))
