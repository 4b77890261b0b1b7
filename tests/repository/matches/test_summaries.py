"""Summaries: few requests, and never another number."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from policystore.backends.base import Backend
from policystore.errors import IntegrityError
from policystore.format.league_keys import batch_key, bodies_prefix, summaries_prefix
from policystore.format.records import match_summary
from policystore.format.records.sums import Tally, body_bytes, parse_body
from policystore.repository.matches import ledger as ledger_module
from policystore.repository.matches import resting
from policystore.repository.matches.ledger import Ledger
from policystore.repository.matches.reading import all_lists, read_parts
from policystore.repository.matches.totals import Totals
from tests.repository.matches.support import Counting, empty_store, write_list


def flat(backend: Backend) -> Tally:
    """Add up all batches, without summaries."""
    tally = Tally()
    for record in read_parts(backend, "soccer", 1, all_lists(backend, "soccer", 1)):
        tally.add_record(record)
    return tally


def fresh(backend: Backend, *, may_write: bool = False) -> tuple[Totals, Counter[str]]:
    """Return the totals that a new reader finds, and its requests."""
    counting = Counting(backend)
    totals = Ledger(counting, "soccer", may_write=may_write).totals()
    return totals, counting.requests


def test_a_summary_saves_reading_and_changes_no_number() -> None:
    backend = empty_store()
    for index in range(5):
        write_list(backend, 30, first=100 * index, ended=index < 3)
    before, first = fresh(backend, may_write=True)
    after, second = fresh(backend)
    assert before == after
    assert after.matchups == flat(backend).totals()
    assert after.batches == 150
    assert first["get"] > 150
    assert second == {"size": 3, "list": 2, "get": 2}  # two open lists, no deletion


def test_many_small_reads_keep_few_bodies() -> None:
    backend = empty_store()
    reader = Ledger(backend, "soccer")
    for index in range(60):
        write_list(backend, 9, first=10 * index, ended=True)
        assert reader.totals().batches == 9 * (index + 1)
    totals, requests = fresh(backend)
    assert totals == reader.totals()
    assert totals.matchups == flat(backend).totals()
    assert requests["get"] <= 1 + 4
    assert requests.total() <= 8


@pytest.mark.long
def test_the_requests_do_not_grow_with_the_matches() -> None:
    """The budget: 10 requests more after 10,000 batches than after 10, by the same writers."""
    counts = {}
    for batches in (10, 10_000):
        backend = empty_store()
        for index in range(2):
            write_list(backend, batches // 2, first=index * 100_000)
        expected, _ = fresh(backend, may_write=True)
        for spare in range(8):  # until the next reader writes a summary
            totals, requests = fresh(backend)
            counts[batches, spare] = requests.total()
            assert totals.batches == batches + spare
            write_list(backend, 1, writer=f"{spare:032x}", ended=True)
        assert expected.episodes == 100 * batches
    grown = [counts[10_000, spare] - counts[10, spare] for spare in range(8)]
    assert max(grown) <= 10, counts


@pytest.mark.long
def test_ended_lists_cost_a_page_for_a_thousand() -> None:
    backend = empty_store()
    for index in range(10_000):
        write_list(backend, 1, writer=f"{index:032x}", ended=True, first=index)
    expected, _ = fresh(backend, may_write=True)
    totals, requests = fresh(backend)
    assert totals == expected
    assert totals.batches == 10_000
    assert requests.total() <= 15, requests


def damaged(backend: Backend, prefix: str, how: str, count: int = 1) -> None:
    """Damage the newest keys below a prefix."""
    for key in sorted(backend.keys(prefix))[-count:]:
        data = bytes(backend.get(key))
        backend.delete(key)
        if how != "gone":
            backend.replace(key, b"" if how == "empty" else data[:-20] + b"x" * 20)


@pytest.mark.parametrize("how", ["gone", "empty", "changed"])
@pytest.mark.parametrize("count", [1, 99])
def test_a_damaged_summary_changes_no_number(how: str, count: int) -> None:
    for prefix in (summaries_prefix("soccer", 1), bodies_prefix("soccer")):
        backend = empty_store()
        reader = Ledger(backend, "soccer")
        for index in range(20):
            write_list(backend, 9, first=10 * index, ended=index % 2 > 0)
            reader.totals()
        expected = flat(backend).totals()
        damaged(backend, prefix, how, count)
        assert fresh(backend)[0].matchups == expected
        write_list(backend, 9, first=1000)
        expected = flat(backend).totals()
        assert reader.totals().matchups == expected  # and tries to write the next summary
        assert fresh(backend, may_write=True)[0].matchups == expected
        totals, requests = fresh(backend)
        assert totals.matchups == expected
        assert requests["get"] < 20 or (how, count) == ("gone", 1), "a new summary is whole again"


def test_a_lost_batch_is_an_error_that_names_it() -> None:
    backend = empty_store()
    writer = write_list(backend, 5)
    backend.delete(batch_key("soccer", 1, writer, 3))
    with pytest.raises(IntegrityError, match=r"0000000003\.json is missing"):
        fresh(backend)
    backend = empty_store()
    writer = write_list(backend, 5)
    other = write_list(backend, 5, first=50)
    key = batch_key("soccer", 1, writer, 3)
    moved = bytes(backend.get(batch_key("soccer", 1, other, 3))).replace(
        other.encode(), writer.encode()
    )
    backend.replace(key, moved)
    with pytest.raises(IntegrityError, match="does not continue record 2"):
        fresh(backend)


def test_two_who_write_the_same_summary_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MAX_NEW", 20)
    backend = empty_store()
    one, other = Ledger(backend, "soccer"), Ledger(backend, "soccer")
    for index in range(30):
        write_list(backend, 5, first=10 * index)
        first, second = (one, other) if index % 3 else (other, one)
        assert first.totals() == second.totals()
    assert one.totals().matchups == flat(backend).totals() == fresh(backend)[0].matchups
    assert sum(1 for _ in backend.keys(summaries_prefix("soccer", 1))) > 5


def test_lists_that_rested_for_a_day_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = empty_store()
    clock = [1e9]
    backend._space.clock = lambda: clock[0]
    resting_one = write_list(backend, 9)  # its own clock says 1970
    Ledger(backend, "soccer").totals()
    clock[0] += resting.REST.total_seconds() - 1
    write_list(backend, 9, first=20)
    Ledger(backend, "soccer").totals()
    assert backend.size(batch_key("soccer", 1, resting_one, 10)) is None
    clock[0] += 2
    write_list(backend, 9, first=40)
    expected = Ledger(backend, "soccer").totals()
    assert backend.size(batch_key("soccer", 1, resting_one, 10)) is not None
    totals, requests = fresh(backend)
    assert totals == expected
    assert requests["size"] == 1 + 3  # the list that was ended is found so, once


def test_a_body_that_is_too_long_is_cut() -> None:
    backend = empty_store()
    write_list(backend, 80)
    tally = flat(backend)
    bodies = body_bytes(tally, "soccer", 1, limit=4_000)
    assert len(bodies) > 2
    assert max(map(len, bodies)) <= 4_000
    merged = Tally()
    for data in bodies:
        merged.merge(parse_body(data, "body", "soccer", 1))
    assert replace(merged, lists={}) == replace(tally, lists={})
    assert match_summary.MAX_BODY == 16 << 20
