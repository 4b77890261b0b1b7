"""Read a store through fsspec, with a limit on the tries of a request.

The backend of this module only reads. A store can be written only to a filesystem that creates keys
exclusively, as those of :mod:`policystore.backends.s3` and :mod:`policystore.backends.gcs_azure`
do.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from policystore._util.concurrency import in_parallel, raise_if_cancelled, shielded
from policystore._util.deadlines import raise_if_late
from policystore._util.maps import check_memory
from policystore._util.progress import BytesCallback
from policystore.backends import filesystems
from policystore.backends.base import Chunks, Entry, Problems
from policystore.backends.filesystems import is_listed, time_of
from policystore.backends.fsspec_errors import Failure, Kind, failure_of, mapped_error
from policystore.backends.options import StorageOptions
from policystore.errors import (
    FormatError,
    InvalidInputError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
)
from policystore.format.keys import TEMPORARY

__all__ = ["FsspecBackend"]

_ATTEMPTS, _THROTTLED_ATTEMPTS = 6, 12  # the second: while the server asks for fewer requests
_NOT_OPENED = "cannot be opened with the storage_options given"
_PARALLEL = 64  # requests at once
# Seconds; each pause is twice the one before: about 3 seconds together, or 30 for a busy server.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

_Out = TypeVar("_Out")


class FsspecBackend:
    """Read keys below a URL of any filesystem that fsspec knows.

    Nothing is imported or connected before the first request. A forked process makes connections
    of its own.

    Args:
        url: such as ``https://host/policies``.
        options: the options for the filesystem.
    """

    _keeps_empty_folders = True  # as a disk does, and a cloud does not
    _reads_all_variables = True  # a filesystem may read credentials from any variable

    def __init__(self, url: str, options: StorageOptions) -> None:
        self._url = url.rstrip("/")
        self._options = options
        self._opened: tuple[int, Any] | None = None
        self._own = object()  # stands for options that cannot be compared

    @property
    def url(self) -> str:
        return self._url

    @property
    def options(self) -> StorageOptions:
        """The options for the filesystem."""
        return self._options

    @property
    def is_remote(self) -> bool:
        return True

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
        on_bytes: BytesCallback | None = None,
    ) -> bytes | memoryview:
        if limit is None:
            return self._attempt("reading", key, lambda fs: bytes(fs.cat_file(self._path(fs, key))))
        data = self._read_range(key, 0, limit + 1)
        if len(data) > limit:
            raise self._too_long(key, limit)
        return data

    def head(self, key: str, count: int) -> bytes:
        return self._read_range(key, 0, count)

    def _read_range(self, key: str, start: int, end: int) -> bytes:
        """Read the bytes from ``start`` on and before ``end``, or as many as the key has."""

        def call(fs: Any) -> bytes:
            path = self._path(fs, key)
            if start == 0 and self._url.startswith(("http://", "https://")):
                return _read_start(fs, path, end)
            return bytes(fs.cat_file(path, start=start, end=end)[: end - start])

        return self._attempt("reading", key, call, answers={"empty": b""})

    def size(self, key: str) -> int | None:
        def call(fs: Any) -> int | None:
            info = fs.info(self._path(fs, key))
            return None if info["type"] == "directory" else int(info["size"] or 0)

        return self._attempt("looking at", key, call, answers={"missing": None})

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        for entry in self.entries(prefix, problems=problems):
            yield entry.key

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        empty: list[Entry] = []

        def call(fs: Any) -> list[Entry]:
            root = self._path(fs, "")
            listed = fs.find(self._path(fs, folder).rstrip("/"), detail=True)
            return [
                Entry(path[len(root) :], int(info.get("size") or 0), time_of(info))
                for path, info in listed.items()
                if path.startswith(root) and not path.endswith("/")
            ]

        try:
            listed = self._attempt("listing", prefix, call, answers={"missing": empty})
        except StorageError as error:
            if problems is None:
                raise
            problems.append((prefix, str(error)))
            return
        for entry in listed:
            if is_listed(entry.key, prefix):
                yield entry

    def prefixes(
        self, prefix: str, delimiter: str, *, problems: Problems | None = None
    ) -> Iterator[str]:
        # List folder by folder, but not the folders after the delimiter: a name has many versions.
        prefixes: set[str] = set()
        folders = [prefix[: prefix.rfind("/") + 1]]
        while folders:
            listed = in_parallel(self._inside, folders, workers=_PARALLEL)
            ends: list[str] = []  # folders after the delimiter
            deeper: list[str] = []
            for folder, (inner, files) in zip(folders, listed, strict=True):
                inside = {each for each in inner if each.startswith(prefix)}
                if delimiter == "/":
                    ends += inside
                    continue
                # The slash before these is part of the prefix, and so no delimiter.
                mark = f"{folder}@" if folder.startswith(prefix) and folder != prefix else None
                marked = [each for each in inside if mark and each.startswith(mark)]
                deeper += inside.difference(marked)
                if mark and any(file.startswith(mark) for file in files):
                    prefixes.add(mark)
                else:
                    ends += marked
            hold = in_parallel(self._holds_keys, ends, workers=_PARALLEL)
            for folder in (folder for folder, holds in zip(ends, hold, strict=True) if holds):
                end = folder.find(delimiter, len(prefix)) + len(delimiter)
                prefixes.add(folder[:end])
            folders = deeper
        yield from prefixes

    def _holds_keys(self, folder: str) -> bool:
        """Return whether there is a key in a folder, at any depth."""
        if not self._keeps_empty_folders:
            return True
        pending = [folder]
        while pending:
            inner, files = self._inside(pending.pop())
            if files:
                return True
            pending += inner
        return False

    def _inside(self, folder: str) -> tuple[set[str], set[str]]:
        """List the folders directly inside a folder, each with a slash at its end, and the files.

        Args:
            folder: a folder, with a slash at its end.
        """
        empty: tuple[set[str], set[str]] = (set(), set())

        def call(fs: Any) -> tuple[set[str], set[str]]:
            root = self._path(fs, "")
            inner, files = set(), set()
            for entry in fs.ls(self._path(fs, folder.rstrip("/")), detail=True):
                path = entry["name"].rstrip("/")
                name = path[len(root + folder) :]
                # Some filesystems also list the folder itself, or what is deeper inside.
                if path.startswith(root + folder) and name and "/" not in name:
                    if entry["type"] == "directory":
                        inner.add(f"{folder}{name}/")
                    elif not entry["name"].endswith("/"):
                        files.add(f"{folder}{name}")
            return inner, files

        return self._attempt("listing", folder, call, answers={"missing": empty})

    # Writing

    def put(self, key: str, chunks: Chunks, *, on_bytes: BytesCallback | None = None) -> None:
        raise self._cannot_write()

    def create(self, key: str, data: bytes) -> bool:
        raise self._cannot_write()

    def replace(self, key: str, data: bytes) -> None:
        raise self._cannot_write()

    def delete(self, key: str) -> None:
        raise self._cannot_write()

    def copy(self, key: str, target: str) -> None:
        raise self._cannot_write()

    def server_time(self) -> float:
        probe = f"{TEMPORARY}{secrets.token_hex(16)}"
        self.replace(probe, b"")
        try:
            time = self._time(probe)
        finally:
            with suppress(PolicyStoreError), shielded():
                self.delete(probe)
        if time is None:
            raise StorageError(
                f"{self.location(probe)}: the storage does not tell when the key was written, and "
                "without times nothing can be collected"
            )
        return time

    def _time(self, key: str) -> float | None:
        """Return the time of a key, as it stands in an entry."""
        return self._attempt(
            "looking at", key, lambda fs: time_of(fs.info(self._path(fs, key))), writing=True
        )

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        # Tried twice: the first try may rightly succeed, because the key was deleted just before.
        if self.create(key, data) and self.create(key, data):
            raise StorageError(
                f"{self.url}: this server, or the client library installed here, does not create "
                f"exclusively (If-None-Match: *): it wrote {key} again, though the key exists. Two "
                "writers of one name could lose a version, so pushes to names are refused. Push "
                "without a name and pull by digest, or keep the store on a server that supports "
                "conditional writes."
            )

    def _cannot_write(self) -> ReadOnlyError:
        return ReadOnlyError(
            f"{self._url}: policystore only reads from {self._scheme}:// URLs, because it does not "
            "know whether that filesystem creates a file exclusively. Without that, two writers of "
            "one name could lose a version. Push to a folder, or to s3://, gs:// or az://."
        )

    # Requests

    def _path(self, fs: Any, key: str) -> str:
        return f"{fs._strip_protocol(self._url)}/{key}"

    def _too_long(self, key: str, limit: int, size: int | None = None) -> FormatError:
        count = f"more than {limit}" if size is None else str(size)
        return FormatError(
            f"{self.location(key)} has {count} bytes, and at most {limit} are allowed: "
            "it was not written by policystore"
        )

    def _attempt(
        self,
        action: str,
        key: str,
        call: Callable[[Any], _Out],
        *,
        writing: bool = False,
        answers: Mapping[Kind, _Out] | None = None,
    ) -> _Out:
        """Make a request and return its result. Try again if another try may succeed.

        Args:
            action: the first word of the message, such as ``"reading"``.
            key: the key that the request is about.
            call: the request, a function of the filesystem.
            writing: whether the request writes.
            answers: what to return, instead of raising, for a kind of failure.

        Raises:
            PolicyStoreError: the request failed. No exception of another library is raised.
        """
        failure = Failure("other", "")
        for attempt in range(_THROTTLED_ATTEMPTS):
            raise_if_cancelled()
            if attempt:
                pause = min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)
                # Writers that were refused at the same time must try again at different times.
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            raise_if_late()
            outcome = self._try(call)
            if not isinstance(outcome, Failure):
                return outcome
            failure = outcome
            if not failure.may_pass or (attempt + 1 >= _ATTEMPTS and not failure.is_throttled):
                break
        if answers and failure.kind in answers:
            return answers[failure.kind]
        raise mapped_error(failure, action, self.location(key), self._options, writing=writing)

    def _try(self, call: Callable[[Any], _Out]) -> _Out | Failure:
        try:
            return call(self._filesystem())
        except PolicyStoreError:
            raise
        except Exception as error:
            self._refuse_unknown(error)  # HTTPFileSystem passes options on to each request
            return failure_of(error)

    def _filesystem(self) -> Any:
        """Return the filesystem of this process, which all stores with the same options share."""
        opened = self._opened
        if opened is not None and opened[0] == os.getpid():
            return opened[1]
        self._options.check()
        try:
            filesystem = self._open()
        except (TypeError, ValueError, LookupError, AttributeError, ImportError) as error:
            self._refuse_unknown(error)
            reason = self._options.scrub(f"{type(error).__name__}: {error}")
            raise InvalidInputError(f"{self._url} {_NOT_OPENED}: {reason}") from None
        self._opened = (os.getpid(), filesystem)
        return filesystem

    def _refuse_unknown(self, error: Exception) -> None:
        """Raise InvalidInputError if an error says that the filesystem does not know an option."""
        if unknown := self._options.unknown(error, self._filesystem_class()):
            raise InvalidInputError(f"{self._url} {_NOT_OPENED}: {unknown}") from None

    def _open(self) -> Any:
        """Return a filesystem that is this process's own, and not shared with the user's."""
        cls = self._filesystem_class()
        identity = self._identity(cls)
        keep = identity is not None
        return filesystems.shared(identity or self._own, lambda: self._make(cls), keep=keep)

    def _filesystem_class(self) -> Any:
        from fsspec import get_filesystem_class  # late: a local store needs none of it

        return get_filesystem_class(self._scheme)

    def _make(self, cls: Any) -> Any:
        return cls(**self._options.copy(), use_listings_cache=False, skip_instance_cache=True)

    def _identity(self, cls: Any) -> Hashable | None:
        """Return what the filesystem depends on; None if that cannot be compared."""
        from fsspec.config import conf

        protocols = (cls.protocol,) if isinstance(cls.protocol, str) else tuple(cls.protocol)
        surroundings = list(filesystems.environment(all_variables=self._reads_all_variables))
        defaults = [conf.get(protocol) for protocol in protocols]
        identity = self._options.identity([surroundings, defaults])
        return None if identity is None else (cls, self._scheme, identity)

    @property
    def _scheme(self) -> str:
        return self._url.partition("://")[0]


def _read_start(fs: Any, url: str, count: int) -> bytes:
    """Read the start of a web server's answer; the server may ignore ranges and never end.

    Raises:
        StorageError: the answer is larger than the memory.
    """
    # With a block size of 0 fsspec streams. Because a size is given, it does not ask the server
    # for the size.
    with fs.open(url, "rb", block_size=0, size=1) as stream:
        blocks, left = [], count
        while left and (block := stream.read(left)):
            blocks.append(block)
            left -= len(block)
            check_memory(count - left, f"reading {url}")
    return b"".join(blocks)
