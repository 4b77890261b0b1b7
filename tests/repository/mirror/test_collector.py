"""Copies to a store in which a collector runs."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest

from policystore import PolicyStore
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import object_key, version_key
from policystore.testing import make_snapshot
from tests.support.mirrors import Watched, backend_of, content, faults, mark, over

MakeStore = Callable[[], PolicyStore]
HOURS = 3600.0
GRACE = datetime.timedelta(hours=2)


class Time:
    def __init__(self, *stores: PolicyStore) -> None:
        self.now = 1e9
        for store in stores:
            backend = backend_of(store)
            assert isinstance(backend, MemoryBackend)
            backend._space.clock = lambda: self.now


def collect(store: PolicyStore) -> None:
    store.collect_garbage(GRACE, dry_run=False)


@pytest.mark.parametrize("apart", [False, True])
def test_a_collector_before_every_write_takes_nothing_that_is_needed(
    make_store: MakeStore, apart: bool
) -> None:
    """The target has the objects as garbage that is old enough to be collected."""
    ours, theirs = make_store(), make_store()
    time = Time(theirs)
    for seed in range(4):
        ours.push(make_snapshot(seed, large=seed == 1), "a")
        theirs.push(make_snapshot(seed, large=seed == 1), "old")
    ours.push(make_snapshot(9))
    theirs.push(make_snapshot(9), "old")
    if apart:
        theirs.push(make_snapshot(50), "a")
    mark(theirs, "old", "delete", (1, 5))
    time.now += 5 * HOURS
    watched = Watched(backend_of(theirs), lambda count, key: collect(theirs))
    ours.copy_to(over(watched))
    for _ in range(3):
        time.now += 3 * HOURS
        collect(theirs)
    for seed in range(4):
        number = seed + 1 + apart
        assert theirs.pull(f"a@{number}") == make_snapshot(seed, large=seed == 1)
    assert theirs.pull(make_snapshot(9).digest) == make_snapshot(9)
    assert faults(theirs) == []


def test_an_object_that_is_taken_between_check_and_record_comes_back(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket answers that it has a large object; the collector takes it before the record."""
    ours, theirs = make_store(), make_store()
    time = Time(theirs)
    monkeypatch.setattr(MemoryBackend, "is_remote", True)  # so that large objects are asked for
    ours.push(make_snapshot(1, large=True), "a")
    theirs.push(make_snapshot(1, large=True), "old")
    mark(theirs, "old", "delete", (1, 1))
    time.now += 5 * HOURS

    def before(count: int, key: str) -> None:
        if key == version_key("a", 1):
            collect(theirs)

    ours.copy_to(over(Watched(backend_of(theirs), before)))
    assert theirs.pull("a") == make_snapshot(1, large=True)
    time.now += 3 * HOURS
    collect(theirs)
    assert theirs.pull("a") == make_snapshot(1, large=True)
    assert faults(theirs) == []


def test_the_trash_of_the_source_is_read(make_store: MakeStore) -> None:
    """A version is deleted, collected and tagged again: its objects lie in the trash for a time."""
    ours, theirs = make_store(), make_store()
    for seed in (1, 2):
        ours.push(make_snapshot(seed), "a")
    key = object_key(make_snapshot(2).digest)
    data = content(ours)[key]
    backend_of(ours).delete(key)
    trash = f"trash/{key[8:10]}/{key[11:75]}/{'0' * 32}.safetensors"
    backend_of(ours).replace(trash, data)
    assert ours.copy_to(theirs, dry_run=True).objects == 2
    ours.copy_to(theirs)
    assert theirs.pull("a") == make_snapshot(2)


def test_a_copy_that_was_cut_off_is_collected_and_made_again(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    time = Time(theirs)
    for seed in range(3):
        ours.push(make_snapshot(seed), "a")
    mark(ours, "a", "delete", (2, 3))

    def die(count: int, key: str) -> None:
        if key == version_key("a", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours.copy_to(over(Watched(backend_of(theirs), die)))
    for _ in range(3):
        time.now += 3 * HOURS
        collect(theirs)
    assert len(content(theirs, "objects/")) == 1
    ours.copy_to(theirs)
    assert content(theirs, "names/") == content(ours, "names/")
    assert faults(theirs) == []
