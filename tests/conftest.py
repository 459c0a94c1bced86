# SPDX-License-Identifier: MIT
"""pytest's own: which tests `make test-quick` leaves out. What is heavy still runs under both runners.

Heavy are whole folders, files that load dozens of models or start a process for each test, and classes that speak to a
server that they start (their bases say ``heavy = True``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent
_HEAVY = {
    "every_pipeline",
    "cases",
    "server",
    "discovery/test_loader.py",
    "generation/prompts/test_prompts.py",
    "loading/adapters/test_adapters.py",
    "loading/adapters/test_lora.py",
    "loading/files/test_single_file.py",
    "loading/modular_pipelines/test_modular.py",
    "loading/test_components.py",
    "loading/test_parallel.py",
    "loading/test_pipelines.py",
    "loading/test_schedulers.py",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heavy: left out by make test-quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(_TESTS) if item.path.is_relative_to(_TESTS) else Path()
        named = {place.as_posix(), *place.parts[:1]}
        if named & _HEAVY or getattr(getattr(item, "cls", None), "heavy", False):
            item.add_marker("heavy")
