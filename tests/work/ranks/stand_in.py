# SPDX-License-Identifier: MIT
"""A stand-in of a sharded call, for ranks on CPUs: each adds its share of a sum at every step, as ranks of a context
parallel exchange theirs. diffusers' own does not run on CPUs."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any
from unittest import mock

from localai_diffusers.work.jobs import Control
from localai_diffusers.work.progress import step_bar
from localai_diffusers.work.ranks import group
from localai_diffusers.work.ranks.peer import Peer


def summed(control: Control, values: Any, seed: int, steps: int) -> Any:
    """``steps`` times the sum over the ranks of ``values`` and of noise that the seed makes."""
    import torch

    total = torch.zeros_like(values)
    for step in range(steps):
        share = values + torch.rand(values.shape, generator=torch.Generator().manual_seed(seed))
        torch.distributed.all_reduce(share)
        total += share
        control.report(step + 1, steps)
    return total


def summing_peer(_peer: Peer, control: Control, values: Any, seed: int, steps: int) -> None:
    summed(control, values, seed, steps)


def dying_peer(_peer: Peer, control: Control, values: Any, seed: int, steps: int) -> None:
    summed(control, values, seed, steps - 1)
    os.kill(os.getpid(), signal.SIGKILL)


def failing_peer(_peer: Peer, _control: Control, *_: Any) -> None:
    raise ValueError("refused")


def stuck_peer(_peer: Peer, _control: Control, *_: Any) -> None:
    time.sleep(60)


def drawing_peer(_peer: Peer, _control: Control) -> None:
    """A bar on what seems to be a terminal: an error where it is drawn, or leaves a semaphore."""
    from tqdm import tqdm
    from tqdm.std import TqdmDefaultWriteLock

    with mock.patch.object(sys.stderr, "isatty", return_value=True):
        bar = step_bar(None, range(2))
    assert bar.disable, "it is drawn"
    assert not isinstance(tqdm.get_lock(), TqdmDefaultWriteLock), "its lock is a semaphore"


def main() -> None:
    """Rank 0 as a process of its own: it tells its peers' ids, and then waits for them inside an operation."""
    import torch

    ranks = group.start(3, "cpu")
    ranks.join()
    ranks.ask(stuck_peer)
    print(*(one.process.pid for one in ranks.peers), flush=True)
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
