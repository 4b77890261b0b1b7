"""The objects of a record are checked again if the record comes late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot, StorageError
from policystore._util.deadlines import LateError, boottime, deadline, raise_if_late
from policystore.backends import local
from policystore.backends.fsspec import FsspecBackend
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.backends.options import StorageOptions
from policystore.format.keys import KEPT, OBJECTS, object_key
from policystore.format.records import Kept
from policystore.repository.freshness import MAX_DELAY, Freshness

SNAP = Snapshot(weights={"w": np.arange(4.0)})


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(MemoryBackend):
    """A backend that notes its writes, and passes a time before the first record."""

    def __init__(self, name: str, clock: Clock, delays: list[float]) -> None:
        super().__init__(name)
        self.clock, self.delays, self.writes = clock, delays, list[str]()

    def put(self, key: str, chunks: Any, **kwargs: Any) -> None:
        self.writes.append(key.partition("/")[0])
        super().put(key, chunks, **kwargs)
        if key.startswith(OBJECTS) and self.delays:
            self.clock.now += self.delays.pop(0)

    def create(self, key: str, data: bytes) -> bool:
        self.writes.append(key.rpartition("/")[2])
        return super().create(key, data)


def opened(backend: MemoryBackend, clock: Clock) -> PolicyStore:
    store = PolicyStore.over(backend, cache=False)
    store._writer._clock = clock
    return store


@pytest.mark.parametrize("name", ["a", None])
@pytest.mark.parametrize(("delay", "checks"), [(MAX_DELAY - 1, 1), (MAX_DELAY + 1, 2)])
def test_a_record_that_comes_late_has_its_objects_checked_again(
    name: str | None, delay: float, checks: int
) -> None:
    clock = Clock()
    backend = Slow(f"late-{name}-{delay}", clock, [delay])
    store = opened(backend, clock)
    version = store.push(SNAP, name)
    assert backend.writes.count("objects") == checks
    assert backend.writes[-1] in ("kept", "0000000001.json")
    assert store.pull(version) == SNAP


def test_bytes_that_are_checked_again_are_not_counted_again() -> None:
    clock = Clock()
    store = opened(Slow("counted", clock, [MAX_DELAY + 1]), clock)
    seen: list[tuple[int, int]] = []
    store.push(SNAP, "a", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]


def test_a_push_that_is_always_late_ends_and_records_nothing() -> None:
    clock = Clock()
    backend = Slow("never", clock, [MAX_DELAY + 1] * 100)
    store = opened(backend, clock)
    with pytest.raises(StorageError, match="more than 30 minutes"):
        store.push(SNAP, "a")
    assert store.names() == []


def test_a_try_that_would_be_late_is_not_made() -> None:
    clock = Clock()
    tries = []

    class Failing(FsspecBackend):
        def _filesystem(self) -> None:
            tries.append(clock.now)
            clock.now += MAX_DELAY / 2
            raise ConnectionError("reset by the server")

    backend = Failing("memory://nowhere", StorageOptions(None))
    with pytest.raises(LateError), deadline(clock.now + MAX_DELAY, clock):
        backend.size("a")
    assert len(tries) == 3
    raise_if_late()  # the deadline has ended with its block


def test_a_record_whose_answer_was_lost_is_not_created_twice() -> None:
    """The first try creates the record; the second would be late, and checks the objects first."""
    clock = Clock()

    class Lost(Slow):
        def create(self, key: str, data: bytes) -> bool:
            created = super().create(key, data)
            if key.endswith("0000000001.json") and created:
                clock.now += MAX_DELAY + 1
                raise_if_late()
            return created

    backend = Lost("lost", clock, [])
    store = opened(backend, clock)
    assert store.push(SNAP, "a").number == 1
    assert len(store.log("a")) == 1
    assert backend.writes.count("objects") == 2


def test_checks_and_calls_in_order() -> None:
    calls: list[str] = []
    objects = Freshness(lambda: calls.append("first"), again=lambda: calls.append("again"))
    assert objects.call(lambda: calls.append("create")) is None
    objects.check()
    assert calls == ["first", "create", "again"]


def test_the_clock_counts_forward() -> None:
    assert 0 < boottime() <= boottime()


def test_a_push_without_a_name_leaves_a_record_with_its_objects() -> None:
    backend = MemoryBackend("kept")
    version = PolicyStore.over(backend, cache=False).push(SNAP, author="ann")
    (key,) = backend.keys(KEPT)
    kept = Kept.from_bytes(backend.get(key), key)
    assert (kept.digest, kept.author) == (version.digest, "ann")
    assert dict(kept.objects or {}) == {version.digest: backend.size(object_key(version.digest))}


def test_a_file_that_a_collector_takes_before_the_flush_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("objects/ab/x", [b"bytes"])
    holds: Callable[..., bool] = local.holds_bytes

    def holds_then_taken(root: Path, path: Path, chunks: Any) -> bool:
        held = holds(root, path, chunks)
        path.unlink()
        return held

    monkeypatch.setattr(local, "holds_bytes", holds_then_taken)
    backend.put("objects/ab/x", [b"bytes"])
    assert backend.get("objects/ab/x") == b"bytes"
