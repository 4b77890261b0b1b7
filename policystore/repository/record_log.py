"""Names and tags: append-only lists of numbered records, moved only by creating the next number.

Numbers are dense: N+1 is created only after N was read, so that the newest is found by doubling
probes, and two writers at once cannot leave a gap or share a number. Where requests take their
time, several go at once, and a probe brings the record along: who asks for the newest wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from policystore._util.concurrency import in_parallel, run_both
from policystore.backends.base import Backend
from policystore.errors import FormatError, NotFoundError, StorageError
from policystore.format.keys import MAX_RECORD, hint_key, tag_key, version_key
from policystore.format.records import Hint
from policystore.format.refs import MAX_NUMBER

__all__ = ["Probe", "RecordLog", "tag_list", "version_list"]

_PROBES = 16
_TRIES = 10_000  # each that is lost is another writer's success
# Where nothing is known: one step for most tags, two up to 16 moves.
_FIRST = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Probe:
    """The newest number of a list and its record.

    Attributes:
        number: the newest that was seen; 0 for an empty list.
        data: its bytes, if they came along.
    """

    number: int
    data: bytes | None


@dataclass(frozen=True)
class RecordLog:
    """Records 1, 2, 3, … under keys of one backend.

    Attributes:
        backend: where.
        key: the key of a number.
        hint: the key of the hint, if there is one.
    """

    backend: Backend
    key: Callable[[int], str]
    hint: str | None = None

    def read(self, number: int) -> bytes:
        """The bytes of one record.

        Raises:
            NotFoundError: there is no such number.
        """
        return bytes(self.backend.get(self.key(number), limit=MAX_RECORD))

    def hinted(self) -> Hint | None:
        """What the hint says, unchecked; None where there is none that can be read."""
        if self.hint is None:
            return None
        try:
            data = self.backend.get(self.hint, limit=MAX_RECORD)
            return Hint.from_bytes(data, self.backend.location(self.hint))
        except (NotFoundError, FormatError, StorageError):
            # The hint only saves probes; verify() reports one that cannot be read.
            return None

    def first_look(self) -> tuple[Hint | None, Probe | None]:
        """What the hint says, and the first record with it, which has none where requests take
        their time: a list of one is found as fast as others.
        """
        if self.backend.parallel < 2:
            return self.hinted(), None
        hint, first = run_both(self.hinted, partial(self._probe, 1), at_once=True)
        return hint, Probe(0, None) if first is None else first

    def newest(self, hint: Hint | None = None, first: Probe | None = None) -> Probe:
        """The newest number; in a number of rounds that hardly grows with it.

        A number created meanwhile may or may not be seen.

        Args:
            hint: where to look first.
            first: what :meth:`first_look` saw.
        """
        at_once = min(_PROBES, self.backend.parallel)
        low, high = 0, MAX_NUMBER + 1  # the one is there (or 0), the other is not
        step = 1
        seen: dict[int, bytes | None] = {}
        if hint is not None:
            points = [hint.number, hint.number + 1]
        elif first is None:
            points = list(_FIRST[:at_once] if self.hint is None else (1, 2)[:at_once])
        elif first.number == 0:
            return first
        else:
            low, points, seen = 1, [2], {1: first.data}
        while True:
            points = sorted({min(number, high - 1) for number in points if number > low})
            found = dict(zip(points, self._read_some(points), strict=True))
            seen |= {number: probe.data for number, probe in found.items() if probe is not None}
            low = max(low, *seen) if seen else low
            high = min([high, *(n for n, probe in found.items() if probe is None and n > low)])
            if high - low <= 1:
                return Probe(low, seen.get(low))
            if high > MAX_NUMBER:
                points = [low + (step << doubling) for doubling in range(at_once)]
                step <<= at_once
            else:
                width = high - low
                points = [low + max(1, width * i // (at_once + 1)) for i in range(1, at_once + 1)]

    def _read_some(self, numbers: list[int]) -> list[Probe | None]:
        return in_parallel(self._probe, numbers, workers=self.backend.parallel)

    def _probe(self, number: int) -> Probe | None:
        if self.backend.parallel < 2:
            there = self.backend.size(self.key(number)) is not None
            return Probe(number, None) if there else None
        try:
            return Probe(number, self.read(number))
        except NotFoundError:
            return None
        except FormatError:
            return Probe(number, None)  # too long; whoever needs it reads it and is told

    def append(
        self,
        make: Callable[[int, bytes | None], bytes],
        nonce: str,
        *,
        after: Probe | None = None,
        then: Callable[[int], None] | None = None,
    ) -> bytes:
        """Create the next number, whoever else is creating.

        Args:
            make: the record for a number, given the one before it; called again for each number
                that somebody else took. What it raises ends this, with nothing created.
            nonce: what the record holds as its nonce, by which it is known again.
            after: the newest number, where the caller has just looked.
            then: called with the number when its record stands; where requests take their time,
                with each that is tried, at the same time, but not with the first.

        Returns:
            The bytes of the record that now stands.
        """
        found = self.newest(self.hinted()) if after is None else after
        previous = found.data
        if found.number and previous is None:
            previous = self.read(found.number)
        along = then if self.backend.parallel > 1 else None
        for number in range(found.number + 1, min(found.number + _TRIES, MAX_NUMBER) + 1):
            stands = make(number, previous)
            create = partial(self.backend.create, self.key(number), stands)
            # Not with the first: cut off between the two, it would leave a name of no version.
            created = (
                create()
                if along is None or number == 1
                else run_both(create, partial(along, number), at_once=True)[0]
            )
            if not created:
                previous = self._taken(number)
                if previous != stands and nonce.encode("ascii") not in previous:
                    continue
                # Refused because of our own first try, whose answer was lost on the way.
                stands = previous
            if then is not None and along is None:
                then(number)
            return stands
        if found.number + _TRIES >= MAX_NUMBER:
            raise StorageError(
                f"{self.backend.location(self.key(1))}: no numbers are left after it"
            )
        raise StorageError(
            f"{self.backend.location(self.key(found.number + 1))}: this and the next {_TRIES:,} "
            "numbers were taken, one after the other. Either a great many write there at once, or "
            "the server says so of every key; nothing was recorded."
        )

    def _taken(self, number: int) -> bytes:
        """The record that is in the way."""
        try:
            return self.read(number)
        except NotFoundError:
            raise StorageError(
                f"{self.backend.location(self.key(number))}: the server refuses to create this "
                "key, as if it were there, and does not find it; nothing was recorded."
            ) from None


def version_list(backend: Backend, name: str) -> RecordLog:
    """The versions of a name."""
    return RecordLog(backend, lambda number: version_key(name, number), hint_key(name))


def tag_list(backend: Backend, name: str, tag: str) -> RecordLog:
    """The moves of a tag."""
    return RecordLog(backend, lambda number: tag_key(name, tag, number))
