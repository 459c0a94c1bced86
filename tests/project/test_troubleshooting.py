# SPDX-License-Identifier: MIT
"""docs/troubleshooting.md has a row for every error that the backend raises, and none for one that it does not."""

from __future__ import annotations

import re
import unittest
from collections import defaultdict

from tests.project.raised import TERMINAL, Raised, pattern, raised
from tests.support import HOME

PAGE = (HOME / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
_STATUS = re.compile(r"\b[A-Z]+_?[A-Z]+\b")  # in a heading
_START = ("backend.py", "install.sh", "run.sh", "localai_diffusers/settings.py")


def quotes() -> dict[str, list[str]]:
    """What the first cells of the tables quote, by the title of the section."""
    found: dict[str, list[str]] = {}
    for section in PAGE.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
        found[title] = [quoted for cell in cells for quoted in re.findall(r"`([^`]+)`", cell)]
    return found


def by_status() -> dict[str, list[str]]:
    """The quotes of the sections that name a status, by each of the statuses."""
    found: dict[str, list[str]] = defaultdict(list)
    for title, quoted in quotes().items():
        for status in _STATUS.findall(title) or ([TERMINAL] if TERMINAL in title else []):
            found[status] += quoted
    return found


class TroubleshootingTest(unittest.TestCase):
    def test_every_error_has_its_row(self) -> None:
        told = by_status()
        every = raised()
        self.assertGreater(len(every), 250)
        missing = [one for one in every if not any(pattern(words).search(one.words) for words in told[one.status])]
        self.assertEqual(missing, [], "these errors have no row in docs/troubleshooting.md")

    def test_every_row_is_of_an_error(self) -> None:
        every: dict[str, list[Raised]] = defaultdict(list)
        for one in raised():
            every[one.status].append(one)
        for title, quoted in quotes().items():
            statuses = _STATUS.findall(title) or ([TERMINAL] if TERMINAL in title else [])
            known = [one.words for status in statuses for one in every[status]] + ["invalid token"]  # of the guard
            for words in quoted if statuses else ():
                self.assertTrue(any(map(pattern(words).search, known)), f"{title}: {words}")

    def test_what_a_start_says_is_said(self) -> None:
        said = "".join((HOME / name).read_text(encoding="utf-8") for name in _START)
        for words in quotes()["The process does not start"]:
            self.assertIn(words, said)

    def test_no_row_is_for_everything(self) -> None:
        for quoted in by_status().values():
            for words in quoted:
                self.assertGreater(len(re.sub(r"\W", "", words)), 7, words)


if __name__ == "__main__":
    unittest.main()
