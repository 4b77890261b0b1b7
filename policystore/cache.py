"""The node cache: objects of remote stores on this machine's disk, shared by a user's processes.

Objects are immutable and addressed by their digest, so one cache serves every store, and nothing in
it is ever out of date. It is not believed either: each read is checked, like a read from a store.
Whatever goes wrong with it costs speed and a line in the log, never an answer.
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
from policystore._util.log import warn
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, InvalidInputError, StorageError

__all__ = ["CacheLike", "NodeCache", "open_cache"]

_BYTES = 10 << 30
_FOLDER = "$POLICYSTORE_CACHE"
_LIMIT = "$POLICYSTORE_CACHE_BYTES"
_KEPT = 0.9  # of what it may hold, after making room
_STEP = 0.01  # of what it may hold, between two looks at what it does
_OLD = 3600.0  # seconds; no process takes so long to write a file
_STRIPES = 3  # hexadecimal digits: 4096 locks, each an empty file
_PATIENCE = 60.0  # seconds, that another process's download is waited for
_ASK = 0.02
_DIGITS = 18
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors\Z")
# The convention of https://bford.info/cachedir/, which backups leave out.
_TAG = "CACHEDIR.TAG"
_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of policystore's.\n"


class NodeCache:
    """Objects by digest in one folder, which only its user may enter.

    Safe between threads and processes: a file appears whole, and of several who miss the same
    object one downloads it while the others wait, for a minute at the most. The least recently used
    ones go when it grows over its limit; arrays over a file that goes stay valid.

    Args:
        folder: by default ``$POLICYSTORE_CACHE``, else ``policystore`` in the user's folder for
            caches (``$XDG_CACHE_HOME``, else ``~/.cache``).
        max_bytes: what it holds at the most, give or take what is being written and a hundredth
            for each process that is filling it. By default ``$POLICYSTORE_CACHE_BYTES``, else
            10 GiB.

    Raises:
        InvalidInputError: no path, or no number of bytes.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, max_bytes: int | None = None
    ) -> None:
        if max_bytes is None:
            max_bytes = _limit()
        if type(max_bytes) is not int or max_bytes < 0:
            raise InvalidInputError(f"max_bytes is a number of bytes from 0 on, not {max_bytes!r}")
        path = _default_folder() if folder is None else as_path(folder, "a cache is a folder")
        self.folder = _absolute(path)
        self.max_bytes = max_bytes
        self._reset()

    def _reset(self) -> None:
        # Threads may race for these: the worst that comes is a line said twice, or one look more.
        self._broken = False  # said once, and not tried again
        self._ready = False
        self._unseen: int | None = None  # bytes written since the last look; None: never looked

    def __repr__(self) -> str:
        return f"NodeCache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def get(self, digest: Digest, limit: int | None) -> bytes | memoryview | None:
        """The bytes of an object, checked; None where they are not here.

        A damaged copy is removed and reported in the log. Large ones are views of the page cache.

        Args:
            digest: which.
            limit: how many bytes it may have.
        """
        path = self._path(digest)
        try:
            data = read_file(path, limit=limit, share=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except FormatError:
            return None  # more than there may be: one of the two is wrong, and a fetch says which
        except (OSError, StorageError) as error:
            if not self._broken:
                warn("%s cannot be read and is fetched again: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        found = digest_of(data)
        if found != digest:
            warn(
                "%s is damaged (its %d bytes have the digest %s) and is fetched again; look after "
                "this machine's disk and memory",
                path,
                memoryview(data).nbytes,
                found.short,
            )
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # its last use
        return data

    def fetched(
        self, digest: Digest, limit: int | None, fetch: Callable[[], bytes | memoryview]
    ) -> bytes | memoryview:
        """The bytes of an object: from here, or fetched, checked by the caller, and kept.

        Args:
            digest: which.
            limit: how many bytes it may have.
            fetch: gets and checks them; what it raises goes to the caller.
        """
        data = self.get(digest, limit)
        if data is not None:
            return data
        with self._turn(digest):
            data = self.get(digest, limit)  # somebody may have had the turn before
            if data is None:
                data = fetch()
                self._keep(digest, data)
        return data

    def _path(self, digest: Digest) -> Path:
        return self.folder / "objects" / digest.hex[:2] / f"{digest.hex}.safetensors"

    @contextlib.contextmanager
    def _turn(self, digest: Digest) -> Iterator[None]:
        """Alone with this object, if another's download takes a reasonable time."""
        lock = None
        if self._usable():
            from filelock import FileLock, Timeout  # late: most stores need none of it

            path = self.folder / "locks" / digest.hex[:_STRIPES]
            lock = FileLock(str(path), mode=0o600, thread_local=False)
            try:
                lock.acquire(timeout=_PATIENCE, poll_interval=_ASK)
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
        size = memoryview(data).nbytes
        if size > self.max_bytes or not self._usable():
            return
        try:
            try:
                self._write(digest, data, size)
            except FileNotFoundError:
                # Somebody cleared the cache away; the next one begins anew.
                self._ready = False
                if self._usable():
                    self._write(digest, data, size)
        except OSError as error:
            self._give_up(error)

    def _write(self, digest: Digest, data: bytes | memoryview, size: int) -> None:
        path = self._path(digest)
        temporary = self.folder / "tmp" / secrets.token_hex(16)
        self._make_room(size)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        # Not flushed: what a power cut leaves is checked when it is read.
        write_new(temporary, [data], mode=0o400, flush=False)
        try:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if size > self.max_bytes * _STEP:
            # Others may have looked before this one was there, and not look again.
            self._unseen = None
            self._make_room(0)

    def _usable(self) -> bool:
        """Whether anything is to be written here; makes the folders when it is first asked."""
        if self._ready and not (self.folder / "locks").is_dir():
            self._ready = False  # somebody cleared it away; a lock would make it for all to read
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
        if not self._broken:
            self._broken = True
            warn(
                "going on without the cache %s: %s. Pulls fetch from the store each time; choose "
                "another folder by cache=… or %s, or cache=False for none",
                self.folder,
                error,
                _FOLDER,
            )

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest, if it would grow over its limit."""
        unseen = self._unseen
        if unseen is not None and unseen + size <= self.max_bytes * _STEP:
            self._unseen = unseen + size
            return
        self._unseen = size
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
        """Last use, size and path of all objects; sweeps what was left half written."""
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
                    if time.time() - entry.stat().st_mtime > _OLD:
                        Path(entry.path).unlink()


CacheLike: TypeAlias = NodeCache | str | os.PathLike[str] | bool | None
"""What ``PolicyStore(cache=…)`` takes."""


def open_cache(cache: CacheLike, *, remote: bool) -> NodeCache | None:
    """What ``PolicyStore(cache=…)`` means.

    Args:
        cache: None: the user's own for a remote store, none for another. False: none. A folder, or
            a NodeCache: that one.
        remote: whether the store is.
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
    given = os.environ.get(_FOLDER[1:])
    if given:
        return Path(given)
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


def _limit() -> int:
    given = os.environ.get(_LIMIT[1:])
    if not given:
        return _BYTES
    if not (given.isascii() and given.isdigit() and len(given) <= _DIGITS):
        raise InvalidInputError(f"{_LIMIT} is a number of bytes, not {given[:40]!r}")
    return int(given)


def _mark(folder: Path) -> None:
    """Note that the folder is a cache; one with other things in it never becomes one.

    What a cache holds is deleted to make room, and objects of a store have the same names.
    """
    tag = folder / _TAG
    if _is_marked(tag):
        return
    others = sorted(entry.name for entry in folder.iterdir() if entry.name != _TAG)
    if not others:
        tag.write_bytes(_SIGNATURE)
    elif not _is_marked(tag):  # another process may have made the cache between the two looks
        raise FileExistsError(
            f"{folder} is no cache of policystore's: it holds {', '.join(others[:3])} and no {_TAG}"
        )


def _is_marked(tag: Path) -> bool:
    try:
        return read_start(tag, len(_SIGNATURE)) == _SIGNATURE
    except FileNotFoundError:
        return False


def _make_private(folder: Path) -> None:
    """Make the folder, or refuse one that somebody else could fill or read."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not hasattr(os, "geteuid"):  # pragma: no cover - Windows keeps profiles apart itself
        return
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(
            f"{folder} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}: "
            "others could write there"
        )
