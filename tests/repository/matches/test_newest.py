"""Matches, the newest first: the order, and how many lists are read for a few of them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from policystore.backends.base import Entry
from policystore.format.league_keys import parse_league_key
from policystore.repository.matches.ledger import Ledger
from tests.repository.matches.support import Counting, empty_store, write_list

HOUR = 3600


class Stored(Counting):
    """Tell when each key was stored: ``late`` seconds after its writer made it."""

    parallel = 4
    late = 1.0

    def entries(self, prefix: str, **options: Any) -> Iterator[Entry]:
        self.requests["list"] += 1
        for entry in self.inner.entries(prefix, **options):
            parsed = parse_league_key(entry.key)
            assert parsed is not None
            time = int(parsed.writer[-8:]) * 10 * HOUR + parsed.number + self.late
            yield replace(entry, time=time)


def stored(lists: int, batches: int = 1) -> Stored:
    """Return lists of batches, each ten hours after the one before, in the order of their ids."""
    backend = empty_store()
    for index in range(lists):
        write_list(backend, batches, writer=f"{index:032d}", ended=True, first=index * 10 * HOUR)
    return Stored(backend)


def test_a_few_matches_cost_a_few_lists() -> None:
    backend = stored(100)
    found = list(Ledger(backend, "soccer").matches(limit=3))
    assert [int(match.writer) for match in found] == [99, 98, 97]
    assert backend.requests["list"] == 1
    assert backend.requests["get"] <= 16  # the ends and the batches of two times four lists


@pytest.mark.parametrize("late", [-200.0, 0.0, 1e9, float("inf")])
def test_the_order_does_not_depend_on_when_lists_were_stored(late: float) -> None:
    """Such as in a mirror, where all lists were stored later, or with clocks that differ."""
    backend = stored(12, batches=11)
    backend.late = late
    found = list(Ledger(backend, "soccer").matches())
    assert len(found) == 12 * 11
    assert [match.time for match in found] == sorted((m.time for m in found), reverse=True)


def test_lists_that_were_stored_before_are_not_read() -> None:
    backend = stored(50, batches=3)
    since = datetime.datetime.fromtimestamp(48 * 10 * HOUR, datetime.timezone.utc)
    found = list(Ledger(backend, "soccer").matches(since=since))
    assert [int(match.writer) for match in found] == [49] * 3 + [48] * 3
    assert backend.requests["get"] == 2 * 4
