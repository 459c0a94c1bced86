# SPDX-License-Identifier: MIT
"""Rank 0's side: start the peers, hand all ranks the same work, and never wait for one that is gone.

The peers are started by ``torch.multiprocessing.start_processes``, torch's launcher of ranks inside a program. Not by
torchrun (``torch.distributed.run``): that one starts every rank itself, and starts all again if one dies, but rank 0 is
this process, which the core started and which holds the port.

Work and answers go through a pipe to each peer, so that an idle peer waits in no operation that could time out; only
what the ranks compute, and rank 0's word at each step, goes through torch.distributed. Rank 0 computes in a thread of
its own: an operation that waits for a dead peer cannot be broken off, and the job has to end all the same.
"""

from __future__ import annotations

import contextvars
import logging
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, TypeVar

from localai_diffusers.errors import AcceleratorLost, LoadError, is_out_of_memory, status_message
from localai_diffusers.work.ranks import peer, together
from localai_diffusers.work.ranks.together import Outcome, Place, Together

if TYPE_CHECKING:
    from localai_diffusers.work.jobs import Control

log = logging.getLogger(__name__)
T = TypeVar("T")

GRACE_SECONDS = 30.0  # for the others to end like one that failed: what all ranks fail at, they fail at together
_LOOK_SECONDS = 0.2  # between two looks at the peers
_END_SECONDS = 2.0  # for idle peers to end by themselves
_ENDS = "this backend ends, and the next request starts another"


@dataclass
class _PeerProcess:
    """A peer as rank 0 sees it: its process, its pipe, and the answer that it owes or gave."""

    number: int
    process: Any
    pipe: connection.Connection
    owes: bool = False
    outcome: Outcome | None = None

    @property
    def gone(self) -> str:
        """How the process ended, "" while it lives."""
        code = self.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return "" if code is None else f"rank {self.number} (process {self.process.pid}) ended with {how}"

    def look(self, seconds: float) -> None:
        """Take the answer if it comes within ``seconds``."""
        if self.owes and connection.wait([self.pipe, self.process.sentinel], seconds) and self.pipe.poll():
            try:
                self.outcome, self.owes = self.pipe.recv(), False
            except (EOFError, OSError):  # it is dying
                self.process.join(_END_SECONDS)


@dataclass
class Group:
    """The ranks of the one model that computes on several devices; torch has one default process group, too."""

    count: int
    kind: str
    peers: list[_PeerProcess]
    folder: str
    lost: str = ""

    def ask(self, work: Callable[..., None], *arguments: Any) -> None:
        """Hand ``work(peer, control, *arguments)``, a function of a module, to every peer. AcceleratorLost without
        them."""
        message = together.packed((work, arguments))
        for one in self.peers:
            one.outcome = None
            try:
                one.pipe.send_bytes(message)
                one.owes = True
            except OSError:
                one.process.join(_END_SECONDS)
                raise self._give_up(one.gone) from None

    def answers(self, check: Callable[[], None]) -> None:
        """Wait until every peer has done what it was asked for, calling ``check`` now and then.

        Raises LoadError for a peer that died or failed: for work that rank 0 has no part in.
        """
        while waiting := [one for one in self.peers if one.owes]:
            check()
            waiting[0].look(_LOOK_SECONDS)
            if gone := next((one.gone for one in self.peers if one.gone), ""):
                raise LoadError(f"{gone} while it loaded the model")
        for one in self.peers:
            if one.outcome is not None and one.outcome.error:
                raise LoadError(f"rank {one.number}: {one.outcome.text}")

    def run(
        self, own: Callable[[Together], T], work: Callable[..., None], *arguments: Any, control: Control | None = None
    ) -> T:
        """``own`` on this rank and ``work`` on every peer at once, both under rank 0's ``control``: ``own``'s result.

        Raises its error where all ranks failed alike, and AcceleratorLost where a peer died or the ranks do not agree:
        none can compute on, for nobody knows which operation the others are in.
        """
        if reason := self.lost or next((one.gone for one in self.peers if one.gone), ""):
            raise self._give_up(reason)
        self.ask(work, *arguments)
        shared = Together(control)
        ours = _started(own, shared)
        while not futures.wait([ours], _LOOK_SECONDS).done:
            if reason := self._odd():
                error = self._give_up(reason)
                futures.wait([ours], _END_SECONDS)
                raise error
        self._settle(ours.exception(), shared)
        return ours.result()

    def join(self) -> None:
        """Make all ranks one process group of torch's."""
        self.run(lambda _control: together.join(Place(0, self.count, self.kind, self.folder)), _join)

    def end(self) -> None:
        """End the peers, and be no group any more."""
        for one in self.peers:
            one.pipe.close()
            if one.owes or self.lost:
                one.process.kill()
        for one in self.peers:
            one.process.join(_END_SECONDS)
            one.process.kill()
        if not self.lost or self.kind == "cpu":  # a device's backend might wait for a rank that is gone
            together.leave()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _odd(self) -> str:
        """Why the work of this rank may never end: a peer is gone, or failed while this one goes on."""
        for one in self.peers:
            one.look(0)
            if one.gone:
                return one.gone
            if one.outcome is not None and one.outcome.error:
                return f"rank {one.number} failed ({one.outcome.error})"
        return ""

    def _settle(self, error: BaseException | None, shared: Together) -> None:
        """Take every peer's answer. Raises AcceleratorLost unless all ended as this rank did, with ``error``."""
        own = Outcome(type(error).__name__ if error else "", shared.heard)
        patience = together.COLLECTIVE_TIMEOUT.total_seconds() if error is None else GRACE_SECONDS
        until = time.monotonic() + patience
        for one in self.peers:
            one.look(max(0.0, until - time.monotonic()))
            if one.outcome is None or not one.outcome.agrees(own) or (error and is_out_of_memory(error)):
                told = f"rank {one.number} {_ended(one.outcome)}, rank 0 {_ended(own)}"
                raise self._give_up(f"{status_message(error)} ({told})" if error and not one.gone else one.gone or told)

    def _give_up(self, reason: str) -> AcceleratorLost:
        """No peer is of use any more: end them, which frees whoever waits for them, and return what to raise."""
        self.lost = reason
        for one in self.peers:
            one.process.kill()
        return AcceleratorLost(f"{reason}: {_ENDS}")


def _ended(outcome: Outcome | None) -> str:
    if outcome is None:
        return "did not end"
    return f"{'failed' if outcome.error else 'ended'} after {outcome.steps} steps"


def _join(one: peer.Peer, _control: Together) -> None:
    together.join(one.place)


def _started(own: Callable[[Together], T], shared: Together) -> futures.Future[T]:
    """``own(shared)`` in a thread that nobody has to wait for, in the context of this one."""
    ours: futures.Future[T] = futures.Future()
    context = contextvars.copy_context()

    def compute() -> None:
        try:
            ours.set_result(context.run(own, shared))
        except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
            ours.set_exception(error)

    threading.Thread(target=compute, name="rank-0", daemon=True).start()
    return ours


_current: Group | None = None


def current() -> Group | None:
    """The group of the model that is loaded, None where it computes in this process alone."""
    return _current


def start(count: int, kind: str, log_format: str = "text") -> Group:
    """Start ``count - 1`` peers, each on the next device of ``kind``; the group that they are with us."""
    global _current
    from torch import multiprocessing as launcher

    end()
    folder = tempfile.mkdtemp(prefix="localai-ranks-")
    group = _current = Group(count, kind, [], folder)
    for number in range(1, count):
        ours, theirs = multiprocessing.Pipe()
        started = launcher.start_processes(
            peer.serve,
            (theirs, Place(number, count, kind, folder), log_format),
            join=False,
            daemon=True,
            start_method="spawn",
        )
        theirs.close()
        group.peers.append(_PeerProcess(number, started.processes[0], ours))
    log.info("ranks 1 to %d started", count - 1)
    return group


def end() -> None:
    """End the peers of the model before, if it had any."""
    global _current
    group, _current = _current, None
    if group is not None:
        group.end()
