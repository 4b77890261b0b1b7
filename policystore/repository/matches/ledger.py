"""Read the ledger of one league: its totals and its matches."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from policystore.backends.base import Backend
from policystore.errors import FormatError, IntegrityError, NotFoundError, PolicyStoreError
from policystore.format.records.fields import format_time
from policystore.format.records.matches import Match
from policystore.format.records.sums.tally import Tally
from policystore.repository.matches.epochs import current_epoch
from policystore.repository.matches.forks import RenewedAfterFork
from policystore.repository.matches.newest import newest_batches
from policystore.repository.matches.reading import ListPart, all_lists, new_parts, read_parts
from policystore.repository.matches.resting import end_rested_lists
from policystore.repository.matches.summaries import Base, newest_base, write_summary
from policystore.repository.matches.totals import Totals

__all__ = ["MAX_NEW", "MIN_NEW", "Ledger"]

MIN_NEW = 8
"""A reader that has read so many new batches writes a summary, for the readers after it."""

MAX_NEW = 256
"""A process that records writes a summary after so many batches, and a reader whose summary others
have overtaken, or which could not write one, waits for so many."""


@dataclass
class _Known:
    """What a ledger has read.

    Attributes:
        base: the newest summary; None if others have written newer ones.
        tally: the sums of all records that were read.
        since: the sums of the records that the bodies of ``base`` do not cover.
        wait: how many batches ``since`` has before a summary is written.
    """

    base: Base | None
    tally: Tally
    since: Tally
    wait: int = MIN_NEW


class Ledger(RenewedAfterFork):
    """Read one league. Several threads may use one ledger.

    A ledger remembers the sums of what it has read, so that it reads each record once.

    Args:
        backend: the storage.
        league: the name of the league.
        may_write: whether the ledger may write summaries.
    """

    def __init__(self, backend: Backend, league: str, *, may_write: bool = True) -> None:
        self._backend, self._league = backend, league
        self._may_write = may_write
        self._epoch = 1
        super().__init__()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._known: _Known | None = None
        self._totals: Totals | None = None

    def totals(self) -> Totals:
        """Return the sums of all matches that were recorded before the call.

        A match that is recorded during the call may or may not be in them.

        Raises:
            IntegrityError, FormatError: a record is damaged or missing.
            StorageError: the storage failed.
        """
        with self._lock:
            tally = self._catch_up()
            if self._totals is None:
                self._totals = Totals(
                    league=self._league,
                    matchups=tally.totals(),
                    unknown=dict(sorted(tally.unknown.items())),
                    refs={player: ref for player, (_, ref) in sorted(tally.refs.items())},
                    writers=len(tally.lists),
                    batches=tally.batches,
                    epoch=self._epoch,
                    last=tally.last,
                )
            return self._totals

    def refresh(self) -> None:
        """Read what is new, and write a summary if much is new; errors as in :meth:`totals`."""
        with self._lock:
            self._catch_up()

    def _catch_up(self) -> Tally:
        """Add the records that are new since the last call, and write a summary of many."""
        while True:
            epoch = current_epoch(self._backend, self._league, self._epoch)
            if epoch != self._epoch:
                self._epoch, self._known, self._totals = epoch, None, None
            try:
                known = self._read_new()
                break
            except IntegrityError:
                # The collector may have removed the records of an epoch that has just ended.
                if current_epoch(self._backend, self._league, self._epoch) == self._epoch:
                    raise
        if self._may_write and known.base is not None and known.since.batches >= known.wait:
            self._summarise(known, known.base)
        return known.tally

    def _read_new(self) -> _Known:
        """Add the records that are new. If the call raises, the sums are as before."""
        place = (self._backend, self._league, self._epoch)
        known = self._known
        if known is None or (known.base is None and known.since.batches >= MAX_NEW):
            base = newest_base(*place)
            known = _Known(base, base.tally, Tally())
            if not base.bodies:
                known.since.merge(base.tally)
        parts: Iterator[ListPart] | list[ListPart]
        parts = new_parts(*place, known.tally.lists) if known.tally.lists else all_lists(*place)
        new = Tally()
        for record in read_parts(*place, parts):
            new.add_record(record)
        if new.lists or known is not self._known:
            known.tally.merge(new)
            known.since.merge(new)
            self._known, self._totals = known, None
        return known

    def _summarise(self, known: _Known, base: Base) -> None:
        """Write a summary, and end lists that have rested for a day.

        No caller needs a summary, so a failure is no error of the caller.
        """
        place = (self._backend, self._league, self._epoch)
        try:
            known.base, known.since = write_summary(*place, base, known.since), Tally()
            if known.base is not None:
                end_rested_lists(*place, known.tally.lists)
        except (NotFoundError, FormatError, IntegrityError):
            self._known = None  # a body is lost: the next call begins anew without it
        except PolicyStoreError:
            known.wait = known.since.batches + MAX_NEW

    def matches(
        self,
        player: str | None = None,
        since: datetime.datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[Match]:
        """Yield matches, newest first by the clocks of the writers; see :func:`newest_batches`.

        Args:
            player: only matches of this player.
            since: only matches that were recorded at this time or later.
            limit: how many matches to yield at most.

        Raises:
            IntegrityError, FormatError: a record is damaged or missing.
            StorageError: the storage failed.
        """
        epoch = current_epoch(self._backend, self._league)
        ordered = newest_batches(self._backend, self._league, epoch, since)
        start = None if since is None else format_time(since)
        found = (
            match
            for batch in ordered
            for match in reversed(batch.matches)
            if (start is None or match.time >= start)
            and (player is None or player in match.players.values())
        )
        return islice(found, limit)
