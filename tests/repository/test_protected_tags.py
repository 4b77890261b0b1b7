"""Protected tags: who may move them, and what happens beside other writers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, cast

import pytest

from policystore import (
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    ProtectedError,
    ReadOnlyError,
    Snapshot,
)
from policystore.backends.base import Backend
from policystore.format.keys import tag_key
from policystore.format.records import TagHint, TagMove
from policystore.format.records.tags import Protection
from policystore.testing.storage import Intercepted
from tests.support.faults import FaultyBackend, Plan

Make = Callable[..., Snapshot]


@pytest.fixture
def store(make_snapshot: Make, monkeypatch: pytest.MonkeyPatch) -> PolicyStore:
    monkeypatch.setenv("POLICYSTORE_AUTHOR", "ann")
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for seed in range(3):
        store.push(make_snapshot(seed), "a")
    store.tag("a@1", "t")
    return store


def over(backend: object) -> PolicyStore:
    return PolicyStore.over(cast(Backend, backend), cache=False)


def newest(store: PolicyStore) -> TagMove:
    return store.tag_history("a", "t")[0]


@pytest.mark.parametrize("by", [None, [], ()])
def test_without_authors_nobody_moves_the_tag(store: PolicyStore, by: Any) -> None:
    record = store.protect("a", "t", by)
    assert record == newest(store)
    assert record.protected == Protection((), "ann", record.time)
    assert (record.target, record.digest) == (1, store.resolve("a@1"))
    for author in ("ann", "bob"):
        with pytest.raises(ProtectedError, match="nobody may move it"):
            store.tag("a@2", "t", author=author)
    store.tag("a@2", "t", force=True)
    assert newest(store).protected == record.protected


def test_the_author_of_a_protection_is_told_how_to_change_it(store: PolicyStore) -> None:
    store.protect("a", "t", by=["bob"])

    with pytest.raises(ProtectedError, match="You protected it yourself: .*") as own:
        store.tag("a@2", "t")
    with pytest.raises(ProtectedError, match="Ask 'ann', or give force=True"):
        store.tag("a@2", "t", author="dan")

    assert "protect it again with by=['ann', 'bob'], or give force=True" in str(own.value)
    assert "Ask" not in str(own.value)
    store.protect("a", "t", by=["ann", "bob"])
    store.tag("a@2", "t")
    assert newest(store).target == 2


def test_a_removed_tag_stays_protected(store: PolicyStore) -> None:
    store.protect("a", "t", ["ann"])
    store.untag("a", "t")
    with pytest.raises(ProtectedError, match="'bob' may not move or remove"):
        store.tag("a@2", "t", author="bob")
    with pytest.raises(NotFoundError, match="the tag was removed"):
        store.protect("a", "t", ["bob"])
    assert store.tag("a@3", "t").number == 3
    assert newest(store).protected is not None
    store.untag("a", "t")
    store.unprotect("a", "t")
    assert store.tags("a") == {}
    assert store.tag("a@2", "t", author="bob").number == 2


def test_who_may_change_a_protection(store: PolicyStore) -> None:
    store.protect("a", "t", ["bob"], author="eve")
    for author in ("dan", "ann"):
        for call in (store.protect, store.unprotect):
            with pytest.raises(ProtectedError, match="may not protect or unprotect .* eve"):
                call("a", "t", author=author)
    assert store.protect("a", "t", ["bob", "fay"], author="eve").protected == Protection(
        ("bob", "fay"), "eve", newest(store).time
    )
    store.protect("a", "t", ["fay"], author="bob")
    store.unprotect("a", "t", author="fay")
    store.protect("a", "t", ["bob"], author="eve")
    store.protect("a", "t", ["dan"], author="dan", force=True)
    store.unprotect("a", "t", author="ann", force=True)
    store.tag("a@3", "t", author="gus")
    assert newest(store).protected is None


def test_what_cannot_be_protected(store: PolicyStore) -> None:
    before = len(store.tag_history("a", "t"))
    with pytest.raises(NotFoundError, match="no tag 'champ'"):
        store.protect("a", "champ", ["ann"])
    with pytest.raises(NotFoundError, match="no name 'b'"):
        store.protect("b", "t", ["ann"])
    with pytest.raises(NotFoundError, match="is not protected"):
        store.unprotect("a", "t")
    with pytest.raises(NotFoundError, match="no tag 'champ'"):
        store.unprotect("a", "champ")
    for by in ("ann", b"ann", 7, [7], [""], [None], {"ann": 1, 2: 3}):
        with pytest.raises(InvalidInputError, match=r"by is a list of authors, such as \['ann'"):
            store.protect("a", "t", by)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="by is too long"):
        store.protect("a", "t", [f"{n:09}" for n in range(1000)])
    reader = PolicyStore.over(store._backend, read_only=True)
    for call in (reader.protect, reader.unprotect):
        with pytest.raises(ReadOnlyError):
            call("a", "t")
    assert len(store.tag_history("a", "t")) == before


def test_when_comes_before_the_protection(store: PolicyStore) -> None:
    store.protect("a", "t", ["bob"])
    seen: list[int | None] = []

    def when(now: Any) -> bool:
        seen.append(now.number)
        return len(seen) > 1

    kept = store.tag("a@2", "t", when=when)
    assert kept is not None
    assert kept.number == 1  # nothing is refused that would not have been done
    with pytest.raises(ProtectedError):
        store.tag("a@2", "t", when=when)
    assert seen == [1, 1]


def test_a_check_costs_no_request(store: PolicyStore) -> None:
    counts: list[int] = []
    for protect in (False, True):
        if protect:
            store.protect("a", "t", ["ann"])
        backend = FaultyBackend(store._backend)
        counting = over(backend)
        counting.tag("a@2", "t")
        backend.follow(None)
        counting.tag("a@1", "t")
        counts.append(backend._count)
    assert counts[0] == counts[1]


def test_a_protection_that_comes_first_refuses_the_move(store: PolicyStore) -> None:
    """At each call of the backend, another writer protects the tag."""
    outcomes = set()
    for at in range(12):
        store.unprotect("a", "t", force=True) if at else None
        store.tag("a@1", "t", force=True)
        faulty = FaultyBackend(store._backend)
        plan = Plan(at, "another writer", lambda: store.protect("a", "t", ["bob"]) and None)
        faulty.follow(plan)
        try:
            over(faulty).tag("a@2", "t")
            outcome = "moved"
        except ProtectedError:
            outcome = "refused"
        if not plan.fired:
            break
        outcomes.add(outcome)
        move = newest(store)
        assert move.protected is not None, at
        assert (move.target == 2) == (outcome == "moved"), at
        assert store.verify().ok
    assert outcomes == {"moved", "refused"}


def test_a_move_beside_a_protection_is_not_lost(store: PolicyStore) -> None:
    for at in range(12):
        store.tag("a@1", "t", force=True)
        faulty = FaultyBackend(store._backend)
        plan = Plan(at, "another writer", lambda: store.tag("a@3", "t", force=True) and None)
        faulty.follow(plan)
        over(faulty).protect("a", "t", ["bob"])
        move = newest(store)
        if not plan.fired:
            break
        assert (move.target, move.protected is not None) == (3, True), at
        assert store.tags("a")["t"].number == 3
        store.unprotect("a", "t")
    assert at > 3


def test_a_tag_that_is_taken_back_stays_protected(store: PolicyStore) -> None:
    store.protect("a", "t", ["ann"])
    backend = Intercepted(store._backend)

    def create(key: str, data: bytes) -> bool:
        if "/@tags/" in key:
            backend.create = store._backend.create
            store.delete("a@2")
        return store._backend.create(key, data)

    backend.create = create
    with pytest.raises(NotFoundError, match=r"now points to a@1: .*deleted by ann"):
        over(backend).tag("a@2", "t")
    move = newest(store)
    assert (move.number, move.target) == (4, 1)
    assert move.protected is not None


def test_the_hint_names_the_record_of_a_protection(store: PolicyStore) -> None:
    store.protect("a", "t", ["ann"])
    hint = TagHint.from_bytes(store._backend.get("names/a/@tags/t/@hint"), "it")
    assert hint == TagHint(2, 1, store.resolve("a@1"))
    assert store._backend.size(tag_key("a", "t", 2)) is not None
    assert store.pull("a@t") == store.pull("a@1")
    assert store.version("a@t").tags == ("t",)


def test_a_move_prints_as_one_line() -> None:
    store = PolicyStore("memory://printed-moves")
    store.push(Snapshot(weights={}), "a")
    store.tag("a@1", "t", author="ann")
    store.protect("a", "t", by=["bob"], author="ann\n")
    store.untag("a", "t", author="bob")

    shown = [str(move) for move in store.tag_history("a", "t")]

    assert shown[0].startswith("t -> removed  20")
    assert "  bob" in shown[0]
    assert shown[1].endswith("only bob may move it without force=True)")
    assert "ann\\n" in shown[1]
    assert shown[2].startswith("t -> a@1  20")
    assert repr(store.tag_history("a", "t")[2]) == f"<TagMove {shown[2]}>"


def test_no_force_deletes_the_version_under_a_protected_tag(store: PolicyStore) -> None:
    store.protect("a", "t", by=["bob"])
    for delete in (
        lambda: store.delete("a@1", force=True),
        lambda: store.delete("a@t", author="dan", force=True),
        lambda: store.delete_name("a", force=True),
    ):
        with pytest.raises(ProtectedError, match="ann protected it at .*Nothing was del") as error:
            delete()
        assert "store.unprotect('a', 't')" in str(error.value)
    assert len(store.log("a")) == 3
    with pytest.raises(InvalidInputError, match="point to versions that would be deleted"):
        store.delete("a@1", author="bob")

    store.delete("a@2", force=True)  # no tag points to it
    store.delete("a@1", author="bob", force=True)  # who may move the tag
    store.delete_name("a", force=True)  # the tag points to a deleted version
    assert store.names() == []


def test_a_protection_that_ended_keeps_no_version(store: PolicyStore) -> None:
    store.protect("a", "t")
    store.unprotect("a", "t")
    store.delete("a@1", force=True)
    assert [each.number for each in store.log("a")] == [3, 2]


def test_a_prune_keeps_the_version_under_a_protected_tag(store: PolicyStore) -> None:
    store.tag("a@2", "free")
    store.protect("a", "t", by=["bob"])
    kept = {3: ("the newest", "of the last 1"), 1: ("protected tag 't'",)}

    planned = store.prune("a", keep_last=1, keep_tagged=False, dry_run=True)
    done = store.prune("a", keep_last=1, keep_tagged=False)

    assert planned.kept == done.kept == kept
    assert [each.number for each in store.log("a")] == [3, 1]
    assert store.prune("a", keep_last=1, keep_tagged=False, author="bob").pruned == [1]
