# SPDX-License-Identifier: MIT
"""The entry of LocalAI's CI: `python -m unittest test.py` runs what `pytest` runs, the tests in tests/."""

import unittest
from pathlib import Path


def load_tests(loader: unittest.TestLoader, _tests: unittest.TestSuite, _pattern: str | None) -> unittest.TestSuite:
    """unittest's load_tests protocol: everything in tests/, under the names that pytest gives it."""
    root = Path(__file__).resolve().parent
    return loader.discover(str(root / "tests"), pattern="test_*.py", top_level_dir=str(root))


if __name__ == "__main__":
    unittest.main()
