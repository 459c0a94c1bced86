# SPDX-License-Identifier: MIT
"""Reading the files that a request names, and writing the one it wants, safely.

Sources: only regular files of a bounded size are opened; a FIFO, a device or a folder is refused at once,
since opening one may block for ever or never end. Destinations: the bytes go to a hidden temporary file in
the destination's folder and are moved onto it by one rename, so a reader sees the old file or the whole new
one. The LocalAI core pre-creates the destination of an image with mode 0600: mode and owner of an existing
file stay.
"""

from __future__ import annotations

import base64
import binascii
import errno
import logging
import os
import secrets
import stat
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from localai_diffusers.errors import BackendError, InvalidRequest, OutputDiskFull, OutputError, of_machine

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 256 * 1024 * 1024
# No picture, video or sound is shorter than this; a missing path that happens to be valid base64 is.
_LEAST_MEDIA_BYTES = 32
_LONGEST_SHOWN = 120

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Creating a file beside dst, or renaming onto it, isn't allowed; writing into the existing dst may well be:
# read-only folder (EACCES), sticky folder (EPERM), dst itself a mount (EBUSY), an overlay's border (EXDEV).
_RENAME_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV, errno.EROFS})
# What the file system says of a destination; any other errno is an encoder's (libav uses EINVAL for its own).
_FILE_SYSTEM = (
    _DISK_FULL
    | _RENAME_REFUSED
    | {
        errno.EIO,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.ETXTBSY,
    }
)
# Temporary files of :func:`atomic_output` that are not finished.
_unfinished: set[Path] = set()
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(mode: int) -> str:
    """What ``st_mode`` says a path is, in words: "a folder", "a device", …; "a regular file" for one."""
    return next((words for test, words in _KINDS if test(mode)), "a regular file")


def shown(value: str | Path) -> str:
    """``value`` as it may stand in a message: quoted, and cut if it is long (a base64 payload)."""
    text = str(value)
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")


def uncounted(_size: int) -> None:
    """For a caller that does not bound its memory: see :class:`localai_diffusers.wire.intake.Intake`."""


# --- what comes in ------------------------------------------------------------------------------------------


def check_source(path: str | Path, field: str, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
    """The path of a readable regular file of 1 to ``max_bytes`` bytes; InvalidRequest naming ``field``
    otherwise.

    Never opens anything but a regular file, so it returns within milliseconds for a FIFO or a device.
    """
    descriptor = _open_regular(path, field, max_bytes)
    os.close(descriptor)
    return Path(path)


def read_regular_file(
    path: str | Path, field: str, max_bytes: int = DEFAULT_MAX_BYTES, take: Callable[[int], None] = uncounted
) -> bytes:
    """The bytes of the file at ``path``; the same errors as :func:`check_source`. ``take`` is told their number first,
    and may refuse it.
    """
    with os.fdopen(_open_regular(path, field, max_bytes), "rb") as file:
        take(os.fstat(file.fileno()).st_size)
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise _unreadable(path, field, error) from error
    if len(data) > max_bytes:  # a file that grows, or one of /proc whose size reads 0
        raise _too_large(path, field, len(data), max_bytes)
    if not data:
        raise InvalidRequest(f"{field}: {shown(path)} is empty; send a file with content")
    return data


def _open_regular(path: str | Path, field: str, max_bytes: int) -> int:
    """A descriptor of the regular file at ``path``. O_NONBLOCK: what was a file at stat may be a FIFO at
    open.
    """
    if not str(path):
        raise InvalidRequest(f"{field}: the path is empty; give the path of a file")
    try:
        _require_regular(os.stat(path), path, field)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise error if isinstance(error, InvalidRequest) else _unreadable(path, field, error) from error
    try:
        status = os.fstat(descriptor)
        _require_regular(status, path, field)
        if status.st_size > max_bytes:
            raise _too_large(path, field, status.st_size, max_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(status: os.stat_result, path: str | Path, field: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest(f"{field}: {shown(path)} is {kind_of(status.st_mode)}; give the path of a regular file")


def _unreadable(path: str | Path, field: str, error: OSError | ValueError) -> BackendError:
    if ours := of_machine(error, f"{field}: {shown(path)} can't be read"):
        return ours
    if isinstance(error, FileNotFoundError):
        return InvalidRequest(f"{field}: there is no file {shown(path)}; check the path")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InvalidRequest(f"{field}: {shown(path)} can't be read ({reason}); give the path of a readable file")


def _too_large(path: str | Path, field: str, size: int, max_bytes: int) -> InvalidRequest:
    return InvalidRequest(f"{field}: {shown(path)} has {size} bytes, the limit is {max_bytes}; send a smaller file")


def decode_reference(
    value: str, field: str, max_bytes: int = DEFAULT_MAX_BYTES, take: Callable[[int], None] = uncounted
) -> bytes:
    """The bytes that ``value`` stands for: an existing path, else a data: URI, else a base64 payload.

    A path that exists wins. Raises InvalidRequest naming ``field`` for anything else, an URL included:
    fetching is the caller's business (the core does it), and a server that fetches what it is told is a hole.
    ``take`` is told the number of bytes and may refuse it.
    """
    value = value.strip()
    if value.startswith("data:"):
        take(len(value))
        return _bounded(_decode_data_uri(value, field, max_bytes), field, max_bytes)
    if value.startswith(("http://", "https://", "ftp://")):
        raise InvalidRequest(f"{field}: {shown(value)} is an URL; send a path, base64 or a data: URI instead")
    if not value or _looks_like_path(value):
        return read_regular_file(value, field, max_bytes, take)
    take(len(value))
    data = _decode_base64(value, field, max_bytes)
    if len(data) < _LEAST_MEDIA_BYTES:
        raise _not_a_reference(value, field)
    return _bounded(data, field, max_bytes)


def _looks_like_path(value: str) -> bool:
    """Whether ``value`` exists as a path, or would if its last part did. A JPEG in base64 begins with
    "/9j/".
    """
    if os.path.lexists(value):
        return True
    parent = os.path.dirname(value)
    return value.startswith(("/", "./", "../")) and parent not in ("", "/") and os.path.isdir(parent)


def _decode_data_uri(value: str, field: str, max_bytes: int) -> bytes:
    head, comma, payload = value.partition(",")
    if not comma:
        raise InvalidRequest(f"{field}: the data: URI {shown(value)} has no comma; write data:<type>;base64,<payload>")
    if head.lower().endswith(";base64"):
        return _decode_base64(urllib.parse.unquote(payload), field, max_bytes)
    return urllib.parse.unquote_to_bytes(payload)


def _decode_base64(value: str, field: str, max_bytes: int) -> bytes:
    if len(value) > max_bytes * 2:  # base64 takes 4/3, line breaks a little more
        raise InvalidRequest(f"{field}: a payload of {len(value)} characters is over the limit of {max_bytes} bytes")
    compact = "".join(value.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _not_a_reference(value, field) from error


def _not_a_reference(value: str, field: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {shown(value)} is neither an existing file nor a base64 payload nor a data: URI")


def _bounded(data: bytes, field: str, max_bytes: int) -> bytes:
    if not data:
        raise InvalidRequest(f"{field}: the payload is empty; send a file with content")
    if len(data) > max_bytes:
        raise InvalidRequest(f"{field}: the payload has {len(data)} bytes, the limit is {max_bytes}; send less")
    return data


# --- what goes out ------------------------------------------------------------------------------------------


def check_destination(dst: str, field: str = "dst") -> None:
    """Raise what writing to ``dst`` would raise, without writing: before the work is done, not after it."""
    _resolve_destination(dst, field)


@contextmanager
def atomic_output(dst: str, field: str = "dst") -> Iterator[Path]:
    """Yield the path of a temporary file that becomes ``dst`` when the block ends well.

    If the block raises, the temporary file is gone and an older ``dst`` is untouched. A link at ``dst`` is
    followed. Raises OutputError, or OutputDiskFull where there is no room, also for what the file system says
    to the block.
    """
    target, old = _resolve_destination(dst, field)
    temporary, beside = _create_temporary(target, old, dst, field)
    _unfinished.add(temporary)
    try:
        try:
            yield temporary
            _publish(temporary, target, old, beside)
        except OSError as error:
            if error.errno not in _FILE_SYSTEM:
                raise
            raise _output_error(dst, field, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
        _unfinished.discard(temporary)


def make_folder(path: str, field: str) -> None:
    """The folder ``path``, made where there is none. Raises OutputError where it cannot be."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise _output_error(path, field, error) from error


def discard_unfinished() -> None:
    """Remove the temporary files that are being written: for a process that ends without unwinding its threads."""
    for temporary in tuple(_unfinished):
        with suppress(OSError):
            temporary.unlink()


def _resolve_destination(dst: str, field: str) -> tuple[Path, os.stat_result | None]:
    """Where ``dst`` really lies, and the status of the file there, None if there is none yet."""
    if not dst or "\0" in dst:
        raise OutputError(f"{field}: {shown(dst)} isn't a path; give the path of the file to write")
    if dst.endswith("/"):
        raise OutputError(f"{field}: {shown(dst)} names a folder; give the path of the file to write")
    target = Path(os.path.realpath(dst))
    try:
        status = os.stat(target)
    except FileNotFoundError:
        _check_folder(target.parent, dst, field)
        return target, None
    except OSError as error:
        raise _output_error(dst, field, error) from error
    _check_existing(target, status, dst, field)
    return target, status


def _check_folder(folder: Path, dst: str, field: str) -> None:
    if not folder.is_dir():
        raise OutputError(f"{field}: the folder {shown(folder)} doesn't exist; create it or give another {field}")
    if not _allowed(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{field}: the folder {shown(folder)} isn't writable for this process; give another {field}")
    _check_room(folder, dst, field)


def _check_existing(target: Path, status: os.stat_result, dst: str, field: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{field}: {shown(dst)} is {kind_of(status.st_mode)}; give the path of a regular file")
    if not _allowed(target, os.W_OK):
        raise OutputError(f"{field}: {shown(dst)} isn't writable for this process; give another {field}")
    _check_room(target.parent, dst, field)


def _allowed(path: Path, mode: int) -> bool:
    """os.access with the rights that open() will have; plain access(2) asks for the real user's."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _check_room(folder: Path, dst: str, field: str) -> None:
    """Refuse a file system without a single free block. Pseudo file systems report no blocks at all."""
    with suppress(OSError):
        room = os.statvfs(folder)
        free = room.f_bfree if os.geteuid() == 0 else room.f_bavail
        if room.f_blocks and not free:
            raise OutputDiskFull(f"{field}: there is no room left for {shown(dst)}; free some space or write elsewhere")


def _create_temporary(target: Path, old: os.stat_result | None, dst: str, field: str) -> tuple[Path, bool]:
    """A fresh empty file, and whether it lies beside ``target`` (else in the temporary folder, to be
    copied).
    """
    try:
        return _new_file(target.parent, old), True
    except OSError as error:
        if old is None or error.errno not in _RENAME_REFUSED:
            raise _output_error(dst, field, error) from error
    try:
        return _new_file(Path(tempfile.gettempdir()), old), False
    except OSError as error:
        raise _output_error(dst, field, error) from error


def _new_file(folder: Path, old: os.stat_result | None) -> Path:
    """Create a hidden file. Without an older one the kernel applies the umask; asking for it isn't
    thread-safe.
    """
    path = folder / f".localai-{secrets.token_hex(8)}.tmp"
    mode = 0o666 if old is None else 0o600
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
    return path


def _publish(temporary: Path, target: Path, old: os.stat_result | None, beside: bool) -> None:
    """Move the finished file onto ``target``, or copy it there where a rename isn't allowed."""
    if beside:
        try:
            if old is not None:
                _take_over(temporary, old)
            os.replace(temporary, target)
            return
        except OSError as error:
            if old is None or error.errno not in _RENAME_REFUSED:
                raise
            logger.info("writing %s in place: %s", target, error.strerror)
    _copy_in_place(temporary, target)


def _take_over(temporary: Path, old: os.stat_result) -> None:
    """Give the new file the old one's owner and mode; EPERM where that isn't ours to give (then: in
    place).
    """
    new = os.stat(temporary)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.chown(temporary, old.st_uid, old.st_gid)
    os.chmod(temporary, stat.S_IMODE(old.st_mode))


def _copy_in_place(temporary: Path, target: Path) -> None:
    """Overwrite ``target`` with the bytes of ``temporary``; room is reserved before the first old byte is
    lost.
    """
    size = temporary.stat().st_size
    with open(temporary, "rb") as source, open(target, "r+b") as sink:
        before = os.fstat(sink.fileno()).st_size
        try:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(sink.fileno(), 0, size)
        except OSError as error:
            os.ftruncate(sink.fileno(), before)
            if error.errno in _DISK_FULL:
                raise
        while chunk := source.read(1 << 20):
            sink.write(chunk)
        sink.truncate(size)


def _output_error(dst: str, field: str, error: OSError) -> BackendError:
    if ours := of_machine(error, f"{field}: {shown(dst)} can't be written"):
        return ours
    if error.errno in _DISK_FULL:
        return OutputDiskFull(f"{field}: no room left while writing {shown(dst)}; free some space or write elsewhere")
    reason = error.strerror or str(error)
    return OutputError(f"{field}: {shown(dst)} can't be written ({reason}); check the folder and its permissions")
