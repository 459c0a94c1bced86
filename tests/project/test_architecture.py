# SPDX-License-Identifier: MIT
"""docs/architecture.md tells the truth: its arrows are the imports, its names exist, no package is missing."""

from __future__ import annotations

import ast
import re
import unittest
from pathlib import Path

from tests.support import HOME

PAGE = (HOME / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = {path.parent.name for path in (HOME / "localai_diffusers").glob("*/__init__.py")}


def imported(path: Path) -> set[str]:
    """Packages of ours that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("localai_diffusers"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found & PACKAGES


def arrows() -> dict[str, set[str]]:
    """What the diagram says that each imports, by the name at the arrow's tail."""
    chart = PAGE.split("```mermaid")[1].split("```")[0]
    rows = re.findall(r"^\s+(\w+)(?:\[[^\]]*\])? --> (.+)$", chart, re.MULTILINE)
    return {tail: set(heads.split(" & ")) for tail, heads in rows}


class ArchitectureTest(unittest.TestCase):
    maxDiff = None

    def test_the_arrows_are_the_imports(self) -> None:
        real = {
            package: set().union(*map(imported, (HOME / "localai_diffusers" / package).rglob("*.py"))) - {package}
            for package in PACKAGES
        }
        real |= {"backend": imported(HOME / "backend.py"), "loader": imported(HOME / "diffusers_dynamic_loader.py")}
        self.assertEqual(arrows(), {tail: heads for tail, heads in real.items() if heads})

    def test_every_package_has_a_row(self) -> None:
        self.assertEqual(set(re.findall(r"^\| `(\w+)/`", PAGE, re.MULTILINE)), PACKAGES)

    def test_every_name_is_where_it_says(self) -> None:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
        self.assertGreater(len(named), 20)
        for file, name in named:
            tree = ast.parse((HOME / file).read_text(encoding="utf-8"))
            defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
            self.assertIn(name, defined, file)

    def test_every_file_is_there(self) -> None:
        for file in re.findall(r"`(localai_diffusers/[\w/]+\.py)", PAGE):
            self.assertTrue((HOME / file).exists(), file)


if __name__ == "__main__":
    unittest.main()
