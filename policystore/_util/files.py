"""Write files durably and atomically, and read files so that nobody can change what was read.

Apart from :mod:`policystore.backends` and the node cache, only this module opens files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from policystore._util.maps import OnData, check_memory, fill, map_file, protected_memory
from policystore.errors import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
)

__all__ = [
    "OnData",
    "as_path",
    "fsync_folder",
    "is_on_network",
    "mapped_errors",
    "open_file",
    "read_file",
    "read_start",
    "replace_file",
    "without_group",
    "write_new",
]

_MIN_SHARED = 256 << 10  # bytes; for a smaller file, a map saves little, and maps are limited
_MIN_PROTECTED = 4 << 20  # bytes; smaller memory gains little from large pages
_ABANDONED = 3600.0  # seconds without a write, after which nobody writes a temporary file any more
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_ADVICE = {
    errno.ENOSPC: " The disk is full: free some space and try again.",
    errno.EDQUOT: " Your quota is used up: free some space and try again.",
    errno.EFBIG: " The file is larger than this process or filesystem may write.",
    errno.ENOENT: " The folder does not exist, or was removed meanwhile.",
    errno.EACCES: " Check the permissions of the folder and of its parents.",
    errno.ENAMETOOLONG: " The path is longer than the system allows: use a folder nearer the root.",
    errno.EMFILE: " This process has too many open files: close some, or raise `ulimit -n`.",
    errno.ENFILE: " This machine has too many open files: try again later.",
    errno.EROFS: " The disk was mounted read-only.",
    errno.ESTALE: " The file server has lost the folder: mount it again.",
    errno.EIO: " The disk or its connection has failed: check both, and try again.",
}  # error -> a sentence that says what to do
_LOCAL_FILESYSTEMS = {
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay", "bcachefs",
    "jfs", "reiserfs",
}  # fmt: skip


@contextlib.contextmanager
def mapped_errors(
    action: str, *, writing: bool = False, hint: Callable[[OSError], str] = lambda error: ""
) -> Iterator[None]:
    """Turn errors of the operating system into those of :mod:`policystore.errors`.

    Args:
        action: what the ``with`` block does, such as ``"reading /a/b"``; the start of the message.
        writing: whether the block writes.
        hint: returns, for an error of permissions, sentences that say what to do, each after a
            space; "" where there is nothing special to say.

    Raises:
        NotFoundError: the block reads, and the file does not exist.
        ReadOnlyError: the block writes, and the user may not write at that place.
        StorageError: any other error of the operating system, or there is not enough memory.
    """
    try:
        yield
    except PolicyStoreError:
        raise
    except MemoryError as error:
        raise StorageError(
            f"{action}: not enough memory. Free some memory, or raise the limits of this process."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not writing:
            name = "" if action.endswith(str(error.filename)) else f": {error.filename}"
            raise NotFoundError(f"{action}: no such file{name}") from error
        advice = hint(error) if error.errno in _READ_ONLY else ""
        if writing and error.errno in _READ_ONLY:
            advice = advice or (
                " Use a folder that you may write to, or open the store with read_only=True to "
                "read only."
            )
            raise ReadOnlyError(
                f"{action}: this user may not write to it ({error}).{advice}"
            ) from error
        raise StorageError(
            f"{action}: {error}.{advice or _ADVICE.get(error.errno or 0, '')}"
        ) from error


def write_new(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    *,
    mode: int = 0o444,
    group: int | None = None,
    flush: bool = True,
) -> None:
    """Write a file that does not exist yet. After an error nothing of the file is left.

    Args:
        path: the file.
        chunks: its bytes, in pieces.
        mode: its permissions, whatever the umask is.
        group: its group; None for the one that the system gives. If this user may not give the file
            to the group, the file's own group gets no rights that others do not have.
        flush: whether the bytes are on the disk when this function returns.

    Raises:
        OSError: as the operating system raises it; FileExistsError if the file exists.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o600)
    try:
        try:
            for chunk in chunks:
                left = memoryview(chunk)
                while left.nbytes:
                    left = left[os.write(descriptor, left) :]
            if group is not None and os.fstat(descriptor).st_gid != group:
                try:
                    os.fchown(descriptor, -1, group)
                except OSError:
                    mode = without_group(mode)
            os.fchmod(descriptor, mode)
            if flush:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def without_group(mode: int) -> int:
    """Return a mode that gives the group of a file only what everybody has."""
    return mode & ~0o2070 | (mode & (mode & 0o007) << 3)


def replace_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file whole or not at all; an existing file is replaced.

    The bytes go to a hidden temporary file in the same folder. The temporary file is flushed and
    then renamed. A process that is killed meanwhile leaves its temporary file. The next call for
    the same path removes such files, if nobody has written to them for an hour. If ``path`` is a
    symbolic link, the link stays, and the file that the link points to is replaced.

    Raises:
        OSError: as the operating system raises it.
        StorageError: ``path`` is a folder, a device or a pipe. The superuser may replace a device,
            and every program of the machine would then miss it.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give the path of a file in it")
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is a device or a pipe, and no file that can be replaced")
    # The name itself may be as long as the system allows.
    start = f".{hashlib.blake2s(os.fsencode(path.name), digest_size=8).hexdigest()}-"
    temporary = path.with_name(f"{start}{secrets.token_hex(8)}.tmp")
    umask = _umask()
    with _in_place_of(temporary, path.parent):
        write_new(temporary, chunks, mode=0o666 & ~umask)
    try:
        now = temporary.stat().st_mtime  # by the clock of the disk
        with _in_place_of(temporary, path):
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sweep(path.parent, start, now - _ABANDONED)
    fsync_folder(path.parent)


@contextlib.contextmanager
def _in_place_of(temporary: Path, place: Path) -> Iterator[None]:
    """Let errors name a place that the caller knows, in place of a temporary file."""
    try:
        yield
    except OSError as error:
        if error.filename != os.fspath(temporary):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(place)) from error


def _sweep(folder: Path, start: str, before: float) -> None:
    """Remove temporary files of killed processes.

    Args:
        folder: where the files are.
        start: how the names of the files begin.
        before: files that were changed later stay, because their process may run.
    """
    # The file of the call is in place. What cannot be removed stays until the next call.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(start) and entry.name.endswith(".tmp")):
                continue
            if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < before:
                os.unlink(entry)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a new file in it survives a power cut."""
    if sys.platform == "win32":  # pragma: no cover - folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY | _CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: str | Path) -> tuple[int, os.stat_result]:
    """Open a regular file for reading, and return its descriptor and its status.

    The call does not wait: a pipe in the folder of a store would block its reader for ever. A path
    that is not that of a regular file is a StorageError.
    """
    descriptor = os.open(path, os.O_RDONLY | _CLOEXEC | _NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise StorageError(f"{path} is {kind}; expected a file that policystore wrote")
    return descriptor, status


def read_file(
    path: str | Path,
    *,
    limit: int | None = None,
    share: bool = False,
    on_data: OnData | None = None,
) -> bytes | memoryview:
    """Read all bytes of a file.

    Args:
        path: the file.
        limit: how many bytes the file may have at most; a larger file is not read.
        share: allow a read-only map of the page cache instead of a copy. A map is made only on a
            local filesystem, and only if no other user can write to the file and its folder. In
            other places, another user could change the file after it was verified. That would
            change the arrays of a snapshot, or kill the process.
        on_data: called with the bytes in pieces, in order, such as to hash them. The pieces are
            the memory that is returned, and nothing writes to a piece after it was given. A piece
            of a large file is given as soon as it was read, while it is in the processor's cache.

    Raises:
        OSError: as the operating system raises it.
        FormatError: the file has more than ``limit`` bytes.
        StorageError: the path is not that of a regular file, or the file is to be copied and is
            larger than the memory.
    """
    descriptor, status = open_file(path)
    try:
        if limit is not None and status.st_size > limit:
            raise FormatError(
                f"{path} has {status.st_size} bytes, and at most {limit} are allowed: "
                "it was not written by policystore"
            )
        data: bytes | memoryview | None = None
        if share and status.st_size >= _MIN_SHARED and _is_private(status, path):
            data = map_file(descriptor, status.st_size)
        elif status.st_size >= _MIN_PROTECTED:
            check_memory(status.st_size, f"reading {path}")
            filler = partial(fill, descriptor, on_data=on_data)
            data = protected_memory(status.st_size, filler)
            if data is not None:
                return data
        if data is None:
            data = _read_bytes(descriptor, status.st_size)
        if on_data is not None:
            on_data(memoryview(data))
        return data
    finally:
        os.close(descriptor)


def _read_bytes(descriptor: int, size: int) -> bytes:
    """Read at most ``size`` bytes from the position of a descriptor on."""
    pieces = []
    while size:
        piece = os.read(descriptor, size)
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_start(path: Path, count: int) -> bytes:
    """Read the first ``count`` bytes of a file, or all bytes of a shorter file.

    Raises:
        OSError: as the operating system raises it.
        StorageError: the path is not that of a regular file.
    """
    descriptor, _ = open_file(path)
    try:
        return os.read(descriptor, count)
    finally:
        os.close(descriptor)


def as_path(file: object, label: str) -> Path:
    """Return ``file`` as a path, if the system can have such a path.

    Args:
        file: a text or a path object.
        label: what the path is for; the start of the message.

    Raises:
        InvalidInputError: ``file`` is not a path, is empty, or holds a zero byte or a character
            that cannot be encoded.
    """
    try:
        text = os.fspath(file)  # type: ignore[call-overload]
        if not isinstance(text, str) or not text or b"\0" in os.fsencode(text):
            raise ValueError
        return Path(text)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{label}: expected a path, found {file!a}") from None


_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


def _umask() -> int:
    """Return the umask of the process; 0o022 where it cannot be read without changing it."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


def _is_private(status: os.stat_result, path: str | Path) -> bool:
    """Return whether only this user can change a file, and the file is on a disk of this machine.

    Args:
        status: the status of the file.
        path: the file.
    """
    if sys.platform != "linux":
        return False
    folder = os.stat(os.path.dirname(path) or ".")
    if not status.st_uid == folder.st_uid == os.geteuid():
        return False
    others_may_write = (status.st_mode | folder.st_mode) & 0o022
    return not others_may_write and _is_local(folder.st_dev)


def is_on_network(path: Path) -> bool:
    """Return whether a path is on a filesystem of another machine; False if that is not known."""
    try:
        return sys.platform == "linux" and not _is_local(path.stat().st_dev)
    except OSError:
        return False


_LOCAL_DEVICES: dict[int, bool] = {}  # results of _is_local


def _is_local(device: int) -> bool:
    """Return whether a device is a local filesystem, by the kernel's table of mounts."""
    if device not in _LOCAL_DEVICES:
        kinds = set()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                left, _, right = line.partition(" - ")
                major, minor = left.split()[2].split(":")
                if os.makedev(int(major), int(minor)) == device:
                    kinds.add(right.split()[0])
        _LOCAL_DEVICES[device] = bool(kinds) and kinds <= _LOCAL_FILESYSTEMS
    return _LOCAL_DEVICES[device]
