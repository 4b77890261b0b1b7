"""Define the methods that the contract tests need from the author of a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from policystore.backends.base import Backend
from policystore.cache import CacheLike
from policystore.store import PolicyStore

__all__ = ["Intercepted", "StorageContract", "StoreTests"]


class StorageContract(ABC):
    """Give the tests a backend, and access to its storage that does not go through the backend.

    A subclass has to define only the five abstract methods. Four of them access the storage without
    policystore: as files, rows of a table or objects of a bucket. Each test begins with an empty
    storage. A fixture of the subclass (``autouse=True``) makes this storage::

        class Storage:
            @pytest.fixture(autouse=True)
            def _empty(self, tmp_path):
                self.root = tmp_path / "store"

    Attributes:
        cache: the argument ``cache`` of the stores that tests open; False for no cache.
    """

    cache: CacheLike = False

    @abstractmethod
    def make_backend(self) -> Backend:
        """Return a new backend object over the storage of this test, without touching it."""

    @abstractmethod
    def raw_keys(self) -> set[str]:
        """Return all keys in the storage, including files that are not keys of a store."""

    @abstractmethod
    def raw_read(self, key: str) -> bytes:
        """Return the bytes of a key."""

    @abstractmethod
    def raw_write(self, key: str, data: bytes) -> None:
        """Write or overwrite a key, also a key that the backend has made read-only."""

    @abstractmethod
    def raw_delete(self, key: str) -> None:
        """Delete a key."""

    # What a subclass may override

    def open_store(self, *, read_only: bool = False) -> PolicyStore:
        """Open a store over the storage of this test, as another process would do it."""
        return PolicyStore.over(self.make_backend(), cache=self.cache, read_only=read_only)

    def open_cold(self) -> PolicyStore:
        """Open a store with an empty cache. Override this only if ``cache`` is set."""
        return self.open_store()

    # Helpers of the tests

    def damage(self, key: str) -> None:
        """Flip a bit in the last byte of a key."""
        data = bytearray(self.raw_read(key))
        data[-1] ^= 1
        self.raw_write(key, bytes(data))

    def object_keys(self) -> set[str]:
        """Return the keys of all objects that the storage holds."""
        return {key for key in self.raw_keys() if key.startswith("objects/")}

    def open_over(self, backend: Intercepted) -> PolicyStore:
        """Open a store over a backend; the test replaces some calls of this backend."""
        return PolicyStore.over(cast(Backend, backend), cache=self.cache)


class StoreTests(StorageContract):
    """The base of all test classes that make up :class:`~policystore.testing.StoreContract`."""

    @pytest.fixture
    def store(self) -> PolicyStore:
        """Return a store over an empty storage."""
        return self.open_store()


class Intercepted:
    """A backend in which a test can replace calls, by setting the attribute of the call.

    Args:
        inner: the backend that answers all other calls.
    """

    keys: Callable[[str], Iterator[str]]
    create: Callable[[str, bytes], bool]
    size: Callable[..., int | None]
    get: Callable[..., bytes | memoryview]

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
