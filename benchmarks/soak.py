# SPDX-License-Identifier: MIT
"""A server under random good, bad, cancelled and killed clients, reloaded, freed, stopped and killed on the
way.

Run: ``venv/bin/python benchmarks/soak.py [--minutes N] [--clients N]``. Prints the figures and exits with 1
if a picture was wrong, a status was not of the contract, a file was left over, or a stopped server did not
end well. The server is stopped (SIGTERM) after a third of the time and killed (SIGKILL) after two thirds;
memory is compared within each life.
"""

from __future__ import annotations

import argparse
import collections
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import grpc  # noqa: E402

import backend_pb2_grpc  # noqa: E402
from tests.gated import CODE, GatedBackend, Prober, pixels, resident_bytes, shown_in  # noqa: E402

STEPS = 12
PROMPTS = [
    f"a {color} {shape} on a white background"
    for color in ("red", "blue", "green")
    for shape in ("circle", "square", "triangle")
]
# What one client does next, and how often.
ACTIONS = {"good": 50, "bad": 25, "cancelled": 15, "deadline": 6, "dropped": 3, "killed": 1}
BAD = (
    {"step": -1},
    {"width": -8},
    {"src": "/missing"},
    {"dst": ""},
    {"prompt": "\0"},
    {"CLIPSkip": -1},
    {"width": 2**30},
    {"ModelIdentity": "another"},
    {"ref_images": ["/dev/zero"]},
    {"dst": "/missing/x.png"},
)
REFUSALS = (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND)
# While the server is freed, stopped or killed, these are what a client must expect.
INTERRUPTIONS = (CODE.CANCELLED, CODE.FAILED_PRECONDITION, CODE.UNAVAILABLE)
# A client of its own process, which is killed while it waits.
CLIENT = (
    "import sys, grpc; sys.path.insert(0, sys.argv[1]); import backend_pb2 as p, backend_pb2_grpc as g; "
    "g.BackendStub(grpc.insecure_channel(sys.argv[2])).GenerateImage("
    "p.GenerateImageRequest(positive_prompt='x', step=200, width=64, height=64, dst=sys.argv[3]))"
)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Soak:
    """What all clients share: the server, what is right, and the counts of what happened."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.times: list[float] = []
        self.growth: list[float] = []
        self.lock = threading.Lock()
        self.serial = 0
        self.backend = GatedBackend()
        self.right: dict[str, bytes] = {}

    def note(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def fault(self, what: str) -> None:
        with self.lock:
            self.faults.append(what)

    def name(self) -> str:
        with self.lock:
            self.serial += 1
            return f"soak-{self.serial}.png"

    # One action each

    def good(self, backend: GatedBackend) -> None:
        prompt, name = self.random.choice(PROMPTS), self.name()
        if pixels(backend.picture(name, prompt, step=STEPS)) != self.right[prompt]:
            self.fault(f"{name} is wrong: {shown_in(backend.folder / name)} for {prompt}")
        (backend.folder / name).unlink()

    def bad(self, backend: GatedBackend) -> None:
        try:
            backend.picture(**{"name": self.name(), **self.random.choice(BAD)})
        except grpc.RpcError as error:
            if error.code() not in (*REFUSALS, *INTERRUPTIONS):
                self.fault(f"a bad request ended with {error.code()}: {error.details()}")
            return
        self.fault("a bad request was served")

    def cancelled(self, backend: GatedBackend) -> None:
        name = self.name()
        call = backend.start(name, prompt=self.random.choice(PROMPTS), step=STEPS)
        time.sleep(self.random.random())
        call.cancel()
        self.drop_later(backend.folder / name)

    def deadline(self, backend: GatedBackend) -> None:
        name = self.name()
        call = backend.start(name, timeout=self.random.random() + 0.01, step=STEPS)
        error = call.exception()
        if error is not None and error.code() not in (CODE.DEADLINE_EXCEEDED, *INTERRUPTIONS):
            self.fault(f"a deadline ended with {error.code()}")
        self.drop_later(backend.folder / name)

    def dropped(self, backend: GatedBackend) -> None:
        """The connection closes under the call."""
        name, channel = self.name(), backend.new_channel()
        call = backend_pb2_grpc.BackendStub(channel).GenerateImage.future(backend.request(name, step=STEPS))
        time.sleep(self.random.random())
        channel.close()
        call.cancel()
        self.drop_later(backend.folder / name)

    def killed(self, backend: GatedBackend) -> None:
        """The client's process dies."""
        path = backend.folder / self.name()
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(HOME), f"127.0.0.1:{backend.port}", str(path)],
            stderr=subprocess.DEVNULL,
        )
        time.sleep(1 + self.random.random())
        client.kill()
        client.wait()
        self.drop_later(path)

    def drop_later(self, path: Path) -> None:
        """Who cancels may be too late: the picture was made, whole, and is no orphan."""
        path.unlink(missing_ok=True)

    # The threads

    def client(self, until: float) -> None:
        while time.monotonic() < until:
            action = self.random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            try:
                getattr(self, action)(self.backend)
                self.note(action)
            except grpc.RpcError as error:
                if error.code() not in INTERRUPTIONS:
                    self.fault(f"{action} ended with {error.code()}: {error.details()}")
                self.note("interrupted")
                time.sleep(0.2)
            except Exception as error:  # noqa: BLE001 - a client's thread must not die silently
                self.fault(f"{action}: {type(error).__name__}: {error}")

    def live(self, seconds: float, clients: int, end: signal.Signals) -> None:
        """One life of the server under its clients, to its end by ``end``."""
        backend = self.backend
        backend.load_shapes()
        self.learn()
        before = resident_bytes(backend.process.pid)
        with Prober(backend, 0.02) as prober:
            until = time.monotonic() + seconds
            threads = [threading.Thread(target=self.client, args=(until,)) for _ in range(clients)]
            for thread in threads:
                thread.start()
            self.operate(until)
            for thread in threads:
                thread.join()
        self.times += prober.times
        self.faults += [f"Health failed: {text}" for text in prober.missed]
        self.settle(before)
        self.end(end)

    def operate(self, until: float) -> None:
        """Reload or free and load the model now and then, as a router does."""
        while time.monotonic() < until:
            time.sleep(min(10, max(0, until - time.monotonic())))
            if self.random.random() < 0.5:
                self.backend.free()
            self.backend.load_shapes()
            self.note("reload")

    def learn(self) -> None:
        """The right picture of every prompt, each made alone, and judged."""
        for prompt in PROMPTS:
            path = self.backend.picture("learn.png", prompt, step=STEPS)
            if shown_in(path) != prompt:
                say(f"note: {prompt!r} shows {shown_in(path)!r} when made alone: {STEPS} steps are few")
            if self.right.setdefault(prompt, pixels(path)) != pixels(path):
                self.fault(f"{prompt} is another picture after a restart")
        (self.backend.folder / "learn.png").unlink()

    def settle(self, before: int) -> None:
        """The queue runs dry; then no file is left, and memory is where it was."""
        self.backend.wait_for_state("READY", seconds=60)
        time.sleep(0.5)
        for path in self.backend.folder.glob("soak-*.png"):
            path.unlink()  # of clients that left too late: whole pictures
        left = self.backend.outputs()
        if left:
            self.fault(f"files were left: {sorted(left)}")
        self.growth.append((resident_bytes(self.backend.process.pid) - before) / 2**20)

    def end(self, number: signal.Signals) -> None:
        """End the server in the middle of work, and start the next."""
        call = self.backend.start("ending.png", step=500)
        time.sleep(0.3)
        began = time.monotonic()
        self.backend.process.send_signal(number)
        code = self.backend.process.wait(20)
        call.cancel()
        say(f"{number.name}: exit code {code} after {time.monotonic() - began:.2f} s")
        if number == signal.SIGTERM and (code != 0 or self.backend.outputs()):
            self.fault(f"SIGTERM: exit code {code}, files {sorted(self.backend.outputs())}")
        self.backend = GatedBackend()

    def report(self) -> int:
        times = sorted(self.times)
        say("  ".join(f"{name} {count}" for name, count in sorted(self.counts.items())))
        shares = {share: 1000 * times[int(len(times) * share)] for share in (0.5, 0.99, 0.999)}
        say(
            f"Health, {len(times)} probes: "
            + ", ".join(f"p{100 * share:g} {ms:.1f} ms" for share, ms in shares.items())
            + f", longest {1000 * times[-1]:.1f} ms"
        )
        say("memory grown, MiB, in each life: " + ", ".join(f"{grown:.1f}" for grown in self.growth))
        for text in self.faults[:20]:
            say(f"FAULT: {text}")
        say(f"{len(self.faults)} faults")
        return 1 if self.faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    soak = Soak(options.seed)
    for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        soak.live(options.minutes * 20, options.clients, end)
    soak.backend.stop()
    return soak.report()


if __name__ == "__main__":
    sys.exit(main())
