"""Keep objects of remote stores on the disk of this machine, for all processes of one user.

Objects never change and their digests are their addresses. So one cache serves all stores, and
no object in the cache can be outdated. Each read from the cache is checked against the digest, in
the same way as a read from a store.
If the cache fails, pulls get slower and a line appears in the log; results never change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from policystore._util.cache_folder import (
    FOLDER_VARIABLE,
    absolute_folder,
    default_folder,
    default_max_bytes,
    make_private,
    mark_as_cache,
)
from policystore._util.files import as_path, mapped_errors, read_file, write_new
from policystore._util.log import logger
from policystore.digest import Digest, Hasher
from policystore.errors import FormatError, InvalidInputError, StorageError

__all__ = ["CacheLike", "CacheUsage", "NodeCache", "open_cache"]

_KEPT = 0.9  # share of max_bytes that is kept when objects are removed to make room
_STEP = 0.01  # share of max_bytes that is written before the files are counted again
_MAX_AGE = 3600.0  # seconds; a temporary file that is older was left by a dead process
_LOCK_DIGITS = 3  # hexadecimal digits of a digest: 4096 locks, each an empty file
_MAX_WAIT = 60.0  # seconds for the download of another process
_POLL = 0.02  # seconds
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors\Z")


@dataclass(frozen=True)
class CacheUsage:
    """Count what is in a cache.

    Attributes:
        objects: how many objects.
        nbytes: how many bytes these objects have together.
    """

    objects: int
    nbytes: int


class NodeCache:
    """Keep objects by digest in one folder, which only its user may enter.

    Threads and processes may share a cache. No reader sees a part of a file. If several processes
    need an object that is not in the cache, one process downloads the object, and the others wait
    for at most a minute. If the cache grows over its limit, the objects that were not used for the
    longest time are removed. Arrays that are views of a removed file stay valid.

    Args:
        folder: by default ``$POLICYSTORE_CACHE``, else the folder ``policystore`` in the user's
            folder for caches (``$XDG_CACHE_HOME``, else ``~/.cache``).
        max_bytes: how many bytes the cache holds at most. The cache may be larger by the files that
            are being written, and by a hundredth of ``max_bytes`` for each process that writes to
            the cache. By default ``$POLICYSTORE_CACHE_BYTES``, else 10 GiB.

    Raises:
        InvalidInputError: ``folder`` is not a path, or ``max_bytes`` is not a number of bytes.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, max_bytes: int | None = None
    ) -> None:
        if max_bytes is None:
            max_bytes = default_max_bytes()
        if type(max_bytes) is not int or max_bytes < 0:
            raise InvalidInputError(
                f"max_bytes is a number of bytes, a whole number of at least 0, not {max_bytes!r}"
            )
        path = default_folder() if folder is None else as_path(folder, "the folder of a cache")
        self.folder = absolute_folder(path)
        self.max_bytes = max_bytes
        self._reset()

    def _reset(self) -> None:
        # Several threads may set these attributes at once. Then a line may be logged twice, or
        # files may be counted twice.
        self._broken = False  # writing failed and was logged; no more writes are tried
        self._told = False  # a passing failure was logged
        self._ready = False  # the folders exist
        self._uncounted: int | None = None  # bytes written since the last count; None: no count yet

    def __repr__(self) -> str:
        return f"NodeCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def usage(self) -> CacheUsage:
        """Count the objects in the cache; zeros if there is no cache yet.

        Raises:
            StorageError: the folder cannot be read.
        """
        with mapped_errors(f"reading the cache {self.folder}"):
            if not (self.folder / "objects").is_dir():
                return CacheUsage(0, 0)
            sizes = [size for _, size, _ in self._files()]
        return CacheUsage(len(sizes), sum(sizes))

    def clear(self) -> CacheUsage:
        """Delete all objects in the cache, and return how many that were.

        Other processes may use the cache at the same time; they fetch again what they need. Arrays
        that are views of a deleted file stay valid.

        Raises:
            ReadOnlyError: this user may not delete an object.
            StorageError: the folder cannot be read.
        """
        objects = nbytes = 0
        if self.usage().objects:
            with mapped_errors(f"clearing the cache {self.folder}", writing=True):
                for _, size, path in list(self._files()):
                    path.unlink(missing_ok=True)
                    objects, nbytes = objects + 1, nbytes + size
        return CacheUsage(objects, nbytes)

    def get(self, digest: Digest, limit: int | None) -> bytes | memoryview | None:
        """Return the bytes of an object, checked against its digest; None if the cache lacks it.

        A damaged copy is removed, and a line is logged. A copy that this process cannot read stays.
        A large object is a view of the page cache.

        Args:
            digest: the digest of the object.
            limit: how many bytes the object may have at most; None for any number.
        """
        path = self._path(digest)
        hasher = Hasher()
        try:
            data = read_file(path, limit=limit, share=True, on_data=hasher.update)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except FormatError:
            return None  # the file or the limit is wrong; a fetch from the store raises the error
        except (OSError, StorageError, MemoryError) as error:
            if not self._broken:
                logger.warning("%s cannot be read, so the store is asked: %s", path, error)
            # A process that may open no more files, or has no memory, says nothing about the copy,
            # which all processes share.
            with contextlib.suppress(OSError):
                if path.is_symlink() or not path.is_file():
                    path.unlink()
            return None
        actual = hasher.digest()
        if actual != digest:
            logger.warning(
                "%s is damaged (its %d bytes have the digest %s) and is fetched again; check the "
                "disk and the memory of this machine",
                path,
                memoryview(data).nbytes,
                actual.short,
            )
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of its last use
        return data

    def fetched(
        self, digest: Digest, limit: int | None, fetch: Callable[[], bytes | memoryview]
    ) -> bytes | memoryview:
        """Return the bytes of an object from the cache, or else fetch them and keep them.

        Args:
            digest: the digest of the object.
            limit: how many bytes the object may have at most; None for any number.
            fetch: downloads the bytes and checks them.

        Raises:
            Exception: what ``fetch`` raises.
        """
        data = self.get(digest, limit)
        if data is not None:
            return data
        with self._lock_for(digest):
            data = self.get(digest, limit)  # another process may have fetched it meanwhile
            if data is None:
                data = fetch()
                self._keep(digest, data)
        return data

    def _path(self, digest: Digest) -> Path:
        return self.folder / "objects" / digest.hex[:2] / f"{digest.hex}.safetensors"

    @contextlib.contextmanager
    def _lock_for(self, digest: Digest) -> Iterator[None]:
        """Let one process at a time download an object.

        A process that has waited for a minute goes on without the lock.
        """
        lock = None
        if self._usable():
            from filelock import FileLock, Timeout  # late: most stores have no cache

            path = self.folder / "locks" / digest.hex[:_LOCK_DIGITS]
            lock = FileLock(str(path), mode=0o600, thread_local=False)
            try:
                lock.acquire(timeout=_MAX_WAIT, poll_interval=_POLL)
            except Timeout:
                lock = None
            except (OSError, NotImplementedError) as error:
                self._give_up(error)
                lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _keep(self, digest: Digest, data: bytes | memoryview) -> None:
        """Write an object into the cache. If that fails, log the error once and write no more."""
        size = memoryview(data).nbytes
        if size > self.max_bytes or not self._usable():
            return
        try:
            try:
                self._write(digest, data, size)
            except FileNotFoundError:
                # Somebody has deleted the cache: make its folders again.
                self._ready = False
                if self._usable():
                    self._write(digest, data, size)
        except OSError as error:
            self._give_up(error)

    def _write(self, digest: Digest, data: bytes | memoryview, size: int) -> None:
        """Write an object to a temporary file and rename it, after making room for it."""
        path = self._path(digest)
        temporary = self.folder / "tmp" / secrets.token_hex(16)
        self._make_room(size)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # Not flushed: a read finds out if a power cut has damaged the file.
        write_new(temporary, [data], mode=0o400, flush=False)
        try:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if size > self.max_bytes * _STEP:
            # Other processes may have counted the files before this file appeared, and may not
            # count again soon.
            self._uncounted = None
            self._make_room(0)

    def _usable(self) -> bool:
        """Return whether the cache can be written; the first call makes its folders."""
        if self._ready and not (self.folder / "locks").is_dir():
            # The cache was deleted. FileLock would make the folder again, readable for all users.
            self._ready = False
        if not self._ready and not self._broken:
            try:
                make_private(self.folder)
                mark_as_cache(self.folder)
                for name in ("objects", "locks", "tmp"):
                    (self.folder / name).mkdir(mode=0o700, exist_ok=True)
                self._ready = True
            except OSError as error:
                self._give_up(error)
        return self._ready and not self._broken

    def _give_up(self, error: Exception) -> None:
        """Write nothing to the cache any more, and log the reason once.

        If this process only lacks descriptors or memory now, later writes are tried again.
        """
        if isinstance(error, OSError) and error.errno in _PASSING:
            if not self._told:
                self._told = True
                logger.warning("objects are not kept in the cache %s now: %s", self.folder, error)
        elif not self._broken:
            self._broken = True
            logger.warning(
                "going on without the cache %s: %s. Each pull fetches from the store; choose "
                "another folder by cache=… or %s, or cache=False for none",
                self.folder,
                error,
                FOLDER_VARIABLE,
            )

    def _make_room(self, size: int) -> None:
        """Remove the objects that were used least recently, if the cache would grow too large.

        Args:
            size: the bytes of the file that is to be written.
        """
        uncounted = self._uncounted
        if uncounted is not None and uncounted + size <= self.max_bytes * _STEP:
            self._uncounted = uncounted + size
            return
        self._uncounted = size
        files = sorted(self._files())
        total = sum(size for _, size, _ in files) + size
        if total <= self.max_bytes:
            return
        for _, nbytes, path in files:
            if total <= self.max_bytes * _KEPT:
                return
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            total -= nbytes

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield last use, size and path of each object, and remove old temporary files."""
        for folder in (self.folder / "objects").iterdir():
            with (
                contextlib.suppress(NotADirectoryError, FileNotFoundError),
                os.scandir(folder) as entries,
            ):
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) and _NAME.match(entry.name):
                            yield status.st_mtime, status.st_size, Path(entry.path)
        with os.scandir(self.folder / "tmp") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > _MAX_AGE:
                        Path(entry.path).unlink()


CacheLike: TypeAlias = NodeCache | str | os.PathLike[str] | bool | None
"""The argument ``cache`` of ``PolicyStore``."""


def open_cache(cache: CacheLike, *, remote: bool) -> NodeCache | None:
    """Return the cache that the argument ``cache`` of ``PolicyStore`` means; None for no cache.

    If the user's own cache has no folder, because a container's user has no home, a line is logged
    and there is no cache.

    Args:
        cache: None: the user's own cache for a remote store, and no cache for a local store. False:
            no cache. A folder or a NodeCache: the cache to use.
        remote: whether the store is remote.

    Raises:
        InvalidInputError: another value.
    """
    if cache is False or (cache is None and not remote):
        return None
    if cache is None:
        return _own_cache()
    if isinstance(cache, NodeCache):
        return cache
    if cache is True:
        raise InvalidInputError("cache is a folder, a NodeCache, None or False; found True")
    return NodeCache(cache)


_TOLD: set[str] = set()  # messages that this process has logged


def _own_cache() -> NodeCache | None:
    """Return the user's own cache; None if no folder for it can be found."""
    max_bytes = default_max_bytes()  # a wrong number is an error, and not a missing folder
    try:
        return NodeCache(max_bytes=max_bytes)
    except InvalidInputError as error:
        if str(error) not in _TOLD:
            _TOLD.add(str(error))
            logger.warning("going on without a cache: %s", error)
        return None
