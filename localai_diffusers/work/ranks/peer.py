# SPDX-License-Identifier: MIT
"""A peer: a process that does what rank 0 hands it, one piece of work after the other, and ends with it.

It opens no port, writes no file, and logs errors alone.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from localai_diffusers import logs
from localai_diffusers.errors import status_message
from localai_diffusers.work.ranks.together import Outcome, Place, Together, unpacked


@dataclass
class Peer:
    """This process, as its work sees it: where it computes, and the model that it holds."""

    place: Place
    model: Any = None


def serve(_index: int, pipe: connection.Connection, place: Place, log_format: str) -> None:
    """Do what comes through ``pipe``, until rank 0 closes it or dies. ``_index`` is what torch's launcher passes."""
    import torch
    from tqdm import tqdm

    _end_with_parent(place.folder)
    logs.configure("ERROR", log_format)  # nor are bars drawn at this level
    tqdm.set_lock(threading.RLock())  # its own lock is for several processes: a semaphore, which would outlast this one
    if place.kind != "cpu":
        torch.accelerator.set_device_index(place.number)
    peer = Peer(place)
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            os._exit(0)  # nothing of a communicator's own end may hold it up
        pipe.send(_outcome(peer, message))


def _outcome(peer: Peer, message: bytes) -> Outcome:
    """Do the work; how it ended. Its error's frames, and what they hold, are gone afterwards."""
    control = Together()
    try:
        work, arguments = unpacked(message, peer.place)
        work(peer, control, *arguments)
    except BaseException as error:  # noqa: BLE001 - rank 0 tells it
        return Outcome(type(error).__name__, control.heard, status_message(error))
    return Outcome("", control.heard)


def _end_with_parent(folder: str) -> None:
    """End this process as soon as rank 0 is gone, however it went and whatever hangs here.

    torch's launcher asks the kernel for a SIGINT then, which Python would hear only after the operation that hangs.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
