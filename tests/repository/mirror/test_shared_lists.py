"""Shared lists in copies of stores: matches of both sides are joined, each episode once."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from policystore import PolicyStore
from policystore.errors import FormatError
from policystore.format.league_keys import batch_key
from policystore.league import League
from policystore.repository.matches.reading import all_lists
from policystore.repository.matches.resting import _end
from policystore.repository.matches.shared_list import SharedList, list_after, list_of
from tests.repository.matches.test_shared_list import played
from tests.repository.mirror.test_leagues import new_store
from tests.support.mirrors import Watched, backend_of, content, faults, over

FIRST = list_of(["a tournament"])
NEXT = list_after(FIRST)


def add(store: PolicyStore, *seeds: int) -> None:
    """Record one match for each seed."""
    store._writer.prepare()
    SharedList(backend_of(store), "soccer", FIRST, lambda: None).record(
        [played(seed) for seed in seeds], "ann"
    )


def end(store: PolicyStore, writer: str = FIRST) -> None:
    (last,) = [
        part.last for part in all_lists(backend_of(store), "soccer", 1) if part.writer == writer
    ]
    assert _end(backend_of(store), "soccer", 1, writer, last)


def seeds(store: PolicyStore) -> Counter[int]:
    found = Counter(seed for match in League(store, "soccer").matches() for seed in match.seeds)
    assert League(store, "soccer").totals().episodes == sum(found.values())
    return found


def test_equal_lists_are_copied_byte_by_byte() -> None:
    ours, theirs = new_store(), new_store()
    add(ours, 1, 2)
    assert ours.copy_to(theirs).leagues == 1
    end(ours)
    add(ours, 3)
    assert ours.copy_to(theirs).leagues == 2
    assert content(theirs, "leagues/") == content(ours, "leagues/")


@pytest.mark.parametrize("ends", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("summary", [False, True])
def test_lists_that_go_on_differently_are_joined(ends: tuple[bool, bool], summary: bool) -> None:
    ours, theirs = new_store(), new_store()
    add(ours, 1)
    ours.copy_to(theirs)
    for each, is_ended, more in ((ours, ends[0], (2, 3)), (theirs, ends[1], (3, 4))):
        if is_ended:
            end(each)
        add(each, *more)
        if summary:
            for seed in range(20 * more[1], 20 * more[1] + 12):
                add(each, seed)
            assert League(each, "soccer").totals().episodes == 15
    report = ours.copy_to(theirs)
    assert report.complete
    assert report.leagues > 0
    assert theirs.copy_to(ours).complete
    assert seeds(theirs) == seeds(ours)
    assert set(seeds(ours).values()) == {1}
    assert set(seeds(ours)) >= {1, 2, 3, 4}
    for source, target in ((ours, theirs), (theirs, ours)):
        watched = Watched(backend_of(target))
        assert not source.copy_to(over(watched)).changed
        assert watched.writes == []
    assert faults(theirs) == faults(ours) == []


def test_both_sides_begin_alone() -> None:
    ours, theirs = new_store(), new_store()
    add(ours, 1)
    add(theirs, 2)  # the records have the same length
    assert ours.copy_to(theirs, dry_run=True).leagues == 1
    assert set(seeds(theirs)) == {2}
    assert ours.copy_to(theirs).leagues == 1
    assert seeds(theirs) == Counter([1, 2])


def test_what_overlaps_in_part_is_told() -> None:
    ours, theirs = new_store(), new_store()
    for store, match in ((ours, played(1, 2)), (theirs, played(2, 3))):
        store._writer.prepare()
        SharedList(backend_of(store), "soccer", FIRST, lambda: None).record([match], "ann")
    report = ours.copy_to(theirs)
    assert any("lacks others: 1" in line for line in report.conflicts)
    assert seeds(theirs) == Counter([2, 3])


def test_a_damaged_list_stays_and_is_told() -> None:
    ours, theirs = new_store(), new_store()
    add(ours, 1)
    ours.copy_to(theirs)
    key = batch_key("soccer", 1, FIRST, 1)
    backend_of(theirs).replace(key, b"theirs")
    add(ours, 2)
    report = ours.copy_to(theirs)
    assert any(key in line for line in report.conflicts)
    assert content(theirs, "leagues/")[key] == b"theirs"


def test_lists_that_readers_of_both_stores_have_ended_are_the_same() -> None:
    ours, theirs = new_store(), new_store()
    add(ours, 1, 2)
    ours.copy_to(theirs)
    for store in (ours, theirs):
        end(store)
    for seed in range(3, 16):
        add(ours, seed)
    assert League(ours, "soccer").totals().episodes == 15  # writes a summary
    assert ours.copy_to(theirs).complete
    # Byte by byte, summaries included; lists that were joined have records of their own.
    kept = content(theirs, "leagues/")
    last = batch_key("soccer", 1, FIRST, 2)
    assert {key: data for key, data in content(ours, "leagues/").items() if key != last} == {
        key: data for key, data in kept.items() if key != last
    }


def test_damage_in_the_source_is_no_conflict_of_the_target() -> None:
    ours, theirs = new_store(), new_store()
    add(ours, 1)
    ours.copy_to(theirs)
    add(theirs, 7)
    add(ours, 2)
    add(ours, 3)
    key = batch_key("soccer", 1, FIRST, 3)
    backend_of(ours).replace(key, b"cut")
    with pytest.raises(FormatError, match=key):
        ours.copy_to(theirs)
    assert seeds(theirs) == Counter([1, 7, 2])
