"""One suite for every backend; its oracle reads and writes the raw storage, not the store."""

from __future__ import annotations

import itertools
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
import safetensors.torch

from policystore import (
    AmbiguousError,
    Digest,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    PolicyStoreError,
    ReadOnlyError,
    Snapshot,
    Version,
)
from policystore.backends.memory import _SPACES
from policystore.cache import CacheLike
from tests.support import fsspec_clouds, s3_server

Make = Callable[..., Snapshot]


class StoreContract(ABC):
    """Subclasses name a storage and give raw access to it."""

    @abstractmethod
    def raw_keys(self) -> set[str]: ...

    @abstractmethod
    def raw_read(self, key: str) -> bytes: ...

    @abstractmethod
    def raw_write(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def raw_delete(self, key: str) -> None: ...

    url: str
    storage_options: dict[str, Any] | None = None
    cache: CacheLike = False
    remote = False  # the hint is written beside a record, and not with the first

    def open(self, **kwargs: Any) -> PolicyStore:
        options = {"storage_options": self.storage_options, "cache": self.cache} | kwargs
        return PolicyStore(self.url, **options)

    def cold(self) -> PolicyStore:
        """As seen by somebody who has pulled nothing yet."""
        return self.open()

    @pytest.fixture
    def store(self) -> PolicyStore:
        return self.open()

    def damage(self, key: str) -> None:
        data = bytearray(self.raw_read(key))
        data[-1] ^= 1
        self.raw_write(key, bytes(data))

    def objects(self) -> set[str]:
        return {key for key in self.raw_keys() if key.startswith("objects/")}

    # What lies in the storage

    def test_the_first_push_makes_exactly_these_keys(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        assert self.raw_keys() == set()
        snap = make_snapshot()
        version = store.push(snap, "Soccer/main", metrics={"return": 1.5}, message="first")
        hexadecimal = version.digest.hex
        hint = set() if self.remote else {"names/!soccer/main/@hint"}
        assert self.raw_keys() == hint | {
            "policystore.json",
            f"objects/{hexadecimal[:2]}/{hexadecimal}.safetensors",
            "names/!soccer/main/@versions/0000000001.json",
        }
        data = self.raw_read(f"objects/{hexadecimal[:2]}/{hexadecimal}.safetensors")
        assert blake3.blake3(data).hexdigest() == hexadecimal
        tensors = safetensors.torch.load(data)
        assert tensors["encoder.bias"].tolist() == snap.weights["encoder.bias"].tolist()
        record = self.raw_read("names/!soccer/main/@versions/0000000001.json")
        assert Version.from_bytes(record, "it") == version

    def test_large_tensors_stand_alone_and_are_shared(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        one = store.push(make_snapshot(1, large=True), "a")
        first = self.objects()
        assert len(first) == 3
        two = store.push(make_snapshot(2, large=True), "a")
        assert len(self.objects()) == 5  # the frozen encoder once
        assert one.objects is not None
        assert {len(self.raw_read(f"objects/{d.hex[:2]}/{d.hex}.safetensors")) for d in one.objects} == (
            set(one.objects.values())
        )  # fmt: skip
        assert store.pull(one) == make_snapshot(1, large=True)
        assert store.pull(two) == make_snapshot(2, large=True)

    def test_a_chain_of_records(self, store: PolicyStore, make_snapshot: Make) -> None:
        for seed in range(4):
            store.push(make_snapshot(seed), "a")
        records = [self.raw_read(f"names/a/@versions/{n:010d}.json") for n in range(1, 5)]
        for before, after in itertools.pairwise(records):
            assert Version.from_bytes(after, "it").previous == Digest(
                blake3.blake3(before).hexdigest()
            )

    # Push, pull, refs

    def test_every_kind_of_ref_finds_its_policy(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        versions = [store.push(make_snapshot(seed), "soccer/main") for seed in range(3)]
        store.tag("soccer/main@2", "champion")
        assert [v.number for v in versions] == [1, 2, 3]
        assert [v.ref for v in versions] == [f"soccer/main@{n}" for n in (1, 2, 3)]
        expected = {
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

    def test_what_is_pulled_is_whole_and_read_only(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for large in (False, True):
            snap = make_snapshot(3, large=large)
            found = store.pull(store.push(snap))
            assert found.digest == snap.digest
            assert (found.spec, found.state_json) == (snap.spec, snap.state_json)
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
            assert found.encode().policy.digest == snap.digest
            assert found.weights_digest == snap.weights_digest

    def test_a_push_without_a_name_is_found_by_digest(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        version = store.push(make_snapshot())
        assert (version.name, version.number) == (None, None)
        assert version.ref == str(version.digest)
        assert store.pull(version) == make_snapshot()
        assert store.names() == []
        assert not any(key.startswith("names/") for key in self.raw_keys())

    def test_the_same_policy_again_is_a_version_and_no_bytes(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        store.push(make_snapshot(), "a")
        before = self.objects()
        assert store.push(make_snapshot(), "a").number == 2
        assert store.push(make_snapshot(), "b").number == 1
        assert self.objects() == before

    def test_a_damaged_copy_is_replaced_by_a_push(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for large in (False, True):
            store.push(make_snapshot(large=large), "a")
            for key in self.objects():
                for hurt in (self.damage, lambda key: self.raw_write(key, b""), self.raw_delete):
                    hurt(key)
                    with pytest.raises(IntegrityError, match="push"):
                        self.cold().pull("a")
                    store.push(make_snapshot(large=large), "a")
                    assert self.cold().pull("a") == make_snapshot(large=large)
            for key in self.objects():
                self.raw_delete(key)

    def test_what_a_version_says(
        self, store: PolicyStore, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
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
        assert found.objects == {snap.digest: snap.encode().policy.size}
        monkeypatch.setenv("POLICYSTORE_AUTHOR", "bob")
        assert store.push(snap, "b").author == "bob"

    # Names, log, tags

    def test_names_and_log(self, store: PolicyStore, make_snapshot: Make) -> None:
        for name in ("soccer/main", "soccer", "Soccer/main", "soccer-b/x", "a"):
            store.push(make_snapshot(), name)
        assert store.names() == ["Soccer/main", "a", "soccer", "soccer-b/x", "soccer/main"]
        assert store.names("soccer/") == ["soccer/main"]
        assert store.names("soccer") == ["soccer", "soccer-b/x", "soccer/main"]
        assert store.names("nothing") == []
        for seed in range(1, 5):
            store.push(make_snapshot(seed), "a")
        assert [v.number for v in store.log("a")] == [5, 4, 3, 2, 1]
        assert [v.number for v in store.log("a", limit=2)] == [5, 4]
        assert store.log("a", limit=0) == []
        assert store.log("a")[0].digest == make_snapshot(4).digest

    def test_tags_move_and_keep_their_history(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        assert store.tags("a") == {}
        assert store.tag("a@1", "champion").number == 1
        assert store.tag("a", "champion").number == 3
        assert store.tag("a@champion", "Best").number == 3
        assert {tag: v.number for tag, v in store.tags("a").items()} == {"Best": 3, "champion": 3}
        store.untag("a", "champion")
        assert list(store.tags("a")) == ["Best"]
        with pytest.raises(NotFoundError, match="champion"):
            store.pull("a@champion")
        with pytest.raises(NotFoundError, match="champion"):
            store.untag("a", "champion")
        store.tag("a@2", "champion")
        assert store.resolve("a@champion") == make_snapshot(1).digest
        moves = sorted(key for key in self.raw_keys() if "@tags/champion/" in key)
        assert moves == [f"names/a/@tags/champion/{n:010d}.json" for n in (1, 2, 3, 4)]

    def test_a_lost_or_wrong_hint_changes_nothing(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for seed in range(20):
            store.push(make_snapshot(seed), "a")
        hint = self.raw_read("names/a/@hint")
        assert b'"number":20' in hint
        wrong = [b"", b"{}", b"\xff", b"x" * 70_000, hint.replace(b"20", b"3"),
                 hint.replace(b"20", b"999"), hint.replace(b"20", b"0")]  # fmt: skip
        for data in wrong:
            self.raw_write("names/a/@hint", data)
            assert store.resolve("a") == make_snapshot(19).digest
        self.raw_delete("names/a/@hint")
        assert store.push(make_snapshot(20), "a").number == 21

    def test_a_hint_pointing_back_costs_probes_that_grow_with_the_logarithm(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for _ in range(64):
            store.push(make_snapshot(), "a")
        probed: list[str] = []

        def noting(plain: Callable[..., Any]) -> Callable[..., Any]:
            def noted(key: str, **kwargs: Any) -> Any:
                if "@versions" in key:
                    probed.append(key)
                return plain(key, **kwargs)

            return noted

        backend: Any = store._backend
        for call in ("size", "get"):
            setattr(backend, call, noting(getattr(backend, call)))
        store.resolve("a")
        assert len(probed) <= 3
        self.raw_delete("names/a/@hint")
        probed.clear()
        store.resolve("a")
        assert len(probed) <= (15 if backend.parallel == 1 else 2 + 3 * 16)

    # Threads

    def test_threads_that_push_to_one_name_lose_nothing(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        snaps = [make_snapshot(seed) for seed in range(40)]
        with ThreadPoolExecutor(8) as pool:
            versions = list(pool.map(lambda snap: store.push(snap, "a"), snaps))
        assert sorted(v.number or 0 for v in versions) == list(range(1, 41))
        assert {v.digest for v in store.log("a")} == {snap.digest for snap in snaps}
        assert store.verify().ok

    def test_a_store_made_by_another_while_this_one_looks(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        keys = store._backend.keys

        def late(prefix: str) -> Any:
            self.open().push(make_snapshot(1), "a")
            return keys(prefix)

        store._backend.keys = late  # type: ignore[method-assign]
        assert store.push(make_snapshot(2), "a").number == 2

    def test_threads_that_move_one_tag_lose_nothing(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for seed in range(8):
            store.push(make_snapshot(seed), "a")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: store.tag(f"a@{n}", "t"), range(1, 9)))
        assert len([key for key in self.raw_keys() if "@tags/t/" in key]) == 8
        assert store.verify().ok

    def test_a_tag_moves_when_it_is_told_to(self, store: PolicyStore, make_snapshot: Make) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        seen: list[int | None] = []

        def asked(answer: bool) -> Callable[[Version | None], bool]:
            def when(now: Version | None) -> bool:
                seen.append(None if now is None else now.number)
                return answer

            return when

        assert store.tag("a@1", "t", when=asked(False)) is None
        assert store.tags("a") == {}
        for number, answer, stands in ((2, True, 2), (3, False, 2), (1, True, 1)):
            found = store.tag(f"a@{number}", "t", when=asked(answer))
            assert found is not None
            assert found.number == stands == store.tags("a")["t"].number
        store.untag("a", "t")
        assert store.tag("a@3", "t", when=asked(True)) == store.log("a")[0]
        assert seen == [None, None, 2, 2, None]
        with pytest.raises(ZeroDivisionError):
            store.tag("a@1", "t", when=lambda now: bool(1 / 0))
        assert store.tags("a")["t"].number == 3

    def test_the_best_of_many_writers_keeps_the_tag(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        """Each asks whether its own is better than what stands; whoever comes last."""
        returns = [3, 9, 1, 7, 8, 2, 6, 5, 4]
        pushed = [store.push(make_snapshot(n), "a", metrics={"r": n}) for n in returns]

        def offer(mine: Version) -> None:
            store.tag(
                mine, "best", when=lambda now: now is None or mine.metrics["r"] > now.metrics["r"]
            )

        with ThreadPoolExecutor(len(pushed)) as pool:
            list(pool.map(offer, pushed))
        assert store.tags("a")["best"].metrics == {"r": 9}
        assert store.verify().ok

    def test_a_reader_never_sees_a_version_that_it_cannot_pull(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        store.push(make_snapshot(), "a")
        stop = threading.Event()
        failures: list[BaseException] = []

        def read() -> None:
            while not stop.is_set():
                try:
                    store.pull("a")
                    store.log("a")
                except BaseException as error:
                    failures.append(error)
                    return

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for seed in range(30):
            store.push(make_snapshot(seed, large=seed % 10 == 0), "a")
        stop.set()
        for reader in readers:
            reader.join()
        assert not failures

    # Other objects on the same storage

    def test_stores_pickle_and_share_the_storage(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        other = pickle.loads(pickle.dumps(store))
        version = store.push(make_snapshot(), "a")
        assert other.pull("a") == make_snapshot()
        assert other.push(make_snapshot(1), "a").number == 2
        assert repr(other) == repr(store)
        assert pickle.loads(pickle.dumps(version)) == version

    def test_a_lost_answer_does_not_make_two_versions(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        create = store._backend.create

        def answers_lost(key: str, data: bytes) -> bool:
            create(key, data)
            return False  # as an NFS server does when its first answer got lost

        store.push(make_snapshot(0), "a")
        store._backend.create = answers_lost  # type: ignore[method-assign]
        assert store.push(make_snapshot(1), "a").number == 2
        store.tag("a@1", "t")
        assert len(store.log("a")) == 2
        assert len([key for key in self.raw_keys() if "@tags/t/" in key]) == 1

    # Bad input

    def test_what_is_not_there_is_named_with_what_is(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
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

    def test_wrong_arguments_are_refused_and_nothing_is_written(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
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

    def test_an_empty_place_is_no_store_yet(self, store: PolicyStore) -> None:
        for call in (lambda: store.pull("a"), lambda: store.log("a"), store.verify):
            with pytest.raises(NotFoundError, match="first push"):
                call()
        assert store.names() == []
        with pytest.raises(NotFoundError, match="first push"):
            self.open(read_only=True).names()
        assert self.raw_keys() == set()

    def test_a_foreign_place_is_left_alone(self, store: PolicyStore, make_snapshot: Make) -> None:
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

    def test_a_store_of_a_newer_format(self, store: PolicyStore, make_snapshot: Make) -> None:
        self.raw_write("policystore.json", b'{"format":2,"kind":"store","new":1}')
        for call in (
            lambda: store.push(make_snapshot(), "a"),
            lambda: store.pull("a"),
            store.names,
        ):
            with pytest.raises(FormatError, match=r"format 2.*Upgrade"):
                call()
        assert self.raw_keys() == {"policystore.json"}

    def test_a_broken_marker(self, store: PolicyStore, make_snapshot: Make) -> None:
        for data in (b"", b"{}", b"\xff", b"x" * 100_000, b'{"format":1,"kind":"other"}'):
            self.raw_write("policystore.json", data)
            with pytest.raises(FormatError, match=r"policystore\.json"):
                store.push(make_snapshot(), "a")
        assert self.raw_keys() == {"policystore.json"}

    def test_damaged_objects_are_never_handed_out(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        store.push(make_snapshot(large=True), "a")
        good = {key: self.raw_read(key) for key in self.objects()}
        other = next(iter(good))
        for key, data in good.items():
            swapped = good[next(k for k in good if k != key)]
            flipped = data[:100] + bytes([data[100] ^ 4]) + data[101:]
            for bad in (b"", data[:-1], data + b"\0", flipped, swapped, data[:50]):
                self.raw_write(key, bad)
                with pytest.raises(IntegrityError, match=r"damaged.*push"):
                    self.cold().pull("a")
            self.raw_delete(key)
            with pytest.raises(IntegrityError, match="lost it"):
                self.cold().pull("a")
            self.raw_write(key, data)
        assert store.pull("a") == make_snapshot(large=True)
        assert other in good

    def test_bytes_that_match_their_digest_but_are_no_policy(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        store.push(make_snapshot(), "a")
        for data in (b"", b"hello", b"\xff" * 1000, (2**63).to_bytes(8, "little") + b"{}"):
            hexadecimal = blake3.blake3(data).hexdigest()
            self.raw_write(f"objects/{hexadecimal[:2]}/{hexadecimal}.safetensors", data)
            with pytest.raises(FormatError, match=hexadecimal[:12]):
                store.pull(f"blake3:{hexadecimal}")

    def test_a_tensor_object_is_no_policy(self, store: PolicyStore, make_snapshot: Make) -> None:
        version = store.push(make_snapshot(large=True), "a")
        assert version.objects is not None
        tensor = next(digest for digest in version.objects if digest != version.digest)
        with pytest.raises(FormatError, match="not one of policystore"):
            store.pull(tensor)
        with pytest.raises(NotFoundError):
            self.open().resolve("blake3:" + "0" * 8)

    def test_a_short_digest_that_fits_several(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        digests = [store.push(make_snapshot(seed)).digest for seed in range(2)]
        keys = list(self.objects())
        store._backend.keys = lambda prefix: iter(keys)  # type: ignore[method-assign]
        with pytest.raises(AmbiguousError, match=digests[0].hex):
            store.resolve("blake3:12345678")
        tensors = store.push(make_snapshot(3, large=True)).objects
        assert tensors is not None
        keys[:] = [f"objects/{d.hex[:2]}/{d.hex}.safetensors" for d in tensors]
        assert store.resolve("blake3:12345678") == make_snapshot(3, large=True).digest

    def test_damaged_records_are_format_errors(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        store.push(make_snapshot(9), "b")
        store.tag("a@1", "t")
        store.tag("b", "t")
        for key in ("names/a/@versions/0000000003.json", "names/a/@tags/t/0000000001.json"):
            good = self.raw_read(key)
            swapped = self.raw_read(key.replace("/a/", "/b/").replace("003", "001"))
            for bad in (b"", good[:-2], good + b" ", b"\xff", b"x" * 70_000, swapped, b"[" * 1000):
                self.raw_write(key, bad)
                with pytest.raises(FormatError, match="0000000"):
                    store.pull("a@t" if "@tags" in key else "a")
            self.raw_write(key, good)
        with pytest.raises(FormatError, match="different digests"):
            moved = self.raw_read("names/a/@tags/t/0000000001.json")
            self.raw_write(
                "names/a/@tags/t/0000000001.json",
                moved.replace(make_snapshot(0).digest.hex.encode(), b"0" * 64),
            )
            store.pull("a@t")

    def test_read_only_refuses_before_anything_is_touched(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        reader = self.open(read_only=True)
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
        assert pickle.loads(pickle.dumps(reader))._read_only
        assert self.raw_keys() == before

    # Verify

    def test_a_good_store_verifies_with_counts(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        store.push(make_snapshot(1, large=True), "a")
        store.push(make_snapshot(2, large=True), "a")
        store.push(make_snapshot(3), "b/c")
        store.tag("a@1", "t")
        store.untag("a", "t")
        report = store.verify()
        assert report.ok
        assert (report.objects, report.policies, report.tensors) == (6, 3, 3)
        assert (report.names, report.versions, report.tags) == (2, 3, 1)
        assert report.nbytes == sum(len(self.raw_read(key)) for key in self.objects())
        assert ": ok" in str(report)
        report.raise_if_bad()

    def test_every_kind_of_fault_is_found(self, store: PolicyStore, make_snapshot: Make) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed, large=True), "a")
        other = store.push(make_snapshot(7), "b")
        store.tag("a@2", "t")
        store.tag("a@3", "t")
        v = "names/a/@versions/{:010d}.json".format
        t = "names/a/@tags/t/{:010d}.json".format
        policies = [
            f"objects/{x.digest.hex[:2]}/{x.digest.hex}.safetensors" for x in store.log("a")
        ]
        tensors = sorted(self.objects() - set(policies))
        good = {key: self.raw_read(key) for key in self.raw_keys()}
        record = good[v(3)]
        parsed = Version.from_bytes(record, "it")
        cases: dict[str, Callable[[], None]] = {
            "marker": lambda: self.raw_write("policystore.json", b"{}"),
            "no marker": lambda: self.raw_delete("policystore.json"),
            "policy flipped": lambda: self.damage(policies[0]),
            "policy gone": lambda: self.raw_delete(policies[0]),
            "tensor flipped": lambda: self.damage(tensors[0]),
            "tensor empty": lambda: self.raw_write(tensors[0], b""),
            "tensor gone": lambda: self.raw_delete(tensors[0]),
            "foreign object": lambda: self.raw_write("objects/ab/x.safetensors", b"x"),
            "object in the wrong folder": lambda: self.raw_write(
                f"objects/zz/{policies[0][11:]}", good[policies[0]]
            ),
            "foreign key": lambda: self.raw_write("names/a/@versions/x.json", b"x"),
            "foreign file": lambda: self.raw_write("readme.txt", b"x"),
            "foreign name": lambda: self.raw_write("names/A b/@versions/0000000001.json", b"x"),
            "foreign tag": lambda: self.raw_write("names/a/@tags/7/0000000001.json", b"x"),
            "record unreadable": lambda: self.raw_write(v(2), b"{}"),
            "record of another name": lambda: self.raw_write(
                "names/b/@versions/0000000001.json", good[v(1)]
            ),
            "record gone": lambda: self.raw_delete(v(2)),
            "first record gone": lambda: self.raw_delete(v(1)),
            "history changed": lambda: self.raw_write(
                v(1), good[v(1)].replace(b'"message":""', b'"message":"x"')
            ),
            "parts wrong": lambda: self.raw_write(
                v(3),
                record.replace(make_snapshot(2, large=True).state_digest.hex.encode(), b"0" * 64),
            ),
            "size wrong": lambda: self.raw_write(v(3), record.replace(b":4194392", b":4194393")),
            "an object too many": lambda: self.raw_write(v(3), replace(
                parsed, objects={**(parsed.objects or {}), other.digest: 1}
            ).to_bytes()),
            "tag unreadable": lambda: self.raw_write(t(2), b"x"),
            "tag chain": lambda: self.raw_write(t(1), good[t(1)].replace(b'"2026', b'"2025', 1)),
            "tag gone": lambda: self.raw_delete(t(1)),
            "tag digest": lambda: self.raw_write(
                t(2), good[t(2)].replace(make_snapshot(2, large=True).digest.hex.encode(), b"0" * 64)
            ),
            "tag target": lambda: self.raw_write(
                t(2), good[t(2)].replace(b'"target":3', b'"target":9')
            ),
            "hint unreadable": lambda: self.raw_write("names/a/@hint", b"x"),
        }  # fmt: skip
        assert store.verify().ok
        for case, hurt in cases.items():
            hurt()
            changed = {key for key in self.raw_keys() if good.get(key) != self.raw_read(key)}
            changed |= good.keys() - self.raw_keys()
            assert changed, case
            try:
                report = self.open().verify()
            except PolicyStoreError:
                assert case in ("marker", "no marker")
            else:
                assert not report.ok, case
                with pytest.raises(IntegrityError, match="faults"):
                    report.raise_if_bad()
                assert all(fault.key and fault.problem for fault in report.faults)
            for key in self.raw_keys() - good.keys():
                self.raw_delete(key)
            for key in changed & good.keys():
                self.raw_write(key, good[key])
            assert self.open().verify().ok, case


class TestMemory(StoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, request: pytest.FixtureRequest) -> None:
        self.url = f"memory://{request.node.nodeid}"

    @property
    def data(self) -> dict[str, bytes]:
        return (
            _SPACES[self.url.removeprefix("memory://")].data
            if self.url.removeprefix("memory://") in _SPACES
            else {}
        )

    def raw_keys(self) -> set[str]:
        return set(self.data)

    def raw_read(self, key: str) -> bytes:
        return self.data[key]

    def raw_write(self, key: str, data: bytes) -> None:
        PolicyStore(self.url)
        self.data[key] = data

    def raw_delete(self, key: str) -> None:
        del self.data[key]


class TestLocal(StoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.root = tmp_path / "policies"
        self.url = str(self.root)

    def raw_keys(self) -> set[str]:
        return {
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.is_file()
        }

    def raw_read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def raw_write(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def raw_delete(self, key: str) -> None:
        (self.root / key).unlink()


class TestCloud(StoreContract):
    """A filesystem of fsspec that creates exclusively."""

    remote = True

    @pytest.fixture(autouse=True)
    def _place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsspec_clouds.install(monkeypatch)
        self.root, self.url = "/bucket/league/", "gs://bucket/league"

    def raw_keys(self) -> set[str]:
        return {key.removeprefix(self.root) for key in fsspec_clouds.Cloud.store}

    def raw_read(self, key: str) -> bytes:
        return bytes(fsspec_clouds.Cloud.store[self.root + key].getvalue())

    def raw_write(self, key: str, data: bytes) -> None:
        fsspec_clouds.Cloud().pipe_file(self.root + key, data)

    def raw_delete(self, key: str) -> None:
        del fsspec_clouds.Cloud.store[self.root + key]


class TestCached(TestCloud):
    """One cache before a remote store, shared by all that a test opens."""

    @pytest.fixture(autouse=True)
    def _cached(self, tmp_path: Path) -> None:
        self.cache = tmp_path / "cache"
        self.other_caches = (tmp_path / f"cold{number}" for number in itertools.count())

    def cold(self) -> PolicyStore:
        return self.open(cache=next(self.other_caches))

    def test_what_the_cache_has_needs_no_object_of_the_store(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        store.push(make_snapshot(1, large=True), "a")
        assert store.pull("a") == make_snapshot(1, large=True)
        for key in self.objects():
            self.raw_delete(key)
        assert self.open().pull("a") == make_snapshot(1, large=True)
        with pytest.raises(IntegrityError, match="lost it"):
            self.cold().pull("a")
        assert not store.verify().ok  # which asks the store itself


class TestS3(StoreContract):
    remote = True

    @pytest.fixture(autouse=True)
    def _place(self, s3_endpoint: str, s3_bucket: str) -> None:
        self.client = s3_server.client(s3_endpoint)
        self.bucket, self.prefix = s3_bucket, "league/nested"
        self.url = f"s3://{self.bucket}/{self.prefix}"
        self.storage_options = {"endpoint_url": s3_endpoint}
        # Neighbours in the bucket are nobody's business.
        for key in ("other.txt", "league/other.txt", "league/nested-too/policystore.json"):
            self.client.put_object(Bucket=self.bucket, Key=key, Body=b"x")

    def test_a_push_that_was_cut_off_leaves_a_hint_one_ahead(
        self, store: PolicyStore, make_snapshot: Make
    ) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a")
        self.raw_delete("names/a/@versions/0000000003.json")
        assert self.open().resolve("a") == make_snapshot(1).digest
        assert self.open().pull("a") == make_snapshot(1)
        assert store.verify().ok
        self.raw_delete("names/a/@versions/0000000002.json")
        assert "the hint names this version" in str(store.verify())
        assert self.open().push(make_snapshot(7), "a").number == 2
        assert self.open().pull("a") == make_snapshot(7)
        assert store.verify().ok

    @pytest.mark.long
    def test_every_kind_of_fault_is_found(self, store: PolicyStore, make_snapshot: Make) -> None:
        super().test_every_kind_of_fault_is_found(store, make_snapshot)

    def raw_keys(self) -> set[str]:
        root = self.prefix + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=root
        )
        return {e["Key"].removeprefix(root) for page in pages for e in page.get("Contents", ())}

    def raw_read(self, key: str) -> bytes:
        found = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")
        return bytes(found["Body"].read())

    def raw_write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=data)

    def raw_delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")
