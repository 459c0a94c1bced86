"""Health while a load and a generation run: the core reloads a model elsewhere when it does not answer."""
from __future__ import annotations

import threading
import time
import unittest
from collections.abc import Callable

from tests.gated import EMPTY, GatedBackend, shapes_backend

# The promise is 50 ms; a machine that shares its cores with others gets more. benchmarks/soak.py prints the true one.
P99_BAR = 0.25
STALL_BAR = 1.0  # seconds, while modules are imported


class Prober:
    """Asks for Health every few milliseconds as long as the block runs; the seconds that each took are in ``times``."""

    def __init__(self, backend: GatedBackend) -> None:
        self.times: list[float] = []
        self._backend = backend
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._probe, daemon=True)

    def __enter__(self) -> Prober:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _probe(self) -> None:
        while not self._stop.wait(0.004):
            began = time.perf_counter()
            self._backend.stub.Health(EMPTY, timeout=10)
            self.times.append(time.perf_counter() - began)

    def percentile(self, share: float) -> float:
        return sorted(self.times)[min(int(len(self.times) * share), len(self.times) - 1)]


class HealthTest(unittest.TestCase):
    def probed(self, work: Callable[[], object]) -> Prober:
        with Prober(shapes_backend()) as prober:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                work()
        return prober

    def test_while_a_generation_runs(self) -> None:
        shapes_backend().load_shapes()
        prober = self.probed(shapes_backend().picture)
        self.assertGreater(len(prober.times), 100)
        self.assertLess(prober.percentile(0.99), P99_BAR)

    def test_while_models_are_loaded(self) -> None:
        shapes_backend().load_shapes()
        prober = self.probed(shapes_backend().load_shapes)
        self.assertGreater(len(prober.times), 50)
        self.assertLess(prober.percentile(0.99), P99_BAR)

    def test_while_the_libraries_are_imported_and_the_first_model_is_loaded(self) -> None:
        with GatedBackend() as backend, Prober(backend) as prober:
            backend.load_shapes()
        self.assertLess(max(prober.times), STALL_BAR)


if __name__ == "__main__":
    unittest.main()
