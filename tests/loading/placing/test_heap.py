# SPDX-License-Identifier: MIT
"""While weights are exchanged for smaller ones the process keeps none of those that are freed."""

from __future__ import annotations

import unittest
from pathlib import Path

import torch

from localai_diffusers.loading.placing import heap

STATUS = Path("/proc/self/status")


def megabytes() -> int:
    """Memory of the process that is in no file."""
    return int(STATUS.read_text().split("RssAnon:")[1].split()[0]) >> 10


@unittest.skipUnless(STATUS.exists(), "only Linux tells")
class HeapTest(unittest.TestCase):
    def test_freed_weights_are_the_systems_again(self) -> None:
        """Every second one is freed, so that none of the holes lies at the heap's end."""
        torch.ones(2**22)  # freed at once: from now on glibc would keep smaller ones
        with heap.freed_at_once():
            before, kept = megabytes(), [torch.ones(2**18) for _ in range(256)]
            full = megabytes()
            del kept[::2]
            self.assertLess(megabytes() - before, (full - before) * 0.6)


if __name__ == "__main__":
    unittest.main()
