# SPDX-License-Identifier: MIT
"""What the tests share: a real backend process on a free port, a client for it, and the shipped model."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import backend_pb2  # noqa: E402
import backend_pb2_grpc  # noqa: E402

SHAPES_MODEL = HOME / "examples" / "shapes-model"


# So that a model computes in the same dtype on every machine, by one thread.
_THE_SAME_ANYWHERE = {"LOCALAI_DIFFUSERS_AUTO": "0", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Backend:
    """A backend process of its own, its client, and a folder for its outputs. Use as a context manager.

    ``home``: the checkout whose backend.py is started.
    """

    def __init__(self, home: Path = HOME, **environ: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="backend-test-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)  # goes with this object
        self.port = free_port()
        self.log_file = self.folder / "stderr.log"
        self.environ = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(home), **_THE_SAME_ANYWHERE, **environ}
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(home / "backend.py"), "--addr", f"127.0.0.1:{self.port}"],
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=self.log_file.open("w"),
            cwd=self.folder,
        )
        self.channel = self.new_channel()  # connects at its first call
        self.stub = backend_pb2_grpc.BackendStub(self.channel)
        self.seconds_to_health = self._wait_for_health()

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What :class:`JoinedBackend` takes."""
        return f"{self.port}:{self.log_file}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def new_channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", 50 << 20)])

    def stop(self) -> int:
        """SIGTERM, as the core stops a backend. The exit code."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def load(self, model: str | Path, **fields: Any) -> Any:
        """LoadModel as the core sends it: Model verbatim and a ModelFile that may not exist."""
        fields.setdefault("ModelFile", str(model))
        options = [*fields.pop("Options", []), "device:cpu"]
        return self.stub.LoadModel(backend_pb2.ModelOptions(Model=str(model), Options=options, **fields), timeout=300)

    def image(self, prompt: str = "", name: str = "out.png", **fields: Any) -> Path:
        """GenerateImage into a file of ``name``; its path. Raises grpc.RpcError."""
        dst = self.folder / name
        timeout = fields.pop("timeout", 120)
        request = backend_pb2.GenerateImageRequest(positive_prompt=prompt, dst=str(dst), **fields)
        self.result = self.stub.GenerateImage(request, timeout=timeout)
        return dst

    def _wait_for_health(self) -> float:
        """Seconds from the start of the process to the first answer."""
        metadata = (("authorization", f"Bearer {self.environ.get('LOCALAI_GRPC_AUTH_TOKEN', '')}"),)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the backend ended with {self.process.returncode}:\n{self.log}")
            # A channel that was refused waits a second before it tries again, so the port is asked first.
            if _is_open(self.port):
                self.stub.Health(backend_pb2.HealthMessage(), timeout=30, wait_for_ready=True, metadata=metadata)
                return time.monotonic() - self.started_at
            time.sleep(0.01)
        raise RuntimeError(f"no Health from the backend:\n{self.log}")


class JoinedBackend(Backend):
    """A backend that another process started and will stop. ``address`` is its :attr:`Backend.address`."""

    def __init__(self, address: str) -> None:
        port, _, log_file = address.partition(":")
        self._temporary = tempfile.TemporaryDirectory(prefix="backend-test-", ignore_cleanup_errors=True)
        self.folder, self.port, self.log_file = Path(self._temporary.name), int(port), Path(log_file)
        self.channel = self.new_channel()
        self.stub = backend_pb2_grpc.BackendStub(self.channel)

    def stop(self) -> int:
        self.channel.close()
        return 0


def any_backend() -> Backend:
    """The one that the environment names in TESTS_BACKEND, else one of its own."""
    address = os.environ.get("TESTS_BACKEND")
    return JoinedBackend(address) if address else Backend()


def _is_open(port: int) -> bool:
    """Whether something listens on ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- in this process, without a server -----------------------------------------------------------------------------


def new_job() -> Any:
    """A job that nobody runs, for what only asks it whether to go on."""
    from localai_diffusers.work.jobs import Job

    return Job(lambda _job: None, "test")


def spec_of(model: str | Path, **fields: Any) -> Any:
    """The LoadSpec of a ModelOptions message as the core sends it, on the CPU unless an option names a device."""
    from localai_diffusers.wire import load_spec

    fields.setdefault("ModelFile", str(model))
    options = list(fields.pop("Options", []))
    options += [] if any(option.startswith("device:") for option in options) else ["device:cpu"]
    return load_spec.from_model_options(backend_pb2.ModelOptions(Model=str(model), Options=options, **fields))


def load(model: str | Path, settings: Any = None, **fields: Any) -> Any:
    """A LoadedModel, through the rooms that LoadModel goes through, on every machine in the same dtype. Raises
    what they raise."""
    from dataclasses import replace

    import torch

    from localai_diffusers.loading import pipelines
    from localai_diffusers.settings import Settings

    torch.set_num_threads(1)
    return pipelines.prepare(spec_of(model, **fields), replace(settings or Settings(), auto=False), new_job())()


@contextlib.contextmanager
def offloaded(mode: str) -> Iterator[None]:
    """While models are loaded, they are offloaded by ``mode`` with the CPU in the accelerator's place: diffusers' and
    accelerate's own hooks on every layer or component."""
    from dataclasses import replace
    from unittest import mock

    import torch

    from localai_diffusers.loading.placing import placement

    real = placement.plan
    with (
        mock.patch.object(placement, "plan", lambda *arguments: replace(real(*arguments), offload=mode)),
        mock.patch.object(torch.cpu, "mem_get_info", lambda _index: (0, 2**30), create=True),  # no room for two
    ):
        yield


@functools.cache
def zoo_model(name: str) -> Any:
    """The zoo's checkpoint ``name``, loaded once a process. Call it, don't change it."""
    from tests.zoo import checkpoint

    return load(checkpoint(name))


def image_request(prompt: str = "", settings: Any = None, **fields: Any) -> Any:
    """The GenerationRequest of a GenerateImageRequest message; its dst is a new file unless one is given."""
    from localai_diffusers.settings import Settings
    from localai_diffusers.wire import requests

    fields.setdefault("dst", str(Path(tempfile.mkdtemp(prefix="image-test-")) / "out.png"))
    message = backend_pb2.GenerateImageRequest(positive_prompt=prompt, **fields)
    return requests.from_image_request(message, settings or Settings())


def generate(model: Any, prompt: str = "", **fields: Any) -> tuple[Any, Any]:
    """The picture that GenerateImage makes and its Outcome."""
    from PIL import Image

    from localai_diffusers.generation import generation

    request = image_request(prompt, model.settings, **fields)
    outcome = generation.generate(model, request, new_job())
    with Image.open(request.dst) as image:
        image.load()
        return image, outcome


def call_of(model: Any, request: Any, defaults: Any = None, settings: Any = None) -> Any:
    """The Call of the loaded pipeline (or its sibling for the task) for a request."""
    from localai_diffusers.generation.arguments import call_arguments
    from localai_diffusers.pipeline import tasks
    from localai_diffusers.wire.intake import Intake

    profile = model.profile_as(tasks.class_for(request, model.pipeline, model.defaults.options))
    return call_arguments.build(request, profile, defaults or model.defaults, Intake(settings or model.settings))


def arguments_of(model: Any, prompt: str = "", **fields: Any) -> dict[str, Any]:
    """What GenerateImage would call the loaded pipeline (or its sibling for the task) with."""
    return dict(call_of(model, image_request(prompt, model.settings, **fields)).arguments)


def repainting(path: Path, source: Any, mask: Any) -> str:
    """The path of a file as the core writes it for inpainting: the pictures ``source`` and ``mask`` in its JSON."""

    def text(picture: Any) -> str:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    path.write_text(json.dumps({"image": text(source), "mask_image": text(mask)}))
    return str(path)


class FolderCase(unittest.TestCase):
    """A test with a folder of its own, and pictures in it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def picture(self, name: str = "src", size: tuple[int, int] = (64, 64), color: Any = "red") -> str:
        """Path of a PNG file of one color; like the core's files it has no extension unless ``name`` has."""
        from PIL import Image

        path = self.folder / name
        Image.new("RGB", size, color).save(path, "PNG")
        return str(path)

    def inpainting(self, size: tuple[int, int] = (64, 64), color: Any = "red", mask: Any = None) -> dict[str, Any]:
        """Fields of the core's inpainting request: the JSON, its two ref_images, 512x512 and seed 0.

        White in ``mask`` (a picture; by default all of it) is repainted.
        """
        image_path, mask_path = Path(self.picture("image", size, color)), Path(self.picture("mask", size, "white"))
        if mask is not None:
            mask.save(mask_path, "PNG")
        encoded = {
            name: base64.b64encode(path.read_bytes()).decode()
            for name, path in (("image", image_path), ("mask_image", mask_path))
        }
        source = self.folder / "inpaint.json"
        source.write_text(json.dumps(encoded))
        return {
            "src": str(source),
            "ref_images": [str(image_path), str(mask_path)],
            "width": 512,
            "height": 512,
            "seed": 0,
        }
