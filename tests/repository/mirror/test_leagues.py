"""Leagues in copies of stores: the same numbers on both sides, in every state of the copy."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from policystore import IntegrityError, PolicyStore
from policystore.format.keys import league_prefix
from policystore.format.league_keys import batch_key, deletion_key
from policystore.league import League
from policystore.testing import make_snapshot
from tests.support.league_store import LEAGUE, WRITERS, delete_epoch, records, write_lists
from tests.support.mirrors import Killed, Watched, backend_of, content, faults, over


def new_store() -> PolicyStore:
    return PolicyStore(f"memory://{uuid.uuid4().hex}", cache=False)


@pytest.fixture
def ours() -> PolicyStore:
    store = new_store()
    store.push(make_snapshot(1), "a")
    write_lists(backend_of(store))
    write_lists(backend_of(store), (1, 4), league="chess/Blitz")
    return store


def numbers(store: PolicyStore, league: str = LEAGUE) -> Any:
    totals = League(store, league).totals()
    return totals.matchups, totals.unknown, totals.refs


def test_a_copy_has_the_same_leagues_and_a_second_one_adds_nothing(ours: PolicyStore) -> None:
    theirs = new_store()
    report = ours.copy_to(theirs)
    assert report.leagues == 12
    assert report.complete
    assert content(theirs) == content(ours)
    for league in (LEAGUE, "chess/Blitz"):
        assert numbers(theirs, league) == numbers(ours, league)
    assert faults(theirs) == []
    watched = Watched(backend_of(theirs))
    assert not ours.copy_to(over(watched)).changed
    assert watched.writes == []


def test_a_dry_run_says_what_a_copy_would_write(ours: PolicyStore) -> None:
    theirs = new_store()
    assert ours.copy_to(theirs, dry_run=True).leagues == 12
    assert not content(theirs, "leagues/")


def test_a_league_that_goes_on(ours: PolicyStore) -> None:
    theirs = new_store()
    ours.copy_to(theirs)
    for key, data in list(records(WRITERS[1], 6))[2:]:
        backend_of(ours).replace(key, data)
    League(ours, LEAGUE).record([{"players": {"a": "heuristic:x"}, "episodes": 2}])
    assert ours.copy_to(theirs).leagues == 5
    assert numbers(theirs) == numbers(ours)


def test_matches_of_both_sides_are_joined(ours: PolicyStore) -> None:
    """Each writer has a list of its own, so a league may go on in two stores."""
    theirs = new_store()
    ours.copy_to(theirs)
    for store, player in ((ours, "x"), (theirs, "y")):
        League(store, LEAGUE).record([{"players": {"a": f"heuristic:{player}"}, "episodes": 2}])
    assert ours.copy_to(theirs).complete
    assert theirs.copy_to(ours).complete
    assert numbers(theirs) == numbers(ours)
    assert League(ours, LEAGUE).totals().matches == 12


def test_a_list_that_goes_on_differently_in_the_target_stays(ours: PolicyStore) -> None:
    theirs = new_store()
    ours.copy_to(theirs)
    before = content(theirs)
    key = batch_key(LEAGUE, 1, WRITERS[1], 3)
    backend_of(theirs).replace(key, b"theirs")
    for each, data in list(records(WRITERS[1], 5))[2:]:
        backend_of(ours).replace(each, data)
    report = ours.copy_to(theirs)
    assert report.leagues == 0
    assert not report.complete
    assert [line for line in report.conflicts if key in line]
    assert content(theirs) == {**before, key: b"theirs"}
    # The other list has only the record that differs, and nothing new.
    for number in (4, 5):
        backend_of(ours).delete(batch_key(LEAGUE, 1, WRITERS[1], number))
    assert not ours.copy_to(theirs).complete


def test_a_deleted_league_is_deleted_in_the_copy_before_anything_else(ours: PolicyStore) -> None:
    theirs = new_store()
    ours.copy_to(theirs)
    delete_epoch(backend_of(ours))
    new = write_lists(backend_of(ours), (1,), epoch=2)
    watched = Watched(backend_of(theirs))
    ours.copy_to(over(watched))
    assert watched.writes == [deletion_key(LEAGUE, 1), *new]
    assert numbers(theirs) == numbers(ours)
    empty = new_store()
    ours.copy_to(empty)
    start = league_prefix(LEAGUE)
    assert set(content(empty, start)) == {deletion_key(LEAGUE, 1), *new}


def test_a_league_that_only_the_target_has_deleted_is_a_conflict(ours: PolicyStore) -> None:
    theirs = new_store()
    ours.copy_to(theirs)
    delete_epoch(backend_of(theirs))
    League(ours, LEAGUE).record([{"players": {"a": "heuristic:x"}, "episodes": 2}])
    report = ours.copy_to(theirs)
    assert report.leagues == 0
    assert "the target has deleted this league" in str(report)
    assert League(theirs, LEAGUE).totals().matches == 0


def test_a_copy_that_is_cut_off_anywhere_is_completed(ours: PolicyStore) -> None:
    League(ours, LEAGUE).delete()
    write_lists(backend_of(ours), (3, 2), epoch=2)
    whole = new_store()
    ours.copy_to(whole)
    for limit in range(1, 100):
        theirs = new_store()

        def end(number: int, key: str, limit: int = limit) -> None:
            if number == limit:
                raise Killed

        try:
            ours.copy_to(over(Watched(backend_of(theirs), end)))
        except Killed:
            if backend_of(theirs).size("policystore.json") is not None:
                assert faults(theirs) == []
        else:
            break
        ours.copy_to(theirs)
        assert content(theirs) == content(whole)
        assert faults(theirs) == []
    assert limit > 12


def test_summaries_come_last_with_the_bodies_of_the_newest_one(ours: PolicyStore) -> None:
    lists = list(records(WRITERS[2], 30))
    for count in (9, 20, 30):
        for key, data in lists[:count]:
            backend_of(ours).replace(key, data)
        League(ours, LEAGUE).totals()
    start = league_prefix(LEAGUE) + "/"
    mine = content(ours, start)
    kinds = [sum(f"/@{kind}/" in key for key in mine) for kind in ("summaries", "bodies")]
    assert kinds == [3, 3]
    theirs = new_store()
    watched = Watched(backend_of(theirs))
    ours.copy_to(over(watched))
    order = [key.split("/")[2] for key in watched.writes if key.startswith(start)]
    assert order == ["@matches"] * 36 + ["@bodies"] + ["@summaries"] * 3
    assert numbers(theirs) == numbers(ours)
    assert faults(theirs) == []
    assert not ours.copy_to(theirs).changed
    backend_of(ours).delete(
        next(key for key in mine if "/@bodies/" in key and key in watched.writes)
    )
    with pytest.raises(IntegrityError, match="all matches were"):
        ours.copy_to(fresh := new_store())
    assert numbers(fresh) == numbers(theirs)


def test_summaries_of_both_sides_stay_apart(ours: PolicyStore) -> None:
    theirs = new_store()
    ours.copy_to(theirs)
    for store, writer in ((ours, WRITERS[2]), (theirs, "d" * 32)):
        for key, data in records(writer, 9):
            backend_of(store).replace(key, data)
        League(store, LEAGUE).totals()
    assert ours.copy_to(theirs).complete
    assert theirs.copy_to(ours).complete
    assert numbers(theirs) == numbers(ours)
    assert League(ours, LEAGUE).totals().matches == 46
    assert faults(theirs) == faults(ours) == []


def test_a_list_that_readers_of_both_stores_have_ended(ours: PolicyStore) -> None:
    theirs = new_store()
    ours.copy_to(theirs)
    *_, (key, data) = records(WRITERS[1], 2, end=True)
    backend_of(ours).replace(key, data)
    backend_of(theirs).replace(key, data.replace(b'"author":"ann"', b'"author":"bobby"'))
    assert ours.copy_to(theirs).complete
    assert b"bobby" in content(theirs)[key]
