# SPDX-License-Identifier: MIT
"""What many repetitions leave behind: pictures after cancellations, and memory after generations and load/free cycles.

Run: ``venv/bin/python benchmarks/endurance.py`` (some minutes). Memory is the server's resident set, in MiB.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from PIL import Image  # noqa: E402

import backend_pb2  # noqa: E402
from tests.shapes_judge import judge  # noqa: E402
from tests.support import SHAPES_MODEL, Backend  # noqa: E402

WANTED = ("red", "circle", "blue")
PROMPT = "a red circle on a blue background"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def resident(backend: Backend) -> float:
    """The server's resident set in MiB."""
    status = Path(f"/proc/{backend.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def picture(backend: Backend, seed: int, steps: int = 20) -> bool:
    """Whether the picture of this seed is what its prompt says."""
    path = backend.image(PROMPT, width=64, height=64, step=steps, seed=seed)
    with Image.open(path) as image:
        verdict = judge(image)
    return (verdict.color, verdict.shape, verdict.background) == WANTED


def cancelled(backend: Backend, count: int) -> None:
    """Start ``count`` generations and leave each after a moment."""
    for seed in range(count):
        request = backend_pb2.GenerateImageRequest(
            positive_prompt=PROMPT, width=64, height=64, step=200, seed=seed, dst=str(backend.folder / "cancelled.png")
        )
        call = backend.stub.GenerateImage.future(request)
        time.sleep(0.05 + seed % 5 * 0.02)
        call.cancel()


def measured(backend: Backend, what: str, work: object) -> None:
    """Run ``work()`` and say what it did to the memory."""
    before, began = resident(backend), time.monotonic()
    result = work()
    say(f"{what}: {result}; {before:.0f} -> {resident(backend):.0f} MiB in {time.monotonic() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=1000)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--cancellations", type=int, default=100)
    options = parser.parse_args()

    def cycles() -> str:
        for _ in range(options.cycles):
            assert backend.load(SHAPES_MODEL, Options=["guidance_scale:5"]).success
            backend.stub.Free(backend_pb2.HealthMessage())
        return "done"

    def right(count: int, steps: int) -> str:
        return f"{sum(picture(backend, seed, steps) for seed in range(count))} of {count} right"

    with Backend() as backend:
        backend.load(SHAPES_MODEL, Options=["guidance_scale:5"])
        for seed in range(20):
            picture(backend, seed)  # the allocator's first growth is not a leak
        measured(backend, f"{options.cancellations} cancellations", lambda: cancelled(backend, options.cancellations))
        measured(backend, "pictures after them", lambda: right(options.cancellations, 20))
        measured(backend, f"{options.generations} generations of 8 steps", lambda: right(options.generations, 8))
        measured(backend, f"{options.cycles} load/free cycles", cycles)
        backend.load(SHAPES_MODEL, Options=["guidance_scale:5"])
        measured(backend, "pictures after them", lambda: right(20, 20))


if __name__ == "__main__":
    main()
