"""verify puts back what another store has, and says what it could not put back."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest

from policystore import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
)
from policystore.format.keys import hint_key, mark_key, object_key, tag_key, version_key
from policystore.format.records import Version
from tests.support.upkeep import put_mark, to_trash

Make = Callable[..., Snapshot]


@pytest.fixture
def store(make_snapshot: Make) -> PolicyStore:
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for seed in range(5):
        store.push(make_snapshot(seed, large=seed == 2), "a")
        store.tag(f"a@{seed + 1}", "t")
    for number in (1, 2):
        put_mark(store._backend, "a", "delete", (number, number))
    store.push(make_snapshot(9, large=True))
    return store


@pytest.fixture
def mirror(store: PolicyStore) -> PolicyStore:
    """Return a store with the same keys."""
    mirror = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for key in store._backend.keys(""):
        mirror._backend.replace(key, bytes(store._backend.get(key)))
    return mirror


def content(store: PolicyStore) -> dict[str, bytes]:
    return {key: bytes(store._backend.get(key)) for key in store._backend.keys("")}


def test_damaged_and_missing_objects_are_put_back(store: PolicyStore, mirror: PolicyStore) -> None:
    backend, before = store._backend, content(store)
    objects = sorted(backend.keys("objects/"))
    for number, key in enumerate(objects):
        if number % 3 == 0:
            backend.delete(key)
        elif number % 3 == 1:
            backend.replace(key, before[key][:-1] + b"?")
    needed = {key for key in objects if content(store).get(key) != before[key]}
    report = store.verify(repair_from=mirror)
    assert report.ok, report
    log = store.log("a", deleted=True)
    retired = {object_key(version.digest) for version in log if version.deleted is not None}
    assert len(retired) == 2
    gone = {key for key in needed & retired if key not in content(store)}
    assert {fault.key for fault in report.repaired} == needed - gone
    assert content(store) == {key: data for key, data in before.items() if key not in gone}
    assert f"{len(report.repaired)} faults repaired: ok" in str(report)


def test_a_lost_folder_of_objects_is_put_back_with_tensors_that_no_record_lists(
    store: PolicyStore, mirror: PolicyStore
) -> None:
    # A record lists at most 256 objects; the tensors of this one stand in the policy object alone.
    key = version_key("a", 5)
    for each in (store, mirror):
        version = Version.from_bytes(each._backend.get(version_key("a", 3)), key)
        last = Version.from_bytes(each._backend.get(key), key)
        other = replace(version, number=5, previous=last.previous, objects=None)
        each._backend.replace(key, other.to_bytes())
        each._backend.delete(version_key("a", 3).replace("@versions", "@x"))
    for each in list(store._backend.keys("objects/")):
        store._backend.delete(each)
    store.verify(repair_from=mirror)
    assert store.pull("a@5") == mirror.pull("a@3")


def test_copies_of_the_other_store_are_checked_before_they_are_written(
    store: PolicyStore, mirror: PolicyStore
) -> None:
    backend = store._backend
    damaged, lost = (object_key(store.resolve(f"a@{number}")) for number in (4, 5))
    backend.replace(damaged, b"bad")
    mirror._backend.replace(damaged, b"also bad")
    backend.delete(lost)
    mirror._backend.delete(lost)
    report = store.verify(repair_from=mirror)
    assert not report.repaired
    assert {fault.key for fault in report.faults} == {damaged, version_key("a", 5)}
    assert all("Not repaired: " in fault.problem for fault in report.faults)
    assert f"{mirror.url} does not have the object" in str(report)
    assert backend.get(damaged) == b"bad"


def test_an_object_in_the_trash_is_put_back(store: PolicyStore, mirror: PolicyStore) -> None:
    to_trash(store._backend, store.resolve("a@4"))
    report = store.verify(repair_from=mirror)
    assert report.ok
    assert [fault.kind for fault in report.repaired] == ["in trash"]
    assert store.verify().ok


def test_records_that_the_next_record_proves_are_put_back(
    store: PolicyStore, mirror: PolicyStore
) -> None:
    backend, before = store._backend, content(store)
    for number in (2, 3):
        backend.delete(version_key("a", number))
    backend.replace(version_key("a", 4), b"unreadable")
    backend.replace(version_key("a", 1), before[version_key("a", 5)])
    backend.replace(tag_key("a", "t", 4), before[tag_key("a", "t", 4)].replace(b"2026", b"2025"))
    backend.delete(mark_key("a", 1))
    report = store.verify(repair_from=mirror)
    assert report.ok, report
    assert {fault.key for fault in report.repaired} == {
        version_key("a", 1), version_key("a", 2), version_key("a", 4),
        tag_key("a", "t", 5),
        mark_key("a", 1),
    }  # fmt: skip
    assert content(store) == before
    assert store.verify().ok


def test_the_newest_record_has_no_proof(store: PolicyStore, mirror: PolicyStore) -> None:
    store._backend.replace(version_key("a", 5), b"unreadable")
    report = store.verify(repair_from=mirror)
    assert [fault.key for fault in report.faults] == [version_key("a", 5)]
    assert "no later record proves" in report.faults[0].problem
    assert store._backend.get(version_key("a", 5)) == b"unreadable"


def test_another_chain_repairs_nothing(store: PolicyStore, make_snapshot: Make) -> None:
    other = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for seed in range(5):
        other.push(make_snapshot(seed), "a")  # the same policies, pushed again
    store._backend.delete(version_key("a", 2))
    before = content(store)
    report = store.verify(repair_from=other)
    keys = [fault.key for fault in report.faults]
    assert keys == [version_key("a", 2), tag_key("a", "t", 2)]
    assert "does not have the record" in report.faults[0].problem
    assert content(store) == before


def test_a_number_far_away_is_not_searched_for(store: PolicyStore, mirror: PolicyStore) -> None:
    far = version_key("a", 9_999_999_999)
    store._backend.replace(far, store._backend.get(version_key("a", 5)))
    assert {fault.key for fault in store.verify(repair_from=mirror).faults} == {
        version_key("a", 6),
        far,
    }


def test_without_another_store_nothing_is_written(store: PolicyStore) -> None:
    backend = store._backend
    backend.delete(object_key(store.resolve("a")))
    backend.delete(version_key("a", 2))
    backend.replace(hint_key("a"), b"x")
    before = content(store)
    assert len(store.verify().faults) == 4
    assert content(store) == before


def test_arguments_of_a_repair(store: PolicyStore, mirror: PolicyStore) -> None:
    with pytest.raises(InvalidInputError, match="PolicyStore"):
        store.verify(repair_from=mirror.url)  # type: ignore[arg-type]
    with pytest.raises(ReadOnlyError, match="repair_from"):
        PolicyStore(store.url, read_only=True).verify(repair_from=mirror)
    with pytest.raises(NotFoundError, match="no policy store"):
        store.verify(repair_from=PolicyStore(f"memory://{secrets.token_hex(8)}"))
    with pytest.raises(InvalidInputError, match="progress"):
        store.verify(progress=5)  # type: ignore[arg-type]
    assert PolicyStore(store.url, read_only=True).verify().ok


def test_a_lost_marker_is_put_back(store: PolicyStore, make_snapshot: Make) -> None:
    before = content(store)
    store._backend.delete("policystore.json")
    with pytest.raises(FormatError, match="repair"):
        store.verify()
    with pytest.raises(ReadOnlyError, match="repair"):
        PolicyStore(store.url, read_only=True).repair()
    assert store.repair()
    assert not store.repair()
    assert content(store) == before
    with pytest.raises(NotFoundError):
        PolicyStore(f"memory://{secrets.token_hex(8)}").repair()
