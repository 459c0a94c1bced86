# SPDX-License-Identifier: MIT
"""The example YAMLs: LocalAI's web UI lists each model, and each is what the core would send."""

from __future__ import annotations

import unittest

import yaml

from tests.support import HOME

EXAMPLES = sorted((HOME / "examples").glob("*.yaml"))


class ExamplesTest(unittest.TestCase):
    def test_each_says_what_it_is_for(self) -> None:
        self.assertGreater(len(EXAMPLES), 4)
        for path in EXAMPLES:
            said = yaml.safe_load(path.read_text(encoding="utf-8"))
            self.assertEqual(said["backend"], "diffusers", path.name)
            self.assertTrue(set(said["known_usecases"]) <= {"image", "video", "sound_generation", "3d", "depth"}, path)


if __name__ == "__main__":
    unittest.main()
