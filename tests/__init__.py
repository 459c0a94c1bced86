# SPDX-License-Identifier: MIT
"""The tests. All temporary files of a test process and of its children lie in one folder, which goes when it ends."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Packages that pipelines insist on and that no test needs; a server sees them where its PYTHONPATH names the folder.
STAND_INS = Path(__file__).resolve().parent / "stand_ins"
sys.path.append(str(STAND_INS))


def _use_one_scratch_folder() -> None:
    """The zoo's checkpoints stay where the next run finds them: building them takes minutes."""
    os.environ.setdefault("LOCALAI_DIFFUSERS_ZOO", os.path.join(tempfile.gettempdir(), "localai-diffusers-zoo"))
    folder = tempfile.mkdtemp(prefix="tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


_use_one_scratch_folder()
