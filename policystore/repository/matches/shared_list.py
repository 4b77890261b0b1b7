"""Append matches to a list that several processes share, so that each episode is recorded once.

The id of the list follows from what is played, so all processes that play the same find the same
list. A process creates record N+1 only after the process has read records 1 to N, and only if no
other process has created record N+1. So the process knows all matches of the list, and adds no
episode that the list has. If a list was ended, the id of the next list follows from its id.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from policystore._util.concurrency import run_both
from policystore.backends.base import Backend
from policystore.digest import Digest, digest_of
from policystore.errors import IntegrityError, NotFoundError, StorageError
from policystore.format.canonical_json import Json, canonical_json
from policystore.format.league_keys import batch_key
from policystore.format.records.match_batch import MAX_BATCH, ListRecord, MatchBatch
from policystore.format.records.matches import Match
from policystore.repository.matches.epochs import current_epoch
from policystore.repository.matches.match_writer import cut_batches
from policystore.repository.matches.reading import new_part, read_parts
from policystore.repository.stamp import now

__all__ = ["SharedList", "is_shared", "list_after", "list_of"]

_Key = tuple[object, ...]
_PREFIX = "5a4ed115"  # of the ids of shared lists; other ids are random
_MOST_REFUSALS = 60  # numbers in a row that other processes took: some 100 seconds of pauses
_PAUSE, _LONGEST_PAUSE = 0.02, 2.0  # seconds; doubled after each refusal


def list_of(identity: Json) -> str:
    """Return the id of the list for ``identity``, a JSON value that says what is played."""
    return _PREFIX + digest_of(canonical_json(identity)).hex[: 32 - len(_PREFIX)]


def list_after(writer: str) -> str:
    """Return the id of the list that follows an ended one."""
    return list_of(["after", writer])


def is_shared(writer: str) -> bool:
    """Return whether an id is that of a shared list."""
    return writer.startswith(_PREFIX)


class SharedList:
    """Append matches with seeds to a shared list. One thread may use one object.

    Args:
        backend: the storage.
        league: the league.
        first: the id of the first list, see :func:`list_of`.
        prepare: called before each batch; makes sure that the store exists, and that the storage
            creates keys exclusively.
    """

    def __init__(
        self, backend: Backend, league: str, first: str, prepare: Callable[[], None]
    ) -> None:
        self._backend, self._league, self._prepare = backend, league, prepare
        self._first = first
        self._begin(1)

    def _begin(self, epoch: int) -> None:
        """Forget what was read: it belongs to another epoch."""
        self._epoch = epoch
        self._taken: dict[_Key, set[int]] = {}
        self._go_to(self._first)

    def _go_to(self, writer: str) -> None:
        self._writer, self._number = writer, 0
        self._previous: Digest | None = None

    def refresh(self) -> list[Match]:
        """Read new records, and return the matches that others have recorded since the last read.

        Raises:
            IntegrityError, FormatError: a record is damaged or missing.
            StorageError: the storage failed.
        """
        return [match for record in self._read_new() for match in _matches(record)]

    def record(self, matches: Sequence[Match], author: str) -> tuple[list[Match], list[Match]]:
        """Append the matches of which the list has no episode yet.

        Two episodes are the same if environment, players, teams and seed are the same. If the call
        raises an error, some of the matches may be recorded. A second call does not record these
        matches again.

        Args:
            matches: the matches, in the form of :func:`normal_match`, with seeds.
            author: who records.

        Returns:
            The matches that this call has recorded, and those of others that it has read.

        Raises:
            InvalidInputError: a match is too long for a record.
            IntegrityError, FormatError: a record is damaged or missing.
            StorageError: the storage failed, or other processes took every next number.
        """
        self._prepare()
        recorded: list[Match] = []
        others: list[Match] = []
        waiting = list(matches)
        refusals = 0
        if len(self.lacking(waiting)) < len(waiting):
            others += self.refresh()  # the league may have been deleted, and then lacks them all
        while waiting := self.lacking(waiting):
            for draft in cut_batches(self._league, author, waiting):
                batch = replace(draft, nonce=secrets.token_hex(16))
                if self._place(batch):
                    recorded += batch.matches
                    refusals = 0
                    continue
                # The record may be this batch, whose answer was lost. Beside it may be records of
                # others with episodes of the next draft: so look again what is lacking.
                records = self._read_new()
                foreign = [each for each in records if each.nonce != batch.nonce]
                others += [match for each in foreign for match in _matches(each)]
                if len(foreign) < len(records):
                    recorded += batch.matches
                else:
                    refusals += 1
                    self._wait(refusals)
                break
        return recorded, others

    def _wait(self, refusals: int) -> None:
        """Pause after the number was taken by others, so that each process gets its turn."""
        if refusals >= _MOST_REFUSALS:
            key = batch_key(self._league, self._epoch, self._writer, self._number + 1)
            raise StorageError(
                f"{self._backend.location(key)}: other processes took the next number of this list "
                f"{refusals} times in a row. Make the same call again: what was recorded is kept, "
                "and is not recorded again"
            )
        longest = min(_LONGEST_PAUSE, _PAUSE * 2.0**refusals)
        time.sleep(random.uniform(0.0, longest))  # noqa: S311 (only spreads writers over time)

    def has(self, match: Match) -> bool:
        """Return whether all episodes of a match are known to be recorded."""
        return self._taken.get(_key(match), set()).issuperset(match.seeds)

    def lacking(self, matches: Sequence[Match]) -> list[Match]:
        """Return the matches of which no episode is known to be recorded.

        A match without seeds is always among them. Of two matches with the same episode, only the
        first one is.
        """
        taken: dict[_Key, set[int]] = {}
        new = []
        for match in matches:
            key, seeds = _key(match), set(match.seeds)
            before = taken.setdefault(key, set())
            if not seeds & self._taken.get(key, set()) and not seeds & before:
                before |= seeds
                new.append(match)
        return new

    def _place(self, batch: MatchBatch) -> bool:
        """Create the next record; return False if this record exists, or the epoch was deleted.

        A batch in an epoch that was deleted before the call would not count. So the call looks for
        a deletion, as ``MatchWriter`` does.
        """
        number = self._number + 1
        data = replace(
            batch,
            epoch=self._epoch,
            writer=self._writer,
            number=number,
            previous=self._previous,
            time=now(),
        ).to_bytes()
        key = batch_key(self._league, self._epoch, self._writer, number)
        look = partial(current_epoch, self._backend, self._league, self._epoch)
        created, epoch = run_both(partial(self._backend.create, key, data), look, at_once=False)
        if epoch != self._epoch or not created:
            if epoch == self._epoch and self._backend.size(key) is None:
                raise StorageError(
                    f"{self._backend.location(key)}: the server refuses to create this key, as if "
                    "it existed, and does not find it. Make the same call again: what was recorded "
                    "before is kept, and is not recorded again"
                )
            return False
        self._number, self._previous = number, digest_of(data)
        self._take(batch)
        return True

    def _read_new(self) -> list[ListRecord]:
        """Read all records that are new, also those of the lists that follow an ended one."""
        epoch = current_epoch(self._backend, self._league, self._epoch)
        if epoch != self._epoch:
            self._begin(epoch)
        place = (self._backend, self._league, epoch)
        found: list[ListRecord] = []
        while (part := new_part(*place, (self._writer, self._number))) is not None:
            records = list(read_parts(*place, [part]))
            if records[0].previous != self._previous:
                key = batch_key(self._league, epoch, self._writer, part.first)
                raise IntegrityError(
                    f"{self._backend.location(key)} does not continue the record before it. Call "
                    "verify(), which names what is damaged"
                )
            for record in records:
                self._take(record)
            found += records
            if isinstance(records[-1], MatchBatch):
                self._number, self._previous = part.last, self._digest(part.last)
            else:
                self._go_to(list_after(self._writer))
        return found

    def _digest(self, number: int) -> Digest:
        key = batch_key(self._league, self._epoch, self._writer, number)
        try:
            return digest_of(self._backend.get(key, limit=MAX_BATCH))
        except NotFoundError:
            raise IntegrityError(f"{self._backend.location(key)} was deleted") from None

    def _take(self, record: ListRecord) -> None:
        for match in _matches(record):
            self._taken.setdefault(_key(match), set()).update(match.seeds)


def _matches(record: ListRecord) -> tuple[Match, ...]:
    return record.matches if isinstance(record, MatchBatch) else ()


def _key(match: Match) -> _Key:
    return match.env, match.env_digest, *match.players.items(), None, *match.teams.items()
