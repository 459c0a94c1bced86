# SPDX-License-Identifier: MIT
"""COMPEL=1 or SD_EMBED=1 without its library is a load that fails and names it."""

from __future__ import annotations

import importlib.util
import sys
import unittest
from unittest import mock

from localai_diffusers.errors import LoadError
from localai_diffusers.settings import Settings
from tests.support import SHAPES_MODEL, load


class PromptLibrariesTest(unittest.TestCase):
    def test_sd_embed(self) -> None:
        with self.assertRaisesRegex(LoadError, "SD_EMBED=1 needs the Python package sd_embed: pip install"):
            load(SHAPES_MODEL, Settings(sd_embed=True))

    def test_compel(self) -> None:
        kept = sys.modules.pop("compel", None)
        if kept is not None:
            self.addCleanup(sys.modules.__setitem__, "compel", kept)
        find = importlib.util.find_spec
        with (
            mock.patch.object(importlib.util, "find_spec", lambda name: None if name == "compel" else find(name)),
            self.assertRaisesRegex(LoadError, "COMPEL=1 needs the Python package compel"),
        ):
            load(SHAPES_MODEL, Settings(compel=True))


if __name__ == "__main__":
    unittest.main()
