# SPDX-License-Identifier: MIT
"""pytest's own: which tests `make test-quick` leaves out. What is heavy still runs under both runners.

Heavy are whole folders, files that load dozens of models, ask every class or start a process for each test, and classes
that speak to a server that they start (their bases say ``heavy = True``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent
_HEAVY = {
    "every_pipeline",
    "cases",
    "server",
    "checkpoint/test_component_file.py",
    "discovery/test_loader.py",
    "generation/prompts/test_privacy.py",
    "generation/prompts/test_prompts.py",
    "generation/test_refusals.py",
    "generation/test_repainting.py",
    "loading/adapters/test_adapters.py",
    "loading/adapters/test_lora.py",
    "loading/adapters/test_lora_loads.py",
    "loading/adapters/test_textual_inversion.py",
    "loading/files/test_single_file.py",
    "loading/modular_pipelines/test_modular.py",
    "loading/placing/test_prompt_cache.py",
    "loading/placing/test_speed_options.py",
    "loading/test_components.py",
    "loading/test_parallel.py",
    "loading/test_pipelines.py",
    "loading/test_quantization.py",
    "loading/test_schedulers.py",
    "loading/test_words.py",
    "pipeline/test_argument_values.py",
    "pipeline/test_media_signatures.py",
    "pipeline/test_quirks.py",
    "project/test_performance.py",
    "wire/test_protos.py",
    "work/ranks/test_group.py",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heavy: left out by make test-quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(_TESTS) if item.path.is_relative_to(_TESTS) else Path()
        named = {place.as_posix(), *place.parts[:1]}
        if named & _HEAVY or getattr(getattr(item, "cls", None), "heavy", False):
            item.add_marker("heavy")
