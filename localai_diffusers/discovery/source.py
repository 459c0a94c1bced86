# SPDX-License-Identifier: MIT
"""Which classes diffusers has, read from its source text: nothing of it is imported.

``pkgutil.iter_modules`` lists the modules of ``diffusers.pipelines`` without importing them, a regular expression reads
``class Name(bases):``, and the bases are followed by name up to ``DiffusionPipeline``. That takes 0.2 s where importing
everything takes 6 s, and it finds the classes that ``diffusers`` shows only as dummies.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import pkgutil
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from localai_diffusers.discovery.errors import PipelineImportError

ROOT_CLASS = "DiffusionPipeline"


AUTO_PREFIX = "AutoPipelineFor"


@dataclass(frozen=True)
class ClassRecord:
    """A class as its source file shows it."""

    name: str
    module: str
    path: str
    bases: tuple[str, ...]

    @property
    def package(self) -> str:
        """The package that holds the defining module."""
        return self.module.rpartition(".")[0]

    @property
    def deprecated(self) -> bool:
        """Whether diffusers keeps the class for old models only."""
        return ".deprecated." in self.module or "DeprecatedPipelineMixin" in self.bases


# A literal start is found three times as fast as `^` with MULTILINE, and this runs over 15 MB of source.
_CLASS = re.compile(r"\nclass[ \t]+(\w+)[ \t]*(?:\(([^)]*)\))?[ \t]*:")


build_lock = threading.RLock()  # taken inside import_lock or alone, never the other way round


import_lock = threading.RLock()


Built = TypeVar("Built")


def once_a_process(build: Callable[[], Built]) -> Callable[[], Built]:
    """Call `build` once a process, whichever threads ask, and keep what it returns."""
    kept = functools.cache(build)

    @functools.wraps(build)
    def locked() -> Built:
        with build_lock:
            return kept()

    return locked


def diffusers_folder() -> str:
    """Folder of the installed diffusers, found without importing it.

    Raises PipelineImportError when there is none.
    """
    spec = importlib.util.find_spec("diffusers")
    if spec is None or not spec.submodule_search_locations:
        raise PipelineImportError(
            "diffusers is not installed; install it with: pip install diffusers", name="diffusers"
        )
    return next(iter(spec.submodule_search_locations))


def _module_files(folder: str, module: str) -> Iterator[tuple[str, str]]:
    """(module, path) of every module below a package folder; `walk_packages` would import each package."""
    init = os.path.join(folder, "__init__.py")
    if os.path.isfile(init):
        yield module, init
    for found in pkgutil.iter_modules([folder]):
        name, path = f"{module}.{found.name}", os.path.join(folder, found.name)
        if found.ispkg:
            yield from _module_files(path, name)
        elif os.path.isfile(path + ".py") and not found.name.startswith("dummy_"):
            yield name, path + ".py"


def read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _base_names(text: str, bases: str) -> tuple[str, ...]:
    """Plain names of the bases in `class X(bases)`; an `import A as B` is followed back to A."""
    names = [base.strip().rpartition(".")[2] for base in bases.split(",") if base.strip() and "=" not in base]
    for position, name in enumerate(names):
        if f" as {name}" in text and (alias := re.search(rf"\b(\w+) as {re.escape(name)}\b", text)):
            names[position] = alias[1]
    return tuple(names)


def _scan(folder: str, module: str) -> list[ClassRecord]:
    """Every top-level class below a package folder, in file order."""
    records = []
    for name, path in _module_files(folder, module):
        text = "\n" + read_text(path)
        for match in _CLASS.finditer(text):
            records.append(ClassRecord(match[1], name, path, _base_names(text, match[2] or "")))
    return records


def subclasses(records: Iterable[ClassRecord], base: str) -> list[ClassRecord]:
    """Records that derive from `base`, by name, through any number of steps; without `base` itself."""
    children: dict[str, list[ClassRecord]] = {}
    for record in records:
        for parent in record.bases:
            children.setdefault(parent, []).append(record)
    found: dict[tuple[str, str], ClassRecord] = {}
    todo = [base]
    while todo:
        for record in children.get(todo.pop(), ()):
            if (record.module, record.name) not in found:
                found[record.module, record.name] = record
                todo.append(record.name)
    return list(found.values())


@once_a_process
def catalog() -> Mapping[str, ClassRecord]:
    """Every pipeline by class name: the subclasses of DiffusionPipeline, itself, and the AutoPipelines."""
    found = _scan(os.path.join(diffusers_folder(), "pipelines"), "diffusers.pipelines")
    wanted = subclasses(found, ROOT_CLASS)
    wanted += [row for row in found if row.name.startswith(AUTO_PREFIX) or row.name == ROOT_CLASS]
    # Should a name come twice, the current class wins over the deprecated one.
    return {record.name: record for record in sorted(wanted, key=lambda record: not record.deprecated)}


@once_a_process
def auto_mappings() -> Mapping[str, Mapping[str, str]]:
    """diffusers' `…AUTO_…_MAPPING` tables (table -> family key -> class name), read without running them.

    Both forms are read: `NAME = OrderedDict([("key", Class), …])` (or a dict) and `NAME["key"] = Class`,
    also inside an `if`, whose packages may be missing here: a class is listed all the same.
    """
    path = next((record.path for name, record in catalog().items() if name.startswith(AUTO_PREFIX)), None)
    tree = ast.parse(read_text(path) if path else "")
    renamed = {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    tables: dict[str, dict[str, str]] = {}
    for node in (row for top in tree.body for row in (top.body if isinstance(top, ast.If) else [top])):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        named = target.value if isinstance(target, ast.Subscript) else target
        if not isinstance(named, ast.Name) or "AUTO_" not in named.id or not named.id.endswith("_MAPPING"):
            continue
        table = tables.setdefault(named.id, {})
        pairs = [(target.slice, node.value)] if isinstance(target, ast.Subscript) else _literal_pairs(node.value)
        table.update(
            (str(key.value), renamed.get(value.id, value.id))
            for key, value in pairs
            if isinstance(key, ast.Constant) and isinstance(value, ast.Name)
        )
    return tables


def _literal_pairs(node: ast.expr | None) -> list[tuple[ast.expr | None, ast.expr]]:
    """Key and value nodes of a dict literal or of `OrderedDict([(key, value), …])`."""
    if isinstance(node, ast.Call) and node.args:
        node = node.args[0]
    if isinstance(node, ast.Dict):
        return list(zip(node.keys, node.values, strict=True))
    rows = node.elts if isinstance(node, (ast.List, ast.Tuple)) else []
    return [(row.elts[0], row.elts[1]) for row in rows if isinstance(row, ast.Tuple) and len(row.elts) == 2]


@once_a_process
def all_records() -> tuple[ClassRecord, ...]:
    return tuple(_scan(diffusers_folder(), "diffusers"))
