"""What the server costs on top of diffusers: time to Health, listing, load and generation beside the plain calls.

Run: ``venv/bin/python benchmarks/overhead.py [--pictures N]``. Everything is measured in this one run, on the shipped
model, so that the machine's speed cancels out of the ratios. Medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import backend_pb2  # noqa: E402
from tests.support import SHAPES_MODEL, Backend  # noqa: E402

PROMPT = "a red circle on a blue background"
STEPS = 20
LISTING = (
    "import time; t = time.perf_counter(); import diffusers_dynamic_loader as l; n = len(l.get_available_pipelines()); "
    "print(n, time.perf_counter() - t)"
)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def seconds(work: Any) -> float:
    """How long ``work()`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def listing() -> tuple[int, float]:
    """Number of pipelines and median seconds to list them, each in a fresh interpreter (its own start not counted)."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", LISTING], cwd=HOME, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(5)
    ]
    return int(runs[0][0]), statistics.median(float(run[1]) for run in runs)


def through_the_server(backend: Backend, pictures: int) -> tuple[list[float], list[float]]:
    """Seconds of each load and of each picture, over gRPC."""
    loads = [seconds(lambda: backend.load(SHAPES_MODEL)) for _ in range(5)]
    made = [
        seconds(lambda seed=seed: backend.image(PROMPT, width=64, height=64, step=STEPS, seed=seed))
        for seed in range(pictures)
    ]
    return loads, made


def plainly(pictures: int, threads: int) -> tuple[list[float], list[float]]:
    """The same with from_pretrained and pipe() in this process, the picture saved as a PNG."""
    import tempfile

    import torch
    from diffusers import StableDiffusionPipeline

    torch.set_num_threads(threads)
    pipes: list[Any] = []

    def load() -> None:
        pipes[:] = [StableDiffusionPipeline.from_pretrained(SHAPES_MODEL, dtype=torch.float32, safety_checker=None)]

    loads = [seconds(load) for _ in range(5)]
    pipes[0].set_progress_bar_config(disable=True)
    dst = Path(tempfile.mkdtemp(), "plain.png")

    def draw(seed: int) -> None:
        generator = torch.Generator("cpu").manual_seed(seed)
        pipes[0](PROMPT, width=64, height=64, num_inference_steps=STEPS, generator=generator).images[0].save(dst)

    return loads, [seconds(lambda seed=seed: draw(seed)) for seed in range(pictures)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20)
    pictures = parser.parse_args().pictures
    count, listed = listing()
    say(f"listing {count} pipelines in a fresh process: {listed * 1000:.0f} ms")
    starts = []
    for _ in range(5):
        with Backend() as backend:
            starts.append(backend.seconds_to_health)
    say(
        f"exec to first Health: {statistics.median(starts):.2f} s "
        f"(of {len(starts)} starts, {min(starts):.2f} to {max(starts):.2f})"
    )
    with Backend(OMP_NUM_THREADS="1") as backend:
        first = seconds(lambda: backend.load(SHAPES_MODEL))
        say(f"first load, the libraries' import included: {first:.1f} s")
        loads, made = through_the_server(backend, pictures)
        backend.stub.Free(backend_pb2.HealthMessage())
    plain_loads, plain_made = plainly(pictures, threads=1)
    for what, ours, plain in (("load", loads, plain_loads), (f"picture of {STEPS} steps", made, plain_made)):
        mine, theirs = statistics.median(ours), statistics.median(plain)
        say(
            f"{what}: {mine:.3f} s through the server, {theirs:.3f} s plain, "
            f"{(mine - theirs) * 1000:+.0f} ms ({mine / theirs:.2f}x)"
        )


if __name__ == "__main__":
    main()
