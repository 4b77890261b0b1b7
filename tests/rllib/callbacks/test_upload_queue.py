"""Copies on their way to a store: slow, failing, lost, too many, and from several trainings."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import (
    FormatError,
    PolicyStore,
    ProtectedError,
    ReadOnlyError,
    Snapshot,
    StorageError,
)
from policystore.rllib.callbacks import upload_queue
from policystore.rllib.callbacks.upload_queue import Uploader
from tests.support import ROOT
from tests.support.upload_faults import FOREVER, Faulty, best, copy, iterations, until, uploader_to


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_queue, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


@pytest.fixture
def made(store: PolicyStore) -> Iterator[Callable[..., Uploader]]:
    uploaders: list[Uploader] = []

    def make(**given: Any) -> Uploader:
        uploaders.append(uploader_to(store, **given))
        return uploaders[-1]

    yield make
    for uploader in uploaders:
        uploader.finish(1.0)


def test_all_arrive_in_order_with_what_is_known_of_them(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    uploader = made()
    for iteration, value in ((1, 1.0), (2, 3.0), (3, 2.0), (4, None)):
        uploader.put(copy(iteration, value))
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [1, 2, 3, 4]
    assert best(store) == 3.0
    versions = store.log("a")
    assert versions[0].metrics == {"iteration": 4}
    assert versions[1].metrics == {"iteration": 3, "r": 2.0}
    assert versions[1].source == {"run": "run", "policy": "main", "iteration": 3}
    assert (store.pull("a@2").weights["w"] == 2).all()
    assert uploader.status() == {
        "main": {
            "name": "a",
            "pushed": 4,
            "digest": str(versions[0].digest),
            "best": 2,
            "waiting": 0,
            "skipped": 0,
            "failed": 0,
            "error": None,
        }
    }
    uploader.put(copy(5, 9.0))  # after the end comes another
    assert uploader.finish(FOREVER) == []
    assert best(store) == 9.0


@pytest.mark.parametrize("lowest", [False, True])
def test_the_best_is_the_highest_or_the_lowest(
    store: PolicyStore, made: Callable[..., Uploader], lowest: bool
) -> None:
    uploader = made(lowest=lowest)
    for iteration, value in enumerate((2.0, 5.0, -1.0, 5.0, 2.0), 1):
        uploader.put(copy(iteration, value))
        until(lambda uploader=uploader: not uploader.waiting())
    assert uploader.finish(FOREVER) == []
    assert store.tags("a")["best"].number == (3 if lowest else 2)


def test_no_metric_no_tag(store: PolicyStore, made: Callable[..., Uploader]) -> None:
    uploader = made(metric=None)
    uploader.put(copy(1, 1.0))
    assert uploader.finish(FOREVER) == []
    assert store.tags("a") == {}


def test_a_full_queue_lets_the_oldest_go_but_not_the_best(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    faulty = Faulty(store)
    faulty.gate.clear()
    uploader = made(max_pending=3, names={"main": "a", "foe": "b"})
    uploader.put(copy(1, 0.0))
    until(lambda: faulty.calls)  # under way: no longer in the queue
    for iteration, value in ((2, 1.0), (3, 7.0), (4, 2.0), (5, 3.0), (6, None), (7, 4.0)):
        uploader.put(copy(iteration, value))
        uploader.put(copy(iteration, value, policy="foe", name="b"))
    # Nobody has waited for the gate, which is closed: no copy is pushed.
    status = uploader.status()["main"]
    assert (status["waiting"], status["skipped"], status["pushed"]) == (4, 3, None)
    faulty.gate.set()
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [1, 3, 6, 7]
    assert iterations(store, "b") == [3, 6, 7]
    assert best(store) == 7.0


def test_what_passes_is_tried_again(
    store: PolicyStore, made: Callable[..., Uploader], caplog: Any
) -> None:
    faulty, left = Faulty(store), [4]

    def fail(call: str, key: str) -> Exception | None:
        if call == "create" and "@versions" in key and left[0]:
            left[0] -= 1
            return StorageError("the network is away")
        return None

    faulty.fail = fail
    uploader = made()
    uploader.put(copy(1, 1.0))
    until(lambda: not uploader.waiting())
    assert uploader.status()["main"]["error"] is None
    assert uploader.finish(FOREVER) == []
    assert left == [0]
    assert iterations(store) == [1]
    assert caplog.text.count("the network is away") == 4
    assert "policy 'main' of iteration 1 to 'a'" in caplog.text


def test_what_does_not_pass_is_told_and_ends_nothing(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    faulty = Faulty(store)
    faulty.fail = lambda call, key: StorageError("the network is away")
    uploader = made()
    uploader.put(copy(1, 1.0))
    until(lambda: not uploader.waiting())
    uploader.raise_fatal()  # nothing
    status = uploader.status()["main"]
    assert (status["failed"], status["pushed"]) == (1, None)
    assert "the network is away" in status["error"]
    faulty.fail = lambda call, key: None
    uploader.put(copy(2, 1.0))
    (lost,) = uploader.finish(FOREVER)
    assert lost.startswith("policy 'main' of iteration 1 to 'a': ")
    assert "the network is away" in lost
    assert iterations(store) == [2]
    assert uploader.status()["main"]["error"] is None
    assert uploader.finish(FOREVER) == []  # told once


@pytest.mark.parametrize("error", [ReadOnlyError, FormatError, ZeroDivisionError])
def test_what_no_retry_would_mend_is_raised(
    store: PolicyStore, made: Callable[..., Uploader], error: type[Exception]
) -> None:
    faulty = Faulty(store)
    faulty.fail = lambda call, key: error("no") if call in ("create", "put") else None
    uploader = made()
    uploader.put(copy(1, 1.0))
    until(lambda: not uploader.waiting())
    with pytest.raises(error, match="no") as caught:
        uploader.raise_fatal()
    if error is not ZeroDivisionError:
        assert "publish of policy 'main' of iteration 1 to 'a' in " in str(caught.value)
    uploader.raise_fatal()  # once
    assert len([call for call, _ in faulty.calls if call in ("create", "put")]) == 1
    assert len(uploader.finish(FOREVER)) == 1


def test_a_protected_best_tag_is_raised_and_the_version_stays(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    uploader = made()
    uploader.put(copy(1, 1.0))
    until(lambda: not uploader.waiting())
    store.protect("a", "best", ["ann"], author="ann")
    uploader.put(copy(2, 0.5))  # not better, so the tag would not move
    until(lambda: not uploader.waiting())
    uploader.raise_fatal()
    uploader.put(copy(3, 9.0))
    until(lambda: not uploader.waiting())
    with pytest.raises(ProtectedError, match=r"publish of policy 'main' .*ann protected it at"):
        uploader.raise_fatal()
    assert iterations(store) == [1, 2, 3]
    assert best(store) == 1.0
    assert len(uploader.finish(FOREVER)) == 1


@pytest.mark.parametrize("call", ["create", "put", "replace"])
def test_an_answer_that_was_lost_makes_no_second_version(
    store: PolicyStore, made: Callable[..., Uploader], call: str
) -> None:
    """The write went through, and the caller heard of a failure."""
    store.push(copy(0).snap, "a", metrics={"iteration": 0})
    faulty, left = Faulty(store), {"@versions": 1, "@tags": 1, "objects": 1}

    def after(name: str, key: str) -> Exception | None:
        for part in left:
            if name == call and part in key and left[part]:
                left[part] = 0
                return StorageError("connection reset")
        return None

    faulty.after = after
    uploader = made()
    uploader.put(copy(1, 1.0))
    uploader.put(copy(2, 2.0))
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [0, 1, 2]
    assert best(store) == 2.0
    assert uploader.status()["main"]["pushed"] == 3


def test_the_end_waits_only_so_long(store: PolicyStore, made: Callable[..., Uploader]) -> None:
    faulty = Faulty(store)
    faulty.gate.clear()
    uploader = made()
    for iteration in (1, 2, 3):
        uploader.put(copy(iteration))
    lost = uploader.finish(0.3)
    assert [text.partition(" to ")[0] for text in lost] == [
        f"policy 'main' of iteration {n}" for n in (1, 2, 3)
    ]
    assert all("not finished within 0.3 s" in text for text in lost)
    faulty.gate.set()


def test_the_end_does_not_sit_through_pauses(
    store: PolicyStore, made: Callable[..., Uploader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_queue, "_FIRST_PAUSE", 10 * FOREVER)
    monkeypatch.setattr(upload_queue, "_LONGEST_PAUSE", 10 * FOREVER)
    Faulty(store).fail = lambda call, key: StorageError("the network is away")
    uploader = made()
    uploader.put(copy(1))
    until(lambda: uploader.status()["main"]["error"])
    (lost,) = uploader.finish(FOREVER)
    assert "the network is away" in lost  # not "not finished within 60 s"


def test_after_the_end_there_is_one_thread(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    """Copies that come after an end whose time was over, while a push is stuck."""
    faulty = Faulty(store)
    faulty.gate.clear()
    uploader = made()
    uploader.put(copy(1))
    until(lambda: faulty.calls)
    assert len(uploader.finish(0.1)) == 1
    before = threading.active_count()
    uploader.put(copy(2))
    assert threading.active_count() == before
    faulty.gate.set()
    assert uploader.finish(float("inf")) == []
    assert iterations(store) == [1, 2]
    for n in range(3, 60):  # none is left behind by a thread that was about to end
        uploader.put(copy(n))
        assert uploader.finish(FOREVER) == []
    assert len(store.log("a")) == 59


def test_a_full_queue_compares_no_weights(
    store: PolicyStore, made: Callable[..., Uploader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take hashing them, in the training thread."""
    faulty = Faulty(store)
    faulty.gate.clear()
    uploader = made(max_pending=2)
    uploader.put(copy(1))
    until(lambda: faulty.calls)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "_encode", lambda *_a, **_k: pytest.fail("encoded"))
        for n, value in ((2, 9.0), (3, 1.0), (4, 2.0), (5, 3.0)):
            uploader.put(copy(n, value))
    faulty.gate.set()
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [1, 2, 5]


def test_several_trainings_agree_on_the_best(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    for turn in range(8):
        name = f"turn{turn}"
        uploaders = [made(names={"main": name}, max_pending=9) for _ in range(4)]
        values = np.random.default_rng(turn).permutation(12).tolist()
        for index, value in enumerate(values):
            uploaders[index % 4].put(copy(index, float(value), run=f"{index % 4}", name=name))
        for uploader in uploaders:
            assert uploader.finish(FOREVER) == []
        assert len(store.log(name)) == 12
        assert store.tags(name)["best"].metrics["r"] == 11.0


@pytest.mark.long
def test_who_never_stops_is_told_at_the_end(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = f"""
import sys, threading, time
sys.path[:0] = [{str(ROOT)!r}]
import tests.support.upload_faults as here
from policystore import PolicyStore
store = PolicyStore({str(tmp_path)!r})
here.Faulty(store).gate.clear()
uploader = here.uploader_to(store, metric=None)
uploader.put(here.copy(1)); uploader.put(here.copy(2))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "2 copies of policies were not pushed" in done.stderr


@pytest.mark.parametrize("forked", [True, False])
def test_only_the_process_of_the_queue_says_at_its_end_that_copies_are_lost(
    store: PolicyStore,
    made: Callable[..., Uploader],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    forked: bool,
) -> None:
    """In a forked process, the lock of the queue may never become free."""
    queued = made()
    queued._under_way = copy(1, 1.0)
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + forked)
    upload_queue._say_at_exit(weakref.ref(queued), process)
    monkeypatch.undo()
    queued._under_way = None
    assert ("the process ends" in caplog.text) is not forked
