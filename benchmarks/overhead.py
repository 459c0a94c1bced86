# SPDX-License-Identifier: MIT
"""What the server costs on top of diffusers: time to Health, listing, load and pictures beside the plain calls.

Run: ``venv/bin/python benchmarks/overhead.py [--rounds N] [--against CHECKOUT]``. All is measured in this one run, so
that the machine's speed cancels out. A picture's cost is told apart into a fixed part and a part for each step, from
pictures of few and of many steps of a tiny Stable Diffusion: plain and served ones take turns in a random order, and
the medians are compared, by the clock and by processor time (which other work on the machine disturbs less).
The figures are written to benchmarks/results/overhead.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import backend_pb2  # noqa: E402
from tests.support import SHAPES_MODEL, Backend  # noqa: E402
from tests.zoo import checkpoint  # noqa: E402

TINY = "StableDiffusionPipeline"
PROMPT = "a red circle on a blue background"
FEW, MANY = 2, 42
RESULTS = HOME / "benchmarks" / "results" / "overhead.json"
LISTING = (
    "import time; t = time.perf_counter(); import diffusers_dynamic_loader as l; n = len(l.get_available_pipelines()); "
    "print(n, time.perf_counter() - t)"
)


class Spent(NamedTuple):
    """Seconds that one picture took: by the clock, and of the processor."""

    wall: float
    cpu: float


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def seconds(work: Callable[[], Any]) -> float:
    """How long ``work()`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu_seconds(pid: int) -> float:
    """Processor time that the living threads of a process have had (Linux), to the nanosecond."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


def listing() -> tuple[int, float]:
    """Number of pipelines and median seconds to list them, each in a fresh interpreter (its own start not counted)."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", LISTING], cwd=HOME, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(5)
    ]
    return int(runs[0][0]), statistics.median(float(run[1]) for run in runs)


def loaded_plainly(model: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def loads(backend: Backend) -> tuple[float, float]:
    """Median seconds of a load of the shipped model: through the server, plain."""
    served = [seconds(lambda: backend.load(SHAPES_MODEL)) for _ in range(5)]
    plain = [seconds(lambda: loaded_plainly(SHAPES_MODEL)) for _ in range(5)]
    return statistics.median(served), statistics.median(plain)


# --- pictures ------------------------------------------------------------------------------------------------------

Draw = Callable[[int], Path]


def served(backend: Backend, names: Iterator[int]) -> Draw:
    """A picture over gRPC, in a file that was not there before, as the core asks for it."""
    return lambda steps: backend.image(PROMPT, f"{next(names)}.png", width=64, height=64, step=steps, seed=1)


def plain(pipe: Any, folder: Path, names: Iterator[int]) -> Draw:
    """The same picture by pipe() in this process."""
    import torch

    def draw(steps: int) -> Path:
        dst = folder / f"{next(names)}.png"
        generator = torch.Generator("cpu").manual_seed(1)
        pipe(PROMPT, width=64, height=64, num_inference_steps=steps, generator=generator).images[0].save(dst)
        return dst

    return draw


def spent(draw: Draw, steps: int, pid: int) -> Spent:
    """What one picture took in the process ``pid``."""
    cpu, began = cpu_seconds(pid), time.perf_counter()
    dst = draw(steps)
    found = Spent(time.perf_counter() - began, cpu_seconds(pid) - cpu)
    dst.unlink()
    return found


def pixels(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def pictures(draws: dict[str, tuple[Draw, int]], rounds: int) -> dict[tuple[str, int], list[Spent]]:
    """What each way and number of steps took, in an order of its own in every round."""
    turns = list(itertools.product(draws, (FEW, MANY)))
    taken: dict[tuple[str, int], list[Spent]] = {turn: [] for turn in turns}
    for number in range(rounds + 2):
        random.shuffle(turns)
        for name, steps in turns:
            found = spent(draws[name][0], steps, draws[name][1])
            if number >= 2:  # the first ones warm up
                taken[name, steps].append(found)
    return taken


def compared(taken: dict[tuple[str, int], list[Spent]], name: str) -> dict[str, float]:
    """The costs of ``name`` over the plain call: fixed and a step in milliseconds, and the ratio for MANY steps."""
    figures: dict[str, float] = {}
    for clock in Spent._fields:
        mine, theirs = (
            [statistics.median(getattr(one, clock) for one in taken[who, steps]) for steps in (FEW, MANY)]
            for who in (name, "plain")
        )
        over = [a - b for a, b in zip(mine, theirs, strict=True)]
        step = (over[1] - over[0]) / (MANY - FEW)
        figures |= {
            f"fixed_ms_{clock}": (over[0] - FEW * step) * 1000,
            f"step_ms_{clock}": step * 1000,
            f"ratio_{MANY}_steps_{clock}": mine[1] / theirs[1],
        }
    return figures


def measured_pictures(backends: dict[str, Backend], rounds: int) -> dict[str, Any]:
    """The figures of each backend beside the plain call, and whether its picture is the plain one."""
    import torch

    torch.set_num_threads(1)
    names = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        draws = {"plain": (plain(loaded_plainly(checkpoint(TINY)), Path(folder), names), os.getpid())}
        draws |= {name: (served(backend, names), backend.process.pid) for name, backend in backends.items()}
        wanted = pixels(draws["plain"][0](FEW))
        same = {name: pixels(draws[name][0](FEW)) == wanted for name in backends}
        taken = pictures(draws, rounds)
    plain_ms = statistics.median(one.wall for one in taken["plain", MANY]) * 1000
    found = {name: {"equal_to_plain": same[name], **compared(taken, name)} for name in backends}
    return {"rounds": rounds, f"plain_{MANY}_steps_ms": plain_ms, **found}


def machine() -> dict[str, Any]:
    import diffusers
    import torch

    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def starts() -> list[float]:
    """Seconds from exec to the first Health of five servers."""
    found = []
    for _ in range(5):
        with Backend() as backend:
            found.append(backend.seconds_to_health)
    return found


def told(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        say(f"{name}: {json.dumps(value, indent=2) if isinstance(value, dict) else value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="pictures of each kind")
    parser.add_argument("--against", type=Path, help="another checkout, whose server is measured in the same run")
    parser.add_argument("--pictures-only", action="store_true", help="leave out starts, listing and loads")
    asked = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine()}
    if not asked.pictures_only:
        count, listed = listing()
        begun = starts()
        figures |= {f"listing_{count}_pipelines_s": listed, "start_to_health_s": statistics.median(begun)}
    homes = {"served": HOME} | ({"against": asked.against.resolve()} if asked.against else {})
    with contextlib.ExitStack() as running:
        backends = {name: running.enter_context(Backend(home)) for name, home in homes.items()}
        if not asked.pictures_only:
            figures["first_load_s"] = seconds(lambda: backends["served"].load(SHAPES_MODEL))
            figures["load_s"], figures["plain_load_s"] = loads(backends["served"])
        for backend in backends.values():
            assert backend.load(checkpoint(TINY)).success
        figures["pictures"] = measured_pictures(backends, asked.rounds)
        for backend in backends.values():
            backend.stub.Free(backend_pb2.HealthMessage())
    told(figures)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
