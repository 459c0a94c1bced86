# SPDX-License-Identifier: MIT
"""Runs a script in a process forked from one that has imported the libraries: that takes longer than most scripts."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

# Read when the libraries are imported, so by the process that all are forked from.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
_LIBRARIES = ["torch._dynamo", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "peft"]
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(_LIBRARIES)


def run(script: Path, home: Path, environ: dict[str, str], seconds: float) -> tuple[int | None, str]:
    """Run ``script`` as a program in the folder ``home`` with ``environ`` set too; its exit code (None: killed after
    ``seconds``), and what it wrote to stdout and stderr."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        process = _processes.Process(target=_program, args=(str(script), str(home), environ, str(said)))
        with mock.patch.dict(os.environ, {**_ENVIRONMENT, "PYTHONPATH": str(home)}):
            process.start()
        process.join(seconds)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        return code, said.read_text(errors="replace")


def _program(script: str, home: str, environ: dict[str, str], said: str) -> None:
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.environ.update(environ)
    os.chdir(home)
    sys.argv[:] = [script]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
