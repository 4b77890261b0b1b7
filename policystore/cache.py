"""Keep objects of remote stores on the disk of this machine, for all processes of one user.

Objects never change and their digests are their addresses. So one cache serves all stores, and
no object in the cache can be outdated. Each read from the cache is checked against the digest, in
the same way as a read from a store.
If the cache fails, pulls get slower and a line appears in the log; results never change.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from policystore._util.files import as_path, read_file, read_start, write_new
from policystore._util.log import logger
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, InvalidInputError, StorageError

__all__ = ["CacheLike", "NodeCache", "open_cache"]

_DEFAULT_BYTES = 10 << 30
_FOLDER = "$POLICYSTORE_CACHE"
_LIMIT = "$POLICYSTORE_CACHE_BYTES"
_KEPT = 0.9  # share of max_bytes that is kept when objects are removed to make room
_STEP = 0.01  # share of max_bytes that is written before the files are counted again
_MAX_AGE = 3600.0  # seconds; a temporary file that is older was left by a dead process
_LOCK_DIGITS = 3  # hexadecimal digits of a digest: 4096 locks, each an empty file
_MAX_WAIT = 60.0  # seconds for the download of another process
_POLL = 0.02  # seconds
_MAX_DIGITS = 18  # of a number of bytes
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors\Z")
# A folder with this file is a cache (https://bford.info/cachedir/), and backups leave it out.
_TAG = "CACHEDIR.TAG"
_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of policystore's.\n"


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
            max_bytes = _default_max_bytes()
        if type(max_bytes) is not int or max_bytes < 0:
            raise InvalidInputError(
                f"max_bytes is a number of bytes, a whole number of at least 0, not {max_bytes!r}"
            )
        path = _default_folder() if folder is None else as_path(folder, "the folder of a cache")
        self.folder = _absolute(path)
        self.max_bytes = max_bytes
        self._reset()

    def _reset(self) -> None:
        # Several threads may set these attributes at once. Then a line may be logged twice, or
        # files may be counted twice.
        self._broken = False  # writing failed and was logged; no more writes are tried
        self._ready = False  # the folders exist
        self._uncounted: int | None = None  # bytes written since the last count; None: no count yet

    def __repr__(self) -> str:
        return f"NodeCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def get(self, digest: Digest, limit: int | None) -> bytes | memoryview | None:
        """Return the bytes of an object, checked against its digest; None if the cache lacks it.

        A damaged copy is removed, and a line is logged. A large object is a view of the page cache.

        Args:
            digest: the digest of the object.
            limit: how many bytes the object may have at most; None for any number.
        """
        path = self._path(digest)
        try:
            data = read_file(path, limit=limit, share=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except FormatError:
            return None  # the file or the limit is wrong; a fetch from the store raises the error
        except (OSError, StorageError) as error:
            if not self._broken:
                logger.warning("%s cannot be read and is fetched again: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        actual = digest_of(data)
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
                _make_private(self.folder)
                _mark(self.folder)
                for name in ("objects", "locks", "tmp"):
                    (self.folder / name).mkdir(mode=0o700, exist_ok=True)
                self._ready = True
            except OSError as error:
                self._give_up(error)
        return not self._broken

    def _give_up(self, error: Exception) -> None:
        """Write nothing to the cache any more, and log the reason once."""
        if not self._broken:
            self._broken = True
            logger.warning(
                "going on without the cache %s: %s. Each pull fetches from the store; choose "
                "another folder by cache=… or %s, or cache=False for none",
                self.folder,
                error,
                _FOLDER,
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
        return NodeCache()
    if isinstance(cache, NodeCache):
        return cache
    if cache is True:
        raise InvalidInputError("cache is a folder, a NodeCache, None or False; found True")
    return NodeCache(cache)


def _default_folder() -> Path:
    """Return the folder of the user's own cache, from the environment."""
    folder = os.environ.get(_FOLDER[1:])
    if folder:
        return Path(folder)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path("~/.cache")) / "policystore"


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise InvalidInputError(
            f"{path}: {error}; choose a folder for the cache by cache=… or {_FOLDER}, or "
            "cache=False for none"
        ) from None


def _default_max_bytes() -> int:
    """Return the limit from the environment, or 10 GiB."""
    text = os.environ.get(_LIMIT[1:])
    if not text:
        return _DEFAULT_BYTES
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise InvalidInputError(f"{_LIMIT} is a number of bytes, not {text[:40]!r}")
    return int(text)


def _mark(folder: Path) -> None:
    """Mark an empty folder as a cache, by a file in it.

    A folder with other files never becomes a cache: a cache deletes files to make room, and the
    objects of a store have names of the same form.

    Raises:
        OSError: the folder holds other files, or cannot be written.
    """
    tag = folder / _TAG
    if _is_marked(tag):
        return
    others = sorted(entry.name for entry in folder.iterdir() if entry.name != _TAG)
    if not others:
        tag.write_bytes(_SIGNATURE)
    elif not _is_marked(tag):  # checked again: another process may have just made the cache
        raise FileExistsError(
            f"{folder} is no cache of policystore: it holds {', '.join(others[:3])} and no {_TAG}"
        )


def _is_marked(tag: Path) -> bool:
    try:
        return read_start(tag, len(_SIGNATURE)) == _SIGNATURE
    except FileNotFoundError:
        return False


def _make_private(folder: Path) -> None:
    """Make a folder, or refuse an existing folder that another user owns or may write to.

    Raises:
        OSError: the folder is refused, or cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not hasattr(os, "geteuid"):  # pragma: no cover - Windows keeps profiles apart itself
        return
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{folder} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}: "
            "other users could write to it"
        )
