# SPDX-License-Identifier: MIT
"""pytest's own: which tests `make test-quick` leaves out. What is heavy still runs under both runners.

Heavy are whole folders, and classes that speak to a server that they start (their bases say ``heavy = True``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent
_HEAVY = {"every_pipeline", "cases", "server"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heavy: left out by make test-quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0] if item.path.is_relative_to(_TESTS) else ""
        if folder in _HEAVY or getattr(getattr(item, "cls", None), "heavy", False):
            item.add_marker("heavy")
