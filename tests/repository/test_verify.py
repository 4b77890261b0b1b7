"""verify reads each object once, and reports no fault that is none while others use the store."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import Fault, PolicyStore, Snapshot, Spec
from policystore.format.keys import (
    hint_key,
    kept_prefix,
    object_key,
    tag_key,
    trash_key,
    version_key,
)
from policystore.format.records import Hint, Version
from policystore.repository.verify import objects as verify_objects
from tests.support.upkeep import after_listing, counting, put_mark, to_trash

Make = Callable[..., Snapshot]
LARGE = np.arange(1 << 20, dtype=np.float32)  # 4 MiB: such a policy is split


@pytest.fixture
def store() -> PolicyStore:
    return PolicyStore(f"memory://{secrets.token_hex(8)}")


def split(**weights: Any) -> Snapshot:
    return Snapshot(weights=weights, spec=Spec(acting=sorted(weights)[:1]))


def edit(store: PolicyStore, name: str, number: int, **fields: Any) -> None:
    """Change fields of the newest record of a name."""
    key = version_key(name, number)
    version = Version.from_bytes(store._backend.get(key), key)
    store._backend.replace(key, replace(version, **fields).to_bytes())


# Each object once


def test_an_object_that_many_policies_share_is_read_once(store: PolicyStore) -> None:
    for number in range(12):
        weights = {"encoder": LARGE, "head": np.full(70_000 + number % 3, number, np.float32)}
        store.push(Snapshot(weights=weights, spec=Spec()), f"n{number % 4}")
    store.push(split(encoder=LARGE))
    counted, reads = counting(store)
    report = counted.verify()
    assert report.ok
    assert report.uncompared == 0
    objects = {key: count for key, count in reads.items() if key.startswith("objects/")}
    assert len(objects) == report.objects == 13 + 12 + 1
    assert set(objects.values()) == {1}
    assert set(reads.values()) == {1}


def test_the_parts_of_policies_that_share_tensors_are_compared(store: PolicyStore) -> None:
    one, two = LARGE + 1, LARGE + 2
    state = {"mean": np.arange(100_000, dtype=np.float64)}
    snaps = [
        split(a=LARGE, b=one, c=np.float32(1)),
        split(a=one, b=LARGE, c=two.astype(np.float64)),  # the same tensors under other names
        split(a=LARGE, b=LARGE, c=LARGE),  # one tensor three times
        Snapshot(weights={"a": LARGE, "z": np.arange(9)}, spec=Spec(), state=state),
        Snapshot(weights={"a": two}, spec=Spec()),
    ]
    for snap in snaps:
        store.push(snap, "a")
    assert store.verify().ok
    assert store.verify().uncompared == 0
    for number in range(1, len(snaps) + 1):
        for part in ("weights_digest", "acting_digest", "state_digest"):
            good = store._backend.get(version_key("a", number))
            edit(store, "a", number, **{part: snaps[number - 2].digest})
            faults = [each for each in store.verify().faults if "of parts" in each.problem]
            assert [each.key for each in faults] == [version_key("a", number)], (number, part)
            store._backend.replace(version_key("a", number), bytes(good))
    assert store.verify().ok


def test_tensors_that_do_not_fit_into_memory_are_not_read_again(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_objects, "_HELD_BYTES", 0)
    monkeypatch.setattr(verify_objects, "_WAVE", 1)
    monkeypatch.setattr(verify_objects, "_WAITING", 0)
    for number in range(3):
        weights = {"encoder": LARGE, "head": np.full(70_000, number, np.float32)}
        store.push(Snapshot(weights=weights, spec=Spec()), "a")
    counted, reads = counting(store)
    report = counted.verify()
    assert report.ok
    assert report.uncompared == 2
    assert "of 2 policies" in str(report)
    assert {count for key, count in reads.items() if key.startswith("objects/")} == {1}


def test_records_of_one_policy_that_disagree_are_each_compared(
    store: PolicyStore, make_snapshot: Make
) -> None:
    for name in ("a", "b", "c"):
        store.push(make_snapshot(1, large=True), name)
    edit(store, "b", 1, state_digest=make_snapshot(2).digest)
    assert [fault.key for fault in store.verify().faults] == [version_key("b", 1)]


def test_a_version_that_names_a_tensor(store: PolicyStore, make_snapshot: Make) -> None:
    version = store.push(make_snapshot(large=True), "a")
    tensor = next(each for each in version.objects or {} if each != version.digest)
    edit(store, "a", 1, digest=tensor)
    assert [fault.key for fault in store.verify().faults] == [version_key("a", 1)]


# Others use the store meanwhile


def test_a_hint_of_a_push_under_way(store: PolicyStore, make_snapshot: Make) -> None:
    for seed in range(2):
        store.push(make_snapshot(seed), "a")

    def push() -> None:
        version = store.push(make_snapshot(2), "a")
        ahead = Hint((version.number or 0) + 1, version.digest)
        store._backend.replace(hint_key("a"), ahead.to_bytes())

    busy = after_listing(store, push, remote=True)
    assert str(busy.verify()).endswith("ok")
    assert after_listing(store, remote=True).verify().ok  # the push was cut off
    store._backend.delete(version_key("a", 3))
    assert not after_listing(store, remote=True).verify().ok


def test_pushes_tags_and_marks_after_the_listing(store: PolicyStore, make_snapshot: Make) -> None:
    for seed in range(3):
        store.push(make_snapshot(seed, large=True), "a")
    store.tag("a@1", "t")

    def change() -> None:
        store.push(make_snapshot(4, large=True), "a")
        store.push(make_snapshot(5), "b")
        store.push(make_snapshot(6))
        store.tag("a@4", "t")
        put_mark(store._backend, "a", "delete", (1, 1))

    for remote in (False, True):
        assert after_listing(store, change, remote=remote).verify().ok


@pytest.mark.parametrize("large", [False, True])
def test_a_version_that_is_deleted_and_collected_after_the_listing(
    store: PolicyStore, make_snapshot: Make, large: bool
) -> None:
    store.push(make_snapshot(0), "a")
    version = store.push(make_snapshot(1, large=large), "a")

    def collect() -> None:
        put_mark(store._backend, "a", "delete", (2, 2))
        for digest in version.objects or ():
            to_trash(store._backend, digest)

    assert str(after_listing(store, collect, remote=True).verify()).endswith("ok")


def test_an_object_that_is_taken_away_and_put_back(store: PolicyStore, make_snapshot: Make) -> None:
    version = store.push(make_snapshot(large=True), "a")
    backend = store._backend
    for digest in version.objects or ():
        key = object_key(digest)
        data = bytes(backend.get(key))
        backend.delete(key)
        report = after_listing(store, lambda k=key, d=data: backend.replace(k, d)).verify()
        assert report.ok, report


def test_an_object_that_a_collector_puts_back_from_the_trash(
    store: PolicyStore, make_snapshot: Make
) -> None:
    version = store.push(make_snapshot(), "a")
    copy = to_trash(store._backend, version.digest)
    busy: Any = after_listing(store)
    inner = busy._backend.entries

    def entries(prefix: str, **more: Any) -> Any:
        listed = list(inner(prefix, **more))
        if prefix.startswith("trash/"):
            store._backend.copy(copy, object_key(version.digest))
        return iter(listed)

    assert not busy.verify().ok
    busy._backend.entries = entries
    assert busy.verify().ok


def test_a_listing_that_misses_a_key(store: PolicyStore, make_snapshot: Make) -> None:
    for seed in range(3):
        store.push(make_snapshot(seed, large=True), "a")
        store.tag(f"a@{seed + 1}", "t")
    put_mark(store._backend, "a", "delete", (1, 1))
    put_mark(store._backend, "a", "delete", (2, 2))
    for key in list(store._backend.keys("")):
        report = after_listing(store, hidden=lambda each, key=key: each == key).verify()
        assert report.ok, (key, report)


def test_a_damaged_object_that_a_push_replaces(store: PolicyStore, make_snapshot: Make) -> None:
    version = store.push(make_snapshot(), "a")
    key = object_key(version.digest)
    good = bytes(store._backend.get(key))
    store._backend.replace(key, good[:-1])
    counted, reads = counting(store)
    inner = counted._backend.get

    def get(key: str, **more: Any) -> bytes | memoryview:
        try:
            return inner(key, **more)
        finally:
            if key == object_key(version.digest):
                store.push(make_snapshot(), "b")

    counted._backend.get = get  # type: ignore[method-assign]
    assert counted.verify().ok
    assert reads[key] == 2


def test_keys_that_are_gone_after_the_listing(store: PolicyStore, make_snapshot: Make) -> None:
    backend = store._backend
    store.push(make_snapshot(), "a")
    version = store.push(make_snapshot(1))
    copy = trash_key(version.digest, secrets.token_hex(16))
    backend.copy(object_key(version.digest), copy)
    (kept,) = backend.keys(kept_prefix(version.digest))
    backend.replace("names/a/@versions/foreign", b"")
    backend.replace("readme.txt", b"")

    def remove() -> None:
        for key in (copy, kept, "names/a/@versions/foreign", "readme.txt"):
            backend.delete(key)

    assert not store.verify().ok
    assert after_listing(store, remove).verify().ok


# Faults that need a look at the names


def test_a_gap_in_a_list_is_one_fault(store: PolicyStore, make_snapshot: Make) -> None:
    for seed in range(5):
        store.push(make_snapshot(seed), "a")
        store.tag(f"a@{seed + 1}", "t")
    store._backend.delete(version_key("a", 2))
    store._backend.delete(version_key("a", 3))
    store._backend.delete(tag_key("a", "t", 4))
    faults = store.verify().faults
    assert [(fault.key, fault.kind) for fault in faults] == [
        (tag_key("a", "t", 4), "missing"),
        (version_key("a", 2), "missing"),
        (tag_key("a", "t", 2), "missing"),
        (tag_key("a", "t", 3), "missing"),
    ]
    assert "2 to 3" in faults[1].problem


def test_files_and_folders_that_are_not_of_a_store_are_named(
    tmp_path: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(), "a")
    for name in ("notes.txt", "names/a/@versions/x.json", "kept/x", "trash/y", "deleted/z", "le/a"):
        path = tmp_path / "s" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    faults = store.verify().faults
    assert {fault.kind for fault in faults} == {"foreign"}
    assert len(faults) == 6


def test_an_unreadable_folder_is_named_and_the_rest_is_checked(
    store: PolicyStore, make_snapshot: Make
) -> None:
    store.push(make_snapshot(), "a")
    store._backend.replace("names/a/@hint", b"x")
    busy: Any = after_listing(store)
    inner = busy._backend.entries

    def entries(prefix: str, problems: list[tuple[str, str]]) -> Any:
        problems.append(("objects/ab", "permission denied"))
        return inner(prefix, problems=problems)

    busy._backend.entries = entries
    faults = busy.verify().faults
    assert [fault.key for fault in faults] == ["names/a/@hint", "objects/ab"]
    assert faults[1] == Fault("objects/ab", "permission denied", "storage")


def test_progress_sees_the_report_and_an_error_of_it_ends_the_call(
    store: PolicyStore, make_snapshot: Make
) -> None:
    for seed in range(3):
        store.push(make_snapshot(seed), "a")
    seen: list[tuple[int, int, int]] = []
    report = store.verify(
        progress=lambda so_far: seen.append((so_far.versions, so_far.nbytes, so_far.total_nbytes))
    )
    assert seen[-1] == (3, report.nbytes, report.nbytes)
    assert (seen[-1][1], report.total_objects) == (report.total_nbytes, report.objects)

    def stop(so_far: object) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.verify(progress=stop)
