# SPDX-License-Identifier: MIT
"""The tests leave nothing behind: what a test process and its children put into the temporary folder goes when it
ends."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest

from tests.support import HOME, FolderCase

LITTERING = (
    "import tests, os, subprocess, sys, tempfile; tempfile.mkdtemp(); "
    "subprocess.run([sys.executable, '-c', 'import tempfile; print(tempfile.mkdtemp())'], check=True)"
)


class ScratchTest(FolderCase):
    def test_a_test_process_and_its_children_leave_no_folder(self) -> None:
        environ = {**os.environ, "TMPDIR": str(self.folder)}
        command = [sys.executable, "-c", LITTERING]
        told = subprocess.run(command, cwd=HOME, env=environ, capture_output=True, text=True, check=True).stdout
        self.assertTrue(told.startswith(str(self.folder)), told)
        self.assertEqual(os.listdir(self.folder), [])


if __name__ == "__main__":
    unittest.main()
