# SPDX-License-Identifier: MIT
"""What all ranks share: the process group, the word of rank 0 at each step, and the form of what is sent."""

from __future__ import annotations

import io
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from localai_diffusers.errors import Cancelled

if TYPE_CHECKING:
    from localai_diffusers.work.jobs import Control

# How long a rank may wait for another inside one operation: the first step of a large model can take minutes.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Place:
    """Which rank of how many a process is, on which kind of device; ``folder`` is where the ranks find each other."""

    number: int
    count: int
    kind: str
    folder: str

    @property
    def device(self) -> str:
        """As torch names it. diffusers computes rank n on the n-th device, and leaves no choice."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"


class Outcome(NamedTuple):
    """How a piece of work ended on a rank: the class of its error ("" for none), the steps at which it heard rank 0,
    and the error's text, for whoever loads the model."""

    error: str
    steps: int
    text: str = ""

    def agrees(self, other: Outcome) -> bool:
        return (self.error, self.steps) == (other.error, other.steps)


class Together:
    """The control of work that all ranks run: at each step the word of rank 0 is everybody's.

    ``control``: rank 0's own, None on a peer. A rank that stopped alone would leave the others waiting for it inside
    an operation, so the cancel of rank 0 is heard by all at the same step, and between the steps by nobody.
    """

    def __init__(self, control: Control | None = None) -> None:
        self._control = control
        self.step = self.heard = 0

    def check(self) -> None:
        """Nothing: not all ranks are here at once."""

    def restart(self) -> None:
        self.step = 0
        if self._control is not None:
            self._control.restart()

    def report(self, step: int, total: int) -> None:
        """Raise Cancelled on every rank if rank 0's work is wanted no more."""
        import torch

        own = self._refusal(step, total)
        said = torch.tensor([own is not None], dtype=torch.uint8)
        torch.distributed.broadcast(said, src=0)
        self.step, self.heard = step, self.heard + 1
        if said.item():
            raise own or Cancelled("the call was cancelled: rank 0 stopped it")

    def _refusal(self, step: int, total: int) -> Cancelled | None:
        try:
            if self._control is not None:
                self._control.report(step, total)
        except Cancelled as error:
            return error
        return None


def join(place: Place) -> None:
    """Make this process a rank of torch's default process group; all ranks must call it.

    Tensors of the CPU go by gloo, those of devices by their own backend, as diffusers' context parallel asks for. The
    ranks meet in a file of a private folder and talk over the loopback: nobody else can join, and no port is fixed.
    """
    import torch.distributed as dist

    own = "gloo" if place.kind == "cpu" else f"cpu:gloo,{place.kind}:{dist.get_default_backend_for_device(place.kind)}"
    loopback = next((name for _index, name in socket.if_nameindex() if name.startswith("lo")), None)
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if loopback:
            os.environ.setdefault(variable, loopback)
    store = dist.FileStore(str(Path(place.folder) / "ranks"), place.count)
    dist.init_process_group(own, store=store, rank=place.number, world_size=place.count, timeout=COLLECTIVE_TIMEOUT)


def leave() -> None:
    """Be no rank any more."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def packed(work: Any) -> bytes:
    """``work`` for another rank; tensors go as their values, not as handles on this rank's device."""
    import torch

    buffer = io.BytesIO()
    torch.save(work, buffer)
    return buffer.getvalue()


def unpacked(message: bytes, place: Place) -> Any:
    """What was packed by rank 0, its tensors on this rank's device. Only for what comes through its own pipe."""
    import torch

    return torch.load(io.BytesIO(message), map_location={f"{place.kind}:0": place.device}, weights_only=False)
