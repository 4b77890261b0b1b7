"""Keep records of episodes until the driver has them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from policystore.league.pool.messages import EpisodeRecord
from policystore.league.pool.runner.reasons import CHANGED, NOT_FETCHED

__all__ = ["RecordBuffer"]


class RecordBuffer:
    """Numbers records, and keeps them until the driver says that it has them.

    A record first waits until the weights of the slots that it names have been hashed once more
    (:meth:`settle`). Then it gets the next number and is handed out until it is confirmed. So a
    lost answer loses no record, and a record that is sent twice has the same number twice.

    Args:
        max_records: how many records are kept; the oldest ones go first, and are counted.

    Attributes:
        first: number of the first record of :meth:`records`.
        unknown: reason -> how many episodes were not recorded.
    """

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._waiting: list[tuple[EpisodeRecord, set[str]]] = []
        self._numbered: deque[EpisodeRecord] = deque()
        self.first = 1
        self.unknown: Counter[str] = Counter()

    def add(self, record: EpisodeRecord, slots: Iterable[str]) -> None:
        """Take a record, which waits for the settling of these slots."""
        needed = set(slots)
        if needed:
            self._waiting.append((record, needed))
        else:
            self._numbered.append(record)
        while len(self._numbered) + len(self._waiting) > self._max_records:
            self.unknown[NOT_FETCHED] += 1
            if self._numbered:
                self._numbered.popleft()
                self.first += 1
            else:
                self._waiting.pop(0)

    @property
    def unsettled(self) -> list[str]:
        """The slots that records wait for."""
        return sorted({slot for _, slots in self._waiting for slot in slots})

    def waits_for(self, slot: str) -> bool:
        """Return whether records wait for a slot."""
        return any(slot in slots for _, slots in self._waiting)

    def settle(self, slot: str, same: bool) -> None:
        """Say whether a slot held its opponent's weights up to now.

        If it did not, the episodes that wait for this slot are counted and not recorded: from the
        time at which the slot was hashed before, nobody knows what it held.
        """
        waiting = []
        for record, slots in self._waiting:
            if slot not in slots:
                waiting.append((record, slots))
            elif not same:
                self.unknown[CHANGED] += 1
            elif slots == {slot}:
                self._numbered.append(record)
            else:
                waiting.append((record, slots - {slot}))
        self._waiting = waiting

    def confirm(self, received: int) -> None:
        """Forget the records up to a number, which the driver has."""
        while self._numbered and self.first <= received:
            self._numbered.popleft()
            self.first += 1

    def records(self) -> tuple[EpisodeRecord, ...]:
        """Return all records with a number, in their order."""
        return tuple(self._numbered)
