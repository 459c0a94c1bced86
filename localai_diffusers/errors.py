# SPDX-License-Identifier: MIT
"""Every error that this backend raises on purpose, and the one table from error to gRPC status code.

The LocalAI core ignores ``Result.success`` of the media RPCs, so a failure must be a status. It also reads meaning
into statuses: FAILED_PRECONDITION (or the words "model not loaded") makes a distributed router drop the replica and
load again, UNAVAILABLE evicts the model. Hence only :class:`ModelNotLoaded` maps to the former and nothing to the
latter, and :func:`one_line` takes the trigger words out of foreign error texts.
"""

from __future__ import annotations

import errno
import re

MAX_MESSAGE_LENGTH = 2000


class BackendError(Exception):
    """Base of every error of ours; its text is meant for the user."""


class InvalidRequest(BackendError, ValueError):
    """A field of a request is wrong: the text names the field, its value and the way out."""


class PipelineRefusal(InvalidRequest):
    """The pipeline refuses the request, in its own words: they may quote a prompt."""


class ModelNotLoaded(BackendError):
    """There is no model to serve the request."""

    def __init__(self, message: str = "model not loaded: send LoadModel first") -> None:
        super().__init__(message)


class ModelMismatch(BackendError):
    """The request names another model than the one that is loaded.

    The router takes NOT_FOUND for a mismatch only with these words (LocalAI pkg/grpc/grpcerrors/errors.go).
    """

    def __init__(self, loaded: str, requested: str) -> None:
        super().__init__(f"model identity mismatch: loaded {loaded!r}, requested {requested!r}")


class LoadError(BackendError):
    """The model cannot be loaded; the text says which file or option is at fault and what to do."""


class NotSupported(BackendError):
    """The loaded pipeline cannot do what this RPC asks for."""


class MissingPackage(NotSupported):
    """What is asked for needs a Python package that is not installed here; the text names it."""


class OutOfMemory(BackendError, MemoryError):
    """The device or the host ran out of memory; the text carries a hint."""


class QueueFull(BackendError):
    """More jobs wait, or their inputs take more memory, than the queue may hold."""


class SystemLimit(BackendError):
    """The machine is at a limit that no request can change: open files, buffers of the kernel."""


class Cancelled(BackendError):
    """The client left, its deadline passed, or the model is being freed or the server stopped."""


class OutputError(BackendError):
    """The destination cannot be written: missing folder, no permission, a folder in its place."""


class OutputDiskFull(OutputError):
    """There is no room left at the destination."""


class GenerationFailed(BackendError):
    """The pipeline raised something unexpected; the text is its cause in one line."""


class AcceleratorLost(GenerationFailed):
    """The accelerator answers this process no more: it must end, and another be started."""


class NothingMade(GenerationFailed):
    """The pipeline returned no picture, frame or sound."""


# What a chain of targets does with each (core, classify.go): it goes on from INTERNAL and UNIMPLEMENTED; every other is
# final, so that one request that is too large does not trip all targets in turn.
# Name of the grpc.StatusCode, so that this module needs no grpc. First match by the error's class hierarchy.
STATUS_CODES: dict[type[BaseException], str] = {
    InvalidRequest: "INVALID_ARGUMENT",
    ModelNotLoaded: "FAILED_PRECONDITION",
    ModelMismatch: "NOT_FOUND",
    LoadError: "INVALID_ARGUMENT",
    NotSupported: "UNIMPLEMENTED",  # a gap in what the target can: a failover chain goes on, and marks nobody down
    OutOfMemory: "RESOURCE_EXHAUSTED",
    QueueFull: "RESOURCE_EXHAUSTED",
    SystemLimit: "RESOURCE_EXHAUSTED",
    OutputDiskFull: "RESOURCE_EXHAUSTED",
    OutputError: "INVALID_ARGUMENT",
    Cancelled: "CANCELLED",
    GenerationFailed: "INTERNAL",
}

# What the operating system says of itself, whatever it was asked for: how a message calls it.
_LIMITS = {
    errno.EMFILE: "too many open files in this process (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "the kernel has no memory left",
    errno.ENOBUFS: "the kernel has no buffers left",
}
_FAULTS = {errno.EIO: "input/output error of the disk", errno.ESTALE: "the network file system lost the file"}


def of_machine(error: BaseException, what: str) -> BackendError | None:
    """The error of ours for an OSError that tells of the machine and not of a path, None for any other.

    ``what``: what could not be done, for the message ("src: the file can't be read").
    """
    code = error.errno if isinstance(error, OSError) else None
    if code in _LIMITS:
        return SystemLimit(f"{what}: {_LIMITS[code]}; try again later, or raise the limit")
    return GenerationFailed(f"{what}: {_FAULTS[code]}") if code in _FAULTS else None


# What the core greps for in a status message (contract: grpcerrors/errors.go, connection_errors.go) and our wording.
_TRIGGER_WORDS = {
    "model not loaded": "model is not ready",
    "unimplemented": "not available",
    "connection refused": "connection was refused",
    "connection reset": "connection was reset",
    "no such host": "host not found",
}


def status_name(error: BaseException) -> str:
    """The name of the gRPC status code for ``error``; INTERNAL for anything that is not ours."""
    for kind in type(error).__mro__:
        if kind in STATUS_CODES:
            return STATUS_CODES[kind]
    return "INTERNAL"


def one_line(error: BaseException | str) -> str:
    """The error's text on one line, bounded in length, without the words that the core takes as signals."""
    text = " ".join(str(error).split()) or type(error).__name__
    for words, ours in _TRIGGER_WORDS.items():
        text = re.sub(re.escape(words), ours, text, flags=re.IGNORECASE)
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + "…"


def status_message(error: BaseException) -> str:
    """What the status says: our own texts as they are, a foreign one behind the name of its class."""
    if isinstance(error, (ModelNotLoaded, ModelMismatch)):
        return str(error)
    if isinstance(error, BackendError):
        return one_line(error)
    return one_line(f"{type(error).__name__}: {error}")


def logged(error: BaseException) -> str:
    """What the log says of an error: our own words. A pipeline's or a library's may quote a prompt, and are told to the
    caller alone."""
    ours = isinstance(error, BackendError) and not isinstance(error, (PipelineRefusal, GenerationFailed))
    return status_message(error) if ours else f"{type(error).__name__} (its words are told to the caller alone)"


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` (of torch, of the host, or of ours) means that memory ran out.

    torch's CPU allocator raises a plain RuntimeError ("DefaultCPUAllocator: can't allocate memory"), MPS likewise, and
    oneDNN, which computes torch's convolutions on a CPU, one that does not speak of memory at all.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


# Codes of CUDA's (and HIP's) runtime of which its documentation says that "the process must be terminated and
# relaunched": illegal address, launch timeout, device-side assert, hardware stack, illegal instruction, misaligned
# address, invalid address space, invalid program counter, launch failure, tensor memory leak.
_LOST_CODES = frozenset({700, 702, 710, 714, 715, 716, 717, 718, 719, 721})


def is_of_accelerator(error: BaseException) -> bool:
    """Whether a device, not its input, is at fault: torch says so by a class of errors (2.8 and later)."""
    return any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)


def is_accelerator_lost(error: BaseException) -> bool:
    """Whether nothing more can be computed in this process, by the code that the error brings."""
    return is_of_accelerator(error) and getattr(error, "error_code", None) in _LOST_CODES


_BUILDS = frozenset({"torch_xla", "torch_npu"})  # packages of other processors: nobody here lacks one


def missing_package(error: BaseException) -> str:
    """ "the Python package X is not installed": for an import that failed, and for a name of a module that imports it
    only where a package is there (OmniGen's pipeline: torchvision); "" for any other error.

    Such a module asks functions like ``is_torchvision_available``: those that say no name the packages.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the Python package {error.name.partition('.')[0]} is not installed"
    if isinstance(error, ImportError):
        return one_line(error)  # of diffusers' stand-ins, which say what to install
    place = error.__traceback__ if type(error) is NameError else None
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    known = place.tb_frame.f_globals if place is not None else {}
    asked = [name for name in known if name.startswith("is_") and name.endswith("_available") and not known[name]()]
    absent = sorted({name.removeprefix("is_").removesuffix("_available") for name in asked} - _BUILDS)
    return f"the Python package {' or '.join(absent)} is not installed" if absent else ""
