# SPDX-License-Identifier: MIT
"""The real server for a command: a process of its own, or one that runs; loads and requests, watched as they go on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from localai_diffusers.cli.terminal import CANCELLED, Fault, tell
from localai_diffusers.settings import Settings
from localai_diffusers.wire.proto import FACTS_KEY

HOME = Path(__file__).resolve().parents[2]
_MESSAGE_BYTES = 50 << 20
_START_SECONDS, _LOOK_SECONDS = 60.0, 0.2


def messages() -> Any:
    """The generated module, which lies beside backend.py wherever the command is called from."""
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    import backend_pb2

    return backend_pb2


@contextlib.contextmanager
def connected(address: str = "", verbose: bool = False) -> Iterator[Any]:
    """A stub of the server at ``address``; without one, of a process that lives as long as the block.

    Raises Fault where there is none, or none comes up.
    """
    with contextlib.nullcontext(address) if address else _running(verbose) as where:
        pb2 = messages()
        import backend_pb2_grpc

        with grpc.insecure_channel(where, options=[("grpc.max_receive_message_length", _MESSAGE_BYTES)]) as channel:
            stub = backend_pb2_grpc.BackendStub(channel)
            try:
                stub.Health(pb2.HealthMessage(), timeout=_START_SECONDS, wait_for_ready=not address, metadata=_token())
            except grpc.RpcError as error:
                raise Fault(f"no backend answers at {where}: {error.details()}") from None
            yield stub


def _token() -> list[tuple[str, str]]:
    token = Settings.from_environ().auth_token
    return [("authorization", f"Bearer {token}")] if token else []


@contextlib.contextmanager
def _running(verbose: bool) -> Iterator[str]:
    address = f"127.0.0.1:{_free_port()}"
    with process_at(address, verbose):
        yield address


@contextlib.contextmanager
def process_at(address: str, verbose: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that listens at ``address``, ended with the block. It has a process group of its own: Ctrl-C is
    ours to pass on. ``verbose``: its log goes to stderr."""
    # The pictures of a person's own server say what made them.
    environment = {"LOCALAI_DIFFUSERS_METADATA": "full", **os.environ}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, str(HOME / "backend.py"), "--addr", address],
            stderr=None if verbose else log,
            env=environment,
            process_group=0,
        )
        try:
            _wait_for_port(address, process, log)
            yield process
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for_port(address: str, process: subprocess.Popen[bytes], log: Any) -> None:
    """Until something listens there: a gRPC channel that is refused once waits a second before it tries again."""
    host, _, port = address.partition(":")
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.01)
    log.seek(0)
    last = log.read().decode(errors="replace").strip().splitlines()[-1:]
    raise Fault(f"the server did not come up: {''.join(last) or 'it said nothing'}")


def load(stub: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Load the model of these ModelOptions. Returns what the server says of it (``LoadedModel.facts``, nothing where
    it is another server than ours); its notes go to stderr.

    Raises Fault with the server's own words.
    """
    pb2, began = messages(), time.monotonic()
    request = pb2.ModelOptions(**{name: value for name, value in fields.items() if name in known(pb2.ModelOptions)})
    result, trailing = _watched(stub, stub.LoadModel, request, None, "Cancelled while the model was loaded")
    if not result.success:
        raise Fault(result.message)
    tell(f"{result.message} ({time.monotonic() - began:.1f} s)")
    return json.loads(trailing.get(FACTS_KEY, b"{}"))


def known(message: Any) -> Any:
    """The fields of a message: the core's newer ones need not be in these stubs."""
    return message.DESCRIPTOR.fields_by_name


def generate(stub: Any, rpc: str, request: Any, steps: int = 0) -> Any:
    """The Result of the request. ``steps``: how many there will be, 0 where nobody knows.

    Raises Fault with the status, or with how far it was when Ctrl-C came.
    """
    return _watched(stub, getattr(stub, rpc), request, steps, "Cancelled")[0]


def _watched(stub: Any, method: Any, request: Any, steps: int | None, cancelled: str) -> Any:
    """The answer and its trailing metadata, while a bar says how far the work is (``steps`` of None: nobody asks)."""
    before = _steps_taken(stub) if steps is not None else 0
    call, bar, taken = method.future(request, metadata=_token()), _Bar(steps or 0), 0
    try:
        while not call.done():
            with contextlib.suppress(grpc.FutureTimeoutError, grpc.RpcError):
                call.result(timeout=_LOOK_SECONDS)
            if steps is not None and not call.done():
                taken = max(taken, _steps_taken(stub) - before)
                bar.show(taken)
        return call.result(), dict(call.trailing_metadata() or ())
    except KeyboardInterrupt:
        call.cancel()
        where = f" at step {taken}" + (f" of {steps}" if steps else "") if taken else ""
        raise Fault(cancelled + where, CANCELLED) from None
    except grpc.RpcError as error:
        raise Fault(f"{error.code().name}: {error.details()}") from None
    finally:
        bar.clear()


def _steps_taken(stub: Any) -> int:
    """Inference steps since the server's start, those of the running request too."""
    try:
        return stub.GetMetrics(messages().MetricsRequest(), timeout=5, metadata=_token()).tokens_generated
    except grpc.RpcError:
        return 0


class _Bar:
    """How far the steps are, on a terminal; nothing anywhere else."""

    def __init__(self, total: int) -> None:
        self._total, self._began, self._shown = total, time.monotonic(), False
        self._wanted = sys.stderr.isatty()

    def show(self, taken: int) -> None:
        if not self._wanted or not taken:
            return
        text = f"step {taken}"
        if self._total >= taken:
            left = (time.monotonic() - self._began) / taken * (self._total - taken)
            done = round(30 * taken / self._total)
            text = f"{'█' * done}{'░' * (30 - done)} {taken}/{self._total}, {left:.0f} s left"
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
