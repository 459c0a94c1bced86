# SPDX-License-Identifier: MIT
"""Health while a load and a generation run: the core reloads a model elsewhere when it does not answer."""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable

from tests.gated import Prober, assert_within, first_run, shapes_backend

# The promise. Measured: 0.003 to 0.013 on two cores that others kept busy too, once 0.034; so one try of three must
# keep it. benchmarks/soak.py measures it for minutes, under every kind of client.
P99_BAR = 0.05
STALL_BAR = 1.0  # seconds, while modules are imported


class HealthTest(unittest.TestCase):
    def p99(self, work: Callable[[], object]) -> float:
        """The 99th percentile of Health's seconds while ``work`` is done over and over."""
        with Prober(shapes_backend()) as prober:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                work()
        self.assertGreater(len(prober.times), 100)
        self.assertEqual(prober.missed, [])
        return prober.percentile(0.99)

    def test_while_a_generation_runs(self) -> None:
        shapes_backend().load_shapes()
        assert_within(self, P99_BAR, lambda: self.p99(shapes_backend().picture))

    def test_while_models_are_loaded(self) -> None:
        shapes_backend().load_shapes()
        assert_within(self, P99_BAR, lambda: self.p99(shapes_backend().load_shapes))

    def test_while_the_libraries_are_imported_and_the_first_model_is_loaded(self) -> None:
        def stall() -> float:
            longest = max(first_run().prober.times)
            if longest >= STALL_BAR:
                first_run.cache_clear()  # the next try is another process's life
            return longest

        assert_within(self, STALL_BAR, stall)


if __name__ == "__main__":
    unittest.main()
