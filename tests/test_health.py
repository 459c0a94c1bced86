"""Health while a load and a generation run: the core reloads a model elsewhere when it does not answer."""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable

from tests.gated import Prober, first_run, shapes_backend

# The promise is 50 ms; a machine that shares its cores with others gets more. benchmarks/soak.py prints the
# true one.
P99_BAR = 0.25
STALL_BAR = 1.0  # seconds, while modules are imported


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
        self.assertLess(max(first_run().prober.times), STALL_BAR)


if __name__ == "__main__":
    unittest.main()
