"""Test what a store refuses, and that a refusal changes nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policystore.errors import (
    AmbiguousError,
    FormatError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
)
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import Intercepted, StoreTests

__all__ = ["RefusalTests"]


class RefusalTests(StoreTests):
    """Test what a store refuses, and that a refusal changes nothing."""

    def test_an_error_for_an_unknown_ref_suggests_known_ones(self, store: PolicyStore) -> None:
        store.push(make_snapshot(), "soccer/main")
        store.tag("soccer/main", "champion")
        cases = {
            "soccer/mian": "soccer/main",
            "zzz": "soccer/main",
            "soccer/main@2": "1 to 1",
            "soccer/main@champoin": "champion",
            "soccer": "soccer/main",
            "blake3:" + "0" * 64: "blake3:00",
            "blake3:00000000": "00000000",
        }
        for ref, said in cases.items():
            with pytest.raises(NotFoundError, match=said):
                store.pull(ref)
            with pytest.raises(KeyError):
                store.resolve(ref)
        for call in (store.log, store.tags):
            with pytest.raises(NotFoundError, match="soccer/main"):
                call("soccer/mian")

    def test_wrong_arguments_are_refused_and_nothing_is_written(self, store: PolicyStore) -> None:
        snap = make_snapshot()
        bad: list[Callable[[], Any]] = [
            lambda: store.push(snap, "a/../b"),
            lambda: store.push(snap, "with space"),
            lambda: store.push(snap, ""),
            lambda: store.push(snap, "a@3"),
            lambda: store.push(snap, 7),  # type: ignore[arg-type]
            lambda: store.push({"w": np.ones(1)}, "a"),  # type: ignore[arg-type]
            lambda: store.push(snap, "a", metrics={"f": object()}),
            lambda: store.push(snap, "a", message="m" * 10_000),
            lambda: store.push(snap, "a", parents=["x y"]),
            lambda: store.pull(7),  # type: ignore[arg-type]
            lambda: store.pull("a b"),
            lambda: store.pull_many("ab"),
            lambda: store.names(3),  # type: ignore[arg-type]
            lambda: store.log("a@3"),
            lambda: store.log("a", limit=-1),
            lambda: store.log("a", limit="3"),  # type: ignore[arg-type]
            lambda: store.tag("blake3:" + "0" * 64, "t"),
            lambda: store.tag("a", "7"),
            lambda: store.untag("a", "x y"),
        ]
        for call in bad:
            with pytest.raises(InvalidInputError):
                call()
        with pytest.raises(NotFoundError):
            store.push(snap, "a", parents=["absent"])
        assert self.raw_keys() == set()

    def test_an_empty_storage_is_not_a_store(self, store: PolicyStore) -> None:
        for call in (lambda: store.pull("a"), lambda: store.log("a"), store.verify):
            with pytest.raises(NotFoundError, match="first push"):
                call()
        assert store.names() == []
        with pytest.raises(NotFoundError, match="first push"):
            self.open_store(read_only=True).names()
        assert self.raw_keys() == set()

    def test_a_storage_with_foreign_files_is_refused(self, store: PolicyStore) -> None:
        self.raw_write("notes.txt", b"mine")
        calls: list[Callable[[], Any]] = [
            lambda: store.push(make_snapshot(), "a"),
            lambda: store.pull("a"),
            store.names,
            store.verify,
        ]
        for call in calls:
            with pytest.raises(FormatError, match="not a policy store"):
                call()
        assert self.raw_keys() == {"notes.txt"}

    def test_a_store_of_a_newer_format_is_refused(self, store: PolicyStore) -> None:
        self.raw_write("policystore.json", b'{"format":2,"kind":"store","new":1}')
        for call in (
            lambda: store.push(make_snapshot(), "a"),
            lambda: store.pull("a"),
            store.names,
        ):
            with pytest.raises(FormatError, match=r"format 2.*Upgrade"):
                call()
        assert self.raw_keys() == {"policystore.json"}

    def test_a_broken_marker_is_refused(self, store: PolicyStore) -> None:
        for data in (b"", b"{}", b"\xff", b"x" * 100_000, b'{"format":1,"kind":"other"}'):
            self.raw_write("policystore.json", data)
            with pytest.raises(FormatError, match=r"policystore\.json"):
                store.push(make_snapshot(), "a")
        assert self.raw_keys() == {"policystore.json"}

    def test_a_read_only_store_refuses_writes_and_stays_unchanged(self, store: PolicyStore) -> None:
        reader = self.open_store(read_only=True)
        with pytest.raises(ReadOnlyError, match="read_only=True"):
            reader.push(make_snapshot(), "a")
        assert self.raw_keys() == set()
        store.push(make_snapshot(), "a")
        before = self.raw_keys()
        for call in (
            lambda: reader.push(make_snapshot(1), "a"),
            lambda: reader.tag("a", "t"),
            lambda: reader.untag("a", "t"),
        ):
            with pytest.raises(ReadOnlyError):
                call()
        assert reader.pull("a") == make_snapshot()
        assert reader.verify().ok
        with pytest.raises(ReadOnlyError):
            pickle.loads(pickle.dumps(reader)).push(make_snapshot(1), "a")
        assert self.raw_keys() == before

    def test_a_short_digest_that_fits_several_policies_is_ambiguous(self) -> None:
        backend = Intercepted(self.make_backend())
        store = self.open_over(backend)
        digests = [store.push(make_snapshot(seed)).digest for seed in range(2)]
        keys = list(self.object_keys())
        backend.keys = lambda prefix: iter(keys)  # two digests with the same start cannot be found
        with pytest.raises(AmbiguousError, match=digests[0].hex):
            store.resolve("blake3:12345678")
        tensors = store.push(make_snapshot(3, large=True)).objects
        assert tensors is not None
        keys[:] = [f"objects/{d.hex[:2]}/{d.hex}.safetensors" for d in tensors]
        assert store.resolve("blake3:12345678") == make_snapshot(3, large=True).digest
