# SPDX-License-Identifier: MIT
"""Out of memory: RESOURCE_EXHAUSTED with a hint, everything given back, and a smaller request succeeds."""

from __future__ import annotations

import os
import time
import unittest

from tests.gated import CODE, ServerCase, limit_memory, resident_bytes


class OutOfMemoryTest(ServerCase):
    """A limit on the address space stands for a machine with little memory: torch's allocator fails in it."""

    def test_a_request_that_is_too_large_is_told_so_and_a_smaller_one_succeeds(self) -> None:
        self.backend.picture(step=1)
        before = resident_bytes(self.backend.process.pid)
        limit_memory(self, 80 << 20)
        for _ in range(2):
            text = self.assert_status(
                CODE.RESOURCE_EXHAUSTED,
                lambda: self.backend.picture("never.png", width=4096, height=4096, step=1),
            )
            self.assertIn("smaller size", text)
            self.assert_serves()
        self.assertNotIn("never.png", self.backend.outputs())
        self.assertLess(resident_bytes(self.backend.process.pid) - before, 100e6)

    def test_no_generation_or_load_leaves_a_thread(self) -> None:
        def threads() -> int:
            return len(os.listdir(f"/proc/{self.backend.process.pid}/task"))

        self.backend.picture(step=1)
        before = threads()
        for _ in range(15):
            self.backend.picture(step=1)
        for _ in range(5):
            self.backend.load_shapes()
        self.assertLessEqual(threads() - before, 2)

    def test_memory_after_many_generations_is_what_it_was(self) -> None:
        for _ in range(5):
            self.backend.picture(step=1)
        before = resident_bytes(self.backend.process.pid)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            self.backend.picture(step=1)
        self.assertLess(resident_bytes(self.backend.process.pid) - before, 5e6)


if __name__ == "__main__":
    unittest.main()
