"""A key or record that the collector does not understand stops it, before anything is changed."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

import pytest

from policystore import FormatError, ReadOnlyError, StorageError
from policystore._util.progress import Meter
from policystore.backends.base import Chunks, Entry, Problems
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import (
    OBJECTS,
    annotation_key,
    annotations_prefix,
    deleted_key,
    mark_key,
    object_key,
    tag_hint_key,
    tag_key,
    version_key,
)
from policystore.format.records import pointer_bytes
from policystore.repository.collect import sweep
from policystore.repository.collect.collector import collect_garbage
from policystore.repository.objects import ObjectReader
from tests.support.collecting import DAY, GRACE, TimedStore, policy, write_mark

OTHER_HEX = "ab" * 32


def full_store() -> TimedStore:
    """Return a store with garbage, and with every kind of key."""
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    timed.store.push(policy(2), "a")
    timed.store.push(policy(3), "a/b")
    timed.store.push(policy(4))
    timed.store.tag("a@2", "best")
    timed.backend.replace(tag_hint_key("a", "best"), b"any bytes")
    timed.backend.replace(deleted_key("c"), pointer_bytes())
    timed.backend.replace("names/a/@copied/" + "0" * 32, b"any bytes")
    timed.store.annotate("a@2", note="n")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(100)
    return timed


def kept_record(timed: TimedStore) -> str:
    return next(iter(timed.backend.keys("kept/")))


UNKNOWN = [
    "names/a/@notes/0000000001/" + "0" * 31 + ".json",
    "names/a/@notes/0000000000/" + "0" * 32 + ".json",
    "names/a/@future/0000000001.json",
    "names/a/@versions/1.json",
    "names/a/@versions/0000000000.json",
    "names/a/@versions/0000000003.txt",
    "names/a/@tags/best/x",
    "names/a/@tags/7/0000000001.json",
    "names/a/@marks/latest",
    "names/a/readme.txt",
    "names/Upper/@versions/0000000001.json",
    "names/.DS_Store",
    "kept/x",
    f"kept/{OTHER_HEX}/1.json",
    f"kept/{OTHER_HEX}/" + "0" * 32 + ".txt",
    "deleted/x",
    "deleted/con/@mark",
    "leagues/soccer/@matches/1/w/0000000001.json",
    "leagues/x",
]


@pytest.mark.parametrize("key", UNKNOWN)
@pytest.mark.parametrize("dry_run", [False, True])
def test_an_unknown_key_stops_the_collector(key: str, dry_run: bool) -> None:
    timed = full_store()
    timed.backend.replace(key, b"{}")
    before = timed.everything()
    with pytest.raises(FormatError, match="nothing was collected") as caught:
        timed.collect(dry_run=dry_run)
    assert key in str(caught.value)
    assert "newer policystore" in str(caught.value) or "backup" in str(caught.value)
    assert timed.everything() == before


def test_the_store_of_these_tests_can_be_collected() -> None:
    assert full_store().collect().moved.count == 1


def damage(timed: TimedStore, key: str) -> str:
    data = bytes(timed.backend.get(key))
    timed.backend.replace(key, data.replace(b'"nonce"', b'"nonse"'))
    return key


def newer(timed: TimedStore, key: str) -> str:
    data = bytes(timed.backend.get(key))
    timed.backend.replace(key, data.replace(b'"format":1', b'"format":2'))
    return key


def too_long(timed: TimedStore, key: str) -> str:
    timed.backend.replace(key, b"x" * (2 << 20))
    return key


def annotation_record(timed: TimedStore) -> str:
    return next(iter(timed.backend.keys(annotations_prefix("a"))))


RECORDS: list[Callable[[TimedStore], str]] = [
    lambda timed: version_key("a", 2),
    lambda timed: version_key("a/b", 1),
    lambda timed: mark_key("a", 1),
    lambda timed: tag_key("a", "best", 1),
    kept_record,
    annotation_record,
]


@pytest.mark.parametrize("key_of", RECORDS)
@pytest.mark.parametrize("change", [damage, newer, too_long])
def test_a_record_that_cannot_be_read_stops_the_collector(
    key_of: Callable[[TimedStore], str], change: Callable[[TimedStore, str], str]
) -> None:
    timed = full_store()
    key = change(timed, key_of(timed))
    before = timed.everything()
    with pytest.raises(FormatError, match="nothing was collected") as caught:
        timed.collect()
    assert key in str(caught.value)
    assert timed.everything() == before


def test_a_pointer_that_cannot_be_read_stops_the_collector() -> None:
    timed = full_store()
    timed.backend.replace(deleted_key("c"), b'{"format":2,"kind":"pointer"}')
    with pytest.raises(FormatError, match="deleted/c/@mark"):
        timed.collect()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (version_key("a", 2), version_key("b", 1)),
        (mark_key("a", 1), mark_key("b", 1)),
        (tag_key("a", "best", 1), tag_key("a", "other", 1)),
    ],
)
def test_a_record_in_the_place_of_another_stops_the_collector(source: str, target: str) -> None:
    timed = full_store()
    timed.backend.copy(source, target)
    with pytest.raises(FormatError, match="moved or copied") as caught:
        timed.collect()
    assert target in str(caught.value)


def test_an_annotation_in_the_place_of_another_stops_the_collector() -> None:
    timed = full_store()
    timed.backend.copy(annotation_record(timed), annotation_key("a", 1, "0" * 32))
    with pytest.raises(FormatError, match="moved or copied"):
        timed.collect()


def test_an_annotation_keeps_no_objects() -> None:
    timed = full_store()
    timed.store.annotate("a@2", metrics={"elo": 1.0})
    timed.store.delete("a@2", force=True)
    timed.store.untag("a", "best")
    timed.wait(100)
    digest = timed.store.log("a", deleted=True)[0].digest
    timed.collect()
    assert timed.backend.size(object_key(digest)) is None
    assert timed.store.verify().ok


def test_a_kept_record_in_the_place_of_another_stops_the_collector() -> None:
    timed = full_store()
    key = f"kept/{OTHER_HEX}/" + "0" * 32 + ".json"
    timed.backend.copy(kept_record(timed), key)
    with pytest.raises(FormatError, match="moved or copied"):
        timed.collect()


@pytest.mark.parametrize(
    ("key", "number"), [(version_key, 1), (mark_key, 1)], ids=["version", "mark"]
)
def test_a_missing_record_stops_the_collector(key: Callable[[str, int], str], number: int) -> None:
    timed = full_store()
    write_mark(timed.backend, "a", "restore", [(1, 1)])
    timed.backend.delete(key("a", number))
    with pytest.raises(FormatError, match="missing"):
        timed.collect()


def test_a_lost_policy_without_a_list_of_objects_stops_the_collector() -> None:
    timed = full_store()
    key = version_key("a", 2)
    record = bytes(timed.backend.get(key))
    start = record.index(b'"objects":{')
    end = record.index(b"}", start)
    timed.backend.replace(key, record[:start] + b'"objects":null' + record[end + 1 :])
    assert timed.collect(dry_run=True).moved.count == 1
    timed.backend.delete(object_key(timed.store.resolve("a@2")))
    with pytest.raises(FormatError, match="delete the version") as caught:
        timed.collect()
    assert key in str(caught.value)


def test_a_listing_that_fails_stops_the_collector() -> None:
    class Failing(MemoryBackend):
        def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
            if prefix == "names/":
                raise StorageError("listing names/: reset by the server")
            return super().entries(prefix, problems=problems)

    timed = TimedStore(Failing("failing"))
    timed.store.push(policy(1), "a")
    timed.backend.delete(version_key("a", 1))
    timed.wait(100)
    with pytest.raises(StorageError, match="listing names/"):
        timed.collect()
    assert timed.objects()


class Locked(MemoryBackend):
    """A backend that refuses to delete some keys."""

    locked: Callable[[str], bool] = staticmethod(lambda key: False)

    def delete(self, key: str) -> None:
        if self.locked(key):
            raise ReadOnlyError(f"deleting {key}: the object is locked")
        super().delete(key)


def test_locked_objects_are_counted_and_the_others_moved() -> None:
    backend = Locked("locked")
    timed = TimedStore(backend)
    for seed in range(30):
        timed.store.push(policy(seed), "a")
    write_mark(backend, "a", "delete", [(1, 30)])
    timed.wait(8)
    locked = set(sorted(timed.objects())[::10])
    backend.locked = lambda key: key in locked
    report = timed.collect()
    assert (report.moved.count, report.refusals) == (27, 3)
    assert set(report.refused) == locked == timed.objects()
    for key in locked:
        assert key in str(report)


def test_no_more_copies_are_made_when_every_deletion_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "_MOST_UNMOVED", 5)
    backend = Locked("all locked")
    timed = TimedStore(backend)
    for seed in range(30):
        timed.store.push(policy(seed), "a")
    write_mark(backend, "a", "delete", [(1, 30)])
    timed.wait(8)
    backend.locked = lambda key: key.startswith(OBJECTS)
    report = timed.collect()
    assert report.refusals == len(timed.trash()) == 5
    assert "refuses to delete" in report.reason


def test_locked_copies_in_the_trash_and_other_files_do_not_stop_the_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "_MOST_UNMOVED", 1)
    backend = Locked("the trash is locked")
    timed = TimedStore(backend)
    for seed in range(2):
        timed.store.push(policy(seed), "a")
    write_mark(backend, "a", "delete", [(1, 1)])
    backend.replace("tmp/locked", b"")
    timed.wait(8)
    timed.collect()
    write_mark(backend, "a", "delete", [(2, 2)])
    timed.wait(8)
    backend.replace("tmp/locked", b"")
    timed.now += 2 * DAY
    backend.locked = lambda key: key.startswith("trash/") or key == "tmp/locked"
    report = timed.collect(grace=datetime.timedelta(days=2))
    assert (report.moved.count, report.refusals) == (1, 2)
    assert "tmp/locked" in report.refused
    assert "refuses" not in timed.collect().reason


def test_credentials_that_may_not_delete_are_refused_before_anything_is_copied() -> None:
    backend = Locked("nothing may be deleted")
    timed = TimedStore(backend)
    timed.store.push(policy(1), "a")
    backend.delete(version_key("a", 1))
    timed.wait(8)
    backend.locked = lambda key: True
    with pytest.raises(ReadOnlyError, match="locked"):
        timed.collect()
    assert not timed.trash()


@pytest.mark.parametrize("pushed", [False, True])
def test_a_slow_copy_is_made_again_if_the_object_is_still_old(pushed: bool) -> None:
    clock = [0.0]
    delays = [sweep.MAX_MOVE + 1, sweep.MAX_MOVE - 1]

    class Slow(MemoryBackend):
        def copy(self, key: str, target: str) -> None:
            super().copy(key, target)
            clock[0] += delays.pop(0)
            if pushed:
                timed.store.push(policy(1), "b")

    timed = TimedStore(Slow(f"slow copies {pushed}"))
    timed.store.push(policy(1), "a")
    timed.backend.delete(version_key("a", 1))
    timed.wait(8)
    report = collect_garbage(
        ObjectReader(timed.backend),
        grace=GRACE,
        dry_run=False,
        exclusive=False,
        meter=Meter(None),
        clock=lambda: clock[0],
    )
    if pushed:
        assert (report.moved.count, len(timed.trash()), len(timed.objects())) == (0, 1, 1)
    else:
        assert (report.moved.count, len(timed.trash()), len(timed.objects())) == (1, 2, 0)


def test_an_object_whose_copies_are_always_slow_stays() -> None:
    clock = [0.0]

    class Slow(MemoryBackend):
        def copy(self, key: str, target: str) -> None:
            super().copy(key, target)
            clock[0] += sweep.MAX_MOVE + 1

    timed = TimedStore(Slow("always slow copies"))
    timed.store.push(policy(1), "a")
    timed.backend.delete(version_key("a", 1))
    timed.wait(8)
    with pytest.raises(StorageError, match="stays where it is"):
        collect_garbage(
            ObjectReader(timed.backend),
            grace=GRACE,
            dry_run=False,
            exclusive=False,
            meter=Meter(None),
            clock=lambda: clock[0],
        )
    assert timed.objects()


def test_a_push_in_between_keeps_an_object_in_its_place() -> None:
    """The ages are asked again just before the objects are moved."""

    class Pushed(MemoryBackend):
        listings = 0
        push: Callable[[], object] = staticmethod(lambda: None)

        def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
            if prefix.startswith(OBJECTS):
                self.listings += 1
                if self.listings == 2:
                    self.push()
            return super().entries(prefix, problems=problems)

        def put(self, key: str, chunks: Chunks, **options: object) -> None:
            super().replace(key, b"".join(chunks))

    backend = Pushed("pushed in between")
    timed = TimedStore(backend)
    timed.store.push(policy(1), "a")
    write_mark(backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    backend.push = lambda: timed.store.push(policy(1), "b")
    report = timed.collect()
    assert (report.moved.count, report.young.count) == (0, 1)
    assert not timed.trash()
