"""Copies that are cut off, that run twice at once, or beside pushes, deletions and collectors."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from policystore import PolicyStore, StorageError
from policystore._util.progress import Meter
from policystore.format.keys import copied_key, mark_key, object_key, version_key
from policystore.format.records import Mark
from policystore.repository.freshness import MAX_DELAY
from policystore.repository.mirror.copier import copy_store
from policystore.testing import make_snapshot
from tests.support.mirrors import (
    Killed,
    Watched,
    backend_of,
    content,
    faults,
    mark,
    over,
    version,
    versions,
)

MakeStore = Callable[[], PolicyStore]


def fill(store: PolicyStore) -> None:
    for seed in range(4):
        store.push(make_snapshot(seed, large=seed == 2), "a/b")
    store.push(make_snapshot(9), "c")
    store.push(make_snapshot(10))
    store.tag("a/b@1", "best")
    store.tag("a/b@3", "best")
    mark(store, "a/b", "delete", (2, 2))


def unique_nonces(store: PolicyStore, *names: str) -> None:
    for name in names:
        counts = Counter(v.nonce for v in versions(store, name))
        assert max(counts.values(), default=1) == 1


@pytest.mark.parametrize("apart", [False, True])
def test_a_copy_that_is_killed_at_any_write_is_resumed(make_store: MakeStore, apart: bool) -> None:
    ours = make_store()
    fill(ours)

    def begin() -> PolicyStore:
        theirs = make_store()
        if apart:
            theirs.push(make_snapshot(50), "a/b")
            theirs.push(make_snapshot(51), "c")
        return theirs

    whole = begin()
    ours.copy_to(whole)
    writes = 0
    for step in range(1, 200):
        theirs = begin()

        def die(count: int, key: str, step: int = step) -> None:
            if count == step:
                raise Killed

        watched = Watched(backend_of(theirs), die)
        try:
            ours.copy_to(over(watched))
        except Killed:
            writes += 1
        # Whatever was written is whole: nothing half visible, and what stands can be pulled.
        if backend_of(theirs).size("policystore.json") is not None:
            assert faults(theirs) == []
        ours.copy_to(theirs)
        assert faults(theirs) == []
        unique_nonces(theirs, "a/b", "c")
        assert content(theirs, "objects/") == content(whole, "objects/")
        if apart:
            count = len(versions(theirs, "a/b"))
            assert count == len(versions(whole, "a/b"))
        else:
            assert content(theirs) == content(ours)
        assert not ours.copy_to(theirs).changed
        if len(watched.writes) < step:
            break
    assert writes > 12


def test_two_copies_at_once_add_everything_once(make_store: MakeStore) -> None:
    ours = make_store()
    fill(ours)
    for apart in (False, True):
        for _ in range(5):
            theirs = make_store()
            if apart:
                theirs.push(make_snapshot(50), "a/b")
                theirs.push(make_snapshot(51), "c")
            at_once([lambda theirs=theirs: ours.copy_to(theirs) for _ in range(3)])
            unique_nonces(theirs, "a/b", "c")
            assert faults(theirs) == []
            assert not ours.copy_to(theirs).changed
            if not apart:
                assert content(theirs) == content(ours)


def at_once(calls: list[Callable[[], object]]) -> None:
    """Make calls in threads; raise the first error."""
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_pushes_to_both_stores_during_copies_are_not_lost(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    ours.push(make_snapshot(0), "a")

    def push(store: PolicyStore, first: int) -> None:
        for seed in range(first, first + 15):
            store.push(make_snapshot(seed), "a")

    def copy() -> None:
        for _ in range(8):
            ours.copy_to(theirs)

    at_once([copy, copy, lambda: push(ours, 100), lambda: push(theirs, 200)])
    ours.copy_to(theirs)
    unique_nonces(theirs, "a")
    pushed = {v.nonce for v in versions(ours, "a")}
    assert pushed < {v.nonce for v in versions(theirs, "a")}
    assert len(versions(theirs, "a")) == 16 + 15
    assert faults(theirs) == []
    assert not ours.copy_to(theirs).changed


def test_a_number_that_is_taken_during_the_copy_renumbers_the_rest(
    make_store: MakeStore,
) -> None:
    ours, theirs = make_store(), make_store()
    for seed in range(1, 5):
        ours.push(make_snapshot(seed), "a")

    pushed = []

    def push(count: int, key: str) -> None:
        if key == version_key("a", 3) and not pushed:
            pushed.append(theirs.push(make_snapshot(50), "a"))

    report = ours.copy_to(over(Watched(backend_of(theirs), push)))
    assert pushed[0].number == 3
    assert report.names["a"].copied == [1, 2]
    assert report.names["a"].renumbered == {3: 4, 4: 5}
    assert report.names["a"].present == 0
    assert not ours.copy_to(theirs).changed


def test_an_answer_that_is_lost_doubles_nothing(make_store: MakeStore) -> None:
    """A server applies a create, its answer is lost, and the next try is refused."""
    ours = make_store()
    fill(ours)
    for apart in (False, True):
        theirs = make_store()
        if apart:
            theirs.push(make_snapshot(50), "a/b")
        watched = Watched(backend_of(theirs))
        create = backend_of(theirs).create
        watched.create = lambda key, data, create=create: (  # type: ignore[attr-defined]
            create(key, data) and key == "policystore.json"
        )
        ours.copy_to(over(watched))
        unique_nonces(theirs, "a/b", "c")
        assert faults(theirs) == []
        assert not ours.copy_to(theirs).changed


def test_the_source_changes_during_the_copy(make_store: MakeStore) -> None:
    """New versions wait for the next copy, and so do tags on them."""
    ours, theirs = make_store(), make_store()
    for seed in (1, 2):
        ours.push(make_snapshot(seed), "a")
    ours.tag("a@1", "best")

    def change(count: int, key: str) -> None:
        if key == version_key("a", 2):
            ours.push(make_snapshot(3), "a")
            ours.tag("a@3", "best")

    report = ours.copy_to(over(Watched(backend_of(theirs), change)))
    assert report.names["a"].copied == [1, 2]
    assert theirs.resolve("a@best") == make_snapshot(1).digest
    assert faults(theirs) == []
    report = ours.copy_to(theirs)
    assert report.names["a"].copied == [3]
    assert theirs.resolve("a@best") == make_snapshot(3).digest
    assert content(theirs) == content(ours)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("kind", ["version", "apart", "kept", "restore"])
def test_objects_are_checked_again_before_a_record_that_comes_late(
    make_store: MakeStore, kind: str
) -> None:
    """A collector takes the objects while the copy is asleep between objects and record."""
    ours, theirs, clock = make_store(), make_store(), Clock()
    ours.push(make_snapshot(1), "a")
    ours.push(make_snapshot(2), "a")
    ours.push(make_snapshot(3))
    if kind == "apart":
        theirs.push(make_snapshot(50), "a")
    needed = make_snapshot(3 if kind == "kept" else 2).digest
    last = object_key(needed)
    if kind == "restore":
        ours.copy_to(theirs)
        mark(ours, "a", "delete", (2, 2))
        ours.copy_to(theirs)
        mark(ours, "a", "restore", (2, 2))
        backend_of(theirs).delete(last)
    slept: list[str] = []
    put = backend_of(theirs).put

    watched = Watched(backend_of(theirs))

    def sleepy(key: str, *args: object, **kwargs: object) -> None:
        put(key, *args, **kwargs)  # type: ignore[arg-type]
        if key == last and not slept:
            slept.append(key)
            clock.now += MAX_DELAY + 1
            backend_of(theirs).delete(key)

    watched.put = sleepy  # type: ignore[attr-defined]
    copy_store(ours._resolver, watched, "", Meter(None), dry_run=False, clock=clock)  # type: ignore[arg-type]
    assert slept == [last]
    assert theirs.pull(needed) is not None
    assert faults(theirs) == []
    if kind in ("version", "apart"):
        assert theirs.pull("a") == make_snapshot(2)


def test_a_copy_that_is_always_late_ends_with_an_error(make_store: MakeStore) -> None:
    ours, theirs, clock = make_store(), make_store(), Clock()
    ours.push(make_snapshot(1), "a")
    watched = Watched(backend_of(theirs))
    put = backend_of(theirs).put

    def slow(key: str, *args: object, **kwargs: object) -> None:
        put(key, *args, **kwargs)  # type: ignore[arg-type]
        clock.now += MAX_DELAY + 1

    watched.put = slow  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="checked 10 times"):
        copy_store(ours._resolver, watched, "", Meter(None), dry_run=False, clock=clock)  # type: ignore[arg-type]
    assert versions(theirs, "a") == []


def test_an_object_that_was_checked_long_ago_is_checked_again(make_store: MakeStore) -> None:
    """Two names need one object. The second name comes when the first check is old."""
    ours, theirs, clock = make_store(), make_store(), Clock()
    ours.push(make_snapshot(1), "a")
    ours.push(make_snapshot(1), "b")
    key = object_key(make_snapshot(1).digest)

    def later(count: int, written: str) -> None:
        if written == version_key("a", 1):
            clock.now += MAX_DELAY * 0.6
            backend_of(theirs).delete(key)  # nobody would do that: it only shows the second check

    watched = Watched(backend_of(theirs), later)
    copy_store(ours._resolver, watched, "", Meter(None), dry_run=False, clock=clock)  # type: ignore[arg-type]
    assert backend_of(theirs).size(key) is not None


def test_the_cursor_can_be_lost_at_any_time(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    theirs.push(make_snapshot(50), "a/b")
    key = copied_key("a/b", version(ours, "a/b", 1).nonce)

    def lose(count: int, written: str) -> None:
        if written == key:
            raise StorageError("it is gone")

    with pytest.raises(StorageError, match="copying a/b to .*it is gone"):
        ours.copy_to(over(Watched(backend_of(theirs), lose)))
    assert backend_of(theirs).size(key) is None
    ours.copy_to(theirs)
    unique_nonces(theirs, "a/b", "c")
    assert faults(theirs) == []


def test_few_bytes_are_in_memory_at_once(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = make_store(), make_store()
    sizes = {}
    for seed in range(40):
        version = ours.push(make_snapshot(seed), f"n{seed % 4}")
        sizes |= {object_key(digest): size for digest, size in (version.objects or {}).items()}
    monkeypatch.setattr("policystore.repository.mirror.objects._IN_MEMORY", 3500)
    lock, held, most = threading.Lock(), [0], [0]
    source, target = Watched(backend_of(ours)), Watched(backend_of(theirs))

    def get(key: str, **kwargs: object) -> object:
        with lock:
            held[0] += sizes.get(key, 0)
            most[0] = max(most[0], held[0])
        return backend_of(ours).get(key, **kwargs)  # type: ignore[arg-type]

    def put(key: str, *args: object, **kwargs: object) -> None:
        time.sleep(0.002)  # the others go on meanwhile
        backend_of(theirs).put(key, *args, **kwargs)  # type: ignore[arg-type]
        with lock:
            held[0] -= sizes[key]

    source.get, target.put = get, put  # type: ignore[attr-defined]
    over(source).copy_to(over(target))
    assert content(theirs) == content(ours)
    assert max(sizes.values()) < most[0] <= 3500


def test_an_object_of_several_names_moves_once(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    for number in range(8):
        ours.push(make_snapshot(number % 2, large=True), f"n{number}")
    watched = Watched(backend_of(theirs), lambda count, key: time.sleep(0.002))
    report = ours.copy_to(over(watched))
    written = [key for key in watched.writes if key.startswith("objects/")]
    assert len(written) == len(set(written)) == report.objects == 5


def test_a_push_is_restored_only_while_its_objects_were_just_seen(make_store: MakeStore) -> None:
    """The copy restores a push that marks of the source have deleted, and falls asleep."""
    ours, theirs, clock = make_store(), make_store(), Clock()
    for seed in (1, 2, 3):
        ours.push(make_snapshot(seed), "a")
    mark(ours, "a", "delete", (2, 3))
    ours.copy_to(theirs, "a@1")
    backend_of(theirs).create(mark_key("a", 1), content(ours)[mark_key("a", 1)])
    theirs.push(make_snapshot(50), "a")
    looked: list[str] = []
    watched = Watched(backend_of(theirs))

    def sleepy(key: str) -> int | None:
        if key == object_key(make_snapshot(50).digest):
            looked.append(key)
            clock.now += MAX_DELAY + 1 if len(looked) == 1 else 0
        return backend_of(theirs).size(key)

    watched.size = sleepy  # type: ignore[attr-defined]
    copy_store(ours._resolver, watched, "", Meter(None), dry_run=False, clock=clock)  # type: ignore[arg-type]
    assert len(looked) == 2
    assert theirs.pull("a@2") == make_snapshot(50)


def test_a_push_whose_objects_are_lost_stays_deleted(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    for seed in (1, 2, 3):
        ours.push(make_snapshot(seed), "a")
    mark(ours, "a", "delete", (2, 3))
    ours.copy_to(theirs, "a@1")
    backend_of(theirs).create(mark_key("a", 1), content(ours)[mark_key("a", 1)])
    for seed in (50, 51):
        theirs.push(make_snapshot(seed), "a")
    backend_of(theirs).delete(object_key(make_snapshot(50).digest))
    report = ours.copy_to(theirs)
    assert report.names["a"].conflicts[-1].startswith("versions 2: deleted by marks of the source")
    newest = Mark.from_bytes(backend_of(theirs).get(mark_key("a", 2)), "")
    assert [(span.first, span.last) for span in newest.deleted] == [(2, 2)]
    assert not ours.copy_to(theirs).changed
