# SPDX-License-Identifier: MIT
"""What the server costs on top of diffusers: one table of figures beside their bars.

Run: ``make bench``, or ``venv/bin/python benchmarks/overhead.py [--only GROUP] [--rounds N] [--against CHECKOUT]``. All
is measured in this one run, plain diffusers in this process and served in a child of it, in turns of a random order, so
that the machine's speed cancels out. Medians are compared, by the clock, and beside it by processor time, which other
work on the machine disturbs less. The table is kept in benchmarks/results/overhead.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from benchmarks import processes  # noqa: E402
from benchmarks.common import HOME, Figure, keep, machine, say, table  # noqa: E402
from tests.gated import Prober  # noqa: E402
from tests.support import SHAPES_MODEL, Backend  # noqa: E402
from tests.zoo import checkpoint  # noqa: E402

TINY = "StableDiffusionPipeline"
PROMPT = "a red circle on a blue background"
FEW, MIDDLE, MANY = 2, 20, 42
REQUESTS, CLIENTS = 16, 4
MIB = 2**20
LISTING = (
    "import time; t = time.perf_counter(); import diffusers_dynamic_loader as l; n = len(l.get_available_pipelines()); "
    "print(n, time.perf_counter() - t)"
)


class Spent(NamedTuple):
    """Seconds that a piece of work took: by the clock, and of the processor."""

    wall: float
    cpu: float


Draw = Callable[[int], Path]


def spent(work: Callable[[], Any], pid: int) -> Spent:
    """What ``work()`` took in the process ``pid``."""
    cpu, began = processes.cpu_seconds(pid), time.perf_counter()
    work()
    return Spent(time.perf_counter() - began, processes.cpu_seconds(pid) - cpu)


def medians(taken: list[Spent]) -> Spent:
    return Spent(*(statistics.median(getattr(one, clock) for one in taken) for clock in Spent._fields))


def in_turns(ways: dict[Any, Callable[[], Spent]], rounds: int) -> dict[Any, Spent]:
    """The median of each way, all of them in an order of its own in every round; two rounds before warm up."""
    turns, taken = list(ways), {way: list[Spent]() for way in ways}
    for number in range(rounds + 2):
        random.shuffle(turns)
        for way in turns:
            found = ways[way]()
            if number >= 2:
                taken[way].append(found)
    return {way: medians(found) for way, found in taken.items()}


# --- plain and served --------------------------------------------------------------------------------------------


def loaded_plainly(model: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


def pixels(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


# --- groups of rows ----------------------------------------------------------------------------------------------


def pictures(home: Path, rounds: int) -> list[Figure]:
    """A picture's fixed cost, its cost a step, and whether it is the plain one."""
    names = itertools.count()
    with Backend(home) as backend, tempfile.TemporaryDirectory() as folder:
        assert backend.load(checkpoint(TINY)).success
        draws = {
            "plain": (plain(loaded_plainly(checkpoint(TINY)), Path(folder), names), os.getpid()),
            "served": (served(backend, names), backend.process.pid),
        }
        same = pixels(draws["plain"][0](FEW)) == pixels(draws["served"][0](FEW))

        def way(name: str, steps: int) -> Callable[[], Spent]:
            draw, pid = draws[name]
            return lambda: spent(lambda: draw(steps).unlink(), pid)

        turns = itertools.product(draws, (FEW, MIDDLE, MANY))
        taken = in_turns({turn: way(*turn) for turn in turns}, rounds)
    over = {
        steps: [a - b for a, b in zip(taken["served", steps], taken["plain", steps], strict=True)]
        for steps in (FEW, MANY)
    }
    step = [(many - few) / (MANY - FEW) for few, many in zip(over[FEW], over[MANY], strict=True)]
    fixed = [few - FEW * one for few, one in zip(over[FEW], step, strict=True)]
    ratio = [a / b for a, b in zip(taken["served", MIDDLE], taken["plain", MIDDLE], strict=True)]
    return [
        Figure("picture: fixed cost", fixed[0] * 1000, "ms", most=3, cpu=fixed[1] * 1000),
        Figure("picture: cost a step", step[0] * 1000, "ms", most=0.09, cpu=step[1] * 1000),
        Figure(f"picture of {MIDDLE} steps / plain", ratio[0], most=1.03, cpu=ratio[1]),
        Figure("picture equals the plain one to the last bit (1 = yes)", float(same), least=1),
    ]


def requests(home: Path, rounds: int) -> list[Figure]:
    """Pictures a second of several clients beside one direct call after the other."""
    names = itertools.count()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct = plain(loaded_plainly(checkpoint(TINY)), folder, names)
        ways = {"direct": lambda: spent(lambda: [direct(MIDDLE) for _ in range(REQUESTS)], os.getpid())}
        for size in (1, 8):
            backend = stack.enter_context(Backend(home))
            assert backend.load(checkpoint(TINY), Options=[f"max_batch:{size}"]).success
            ways[f"max_batch:{size}"] = _many(served(backend, names), backend.process.pid)
        taken = in_turns(ways, max(rounds // 6, 3))
    figures = []
    for way, least in (("max_batch:1", 0.97), ("max_batch:8", 1.05)):
        ratio = [a / b for a, b in zip(taken["direct"], taken[way], strict=True)]
        name = f"{REQUESTS} requests of {CLIENTS} clients, pictures a second / direct, {way}"
        figures.append(Figure(name, ratio[0], least=least, cpu=ratio[1]))
    return figures


def _many(draw: Draw, pid: int) -> Callable[[], Spent]:
    def work() -> None:
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(draw, [MIDDLE] * REQUESTS))

    return lambda: spent(work, pid)


def loads(home: Path, rounds: int) -> list[Figure]:
    """A load of a model again beside plain from_pretrained, in processes that have imported all they need."""
    with Backend(home) as backend:
        ways = {
            "served": lambda: spent(lambda: backend.load(SHAPES_MODEL), backend.process.pid),
            "plain": lambda: spent(lambda: loaded_plainly(SHAPES_MODEL), os.getpid()),
        }
        taken = in_turns(ways, max(rounds // 3, 5))
    ratio = [a / b for a, b in zip(taken["served"], taken["plain"], strict=True)]
    return [Figure("load again / from_pretrained", ratio[0], most=1.1, cpu=ratio[1])]


def memory(home: Path, _rounds: int) -> list[Figure]:
    """Memory above that of the process with a tiny model, beside the bytes of the weights."""
    with Backend(home) as backend, tempfile.TemporaryDirectory() as folder:
        pid = backend.process.pid
        assert backend.load(checkpoint(TINY)).success
        backend.image(PROMPT, width=64, height=64, step=FEW, seed=1)
        before = processes.resident(pid)
        weights = large_model(Path(folder)) - _weights(checkpoint(TINY))
        assert backend.load(folder).success
        backend.image(PROMPT, width=64, height=64, step=FEW, seed=1)
        held = processes.resident(pid) - before
        processes.forget_peak(pid)
        assert backend.load(folder).success
        highest = processes.peak(pid) - before
    return [
        Figure("resident above the process after a picture / weights", held / weights, most=1.1),
        Figure("peak of a reload above the process / weights", highest / weights, most=1.1),
    ]


def large_model(folder: Path) -> int:
    """The tiny pipeline with a U-Net of half a gigabyte in ``folder``; the bytes of all its weights."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    pipe = StableDiffusionPipeline.from_pretrained(checkpoint(TINY), safety_checker=None)
    config = dict(pipe.unet.config) | {"block_out_channels": [352, 704], "norm_num_groups": 32, "layers_per_block": 2}
    pipe.register_modules(unet=UNet2DConditionModel.from_config(config))
    pipe.save_pretrained(folder)
    return _weights(folder)


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def starts(home: Path, _rounds: int) -> list[Figure]:
    """From exec to the first Health, memory at that moment, and the listing of pipelines."""
    seconds, resident = [], []
    for _ in range(5):
        with Backend(home) as backend:
            resident.append(processes.resident(backend.process.pid) / MIB)
            seconds.append(backend.seconds_to_health)
    count, listed = listing(home)
    return [
        Figure("start to Health", statistics.median(seconds), "s", most=0.5),
        Figure("resident then", statistics.median(resident), "MiB", most=80),
        Figure(f"listing of {count} pipelines in a fresh process", listed * 1000, "ms"),
    ]


def listing(home: Path) -> tuple[int, float]:
    """Number of pipelines and median seconds to list them, each in a fresh interpreter (its own start not counted)."""
    command = [sys.executable, "-c", LISTING]
    runs = [
        subprocess.run(command, cwd=home, capture_output=True, text=True, check=True).stdout.split() for _ in range(5)
    ]
    return int(runs[0][0]), statistics.median(float(run[1]) for run in runs)


def health(home: Path, _rounds: int) -> list[Figure]:
    """How long Health takes while a fresh process loads its first model, and while it draws; of three processes."""
    first, drawing = [], []
    for _ in range(3):
        with Backend(home) as backend:
            with Prober(backend) as prober:  # type: ignore[arg-type]
                assert backend.load(SHAPES_MODEL).success
            first.append(prober.percentile(0.99))
            with Prober(backend) as prober:  # type: ignore[arg-type]
                backend.image(PROMPT, width=64, height=64, step=200, seed=1)
            drawing.append(prober.percentile(0.99))
    return [
        Figure("Health p99 during a first load", statistics.median(first) * 1000, "ms", most=50),
        Figure("Health p99 during a picture", statistics.median(drawing) * 1000, "ms", most=50),
    ]


def cold(home: Path, _rounds: int) -> list[Figure]:
    """From exec to the shipped model's first picture, the load asked for at the first Health; and what a load and a
    picture take once the libraries are in, as where the core probes, waits, and then loads."""
    whole = [_first_picture(home, 0.0) for _ in range(3)]
    warm = [_first_picture(home, 15.0) for _ in range(3)]
    return [
        Figure("start to first picture of the shipped model", medians(whole).wall, "s", most=4, cpu=medians(whole).cpu),
        Figure("first load and picture of a server that has warmed up", medians(warm).wall, "s", cpu=medians(warm).cpu),
    ]


def _first_picture(home: Path, idle: float) -> Spent:
    """``idle``: seconds that the server has before the load, which are not counted."""
    with Backend(home) as backend:
        began, cpu = backend.started_at, 0.0
        if idle:
            time.sleep(idle)
            began, cpu = time.monotonic(), processes.cpu_seconds(backend.process.pid)
        assert backend.load(SHAPES_MODEL).success
        backend.image(PROMPT, width=64, height=64, step=MIDDLE, seed=1)
        return Spent(time.monotonic() - began, processes.cpu_seconds(backend.process.pid) - cpu)


GROUPS: dict[str, Callable[[Path, int], list[Figure]]] = {
    group.__name__: group for group in (pictures, requests, loads, memory, starts, health, cold)
}


def measured(home: Path, groups: list[str], rounds: int) -> list[Figure]:
    """The rows of ``groups`` for the checkout ``home``; one that fails says so and leaves the others."""
    found: list[Figure] = []
    for name in groups:
        try:
            found += GROUPS[name](home, rounds)
        except Exception as error:  # noqa: BLE001 - the other groups are still to be measured
            found.append(Figure(name, None, note=f"{type(error).__name__}: {error}".splitlines()[0]))
    return found


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="pictures of each kind")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="these rows alone")
    parser.add_argument("--against", type=Path, help="another checkout, which is measured first")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # as the servers have
    content: dict[str, Any] = {"machine": machine(), "rounds": asked.rounds}
    homes = ({"against": asked.against.resolve()} if asked.against else {}) | {"figures": HOME}
    for name, home in homes.items():
        figures = measured(home, asked.only, asked.rounds)
        say(f"{table(figures)}\n")
        content[name] = [figure.as_json() for figure in figures]
    if asked.only == list(GROUPS):
        say(f"kept in {keep('overhead', content).relative_to(HOME)}")


if __name__ == "__main__":
    main()
