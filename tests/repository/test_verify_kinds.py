"""Each kind of key that a store has is checked, and what was deleted is missed by nobody."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from policystore import Digest, Fault, PolicyStore, Snapshot
from policystore.format.keys import (
    copied_key,
    deleted_key,
    hint_key,
    kept_key,
    kept_prefix,
    mark_key,
    object_key,
    tag_hint_key,
    tag_key,
    trash_key,
    version_key,
)
from policystore.format.records import Hint, Kept, Span, TagHint, pointer_bytes
from tests.support.upkeep import NOW, put_mark, to_trash

Make = Callable[..., Snapshot]


@pytest.fixture
def store(make_snapshot: Make) -> PolicyStore:
    """Return a store that has keys of every kind."""
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    backend = store._backend
    for seed in range(6):
        store.push(make_snapshot(seed, large=seed == 3), "a")
    store.tag("a@2", "t")
    store.tag("a@1", "t")
    loose = store.push(make_snapshot(7, large=True))
    tagged = store.resolve("a@1")
    put_mark(backend, "a", "delete", (1, 2))
    put_mark(backend, "a", "prune", (2, 4))
    put_mark(backend, "a", "restore", (2, 2))
    backend.replace(hint_key("a"), Hint(6, store.resolve("a"), 3, 6).to_bytes())
    backend.replace(tag_hint_key("a", "t"), TagHint(2, 1, tagged).to_bytes())
    backend.replace(copied_key("a", "0" * 32), b"x")
    backend.replace(deleted_key("a"), pointer_bytes())
    backend.copy(object_key(loose.digest), trash_key(loose.digest, "0" * 32))
    return store


def faults(store: PolicyStore) -> list[tuple[str, str]]:
    return [(fault.key, fault.kind) for fault in store.verify().faults]


def test_a_store_with_every_kind_of_key_has_no_fault(store: PolicyStore) -> None:
    report = store.verify()
    assert report.ok, report
    assert (report.marks, report.kept, report.trash) == (3, 1, 1)
    assert ", 3 marks, 1 push without a name, 1 copy in the trash: ok" in str(report)


def test_versions_that_are_deleted_need_no_objects(store: PolicyStore) -> None:
    versions = {version.number: version for version in store.log("a", deleted=True)}
    copies = [to_trash(store._backend, versions[number].digest) for number in (1, 3)]
    assert store.verify().ok  # deleted, and still in the trash
    for copy in copies:
        store._backend.delete(copy)
    assert store.verify().ok  # purged; a tensor of version 3 still exists
    objects = versions[4].objects or {}
    # The policy without a name has the same large tensor.
    store._backend.delete(object_key(max(objects, key=objects.__getitem__)))
    (key,) = store._backend.keys("kept/")
    assert faults(store) == [(key, "missing")]


def test_a_version_that_stands_whose_object_is_in_the_trash(store: PolicyStore) -> None:
    version = store.log("a")[0]
    copy = to_trash(store._backend, version.digest)
    (fault,) = store.verify().faults
    assert (fault.key, fault.kind) == (version_key("a", 6), "in trash")
    assert "collect_garbage(dry_run=False)" in fault.problem
    store._backend.delete(copy)
    assert faults(store) == [(version_key("a", 6), "missing")]


def test_a_version_that_was_restored_needs_its_object(store: PolicyStore) -> None:
    store._backend.delete(object_key(store.resolve("a@2")))
    assert faults(store) == [(version_key("a", 2), "missing")]


def test_a_policy_that_no_record_needs(store: PolicyStore, make_snapshot: Make) -> None:
    version = store.push(make_snapshot(8, large=True))
    for key in store._backend.keys(kept_prefix(version.digest)):
        store._backend.delete(key)
    sizes = version.objects or {}
    tensor = next(each for each in sizes if 300_000 < sizes[each] < 400_000)
    copy = to_trash(store._backend, tensor)
    assert store.verify().ok  # a collector has begun with the tensor
    store._backend.delete(copy)
    assert faults(store) == [(object_key(version.digest), "missing")]


def test_marks(store: PolicyStore) -> None:
    backend = store._backend
    good = {number: bytes(backend.get(mark_key("a", number))) for number in (1, 2, 3)}
    cases: dict[str, tuple[Callable[[], Any], list[int]]] = {
        "unreadable": (lambda: backend.replace(mark_key("a", 2), b"{}"), [2]),
        "gone": (lambda: backend.delete(mark_key("a", 2)), [2]),
        "changed": (
            lambda: backend.replace(
                mark_key("a", 1), good[1].replace(b'"message":""', b'"message":"x"')
            ),
            [2],
        ),
        "of another number": (lambda: backend.replace(mark_key("a", 3), good[2]), [3]),
        "does not follow": (
            lambda: put_mark(backend, "a", "restore", (1, 1), deleted=(Span(5, 5, 4),)),
            [4],
        ),
        "the newest is lost": (lambda: backend.delete(mark_key("a", 3)), [3]),
    }
    for case, (hurt, where) in cases.items():
        hurt()
        found = {key for key, _ in faults(store) if "@marks" in key}
        assert found == {mark_key("a", number) for number in where}, case
        for number in (1, 2, 3):
            backend.replace(mark_key("a", number), good[number])
        backend.delete(mark_key("a", 4))
        assert store.verify().ok, case


def test_hints_pointers_and_copies_in_the_trash(store: PolicyStore) -> None:
    backend = store._backend
    digest = store.resolve("a")
    (copy,) = backend.keys("trash/")
    cases: list[tuple[str, bytes, str, str]] = [
        (tag_hint_key("a", "t"), b"x", tag_hint_key("a", "t"), "record"),
        (tag_hint_key("a", "t"), TagHint(3, 1, digest).to_bytes(), tag_key("a", "t", 3), "missing"),
        (hint_key("a"), Hint(6, digest, 4, 6).to_bytes(), mark_key("a", 4), "missing"),
        (hint_key("a"), b"{}", hint_key("a"), "record"),
        (deleted_key("a"), b"{}", deleted_key("a"), "record"),
        (copy, b"x", copy, "trash"),
        (copy, bytes(backend.get(copy))[:-1] + b"x", copy, "trash"),
    ]
    for key, data, where, kind in cases:
        good = bytes(backend.get(key))
        backend.replace(key, data)
        assert faults(store) == [(where, kind)], key
        backend.replace(key, good)
    # A hint that is wrong or old only costs probes.
    for hint in (Hint(1, digest), Hint(6, digest), Hint(6, Digest("0" * 64), 1, 0)):
        backend.replace(hint_key("a"), hint.to_bytes())
        assert store.verify().ok


def test_pushes_without_a_name(store: PolicyStore) -> None:
    backend = store._backend
    (key,) = backend.keys("kept/")
    good = bytes(backend.get(key))
    backend.replace(key, good[:-1])
    assert faults(store) == [(key, "record")]
    backend.replace(key, good)
    kept = Kept.from_bytes(good, key)
    moved = kept_key(kept.digest, "1" * 32)
    backend.replace(moved, good)
    assert faults(store) == [(moved, "record")]
    backend.delete(moved)
    wrong = Kept(kept.digest, {kept.digest: 1}, NOW, "ann", "2" * 32)
    backend.replace(kept_key(kept.digest, "2" * 32), wrong.to_bytes())
    assert faults(store) == [(kept_key(kept.digest, "2" * 32), "record")]


def test_an_object_that_two_records_need_is_reported_for_both(
    store: PolicyStore, make_snapshot: Make
) -> None:
    store.push(make_snapshot(5), "b")
    store._backend.delete(object_key(store.resolve("a@6")))
    problem = f"the version needs the object {make_snapshot(5).digest}, which is missing"
    assert store.verify().faults == [
        Fault(version_key(name, number), problem, "missing")
        for name, number in (("a", 6), ("b", 1))
    ]
