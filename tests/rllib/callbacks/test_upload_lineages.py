"""Parents of versions, and copies of several lineages of one run under one name."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore
from policystore.rllib.callbacks import upload_history, upload_versions
from policystore.rllib.callbacks.lineage import Ancestor, Lineage
from policystore.rllib.callbacks.upload_history import Copy
from policystore.rllib.callbacks.upload_queue import Uploader
from tests.support.upload_faults import FOREVER, Faulty, copy, iterations, until, uploader_to


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def pushed(store: PolicyStore, *copies: Copy, **given: Any) -> Uploader:
    uploader = uploader_to(store, **{"max_pending": 200, **given})
    for each in copies:
        uploader.put(each)
    assert uploader.finish(FOREVER) == []
    return uploader


def parents(store: PolicyStore, name: str = "a") -> list[list[int]]:
    """Return for each version, oldest first, the numbers of its parents."""
    versions = list(reversed(store.log(name)))
    numbers = {version.digest: version.number for version in versions}
    return [[numbers[parent] for parent in version.parents] for version in versions]


def of_donor(*seeds: int, pushed: bool = True, **given: Any) -> Lineage:
    """A lineage that was restored from a checkpoint of another run, which names these copies."""
    ancestors = [Ancestor(seed, copy(seed).snap.digest, pushed) for seed in seeds]
    origin = {"run": "donor", "iteration": 3}
    return Lineage(**{"id": "1f", "origin": origin, "ancestors": {"main": ancestors}, **given})


def test_a_version_descends_from_the_one_before(store: PolicyStore) -> None:
    lineage = Lineage()
    uploader = pushed(store, *(copy(n, lineage=lineage) for n in (1, 2, 3)))
    assert parents(store) == [[], [1], [2]]
    assert "lineage" not in store.log("a")[0].source
    newest = uploader.newest_copies(lineage)
    assert newest == {"main": [Ancestor(3, store.log("a")[0].digest, True)]}
    assert uploader.newest_copies(Lineage()) == {"main": []}


def test_dropped_and_lost_copies_are_no_ancestors(store: PolicyStore) -> None:
    from policystore import StorageError

    faulty, lineage = Faulty(store), Lineage()
    uploader = uploader_to(store, max_pending=2)
    faulty.gate.clear()
    uploader.put(copy(1, lineage=lineage))
    until(lambda: faulty.calls)
    for n in (2, 3, 4):
        uploader.put(copy(n, lineage=lineage))
    newest = uploader.newest_copies(lineage)["main"]
    assert [(each.iteration, each.pushed) for each in newest] == [
        (4, False),
        (3, False),
        (1, False),
    ]
    assert uploader.newest_copies(Lineage()) == {"main": []}
    faulty.gate.set()
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [1, 3, 4]
    assert parents(store) == [[], [1], [2]]
    faulty.fail = lambda call, key: StorageError("away") if call == "create" else None
    uploader.put(copy(5, lineage=lineage))
    assert len(uploader.finish(0.1)) == 1
    faulty.fail = lambda call, key: None
    uploader.put(copy(6, lineage=lineage))
    assert uploader.finish(FOREVER) == []
    assert parents(store)[3:] == [[3]]


def test_a_new_lineage_is_pushed_in_full(store: PolicyStore) -> None:
    pushed(store, *(copy(n, float(n)) for n in (1, 2, 3, 4)))
    lineage = of_donor(2)
    uploader = pushed(store, *(copy(n, 0.5, seed=10 + n, lineage=lineage) for n in (3, 4, 5)),
                      resumes=True)  # fmt: skip
    assert iterations(store) == [1, 2, 3, 4, 3, 4, 5]
    assert parents(store)[4:] == [[2], [5], [6]]
    assert uploader.repeated() == {"main": 0}
    for version in store.log("a", limit=3):
        assert version.source["lineage"] == "1f"
        assert version.source["restored_from"] == {"run": "donor", "iteration": 3}


def test_a_restart_repeats_only_its_own_lineage(store: PolicyStore) -> None:
    """The run has iterations 3 to 6 of its first lineage, and 3 and 4 of its second."""
    pushed(store, *(copy(n) for n in (1, 2, 3, 4, 5, 6)))
    second = of_donor(2)
    pushed(store, *(copy(n, seed=10 + n, lineage=second) for n in (3, 4)), resumes=True)
    again = of_donor(13)
    uploader = uploader_to(store, max_pending=9, resumes=True)
    uploader.restored(3)
    for n in (4, 5, 6):
        uploader.put(copy(n, seed=20 + n, lineage=again))
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
    assert parents(store)[6:] == [[2], [7], [7], [9]]  # 4 was not pushed: 5 descends from 3
    assert uploader.repeated() == {"main": 1}
    first = uploader_to(store, max_pending=9, resumes=True)
    first.restored(4)
    for n in (5, 6, 7):
        first.put(copy(n, seed=30 + n))
    assert first.finish(FOREVER) == []
    assert iterations(store)[10:] == [7]


def test_a_copy_that_others_name_is_pushed_although_its_iteration_was(store: PolicyStore) -> None:
    """After a crash, a run repeats iteration 3 with other weights, and then with the same ones."""
    pushed(store, *(copy(n) for n in (1, 2, 3)))
    uploader = uploader_to(store, max_pending=9, resumes=True)
    uploader.restored(2)
    for seed in (13, 3):
        uploader.put(dataclasses.replace(copy(3, seed=seed), again=True))
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [1, 2, 3, 3]
    assert store.log("a")[0].digest == copy(3, seed=13).snap.digest
    assert uploader.repeated() == {"main": 1}


def test_the_very_same_copy_is_there_once(store: PolicyStore) -> None:
    """Two exploits of one checkpoint, whose training went the same way."""
    pushed(store, *(copy(n) for n in (1, 2)))
    pushed(store, *(copy(n, seed=10 + n, lineage=lineage)
                    for lineage in (of_donor(2),) for n in (3, 4)), resumes=True)  # fmt: skip
    once_more = of_donor(2, id="2e")
    pushed(store, copy(3, seed=13, lineage=once_more), copy(4, seed=50, lineage=once_more),
           resumes=True)  # fmt: skip
    assert iterations(store) == [1, 2, 3, 4, 4]
    assert parents(store) == [[], [], [2], [3], [3]]


def test_an_ancestor_that_the_store_lacks(store: PolicyStore) -> None:
    pushed(store, copy(1, name="donor"), names={"main": "donor"})
    pushed(store, copy(3, seed=13, lineage=of_donor(2, 1)), copy(4, seed=14, lineage=of_donor(2)))
    known, unknown = reversed(store.log("a"))
    assert known.parents == (store.log("donor")[0].digest,)
    assert unknown.parents == ()
    assert unknown.source["restored_from"] == {"run": "donor", "iteration": 3}


def test_an_ancestor_that_is_being_pushed(store: PolicyStore) -> None:
    uploader = uploader_to(store, max_pending=9)
    uploader.put(copy(3, seed=13, lineage=of_donor(2, 1, pushed=False)))
    time.sleep(0.3)
    assert store.names() == []
    pushed(store, copy(2, name="donor"), names={"main": "donor"})
    assert uploader.finish(FOREVER) == []
    assert store.log("a")[0].parents == (store.log("donor")[0].digest,)


@pytest.mark.parametrize("by", ["time", "a full queue", "the end"])
def test_a_push_waits_for_its_parent_only_so_long(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(upload_versions, "_PARENT_PATIENCE", 0.3 if by == "time" else 600.0)
    faulty, uploader = Faulty(store), uploader_to(store, max_pending=2)
    lineage = of_donor(2, pushed=False)
    count = 3 if by == "a full queue" else 1
    for n in range(count):
        uploader.put(copy(3 + n, seed=13 + n, lineage=lineage))
        until(lambda: faulty.calls)  # the first copy is under way
    if by == "the end":
        assert uploader.finish(6.0) == []  # far less than the patience, and half of it to push
    until(lambda: store.names() and len(store.log("a")) == count)
    assert uploader.status()["main"]["skipped"] == 0
    assert parents(store) == [[], [1], [2]][:count]
    assert uploader.finish(FOREVER) == []


def test_the_log_of_other_lineages_is_read_only_so_far(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_history, "_LOOK_BACK", 5)
    pushed(store, *(copy(n) for n in range(1, 41)))
    faulty = Faulty(store)
    pushed(store, copy(3, seed=99, lineage=of_donor(2)), resumes=True)
    read = {key for call, key in faulty.calls if call == "get" and "@versions" in key}
    assert len(read) < 15
    assert iterations(store)[40:] == [3]


def test_a_checkpoint_while_copies_are_pushed(store: PolicyStore) -> None:
    lineage, found, done = Lineage(), [], threading.Event()
    uploader = uploader_to(store, max_pending=200)

    def look() -> None:
        while not done.is_set():
            found.append(uploader.newest_copies(lineage)["main"])
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    for n in range(1, 31):
        uploader.put(copy(n, lineage=lineage))
    assert uploader.finish(FOREVER) == []
    done.set()
    thread.join()
    for newest in found:
        numbers = [each.iteration for each in newest]
        assert numbers == sorted(numbers, reverse=True)
    assert [each.iteration for each in uploader.newest_copies(lineage)["main"]] == [30]
