"""Shared lists: each episode once, whatever is lost, ended, deleted or done by others meanwhile."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from contextlib import suppress

import pytest

from policystore.backends.base import Backend
from policystore.errors import IntegrityError, StorageError
from policystore.format.league_keys import batch_key
from policystore.format.records.matches import Match
from policystore.repository.matches import shared_list
from policystore.repository.matches.epochs import current_epoch, delete_league
from policystore.repository.matches.ledger import Ledger
from policystore.repository.matches.reading import all_lists, read_parts
from policystore.repository.matches.resting import _end
from policystore.repository.matches.shared_list import SharedList, list_after, list_of
from policystore.repository.stamp import now
from tests.repository.matches.support import Flaky, empty_store, player

FIRST = list_of(["a tournament"])


def shared(backend: Backend) -> SharedList:
    return SharedList(backend, "soccer", FIRST, lambda: None)


def played(*seeds: int, blue: int = 1) -> Match:
    return Match(players={"blue": player(blue), "red": player(0)}, episodes=len(seeds), seeds=seeds)


def recorded(backend: Backend) -> Counter[tuple[str, int]]:
    """Count the episodes in the store, without summaries."""
    epoch = current_epoch(backend, "soccer")
    records = read_parts(backend, "soccer", epoch, all_lists(backend, "soccer", epoch))
    matches = [match for record in records for match in getattr(record, "matches", ())]
    assert Ledger(backend, "soccer").totals().episodes == sum(each.episodes for each in matches)
    return Counter((match.players["blue"], seed) for match in matches for seed in match.seeds)


def once(*seeds: int, blue: int = 1) -> Counter[tuple[str, int]]:
    return Counter((player(blue), seed) for seed in seeds)


def test_what_another_has_recorded_is_not_recorded_again() -> None:
    backend = empty_store()
    one, other = shared(backend), shared(backend)
    assert one.record([played(1, 2), played(3)], "ann") == ([played(1, 2), played(3)], [])
    done, found = other.record([played(3, 4), played(5), played(1, blue=2)], "bob")
    assert done == [played(5), played(1, blue=2)]  # the players differ, so it is another episode
    assert [match.seeds for match in found] == [(1, 2), (3,)]
    assert [match.seeds for match in one.refresh()] == [(5,), (1,)]
    assert one.refresh() == []
    assert recorded(backend) == once(1, 2, 3, 5) + once(1, blue=2)
    # All in one list, whose records continue each other.
    assert [(part.writer, part.last) for part in all_lists(backend, "soccer", 1)] == [(FIRST, 2)]


def test_matches_of_one_call_overlap() -> None:
    backend = empty_store()
    assert shared(backend).record([played(1, 2), played(2, 3)], "ann")[0] == [played(1, 2)]
    assert recorded(backend) == once(1, 2)


@pytest.mark.parametrize("fault", ["refused", "lost", "own"])
@pytest.mark.parametrize("between", ["nothing", "another", "end", "deleted"])
def test_a_second_try_records_once(fault: str, between: str) -> None:
    backend = empty_store()
    flaky = Flaky(backend)
    mine = shared(flaky)
    mine.record([played(1)], "ann")
    flaky.faults = [fault]
    done: list[Match] = []
    with suppress(StorageError):
        done, _ = mine.record([played(2), played(3)], "ann")
    assert done == ([played(2), played(3)] if fault == "own" else [])
    expected = once(1, 2, 3)
    if between == "another":
        shared(backend).record([played(3), played(4)], "bob")
        expected = once(1, 2, 3, 4)
    elif between == "end":
        assert _end(backend, "soccer", 1, FIRST, 1 if fault == "refused" else 2)
    elif between == "deleted":
        delete_league(backend, "soccer", time=now(), author="bob", message="")
        expected = once(2, 3)
    mine.record([played(2), played(3)], "ann")
    assert recorded(backend) == expected
    assert shared(backend).record([played(2), played(3)], "bob")[0] == []


def test_after_an_ended_list_comes_the_next_one() -> None:
    backend = empty_store()
    mine = shared(backend)
    for seed, writer in enumerate((FIRST, list_after(FIRST), list_after(list_after(FIRST)))):
        mine.record([played(seed)], "ann")
        assert _end(backend, "soccer", 1, writer, 1)
    assert {part.writer for part in all_lists(backend, "soccer", 1)} == {
        FIRST, list_after(FIRST), list_after(list_after(FIRST)),
    }  # fmt: skip
    late = shared(backend)
    assert [each.seeds for each in late.refresh()] == [(0,), (1,), (2,)]
    assert late.record([played(2), played(9)], "bob")[0] == [played(9)]
    assert recorded(backend) == once(0, 1, 2, 9)


def test_a_deletion_begins_anew() -> None:
    backend = empty_store()
    mine, other = shared(backend), shared(backend)
    mine.record([played(1)], "ann")
    other.refresh()
    delete_league(backend, "soccer", time=now(), author="bob", message="")
    assert mine.record([played(1)], "ann")[0] == [played(1)]
    assert other.record([played(1), played(2)], "bob")[0] == [played(2)]
    assert recorded(backend) == once(1, 2)


def test_a_deletion_while_a_record_is_created() -> None:
    backend = empty_store()

    class Deleting(Flaky):
        def create(self, key: str, data: bytes) -> bool:
            if self.faults:
                self.faults.pop()
                delete_league(backend, "soccer", time=now(), author="bob", message="")
            return super().create(key, data)

    deleting = Deleting(backend)
    mine = shared(deleting)
    mine.record([played(1)], "ann")
    deleting.faults = [""]
    assert mine.record([played(2)], "ann")[0] == [played(2)]
    assert recorded(backend) == once(2)


def test_more_than_one_record_holds() -> None:
    backend = empty_store()
    seeds = [tuple(range(2**62 + i * 30_000, 2**62 + (i + 1) * 30_000)) for i in range(3)]
    matches = [played(*each) for each in seeds]
    assert shared(backend).record(matches, "ann")[0] == matches
    assert recorded(backend) == once(*itertools.chain(*seeds))
    (part,) = all_lists(backend, "soccer", 1)
    assert part.last == 3


def test_a_lost_answer_before_records_of_others() -> None:
    """What others recorded behind a batch of this call is not recorded by its next batch."""
    backend = empty_store()

    class Answerless(Flaky):
        def create(self, key: str, data: bytes) -> bool:
            created = super().create(key, data)
            if created and not self.faults:
                self.faults = [""]
                shared(backend).record([big[1], played(9)], "bob")
                return False  # as the retry of a request whose answer was lost
            return created

    big = [played(*range(2**62 + i * 30_000, 2**62 + (i + 1) * 30_000)) for i in range(3)]
    mine = shared(Answerless(backend))
    done, others = mine.record(big, "ann")
    assert done == [big[0], big[2]]
    assert [match.seeds[0] for match in others] == [big[1].seeds[0], 9]
    assert set(recorded(backend).values()) == {1}


def test_who_never_gets_a_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = empty_store()
    monkeypatch.setattr(shared_list, "_MOST_REFUSALS", 4)
    monkeypatch.setattr(shared_list, "_PAUSE", 0.0)
    seeds = iter(range(100, 200))

    class Busy(Flaky):
        def create(self, key: str, data: bytes) -> bool:
            shared(backend).record([played(next(seeds))], "bob")
            return super().create(key, data)

    mine = shared(Busy(backend))
    with pytest.raises(StorageError, match=r"4 times in a row. Make the same call again"):
        mine.record([played(1)], "ann")
    assert next(seeds) == 104
    assert shared(backend).record([played(1)], "ann")[0] == [played(1)]


def test_a_server_that_refuses_a_key_that_is_not_there() -> None:
    class Refusing(Flaky):
        def create(self, key: str, data: bytes) -> bool:
            return False

    with pytest.raises(StorageError, match="does not find it"):
        shared(Refusing(empty_store())).record([played(1)], "ann")


def test_a_record_that_does_not_continue_the_one_before() -> None:
    backend = empty_store()
    mine = shared(backend)
    mine.record([played(1)], "ann")
    other = shared(empty_store())
    other.record([played(7)], "eve")
    other.record([played(8)], "eve")
    forged = other._backend.get(batch_key("soccer", 1, FIRST, 2))
    backend.create(batch_key("soccer", 1, FIRST, 2), bytes(forged))
    with pytest.raises(IntegrityError, match="does not continue"):
        mine.record([played(2)], "ann")


@pytest.mark.parametrize("start", range(20))
def test_random_writers(start: int) -> None:
    """Writers that overlap, lose answers, and find ended lists and deletions."""
    rng = random.Random(start)
    backend = empty_store()
    flaky = Flaky(backend)
    writers = [shared(flaky) for _ in range(3)]
    wanted: set[int] = set()
    for _ in range(40):
        first = rng.randrange(30)
        matches = [played(*range(first, first + rng.randrange(1, 4)))]
        flaky.faults = [rng.choice(["", "", "refused", "lost", "own"]) for _ in range(2)]
        with suppress(StorageError):
            rng.choice(writers).record(matches, "ann")
            wanted |= set(matches[0].seeds)
        flaky.faults = []
        if rng.random() < 0.1:
            for part in all_lists(backend, "soccer", current_epoch(backend, "soccer")):
                with suppress(StorageError):
                    _end(
                        backend, "soccer", current_epoch(backend, "soccer"), part.writer, part.last
                    )
        elif rng.random() < 0.05 and recorded(backend):
            delete_league(backend, "soccer", time=now(), author="bob", message="")
            wanted.clear()
        if rng.random() < 0.1:
            writers[rng.randrange(3)] = shared(flaky)
    found = recorded(backend)
    assert set(found.values()) <= {1}
    assert {seed for _, seed in found} <= set(range(40))
    shared(backend).record([played(seed) for seed in range(40)], "ann")
    assert recorded(backend) == once(*range(40))
