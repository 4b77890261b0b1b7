"""Test damaged and missing objects and records, and that verify finds them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import blake3
import pytest

from policystore.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    PolicyStoreError,
)
from policystore.format.records import Version
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import StoreTests

__all__ = ["DamageTests"]


class DamageTests(StoreTests):
    """Test damaged and missing objects and records, and that verify finds them."""

    def test_pull_never_returns_damaged_objects(self, store: PolicyStore) -> None:
        store.push(make_snapshot(large=True), "a")
        good = {key: self.raw_read(key) for key in self.object_keys()}
        other = next(iter(good))
        for key, data in good.items():
            swapped = good[next(k for k in good if k != key)]
            flipped = data[:100] + bytes([data[100] ^ 4]) + data[101:]
            for bad in (b"", data[:-1], data + b"\0", flipped, swapped, data[:50]):
                self.raw_write(key, bad)
                with pytest.raises(IntegrityError, match=r"damaged.*push"):
                    self.open_cold().pull("a")
            self.raw_delete(key)
            with pytest.raises(IntegrityError, match="lost it"):
                self.open_cold().pull("a")
            self.raw_write(key, data)
        assert store.pull("a") == make_snapshot(large=True)
        assert other in good

    def test_an_object_with_the_right_digest_that_is_not_a_policy(self, store: PolicyStore) -> None:
        store.push(make_snapshot(), "a")
        for data in (b"", b"hello", b"\xff" * 1000, (2**63).to_bytes(8, "little") + b"{}"):
            hexadecimal = blake3.blake3(data).hexdigest()
            self.raw_write(f"objects/{hexadecimal[:2]}/{hexadecimal}.safetensors", data)
            with pytest.raises(FormatError, match=hexadecimal[:12]):
                store.pull(f"blake3:{hexadecimal}")

    def test_a_tensor_object_cannot_be_pulled_as_a_policy(self, store: PolicyStore) -> None:
        version = store.push(make_snapshot(large=True), "a")
        assert version.objects is not None
        tensor = next(digest for digest in version.objects if digest != version.digest)
        with pytest.raises(FormatError, match="not one of policystore"):
            store.pull(tensor)
        with pytest.raises(NotFoundError):
            self.open_store().resolve("blake3:" + "0" * 8)

    def test_damaged_records_are_format_errors(self, store: PolicyStore) -> None:
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

    def test_a_good_store_verifies_with_counts(self, store: PolicyStore) -> None:
        store.push(make_snapshot(1, large=True), "a")
        store.push(make_snapshot(2, large=True), "a")
        store.push(make_snapshot(3), "b/c")
        store.tag("a@1", "t")
        store.untag("a", "t")
        report = store.verify()
        assert report.ok
        assert (report.objects, report.policies, report.tensors) == (6, 3, 3)
        assert (report.names, report.versions, report.tags) == (2, 3, 1)
        assert report.nbytes == sum(len(self.raw_read(key)) for key in self.object_keys())
        assert ": ok" in str(report)
        report.raise_if_bad()
        stats = store.stats(details=True)
        assert (stats.names, stats.versions, stats.tags, stats.unreadable) == (2, 3, 1, 0)
        assert (stats.objects, stats.nbytes) == (report.objects, report.nbytes)
        assert stats.shared_nbytes == 4_194_392  # the tensor of 4 MiB of both large policies
        assert (stats.garbage_objects, stats.trash_objects) == (0, 0)

    def test_every_kind_of_fault_is_found(self, store: PolicyStore) -> None:
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
        tensors = sorted(self.object_keys() - set(policies))
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
                t(2), good[t(2)].replace(store.resolve("a@3").hex.encode(), b"0" * 64)
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
                report = self.open_store().verify()
            except PolicyStoreError:
                assert case in ("marker", "no marker")
            else:
                assert not report.ok, case
                with pytest.raises(IntegrityError, match="fault"):
                    report.raise_if_bad()
                assert all(fault.key and fault.problem for fault in report.faults)
            for key in self.raw_keys() - good.keys():
                self.raw_delete(key)
            for key in changed & good.keys():
                self.raw_write(key, good[key])
            assert self.open_store().verify().ok, case

    def test_damage_is_repaired_from_another_store(self, store: PolicyStore) -> None:
        other = PolicyStore(f"memory://{secrets.token_hex(8)}")
        for seed in range(3):
            store.push(make_snapshot(seed, large=True), "a")
        good = {key: self.raw_read(key) for key in self.raw_keys()}
        for key, data in good.items():
            other._backend.replace(key, data)
        for index, key in enumerate(sorted(self.object_keys())):
            self.damage(key) if index % 2 else self.raw_delete(key)
        self.damage("names/a/@versions/0000000002.json")
        self.raw_delete("names/a/@versions/0000000001.json")
        report = self.open_store().verify(repair_from=other)
        assert report.ok, report
        assert len(report.repaired) == len(self.object_keys()) + 2
        assert {key: self.raw_read(key) for key in good} == good
