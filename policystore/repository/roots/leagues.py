"""Read the records of leagues, and find those that nothing needs any more.

No record of a league needs an object: the players of a league are no roots. Each record is read all
the same, because a record of a newer release may need some.

A record of a league is not needed if its epoch was deleted, or if it is the body of summaries that
newer ones have replaced. Such a record may be removed when it is as old as the grace, and when what
makes it unneeded is as old: the deletion, or the newer summary. So a reader that has begun before
finds it. Deletions and summaries stay: they are small, and their numbers have no gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from policystore.backends.base import Backend, Entry, Problems
from policystore.digest import Digest, digest_of
from policystore.format.keys import LEAGUES, MAX_RECORD, league_of_prefix
from policystore.format.league_keys import (
    LeagueKey,
    deletions_prefix,
    parse_league_key,
    summary_key,
)
from policystore.format.records.match_batch import MAX_BATCH, parse_list_record
from policystore.format.records.match_summary import MAX_BODY, LeagueDeletion, Summary
from policystore.format.records.sums import parse_body
from policystore.repository.roots.listed import UNKNOWN_KEY, nothing_collected
from policystore.repository.roots.records import RecordReader

__all__ = ["LeagueRecords"]

Tolerate = Callable[[Callable[[], Any]], list[Any]]


@dataclass
class _State:
    """What of a league is not needed.

    Attributes:
        dropped: this epoch and all before it were deleted long ago.
        bodies: the bodies that a summary needs; None if all are needed.
    """

    dropped: int = 0
    bodies: set[Digest] | None = field(default_factory=set)

    def needs(self, key: LeagueKey) -> bool:
        """Return whether a record of the league is needed."""
        if key.kind == "body":
            return self.bodies is None or key.digest in self.bodies
        return key.kind == "deleted" or key.epoch > self.dropped


class LeagueRecords:
    """The records of the leagues of a store.

    Args:
        backend: the storage of the store.
        records: reads the records.
        recent: the time at which the grace begins, by the clock of the storage.

    Attributes:
        unneeded: the records that nothing needs, and that are as old as the grace.
    """

    def __init__(self, backend: Backend, records: RecordReader, recent: float) -> None:
        self._backend = backend
        self._records = records
        self._recent = recent
        self.unneeded: list[Entry] = []

    def standing(
        self, tolerate: Tolerate, problems: Problems | None
    ) -> Iterator[tuple[str, LeagueKey]]:
        """Yield the records that stay, and note the others.

        Args:
            tolerate: calls a function that may raise FormatError; returns its result in a list.
            problems: gets the folders that cannot be listed; None to raise an error for them.
        """
        states: dict[str, _State] = {}
        for prefix in self._backend.prefixes(LEAGUES, "/@", problems=problems):
            league = league_of_prefix(prefix)
            if league is not None:
                for state in tolerate(lambda: self._find_state(league)):  # noqa: B023
                    states[league] = state
        for entry in self._backend.entries(LEAGUES, problems=problems):
            key = parse_league_key(entry.key)
            if key is None:
                tolerate(lambda: self._refuse(entry.key))  # noqa: B023
                continue
            # A league without a state has begun after the first listing.
            state = states.get(key.league)
            if state is None or state.needs(key) or not entry.is_old(self._recent):
                yield entry.key, key
            else:
                self.unneeded.append(entry)

    def _refuse(self, key: str) -> None:
        raise nothing_collected(self._backend, key, "an unknown key", UNKNOWN_KEY)

    def _listed(self, prefix: str) -> list[tuple[LeagueKey, Entry]]:
        """List the keys below a prefix in their order; those of an unknown form are left out."""
        entries = [(parse_league_key(entry.key), entry) for entry in self._backend.entries(prefix)]
        known = [(key, entry) for key, entry in entries if key is not None]
        return sorted(known, key=lambda item: item[1].key)

    def _find_state(self, league: str) -> _State:
        """Find out which epochs are deleted, and which bodies the summaries need."""
        state = _State()
        for key, entry in self._listed(deletions_prefix(league)):
            if entry.is_old(self._recent):
                state.dropped = max(state.dropped, key.number)
        start = deletions_prefix(league).removesuffix("@deleted/") + "@summaries/"
        summaries = [each for each in self._listed(start) if each[0].epoch > state.dropped]
        needed: set[Digest] = set()
        for index, (key, entry) in enumerate(summaries):
            following = summaries[index + 1 : index + 2]
            if any(each[0].epoch == key.epoch for each in following):
                if following[0][1].is_old(self._recent):
                    continue
            elif self._backend.size(summary_key(league, key.epoch, key.number + 1)) is not None:
                state.bodies = None  # a summary that came after the listing may need any body
                return state
            summary = self._records.load(entry.key, Summary.from_bytes, limit=MAX_RECORD)
            needed.update(body.digest for body in summary.bodies)
        state.bodies = needed
        return state

    def check(self, item: tuple[str, LeagueKey]) -> None:
        """Check that this release understands a record.

        Raises:
            FormatError: it does not, or the record belongs to another key.
        """
        text, key = item
        if key.kind == "matches":
            record = self._records.load(text, parse_list_record, limit=MAX_BATCH)
            actual: tuple[object, ...] = (
                record.league, record.epoch, record.writer, record.number,
            )  # fmt: skip
            expected: tuple[object, ...] = (key.league, key.epoch, key.writer, key.number)
        elif key.kind == "summary":
            summary = self._records.load(text, Summary.from_bytes, limit=MAX_RECORD)
            actual = summary.league, summary.epoch, summary.number
            expected = key.league, key.epoch, key.number
        elif key.kind == "deleted":
            deletion = self._records.load(text, LeagueDeletion.from_bytes, limit=MAX_RECORD)
            actual, expected = (deletion.league, deletion.epoch), (key.league, key.number)
        else:
            actual = (self._records.load(text, partial(_digest_of_body, key), limit=MAX_BODY),)
            expected = (key.digest,)
        self._records.check_place(text, actual, expected)


def _digest_of_body(key: LeagueKey, data: bytes | memoryview, label: str) -> Digest:
    """Check a body, and return the digest that its key should have."""
    parse_body(data, label, key.league, None)
    return digest_of(bytes(data))
