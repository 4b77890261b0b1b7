"""The contracts over a filesystem of fsspec that creates exclusively, without and with a cache."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from policystore import IntegrityError, PolicyStore
from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.cache import CacheLike
from policystore.testing import BackendContract, StoreContract, make_snapshot
from tests.support import fsspec_clouds

ROOT, URL = "/bucket/league/", "gs://bucket/league"


class CloudStorage:
    cache: CacheLike = False

    @pytest.fixture(autouse=True)
    def _empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsspec_clouds.install(monkeypatch)

    def make_backend(self) -> Backend:
        return open_backend(URL)

    def open_store(self, *, read_only: bool = False) -> PolicyStore:
        return PolicyStore(URL, cache=self.cache, read_only=read_only)

    def raw_keys(self) -> set[str]:
        return {key.removeprefix(ROOT) for key in fsspec_clouds.Cloud.store}

    def raw_read(self, key: str) -> bytes:
        return bytes(fsspec_clouds.Cloud.store[ROOT + key].getvalue())

    def raw_write(self, key: str, data: bytes) -> None:
        fsspec_clouds.Cloud().pipe_file(ROOT + key, data)

    def raw_delete(self, key: str) -> None:
        del fsspec_clouds.Cloud.store[ROOT + key]


class TestCloudBackend(CloudStorage, BackendContract):
    pass


class TestCloudStore(CloudStorage, StoreContract):
    pass


class TestCachedStore(CloudStorage, StoreContract):
    """A remote store with one cache, which all stores of a test share."""

    @pytest.fixture(autouse=True)
    def _cached(self, tmp_path: Path) -> None:
        self.cache = tmp_path / "cache"
        self.other_caches = (tmp_path / f"cold{number}" for number in itertools.count())

    def open_cold(self) -> PolicyStore:
        return PolicyStore(URL, cache=next(self.other_caches))

    def test_a_cached_object_is_not_read_from_the_store(self, store: PolicyStore) -> None:
        store.push(make_snapshot(1, large=True), "a")
        assert store.pull("a") == make_snapshot(1, large=True)
        for key in self.object_keys():
            self.raw_delete(key)
        assert self.open_store().pull("a") == make_snapshot(1, large=True)
        with pytest.raises(IntegrityError, match="lost it"):
            self.open_cold().pull("a")
        assert not store.verify().ok  # verify reads the store and not the cache
