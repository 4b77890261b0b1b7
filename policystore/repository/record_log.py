"""Read and extend append-only lists of numbered records: versions, marks, moves of a tag.

The numbers have no gaps, because number N+1 is created only after number N was read. So the newest
number is found by probes whose distance doubles. Two writers at the same time can neither leave a
gap nor get the same number. If requests are slow, several probes are made at once, and each probe
reads the whole record, because a caller that asks for the newest number needs its record next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from policystore._util.concurrency import in_parallel, run_both
from policystore.backends.base import Backend
from policystore.errors import FormatError, NotFoundError, StorageError
from policystore.format.keys import (
    MAX_RECORD,
    hint_key,
    mark_key,
    tag_hint_key,
    tag_key,
    version_key,
)
from policystore.format.records import MAX_MARK, Hint, TagHint
from policystore.format.refs import MAX_NUMBER

__all__ = ["Probe", "RecordLog", "mark_log", "tag_log", "version_log"]

_PROBES = 16  # at once
_MAX_TRIES = 10_000  # to create a record; after a failed try another writer has the number

_Hint = TypeVar("_Hint", bound="_Numbered")


class _Numbered(Protocol):
    """A hint or a probe: something with the number of a record."""

    @property
    def number(self) -> int: ...


@dataclass(frozen=True)
class Probe:
    """A number that exists in a list, such as the newest one.

    Attributes:
        number: the number; 0 for an empty list.
        data: the bytes of the record with this number, if the probe has read them.
    """

    number: int
    data: bytes | None


@dataclass(frozen=True)
class RecordLog(Generic[_Hint]):
    """Records 1, 2, 3, … under keys of one backend.

    Attributes:
        backend: the storage.
        key: returns the key of a number.
        hint: the key of the hint, if the list has a hint of its own.
        parse_hint: reads the bytes of the hint; its second argument names the hint in messages.
        limit: how many bytes a record may have at most.
    """

    backend: Backend
    key: Callable[[int], str]
    hint: str | None = None
    parse_hint: Callable[[bytes | memoryview, str], _Hint] | None = None
    limit: int = MAX_RECORD

    def read(self, number: int) -> bytes:
        """Read the bytes of one record.

        Raises:
            NotFoundError: there is no record of that number.
        """
        return bytes(self.backend.get(self.key(number), limit=self.limit))

    def has(self, number: int) -> bool:
        """Return whether there is a record of a number."""
        return number <= MAX_NUMBER and self.backend.size(self.key(number)) is not None

    def read_hint(self) -> _Hint | None:
        """Read the hint, which may be outdated. Return None if it is absent or cannot be read."""
        if self.hint is None or self.parse_hint is None:
            return None
        try:
            data = self.backend.get(self.hint, limit=MAX_RECORD)
            return self.parse_hint(data, self.backend.location(self.hint))
        except (NotFoundError, FormatError, StorageError):
            # The hint only saves probes; verify() reports a hint that cannot be read.
            return None

    def first_look(self) -> tuple[_Hint | None, Probe | None]:
        """Read the hint and, in a remote store, the first record at the same time.

        A remote store writes no hint with the first record. Because both are read at the same time,
        a list of one record is found as fast as a longer list.

        Returns:
            The hint, and the first record as a Probe: with number 0 if the list is empty, and None
            if the store is not remote.
        """
        if not self.backend.is_remote:
            return self.read_hint(), None
        at_once = self.backend.parallel > 1
        hint, first = run_both(self.read_hint, partial(self._probe, 1), at_once=at_once)
        return hint, Probe(0, None) if first is None else first

    def newest(self, hint: _Numbered | None = None, first: Probe | None = None) -> Probe:
        """Find the newest number N, in at most about log(N) rounds of probes.

        A number that is created during the search may or may not be found.

        Args:
            hint: the hint, or another record that should exist, where the search begins.
            first: the first record, as :meth:`first_look` returned it.
        """
        at_once = min(_PROBES, self.backend.parallel)
        low, high = 0, MAX_NUMBER + 1  # low exists (or is 0), high does not exist
        step = 1
        seen: dict[int, bytes | None] = {}
        if hint is not None:
            points = [hint.number, hint.number + 1]
        elif first is None:
            points = [1, 2][:at_once]
        elif first.number == 0:
            return first
        else:
            low, points, seen = 1, [2], {1: first.data}
        while True:
            points = sorted({min(number, high - 1) for number in points if number > low})
            probes = dict(zip(points, self._probe_all(points), strict=True))
            seen |= {number: probe.data for number, probe in probes.items() if probe is not None}
            low = max(low, *seen) if seen else low
            high = min([high, *(n for n, probe in probes.items() if probe is None and n > low)])
            if high - low <= 1:
                return Probe(low, seen.get(low))
            if high > MAX_NUMBER:
                points = [low + (step << doubling) for doubling in range(at_once)]
                step <<= at_once
            else:
                width = high - low
                points = [low + max(1, width * i // (at_once + 1)) for i in range(1, at_once + 1)]

    def confirm(self, number: int) -> Probe | None:
        """Return a number as a Probe if this number is still the newest; needs one round of probes.

        Args:
            number: a number that existed before; 0 for an empty list.

        Returns:
            None if the number does not exist, or the next number does.
        """
        points = [at for at in (number, number + 1) if 0 < at <= MAX_NUMBER]
        probes = dict(zip(points, self._probe_all(points), strict=True))
        found = probes.get(number) if number else Probe(0, None)
        return found if probes.get(number + 1) is None else None

    def _probe_all(self, numbers: list[int]) -> list[Probe | None]:
        return in_parallel(self._probe, numbers, workers=self.backend.parallel)

    def _probe(self, number: int) -> Probe | None:
        """Return a number as a Probe, with its record if requests are slow; None if absent."""
        if self.backend.parallel < 2:
            exists = self.backend.size(self.key(number)) is not None
            return Probe(number, None) if exists else None
        try:
            return Probe(number, self.read(number))
        except NotFoundError:
            return None
        except FormatError:
            return Probe(number, None)  # the record is too long; reading it raises the error

    def append(
        self,
        make_record: Callable[[int, bytes | None], bytes],
        nonce: str,
        *,
        newest: Probe | None = None,
        write_hint: Callable[[int], None] | None = None,
        guard: Callable[[Callable[[], bool]], bool] | None = None,
    ) -> bytes:
        """Create the record with the next number; other writers may do the same at the same time.

        Args:
            make_record: a function of a number and of the bytes of the record before it, that
                returns the new record. It is called again if another writer took the number. If it
                raises, this call raises the same error and creates nothing.
            nonce: the nonce in the record, by which this writer recognizes its own record.
            newest: the newest number, if the caller has just looked for it.
            write_hint: a function that writes the hint for a number; it must not raise. It is
                called after the record was created. In a remote store it is called at the same time
                as the first try to create a record, and is not called for number 1.
            guard: calls the function that creates the record, once or several times, and returns
                its result: such as :meth:`Freshness.call`.

        Returns:
            The bytes of the record, which is durable.

        Raises:
            StorageError: the storage failed, the server contradicts itself, or no number is free.
        """
        if newest is None:
            newest = self.newest(self.read_hint())
        previous = newest.data
        if newest.number and previous is None:
            previous = self.read(newest.number)
        hint_beside = write_hint if self.backend.is_remote else None
        for number in range(newest.number + 1, min(newest.number + _MAX_TRIES, MAX_NUMBER) + 1):
            record = make_record(number, previous)
            create = partial(self.backend.create, self.key(number), record)
            if guard is not None:
                create = partial(guard, create)
            # No hint is written at the same time as the first record: if the push was interrupted
            # between the two, a name without versions would be left. And none with a later try,
            # which often fails, too: many writers of one name would write wrong hints all the time.
            beside = hint_beside if 1 < number == newest.number + 1 else None
            if beside is not None:
                write = partial(beside, number)
                created = run_both(create, write, at_once=self.backend.parallel > 1)[0]
            else:
                created = create()
            if not created:
                previous = self._read_taken(number)
                if previous != record and nonce.encode("ascii") not in previous:
                    continue
                # This writer created the record in an earlier try, whose answer was lost.
                record = previous
            if write_hint is not None and beside is None and (hint_beside is None or number > 1):
                write_hint(number)
            return record
        if newest.number + _MAX_TRIES >= MAX_NUMBER:
            raise StorageError(
                f"{self.backend.location(self.key(1))}: no numbers are left after it"
            )
        raise StorageError(
            f"{self.backend.location(self.key(newest.number + 1))}: this and the next "
            f"{_MAX_TRIES:,} numbers were taken, one after the other. Either very many writers "
            "write at the same time, or the server says of every key that the key exists. Nothing "
            "was recorded."
        )

    def _read_taken(self, number: int) -> bytes:
        """Read the record of a number that could not be created."""
        try:
            return self.read(number)
        except NotFoundError:
            raise StorageError(
                f"{self.backend.location(self.key(number))}: the server refuses to create this "
                "key, as if it existed, and does not find it. Nothing was recorded."
            ) from None


def version_log(backend: Backend, name: str) -> RecordLog[Hint]:
    """Return the list of the versions of a name."""
    return RecordLog(
        backend, lambda number: version_key(name, number), hint_key(name), Hint.from_bytes
    )


def mark_log(backend: Backend, name: str) -> RecordLog[Hint]:
    """Return the list of the marks of a name. The hint of the name has the number of the newest."""
    return RecordLog(backend, lambda number: mark_key(name, number), limit=MAX_MARK)


def tag_log(backend: Backend, name: str, tag: str) -> RecordLog[TagHint]:
    """Return the list of the moves of a tag."""
    return RecordLog(
        backend,
        lambda number: tag_key(name, tag, number),
        tag_hint_key(name, tag),
        TagHint.from_bytes,
    )
