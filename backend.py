#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The gRPC server that LocalAI's core starts: flags, the port, and one short method an RPC.

The port is bound before torch is imported: the core gives a backend about 40 s, and a cold import can take longer.
Failures of the media RPCs are gRPC statuses (the core ignores their ``Result.success``); LoadModel alone answers with
its Result.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

import backend_pb2
import backend_pb2_grpc
from localai_diffusers import errors, logs
from localai_diffusers.loading import pipelines
from localai_diffusers.loading.placing import group_offload, process_state
from localai_diffusers.media import files
from localai_diffusers.settings import Settings
from localai_diffusers.wire import calls, guard, health, load_spec, pools, proto, requests
from localai_diffusers.wire.argument_limits import MAX_BATCH
from localai_diffusers.wire.intake import Intake, SourceMemory
from localai_diffusers.work import exporter, spans
from localai_diffusers.work.engine import Engine, State, Upkeep
from localai_diffusers.work.jobs import Job, as_ours

log = logging.getLogger("backend")
# (model, request, job, intake) -> what the RPC answers with; the job holds the intake, and with it what its media take.
Work = Callable[[Any, Any, Job[Any], Intake], Any]

HOME = Path(__file__).resolve().parent
MAX_MESSAGE_BYTES = 50 * 1024 * 1024  # what the core's client allows (pkg/grpc/client.go)
LOADED = "Model loaded successfully"
FREE_SECONDS = 4.0  # the core waits 5 s for Free
SHUTDOWN_SECONDS = 4.0
# Python's own 5 ms, several times for one answer, add up to 50 ms for Health while modules are imported; this to 7.
SWITCH_SECONDS = 0.001
# What every pipeline's own modules import in turn: 2.2 s of the first load's 2.7 s of processor time.
_SHARED_MODULES = (
    "transformers.modeling_utils",
    "diffusers.models.autoencoders.vae",
    "diffusers.loaders.single_file_utils",
    "diffusers.pipelines.pipeline_utils",
    "peft",
    "scipy.stats",
)
# Threads of requests that are read or refused, beside those that wait in the queue or run as one batch.
_SPARE_THREADS = 16


@contextlib.contextmanager
def fair_switching() -> Iterator[None]:
    """While modules are imported, other threads need not wait long for their turn; afterwards each switch would only
    cost."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """While modules are imported, which leave next to no garbage, the collector would only look at all of them again
    and again (0.4 s)."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@fair_switching()
@without_collector()
def warm_up() -> None:
    """Import the heavy libraries and what all pipelines share, so that the first load need not."""
    import diffusers  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from localai_diffusers.generation import generation  # noqa: F401
    from localai_diffusers.loading import pipelines  # noqa: F401
    from localai_diffusers.media import payloads  # noqa: F401

    for name in _SHARED_MODULES:
        with contextlib.suppress(ImportError):  # a pipeline that needs it says so
            importlib.import_module(name)
    # What the imports made stays for good: the collector need not look at it again (0.3 s less each time).
    gc.collect()
    gc.freeze()


def _get_ready() -> None:
    began = time.monotonic()
    warm_up()
    log.info("ready: the libraries are imported after %.1f s", time.monotonic() - began)


class BackendServicer(backend_pb2_grpc.BackendServicer):
    """The RPCs of the wire contract that a diffusers backend serves."""

    def __init__(self, settings: Settings | None = None, engine: Engine | None = None) -> None:
        self.settings = settings or Settings.from_environ()
        self.engine = engine or Engine(self.settings.max_queue, warm_up)
        self.memory = SourceMemory(self.settings.max_source_memory)
        self.exporter = self._exporter() if self.settings.metrics_addr else None

    def Health(self, request: Any, context: grpc.ServicerContext) -> Any:
        return backend_pb2.Reply(message=b"OK")

    def LoadModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        """A Result whatever happens: the core reads its ``success``, and a status would hide the message."""
        frame = calls.Frame(request, context)
        try:
            spec = load_spec.from_model_options(request)
            pipelines.refuse_early(spec)
            job = self.engine.load(spec.identity, self._preparation(spec))
            model = self._wait(job, context)
        except Exception as error:  # noqa: BLE001 - the unexpected too: a status would hide the message
            ours = as_ours(error, f"load of {request.Model!r}")
            log.error("load of %r failed: %s", request.Model, ours)
            frame.answered(errors.status_name(ours))
            return backend_pb2.Result(success=False, message=errors.one_line(ours))
        log.info("%s is loaded as %s in %.1f s", request.Model, model.summary(), frame.seconds)
        frame.succeeded()
        if self.exporter is not None:
            self.exporter.loaded(frame.seconds)
        # Beside the Result, which has no field for it in every proto; the commands of the terminal read it.
        context.set_trailing_metadata(((proto.FACTS_KEY, proto.as_json(model.facts())),))
        return backend_pb2.Result(success=True, message="; ".join((LOADED, *model.notes)))

    def GenerateImage(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._generate(request, context, requests.from_image_request)

    def GenerateVideo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._generate(request, context, requests.from_video_request)

    def SoundGeneration(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._generate(request, context, requests.from_sound_request)

    def Generate3D(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._generate(request, context, requests.from_3d_request)

    def UpscaleImage(self, request: Any, context: grpc.ServicerContext) -> Any:
        def upscale(model: Any, wanted: Any, job: Job[Any], _intake: Intake) -> Any:
            from localai_diffusers.generation import upscaling

            return upscaling.upscale(model, wanted, requests.upscale_factor(request), job)

        return self._generate(request, context, requests.from_upscale_request, upscale)

    def Depth(self, request: Any, context: grpc.ServicerContext) -> Any:
        def estimate(model: Any, wanted: Any, job: Job[Any], _intake: Intake) -> Any:
            from localai_diffusers.generation import depth

            return depth.estimate(model, wanted, tuple(request.exports), job)

        frame = calls.Frame(request, context, self.exporter)
        found = self._run(frame, request, context, requests.from_depth_request, estimate)
        log.info("%s done in %.2f s", frame.name, frame.seconds)
        height, width = found.values.shape
        values = found.values.ravel().tolist() if request.include_depth else []
        return backend_pb2.DepthResponse(width=width, height=height, depth=values, export_paths=found.exports)

    def Free(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self.engine.free(FREE_SECONDS):
            return backend_pb2.Result(success=True, message="memory freed")
        return backend_pb2.Result(
            success=True, message="the running work stops at its next step, then the memory is freed"
        )

    def Status(self, request: Any, context: grpc.ServicerContext) -> Any:
        state, breakdown = self.engine.state, {}
        model = self.engine.model
        if model is not None:
            breakdown = model.memory()
        total = sum(breakdown.values())
        memory = backend_pb2.MemoryUsageData(total=total, breakdown={**breakdown, **_memory(model)})
        return backend_pb2.StatusResponse(state=_WIRE_STATES[state], memory=memory)

    def GetMetrics(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Of a generator's metrics there are the steps: "tokens" are inference steps here, all since the start."""
        metrics = self.engine.metrics
        return backend_pb2.MetricsResponse(
            tokens_per_second=metrics.steps_per_second, tokens_generated=self.engine.steps
        )

    # What the RPCs share

    def _exporter(self) -> exporter.Exporter:
        """The series of this process, whose live values are the engine's."""

        def live() -> Iterator[tuple[str, str, float]]:
            yield "queue_depth", "Requests that wait", self.engine.waiting
            yield "running", "Requests that run, of a batch all", len(self.engine.running)
            for part, size in _memory(self.engine.model).items():
                yield f"memory_bytes:{part}", "Memory of the process, and of each accelerator", size

        found = exporter.Exporter(lambda: self.engine.identity, live)
        exporter.serve(found, self.settings.metrics_addr)
        self.engine.on_ran = found.ran
        self.engine.on_batch = found.ran_together
        return found

    def _preparation(self, spec: load_spec.LoadSpec) -> Callable[[Job[Any], Any], Callable[[], Any]]:
        @fair_switching()  # a pipeline's own modules are imported by its first load
        def prepare(job: Job[Any], _current: Any) -> Callable[[], Any]:
            with process_state.environment(spec.environment):
                build = fair_switching()(pipelines.prepare(spec, self.settings, job))

            def build_with_environment() -> Any:
                os.environ.update(spec.environment)  # until the next load, or Free
                from localai_diffusers.generation import warm_up

                model = build()
                warm_up.first_call(model, job)
                return model

            return build_with_environment

        return prepare

    def _generate(
        self,
        request: Any,
        context: grpc.ServicerContext,
        read: Callable[[Any, Settings, Intake], Any],
        generate: Work | None = None,
    ) -> Any:
        """A generation that writes ``dst``: Result.message says what was made, with which seed."""
        frame = calls.Frame(request, context, self.exporter)
        outcome = self._run(frame, request, context, read, generate or _generate)
        for note in outcome.notes:  # the core drops Result.message where all went well
            log.warning("%s: %s", frame.name, note)
        log.info("%s done: %s", frame.name, outcome.line(frame.seconds))
        facts = proto.as_json(outcome.facts())
        return proto.made(backend_pb2.Result, success=True, message=outcome.message(), metadata=facts)

    def _run(
        self,
        frame: calls.Frame,
        request: Any,
        context: grpc.ServicerContext,
        read: Callable[[Any, Settings, Intake], Any],
        work: Work,
    ) -> Any:
        """Read the request here, do the work on the pipeline's thread; a failure ends the RPC with its status."""
        try:
            self.engine.require_model()
            self.engine.require_room()
            result = self._wait(self._queued(request, read, work), context)
        except Exception as error:  # noqa: BLE001 - the unexpected too, as INTERNAL with its cause
            frame.abort(as_ours(error, type(request).__name__))
        frame.succeeded()
        return result

    def _queued(self, request: Any, read: Callable[[Any, Settings, Intake], Any], work: Work) -> Job[Any]:
        """The job that does the work. It alone holds what was read: no frame that an error's traceback keeps."""
        intake = Intake(self.settings, self.memory)
        wanted = read(request, self.settings, intake)
        identity = getattr(request, "ModelIdentity", "")
        batch = _batch(self.engine.model, wanted, identity) if work is _generate else None
        return self.engine.generate(lambda job, model: work(model, wanted, job, intake), wanted.rpc, identity, batch)

    def _wait(self, job: Job[Any], context: grpc.ServicerContext) -> Any:
        """The job's result; an RPC that ends first (client gone, deadline) cancels it."""
        if not context.add_callback(lambda: job.cancel("the client left or its deadline passed")):
            job.cancel("the client left before the work began")
        return job.wait()


def _generate(model: Any, wanted: Any, job: Job[Any], intake: Intake) -> Any:
    from localai_diffusers.generation import generation

    return generation.generate(model, wanted, job, intake)


def _batch(model: Any, wanted: Any, identity: str) -> Any:
    """How the request may run with its neighbors; nothing is imported for it where no model is loaded yet."""
    if model is None:
        return None
    from localai_diffusers.generation import batching

    return batching.batch_for(model, wanted, identity)


_WIRE_STATES = {state: backend_pb2.StatusResponse.State.Value(state.value) for state in State}


def _memory(model: Any) -> dict[str, int]:
    """Bytes of this process, and those that torch holds on each accelerator once ``model`` is loaded: before, it may be
    half imported."""
    found = {"process": exporter.resident_bytes()}
    if model is None:
        return found
    import torch

    if torch.cuda.is_available():
        found |= {f"cuda:{index}": torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count())}
    return found


def make_server(address: str, settings: Settings, servicer: BackendServicer) -> tuple[grpc.Server, int]:
    """A server bound to ``address``, not started, and its port. Raises RuntimeError if the port cannot be bound."""
    waiting = max(settings.max_workers, settings.max_queue + MAX_BATCH + _SPARE_THREADS)
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=pools.PROMPT_THREADS, thread_name_prefix="prompt"),
        interceptors=[
            health.HealthChecks(),
            pools.WaitingPool(waiting),
            *guard.interceptors(settings, lambda: servicer.engine.identity, HOME),
        ],
        options=[
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
    )
    backend_pb2_grpc.add_BackendServicer_to_server(servicer, server)
    if settings.reflection:
        from grpc_reflection.v1alpha import reflection

        names = (backend_pb2.DESCRIPTOR.services_by_name["Backend"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    port = server.add_insecure_port(address)
    if port == 0:
        raise RuntimeError(f"cannot bind {address}")
    return server, port


def serve(address: str) -> int:
    """Serve until SIGTERM or SIGINT. Returns the process's exit code."""
    try:
        settings = Settings.from_environ()
    except ValueError as error:
        return _fail(str(error))
    logs.configure(settings.log_level, settings.log_format)
    spans.set_up(settings)
    faulthandler.enable(all_threads=False)  # a crash in native code leaves its stack on stderr
    stop = _stop_signal()
    upkeep = Upkeep(
        after_work=lambda model: model.restore(),
        between_models=process_state.reset,
        on_lost=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    engine = Engine(settings.max_queue, upkeep=upkeep)
    try:
        server, port = make_server(address, settings, BackendServicer(settings, engine))
    except RuntimeError as error:
        return _fail(f"cannot listen on {address}: {error}. Is another process on that port?")
    server.start()
    log.info("listening on port %d", port)
    engine.submit(lambda _job: _get_ready(), "import of the libraries")
    os.read(stop, 1)
    return _shut_down(server, engine)


def _stop_signal() -> int:
    """A descriptor that can be read from once SIGTERM or SIGINT came.

    Not an Event that a handler sets: its lock may be held where the handler comes in, and a signal that the kernel
    gives to another thread does not wake the main one, where handlers run. The pipe is written to in any thread.
    """
    stop, wake_up = os.pipe()
    os.set_blocking(wake_up, False)
    signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return stop


def _shut_down(server: grpc.Server, engine: Engine) -> int:
    """Stop the work, answer who waits, and end the process even if a step of the work still runs."""
    log.info("shutting down")
    stopped = engine.shutdown(SHUTDOWN_SECONDS / 2)
    server.stop(grace=0.5).wait(1.0)
    if not stopped:
        log.warning("the running step did not end in time: exiting anyway")
        files.discard_unfinished()
    group_offload.discard()
    logging.shutdown()
    # Not sys.exit: it would join the worker threads, and wait out a running step.
    os._exit(0)


def _fail(message: str) -> int:
    """The last line on stderr is what the core shows to the user."""
    sys.stderr.write(f"{message}\n")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description="LocalAI's diffusers backend")
    parser.add_argument("--addr", default="localhost:50051", help="address to listen on (default: %(default)s)")
    return serve(parser.parse_args().addr)


if __name__ == "__main__":
    sys.exit(main())
