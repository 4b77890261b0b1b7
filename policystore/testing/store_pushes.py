"""Test what a push writes, and what a pull returns."""

from __future__ import annotations

import itertools
import json
import pickle

import blake3
import numpy as np
import pytest

from policystore.digest import Digest
from policystore.errors import (
    IntegrityError,
)
from policystore.format.keys import object_key
from policystore.format.records import Version
from policystore.repository.ref_like import RefLike
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import StoreTests

__all__ = ["PushTests"]


class PushTests(StoreTests):
    """Test what a push writes, and what a pull returns."""

    def test_the_first_push_makes_exactly_these_keys(self, store: PolicyStore) -> None:
        assert self.raw_keys() == set()
        snap = make_snapshot()
        version = store.push(snap, "Soccer/main", metrics={"return": 1.5}, message="first")
        hexadecimal = version.digest.hex
        hint = set() if self.make_backend().is_remote else {"names/!soccer/main/@hint"}
        assert self.raw_keys() == hint | {
            "policystore.json",
            f"objects/{hexadecimal[:2]}/{hexadecimal}.safetensors",
            "names/!soccer/main/@versions/0000000001.json",
        }
        data = self.raw_read(f"objects/{hexadecimal[:2]}/{hexadecimal}.safetensors")
        assert blake3.blake3(data).hexdigest() == hexadecimal
        # Find a tensor in the file as any safetensors reader does.
        start = 8 + int.from_bytes(data[:8], "little")
        begin, end = json.loads(data[8:start])["encoder.bias"]["data_offsets"]
        assert data[start + begin : start + end] == snap.weights["encoder.bias"].tobytes()
        record = self.raw_read("names/!soccer/main/@versions/0000000001.json")
        assert Version.from_bytes(record, "it") == version

    def test_large_tensors_are_shared_between_policies(self, store: PolicyStore) -> None:
        one = store.push(make_snapshot(1, large=True), "a")
        first = self.object_keys()
        assert len(first) == 3
        two = store.push(make_snapshot(2, large=True), "a")
        assert len(self.object_keys()) == 5  # the frozen encoder once
        assert one.objects is not None
        for digest, size in one.objects.items():
            assert len(self.raw_read(object_key(digest))) == size
        assert store.pull(one) == make_snapshot(1, large=True)
        assert store.pull(two) == make_snapshot(2, large=True)

    def test_each_record_holds_the_digest_of_the_record_before(self, store: PolicyStore) -> None:
        for seed in range(4):
            store.push(make_snapshot(seed), "a")
        records = [self.raw_read(f"names/a/@versions/{n:010d}.json") for n in range(1, 5)]
        for before, after in itertools.pairwise(records):
            assert Version.from_bytes(after, "it").previous == Digest(
                blake3.blake3(before).hexdigest()
            )

    def test_every_kind_of_ref_finds_its_policy(self, store: PolicyStore) -> None:
        versions = [store.push(make_snapshot(seed), "soccer/main") for seed in range(3)]
        store.tag("soccer/main@2", "champion")
        assert [v.number for v in versions] == [1, 2, 3]
        assert [v.ref for v in versions] == [f"soccer/main@{n}" for n in (1, 2, 3)]
        expected: dict[RefLike, int] = {
            "soccer/main": 2,
            "soccer/main@latest": 2,
            "soccer/main@1": 0,
            "soccer/main@champion": 1,
            str(versions[0].digest): 0,
            str(versions[0].digest)[: len("blake3:") + 8]: 0,
            versions[1].digest: 1,
            versions[2]: 2,
        }
        for ref, seed in expected.items():
            assert store.resolve(ref) == make_snapshot(seed).digest
            assert store.pull(ref) == make_snapshot(seed)
        assert store.pull_many(expected) == {r: make_snapshot(s) for r, s in expected.items()}

    def test_a_pulled_snapshot_is_complete_and_read_only(self, store: PolicyStore) -> None:
        for large in (False, True):
            snap = make_snapshot(3, large=large)
            found = store.pull(store.push(snap))
            assert found.digest == snap.digest
            assert found.spec == snap.spec
            assert list(found.weights) == list(snap.weights)
            for name, array in snap.weights.items():
                got = found.weights[name]
                assert (got.dtype, got.shape, got.tobytes()) == (
                    array.dtype,
                    array.shape,
                    array.tobytes(),
                )
                with pytest.raises(ValueError, match="read-only"):
                    got[...] = 0
                with pytest.raises(ValueError, match="WRITEABLE"):
                    got.flags.writeable = True
            assert found.replace(spec=found.spec).digest == snap.digest  # encoded again
            assert found.weights_digest == snap.weights_digest
            assert found.state_digest == snap.state_digest

    def test_a_push_without_a_name_is_found_by_digest(self, store: PolicyStore) -> None:
        version = store.push(make_snapshot())
        assert (version.name, version.number) == (None, None)
        assert version.ref == str(version.digest)
        assert store.pull(version) == make_snapshot()
        assert store.names() == []
        assert not any(key.startswith("names/") for key in self.raw_keys())

    def test_a_second_push_of_a_policy_adds_no_objects(self, store: PolicyStore) -> None:
        store.push(make_snapshot(), "a")
        before = self.object_keys()
        assert store.push(make_snapshot(), "a").number == 2
        assert store.push(make_snapshot(), "b").number == 1
        assert self.object_keys() == before

    def test_a_damaged_copy_is_replaced_by_a_push(self, store: PolicyStore) -> None:
        for large in (False, True):
            store.push(make_snapshot(large=large), "a")
            for key in self.object_keys():
                for hurt in (self.damage, lambda key: self.raw_write(key, b""), self.raw_delete):
                    hurt(key)
                    with pytest.raises(IntegrityError, match="push"):
                        self.open_cold().pull("a")
                    store.push(make_snapshot(large=large), "a")
                    assert self.open_cold().pull("a") == make_snapshot(large=large)
            for key in self.object_keys():
                self.raw_delete(key)

    def test_a_version_holds_all_notes_of_its_push(
        self, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parent = store.push(make_snapshot(1), "a")
        snap = make_snapshot(2)
        store.push(snap, "b", message="m", metrics={"return": np.float32(2.5)}, author="ann",
                   source={"iteration": 3}, parents=["a", parent.digest])  # fmt: skip
        found = store.log("b")[0]
        assert (found.message, found.metrics, found.author) == ("m", {"return": 2.5}, "ann")
        assert (found.source, found.parents) == ({"iteration": 3}, (parent.digest, parent.digest))
        assert found.weights_digest == snap.weights_digest
        assert found.acting_digest == snap.acting_digest
        assert found.state_digest == snap.state_digest
        assert found.objects == {snap.digest: len(self.raw_read(object_key(snap.digest)))}
        monkeypatch.setenv("POLICYSTORE_AUTHOR", "bob")
        assert store.push(snap, "b").author == "bob"

    def test_stores_pickle_and_share_the_storage(self, store: PolicyStore) -> None:
        other = pickle.loads(pickle.dumps(store))
        version = store.push(make_snapshot(), "a")
        assert other.pull("a") == make_snapshot()
        assert other.push(make_snapshot(1), "a").number == 2
        assert repr(other) == repr(store)
        assert pickle.loads(pickle.dumps(version)) == version
