"""The contracts over memory, also with unusual values of ``is_remote`` and ``parallel``."""

from __future__ import annotations

import pytest

from policystore import PolicyStore
from policystore.backends.base import Backend
from policystore.backends.memory import _SPACES, MemoryBackend
from policystore.testing import BackendContract, StoreContract


class Memory:
    @pytest.fixture(autouse=True)
    def _empty(self, request: pytest.FixtureRequest) -> None:
        self.name = request.node.nodeid

    def make_backend(self) -> Backend:
        return MemoryBackend(self.name)

    def open_store(self, *, read_only: bool = False) -> PolicyStore:
        return PolicyStore(f"memory://{self.name}", read_only=read_only)

    @property
    def data(self) -> dict[str, bytes]:
        return _SPACES[self.name].data if self.name in _SPACES else {}

    def raw_keys(self) -> set[str]:
        return set(self.data)

    def raw_read(self, key: str) -> bytes:
        return self.data[key]

    def raw_write(self, key: str, data: bytes) -> None:
        MemoryBackend(self.name)
        _SPACES[self.name].write(key, data)

    def raw_delete(self, key: str) -> None:
        del self.data[key]


class TestMemoryBackend(Memory, BackendContract):
    pass


class TestMemoryStore(Memory, StoreContract):
    pass


class Distant(MemoryBackend):
    """A backend with ``is_remote``: a push writes a hint with each record, one call at a time."""

    @property
    def is_remote(self) -> bool:
        return True

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self._name,))


class Wide(MemoryBackend):
    """A backend with many parallel calls: a push writes a hint after its record."""

    @property
    def parallel(self) -> int:
        return 64

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self._name,))


class TestStoreOverDistantMemory(Memory, StoreContract):
    def make_backend(self) -> Backend:
        return Distant(self.name)

    def open_store(self, *, read_only: bool = False) -> PolicyStore:
        return PolicyStore.over(self.make_backend(), cache=False, read_only=read_only)


class TestStoreOverWideMemory(Memory, StoreContract):
    def make_backend(self) -> Backend:
        return Wide(self.name)

    def open_store(self, *, read_only: bool = False) -> PolicyStore:
        return PolicyStore.over(self.make_backend(), read_only=read_only)
