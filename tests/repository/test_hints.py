"""Hints after calls of two writers at once: the hint that is written last names the newest records."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from policystore import NotFoundError, PolicyStore, Snapshot
from policystore.backends.memory import MemoryBackend
from policystore.errors import StorageError
from policystore.format.keys import hint_key, tag_hint_key
from policystore.format.records import Hint, TagHint
from policystore.repository.lookup.state import find_state
from policystore.repository.lookup.tag_moves import last_move
from policystore.testing.storage import Intercepted

Make = Callable[..., Snapshot]
Call = Callable[[PolicyStore, Make], object]

CALLS: dict[str, Call] = {
    "push": lambda store, make: store.push(make(20), "a"),
    "delete": lambda store, make: store.delete("a@5", force=True),
    "delete an old version": lambda store, make: store.delete("a@2"),
    "prune": lambda store, make: store.prune("a", keep_last=2),
    "restore": lambda store, make: store.restore("a@1"),
    "tag": lambda store, make: store.tag("a@4", "t"),
    "untag": lambda store, make: store.untag("a", "t"),
    "copy_to": lambda store, make: other_store(make).copy_to(store),
}
OTHERS: dict[str, Call] = {
    "push": lambda store, make: [store.push(make(seed), "a") for seed in (30, 31)],
    "delete": lambda store, make: [store.delete(f"a@{n}", force=True) for n in standing(store)],
    "tag": lambda store, make: [store.tag(f"a@{number}", "t") for number in standing(store)],
}


def standing(store: PolicyStore) -> list[int]:
    """Return two versions that stand."""
    return [version.number or 0 for version in store.log("a", limit=2)]


def other_store(make: Make) -> PolicyStore:
    """Return a store whose versions of the same name were pushed apart."""
    store = PolicyStore.over(MemoryBackend(uuid.uuid4().hex), cache=False)
    for seed in (40, 41):
        store.push(make(seed), "a")
    store.tag("a@1", "t")
    return store


class Place:
    """A store with five versions, the first deleted, and a tag; and its backend for two writers."""

    def __init__(self, make: Make, *, remote: bool) -> None:
        self.inner = MemoryBackend(uuid.uuid4().hex)
        self.other = PolicyStore.over(self.inner, cache=False)
        for seed in range(5):
            self.other.push(make(seed), "a")
        self.other.delete("a@1")
        self.other.tag("a@2", "t")
        self.other.tag("a@5", "t")
        self.backend: Any = Intercepted(self.inner)
        if remote:
            self.backend.is_remote = True
        self.store = PolicyStore.over(self.backend, cache=False)

    def hint(self) -> Hint:
        return Hint.from_bytes(self.inner.get(hint_key("a")), "the hint")

    def check(self) -> None:
        """Check that both hints name the newest records."""
        state = find_state(self.inner, "a", None)
        hint = self.hint()
        assert hint.number == state.newest.number
        assert hint.marks == (0 if state.mark is None else state.mark.number)
        assert hint.stands == state.stands
        assert (
            hint.digest
            == self.other._resolver.read_version("a", state.stands or hint.number).digest
        )
        move = last_move(self.inner, "a", "t", None)
        assert move is not None
        data = self.inner.get(tag_hint_key("a", "t"))
        assert TagHint.from_bytes(data, "it") == TagHint(move.number, move.target, move.digest)

    def before(self, call: str, parts: tuple[str, ...], act: Callable[[], object]) -> list[str]:
        """Act before the first call with a key that has all parts; return a list of that key."""
        plain, done = getattr(self.backend, call), []

        def intercepted(key: str, *args: Any, **kwargs: Any) -> Any:
            if all(part in key for part in parts) and not done:
                done.append(key)
                act()
            return plain(key, *args, **kwargs)

        setattr(self.backend, call, intercepted)
        return done


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("call", CALLS)
def test_a_hint_that_is_written_late_does_not_step_back(
    call: str, other: str, make_snapshot: Make
) -> None:
    """Let another writer make records and hints just before this writer writes its hint."""
    place = Place(make_snapshot, remote=False)
    done = place.before("replace", ("@hint",), lambda: OTHERS[other](place.other, make_snapshot))
    with suppress(NotFoundError):  # the other writer may have deleted the version of the tag
        CALLS[call](place.store, make_snapshot)
    assert done
    place.check()


@pytest.mark.parametrize("remote", [False, True])
def test_a_push_during_which_a_version_is_deleted_writes_a_hint_with_the_mark(
    remote: bool, make_snapshot: Make
) -> None:
    place = Place(make_snapshot, remote=remote)
    place.before("put", ("objects/",), lambda: place.other.prune("a", keep_last=2))
    place.store.push(make_snapshot(20), "a")
    place.check()
    assert place.hint().marks == 2


@pytest.mark.parametrize("call", ["push", "tag", "delete", "restore"])
@pytest.mark.parametrize("remote", [False, True])
def test_the_next_writer_brings_an_old_hint_forward(
    remote: bool, call: str, make_snapshot: Make
) -> None:
    place = Place(make_snapshot, remote=remote)
    old = place.inner.get(hint_key("a"))
    place.other.delete("a@2")
    place.other.push(make_snapshot(6), "a")
    place.inner.replace(hint_key("a"), old)  # as a writer that was stopped for a while does
    CALLS[call](place.store, make_snapshot)
    place.check()


def test_a_hint_that_cannot_be_brought_forward_is_no_error(
    make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(make_snapshot, remote=False)

    def size(key: str) -> int | None:
        if "@versions/0000000007" in key or "@tags/t/0000000004" in key:
            raise StorageError("the disk is gone")
        return place.inner.size(key)

    place.backend.size = size
    assert place.store.push(make_snapshot(6), "a").number == 6
    place.store.tag("a@6", "t")
    assert place.other.pull("a@t") == make_snapshot(6)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the hint of a was not written",
        "the hint of the tag t of a was not written",
    ]
