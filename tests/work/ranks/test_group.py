# SPDX-License-Identifier: MIT
"""Ranks on CPU processes by gloo, around a stand-in of the sharded call: started, handed work, stopped, lost, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from localai_diffusers.errors import AcceleratorLost, Cancelled, LoadError
from localai_diffusers.work.jobs import Job
from localai_diffusers.work.ranks import group
from localai_diffusers.work.ranks.together import Together
from tests.support import HOME
from tests.work.ranks import stand_in

VALUES = torch.arange(4.0)


def ranks() -> group.Group:
    """Two ranks: those that the test before left, as long as nobody died."""
    found = group.current()
    if found is None or found.lost:
        found = group.start(2, "cpu")
        found.join()
    return found


def run(work: Any = stand_in.summing_peer, steps: int = 3, control: Any = None) -> Any:
    """The stand-in's sum on this rank, ``work`` on the other."""
    own = ranks()
    return own.run(lambda shared: stand_in.summed(shared, VALUES, 7, steps), work, VALUES, 7, steps, control=control)


class RanksTest(unittest.TestCase):
    @classmethod
    def tearDownClass(cls) -> None:
        group.end()

    def test_every_rank_gets_the_arguments_and_the_seed(self) -> None:
        noise = torch.rand(4, generator=torch.Generator().manual_seed(7))
        torch.testing.assert_close(run(), 3 * 2 * (VALUES + noise))

    def test_a_peer_draws_no_bar_and_leaves_no_semaphore(self) -> None:
        own = ranks()
        own.ask(stand_in.drawing_peer)
        own.answers(lambda: None)  # or a LoadError with what is wrong

    def test_a_cancel_stops_all_ranks_at_the_same_step_and_the_next_call_runs(self) -> None:
        job: Job[Any] = Job(lambda _job: None, "GenerateImage")
        own = ranks()

        def until_the_second_step(shared: Together) -> Any:
            report, shared.report = shared.report, mock.Mock(side_effect=lambda *at: cancel(report, *at))  # type: ignore[method-assign]
            return stand_in.summed(shared, VALUES, 7, 9)

        def cancel(report: Any, step: int, total: int) -> None:
            if step == 2:
                job.cancel("the client left")
            report(step, total)

        with self.assertRaisesRegex(Cancelled, "the client left"):
            own.run(until_the_second_step, stand_in.summing_peer, VALUES, 7, 9, control=job)
        self.assertEqual([one.outcome[:2] for one in own.peers if one.outcome], [("Cancelled", 2)])
        self.assertIsNotNone(run())

    def test_what_all_ranks_fail_at_is_told_as_it_is_and_the_next_call_runs(self) -> None:
        def fail(_shared: Together) -> None:
            raise ValueError("refused")

        with self.assertRaisesRegex(ValueError, "refused"):
            ranks().run(fail, stand_in.failing_peer)
        self.assertIsNotNone(run())

    def test_what_one_rank_alone_fails_at_loses_them_all(self) -> None:
        with self.assertRaisesRegex(AcceleratorLost, "this backend ends"):
            run(stand_in.failing_peer)

    def test_a_peer_that_never_answers_is_not_waited_for(self) -> None:
        def fail(_shared: Together) -> None:
            raise MemoryError

        with mock.patch.object(group, "GRACE_SECONDS", 0.1), self.assertRaisesRegex(AcceleratorLost, "did not end"):
            ranks().run(fail, stand_in.stuck_peer)

    def test_a_peer_that_dies_ends_the_call_and_every_later_one(self) -> None:
        with self.assertRaisesRegex(AcceleratorLost, r"rank 1 \(process \d+\) ended with signal 9"):
            run(stand_in.dying_peer)
        lost = group.current()
        assert lost is not None
        with self.assertRaisesRegex(AcceleratorLost, "signal 9"):
            lost.run(lambda _shared: None, stand_in.summing_peer)

    def test_rank_0_ends_although_its_operation_waits_for_a_dead_peer(self) -> None:
        """As one of NCCL's does, where gloo's fails."""
        never = threading.Event()
        self.addCleanup(never.set)
        with self.assertRaisesRegex(AcceleratorLost, "signal 9"), mock.patch.object(group, "_END_SECONDS", 0.1):
            ranks().run(lambda _shared: never.wait(), stand_in.dying_peer, VALUES, 7, 1)

    def test_a_failed_load_of_a_peer_is_told(self) -> None:
        ranks().ask(stand_in.failing_peer)
        with self.assertRaisesRegex(LoadError, "rank 1: .*refused"):
            ranks().answers(lambda: None)

    def test_an_end_leaves_no_process_and_no_folder(self) -> None:
        own = ranks()
        group.end()
        self.assertFalse(any(one.process.is_alive() for one in own.peers))
        self.assertFalse(Path(own.folder).exists())
        self.assertFalse(torch.distributed.is_initialized())


class EndTest(unittest.TestCase):
    def test_peers_die_with_rank_0_however_it_dies(self) -> None:
        """Whoever has inherited the pipe is dead once it can be read to its end."""
        command = [sys.executable, "-m", stand_in.__name__]
        with subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as rank_0:
            assert rank_0.stdout is not None
            self.assertEqual(len(rank_0.stdout.readline().split()), 2)
            os.kill(rank_0.pid, signal.SIGKILL)
            rank_0.communicate(timeout=20)
