"""Records of leagues and the collector: it reads them, removes deleted epochs, and keeps no player."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from policystore import FormatError
from policystore.format.keys import OBJECTS, object_key
from policystore.format.league_keys import batch_key, deletion_key, summary_key
from policystore.league import League
from tests.support.collecting import TimedStore, policy, write_mark
from tests.support.league_store import LEAGUE, WRITERS, delete_epoch, records, write_lists


def league_keys(timed: TimedStore) -> set[str]:
    return set(timed.backend.keys("leagues/"))


@pytest.fixture
def timed() -> TimedStore:
    """Return a store with garbage and a league."""
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    timed.store.push(policy(2), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    write_lists(timed.backend)
    timed.wait(100)
    return timed


def test_leagues_do_not_stop_the_collector(timed: TimedStore) -> None:
    before = league_keys(timed)
    report = timed.collect()
    assert (report.moved.count, report.leagues.count) == (1, 0)
    assert league_keys(timed) == before


def test_a_league_keeps_no_player() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    timed.store.push(policy(2), "a")
    players = {"red": str(version.digest), "blue": "a@2"}
    League(timed.store, "soccer").record([{"players": players, "episodes": 1, "wins": {"red": 1}}])
    timed.store.delete("a@1")
    timed.wait(100)
    assert timed.collect().moved.count == 1
    assert timed.backend.size(object_key(version.digest)) is None
    assert League(timed.store, "soccer").totals().matches == 1
    assert timed.store.verify().ok


def change(key: str) -> Callable[[TimedStore], str]:
    def damage(timed: TimedStore) -> str:
        data = bytes(timed.backend.get(key))
        timed.backend.replace(key, data.replace(b'"nonce"', b'"nonse"'))
        return key

    return damage


def newer(key: str) -> Callable[[TimedStore], str]:
    def write(timed: TimedStore) -> str:
        data = bytes(timed.backend.get(key))
        timed.backend.replace(key, data.replace(b'"format":1', b'"format":2'))
        return key

    return write


def moved(source: str, target: str) -> Callable[[TimedStore], str]:
    def move(timed: TimedStore) -> str:
        timed.backend.copy(source, target)
        return target

    return move


def added(key: str, data: bytes = b"{}") -> Callable[[TimedStore], str]:
    def add(timed: TimedStore) -> str:
        timed.backend.replace(key, data)
        return key

    return add


def too_long(timed: TimedStore) -> str:
    key = batch_key(LEAGUE, 1, WRITERS[1], 3)
    timed.backend.replace(key, b"x" * (3 << 20))
    return key


BATCH = batch_key(LEAGUE, 1, WRITERS[1], 2)
FAULTS = {
    "damaged batch": change(BATCH),
    "batch of a newer format": newer(BATCH),
    "too long": too_long,
    "batch of another list": moved(BATCH, batch_key(LEAGUE, 1, WRITERS[2], 2)),
    "batch of another league": moved(BATCH, batch_key("chess", 1, WRITERS[1], 2)),
    "summary": added(summary_key(LEAGUE, 1, 1)),
    "deletion": added(deletion_key(LEAGUE, 1)),
    "body": added("leagues/soccer/@bodies/" + "0" * 64 + ".json"),
    "a kind of key of a newer release": added("leagues/soccer/@seasons/0000000001.json"),
    "a file": added("leagues/x"),
    "a league whose name cannot be": added("leagues/con/@deleted/0000000001.json"),
    "epoch 0": added(f"leagues/soccer/@matches/{0:010}/{WRITERS[0]}/0000000001.json"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_the_collector_does_not_understand_stops_it(
    timed: TimedStore, fault: Callable[[TimedStore], str], dry_run: bool
) -> None:
    key = fault(timed)
    before = timed.everything()
    with pytest.raises(FormatError, match="nothing was collected") as caught:
        timed.collect(dry_run=dry_run)
    assert key in str(caught.value)
    assert timed.everything() == before


def test_a_deleted_league_is_removed_when_its_deletion_is_as_old_as_the_grace(
    timed: TimedStore,
) -> None:
    write_lists(timed.backend, (1, 1), league="chess")
    old = league_keys(timed)
    deletion = delete_epoch(timed.backend)
    timed.wait(1)
    new = write_lists(timed.backend, (1,), epoch=2)
    timed.wait(5)
    assert timed.collect().leagues.count == 0
    assert league_keys(timed) == old | {deletion, *new}
    timed.wait(2)
    would = timed.collect(dry_run=True)
    assert league_keys(timed) == old | {deletion, *new}
    report = timed.collect()
    assert would.leagues == report.leagues
    chess = {key for key in old if "/chess/" in key}
    assert len(chess) == 3
    assert report.leagues.count == len(old - chess)
    assert league_keys(timed) == chess | {deletion, *new}
    assert "records of leagues were deleted" in str(report)
    assert timed.collect().leagues.count == 0
    assert timed.store.verify().ok
    assert League(timed.store, LEAGUE).totals().matches == 2


def test_a_record_that_comes_late_into_a_deleted_epoch_waits_for_its_own_grace(
    timed: TimedStore,
) -> None:
    delete_epoch(timed.backend)
    timed.wait(6)
    late = list(records(WRITERS[2], 1))
    timed.backend.replace(*late[0])
    timed.wait(2)
    timed.collect()
    assert late[0][0] in league_keys(timed)
    timed.wait(6)
    timed.collect()
    assert league_keys(timed) == {deletion_key(LEAGUE, 1)}


def test_a_damaged_record_of_an_epoch_that_is_to_be_removed_does_not_matter(
    timed: TimedStore,
) -> None:
    change(BATCH)(timed)
    delete_epoch(timed.backend)
    with pytest.raises(FormatError, match="nothing was collected"):
        timed.collect()
    timed.wait(8)
    timed.collect()
    assert league_keys(timed) == {deletion_key(LEAGUE, 1)}


def test_a_collection_of_a_removal_that_was_cut_off_does_the_rest(timed: TimedStore) -> None:
    delete_epoch(timed.backend)
    timed.wait(8)
    timed.backend.delete(batch_key(LEAGUE, 1, WRITERS[0], 1))
    timed.collect()
    assert league_keys(timed) == {deletion_key(LEAGUE, 1)}
    assert timed.store.verify().ok


def test_with_exclusive_and_no_grace_a_deleted_league_goes_at_once(timed: TimedStore) -> None:
    League(timed.store, LEAGUE).delete()
    timed.collect(grace=datetime.timedelta(0), exclusive=True)
    assert league_keys(timed) == {deletion_key(LEAGUE, 1)}


def test_bodies_that_a_newer_summary_has_replaced_are_removed_after_the_grace() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    old_keys = list(records(WRITERS[0], 30))
    for key, data in old_keys[:9]:
        timed.backend.replace(key, data)
    League(timed.store, LEAGUE).totals()  # writes a summary of 9 batches
    first = bodies(timed)
    assert len(first) == 1
    timed.wait(20)
    for key, data in old_keys[9:20]:
        timed.backend.replace(key, data)
    numbers = League(timed.store, LEAGUE).totals()  # a summary of 20 batches, in one new body
    both = bodies(timed)
    assert len(both) == 2
    timed.wait(6)
    assert timed.collect().leagues.count == 0  # somebody may have begun to read before
    assert bodies(timed) == both
    timed.wait(2)
    assert timed.collect().leagues.count == 1
    assert bodies(timed) == both - first
    assert timed.backend.size(summary_key(LEAGUE, 1, 1)) is not None
    assert timed.store.verify().ok
    assert League(timed.store, LEAGUE).totals().matchups == numbers.matchups


def test_a_body_that_is_written_again_during_the_collection_stays() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    for key, data in records(WRITERS[0], 9):
        timed.backend.replace(key, data)
    League(timed.store, LEAGUE).totals()
    (body,) = bodies(timed)
    data = bytes(timed.backend.get(body))
    timed.backend.delete(summary_key(LEAGUE, 1, 1))  # its writer was killed before the summary
    timed.wait(100)
    assert timed.collect(dry_run=True).leagues.count == 1
    prefixes = timed.backend.prefixes

    def write_again(prefix: str, *args: Any, **options: Any) -> Any:
        if prefix == OBJECTS:  # the collector has read all records
            timed.wait(0.001)
            timed.backend.replace(body, data)
        return prefixes(prefix, *args, **options)

    timed.backend.prefixes = write_again  # type: ignore[method-assign]
    assert timed.collect().leagues.count == 0
    assert bodies(timed) == {body}


def bodies(timed: TimedStore) -> set[str]:
    return {key for key in league_keys(timed) if "/@bodies/" in key}
