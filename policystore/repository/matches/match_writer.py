"""Append batches of matches to a list of this process's own, each exactly once.

Such a list belongs to one life of one process: its id is random, and a forked process, an unpickled
copy and a restored trial each take a new id. So no other process ever extends the list, except by a
record that ends it. A writer that finds its list ended, or extended by a twin that it does not know
of (a virtual machine that was copied), takes a new id as well.

The lists that processes share, each with an id that all of them know, are in ``shared_list.py``.
"""

from __future__ import annotations

import datetime
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import getpid

from policystore._util.concurrency import run_both
from policystore.backends.base import Backend
from policystore.digest import Digest, digest_of
from policystore.errors import FormatError, InvalidInputError, NotFoundError, StorageError
from policystore.format.league_keys import batch_key
from policystore.format.records.match_batch import (
    MAX_BATCH,
    ListEnd,
    MatchBatch,
    parse_list_record,
)
from policystore.format.records.matches import Match
from policystore.format.refs import MAX_NUMBER
from policystore.repository.matches.epochs import current_epoch
from policystore.repository.matches.forks import RenewedAfterFork
from policystore.repository.matches.totals import RecordedBatch
from policystore.repository.stamp import now

__all__ = ["MatchWriter", "cut_batches"]

_MAX_LISTS = 20  # that one batch is tried on: each other list was ended, or its league deleted
_MAX_ATTEMPTS = 16  # that failed, and are remembered in case the caller tries again
_NO_NONCE = "0" * 32


@dataclass
class _List:
    """The list of this writer.

    Attributes:
        epoch: the epoch of the league.
        writer: id of the list.
        number: the number of the newest record; 0 for a list that does not exist yet.
        previous: the digest of that record.
    """

    epoch: int
    writer: str = field(default_factory=lambda: secrets.token_hex(16))
    number: int = 0
    previous: Digest | None = None


@dataclass
class _Attempt:
    """Batches that are being written, so that a second try goes on where the first one failed.

    Attributes:
        content: digest of what the caller asked to record.
        batches: the batches, each with its nonce.
        done: how many of them are durable.
    """

    content: Digest
    batches: list[MatchBatch]
    done: int = 0

    def awaits(self, nonce: str) -> bool:
        """Return whether the nonce is that of the next batch, so that the batch is durable."""
        return self.done < len(self.batches) and self.batches[self.done].nonce == nonce


class MatchWriter(RenewedAfterFork):
    """Append batches of matches to a league. Several threads may use one writer.

    Args:
        backend: the storage.
        league: the league.
        prepare: called before each batch; makes sure that the store exists, and that the storage
            creates keys exclusively.
    """

    def __init__(self, backend: Backend, league: str, prepare: Callable[[], None]) -> None:
        self._backend, self._league, self._prepare = backend, league, prepare
        super().__init__()

    def _renew(self) -> None:
        """Forget the list and all that is not written: they belong to the process before a fork."""
        self._lock = threading.Lock()
        self._pid = getpid()
        self._list: _List | None = None
        self._epoch = 1
        self._attempts: dict[Digest, _Attempt] = {}
        self._unknown: dict[str, int] = {}

    def add_unknown(self, reason: str, episodes: int) -> None:
        """Count episodes that were not recorded; the next batch says so."""
        self._renew_after_fork()
        with self._lock:
            self._unknown[reason] = self._unknown.get(reason, 0) + episodes

    def _renew_after_fork(self) -> None:
        # The hook does the same, unless a library forks without Python's knowledge.
        if self._pid != getpid():
            self._renew()

    def record(self, matches: Sequence[Match], author: str) -> RecordedBatch:
        """Append matches, and all unknown episodes so far, in as few batches as hold them.

        If a call fails, a second call with the same matches goes on where the first one failed: the
        matches that the first call may have written are not written again.

        Args:
            matches: the matches, in the form of :func:`normal_match`.
            author: who records.

        Raises:
            InvalidInputError: a match is too long for a record; nothing was written.
            StorageError: the storage failed. It is unknown whether the matches are recorded, until
                a second call with the same matches succeeds.
        """
        self._renew_after_fork()
        with self._lock:
            attempt = self._attempt_for(matches, author)
            if not attempt.batches:
                self._attempts.pop(attempt.content)
                return RecordedBatch("", 0, 0, 0)
            self._prepare()
            for _ in range(len(attempt.batches) + _MAX_LISTS):
                if attempt.done == len(attempt.batches):
                    break
                self._place_next(attempt)
            else:
                raise StorageError(
                    f"{self._backend.url}: {_MAX_LISTS} times, one after the other, the list of "
                    f"matches of the league {self._league!r} was ended, deleted or taken by others "
                    "while this process wrote to it. Call record() again with the same matches"
                )
            self._attempts.pop(attempt.content, None)
            place = self._list if self._list is not None else _List(0, "")
            return RecordedBatch(place.writer, place.number, len(matches), len(attempt.batches))

    def _attempt_for(self, matches: Sequence[Match], author: str) -> _Attempt:
        """Return the failed attempt with the same matches, or a new one."""
        draft = _draft(self._league, author, matches)
        data = draft.to_bytes(limit=None)
        content = digest_of(data)
        if content in self._attempts:
            return self._attempts[content]
        fits = bool(matches) and not self._unknown and len(data) <= MAX_BATCH
        draft = replace(draft, unknown=dict(self._unknown))
        drafts = [draft] if fits else _cut(draft)
        batches = [replace(each, nonce=secrets.token_hex(16)) for each in drafts]
        self._unknown.clear()
        while len(self._attempts) >= _MAX_ATTEMPTS:
            self._attempts.pop(next(iter(self._attempts)))
        self._attempts[content] = attempt = _Attempt(content, batches)
        return attempt

    def _place_next(self, attempt: _Attempt) -> None:
        """Try to create the next batch of an attempt as the next record of the list.

        Afterwards the batch is durable, or the list of this writer is longer than before by a batch
        whose answer was lost, or this writer needs a new list.
        """
        is_new = self._list is None
        if self._list is None:
            self._epoch = current_epoch(self._backend, self._league, self._epoch)
            self._list = _List(self._epoch)
        mine = self._list
        draft = attempt.batches[attempt.done]
        data = replace(
            draft,
            epoch=mine.epoch,
            writer=mine.writer,
            number=mine.number + 1,
            previous=mine.previous,
            time=now(),
        ).to_bytes()
        created, epoch = self._create(mine, data, is_new=is_new)
        if epoch != mine.epoch:
            self._epoch, self._list = epoch, None
            return
        placed: _Attempt | None = attempt
        if not created:
            data = self._read_taken(mine)
            nonce = _nonce_in(data, self._backend.url)
            placed = next((each for each in self._attempts.values() if each.awaits(nonce)), None)
        if placed is None:
            self._list = None  # ended by a summariser, or extended by an unknown twin
        else:
            placed.done += 1
            mine.number, mine.previous = mine.number + 1, digest_of(data)

    def _create(self, mine: _List, data: bytes, *, is_new: bool) -> tuple[bool, int]:
        """Create the next record of the list, and look for a deletion of the league.

        A batch in an epoch that was deleted before the call would not count. The look is a part of
        the call, so a deletion that it does not see was made during the call or comes after it. For
        a list that this call has begun, the look that found the epoch serves.

        Returns:
            Whether the record was created, and the present epoch.
        """
        key = batch_key(self._league, mine.epoch, mine.writer, mine.number + 1)
        create = partial(self._backend.create, key, data)
        if is_new:
            return create(), mine.epoch
        look = partial(current_epoch, self._backend, self._league, mine.epoch)
        if self._backend.parallel > 1:
            return run_both(create, look, at_once=True)
        epoch = look()
        return epoch == mine.epoch and create(), epoch

    def _read_taken(self, mine: _List) -> bytes:
        """Read the record of a number that could not be created."""
        key = batch_key(self._league, mine.epoch, mine.writer, mine.number + 1)
        try:
            return bytes(self._backend.get(key, limit=MAX_BATCH))
        except FormatError:
            return b""  # too long: somebody else's bytes
        except NotFoundError:
            raise StorageError(
                f"{self._backend.location(key)}: the server refuses to create this key, as if it "
                "existed, and does not find it. Nothing was recorded."
            ) from None

    def seal(self, author: str) -> bool:
        """End the list of this writer, so that readers look for no more records in it.

        The next batch begins a new list.

        Returns:
            Whether there was a list to end.

        Raises:
            StorageError: the storage failed; the list may be ended or not.
        """
        self._renew_after_fork()
        with self._lock:
            while (mine := self._list) is not None and mine.number + len(self._attempts):
                end = ListEnd(
                    league=self._league,
                    epoch=mine.epoch,
                    writer=mine.writer,
                    number=mine.number + 1,
                    nonce=secrets.token_hex(16),
                    previous=mine.previous,
                    time=now(),
                    author=author,
                ).to_bytes()
                key = batch_key(self._league, mine.epoch, mine.writer, mine.number + 1)
                if self._backend.create(key, end):
                    self._list = None
                    return True
                data = self._read_taken(mine)
                nonce = _nonce_in(data, self._backend.url)
                placed = [each for each in self._attempts.values() if each.awaits(nonce)]
                if not placed:
                    self._list = None  # ended already
                    return True
                placed[0].done += 1
                mine.number, mine.previous = mine.number + 1, digest_of(data)
            return False


def _nonce_in(data: bytes, label: str) -> str:
    """Return the nonce in a record of a list; empty if the bytes are no such record."""
    try:
        return parse_list_record(data, label).nonce
    except FormatError:
        return ""


def cut_batches(league: str, author: str, matches: Sequence[Match]) -> list[MatchBatch]:
    """Return as few batches as can hold some matches; the batches have no place in a list yet.

    Raises:
        InvalidInputError: one match alone is too long.
    """
    return _cut(_draft(league, author, matches))


def _draft(league: str, author: str, matches: Sequence[Match]) -> MatchBatch:
    """Return a batch without its place; its bytes are at least as long as those of the batch."""
    return MatchBatch(
        league=league,
        epoch=MAX_NUMBER,
        writer=_NO_NONCE,
        number=MAX_NUMBER,
        nonce=_NO_NONCE,
        previous=digest_of(b""),
        time=datetime.datetime.fromtimestamp(0, datetime.timezone.utc),
        author=author,
        matches=tuple(matches),
    )


def _cut(draft: MatchBatch) -> list[MatchBatch]:
    """Cut a batch that is too long into several; an empty batch into none.

    Raises:
        InvalidInputError: one match alone is too long.
    """
    count = len(draft.matches)
    if not count and not draft.unknown:
        return []
    try:
        draft.to_bytes()
    except InvalidInputError:
        if count + len(draft.unknown) < 2:
            raise
        if count > 1:
            first = replace(draft, matches=draft.matches[: count // 2])
            second = replace(draft, matches=draft.matches[count // 2 :], unknown={})
        else:
            reasons = list(draft.unknown.items())
            half = len(reasons) // 2 if not count else len(reasons)
            first = replace(draft, matches=(), unknown=dict(reasons[:half]))
            second = replace(draft, unknown=dict(reasons[half:]))
        return [*_cut(first), *_cut(second)]
    return [draft]
