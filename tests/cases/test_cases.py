# SPDX-License-Identifier: MIT
"""Every script of this folder prints PASS: inputs of users, each with a right value that was computed another way."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests import forked
from tests.support import HOME, Backend

FOLDER = Path(__file__).resolve().parent
SCRIPTS = [path for path in sorted(FOLDER.glob("[a-z]*.py")) if not path.stem.startswith("test_")]


def verdict(script: Path, backend: Backend) -> str:
    """What the script printed last that holds PASS or FAIL, else its last lines."""
    code, text = forked.run(script, HOME, {"TESTS_BACKEND": backend.address}, seconds=600)
    said = [line for line in text.splitlines() if " PASS" in line or " FAIL" in line]
    return said[-1] if said else f"FAIL: exit {code}: {text[-2000:]}"


class CasesTest(unittest.TestCase):
    """One test a script, made below so that both runners see each by its name."""

    maxDiff = None
    backend: ClassVar[Backend]  # for those scripts that do not need one of their own

    @classmethod
    def setUpClass(cls) -> None:
        cls.backend = Backend()
        cls.addClassCleanup(cls.backend.stop)


def _case(script: Path) -> Callable[[CasesTest], None]:
    def test(self: CasesTest) -> None:
        self.assertIn(" PASS", verdict(script, self.backend))

    return test


for _script in SCRIPTS:
    setattr(CasesTest, f"test_{_script.stem}", _case(_script))


if __name__ == "__main__":
    unittest.main()
