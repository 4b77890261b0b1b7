"""Copies on their way to a store: slow, failing, lost, too many, and from several trainings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import (
    FormatError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    Spec,
    StorageError,
)
from policystore.rllib import uploading
from policystore.rllib.uploading import Copy, Uploader

FOREVER = 60.0


class Faulty:
    """A storage whose calls can be stopped, or fail by what is told; everything else passes."""

    def __init__(self, store: PolicyStore) -> None:
        self._inner = store._backend
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Callable[[str, str], Exception | None] = lambda call, key: None
        self.after: Callable[[str, str], Exception | None] = lambda call, key: None
        self.calls: list[tuple[str, str]] = []
        store._backend = self  # type: ignore[assignment]
        store._find._backend = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name in ("url", "location"):
            return inner

        def call(key: str, *args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, key))
            assert self.gate.wait(FOREVER)
            if (error := self.fail(name, key)) is not None:
                raise error
            found = inner(key, *args, **kwargs)
            if (error := self.after(name, key)) is not None:
                raise error
            return found

        return call


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


@pytest.fixture
def made(store: PolicyStore) -> Iterator[Callable[..., Uploader]]:
    uploaders: list[Uploader] = []

    def make(**given: Any) -> Uploader:
        options = {"queue": 4, "lowest": False, "names": {"main": "a"}, **given}
        names = options.pop("names")
        options["metrics"] = dict.fromkeys(names, options.pop("metric", "r"))
        uploaders.append(Uploader(options.pop("store", store), names, **options))
        return uploaders[-1]

    yield make
    for uploader in uploaders:
        uploader.finish(1.0)


def copy(iteration: int, value: float | None = None, run: str = "run", policy: str = "main",
         name: str = "a", seed: int | None = None) -> Copy:  # fmt: skip
    number = iteration if seed is None else seed
    snap = Snapshot(weights={"w": np.full(3, number, np.float32)}, spec=Spec(stack="old"))
    metrics = {} if value is None else {"r": value}
    return Copy(policy, name, snap, run, iteration, value, metrics)


def iterations(store: PolicyStore, name: str = "a") -> list[int]:
    return [version.metrics["iteration"] for version in reversed(store.log(name))]


def best(store: PolicyStore) -> Any:
    return store.tags("a")["best"].metrics["r"]


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


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + FOREVER
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


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
    uploader = made(queue=3, names={"main": "a", "foe": "b"})
    uploader.put(copy(1, 0.0))
    until(lambda: faulty.calls)  # under way: no longer in the queue
    start = time.monotonic()
    for iteration, value in ((2, 1.0), (3, 7.0), (4, 2.0), (5, 3.0), (6, None), (7, 4.0)):
        uploader.put(copy(iteration, value))
        uploader.put(copy(iteration, value, policy="foe", name="b"))
    assert time.monotonic() - start < 5.0  # nobody waited for the gate
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
    assert all("the 0.3 s to finish were over" in text for text in lost)
    faulty.gate.set()


def test_the_end_does_not_sit_through_pauses(
    store: PolicyStore, made: Callable[..., Uploader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "_FIRST_PAUSE", 30.0)
    Faulty(store).fail = lambda call, key: StorageError("the network is away")
    uploader = made()
    uploader.put(copy(1))
    until(lambda: uploader.status()["main"]["error"])
    start = time.monotonic()
    (lost,) = uploader.finish(3.0)
    assert "the network is away" in lost
    assert time.monotonic() - start < 20.0


# After a restore ---------------------------------------------------------------------------------


def trained(store: PolicyStore, made: Callable[..., Uploader], *copies: Copy, **given: Any) -> None:
    uploader = made(**given)
    for each in copies:
        uploader.put(each)
    assert uploader.finish(FOREVER) == []


def test_nothing_is_pushed_twice(store: PolicyStore, made: Callable[..., Uploader]) -> None:
    """A trial that was at iteration 4 and goes on from its checkpoint of iteration 2."""
    trained(store, made, *(copy(n, float(n)) for n in (1, 2, 3, 4)), queue=9)
    trained(store, made, *(copy(n, 0.0, run="other") for n in (3, 4, 5)), queue=9)
    again = made(queue=9)
    again.restored(2)
    for n, value in ((3, 2.5), (4, 3.5), (5, 1.0), (6, 8.0)):
        again.put(copy(n, value, seed=100 + n))  # trained anew: other weights
    assert again.finish(FOREVER) == []
    assert iterations(store) == [1, 2, 3, 4, 3, 4, 5, 5, 6]
    assert best(store) == 8.0
    assert again.status()["main"]["pushed"] == 9


def test_what_came_out_better_is_pushed(store: PolicyStore, made: Callable[..., Uploader]) -> None:
    trained(store, made, *(copy(n, float(n)) for n in (1, 2, 3)))
    again = made()
    again.restored(1)
    again.put(copy(2, 7.0, seed=50))
    again.put(copy(3, 3.0))  # the very same
    assert again.finish(FOREVER) == []
    assert iterations(store) == [1, 2, 3, 2]
    assert best(store) == 7.0


def test_the_best_survives_a_restart(store: PolicyStore, made: Callable[..., Uploader]) -> None:
    trained(store, made, copy(1, 9.0))
    trained(store, made, copy(2, 4.0))
    assert best(store) == 9.0


def test_the_log_is_read_back_only_as_far_as_needed(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    trained(store, made, *(copy(n, run="long ago") for n in range(1, 61)), queue=100)
    trained(store, made, *(copy(n) for n in range(1, 41)), queue=100)
    faulty = Faulty(store)
    again = made(queue=50)
    again.restored(38)
    for n in (39, 40, 41):
        again.put(copy(n, seed=500))
    assert again.finish(FOREVER) == []
    read = {key for call, key in faulty.calls if call == "get" and "@versions" in key}
    assert 0 < len(read) < 40
    assert iterations(store)[-3:] == [39, 40, 41]


def test_several_trainings_agree_on_the_best(
    store: PolicyStore, made: Callable[..., Uploader]
) -> None:
    for turn in range(8):
        name = f"turn{turn}"
        uploaders = [made(names={"main": name}, queue=9) for _ in range(4)]
        values = np.random.default_rng(turn).permutation(12).tolist()
        for index, value in enumerate(values):
            uploaders[index % 4].put(copy(index, float(value), run=f"{index % 4}", name=name))
        for uploader in uploaders:
            assert uploader.finish(FOREVER) == []
        assert len(store.log(name)) == 12
        assert store.tags(name)["best"].metrics["r"] == 11.0


def test_who_never_stops_is_told_at_the_end(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = f"""
import sys, threading, time
sys.path[:0] = [{str(Path(__file__).parent)!r}]
import test_uploading as here
from policystore import PolicyStore
store = PolicyStore({str(tmp_path)!r})
here.Faulty(store).gate.clear()
uploader = here.Uploader(store, {{"main": "a"}}, queue=4, metrics={{"main": None}}, lowest=False)
uploader.put(here.copy(1)); uploader.put(here.copy(2))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "2 copies of policies were not pushed" in done.stderr
