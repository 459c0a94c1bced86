# SPDX-License-Identifier: MIT
"""Who may call, for which model, and whether the parent lives: on a real gRPC server and real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import grpc

import backend
import backend_pb2
import backend_pb2_grpc
from localai_diffusers.settings import Settings
from localai_diffusers.wire import guard
from localai_diffusers.work.engine import Engine
from tests.support import HOME, FolderCase


@contextmanager
def serving(settings: Settings, loaded: str = "") -> Iterator[backend_pb2_grpc.BackendStub]:
    """A client of a server in this process; ``loaded`` is the identity of a model that it pretends to have."""
    engine = Engine(8)
    if loaded:
        engine.load(loaded, lambda _job, _current: lambda: None).wait(10)
    server, port = backend.make_server("127.0.0.1:0", settings, backend.BackendServicer(settings, engine))
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = backend_pb2_grpc.BackendStub(channel)
            stub.channel = channel
            yield stub
    finally:
        server.stop(0).wait(5)
        engine.shutdown(5)


def alone(**fields: Any) -> Settings:
    return Settings(parent_watch=False, **fields)


def _services() -> Iterator[Any]:
    """A request of reflection: which services there are."""
    from grpc_reflection.v1alpha import reflection_pb2

    yield reflection_pb2.ServerReflectionRequest(list_services="")


def _silence() -> Iterator[Any]:
    threading.Event().wait(15)
    yield from ()


class TokenTest(unittest.TestCase):
    def ask(self, stub: backend_pb2_grpc.BackendStub, *metadata: tuple[str, str | bytes]) -> grpc.StatusCode | None:
        """The status of a Health call, None if it is answered."""
        try:
            stub.Health(backend_pb2.HealthMessage(), timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
        return None

    def test_every_rpc_needs_the_token_health_too(self) -> None:
        with serving(alone(auth_token="secret")) as stub:
            for metadata in (
                (),
                (("authorization", "Bearer wrong"),),
                (("authorization", "secret"),),
                (("authorization", "Bearer secret2"),),
            ):
                self.assertEqual(self.ask(stub, *metadata), grpc.StatusCode.UNAUTHENTICATED)
            self.assertIsNone(self.ask(stub, ("authorization", "Bearer secret")))
            with self.assertRaises(grpc.RpcError) as caught:
                stub.GenerateImage(backend_pb2.GenerateImageRequest(), timeout=10)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAUTHENTICATED)

    def test_a_stream_needs_the_token_too(self) -> None:
        """A stream of requests, and one whose first request does not come."""
        with serving(alone(auth_token="secret", reflection=True)) as stub:
            for asked in (_services(), _silence()):
                self.assertEqual(self.reflected(stub, asked), "UNAUTHENTICATED")
            self.assertEqual(self.reflected(stub, _services(), ("authorization", "Bearer secret")), "")

    def test_reflection_is_there_where_it_is_asked_for(self) -> None:
        for asked, code in ((False, "UNIMPLEMENTED"), (True, "")):
            with serving(alone(reflection=asked)) as stub:
                self.assertEqual(self.reflected(stub, _services()), code)

    def reflected(self, stub: backend_pb2_grpc.BackendStub, asked: Iterator[Any], *metadata: tuple[str, str]) -> str:
        """How the stream of reflection ends, "" where its first answer names our service."""
        from grpc_reflection.v1alpha import reflection_pb2_grpc

        answers = reflection_pb2_grpc.ServerReflectionStub(stub.channel).ServerReflectionInfo(
            asked, metadata=metadata, timeout=20
        )
        try:
            self.assertIn("backend.Backend", str(next(answers)))
        except grpc.RpcError as error:
            return error.code().name
        return ""

    def test_without_a_token_in_the_environment_anyone_may_call(self) -> None:
        with serving(alone()) as stub:
            self.assertIsNone(self.ask(stub))
            self.assertIsNone(self.ask(stub, ("authorization", "Bearer whatever")))


class IdentityTest(unittest.TestCase):
    def status(self, stub: backend_pb2_grpc.BackendStub, identity: str) -> tuple[grpc.StatusCode, str]:
        request = backend_pb2.GenerateImageRequest(positive_prompt="x", dst="/nowhere/x.png", ModelIdentity=identity)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.GenerateImage(request, timeout=10)
        return caught.exception.code(), caught.exception.details()

    def test_another_model_than_the_loaded_one_is_not_found_in_the_words_that_the_router_knows(self) -> None:
        with serving(alone(), "owner/loaded") as stub:
            self.assertEqual(
                self.status(stub, "owner/other"),
                (grpc.StatusCode.NOT_FOUND, "model identity mismatch: loaded 'owner/loaded', requested 'owner/other'"),
            )

    def test_the_same_model_or_none_passes(self) -> None:
        with serving(alone(), "owner/loaded") as stub:
            for identity in ("owner/loaded", ""):
                self.assertNotEqual(self.status(stub, identity)[0], grpc.StatusCode.NOT_FOUND)

    def test_while_nothing_is_loaded_it_is_the_missing_model_that_is_told(self) -> None:
        with serving(alone()) as stub:
            self.assertEqual(self.status(stub, "owner/other")[0], grpc.StatusCode.FAILED_PRECONDITION)

    def test_a_load_of_another_model_passes(self) -> None:
        with serving(alone(), "owner/loaded") as stub:
            result = stub.LoadModel(backend_pb2.ModelOptions(Model="no such model"), timeout=60)
            self.assertNotIn("mismatch", result.message)


STUB = """
import grpc
calls = []

class Refuse(grpc.ServerInterceptor):
    def intercept_service(self, continuation, details):
        calls.append(details.method)
        def refuse(request, context):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "LocalAI's own")
        return grpc.unary_unary_rpc_method_handler(refuse)

def get_auth_interceptors(*, aio=False):
    calls.append("asked")
    return [Refuse()]
"""


class LocalAITest(FolderCase):
    """LocalAI's common/grpc_auth.py, beside backend.py in an image and one level up in its tree."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(setattr, sys, "path", list(sys.path))
        self.addCleanup(sys.modules.pop, "grpc_auth", None)

    def install(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "grpc_auth.py").write_text(textwrap.dedent(STUB))

    def test_it_is_used_wherever_it_stands_and_ours_is_not(self) -> None:
        for where in ("backend/common", "common"):
            sys.modules.pop("grpc_auth", None)
            tree = Path(tempfile.mkdtemp(dir=self.folder))
            (tree / "backend").mkdir()
            self.install(tree / where)
            with mock.patch.object(backend, "HOME", tree / "backend"), serving(Settings(auth_token="secret")) as stub:
                with self.assertRaises(grpc.RpcError) as caught:
                    stub.Health(backend_pb2.HealthMessage(), timeout=10)
            self.assertEqual(caught.exception.details(), "LocalAI's own")
            self.assertEqual(sys.modules["grpc_auth"].calls, ["asked", "/backend.Backend/Health"])

    def test_without_it_ours_guard(self) -> None:
        found = guard.interceptors(alone(auth_token="x"), lambda: "", self.folder)
        self.assertEqual([type(one).__name__ for one in found], ["TokenInterceptor", "IdentityInterceptor"])


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.DEVNULL, stderr=open(sys.argv[2], "w"))
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import time
from pathlib import Path
from localai_diffusers.wire import guard
from localai_diffusers.settings import Settings
guard.interceptors(Settings.from_environ(), lambda: "", Path("/nowhere"))
open(__import__("os").environ["READY"], "w").close()
time.sleep(60)
"""


class ParentTest(FolderCase):
    """A child of a process that is killed: the core died, and nobody would stop its backend."""

    def survives(self, **environ: str) -> bool:
        """Whether the child still lives 2 seconds after its parent was killed; its looks are 0.05 s apart."""
        ready = self.folder / f"ready{len(environ)}"
        env = {
            **os.environ,
            "PYTHONPATH": str(HOME),
            "READY": str(ready),
            "LOCALAI_BACKEND_PARENT_WATCH_INTERVAL": "0.05",
            **environ,
        }
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, CHILD, str(self.folder / "log")], env=env, stdout=subprocess.PIPE, text=True
        )
        pid = int(parent.stdout.readline())
        self.addCleanup(lambda: alive(pid) and os.kill(pid, 9))
        self.wait_until(ready.exists)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + (10 if not environ else 1)
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive(pid)

    def wait_until(self, condition: Any) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_the_process_ends_when_its_parent_does(self) -> None:
        self.assertFalse(self.survives())

    def test_the_watch_can_be_switched_off(self) -> None:
        self.assertTrue(self.survives(LOCALAI_BACKEND_PARENT_WATCH="0"))


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie that nobody reaps does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()
