"""A store behind fsspec: one filesystem per process, every request tried a bounded number of times.

By itself this reads only. Writing takes a filesystem that creates a key exclusively: S3
(:mod:`policystore.backends.s3`) and some others (:mod:`policystore.backends.gcs_azure`).
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from policystore._util.concurrency import in_parallel, raise_if_cancelled
from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, Problems
from policystore.backends.fsspec_errors import Failure, Kind, failure_of, mapped_error
from policystore.backends.options import StorageOptions
from policystore.errors import (
    FormatError,
    InvalidInputError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
)

__all__ = ["FsspecBackend", "large_body_slots", "multipart_slots"]

_ATTEMPTS = 6
_PARALLEL = 64  # requests at once
_FIRST_PAUSE = 0.1  # seconds, doubled each time: about 3 in all

_Out = TypeVar("_Out")

# Around making a filesystem. Another thread may have held it when this process was forked.
_LOCK: threading.Lock
# Around every body of a megabyte or more: however many objects move at once, so many bytes of them
# are in memory twice.
_HEAVY: threading.BoundedSemaphore
# Around every object that moves in parts: one after the other, so that what was cut off and is run
# again finds some of them whole.
_PARTED: threading.BoundedSemaphore
# Filesystems of the process that this one was forked from. Ending one would write into sockets
# that both processes have.
_INHERITED: list[Any] = []


def _renew_locks() -> None:
    global _LOCK, _HEAVY, _PARTED
    _LOCK = threading.Lock()
    _HEAVY = threading.BoundedSemaphore(8)
    _PARTED = threading.BoundedSemaphore(2)


_renew_locks()


def _forked() -> None:
    _renew_locks()
    # fsspec itself does this in newer versions (2026.9 does, 2025.2 does not): the parent's event
    # loop, on which its calls would wait, is run by nobody in this process.
    if (asyn := sys.modules.get("fsspec.asyn")) is not None:
        asyn.reset_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def large_body_slots() -> threading.BoundedSemaphore:
    """To be held while the bytes of a large request are copied and sent."""
    return _HEAVY


def multipart_slots() -> threading.BoundedSemaphore:
    """To be held while an object moves in parts."""
    return _PARTED


class FsspecBackend:
    """Keys below a URL of any filesystem that fsspec knows; for reading.

    Nothing is imported or connected before the first request, and a forked process makes its own
    connections.

    Args:
        url: such as ``https://host/policies``.
        options: what the filesystem is opened with.
    """

    def __init__(self, url: str, options: StorageOptions) -> None:
        self._url = url.rstrip("/")
        self._options = options
        self._opened: tuple[int, Any] | None = None

    @property
    def url(self) -> str:
        return self._url

    @property
    def parallel(self) -> int:
        return _PARALLEL

    def location(self, key: str) -> str:
        return f"{self._url}/{key}"

    # Reading

    def get(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        moved: BytesCallback | None = None,
    ) -> bytes | memoryview:
        if limit is None:
            return self._attempt("reading", key, lambda fs: bytes(fs.cat_file(self._path(fs, key))))
        data = self._span(key, 0, limit + 1)
        if len(data) > limit:
            raise self._too_long(key, limit)
        return data

    def head(self, key: str, count: int) -> bytes:
        return self._span(key, 0, count)

    def _span(self, key: str, start: int, end: int) -> bytes:
        def call(fs: Any) -> bytes:
            path = self._path(fs, key)
            if start == 0 and self._url.startswith(("http://", "https://")):
                return _streamed(fs, path, end)
            return bytes(fs.cat_file(path, start=start, end=end)[: end - start])

        return self._attempt("reading", key, call, answers={"empty": b""})

    def size(self, key: str) -> int | None:
        def call(fs: Any) -> int | None:
            found = fs.info(self._path(fs, key))
            return None if found["type"] == "directory" else int(found["size"] or 0)

        return self._attempt("looking at", key, call, answers={"missing": None})

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        nothing: list[str] = []

        def call(fs: Any) -> list[str]:
            root = self._path(fs, "")
            return [path[len(root) :] for path in fs.find(self._path(fs, folder))]

        try:
            found = self._attempt("listing", prefix, call, answers={"missing": nothing})
        except StorageError as error:
            if problems is None:
                raise
            problems.append((prefix, str(error)))
            return
        yield from (key for key in found if key.startswith(prefix))

    def prefixes(self, prefix: str, delimiter: str) -> Iterator[str]:
        # Folder by folder, and never into what is behind a delimiter: a name has many versions.
        found: set[str] = set()
        folders = [prefix]
        while folders:
            listed = in_parallel(self._folders, folders, workers=_PARALLEL)
            folders = []
            for folder in (folder for inner in listed for folder in inner):
                outer, _, name = folder[:-1].rpartition("/")
                if delimiter == "/":
                    found.add(folder)
                elif name.startswith("@"):
                    found.add(f"{outer}/@")
                else:
                    folders.append(folder)
        yield from found

    def _folders(self, folder: str) -> list[str]:
        """The folders right in one, with a slash behind each."""
        nothing: list[str] = []

        def call(fs: Any) -> list[str]:
            root = self._path(fs, "")
            found = fs.ls(self._path(fs, folder.rstrip("/")), detail=True)
            names = [entry["name"].rstrip("/") for entry in found if entry["type"] == "directory"]
            return [f"{name[len(root) :]}/" for name in names]

        return self._attempt("listing", folder, call, answers={"missing": nothing})

    # Writing

    def put(self, key: str, chunks: Chunks, *, moved: BytesCallback | None = None) -> None:
        raise self._cannot_write()

    def create(self, key: str, data: bytes) -> bool:
        raise self._cannot_write()

    def replace(self, key: str, data: bytes) -> None:
        raise self._cannot_write()

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        # Twice: the first may rightly succeed where the key has just been taken away.
        if self.create(key, data) and self.create(key, data):
            raise StorageError(
                f"{self.url}: this server, or the client library installed here, does not create "
                f"exclusively (If-None-Match: *): it wrote {key} again, though that is there. Two "
                "writers of one name could lose a version, so names are refused; push without a "
                "name and pull by digest, or keep the store on a server that honours conditional "
                "writes."
            )

    def _cannot_write(self) -> ReadOnlyError:
        scheme = self._url.partition("://")[0]
        return ReadOnlyError(
            f"{self._url}: policystore only reads from {scheme}:// URLs: it does not know that "
            "filesystem to create a file exclusively, without which two writers of one name could "
            "lose a version. Push to a folder, or to s3://, gs:// or az://."
        )

    # Requests

    def _path(self, fs: Any, key: str) -> str:
        return f"{fs._strip_protocol(self._url)}/{key}"

    def _too_long(self, key: str, limit: int, size: int | None = None) -> FormatError:
        many = f"more than {limit}" if size is None else str(size)
        return FormatError(
            f"{self.location(key)} has {many} bytes; at most {limit} belong there: "
            "it was not written by policystore"
        )

    def _attempt(
        self,
        doing: str,
        key: str,
        call: Callable[[Any], _Out],
        *,
        writing: bool = False,
        answers: Mapping[Kind, _Out] | None = None,
    ) -> _Out:
        """What a request returns, tried again where it may well succeed then.

        Args:
            doing: the first word of a message.
            key: what it is about.
            call: the request; takes the filesystem.
            writing: whether it writes.
            answers: results that stand for a kind of failure.

        Raises:
            PolicyStoreError: the request failed; no exception of another library comes out.
        """
        failure = Failure("other", "")
        for attempt in range(_ATTEMPTS):
            raise_if_cancelled()
            if attempt:
                pause = _FIRST_PAUSE * 2 ** (attempt - 1)
                # Writers that were refused together must not come back together.
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            outcome = self._try(call)
            if not isinstance(outcome, Failure):
                return outcome
            failure = outcome
            if not failure.again:
                break
        if answers and failure.kind in answers:
            return answers[failure.kind]
        raise mapped_error(failure, doing, self.location(key), self._options, writing=writing)

    def _try(self, call: Callable[[Any], _Out]) -> _Out | Failure:
        try:
            return call(self._filesystem())
        except PolicyStoreError:
            raise
        except Exception as error:
            return failure_of(error)

    def _filesystem(self) -> Any:
        self._options.check()
        with _LOCK:
            opened = self._opened
            if opened is not None and opened[0] == os.getpid():
                return opened[1]
            if opened is not None:
                _INHERITED.append(opened[1])
            try:
                made = self._open()
            except (TypeError, ValueError, LookupError, AttributeError, ImportError) as error:
                said = self._options.scrub(f"{type(error).__name__}: {error}")
                raise InvalidInputError(
                    f"{self._url} cannot be opened with the storage_options given: {said}"
                ) from None
            self._opened = (os.getpid(), made)
            return made

    def _open(self) -> Any:
        import fsspec  # late: a local store needs none of it

        scheme = self._url.partition("://")[0]
        # Not shared with the user's own filesystems, and no listing or file is believed twice.
        options = {**self._options.copy(), "use_listings_cache": False}
        return fsspec.filesystem(scheme, skip_instance_cache=True, **options)


def _streamed(fs: Any, url: str, count: int) -> bytes:
    """The first bytes of what a web server sends, which may ignore ranges and send without end."""
    # With a block size of 0 it is no file with seeks; with a size it need not be asked for one.
    with fs.open(url, "rb", block_size=0, size=1) as stream:
        blocks, left = [], count
        while left and (block := stream.read(left)):
            blocks.append(block)
            left -= len(block)
    return b"".join(blocks)
