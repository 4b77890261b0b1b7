"""Read the batches of a league, the newest first, and open no list that holds older ones only."""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.format.league_keys import parse_league_key, writers_prefix
from policystore.format.records.match_batch import MatchBatch
from policystore.repository.matches.reading import ListPart, read_parts

__all__ = ["SKEW", "newest_batches"]

SKEW = 300.0
"""Seconds by which the clock of a writer may be ahead of the clock of the storage: batches of a
writer that is further ahead may come later than their time says."""

_BLOCK = 8  # records of one list that are read at once
_SINGLE = 2  # records that are read one by one first: many lists are one batch and their end


class _Stored(NamedTuple):
    """A list, and when its newest record was stored, in seconds by the clock of the storage."""

    time: float
    part: ListPart


class _Open:
    """A list that is being read, at one of its batches. The newest batch is the smallest."""

    def __init__(self, batch: MatchBatch, older: Iterator[MatchBatch]) -> None:
        self.batch, self.older = batch, older
        self._order = (batch.time, batch.writer, batch.number)

    def __lt__(self, other: _Open) -> bool:
        return self._order > other._order


def newest_batches(
    backend: Backend, league: str, epoch: int, since: datetime.datetime | None = None
) -> Iterator[MatchBatch]:
    """Yield the batches of an epoch of a league, newest first by the clocks of their writers.

    A call costs one listing of all keys. A list is opened when one of its batches may be the next:
    no batch was made after it was stored, but for :data:`SKEW`.

    Args:
        backend: the storage.
        league: the league.
        epoch: the epoch.
        since: lists that were not written at this time or later are left out.

    Raises:
        IntegrityError, FormatError: a record is damaged or missing.
        StorageError: the storage failed.
    """
    start = None if since is None else since.timestamp() - SKEW
    waiting = [
        each for each in _lists(backend, league, epoch) if start is None or each.time > start
    ]
    waiting.sort()
    begin = partial(_begin, backend, league, epoch)
    heap: list[_Open] = []
    while waiting or heap:
        while waiting and (not heap or heap[0].batch.time.timestamp() < waiting[-1].time + SKEW):
            some = waiting[-backend.parallel :]
            del waiting[-backend.parallel :]
            parts = [each.part for each in some]
            for opened in in_parallel(begin, parts, workers=backend.parallel):
                if opened is not None:
                    heapq.heappush(heap, opened)
        if not heap:
            return
        first = heapq.heappop(heap)
        yield first.batch
        following = next(first.older, None)
        if following is not None:
            heapq.heappush(heap, _Open(following, first.older))


def _lists(backend: Backend, league: str, epoch: int) -> list[_Stored]:
    newest: dict[str, _Stored] = {}
    for entry in backend.entries(writers_prefix(league, epoch)):
        parsed = parse_league_key(entry.key)
        if parsed is None:
            continue  # verify() reports it
        known = newest.get(parsed.writer)
        if known is None or known.part.last < parsed.number:
            time = float("inf") if entry.time is None else entry.time
            newest[parsed.writer] = _Stored(time, ListPart(parsed.writer, 1, parsed.number))
    return list(newest.values())


def _begin(backend: Backend, league: str, epoch: int, part: ListPart) -> _Open | None:
    """Read a list up to its newest batch; None if the list has no batch."""
    older = _newest_first(backend, league, epoch, part)
    batch = next(older, None)
    return None if batch is None else _Open(batch, older)


def _newest_first(
    backend: Backend, league: str, epoch: int, part: ListPart
) -> Iterator[MatchBatch]:
    last = part.last
    while last > 0:
        count = 1 if part.last - last < _SINGLE else _BLOCK
        block = ListPart(part.writer, max(1, last - count + 1), last)
        records = list(read_parts(backend, league, epoch, [block]))
        yield from (each for each in reversed(records) if isinstance(each, MatchBatch))
        last = block.first - 1
