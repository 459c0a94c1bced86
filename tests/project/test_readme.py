# SPDX-License-Identifier: MIT
"""The README tells the truth: its tables are the code's, its commands exist, its first command comes early."""

from __future__ import annotations

import re
import unittest

import backend_pb2_grpc
from localai_diffusers import settings
from localai_diffusers.loading import schedulers
from tests.support import HOME

README = (HOME / "README.md").read_text()
PAGES = {path: path.read_text() for path in (HOME / "README.md", *(HOME / "docs").glob("*.md"))}
REQUESTS, ENVIRONMENT = (PAGES[HOME / "docs" / f"{name}.md"] for name in ("models-and-requests", "environment"))


class Readme(unittest.TestCase):
    def test_every_environment_variable_has_its_row(self) -> None:
        for variable in settings.VARIABLES:
            self.assertRegex(ENVIRONMENT, rf"\| `{variable.name}` \| [^|]* \| {re.escape(variable.meaning)} \|")

    def test_every_scheduler_name_is_listed(self) -> None:
        for name in schedulers.NAMES:
            self.assertIn(f"`{name}`", REQUESTS)

    def test_every_rpc_that_is_served_is_listed(self) -> None:
        import backend

        served = [
            name
            for name in vars(backend.BackendServicer)
            if hasattr(backend_pb2_grpc.BackendServicer, name) and name[0] != "_"
        ]
        self.assertGreater(len(served), 10)
        for name in served:
            self.assertIn(f"`{name}`", REQUESTS)

    def test_the_first_command_comes_within_thirty_lines_and_exists(self) -> None:
        head = README.splitlines()[:30]
        commands = re.findall(r"^make (\w+)", "\n".join(head), re.MULTILINE)
        self.assertEqual(commands, ["demo", "test"])
        makefile = (HOME / "Makefile").read_text()
        for target in commands:
            self.assertRegex(makefile, rf"(?m)^{target}:")

    def test_every_file_that_it_names_is_there(self) -> None:
        for page, text in PAGES.items():
            for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
                self.assertTrue((page.parent / path).exists(), f"{page.name}: {path}")
        for room in re.findall(r"\b(\w+\.py)\b", README.split("## For maintainers")[1].split("```")[1]):
            self.assertTrue((HOME / room).exists() or (HOME / "localai_diffusers" / room).exists(), room)

    def test_it_is_short(self) -> None:
        self.assertLessEqual(len(README.splitlines()), 150)

    def test_every_room_is_on_the_map(self) -> None:
        house = HOME / "localai_diffusers"
        packages = {f"{path.parent.name}/" for path in house.glob("*/__init__.py")}
        rooms = {path.name for path in house.glob("*.py")} - {"__init__.py"}
        named = set(re.findall(r"[\w.]+\.py\b|\b\w+/", README.split("## For maintainers")[1].split("```")[1]))
        self.assertEqual((rooms | packages) - named, set())

    def test_every_test_that_the_promises_name_is_there(self) -> None:
        promises = (HOME / "docs" / "reliability.md").read_text()
        tests = "".join(path.read_text() for path in (HOME / "tests").rglob("test_*.py"))
        names = set(re.findall(r"`(test_\w+)`", promises))
        self.assertGreater(len(names), 30)
        for name in names:
            self.assertTrue(f"def {name}(" in tests or any((HOME / "tests").rglob(f"{name}.py")), name)


if __name__ == "__main__":
    unittest.main()
