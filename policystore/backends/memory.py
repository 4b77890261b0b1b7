"""Keep a store in the memory of this process, for tests and notebooks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

from policystore._util.progress import BytesCallback
from policystore.backends.base import Chunks, Entry, Problems
from policystore.errors import FormatError, NotFoundError

__all__ = ["MemoryBackend"]


class _Space:
    """The keys of one ``memory://`` URL, and the lock that every access takes.

    Attributes:
        lock: the lock.
        data: the bytes of each key.
        times: when each key was written, by ``clock``.
        clock: returns the time in seconds since 1970; tests replace it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.data: dict[str, bytes] = {}
        self.times: dict[str, float] = {}
        self.clock: Callable[[], float] = time.time

    def write(self, key: str, data: bytes) -> None:
        """Write a key; the caller holds the lock."""
        # In this order: a process that is forked in between finds a time for each key.
        self.times[key] = self.clock()
        self.data[key] = data


_SPACES: dict[str, _Space] = {}


def _renew_locks() -> None:
    # A forked process has a copy of all keys. Another thread may have held a lock at the fork; each
    # access changes one key in one step of the interpreter, so the copy is whole.
    for space in _SPACES.values():
        space.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class MemoryBackend:
    """Keep keys in a dict; ``memory://x`` is the same dict everywhere in one process.

    Args:
        name: what follows ``memory://``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._space = _SPACES.setdefault(name, _Space())  # one step: no lock is needed

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    @property
    def is_remote(self) -> bool:
        return False

    @property
    def parallel(self) -> int:
        return 1

    def location(self, key: str) -> str:
        return f"{self.url}/{key}"

    def get(
        self,
        key: str,
        *,
        limit: int | None = None,
        share: bool = False,
        size: int | None = None,
        on_bytes: BytesCallback | None = None,
    ) -> bytes | memoryview:
        with self._space.lock:
            data = self._space.data.get(key)
        if data is None:
            raise NotFoundError(f"no key {self.location(key)}")
        if limit is not None and len(data) > limit:
            raise FormatError(
                f"{self.location(key)} has {len(data)} bytes, and at most {limit} are allowed"
            )
        return data

    def head(self, key: str, count: int) -> bytes:
        return bytes(self.get(key)[:count])

    def size(self, key: str) -> int | None:
        with self._space.lock:
            data = self._space.data.get(key)
        return None if data is None else len(data)

    def put(self, key: str, chunks: Chunks, *, on_bytes: BytesCallback | None = None) -> None:
        self.replace(key, b"".join(chunks))

    def create(self, key: str, data: bytes) -> bool:
        with self._space.lock:
            if key in self._space.data:
                return False
            self._space.write(key, bytes(data))
            return True

    def verify_exclusive_create(self, key: str, data: bytes) -> None:
        return  # create holds a lock

    def replace(self, key: str, data: bytes) -> None:
        with self._space.lock:
            self._space.write(key, bytes(data))

    def keys(self, prefix: str, *, problems: Problems | None = None) -> Iterator[str]:
        for entry in self.entries(prefix):
            yield entry.key

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        with self._space.lock:
            matching = [
                Entry(key, len(data), self._space.times[key])
                for key, data in self._space.data.items()
                if key.startswith(prefix)
            ]
        yield from sorted(matching, key=lambda entry: entry.key)

    def prefixes(
        self, prefix: str, delimiter: str, *, problems: Problems | None = None
    ) -> Iterator[str]:
        last = ""
        for key in self.keys(prefix):
            end = key.find(delimiter, len(prefix))
            if end >= 0 and key[: end + len(delimiter)] != last:
                last = key[: end + len(delimiter)]
                yield last

    def server_time(self) -> float:
        return self._space.clock()

    def delete(self, key: str) -> None:
        with self._space.lock:
            self._space.data.pop(key, None)
            self._space.times.pop(key, None)

    def copy(self, key: str, target: str) -> None:
        with self._space.lock:
            if key not in self._space.data:
                raise NotFoundError(f"no key {self.location(key)}")
            self._space.write(target, self._space.data[key])
